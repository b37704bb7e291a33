//! The event time of a record: when it was read, or what its line says.
//!
//! Decided once, where the line is read; it travels with the record. A function of the line and the
//! time of reading alone, so that a batch that is read again has the same times.
//!
//! # What is missing in a line
//! Without a zone the time is in the task's zone, UTC by default. A time that comes twice (clocks set
//! back), a year or a date that is not there: the moment nearest to the time of reading. A time that
//! never was (clocks set forward) counts on as if they had not been. 24:00 is the end of its day,
//! second 60 the last of its minute.
//!
//! # Which time counts
//! A line without a time, or with an impossible one (no such day; before [`EARLIEST_MS`]; more than
//! [`AHEAD_MS`] after it was read), has the time of reading, and says so by a [`Flag`].
//!
//! Not for: the clock (see [`crate::clock`]). The reader calls it.

mod pattern;
#[cfg(test)]
mod tests;

use jiff::{
    civil,
    tz::{AmbiguousOffset, TimeZone},
};
use serde::{Deserialize, Serialize};

use self::pattern::{Parts, Pattern};
use crate::group::Group;

/// How far into a line its time is looked for without `at`, in bytes.
const LOOK_BYTES: usize = 256;
/// Earlier times are no events of a log: 1990-01-01 UTC, in ms since 1970.
pub(crate) const EARLIEST_MS: i64 = 631_152_000_000;
/// So far after the time of reading a time may be, in ms: a day, for clocks and zones that are wrong.
pub(crate) const AHEAD_MS: i64 = DAY_MS;
const DAY_MS: i64 = 86_400_000;

/// Where the event times of a task come from, as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Time {
    /// The clock at reading.
    Read,
    /// The line.
    Line {
        /// How it is written, as in strftime; absent: the container runtime wrote it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pattern: Option<String>,
        /// A regular expression that finds it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at: Option<String>,
        /// The zone of times that say none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        zone: Option<String>,
    },
}

/// Why a record does not have the time of its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flag {
    /// There is none.
    NotFound,
    /// It cannot be true.
    Impossible,
}

impl Flag {
    /// The word for it in metrics and records.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not-found",
            Self::Impossible => "impossible",
        }
    }
}

/// The time of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timed {
    /// In ms since 1970.
    pub(crate) ms: i64,
    /// Why it is the time of reading although the line was asked.
    pub(crate) flag: Option<Flag>,
}

/// Where event times come from, ready for use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TimeFrom {
    /// The clock at reading.
    Read,
    /// The line.
    Line(Box<LineTime>),
    /// The container runtime, which wrote it before the text.
    Runtime,
}

impl TimeFrom {
    /// Makes it ready for use.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn new(time: &Time) -> Result<Self, String> {
        match time {
            Time::Read => Ok(Self::Read),
            Time::Line {
                pattern: Some(pattern),
                at,
                zone,
            } => {
                let line = LineTime::new(pattern, at.as_deref(), zone.as_deref())?;
                Ok(Self::Line(Box::new(line)))
            }
            Time::Line {
                pattern: None,
                at: None,
                zone: None,
            } => Ok(Self::Runtime),
            Time::Line { pattern: None, .. } => {
                Err("at and zone say nothing without a pattern; expected is a pattern".to_owned())
            }
        }
    }

    /// The event time of a line, which the runtime had from its container at `runtime`.
    pub(crate) fn of(&self, line: &[u8], runtime: Option<&str>, read_ms: i64) -> Timed {
        let found = match self {
            Self::Read => Ok(read_ms),
            Self::Line(time) => time.find(line, read_ms),
            Self::Runtime => runtime_time(runtime, read_ms),
        };
        match found {
            Ok(ms) => Timed { ms, flag: None },
            Err(flag) => Timed {
                ms: read_ms,
                flag: Some(flag),
            },
        }
    }
}

/// The time that a container runtime wrote, as RFC 3339.
fn runtime_time(text: Option<&str>, read_ms: i64) -> Result<i64, Flag> {
    let time = text.and_then(|text| text.parse::<jiff::Timestamp>().ok());
    let ms = time.ok_or(Flag::NotFound)?.as_millisecond();
    if (EARLIEST_MS..=read_ms.saturating_add(AHEAD_MS)).contains(&ms) {
        Ok(ms)
    } else {
        Err(Flag::Impossible)
    }
}

/// A time written in a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LineTime {
    pattern: Pattern,
    at: Option<Group>,
    /// `None` is UTC.
    zone: Option<TimeZone>,
}

impl LineTime {
    /// A time in this form of strftime, where the group `time` of `at` is.
    ///
    /// # Errors
    /// What is wrong with the pattern, the regular expression or the zone.
    pub(crate) fn new(pattern: &str, at: Option<&str>, zone: Option<&str>) -> Result<Self, String> {
        Ok(Self {
            pattern: Pattern::new(pattern)?,
            at: at.map(|at| Group::new(at, "time")).transpose()?,
            zone: zone.map(find_zone).transpose()?,
        })
    }

    /// Whether this is a pattern of a time.
    pub(crate) fn check_pattern(pattern: &str) -> Result<(), String> {
        Pattern::new(pattern).map(drop)
    }

    /// The first place where the pattern fits decides: where `at` says, or at the beginning of the
    /// line, or after a byte behind which logs have their times.
    fn find(&self, line: &[u8], read_ms: i64) -> Result<i64, Flag> {
        let parts = match &self.at {
            Some(at) => at.find(line).and_then(|text| self.pattern.parse(text)),
            None => self.look(line),
        };
        let parts = parts.ok_or(Flag::NotFound)?;
        let ms = moment(&parts, self.zone.as_ref(), read_ms).ok_or(Flag::Impossible)?;
        let possible = EARLIEST_MS..=read_ms.saturating_add(AHEAD_MS);
        match possible.contains(&ms) {
            true => Ok(ms),
            false => Err(Flag::Impossible),
        }
    }

