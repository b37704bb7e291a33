//! Reads batches that may hold any bytes: everything is checked before a record is given out.
//!
//! Not for: deciding what becomes of a bad batch (the bus refuses it). The bus calls it, and the
//! command line where it shows what a topic holds.

use std::fmt;

use super::{
    BatchError, Codec, ID_HEADER, RecordHeaders,
    decompress::Decompressors,
    layout::{self, BEFORE_LENGTH_ENDS, CODEC_MASK, HEAD_BYTES, Head, MAGIC},
    minutes::Minutes,
    sum::ContentSum,
    varint,
};
use crate::{
    header::{BatchHeader, MinuteCount},
    ids::BatchId,
};

/// One record of a batch, borrowed from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// Event time, in ms since 1970.
    pub timestamp_ms: i64,
    /// The key, where there is one.
    pub key: Option<&'a [u8]>,
    /// The line, without its newline.
    pub value: &'a [u8],
    /// The id of the batch that begins with this record.
    pub batch_id: Option<BatchId>,
    /// All its headers, the batch id's included.
    pub headers: RecordHeaders<'a>,
}

/// A batch, decompressed and checked. Its records lie in one buffer and are not copied.
pub struct Decoded {
    /// The records in its first `end` bytes.
    data: Vec<u8>,
    end: usize,
    codec: Codec,
    base_timestamp: i64,
    totals: Totals,
}

/// The records of a batch, in order.
#[derive(Debug)]
pub struct Records<'a> {
    reader: RecordReader<'a>,
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    #[inline]
    fn next(&mut self) -> Option<Record<'a>> {
        // All of them were read once before the batch was given out: where none is sound, there is no more.
        self.reader.next_sound().map(|(record, _rest)| record)
    }
}

/// What the records of a batch come to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Totals {
    records: u32,
    raw_bytes: u64,
    content_sum: u32,
    minutes: Vec<MinuteCount>,
    /// The id on the first record.
    id: Option<BatchId>,
    /// How many records carry an id.
    ids: u32,
    /// A record has a key.
    keyed: bool,
}

impl fmt::Debug for Decoded {
    /// Without contents: they are not for logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoded")
            .field("codec", &self.codec)
            .field("totals", &self.totals)
            .finish_non_exhaustive()
    }
}

impl Decoded {
    /// The records in order.
    #[must_use]
    pub fn records(&self) -> Records<'_> {
        Records {
            reader: RecordReader::new(&self.data[..self.end], self.base_timestamp),
        }
    }

    /// Whether these bytes are a part of its own buffer, as the values and keys of its records are.
    #[must_use]
    pub fn has(&self, bytes: &[u8]) -> bool {
        let (own, bytes) = (self.data.as_ptr_range(), bytes.as_ptr_range());
        own.start <= bytes.start && bytes.end <= own.end
    }

    /// How many records there are, at least 1.
    #[expect(
        clippy::len_without_is_empty,
        reason = "a batch without records does not decode"
    )]
    #[must_use]
    pub fn len(&self) -> u32 {
        self.totals.records
    }

    /// How the records were compressed.
    #[must_use]
    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// The batch id on the first record.
    #[must_use]
    pub fn id(&self) -> Option<BatchId> {
        self.totals.id
    }

    /// CRC-32C over all record values in order, without separators.
    #[must_use]
    pub fn content_sum(&self) -> u32 {
        self.totals.content_sum
    }

    /// Bytes of all record values together.
    #[must_use]
    pub fn raw_bytes(&self) -> u64 {
        self.totals.raw_bytes
    }

    /// Records per event minute, ascending.
    #[must_use]
    pub fn minutes(&self) -> &[MinuteCount] {
        &self.totals.minutes
    }

    /// Whether a record has a key.
    #[must_use]
    pub fn keyed(&self) -> bool {
        self.totals.keyed
    }

    /// Whether this is the batch that `header` speaks of: identity, counts, bytes, minutes, sum,
    /// and no other batch's id anywhere.
    ///
    /// # Errors
    /// [`BatchError::Disagrees`] with the first difference: refuse the batch.
    pub fn check(&self, header: &BatchHeader) -> Result<(), BatchError> {
        let totals = &self.totals;
        let ids = || match totals.id {
            Some(id) => id.to_string(),
            None => "none".to_owned(),
        };
        if totals.id != Some(header.id()) {
            return disagrees("batch id", &header.id(), &ids());
        }
        if totals.ids != 1 {
            return disagrees("number of batches", &1, &totals.ids);
        }
        if totals.records != header.records {
            return disagrees("records", &header.records, &totals.records);
        }
        if totals.raw_bytes != header.raw_bytes {
            return disagrees("raw bytes", &header.raw_bytes, &totals.raw_bytes);
        }
        if totals.content_sum != header.content_sum {
            return disagrees("content sum", &header.content_sum, &totals.content_sum);
        }
        // Where a task asks for keys, the lines may have none.
        if totals.keyed && !header.keyed {
            return disagrees("keys", &header.keyed, &totals.keyed);
        }
        if totals.minutes != header.minutes {
            return disagrees(
                "event minutes",
                &format_args!("{} of them", header.minutes.len()),
                &format_args!("{} of them, or with other counts", totals.minutes.len()),
            );
        }
        Ok(())
    }
}

