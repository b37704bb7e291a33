//! The content sum: CRC-32C over all record values in order, without separators.
//!
//! A log line alone is too short for the instructions that sum many bytes at once: lines of 350
//! bytes cost 0.16 CPU s per GB one by one, 0.05 when they are gathered first (and a bare loop that
//! reads and compresses them 1.1).
//!
//! Not for: the checksum of a RecordBatch (see `layout`). Encoder and decoder call it.

use crate::crc::Summing;

/// Values are gathered up to so many bytes: they stay in the nearest cache.
const GATHER_BYTES: usize = 4096;

/// The sum so far.
#[derive(Debug)]
pub(super) struct ContentSum {
    sum: Summing,
    /// Takes no memory before the first value.
    gathered: Vec<u8>,
}

impl Default for ContentSum {
    fn default() -> Self {
        Self::new()
    }
}

impl ContentSum {
    /// The sum of nothing.
    pub(super) fn new() -> Self {
        Self {
            sum: Summing::new(),
            gathered: Vec::new(),
        }
    }

    /// Adds a value.
    #[inline]
    pub(super) fn add(&mut self, value: &[u8]) {
        if self.gathered.len() + value.len() > GATHER_BYTES {
            self.sum.add(&self.gathered);
            self.gathered.clear();
        }
        if value.len() > GATHER_BYTES {
            self.sum.add(value);
        } else {
            self.gathered.extend_from_slice(value);
        }
    }

    /// The sum of all that was added; it begins anew.
    pub(super) fn finish(&mut self) -> u32 {
        self.sum.add(&self.gathered);
        self.gathered.clear();
        self.sum.finish()
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.sum.clear();
        self.gathered.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_sum_is_that_of_all_values_in_a_row(
            lens in prop::collection::vec(0_usize..GATHER_BYTES * 2, 0..20), seed: u8,
        ) {
            let mut sum = ContentSum::new();
            sum.add(b"forgotten");
            sum.clear();
            let mut all = Vec::new();
            for len in lens {
                let value: Vec<u8> = (seed..=u8::MAX).cycle().take(len).collect();
                sum.add(&value);
                all.extend(value);
            }
            prop_assert_eq!(sum.finish(), crc32c::crc32c(&all));
            prop_assert_eq!(sum.finish(), 0);
        }
    }
}
