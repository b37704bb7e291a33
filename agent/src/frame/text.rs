//! The encoding of a file's text: where its lines end, where it may be cut, and the same as UTF-8.
//!
//! UTF-8 passes as it is, whatever its bytes. In GBK, GB18030, Big5, Shift-JIS, EUC and single-byte
//! encodings a byte 0x0A is always a newline (a test looks at every lead byte); in UTF-16 it is one
//! only as a whole unit, and units are counted from the beginning of the file.
//!
//! Not for: what is a record. Called by [`super`] and the reader.

use encoding_rs::{CoderResult, Encoding};

/// A record's text is at most so long as UTF-8, in bytes.
const MAX_TEXT_BYTES: usize = 1 << 20;
/// So many bytes of any encoding become no longer text than [`MAX_TEXT_BYTES`], for each becomes
/// three at most.
const SAFE_BYTES: u32 = 349_525;
/// So many bytes of UTF-16 do not, for each unit of two becomes three at most.
const SAFE_UTF16_BYTES: u32 = 699_050;

/// An encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Text {
    /// UTF-8: bytes pass as they are.
    Utf8,
    /// One that extends ASCII.
    Ascii(&'static Encoding),
    /// UTF-16, big-endian or little-endian.
    Utf16 {
        /// Which; [`Label::ByMark`] is little-endian without a mark.
        big: bool,
    },
}

/// How an encoding is said in a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Label {
    /// It is this one.
    Is(Text),
    /// UTF-16, whose byte order mark says which.
    ByMark,
}

impl Label {
    /// The encoding of a label.
    ///
    /// # Errors
    /// What is allowed instead.
    pub(crate) fn find(label: &str) -> Result<Self, String> {
        let Some(encoding) = Encoding::for_label(label.as_bytes()) else {
            return Err(format!(
                "{label:?} is no encoding; expected is a WHATWG label such as utf-8, gbk, big5, utf-16"
            ));
        };
        let plain = label.trim().to_ascii_lowercase();
        Ok(match encoding {
            utf8 if utf8 == encoding_rs::UTF_8 => Self::Is(Text::Utf8),
            big if big == encoding_rs::UTF_16BE => Self::Is(Text::Utf16 { big: true }),
            little if little == encoding_rs::UTF_16LE => match plain.as_str() {
                "utf-16le" | "unicodefeff" => Self::Is(Text::Utf16 { big: false }),
                _ => Self::ByMark,
            },
            other if other.is_ascii_compatible() => Self::Is(Text::Ascii(other)),
            other => {
                let name = other.name();
                return Err(format!(
                    "{name} cannot be split into lines as bytes; allowed are encodings that extend \
                     ASCII, and utf-16"
                ));
            }
        })
    }

    /// The encoding, as far as it is known without the file.
    pub(crate) fn text(self) -> Text {
        match self {
            Self::Is(text) => text,
            Self::ByMark => Text::Utf16 { big: false },
        }
    }

    /// Where the last line begins of bytes that stand at `at` in a file; `first` are the first bytes
    /// of that. `None` without a newline.
    pub(crate) fn last_line(self, bytes: &[u8], at: u64, first: &[u8]) -> Option<usize> {
        let text = self.text();
        let newline = match text {
            Text::Utf8 | Text::Ascii(_) => memchr::memrchr(b'\n', bytes)?,
            Text::Utf16 { .. } => newlines_of_utf16(bytes, at, self.is_big(first)).last()?,
        };
        Some(newline + text.width())
    }

    /// Whether a file's first bytes say that it is big-endian.
    pub(crate) fn is_big(self, first: &[u8]) -> bool {
        match self {
            Self::Is(text) => text == Text::Utf16 { big: true },
            Self::ByMark => first.starts_with(b"\xfe\xff"),
        }
    }
}

impl Text {
    /// Bytes of a newline.
    #[inline]
    pub(crate) fn width(self) -> usize {
        match self {
            Self::Utf8 | Self::Ascii(_) => 1,
            Self::Utf16 { .. } => 2,
        }
    }

    /// The same encoding, big-endian where it is UTF-16 and the file is.
    pub(super) fn resolved(self, is_big: bool) -> Self {
        match self {
            Self::Utf16 { big } => Self::Utf16 { big: big || is_big },
            Self::Utf8 | Self::Ascii(_) => self,
        }
    }