fn disagrees(
    what: &'static str,
    header: &dyn fmt::Display,
    payload: &dyn fmt::Display,
) -> Result<(), BatchError> {
    Err(BatchError::Disagrees {
        what,
        header: header.to_string(),
        payload: payload.to_string(),
    })
}

/// Reads batches. It owns its decompressors and one buffer: use one for many batches.
#[derive(Debug, Default)]
pub struct Decoder {
    decompressors: Decompressors,
    /// The buffer of a batch that came back.
    spare: Vec<u8>,
    minutes: Minutes,
    content_sum: ContentSum,
}

impl Decoder {
    /// A decoder. It takes no memory before its first batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads a batch and checks all of it: length, magic, CRC, codec, every record.
    /// `max_raw_bytes` bounds the records before compression, framing included;
    /// [`super::MAX_DECODED_BYTES`] fits every batch. No more memory than that is taken for the
    /// records, whatever the payload announces, and as much again at most for counting minutes.
    ///
    /// # Errors
    /// [`BatchError`]: refuse the batch.
    pub fn decode(&mut self, payload: &[u8], max_raw_bytes: usize) -> Result<Decoded, BatchError> {
        let (head, codec) = check_head(payload)?;
        let mut data = std::mem::take(&mut self.spare);
        let packed = payload.get(HEAD_BYTES..).unwrap_or_default();
        let decoded = self
            .decompressors
            .decompress(codec, packed, &mut data, max_raw_bytes)
            .and_then(|end| Ok((end, self.check_records(&data[..end], head)?)));
        match decoded {
            Ok((end, totals)) => Ok(Decoded {
                data,
                end,
                codec,
                base_timestamp: head.base_timestamp,
                totals,
            }),
            Err(error) => {
                self.spare = data;
                Err(error)
            }
        }
    }

    /// Takes back the memory of a batch that is no longer needed, for the next one.
    pub fn recycle(&mut self, decoded: Decoded) {
        if decoded.data.capacity() > self.spare.capacity() {
            self.spare = decoded.data;
        }
    }

    /// Bytes that the decoder keeps for records.
    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        self.spare.capacity()
    }

    fn check_records(&mut self, data: &[u8], head: Head) -> Result<Totals, BatchError> {
        self.minutes.clear();
        self.content_sum.clear();
        let mut totals = Totals::default();
        let mut reader = RecordReader::new(data, head.base_timestamp);
        let mut latest = i64::MIN;
        for index in 0..head.records.cast_unsigned() {
            let record = reader.next()?;
            if index == 0 {
                totals.id = record.batch_id;
            }
            totals.ids += u32::from(record.batch_id.is_some());
            totals.keyed |= record.key.is_some();
            totals.raw_bytes += record.value.len() as u64;
            self.content_sum.add(record.value);
            latest = latest.max(record.timestamp_ms);
            self.minutes.add(record.timestamp_ms);
        }
        totals.records = reader.index;
        reader.end()?;
        if latest != head.max_timestamp {
            return Err(BatchError::MaxTimestamp {
                stated: head.max_timestamp,
                counted: latest,
            });
        }
        totals.content_sum = self.content_sum.finish();
        totals.minutes = self.minutes.counts();
        Ok(totals)
    }
}

/// [`Decoder::decode`] for a single batch.
///
/// # Errors
/// [`BatchError`]: refuse the batch.
pub fn decode(payload: &[u8], max_raw_bytes: usize) -> Result<Decoded, BatchError> {
    Decoder::new().decode(payload, max_raw_bytes)
}

