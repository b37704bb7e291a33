//! A row of the table of metrics, and its words.
//!
//! Not for: the rows (see [`super::table`]).

/// What a figure does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; the rate is what tells.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts values in buckets.
    Histogram,
}

impl Kind {
    /// The word of the documentation.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// What a figure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Seconds.
    Seconds,
    /// Log records.
    Records,
    /// Things, as the name says.
    Count,
}

impl Unit {
    /// The word of the documentation.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Seconds => "seconds",
            Self::Records => "records",
            Self::Count => "count",
        }
    }

    /// The facade's unit.
    pub(super) fn facade(self) -> metrics::Unit {
        match self {
            Self::Bytes => metrics::Unit::Bytes,
            Self::Seconds => metrics::Unit::Seconds,
            Self::Records | Self::Count => metrics::Unit::Count,
        }
    }
}

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// Its whole name.
    pub name: &'static str,
    /// What it does.
    pub kind: Kind,
    /// What it counts.
    pub unit: Unit,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// What it tells, in one sentence.
    pub meaning: &'static str,
}

impl Metric {
    /// The part that shows it: `agent`, `bus`, `manager`, or `process` for all of them.
    #[must_use]
    pub fn part(&self) -> &'static str {
        self.name
            .strip_prefix("tributary_")
            .and_then(|rest| rest.split_once('_'))
            .map_or("process", |(part, _thing)| part)
    }
}

/// A counter's row.
pub(super) const fn counter(
    name: &'static str,
    unit: Unit,
    labels: &'static [&'static str],
    meaning: &'static str,
) -> Metric {
    Metric {
        name,
        kind: Kind::Counter,
        unit,
        labels,
        meaning,
    }
}

/// A gauge's row.
pub(super) const fn gauge(
    name: &'static str,
    unit: Unit,
    labels: &'static [&'static str],
    meaning: &'static str,
) -> Metric {
    Metric {
        name,
        kind: Kind::Gauge,
        unit,
        labels,
        meaning,
    }
}

/// A histogram's row. `_seconds` and `_bytes` have buckets of their own.
pub(super) const fn histogram(
    name: &'static str,
    unit: Unit,
    labels: &'static [&'static str],
    meaning: &'static str,
) -> Metric {
    Metric {
        name,
        kind: Kind::Histogram,
        unit,
        labels,
        meaning,
    }
}
