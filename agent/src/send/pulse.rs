//! Whether a node is alive: pings, and when it is given up.
//!
//! A node that says nothing is given up after half a minute; where there is another one and batches
//! wait for answers, after three seconds: it is asked when nothing came for half a second, and a node
//! answers at once, whatever its destinations do; while it reads nothing for want of memory it says
//! by itself that it is there. One that speaks and answers no batch is given up after half a minute,
//! and each further node that does the same only after twice as long: it is not the nodes, then.
//!
//! Not for: dialling (see [`super::connect`]). Pure: time is an argument.

use std::time::Duration;

use tokio::time::Instant;

/// A quiet node is asked this often whether it is there.
const PING_EVERY: Duration = Duration::from_secs(10);
/// A node that says nothing for so long is given up.
const SILENT: Duration = Duration::from_secs(30);
/// With batches that wait for answers, and another node: asked after this …
const ASK_AFTER: Duration = Duration::from_millis(500);
/// … and given up when it says nothing for so long then.
const ANSWER_WITHIN: Duration = Duration::from_millis(2_500);
/// A node that speaks and answers no batch, the first of several.
const PATIENCE: Duration = Duration::from_secs(30);
const MOST_PATIENCE: Duration = Duration::from_secs(600);
/// Who looks so much too late was not there itself.
const LATE: Duration = Duration::from_millis(500);

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing.
    Nothing,
    /// Ask the node whether it is there.
    Ping,
    /// It has said nothing for so long.
    Silent(Duration),
    /// It has answered no batch for so long.
    Unanswered(Duration),
}

/// What is known of the life of a node.
#[derive(Debug)]
pub(super) struct Pulse {
    /// There is another node.
    others: bool,
    heard: Instant,
    ping_at: Instant,
    /// It was asked, and has said nothing since.
    asked: Option<Instant>,
    /// Batches wait for answers, and nothing was heard since.
    waits: Option<Instant>,
    /// Batches wait for answers, and none came since.
    unanswered: Option<Instant>,
    patience: Duration,
}

