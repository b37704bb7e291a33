//! Which event minutes a question is about.
//!
//! Pure; the clock is an argument. Called by the API's handlers.

use serde::Deserialize;

/// Milliseconds of a minute.
pub(crate) const MINUTE_MS: i64 = 60_000;
/// The most minutes that a chart may ask for: seven days.
pub(crate) const MAX_CHART_MINUTES: i64 = 7 * 24 * 60;
/// The last instant that a question may name, in ms: the end of the year 9999.
const MAX_MS: i64 = 253_402_300_799_999;

/// A range that ends now.
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
}

impl Named {
    /// The words that a query may say.
    pub(crate) const ALLOWED: &'static str = "1h, 6h, 24h, 7d";

    /// Reads one of [`Named::ALLOWED`].
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text {
            "1h" => Some(Self::H1),
            "6h" => Some(Self::H6),
            "24h" => Some(Self::H24),
            "7d" => Some(Self::D7),
            _ => None,
        }
    }

    fn minutes(self) -> i64 {
        match self {
            Self::H1 => 60,
            Self::H6 => 6 * 60,
            Self::H24 => 24 * 60,
            Self::D7 => 7 * 24 * 60,
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
    /// More minutes than a chart may show.
    #[error(
        "the range has {0} minutes from the first to the last with records; a chart shows at most {MAX_CHART_MINUTES}: ask for less, or for the sums at /api/v1/topics"
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

impl Minutes {
    /// The minutes of a named range: the current minute is the last one.
    pub(crate) fn named(range: Named, now_ms: i64) -> Self {
        let to = now_ms.div_euclid(MINUTE_MS) + 1;
        Self {
            from: to - range.minutes(),
            to,
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

    /// The minutes of a chart: the same while they are few enough, else from the first to the
    /// last minute that has records (`first` and `last`; none: no minute has).
    pub(crate) fn for_chart(self, found: Option<(i64, i64)>) -> Result<Self, RangeError> {
        if self.to - self.from <= MAX_CHART_MINUTES {
            return Ok(self);
        }
        let (from, to) = found.map_or((self.from, self.from), |(first, last)| (first, last + 1));
        if to - from > MAX_CHART_MINUTES {
            return Err(RangeError::TooLong(to - from));
        }
        Ok(Self { from, to })
    }

    /// Start in ms.
    pub(crate) fn start_ms(self) -> i64 {
        self.from * MINUTE_MS
    }

    /// End in ms; the first instant outside.
    pub(crate) fn end_ms(self) -> i64 {
        self.to * MINUTE_MS
    }

    /// Splits into whole hours and the minutes before and after them, so that a long sum reads
    /// hours: `(minutes before, hours, minutes after)`, the hours counted from 1970.
    pub(crate) fn split(self) -> (Self, Self, Self) {
        let first_hour = (self.from + 59).div_euclid(60);
        let end_hour = self.to.div_euclid(60);
        if first_hour >= end_hour {
            let none = Self { from: 0, to: 0 };
            return (self, none, none);
        }
        (
            Self {
                from: self.from,
                to: first_hour * 60,
            },
            Self {
                from: first_hour,
                to: end_hour,
            },
            Self {
                from: end_hour * 60,
                to: self.to,
            },
        )
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
                .contains("1h, 6h, 24h, 7d")
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
        let week = Minutes {
            from: 5,
            to: 5 + MAX_CHART_MINUTES,
        };
        assert_eq!(week.for_chart(None), Ok(week));
        let ever = Minutes {
            from: 0,
            to: 1 << 30,
        };
        assert_eq!(
            ever.for_chart(Some((7, 9))),
            Ok(Minutes { from: 7, to: 10 })
        );
        assert_eq!(ever.for_chart(None), Ok(Minutes { from: 0, to: 0 }));
        let far = ever.for_chart(Some((7, 7 + MAX_CHART_MINUTES)));
        assert_eq!(far, Err(RangeError::TooLong(MAX_CHART_MINUTES + 1)));
    }

    proptest! {
        #[test]
        fn a_split_covers_each_minute_once(from in 0i64..400, len in 1i64..400) {
            let whole = Minutes { from, to: from + len };
            let (before, hours, after) = whole.split();
            let mut seen: Vec<i64> = (before.from..before.to).collect();
            seen.extend(hours.from * 60..hours.to * 60);
            seen.extend(after.from..after.to);
            prop_assert_eq!(seen, (from..from + len).collect::<Vec<_>>());
        }
    }
}