    /// Bytes of the byte order mark at the beginning of a file.
    pub(super) fn mark_bytes(self, bytes: &[u8]) -> usize {
        let mark: &[u8] = match self {
            Self::Utf8 => b"\xef\xbb\xbf",
            Self::Ascii(_) => b"",
            Self::Utf16 { big: true } => b"\xfe\xff",
            Self::Utf16 { big: false } => b"\xff\xfe",
        };
        if bytes.starts_with(mark) {
            mark.len()
        } else {
            0
        }
    }

    /// Whether what begins at `at` is the rest of a line; `before` are the bytes before it.
    pub(crate) fn is_mid_line(self, at: u64, before: &[u8]) -> bool {
        if at == 0 || (at == before.len() as u64 && self.mark_bytes(before) == before.len()) {
            return false;
        }
        match self {
            Self::Utf8 | Self::Ascii(_) => before.last() != Some(&b'\n'),
            Self::Utf16 { big } => {
                let newline = if big { b"\0\n" } else { b"\n\0" };
                at % 2 == 1 || !before.ends_with(newline)
            }
        }
    }

    /// The longest record that this encoding can have, where `max` bytes are wanted.
    pub(super) fn longest(self, max: u32) -> u32 {
        match self {
            Self::Utf8 | Self::Ascii(_) => max,
            Self::Utf16 { .. } => max.clamp(16, SAFE_UTF16_BYTES) & !1,
        }
    }

    /// The same for records of several lines, which are not decoded before they are whole.
    pub(super) fn longest_joined(self, max: u32) -> u32 {
        match self {
            Self::Utf8 | Self::Utf16 { .. } => self.longest(max),
            Self::Ascii(_) => max.min(SAFE_BYTES),
        }
    }

    /// Lines of so many bytes never become more text than a record may have.
    pub(super) fn plain_bytes(self) -> usize {
        match self {
            Self::Utf8 | Self::Utf16 { .. } => usize::MAX,
            Self::Ascii(_) => SAFE_BYTES as usize,
        }
    }

    /// Whether a line becomes more text than a record may have.
    #[inline]
    pub(super) fn grows_too_long(self, line: &[u8]) -> bool {
        match self {
            Self::Utf8 | Self::Utf16 { .. } => false,
            Self::Ascii(encoding) => {
                line.len() > SAFE_BYTES as usize && fit(encoding, line) < line.len()
            }
        }
    }

    /// Where to cut a line that is too long and begins at `at` in its file: at `max` or a few bytes
    /// before, so that no character is cut in two. At least one byte.
    pub(super) fn cut_at(self, line: &[u8], at: u64, max: usize) -> usize {
        let max = max.min(line.len()).max(1);
        match self {
            Self::Utf8 => {
                let is_inside = |at: usize| line.get(at).is_some_and(|byte| byte & 0xc0 == 0x80);
                (max.saturating_sub(3).max(1)..=max)
                    .rev()
                    .find(|&at| !is_inside(at))
                    .unwrap_or(max)
            }
            Self::Ascii(encoding) => {
                let line = line.get(..max).unwrap_or_default();
                let fits = fit(encoding, line);
                (fits.saturating_sub(3).max(1)..=fits)
                    .rev()
                    .find(|&end| is_whole(encoding, line.get(..end).unwrap_or_default()))
                    .unwrap_or(fits.max(1))
            }
            Self::Utf16 { big } => {
                let odd = usize::from(at % 2 == 1);
                let end = max - (max - odd) % 2;
                let high = line.get(end.wrapping_sub(2)..end).is_some_and(|unit| {
                    let byte = if big { unit.first() } else { unit.last() };
                    byte.is_some_and(|byte| byte & 0xfc == 0xd8)
                });
                if high && end > 2 + odd {
                    end - 2
                } else {
                    end.max(1)
                }
            }
        }
    }

