//! Text as JSON, eight bytes at a time.
//!
//! A log line is mostly clean: bytes that stand in JSON as they are. They are looked at in words (what is done
//! is told by the word's bits, see [`special`]) and copied in runs; the few others get their escapes. Pure.
//! Not for: what a document is (see [`super::document`]).

/// Bytes of a word.
const WORD: usize = size_of::<u64>();
/// The same byte in each place of a word.
const EACH: u64 = u64::MAX / 0xff;
/// The lowest bit of each byte but its top one.
const LOW: u64 = EACH * 0x7f;
const HEX: [u8; 16] = *b"0123456789abcdef";

/// Adds a text between quotes; what is no UTF-8 becomes U+FFFD.
pub(super) fn quoted(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    inner(out, text);
    out.push(b'"');
}

/// The same without the quotes.
pub(super) fn inner(out: &mut Vec<u8>, text: &[u8]) {
    match std::str::from_utf8(text) {
        Ok(_text) => escaped(out, text),
        Err(_not_text) => escaped(out, String::from_utf8_lossy(text).as_bytes()),
    }
}

fn escaped(out: &mut Vec<u8>, mut text: &[u8]) {
    // With a little room for escapes, so that it grows once at most in most cases.
    out.reserve(text.len() + WORD);
    while let Some((clean, byte)) = first_special(text) {
        let (run, rest) = text.split_at(clean);
        out.extend_from_slice(run);
        escape(out, byte);
        text = rest.get(1..).unwrap_or_default();
    }
    out.extend_from_slice(text);
}

/// Where the first byte stands that needs an escape, and which it is.
#[inline]
fn first_special(text: &[u8]) -> Option<(usize, u8)> {
    let (words, tail) = text.as_chunks::<WORD>();
    for (no, word) in words.iter().enumerate() {
        let marks = special(u64::from_le_bytes(*word));
        if marks != 0 {
            let place = marks.trailing_zeros() as usize / 8;
            return Some((no * WORD + place, word[place]));
        }
    }
    let is_special = |byte: &u8| matches!(byte, 0..0x20 | b'"' | b'\\');
    let place = tail.iter().position(is_special)?;
    Some((words.len() * WORD + place, tail[place]))
}

/// The top bits of those bytes of a word that need an escape: quotes, backslashes, and all below a space.
///
/// Each sum stays within its byte, so no carry spoils the next one: all marks are right, not only the
/// first.
#[inline]
fn special(word: u64) -> u64 {
    let not_zero = |word: u64| ((word & LOW) + LOW) | word;
    let quote = not_zero(word ^ (EACH * u64::from(b'"')));
    let backslash = not_zero(word ^ (EACH * u64::from(b'\\')));
    let not_control = ((word & LOW) + EACH * (0x80 - 0x20)) | word;
    !(quote & backslash & not_control) & !LOW
}

/// Adds a byte as its escape.
#[cold]
fn escape(out: &mut Vec<u8>, byte: u8) {
    let short = match byte {
        b'"' | b'\\' => byte,
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        0x08 => b'b',
        0x0c => b'f',
        other => {
            let digit = |nibble: u8| HEX[usize::from(nibble & 0xf)];
            out.extend_from_slice(b"\\u00");
            out.extend_from_slice(&[digit(other >> 4), digit(other)]);
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &[u8]) {
        let mut out = b"before".to_vec();
        quoted(&mut out, text);
        let want = serde_json::to_string(&String::from_utf8_lossy(text)).unwrap();
        let got = String::from_utf8(out).unwrap();
        assert_eq!(got.strip_prefix("before"), Some(want.as_str()));
    }

    #[test]
    fn every_byte_has_its_escape_at_every_place() {
        for byte in 0..=u8::MAX {
            for place in 0..20 {
                let mut text = [b'x'; 20];
                text[place] = byte;
                check(&text);
            }
        }
        check(b"");
        check("\u{7f}\u{80}\u{2028}ß\u{1f600}".as_bytes());
    }

    #[test]
    fn a_word_marks_its_special_bytes_and_no_others() {
        for word in [
            *b"a\"b\\c\n\x1f ",
            *b"\x00\x01!\x80\xff\x7f\"\"",
            [0xa2; 8],
            [0xdc; 8],
        ] {
            let marks = special(u64::from_le_bytes(word)).to_le_bytes();
            let want = word.map(|byte| match byte {
                0..0x20 | b'"' | b'\\' => 0x80,
                _other => 0,
            });
            assert_eq!(marks, want, "{word:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_read_as_what_they_were(text in proptest::collection::vec(any::<u8>(), 0..100)) {
            check(&text);
        }

        #[test]
        fn any_text_is_as_another_writer_has_it(text in "\\PC{0,40}[\"\\\\\n\t\u{0}a]{0,10}\\PC{0,40}") {
            check(text.as_bytes());
        }
    }
}