/// Checks what can be known before decompression.
pub(super) fn check_head(payload: &[u8]) -> Result<(Head, Codec), BatchError> {
    let head = Head::read(payload).ok_or(BatchError::Short {
        bytes: payload.len(),
    })?;
    if head.magic != MAGIC {
        return Err(BatchError::Magic(head.magic));
    }
    let bytes = payload.len() - BEFORE_LENGTH_ENDS;
    if usize::try_from(head.length) != Ok(bytes) {
        return Err(BatchError::Length {
            announced: head.length,
            bytes,
        });
    }
    let counted = layout::checksum(payload);
    if counted != head.crc {
        return Err(BatchError::Crc {
            stated: head.crc,
            counted,
        });
    }
    if head.attributes & !CODEC_MASK != 0 {
        return Err(BatchError::Attributes(head.attributes));
    }
    let [_high, codec] = head.attributes.to_be_bytes();
    let codec = Codec::from_id(codec)?;
    let (records, last_offset_delta) = (head.records, head.last_offset_delta);
    if records == 0 {
        return Err(BatchError::Empty);
    }
    if records < 0 || last_offset_delta != records - 1 {
        return Err(BatchError::Counts {
            records,
            last_offset_delta,
        });
    }
    Ok((head, codec))
}

/// Goes through the records one by one.
#[derive(Debug)]
pub(super) struct RecordReader<'a> {
    data: &'a [u8],
    at: usize,
    index: u32,
    base_timestamp: i64,
}

impl<'a> RecordReader<'a> {
    pub(super) fn new(data: &'a [u8], base_timestamp: i64) -> Self {
        Self {
            data,
            at: 0,
            index: 0,
            base_timestamp,
        }
    }

    #[inline]
    fn next(&mut self) -> Result<Record<'a>, BatchError> {
        Ok(self.next_with_rest()?.0)
    }

    /// The next record, and its bytes behind the two deltas: key, value and headers as they stand there.
    #[inline]
    pub(super) fn next_with_rest(&mut self) -> Result<(Record<'a>, &'a [u8]), BatchError> {
        match self.next_sound() {
            Some(next) => Ok(next),
            None => self.faulty(),
        }
    }

    /// [`Self::next_with_rest`], or `None` where the next record has a fault or there is none.
    #[inline]
    fn next_sound(&mut self) -> Option<(Record<'a>, &'a [u8])> {
        let (record, rest, end) = self.sound()?;
        self.at = end;
        self.index += 1;
        Some((record, rest))
    }

    /// The next record with the rest of its bytes, and the place after it; `None` where it has a fault,
    /// whichever: to name that would make what every line goes through twice slower.
    #[inline]
    fn sound(&self) -> Option<(Record<'a>, &'a [u8], usize)> {
        let (length, begin) = varint::read_int(self.data, self.at)?;
        let end = begin.checked_add(usize::try_from(length).ok()?)?;
        let body = self.data.get(begin..end)?;
        // The first byte is the record's attributes, of which Kafka has none.
        let (timestamp_delta, at) = varint::read_long(body, 1)?;
        let (offset_delta, deltas_end) = varint::read_int(body, at)?;
        let (key_length, at) = varint::read_int(body, deltas_end)?;
        let (key, at) = match usize::try_from(key_length) {
            Ok(length) => (Some(body.get(at..)?.get(..length)?), at + length),
            Err(_negative) if key_length == -1 => (None, at),
            Err(_negative) => return None,
        };
        let (length, at) = varint::read_int(body, at)?;
        let (value, headers) = body
            .get(at..)?
            .split_at_checked(usize::try_from(length).ok()?)?;
        let (headers, batch_id) = match headers {
            // None, as most have.
            [0] => (RecordHeaders::default(), None),
            bytes => {
                let mut fields = Fields { bytes, at: 0 };
                let headers = fields.headers().ok()?;
                (fields.at == bytes.len()).then_some(headers)?
            }
        };
        let record = Record {
            // Kafka's own readers wrap around as well.
            timestamp_ms: self.base_timestamp.wrapping_add(timestamp_delta),
            key,
            value,
            batch_id,
            headers,
        };
        let in_place = u32::try_from(offset_delta) == Ok(self.index);
        in_place.then_some((record, &body[deltas_end..], end))
    }

    /// [`Self::next_with_rest`] for a record that has a fault, or may have one.
    #[cold]
    fn faulty(&mut self) -> Result<(Record<'a>, &'a [u8]), BatchError> {
        let malformed = |fault: Fault| BatchError::Record {
            index: self.index,
            why: fault.text(),
        };
        let mut outer = Fields {
            bytes: self.data,
            at: self.at,
        };
        let body = outer
            .bytes("length")
            .map_err(malformed)?
            .ok_or(Fault::Null("length"));
        let record = body.and_then(|body| self.parse(body)).map_err(malformed)?;
        self.at = outer.at;
        self.index += 1;
        Ok(record)
    }

    /// Every byte must have been a record's.
    pub(super) fn end(&self) -> Result<(), BatchError> {
        match self.data.len() - self.at {
            0 => Ok(()),
            trailing => Err(BatchError::Trailing(trailing)),
        }
    }

    #[inline]
    fn parse(&self, body: &'a [u8]) -> Result<(Record<'a>, &'a [u8]), Fault> {
        // The first byte is the record's attributes, of which Kafka has none.
        let mut fields = Fields { bytes: body, at: 1 };
        let timestamp_delta = fields.long("timestamp delta")?;
        let offset_delta = fields.int("offset delta")?;
        if u32::try_from(offset_delta) != Ok(self.index) {
            return Err(Fault::Offset(offset_delta));
        }
        let rest = body.get(fields.at..).unwrap_or_default();
        let key = fields.bytes("key length")?;
        let value = fields.bytes("value length")?.ok_or(Fault::Null("value"))?;
        let (headers, batch_id) = fields.headers()?;
        if fields.at != body.len() {
            return Err(Fault::Trailing(body.len() - fields.at));
        }
        // Kafka's own readers wrap around as well.
        let timestamp_ms = self.base_timestamp.wrapping_add(timestamp_delta);
        let record = Record {
            timestamp_ms,
            key,
            value,
            batch_id,
            headers,
        };
        Ok((record, rest))
    }
}

