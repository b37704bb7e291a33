//! Whether a destination is used where others can stand in for it: a circuit breaker, as pure
//! transitions.
//!
//! # Operation
//! ```text
//! Closed --takes nothing for 3 s--> Open --takes batches--> Trial --well for a while, and one delivered--> Closed
//!                                    ^--------takes nothing---'
//! ```
//! On trial it is used for what its own disk holds, and after the while for one batch a second, until one
//! of them is delivered. The while is 5 s at first and doubles each time that the breaker opens again,
//! up to 5 min; ten minutes without trouble make it short again.
//!
//! Pure: no clock of its own. Not for: which destination is used then (see [`crate::switch`]).

use std::time::Duration;

use tokio::time::Instant;

/// What takes nothing for so long is not used. A topic must stand still for 3 s before that.
pub(crate) const OPEN_AFTER: Duration = Duration::from_secs(3);
/// How long it has to be well before it is used again: at first, at most.
pub(crate) const TRIAL: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));
/// After so long without trouble earlier trouble is forgotten.
pub(crate) const FORGIVE_AFTER: Duration = Duration::from_secs(600);
/// How often a batch goes to a destination on trial that has delivered none.
pub(crate) const PROBE_EVERY: Duration = Duration::from_secs(1);

/// Where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It is used. Since when it is, since when it takes nothing.
    Closed {
        since: Option<Instant>,
        failing: Option<Instant>,
    },
    /// It takes nothing, and is not used.
    Open,
    /// It takes batches since then, and is not used yet.
    Trial {
        since: Instant,
        proved: bool,
        probed: Option<Instant>,
    },
}

/// The breaker of one destination.
#[derive(Debug, Clone)]
pub(crate) struct Breaker {
    state: State,
    /// How long the next trial takes.
    trial: Duration,
    /// It has opened, and that is not forgotten.
    troubled: bool,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            state: State::Closed {
                since: None,
                failing: None,
            },
            trial: TRIAL.0,
            troubled: false,
        }
    }
}

