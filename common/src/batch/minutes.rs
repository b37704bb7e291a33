//! Counts the records of a batch by event minute.
//!
//! Not for: counts over many batches (see [`crate::report`]). Encoder and decoder call it.

use crate::header::MinuteCount;

const MS_PER_MINUTE: i64 = 60_000;

/// The event minute of a timestamp in ms: minutes since 1970. Timestamps before 1970 count to
/// minute 0, those that a minute cannot say (after the year 10000) to the last one.
#[must_use]
pub fn minute_of(timestamp_ms: i64) -> u32 {
    u32::try_from(timestamp_ms.div_euclid(MS_PER_MINUTE).max(0)).unwrap_or(u32::MAX)
}

/// Runs of records of one minute; neighbours in time are mostly neighbours in the batch, so there
/// are few. Reused between batches.
#[derive(Debug, Default)]
pub(super) struct Minutes {
    runs: Vec<MinuteCount>,
}

impl Minutes {
    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.runs.clear();
    }

    /// How many runs there are: at least as many as minutes.
    pub(super) fn runs(&self) -> usize {
        self.runs.len()
    }

    /// Counts a record.
    #[inline]
    pub(super) fn add(&mut self, timestamp_ms: i64) {
        let minute = minute_of(timestamp_ms);
        match self.runs.last_mut() {
            Some(last) if last.minute == minute => last.records += 1,
            _ => self.runs.push(MinuteCount { minute, records: 1 }),
        }
    }

    /// Sorts the runs and joins those of the same minute.
    pub(super) fn compact(&mut self) {
        if self.runs.is_sorted_by(|a, b| a.minute < b.minute) {
            return;
        }
        self.runs.sort_unstable_by_key(|run| run.minute);
        self.runs.dedup_by(|later, kept| {
            let same = later.minute == kept.minute;
            if same {
                kept.records += later.records;
            }
            same
        });
    }

    /// Records per minute, ascending.
    pub(super) fn counts(&mut self) -> Vec<MinuteCount> {
        self.compact();
        self.runs.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minutes_are_counted_in_order_whatever_the_order_of_the_records() {
        let mut minutes = Minutes::default();
        for timestamp_ms in [
            60_000,
            119_999,
            -1,
            120_000,
            60_001,
            i64::MAX,
            59_999,
            i64::MIN,
        ] {
            minutes.add(timestamp_ms);
        }
        let counts: Vec<_> = minutes
            .counts()
            .iter()
            .map(|c| (c.minute, c.records))
            .collect();
        assert_eq!(counts, [(0, 3), (1, 3), (2, 1), (u32::MAX, 1)]);
    }
}
