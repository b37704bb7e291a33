//! A path as people and the wire see it: text, whatever bytes the name holds.
//!
//! A name may hold newlines, control characters and bytes that are no UTF-8. They are shown as in
//! Rust and C: `\n`, `\t`, `\x1b`, `\xff`, and the backslash itself as `\\`, so that two names never
//! look the same. Not for: opening files, or identity; those use the bytes.

use std::{fmt::Write as _, os::unix::ffi::OsStrExt as _, path::Path};

/// The path as text without control characters.
pub(crate) fn shown(path: &Path) -> String {
    let bytes = path.as_os_str().as_bytes();
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains(|c: char| c.is_control() || c == '\\') => text.to_owned(),
        Ok(_) | Err(_) => escaped(bytes),
    }
}

fn escaped(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() + 16);
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                c if c.is_control() && c.is_ascii() => push_hex(&mut out, c as u8),
                c if c.is_control() => {
                    write!(out, "\\u{{{:x}}}", u32::from(c)).expect("a String takes all");
                }
                c => out.push(c),
            }
        }
        chunk
            .invalid()
            .iter()
            .for_each(|&byte| push_hex(&mut out, byte));
    }
    out
}

fn push_hex(out: &mut String, byte: u8) {
    write!(out, "\\x{byte:02x}").expect("a String takes all");
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn names_of_any_bytes_become_text_that_tells_them_apart() {
        let check = |bytes: &[u8], wanted: &str| {
            assert_eq!(shown(Path::new(OsStr::from_bytes(bytes))), wanted);
        };
        check(b"/var/log/a b.log", "/var/log/a b.log");
        check("/日志/é".as_bytes(), "/日志/é");
        check(b"/a\nb", "/a\\nb");
        check(b"/a\\nb", "/a\\\\nb");
        check(b"/a\xffb\x1b\t", "/a\\xffb\\x1b\\t");
        check("/a\u{85}".as_bytes(), "/a\\u{85}");
    }
}
