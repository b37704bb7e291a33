//! How long to wait before the next try: exponential, capped, with full jitter.
//!
//! Full jitter (a uniform pick below the ceiling, not around it) spreads the agents of a whole
//! site best after an outage; see "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
//!
//! Not for: deciding whether to try again, or waiting. Called by whoever dials or retries.

use std::time::Duration;

/// The shortest wait ever given: a pick of zero would make a tight loop of an unlucky seed.
const SHORTEST: Duration = Duration::from_millis(1);

/// The waits between the tries of one thing.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    ceiling: Duration,
}

impl Backoff {
    /// Waits of up to `first`, then twice that, and so on, never above `cap`.
    #[must_use]
    pub fn new(first: Duration, cap: Duration) -> Self {
        let cap = cap.max(SHORTEST);
        let first = first.clamp(SHORTEST, cap);
        Self {
            first,
            cap,
            ceiling: first,
        }
    }

    /// The wait before the next try: between 1 ms and the present ceiling, which then doubles.
    pub fn next(&mut self, rng: &mut fastrand::Rng) -> Duration {
        let ceiling = self.ceiling;
        self.ceiling = ceiling.saturating_mul(2).min(self.cap);
        SHORTEST.max(ceiling.mul_f64(rng.f64()))
    }

    /// The longest wait that [`Backoff::next`] can give now.
    #[must_use]
    pub fn ceiling(&self) -> Duration {
        self.ceiling
    }

    /// Starts again from the first wait; call it after a success.
    pub fn reset(&mut self) {
        self.ceiling = self.first;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_wait_lies_below_its_ceiling_and_the_ceiling_grows_to_the_cap(
            first_ms in 0_u64..5_000, cap_ms in 0_u64..100_000, seed: u64, tries in 1_usize..40,
        ) {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut backoff =
                Backoff::new(Duration::from_millis(first_ms), Duration::from_millis(cap_ms));
            let cap = Duration::from_millis(cap_ms.max(1));
            let mut last = Duration::ZERO;
            for _ in 0..tries {
                let ceiling = backoff.ceiling();
                prop_assert!(ceiling >= last && ceiling <= cap);
                prop_assert!(ceiling == cap || ceiling >= last * 2);
                let wait = backoff.next(&mut rng);
                prop_assert!(wait >= SHORTEST && wait <= ceiling, "{wait:?} of {ceiling:?}");
                last = ceiling;
            }
            backoff.reset();
            prop_assert!(backoff.next(&mut rng) <= Duration::from_millis(first_ms.max(1)));
        }
    }

    #[test]
    fn waits_spread_over_the_whole_range() {
        let mut rng = fastrand::Rng::with_seed(7);
        let second = Duration::from_secs(1);
        let waits: Vec<_> = (0..1_000)
            .map(|_| Backoff::new(second, second).next(&mut rng))
            .collect();
        let below_half = waits.iter().filter(|wait| **wait < second / 2).count();
        assert!(
            (400..600).contains(&below_half),
            "{below_half} of 1000 lie below the middle"
        );
    }
}