    /// The same text as UTF-8, in `buffer` where it is not in UTF-8 already, and how often bytes
    /// were no text and became U+FFFD. `at` is where it begins in its file.
    pub(crate) fn decode<'a>(
        self,
        bytes: &'a [u8],
        at: u64,
        buffer: &'a mut String,
    ) -> (&'a [u8], u32) {
        let (encoding, odd) = match self {
            Self::Utf8 => return (bytes, 0),
            Self::Ascii(_) if Encoding::ascii_valid_up_to(bytes) == bytes.len() => {
                return (bytes, 0);
            }
            Self::Ascii(encoding) => (encoding, false),
            Self::Utf16 { big: true } => (encoding_rs::UTF_16BE, at % 2 == 1),
            Self::Utf16 { big: false } => (encoding_rs::UTF_16LE, at % 2 == 1),
        };
        buffer.clear();
        // The other half of a unit was in the record before.
        let bytes = bytes.get(usize::from(odd)..).unwrap_or_default();
        if odd {
            buffer.push(char::REPLACEMENT_CHARACTER);
        }
        let mut decoder = encoding.new_decoder_without_bom_handling();
        buffer.reserve(decoder.max_utf8_buffer_length(bytes.len()).unwrap_or(0));
        let (_result, _read, failed) = decoder.decode_to_string(bytes, buffer, true);
        let replaced = if failed || odd {
            buffer.matches(char::REPLACEMENT_CHARACTER).count()
        } else {
            0
        };
        (
            buffer.as_bytes(),
            u32::try_from(replaced).unwrap_or(u32::MAX),
        )
    }
}

/// The newlines of UTF-16 text whose first byte stands at `at` in its file.
pub(super) fn newlines_of_utf16(
    bytes: &[u8],
    at: u64,
    big: bool,
) -> impl Iterator<Item = usize> + '_ {
    memchr::memchr_iter(b'\n', bytes).filter_map(move |place| {
        let unit = if big { place.checked_sub(1)? } else { place };
        let other = if big { unit } else { unit + 1 };
        let whole = bytes.get(other) == Some(&0) && (at + unit as u64).is_multiple_of(2);
        whole.then_some(unit)
    })
}

/// How many bytes of a line become no more than [`MAX_TEXT_BYTES`] of text.
fn fit(encoding: &'static Encoding, line: &[u8]) -> usize {
    if line.len() <= SAFE_BYTES as usize {
        return line.len();
    }
    let mut decoder = encoding.new_decoder_without_bom_handling();
    let mut scratch = [0; 4096];
    let (mut read, mut text) = (0, 0);
    // A character needs room to be written at all.
    while MAX_TEXT_BYTES - text >= 16 {
        let room = scratch.len().min(MAX_TEXT_BYTES - text);
        let left = line.get(read..).unwrap_or_default();
        let out = scratch.get_mut(..room).unwrap_or_default();
        let (result, more, written, _) = decoder.decode_to_utf8(left, out, false);
        (read, text) = (read + more, text + written);
        if result == CoderResult::InputEmpty {
            break;
        }
    }
    read
}

