//! A line as a JSON object, written by hand: what is the same in all records of a batch is written
//! once, and runs of plain bytes are copied.
//!
//! Source: RFC 8259. Not for: reading JSON. Pure.

use std::io::Write as _;

use super::{Line, Origin, all_flags};

/// Writing into memory cannot fail.
const PROOF: &str = "memory takes everything";
/// What an object may take beside its beginning, its text and its flags: offset, time, names.
const BESIDE_BYTES: usize = 512;
/// Bytes that do not stand for themselves in a string.
static ESCAPED: [bool; 256] = escaped();

/// Writes objects.
#[derive(Debug, Default)]
pub(super) struct Json {
    /// The object; its first `begun` bytes are the same in all.
    out: Vec<u8>,
    begun: usize,
    /// The last second that was written, and its text.
    second: Option<(i64, String)>,
}

impl Json {
    /// Begins with objects of another origin.
    pub(super) fn begin(&mut self, origin: Origin<'_>) {
        self.out.clear();
        self.out.extend_from_slice(b"{\"host\":\"");
        self.text(origin.host.as_bytes(), usize::MAX);
        self.out.extend_from_slice(b"\",\"file\":\"");
        self.text(origin.file, usize::MAX);
        for (key, value) in origin.labels {
            self.out.extend_from_slice(b"\",\"");
            self.text(key.as_bytes(), usize::MAX);
            self.out.extend_from_slice(b"\":\"");
            self.text(value.as_bytes(), usize::MAX);
        }
        self.out.extend_from_slice(b"\",\"offset\":");
        self.begun = self.out.len();
    }

    /// The object of a line, at most `max` bytes, and how many bytes of the text are in it.
    pub(super) fn object(&mut self, line: &Line<'_>, max: usize) -> (&[u8], usize) {
        let room = max.saturating_sub(self.begun + BESIDE_BYTES + 3 * line.flags.len());
        self.head(line, false);
        let mut kept = self.text(line.text, room);
        if kept < line.text.len() {
            self.head(line, true);
            kept = self.text(line.text, room);
        }
        self.out.extend_from_slice(b"\"}");
        (&self.out, kept)
    }

    /// All that stands before the text.
    fn head(&mut self, line: &Line<'_>, cut_short: bool) {
        self.out.truncate(self.begun);
        write!(self.out, "{}", line.offset).expect(PROOF);
        self.out.extend_from_slice(b",\"time\":\"");
        self.time(line.timed.ms);
        if let Some(stream) = line.stream {
            self.out.extend_from_slice(b"\",\"stream\":\"");
            self.out.extend_from_slice(stream.as_bytes());
        }
        let flags = all_flags(line, cut_short, true);
        if !flags.is_empty() {
            self.out.extend_from_slice(b"\",\"flags\":[\"");
            for (place, flag) in flags.split(',').enumerate() {
                let between: &[u8] = if place == 0 { b"" } else { b"\",\"" };
                self.out.extend_from_slice(between);
                self.out.extend_from_slice(flag.as_bytes());
            }
            self.out.extend_from_slice(b"\"],\"message\":\"");
        } else {
            self.out.extend_from_slice(b"\",\"message\":\"");
        }
    }

    /// A moment as RFC 3339 with milliseconds.
    fn time(&mut self, ms: i64) {
        let second = ms.div_euclid(1000);
        let text = match &mut self.second {
            Some((known, text)) if *known == second => text,
            other => {
                // Beyond the years of RFC 3339 no event of a log lies.
                let moment = jiff::Timestamp::from_second(second).unwrap_or_default();
                let text = moment.strftime("%Y-%m-%dT%H:%M:%S").to_string();
                &mut other.insert((second, text)).1
            }
        };
        self.out.extend_from_slice(text.as_bytes());
        write!(self.out, ".{:03}Z", ms.rem_euclid(1000)).expect(PROOF);
    }

    /// Bytes as the inside of a string of at most `max` bytes, and how many of them are in it.
    fn text(&mut self, bytes: &[u8], max: usize) -> usize {
        let end = self.out.len().saturating_add(max);
        if let Ok(text) = std::str::from_utf8(bytes) {
            return self.valid(text, end);
        }
        let mut done = 0;
        for chunk in bytes.utf8_chunks() {
            let taken = self.valid(chunk.valid(), end);
            done += taken;
            if taken < chunk.valid().len() {
                break;
            }
            if !chunk.invalid().is_empty() {
                if !self.push(b"\xef\xbf\xbd", end) {
                    break;
                }
                done += chunk.invalid().len();
            }
        }
        done
    }

    /// Text as the inside of a string that ends at `end` at the latest; how much of it there is room
    /// for.
    fn valid(&mut self, text: &str, end: usize) -> usize {
        let mut done = 0;
        while let Some(rest) = text.as_bytes().get(done..) {
            let is_escaped = |byte: &u8| ESCAPED.get(usize::from(*byte)).copied().unwrap_or(true);
            let plain = rest.iter().position(is_escaped).unwrap_or(rest.len());
            let room = end.saturating_sub(self.out.len());
            if plain > room {
                let fits = text.floor_char_boundary(done + room);
                self.out
                    .extend_from_slice(text.as_bytes().get(done..fits).unwrap_or_default());
                return fits;
            }
            self.out
                .extend_from_slice(rest.get(..plain).unwrap_or_default());
            done += plain;
            let Some(byte) = rest.get(plain) else { break };
            let is_in = match byte {
                b'"' => self.push(b"\\\"", end),
                b'\\' => self.push(b"\\\\", end),
                b'\n' => self.push(b"\\n", end),
                b'\r' => self.push(b"\\r", end),
                b'\t' => self.push(b"\\t", end),
                other => self.push(&unicode(*other), end),
            };
            if !is_in {
                break;
            }
            done += 1;
        }
        done
    }

    fn push(&mut self, bytes: &[u8], end: usize) -> bool {
        let has_room = self.out.len() + bytes.len() <= end;
        if has_room {
            self.out.extend_from_slice(bytes);
        }
        has_room
    }
}

/// `\u0000` of a control character.
fn unicode(byte: u8) -> [u8; 6] {
    let digit = |nibble: u8| nibble + if nibble < 10 { b'0' } else { b'a' - 10 };
    [b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte & 15)]
}

const fn escaped() -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = true;
        byte += 1;
    }
    table[b'"' as usize] = true;
    table[b'\\' as usize] = true;
    table
}