/// What is wrong with a record; text only once somebody asks, for this is the hot path.
enum Fault {
    /// A varint ends too early or has too many bits.
    Varint(&'static str),
    /// A length is negative, or more than what follows.
    Length {
        what: &'static str,
        len: i32,
        rest: usize,
    },
    /// A field must not be null.
    Null(&'static str),
    /// The offset delta is not the record's place.
    Offset(i32),
    /// The number of headers is negative.
    Headers(i32),
    /// A header's key is no UTF-8.
    HeaderKey,
    /// The header `tributary` is no batch id.
    Id(usize),
    /// The header `tributary` stands there twice.
    TwoIds,
    /// Bytes follow the last field.
    Trailing(usize),
}

impl Fault {
    fn text(&self) -> String {
        match self {
            Self::Varint(what) => format!("its {what} is no varint"),
            Self::Length { what, len, rest } => format!("its {what} is {len} before {rest} bytes"),
            Self::Null(what) => format!("its {what} is null"),
            Self::Offset(delta) => format!("its offset delta is {delta}"),
            Self::Headers(count) => format!("it has {count} headers"),
            Self::HeaderKey => "the key of a header is no UTF-8".to_owned(),
            Self::Id(len) => {
                format!(
                    "its batch id has {len} bytes; a batch id has {}",
                    BatchId::BYTES
                )
            }
            Self::TwoIds => "it has two batch ids".to_owned(),
            Self::Trailing(bytes) => format!("it has {bytes} bytes after its headers"),
        }
    }
}

/// Fields, read one after the other.
struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    #[inline]
    fn int(&mut self, what: &'static str) -> Result<i32, Fault> {
        let (value, end) = varint::read_int(self.bytes, self.at).ok_or(Fault::Varint(what))?;
        self.at = end;
        Ok(value)
    }

    #[inline]
    fn long(&mut self, what: &'static str) -> Result<i64, Fault> {
        let (value, end) = varint::read_long(self.bytes, self.at).ok_or(Fault::Varint(what))?;
        self.at = end;
        Ok(value)
    }

    /// A length and as many bytes; `None` for the length -1, Kafka's null.
    #[inline]
    fn bytes(&mut self, what: &'static str) -> Result<Option<&'a [u8]>, Fault> {
        let len = self.int(what)?;
        if len == -1 {
            return Ok(None);
        }
        let rest = &self.bytes[self.at..];
        let taken = usize::try_from(len).ok().and_then(|len| rest.get(..len));
        let taken = taken.ok_or(Fault::Length {
            what,
            len,
            rest: rest.len(),
        })?;
        self.at += taken.len();
        Ok(Some(taken))
    }

    /// All headers, and the batch id, should one of them be it.
    fn headers(&mut self) -> Result<(RecordHeaders<'a>, Option<BatchId>), Fault> {
        let signed = self.int("number of headers")?;
        let count = u32::try_from(signed).map_err(|_negative| Fault::Headers(signed))?;
        let begin = self.at;
        let mut id = None;
        for _header in 0..count {
            let key = self
                .bytes("header key length")?
                .ok_or(Fault::Null("header key"))?;
            let value = self.bytes("header value length")?.unwrap_or_default();
            if key == ID_HEADER.as_bytes() {
                let this = BatchId::from_bytes(value).ok_or(Fault::Id(value.len()))?;
                if id.replace(this).is_some() {
                    return Err(Fault::TwoIds);
                }
            } else if std::str::from_utf8(key).is_err() {
                return Err(Fault::HeaderKey);
            }
        }
        let bytes = self.bytes.get(begin..self.at).unwrap_or_default();
        Ok((RecordHeaders::new(count, bytes), id))
    }
}