/// Whether text ends between two characters.
fn is_whole(encoding: &'static Encoding, text: &[u8]) -> bool {
    // No such byte is part of a longer character in any encoding that extends ASCII.
    let sure = text.iter().rposition(|&byte| byte < 0x30);
    let text = text.get(sure.map_or(0, |at| at + 1)..).unwrap_or_default();
    let mut decoder = encoding.new_decoder_without_bom_handling();
    let mut scratch = [0; 1024];
    let mut read = 0;
    loop {
        let left = text.get(read..).unwrap_or_default();
        let (result, more, _, _) = decoder.decode_to_utf8(left, &mut scratch, false);
        read += more;
        if result == CoderResult::InputEmpty {
            let (_, _, _, failed) = decoder.decode_to_utf8(b"", &mut scratch, true);
            return !failed;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MULTI: [&Encoding; 7] = [
        encoding_rs::GBK,
        encoding_rs::GB18030,
        encoding_rs::BIG5,
        encoding_rs::SHIFT_JIS,
        encoding_rs::EUC_JP,
        encoding_rs::EUC_KR,
        encoding_rs::WINDOWS_1252,
    ];

    #[test]
    fn a_newline_byte_is_a_newline_after_any_byte() {
        for encoding in MULTI {
            for first in 0..=u8::MAX {
                for second in (0..=u8::MAX).step_by(3) {
                    let bytes = [first, second, b'\n', b'x'];
                    let (text, _) = encoding.decode_without_bom_handling(&bytes);
                    assert!(text.ends_with("\nx"), "{} {bytes:?}", encoding.name());
                }
            }
        }
    }

    #[test]
    fn labels_say_the_encoding_or_what_is_allowed() {
        let check = |label: &str, wanted: Label| assert_eq!(Label::find(label), Ok(wanted));
        check("UTF8", Label::Is(Text::Utf8));
        check("gb2312", Label::Is(Text::Ascii(encoding_rs::GBK)));
        check("gb18030", Label::Is(Text::Ascii(encoding_rs::GB18030)));
        check("big5", Label::Is(Text::Ascii(encoding_rs::BIG5)));
        check("sjis", Label::Is(Text::Ascii(encoding_rs::SHIFT_JIS)));
        check("utf-16", Label::ByMark);
        check("utf-16le", Label::Is(Text::Utf16 { big: false }));
        check("UTF-16BE", Label::Is(Text::Utf16 { big: true }));
        assert!(
            Label::find("iso-2022-jp")
                .unwrap_err()
                .contains("allowed are encodings")
        );
        assert!(
            Label::find("klingon")
                .unwrap_err()
                .contains("such as utf-8")
        );
    }

    #[test]
    fn the_last_line_begins_behind_a_whole_newline() {
        let check = |label: &str, bytes: &[u8], at: u64, first: &[u8], wanted: Option<usize>| {
            let label = Label::find(label).unwrap();
            assert_eq!(label.last_line(bytes, at, first), wanted, "{bytes:?}");
        };
        check("utf-8", b"a\nb", 5, b"", Some(2));
        check("utf-8", b"ab", 5, b"", None);
        check("utf-16", b"\n\0b\0", 4, b"a\0", Some(2));
        check("utf-16", b"\n\0b\0", 5, b"a\0", None);
        check("utf-16", b"\0\n\0b", 4, b"\xfe\xff", Some(2));
        check("utf-16", b"\n\0b\0\n\x01", 4, b"\xff\xfe", Some(2));
    }

    #[test]
    fn text_is_cut_between_characters() {
        let gbk = Text::Ascii(encoding_rs::GBK);
        let (bytes, _, _) = encoding_rs::GBK.encode("a中文b");
        assert_eq!((gbk.cut_at(&bytes, 0, 2), gbk.cut_at(&bytes, 0, 3)), (1, 3));
        let gb18030 = Text::Ascii(encoding_rs::GB18030);
        let (bytes, _, _) = encoding_rs::GB18030.encode("\u{1f600}\u{1f600}");
        assert_eq!((bytes.len(), gb18030.cut_at(&bytes, 0, 7)), (8, 4));
        let little = Text::Utf16 { big: false };
        let bytes: Vec<u8> = "a\u{1f600}"
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        assert_eq!(
            (little.cut_at(&bytes, 0, 5), little.cut_at(&bytes, 2, 4)),
            (2, 2)
        );
        // Junk has no characters: the cut is near the limit.
        assert_eq!(Text::Utf8.cut_at(&[0x80; 10], 0, 4), 4);
        assert!((1..=4).contains(&gbk.cut_at(&[0x81; 10], 0, 4)));
    }

    #[test]
    fn text_that_grows_is_cut_where_it_still_fits() {
        let gbk = Text::Ascii(encoding_rs::GBK);
        let (bytes, _, _) = encoding_rs::GBK.encode("中");
        let line = bytes.repeat(500_000);
        assert!(gbk.grows_too_long(&line) && !gbk.grows_too_long(&line[..600_000]));
        let end = gbk.cut_at(&line, 0, 1 << 20);
        let mut buffer = String::new();
        let (text, replaced) = gbk.decode(&line[..end], 0, &mut buffer);
        assert_eq!(replaced, 0);
        assert!((MAX_TEXT_BYTES - 20..=MAX_TEXT_BYTES).contains(&text.len()));
    }

    #[test]
    fn what_is_no_text_is_replaced_and_counted() {
        let mut buffer = String::new();
        let mut check = |text: Text, bytes: &[u8], at: u64, wanted: (&str, u32)| {
            let (got, count) = text.decode(bytes, at, &mut buffer);
            assert_eq!((str::from_utf8(got).unwrap(), count), wanted);
        };
        check(
            Text::Ascii(encoding_rs::GBK),
            b"ab\xd6\xd0\xff",
            0,
            ("ab中\u{fffd}", 1),
        );
        let little = Text::Utf16 { big: false };
        check(little, b"a\0b", 0, ("a\u{fffd}", 1));
        check(little, b"\0b\0", 3, ("\u{fffd}b", 1));
        check(Text::Utf16 { big: true }, b"\x4e\x2d", 2, ("中", 0));
    }
}
