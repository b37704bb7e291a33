//! The headers of records: written ones as they will stand in a record, read ones one by one.
//!
//! A record's headers are the same from line to line but for the last ones, so they are kept as
//! bytes that the encoder copies, and cut back to where they differ. Not for: which headers a record
//! has (the agent's shapes).

use super::varint;

/// The headers of a record that is to be written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers {
    count: u32,
    bytes: Vec<u8>,
}

/// A place in [`Headers`] to cut them back to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadersMark {
    count: u32,
    bytes: usize,
}

impl Headers {
    /// No headers.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            count: 0,
            bytes: Vec::new(),
        }
    }

    /// Adds a header. The same key may stand there several times, as everywhere in Kafka.
    pub fn push(&mut self, key: &str, value: &[u8]) {
        self.field(key.as_bytes());
        self.field(value);
        self.count += 1;
    }

    fn field(&mut self, bytes: &[u8]) {
        let mut len = [0; varint::MAX_LONG_BYTES];
        let signed = i64::try_from(bytes.len()).expect("a slice has at most isize::MAX bytes");
        let end = varint::write(&mut len, 0, signed);
        self.bytes.extend(len.iter().take(end));
        self.bytes.extend_from_slice(bytes);
    }

    /// Where they end now.
    #[must_use]
    pub fn mark(&self) -> HeadersMark {
        HeadersMark {
            count: self.count,
            bytes: self.bytes.len(),
        }
    }

    /// Cuts them back to a mark that was taken of these headers.
    pub fn cut_back(&mut self, mark: HeadersMark) {
        self.count = mark.count.min(self.count);
        self.bytes.truncate(mark.bytes);
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of all keys and values with their lengths: what they add to a record.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// Headers as they stand in a record, behind their number.
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// The headers of a record that was read, borrowed from its batch. Every one of them parses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RecordHeaders<'a> {
    count: u32,
    bytes: &'a [u8],
}

impl<'a> RecordHeaders<'a> {
    /// Headers that were looked through before.
    pub(super) fn new(count: u32, bytes: &'a [u8]) -> Self {
        Self { count, bytes }
    }

    /// How many there are, the batch id's included.
    #[must_use]
    pub fn len(self) -> usize {
        self.count as usize
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.count == 0
    }

    /// The first so many of them, and the others.
    #[must_use]
    pub fn split(self, count: usize) -> (Self, Self) {
        let (mut at, mut first) = (0, 0);
        while (first as usize) < count && first < self.count {
            // Key and value; every one of them parses.
            field(self.bytes, &mut at);
            field(self.bytes, &mut at);
            first += 1;
        }
        let (bytes, rest) = self.bytes.split_at(at.min(self.bytes.len()));
        (Self::new(first, bytes), Self::new(self.count - first, rest))
    }

    /// Those behind `first`; `None` where others stand first.
    #[inline]
    #[must_use]
    pub fn behind(self, first: &Headers) -> Option<Self> {
        let count = self.count.checked_sub(first.count)?;
        // A header's bytes say where it ends, so the same bytes are the same headers.
        Some(Self::new(count, self.bytes.strip_prefix(first.as_bytes())?))
    }

    /// A copy of them.
    #[must_use]
    pub fn to_owned(self) -> Headers {
        Headers {
            count: self.count,
            bytes: self.bytes.to_vec(),
        }
    }

    /// Key and value of each in order, the batch id's included; a null value is `None`.
    pub fn iter(self) -> impl Iterator<Item = (&'a str, Option<&'a [u8]>)> {
        let mut at = 0;
        (0..self.count).map_while(move |_index| {
            let key = field(self.bytes, &mut at)??;
            let value = field(self.bytes, &mut at)?;
            Some((std::str::from_utf8(key).ok()?, value))
        })
    }
}

/// A length and as many bytes.
#[expect(
    clippy::option_option,
    reason = "outside: the bytes end; inside: Kafka's null"
)]
fn field<'a>(bytes: &'a [u8], at: &mut usize) -> Option<Option<&'a [u8]>> {
    let (len, begin) = varint::read_int(bytes, *at)?;
    *at = begin;
    let Ok(len) = usize::try_from(len) else {
        return Some(None);
    };
    let taken = bytes.get(begin..)?.get(..len)?;
    *at += len;
    Some(Some(taken))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Pairs = Vec<(String, Vec<u8>)>;

    fn headers(pairs: &[(String, Vec<u8>)]) -> Headers {
        let mut headers = Headers::new();
        for (key, value) in pairs {
            headers.push(key, value);
        }
        headers
    }

    fn read(headers: &Headers) -> RecordHeaders<'_> {
        RecordHeaders::new(headers.count, &headers.bytes)
    }

    fn pairs() -> impl Strategy<Value = Pairs> {
        let value = proptest::collection::vec(0_u8..2, 0..2);
        proptest::collection::vec(("[ab]{0,1}", value), 0..5)
    }

    proptest! {
        #[test]
        fn headers_are_split_and_found_again(pairs in pairs(), others in pairs(), at in 0_usize..6) {
            let all = headers(&pairs);
            let (first, rest) = read(&all).split(at);
            let (want_first, want_rest) = pairs.split_at(at.min(pairs.len()));
            prop_assert_eq!(first.to_owned(), headers(want_first));
            prop_assert_eq!(rest.to_owned(), headers(want_rest));
            prop_assert_eq!(read(&all).behind(&first.to_owned()), Some(rest));
            let behind = read(&all).behind(&headers(&others)).map(RecordHeaders::to_owned);
            prop_assert_eq!(behind, pairs.strip_prefix(&others[..]).map(headers));
        }
    }
}