impl Breaker {
    /// Whether the destination is used.
    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed { .. })
    }

    /// The word for people.
    pub(crate) fn as_str(&self) -> &'static str {
        match self.state {
            State::Closed { failing: None, .. } => "closed",
            State::Closed { .. } => "failing",
            State::Open => "open",
            State::Trial { .. } => "trial",
        }
    }

    /// How long a trial takes now.
    pub(crate) fn trial(&self) -> Duration {
        self.trial
    }

    /// The destination takes nothing, or does; said a few times a second.
    pub(crate) fn see(&mut self, down: bool, now: Instant) {
        match &mut self.state {
            State::Closed { failing, since } if down => {
                let first = *failing.get_or_insert(now);
                if now.saturating_duration_since(first) >= OPEN_AFTER {
                    let calm =
                        since.is_none_or(|at| first.saturating_duration_since(at) >= FORGIVE_AFTER);
                    self.open(calm);
                }
            }
            State::Closed { failing, .. } => *failing = None,
            State::Open if down => {}
            State::Open => {
                self.state = State::Trial {
                    since: now,
                    proved: false,
                    probed: None,
                }
            }
            // A cluster that starts comes and goes: that is no relapse.
            State::Trial { proved: false, .. } if down => self.state = State::Open,
            State::Trial { .. } if down => self.open(false),
            State::Trial { since, proved, .. } => {
                if *proved && now.saturating_duration_since(*since) >= self.trial {
                    self.state = State::Closed {
                        since: Some(now),
                        failing: None,
                    };
                }
            }
        }
    }

    fn open(&mut self, calm: bool) {
        self.trial = match self.troubled && !calm {
            true => (self.trial * 2).min(TRIAL.1),
            false => TRIAL.0,
        };
        self.troubled = true;
        self.state = State::Open;
    }

    /// The destination has delivered a batch.
    pub(crate) fn delivered(&mut self) {
        if let State::Trial { proved, .. } = &mut self.state {
            *proved = true;
        }
    }

    /// Whether one batch is to go there to see whether it is delivered; who is told so gives one.
    pub(crate) fn probe(&mut self, now: Instant) -> bool {
        let State::Trial {
            since,
            proved: false,
            probed,
        } = &mut self.state
        else {
            return false;
        };
        let due = probed.is_none_or(|at| now.saturating_duration_since(at) >= PROBE_EVERY);
        let probes = due && now.saturating_duration_since(*since) >= self.trial;
        if probes {
            *probed = Some(now);
        }
        probes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A breaker and a clock.
    struct Rig {
        breaker: Breaker,
        now: Instant,
    }

    impl Rig {
        fn new() -> Self {
            Self {
                breaker: Breaker::default(),
                now: Instant::now(),
            }
        }

        /// So many seconds of this, looked at four times a second.
        fn pass(&mut self, down: bool, seconds: u64) {
            for _look in 0..seconds * 4 {
                self.now += Duration::from_millis(250);
                self.breaker.see(down, self.now);
            }
        }

        /// Down until it opens, then well until it closes; how many seconds that took.
        fn flap(&mut self) -> u64 {
            self.pass(true, 4);
            assert_eq!(self.breaker.as_str(), "open");
            for seconds in 1..1_000 {
                self.pass(false, 1);
                self.breaker.delivered();
                if self.breaker.is_closed() {
                    return seconds;
                }
            }
            panic!("it never closes");
        }
    }

    #[test]
    fn a_short_trouble_opens_nothing() {
        let mut rig = Rig::new();
        rig.pass(true, 2);
        assert_eq!(rig.breaker.as_str(), "failing");
        rig.pass(false, 1);
        rig.pass(true, 2);
        assert!(rig.breaker.is_closed());
        rig.pass(true, 2);
        assert!(!rig.breaker.is_closed());
    }

    #[test]
    fn it_closes_after_a_trial_and_only_when_a_batch_was_delivered() {
        let mut rig = Rig::new();
        rig.pass(true, 4);
        assert!(!rig.breaker.probe(rig.now));
        rig.pass(false, 3);
        assert!(!rig.breaker.probe(rig.now), "not well for long enough");
        rig.pass(false, 30);
        assert_eq!(rig.breaker.as_str(), "trial");
        assert!(rig.breaker.probe(rig.now));
        assert!(!rig.breaker.probe(rig.now), "one at a time");
        rig.pass(false, 1);
        assert!(rig.breaker.probe(rig.now), "the first had no answer");
        rig.breaker.delivered();
        rig.pass(false, 1);
        assert!(rig.breaker.is_closed());
    }

    #[test]
    fn a_destination_that_flaps_waits_longer_each_time_and_is_forgiven_in_the_end() {
        let mut rig = Rig::new();
        assert_eq!(rig.flap(), 6);
        assert_eq!(rig.flap(), 11);
        assert_eq!(rig.flap(), 21);
        for _flap in 0..6 {
            rig.flap();
        }
        assert_eq!(rig.breaker.trial(), TRIAL.1);
        rig.pass(false, FORGIVE_AFTER.as_secs());
        assert_eq!(rig.flap(), 6);
    }

    #[derive(Debug, Clone)]
    enum Act {
        See(bool, u64),
        Delivered,
        Probe,
    }

    fn any_act() -> impl Strategy<Value = Act> {
        prop_oneof![
            6 => (any::<bool>(), 0u64..8_000).prop_map(|(down, ms)| Act::See(down, ms)),
            2 => Just(Act::Delivered),
            1 => Just(Act::Probe),
        ]
    }

    proptest! {
        /// Whatever happens: it opens only after it took nothing all the while, closes only after it
        /// was well all the while and delivered something in it, and probes once a second at most.
        #[test]
        fn it_never_opens_or_closes_without_cause(acts in prop::collection::vec(any_act(), 1..200)) {
            let mut rig = Rig::new();
            let (mut down_since, mut up_since) = (None, None);
            let (mut delivered, mut probed) = (false, None::<Instant>);
            for act in acts {
                let before = rig.breaker.is_closed();
                match act {
                    Act::See(down, ms) => {
                        rig.now += Duration::from_millis(ms);
                        if down {
                            down_since.get_or_insert(rig.now);
                            (up_since, delivered) = (None, false);
                        } else {
                            up_since.get_or_insert(rig.now);
                            down_since = None;
                        }
                        let trial = rig.breaker.trial();
                        rig.breaker.see(down, rig.now);
                        match (before, rig.breaker.is_closed()) {
                            (true, false) => {
                                let since = down_since.expect("it is down");
                                prop_assert!(rig.now - since >= OPEN_AFTER);
                            }
                            (false, true) => {
                                let since = up_since.expect("it is up");
                                prop_assert!(delivered && rig.now - since >= trial);
                            }
                            (true, true) | (false, false) => {}
                        }
                    }
                    Act::Delivered => {
                        rig.breaker.delivered();
                        delivered = delivered || up_since.is_some();
                        prop_assert_eq!(before, rig.breaker.is_closed());
                    }
                    Act::Probe => {
                        if rig.breaker.probe(rig.now) {
                            prop_assert!(!before);
                            let since = up_since.expect("it is up");
                            prop_assert!(rig.now - since >= rig.breaker.trial());
                            prop_assert!(probed.is_none_or(|at| rig.now - at >= PROBE_EVERY));
                            probed = Some(rig.now);
                        }
                    }
                }
                prop_assert!((TRIAL.0..=TRIAL.1).contains(&rig.breaker.trial()));
            }
        }
    }
}
