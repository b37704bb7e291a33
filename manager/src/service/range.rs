//! Which event minutes a question is about.
//!
//! Pure; the clock is an argument. Called by the API's handlers.

use serde::Deserialize;

/// Milliseconds of a minute.
pub(crate) const MINUTE_MS: i64 = 60_000;
/// Minutes of an hour.
const HOUR: i64 = 60;
/// Minutes of a day.
const DAY: i64 = 24 * HOUR;
/// The most points of a chart by minutes or hours: seven days, or 420.
const MAX_POINTS: i64 = 7 * DAY;
/// The most days of a chart: a hundred years, more than any event time that an agent believes.
const MAX_DAYS: i64 = 36_525;
/// The last instant that a question may name, in ms: the end of the year 9999.
const MAX_MS: i64 = 253_402_300_799_999;

/// A range that ends now, or every minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, utoipa::ToSchema)]
#[schema(as = Range)]
pub(crate) enum Named {
    /// The last 60 minutes.
    #[serde(rename = "1h")]
    H1,
    /// The last 6 hours.
    #[serde(rename = "6h")]
    H6,
    /// The last 24 hours.
    #[serde(rename = "24h")]
    H24,
    /// The last 7 days.
    #[serde(rename = "7d")]
    D7,
    /// Every minute that the ledger has, however far from now.
    #[serde(rename = "all")]
    All,
}

impl Named {
    /// The words that a query may say.
    pub(crate) const ALLOWED: &'static str = "1h, 6h, 24h, 7d, all";

    /// Reads one of [`Named::ALLOWED`].
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text {
            "1h" => Some(Self::H1),
            "6h" => Some(Self::H6),
            "24h" => Some(Self::H24),
            "7d" => Some(Self::D7),
            "all" => Some(Self::All),
            _ => None,
        }
    }

    /// How many minutes it has; none: all of them.
    fn minutes(self) -> Option<i64> {
        match self {
            Self::H1 => Some(HOUR),
            Self::H6 => Some(6 * HOUR),
            Self::H24 => Some(DAY),
            Self::D7 => Some(7 * DAY),
            Self::All => None,
        }
    }
}

/// Why a query's range is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RangeError {
    /// Not one of the named ranges.
    #[error("range {0:?} is unknown; allowed are {allowed}, or from= and to= in ms since 1970", allowed = Named::ALLOWED)]
    Name(String),
    /// Both a name and instants.
    #[error("give either range= or from= and to=, not both")]
    Both,
    /// One end only, or the ends in the wrong order, or beyond the calendar.
    #[error(
        "from={from} to={to} is no range; allowed are 0 <= from < to <= {MAX_MS}, in ms since 1970"
    )]
    Ends {
        /// The given start, or a dash.
        from: String,
        /// The given end, or a dash.
        to: String,
    },
    /// More days than a chart may show.
    #[error(
        "the range has {0} days from the first to the last with records; a chart shows at most {MAX_DAYS}: ask for less, or for the sums at /api/v1/topics"
    )]
    TooLong(i64),
}

/// Event minutes `[from, to)` since 1970-01-01 00:00 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Minutes {
    /// First minute.
    pub(crate) from: i64,
    /// The minute after the last one.
    pub(crate) to: i64,
}

/// How finely sums are kept, and how wide one point of a chart is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grain {
    /// Per minute.
    Minute,
    /// Per hour in UTC.
    Hour,
    /// Per day in UTC.
    Day,
}

impl Grain {
    /// Its width in minutes; the database's number for it, too.
    pub(crate) fn minutes(self) -> i64 {
        match self {
            Self::Minute => 1,
            Self::Hour => HOUR,
            Self::Day => DAY,
        }
    }

    /// The finest grain by which a chart of so many minutes has few enough points.
    fn of_chart(minutes: i64) -> Result<Self, RangeError> {
        match minutes {
            ..=MAX_POINTS => Ok(Self::Minute),
            _ if minutes <= MAX_POINTS * HOUR => Ok(Self::Hour),
            _ if minutes <= MAX_DAYS * DAY => Ok(Self::Day),
            _ => Err(RangeError::TooLong(minutes / DAY)),
        }
    }
}