impl Pulse {
    /// Nobody is there.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            others: false,
            heard: now,
            ping_at: now + PING_EVERY,
            asked: None,
            waits: None,
            unanswered: None,
            patience: PATIENCE,
        }
    }

    /// A new connection; whether there is another node.
    pub(super) fn begin(&mut self, others: bool, now: Instant) {
        let patience = self.patience;
        *self = Self {
            others,
            patience,
            ..Self::new(now)
        };
    }

    /// When it last said anything.
    pub(super) fn heard_at(&self) -> Instant {
        self.heard
    }

    /// It says something.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = now;
        self.asked = None;
        self.waits = self.waits.map(|_| now);
    }

    /// It answers a batch.
    pub(super) fn answered(&mut self, now: Instant) {
        self.patience = PATIENCE;
        self.unanswered = self.unanswered.map(|_| now);
    }

    /// Whether batches wait for answers now.
    pub(super) fn in_flight(&mut self, any: bool, now: Instant) {
        match any {
            true => {
                self.waits.get_or_insert(now);
                self.unanswered.get_or_insert(now);
            }
            false => (self.waits, self.unanswered) = (None, None),
        }
    }

    /// When [`Pulse::due`] is to be asked.
    pub(super) fn next(&self) -> Instant {
        let silent = self.heard + SILENT;
        let ping = self.ping_at;
        let mut next = silent.min(ping);
        if let (true, Some(waits)) = (self.others, self.waits) {
            let soon = self.asked.map(|at| at + ANSWER_WITHIN);
            next = next.min(soon.unwrap_or(waits + ASK_AFTER));
        }
        if let (true, Some(since)) = (self.others, self.unanswered) {
            next = next.min(since + self.patience);
        }
        next
    }

    /// What is to be done now.
    pub(super) fn due(&mut self, now: Instant) -> Due {
        let next = self.next();
        if now < next {
            return Due::Nothing;
        }
        if now > next + LATE {
            // What it said meanwhile may lie unread; it is asked once more.
            self.heard = now;
            self.asked = None;
            self.unanswered = self.unanswered.map(|_| now);
            return self.ask(now);
        }
        if now >= self.heard + SILENT {
            return Due::Silent(SILENT);
        }
        if self.others {
            let asked = self.asked.filter(|_| self.waits.is_some());
            if asked.is_some_and(|at| now >= at + ANSWER_WITHIN) {
                return Due::Silent(ASK_AFTER + ANSWER_WITHIN);
            }
            if let Some(since) = self.unanswered
                && now >= since + self.patience
            {
                let patience = self.patience;
                self.patience = (patience * 2).min(MOST_PATIENCE);
                return Due::Unanswered(patience);
            }
        }
        self.ask(now)
    }

    fn ask(&mut self, now: Instant) -> Due {
        self.ping_at = now + PING_EVERY;
        self.asked.get_or_insert(now);
        Due::Ping
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks whenever it is time, until the node is given up; `says` is asked after each look.
    fn check(others: bool, any: bool, mut says: impl FnMut(&mut Pulse, Instant)) -> (Due, u128) {
        let start = Instant::now();
        let mut pulse = Pulse::new(start);
        pulse.begin(others, start);
        pulse.in_flight(any, start);
        for _ in 0..10_000 {
            let now = pulse.next();
            let due = pulse.due(now);
            if !matches!(due, Due::Nothing | Due::Ping) {
                return (due, (now - start).as_millis());
            }
            says(&mut pulse, now);
        }
        (Due::Nothing, 0)
    }

    #[test]
    fn a_node_that_hangs_is_left_in_three_seconds_where_there_is_another() {
        let hangs = |_: &mut Pulse, _| {};
        let quick = Due::Silent(Duration::from_secs(3));
        assert_eq!(check(true, true, hangs), (quick, 3_000));
        assert_eq!(check(true, false, hangs), (Due::Silent(SILENT), 30_000));
        assert_eq!(check(false, true, hangs), (Due::Silent(SILENT), 30_000));
    }

    #[test]
    fn a_node_that_speaks_and_answers_no_batch_is_left_too() {
        let speaks = |pulse: &mut Pulse, now| pulse.heard(now);
        let late = Due::Unanswered(PATIENCE);
        assert_eq!(check(true, true, speaks), (late, 30_000));
        assert_eq!(check(false, true, speaks), (Due::Nothing, 0));
        let answers = |pulse: &mut Pulse, now| {
            pulse.heard(now);
            pulse.answered(now);
        };
        assert_eq!(check(true, true, answers), (Due::Nothing, 0));
    }

    #[test]
    fn when_no_node_answers_batches_each_is_given_twice_as_long() {
        let mut now = Instant::now();
        let mut pulse = Pulse::new(now);
        for patience in [30, 60, 120, 240, 480, 600, 600] {
            pulse.begin(true, now);
            pulse.in_flight(true, now);
            loop {
                now = pulse.next();
                pulse.heard(now);
                match pulse.due(now) {
                    Due::Unanswered(after) => break assert_eq!(after.as_secs(), patience),
                    Due::Nothing | Due::Ping => {}
                    Due::Silent(_) => panic!("it spoke"),
                }
            }
        }
        pulse.answered(now);
        assert_eq!(pulse.patience, PATIENCE);
    }

    #[test]
    fn who_was_not_there_itself_asks_once_more() {
        let start = Instant::now();
        let mut pulse = Pulse::new(start);
        pulse.begin(true, start);
        pulse.in_flight(true, start);
        let woken = start + Duration::from_secs(100);
        assert_eq!(pulse.due(woken), Due::Ping);
        assert_eq!(
            pulse.due(woken + ANSWER_WITHIN),
            Due::Silent(Duration::from_secs(3))
        );
    }
}
