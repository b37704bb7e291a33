//! Bytes that a log should not have: NUL, carriage returns that end no line, what is no UTF-8.
//!
//! They pass as they are. Lines with them are counted, so that a person sees who writes what.
//!
//! Nearly all blocks have none, so one pass over the whole block must be enough to know: it takes 20 µs
//! for 768 KiB, a hundredth of what a batch costs. Only where it finds something the lines are
//! looked at one by one.
//!
//! Not for: changing anything. Called by [`crate::reader`] for what became a batch.

use encoding_rs::Encoding;

use super::text::Text;

/// Lines with bytes that they should not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Strange {
    /// With a NUL.
    pub(crate) nul: u64,
    /// With a carriage return that is not followed by a newline.
    pub(crate) lone_return: u64,
    /// With bytes that are no UTF-8, where the task says that it is.
    pub(crate) not_utf8: u64,
}

/// Bytes that are looked at together: a few registers of any machine.
const STRIDE: usize = 64;

/// What there is among bytes.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// All bits of all bytes.
    bits: u8,
    /// The least byte.
    least: u8,
    has_return: bool,
}

/// Looks at all bytes once. The compiler makes vector instructions of it; so no branches.
fn look(bytes: &[u8]) -> Seen {
    let (mut bits, mut least, mut returns) = ([0; STRIDE], [u8::MAX; STRIDE], [0; STRIDE]);
    let (strides, rest) = bytes.as_chunks::<STRIDE>();
    for stride in strides {
        for (at, &byte) in stride.iter().enumerate() {
            bits[at] |= byte;
            least[at] = least[at].min(byte);
            returns[at] |= u8::from(byte == b'\r');
        }
    }
    for (at, &byte) in rest.iter().enumerate() {
        bits[at] |= byte;
        least[at] = least[at].min(byte);
        returns[at] |= u8::from(byte == b'\r');
    }
    Seen {
        bits: bits.iter().fold(0, |all, bits| all | bits),
        least: least.into_iter().min().unwrap_or(u8::MAX),
        has_return: returns.contains(&1),
    }
}

/// Whether a carriage return is followed by something else than a newline. One at the very end may get
/// its newline yet.
fn has_lone_return(bytes: &[u8]) -> bool {
    let next = bytes.get(1..).unwrap_or_default();
    let lone = |found: u8, (&byte, &next): (&u8, &u8)| {
        found | (u8::from(byte == b'\r') & u8::from(next != b'\n'))
    };
    bytes.iter().zip(next).fold(0, lone) != 0
}

fn is_utf8(bytes: &[u8]) -> bool {
    Encoding::utf8_valid_up_to(bytes) == bytes.len()
}

/// Counts lines with strange bytes among those that became records.
pub(crate) fn count(text: Text, bytes: &[u8]) -> Strange {
    let mut strange = Strange::default();
    // In UTF-16 any byte may be a part of any character.
    if text.width() > 1 {
        return strange;
    }
    let seen = look(bytes);
    let has_nul = seen.least == 0;
    let has_lone = seen.has_return && has_lone_return(bytes);
    let has_bad = text == Text::Utf8 && seen.bits >= 0x80 && !is_utf8(bytes);
    if !(has_nul || has_lone || has_bad) {
        return strange;
    }
    let mut begin = 0;
    let ends = memchr::memchr_iter(b'\n', bytes).chain([bytes.len()]);
    for end in ends {
        // With its newline, which says whether a carriage return before it is its own.
        let line = bytes
            .get(begin..bytes.len().min(end + 1))
            .unwrap_or_default();
        strange.nul += u64::from(has_nul && memchr::memchr(0, line).is_some());
        strange.lone_return += u64::from(has_lone && has_lone_return(line));
        strange.not_utf8 += u64::from(has_bad && !is_utf8(line));
        begin = end + 1;
    }
    strange
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_once_for_each_thing_that_is_strange_in_them() {
        let check = |text: Text, bytes: &[u8], wanted: (u64, u64, u64)| {
            // Wherever in the block they stand.
            for before in [0, 1, 63, 64, 100] {
                let block = [&b"x".repeat(before), &b"\n"[..], bytes].concat();
                let got = count(text, &block);
                let got = (got.nul, got.lone_return, got.not_utf8);
                assert_eq!(
                    got,
                    wanted,
                    "{text:?} {:?}",
                    bytes.escape_ascii().to_string()
                );
            }
        };
        let gbk = Text::Ascii(encoding_rs::GBK);
        for text in [Text::Utf8, gbk] {
            check(text, b"", (0, 0, 0));
            check(text, b"plain\ntabs\t\nreturns\r\n\r\nend\r", (0, 0, 0));
            check(text, b"a\0b\0\n\0\nc\n", (2, 0, 0));
            check(text, b"a\rb\rc\nd\r\r\n\re", (0, 3, 0));
        }
        check(Text::Utf8, "grüße 中文 😀\n".as_bytes(), (0, 0, 0));
        check(Text::Utf8, b"\xc3\x28\n\xff\xfe\ngood\n\xe4\xb8", (0, 0, 3));
        check(Text::Utf8, b"\0\r\xff\n", (1, 1, 1));
        check(gbk, b"\xd6\xd0\xff\n", (0, 0, 0));
        check(Text::Utf16 { big: false }, b"a\0\r\0b\0\n\0", (0, 0, 0));
    }

    proptest::proptest! {
        #[test]
        fn it_says_what_looking_at_each_line_says(bytes in proptest::collection::vec(
            proptest::sample::select(vec![0, b'\n', b'\r', b'a', 0xc3, 0xa4, 0xff]), 0..300,
        )) {
            let lines: Vec<&[u8]> = bytes.split_inclusive(|&byte| byte == b'\n').collect();
            let count_of = |is: fn(&[u8]) -> bool| lines.iter().filter(|line| is(line)).count() as u64;
            let lone = |line: &[u8]| line.windows(2).any(|two| two[0] == b'\r' && two[1] != b'\n');
            let wanted = Strange {
                nul: count_of(|line| line.contains(&0)),
                lone_return: count_of(lone),
                not_utf8: count_of(|line| str::from_utf8(line).is_err()),
            };
            proptest::prop_assert_eq!(count(Text::Utf8, &bytes), wanted);
        }
    }
}