impl Minutes {
    /// Every minute that a fact may have.
    const ALL: Self = Self {
        from: 0,
        to: u32::MAX as i64 + 1,
    };

    /// The minutes of a named range: the current minute is the last one.
    pub(crate) fn named(range: Named, now_ms: i64) -> Self {
        let Some(minutes) = range.minutes() else {
            return Self::ALL;
        };
        let to = now_ms.div_euclid(MINUTE_MS) + 1;
        Self {
            from: to - minutes,
            to,
        }
    }

    /// The hour that ends with a minute.
    pub(crate) fn hour_to(last: i64) -> Self {
        Self {
            from: last + 1 - HOUR,
            to: last + 1,
        }
    }

    /// Reads a query: a name, or both ends in ms (the start is rounded down and the end up to
    /// whole minutes), or nothing, which means `default`.
    pub(crate) fn from_query(
        range: Option<&str>,
        from_ms: Option<i64>,
        to_ms: Option<i64>,
        default: Named,
        now_ms: i64,
    ) -> Result<Self, RangeError> {
        match (range, from_ms, to_ms) {
            (None, None, None) => Ok(Self::named(default, now_ms)),
            (Some(name), None, None) => Named::parse(name)
                .map(|range| Self::named(range, now_ms))
                .ok_or_else(|| RangeError::Name(name.to_owned())),
            (None, Some(from), Some(to)) if 0 <= from && from < to && to <= MAX_MS => Ok(Self {
                from: from.div_euclid(MINUTE_MS),
                to: (to + MINUTE_MS - 1).div_euclid(MINUTE_MS),
            }),
            (None, from, to) => {
                let show = |end: Option<i64>| end.map_or("-".to_owned(), |ms| ms.to_string());
                Err(RangeError::Ends {
                    from: show(from),
                    to: show(to),
                })
            }
            (Some(_), _, _) => Err(RangeError::Both),
        }
    }

    /// The range itself; every minute becomes those from the first to the last that has records
    /// (`found`; none: no minute has).
    pub(crate) fn shown(self, found: Option<(i64, i64)>) -> Self {
        match found {
            _ if self != Self::ALL => self,
            Some((first, last)) => Self {
                from: first,
                to: last + 1,
            },
            None => Self { from: 0, to: 0 },
        }
    }

    /// The minutes and the grain of a chart: the same minute by minute while they are at most
    /// seven days, else from the first to the last one that has records (`found`; none: no minute
    /// has), by whole hours or days where these are more.
    pub(crate) fn for_chart(self, found: Option<(i64, i64)>) -> Result<(Self, Grain), RangeError> {
        if self.to - self.from <= MAX_POINTS {
            return Ok((self, Grain::Minute));
        }
        let (from, to) = found.map_or((self.from, self.from), |(first, last)| (first, last + 1));
        let grain = Grain::of_chart(to - from)?;
        Ok((Self { from, to }.widened(grain), grain))
    }

    /// Whole steps of a grain that hold the range.
    fn widened(self, grain: Grain) -> Self {
        let step = grain.minutes();
        Self {
            from: self.from.div_euclid(step) * step,
            to: (self.to + step - 1).div_euclid(step) * step,
        }
    }

    /// Start in ms.
    pub(crate) fn start_ms(self) -> i64 {
        self.from * MINUTE_MS
    }

    /// End in ms; the first instant outside.
    pub(crate) fn end_ms(self) -> i64 {
        self.to * MINUTE_MS
    }

    /// Splits into whole days, and the hours and minutes before and after them, so that a long sum
    /// reads few rows. Each part counts its grain from 1970; together they are the range.
    pub(crate) fn split(self) -> Vec<(Grain, Self)> {
        let mut parts = Vec::with_capacity(5);
        self.split_by(&[Grain::Day, Grain::Hour], &mut parts);
        parts
    }

