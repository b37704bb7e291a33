//! The event time of a record: when it was read, or what its line says.
//!
//! Decided once, where the line is read; it travels with the record. A function of the line and the
//! time of reading alone, so that a batch that is read again has the same times.
//!
//! Not for: the clock (see [`crate::clock`]). The reader calls it.

use jiff::{
    fmt::strtime::BrokenDownTime,
    tz::{Offset, TimeZone},
};

/// How far into a line its time is looked for, in bytes.
const LOOK_BYTES: usize = 256;

/// Where event times come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TimeFrom {
    /// The clock at reading.
    Read,
    /// The line.
    Line(LineTime),
}

impl TimeFrom {
    /// The event time of a line, in ms since 1970.
    pub(crate) fn of(&self, line: &[u8], read_ms: i64) -> i64 {
        match self {
            Self::Read => read_ms,
            Self::Line(time) => time.find(line).unwrap_or(read_ms),
        }
    }
}

/// A time written in a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LineTime {
    pattern: String,
}

impl LineTime {
    /// A time in this form of strftime.
    ///
    /// # Errors
    /// What is wrong with the pattern.
    pub(crate) fn new(pattern: &str) -> Result<Self, String> {
        // A time that has everything shows whether the pattern can be read back.
        let sample = jiff::civil::date(2001, 2, 3)
            .at(4, 5, 6, 0)
            .to_zoned(TimeZone::UTC);
        let wrong = |error: jiff::Error| format!("{pattern:?} is no pattern of a time: {error}");
        let sample = sample.map_err(wrong)?;
        let text = jiff::fmt::strtime::format(pattern, &sample).map_err(wrong)?;
        let time = Self {
            pattern: pattern.to_owned(),
        };
        match time.parse(text.as_bytes()) {
            Some(_) => Ok(time),
            None => Err(format!(
                "{pattern:?} does not say the whole time; it takes at least year, month and day"
            )),
        }
    }

    /// The first place where the pattern fits: at the beginning, or after one of `[ ( "` and space.
    fn find(&self, line: &[u8]) -> Option<i64> {
        let head = line.get(..line.len().min(LOOK_BYTES)).unwrap_or_default();
        let starts = head
            .iter()
            .enumerate()
            .filter(|(_, byte)| matches!(byte, b'[' | b'(' | b'"' | b' ' | b'\t'))
            .map(|(at, _)| at + 1);
        std::iter::once(0)
            .chain(starts)
            .find_map(|at| self.parse(line.get(at..)?))
    }

    fn parse(&self, text: &[u8]) -> Option<i64> {
        let (time, _used) = BrokenDownTime::parse_prefix(self.pattern.as_bytes(), text).ok()?;
        let ms = match time.to_timestamp() {
            Ok(timestamp) => timestamp.as_millisecond(),
            // Without a zone in the line it is UTC.
            Err(_no_zone) if time.offset().is_none() => {
                let civil = time
                    .to_datetime()
                    .ok()
                    .or_else(|| Some(time.to_date().ok()?.at(0, 0, 0, 0)))?;
                Offset::UTC.to_timestamp(civil).ok()?.as_millisecond()
            }
            Err(_not_a_time) => return None,
        };
        // Minutes are counted from 1970; an earlier time is no event of a log.
        (ms >= 0).then_some(ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_found_where_logs_have_it() {
        let check = |pattern: &str, line: &str, wanted: Option<i64>| {
            assert_eq!(
                LineTime::new(pattern).unwrap().find(line.as_bytes()),
                wanted,
                "{line}"
            );
        };
        let nginx = "%d/%b/%Y:%H:%M:%S %z";
        let line = r#"10.0.0.1 - - [21/Nov/2026:05:30:00 +0100] "GET / HTTP/1.1" 200"#;
        check(nginx, line, Some(1_795_235_400_000));
        check(nginx, "no time here", None);
        check(
            "%Y-%m-%d %H:%M:%S",
            "2026-11-21 04:30:00 started",
            Some(1_795_235_400_000),
        );
        check(
            "%Y-%m-%dT%H:%M:%S%.f%:z",
            "2026-11-21T05:30:00.25+01:00 x",
            Some(1_795_235_400_250),
        );
        check("%Y-%m-%d", "1969-01-01 x", None);
    }

    #[test]
    fn a_pattern_that_says_no_time_is_refused() {
        assert!(
            LineTime::new("%H:%M")
                .unwrap_err()
                .contains("year, month and day")
        );
        assert!(LineTime::new("%Q-nonsense%").is_err());
    }
}