    fn look(&self, line: &[u8]) -> Option<Parts> {
        let head = line.get(..LOOK_BYTES).unwrap_or(line);
        let starts = head
            .iter()
            .enumerate()
            .filter(|(_, byte)| {
                matches!(byte, b' ' | b'\t' | b'[' | b'(' | b'"' | b'=' | b'>' | b'|')
            })
            .map(|(at, _)| at + 1);
        std::iter::once(0)
            .chain(starts)
            .find_map(|at| self.pattern.parse(line.get(at..)?))
    }
}

/// The zone of an IANA name.
///
/// # Errors
/// When there is none of that name.
pub(crate) fn find_zone(name: &str) -> Result<TimeZone, String> {
    TimeZone::get(name).map_err(|_unknown| {
        format!("{name:?} is no time zone; expected is a name of the IANA list such as Asia/Shanghai, Europe/Berlin, UTC")
    })
}

/// The moment that the parts are, in ms since 1970; `None` when there is no such moment.
fn moment(parts: &Parts, zone: Option<&TimeZone>, read_ms: i64) -> Option<i64> {
    if let Some(epoch) = parts.epoch {
        return Some(epoch * 1000 + parts.ms);
    }
    // A name of a zone that says nothing, and no zone of the task that would.
    if parts.other_zone && parts.offset.is_none() && zone.is_none() {
        return None;
    }
    let of_day = of_day(parts)?;
    let place = |days: i64| {
        let local = days * DAY_MS + of_day;
        match (parts.offset, zone) {
            (Some(offset), _) => Some(local - offset * 1000),
            (None, None) => Some(local),
            (None, Some(zone)) => in_zone(local, zone, read_ms),
        }
    };
    let distance = |ms: &i64| ms.abs_diff(read_ms);
    let has_date = parts.month.is_some() || parts.day_of_year.is_some();
    match parts.year {
        Some(year) => place(days_of(parts, year)?),
        None if has_date => {
            let this = year_of(read_ms);
            let years = this - 1..=this + 1;
            let places = years.filter_map(|year| place(days_of(parts, year)?));
            places.min_by_key(distance)
        }
        None => {
            let today = read_ms.div_euclid(DAY_MS);
            (today - 2..=today + 2)
                .filter_map(place)
                .min_by_key(distance)
        }
    }
}

/// Ms since the beginning of the day.
fn of_day(parts: &Parts) -> Option<i64> {
    let hour = match (parts.hour, parts.half_day_hour) {
        (Some(hour), _) => hour,
        (None, Some(hour)) if (1..=12).contains(&hour) => {
            hour % 12 + if parts.is_pm { 12 } else { 0 }
        }
        (None, Some(_)) => return None,
        (None, None) => 0,
    };
    let is_end = hour == 24 && (parts.minute, parts.second, parts.ms) == (0, 0, 0);
    let is_time = (0..24).contains(&hour) && parts.minute < 60 && parts.second <= 60;
    let second = parts.second.min(59);
    (is_time || is_end).then_some(((hour * 60 + parts.minute) * 60 + second) * 1000 + parts.ms)
}

/// Days since 1970 of the date in a year; `None` when there is no such day.
fn days_of(parts: &Parts, year: i64) -> Option<i64> {
    if let (Some(month), Some(day)) = (parts.month, parts.day) {
        let date = date(year, month, day)?;
        return Some(days_since_1970(date));
    }
    let first = days_since_1970(date(year, 1, 1)?);
    let day = parts.day_of_year?;
    let last = days_since_1970(date(year, 12, 31)?) - first + 1;
    (1..=last).contains(&day).then_some(first + day - 1)
}

fn date(year: i64, month: i64, day: i64) -> Option<civil::Date> {
    civil::Date::new(
        i16::try_from(year).ok()?,
        i8::try_from(month).ok()?,
        i8::try_from(day).ok()?,
    )
    .ok()
}

/// Days since 1970-01-01. Source: <https://howardhinnant.github.io/date_algorithms.html>.
fn days_since_1970(date: civil::Date) -> i64 {
    let (month, day) = (i64::from(date.month()), i64::from(date.day()));
    let year = i64::from(date.year()) - i64::from(month <= 2);
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + day_of_year - 719_468
}

/// The year of a moment, in UTC; near a new year it may be the one beside it.
fn year_of(ms: i64) -> i64 {
    // The mean year of the calendar has 365.2425 days.
    1970 + ms.div_euclid(DAY_MS) * 10_000 / 3_652_425
}

/// The moment of a local time, in ms since 1970.
fn in_zone(local_ms: i64, zone: &TimeZone, read_ms: i64) -> Option<i64> {
    let civil =
        jiff::tz::Offset::UTC.to_datetime(jiff::Timestamp::from_millisecond(local_ms).ok()?);
    let less = |offset: jiff::tz::Offset| local_ms - i64::from(offset.seconds()) * 1000;
    Some(match zone.to_ambiguous_timestamp(civil).offset() {
        AmbiguousOffset::Unambiguous { offset } => less(offset),
        // As if the clocks had not been set forward.
        AmbiguousOffset::Gap { before, .. } => less(before),
        AmbiguousOffset::Fold { before, after } => {
            let (first, second) = (less(before), less(after));
            if first.abs_diff(read_ms) <= second.abs_diff(read_ms) {
                first
            } else {
                second
            }
        }
    })
}