    /// Whole steps of the first grain, and what is left by the others.
    fn split_by(self, grains: &[Grain], parts: &mut Vec<(Grain, Self)>) {
        if self.from >= self.to {
            return;
        }
        let Some((&grain, finer)) = grains.split_first() else {
            parts.push((Grain::Minute, self));
            return;
        };
        let step = grain.minutes();
        let (first, end) = (
            (self.from + step - 1).div_euclid(step),
            self.to.div_euclid(step),
        );
        if first >= end {
            return self.split_by(finer, parts);
        }
        let part = |from, to| Self { from, to };
        part(self.from, first * step).split_by(finer, parts);
        parts.push((grain, part(first, end)));
        part(end * step, self.to).split_by(finer, parts);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: i64 = 1_700_000_012_345;

    fn check(
        range: Option<&str>,
        from: Option<i64>,
        to: Option<i64>,
    ) -> Result<(i64, i64), String> {
        Minutes::from_query(range, from, to, Named::H1, NOW)
            .map(|m| (m.start_ms(), m.end_ms()))
            .map_err(|e| e.to_string())
    }

    #[test]
    fn a_named_range_ends_with_the_current_minute() {
        let (from, to) = check(Some("1h"), None, None).unwrap();
        assert_eq!(to - from, 3_600_000);
        assert!(to > NOW && to - NOW <= MINUTE_MS);
        assert_eq!(check(None, None, None).unwrap(), (from, to));
    }

    #[test]
    fn ends_are_widened_to_whole_minutes() {
        assert_eq!(
            check(None, Some(60_001), Some(120_001)),
            Ok((60_000, 180_000))
        );
        assert_eq!(
            check(None, Some(60_000), Some(120_000)),
            Ok((60_000, 120_000))
        );
    }

    #[test]
    fn what_is_no_range_says_what_is_allowed() {
        assert!(
            check(Some("2h"), None, None)
                .unwrap_err()
                .contains("1h, 6h, 24h, 7d, all")
        );
        assert!(
            check(Some("1h"), Some(0), Some(1))
                .unwrap_err()
                .contains("not both")
        );
        for (from, to) in [
            (Some(5), None),
            (None, Some(5)),
            (Some(9), Some(9)),
            (Some(-1), Some(5)),
        ] {
            assert!(
                check(None, from, to)
                    .unwrap_err()
                    .contains("0 <= from < to")
            );
        }
        assert!(check(None, Some(0), Some(i64::MAX)).is_err());
    }

    #[test]
    fn a_long_chart_is_cut_to_what_has_records() {
        let minutes = |from, to| Minutes { from, to };
        let week = minutes(5, 5 + 7 * DAY);
        assert_eq!(week.for_chart(None), Ok((week, Grain::Minute)));
        let ever = Minutes::named(Named::All, NOW);
        let check = |first, last, from, to, grain| {
            let chart = ever.for_chart(Some((first, last)));
            assert_eq!(chart, Ok((minutes(from, to), grain)));
        };
        check(7, 9, 7, 10, Grain::Minute);
        check(7, 6 + 7 * DAY, 7, 7 + 7 * DAY, Grain::Minute);
        check(7, 7 + 7 * DAY, 0, 60 + 7 * DAY, Grain::Hour);
        check(7, 500 * DAY, 0, 501 * DAY, Grain::Day);
        let nothing = ever.for_chart(None);
        assert_eq!(nothing, Ok((minutes(0, 0), Grain::Minute)));
        let far = ever.for_chart(Some((0, i64::from(u32::MAX))));
        assert_eq!(far, Err(RangeError::TooLong(2_982_616)));
    }

    #[test]
    fn every_minute_is_told_as_those_with_records() {
        let ever = Minutes::named(Named::All, NOW);
        assert_eq!(ever.shown(Some((7, 9))), Minutes { from: 7, to: 10 });
        assert_eq!(ever.shown(None), Minutes { from: 0, to: 0 });
        let hour = Minutes::named(Named::H1, NOW);
        assert_eq!(hour.shown(Some((7, 9))), hour);
    }

    proptest! {
        #[test]
        fn a_split_covers_each_minute_once(from in 0i64..4_000, len in 1i64..6_000) {
            let whole = Minutes { from, to: from + len };
            let mut seen = Vec::new();
            for (grain, part) in whole.split() {
                prop_assert!(part.from < part.to);
                seen.extend(part.from * grain.minutes()..part.to * grain.minutes());
            }
            prop_assert_eq!(seen, (from..from + len).collect::<Vec<_>>());
        }
    }
}
