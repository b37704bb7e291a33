//! Whether a node is alive: pings, and when it is given up.
//!
//! A node that says nothing is given up after half a minute; where there is another one and batches
//! wait for answers, after three seconds: it is asked when nothing came for half a second, and a node
//! answers at once, whatever its destinations do; while it reads nothing for want of memory it says
//! by itself that it is there. One that speaks and answers no batch is given up after half a minute, and one
//! that says `Busy` to all that it gets, or is long about each answer, is left as soon as it has answered what
//! it has. Each further node that does the same is given twice as long: it is not the nodes, then.
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
/// An answer that took longer is slow: what a destination does not take within a few seconds is spilled.
const SLOW: Duration = Duration::from_secs(10);
/// A node that speaks and answers no batch, or takes none, or none quickly; the first of several.
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
    /// It has taken no batch for so long: it told all of them to come again.
    Busy(Duration),
    /// It has answered none quickly for so long.
    Slow(Duration),
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
    /// The same, and none came quickly since.
    slow: Option<Instant>,
    /// It told a batch to come again, and has taken none since.
    busy: Option<Instant>,
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
            slow: None,
            busy: None,
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

    /// It has taken a batch, this long after it was sent.
    pub(super) fn took(&mut self, how_long: Duration, now: Instant) {
        self.busy = None;
        self.unanswered = self.unanswered.map(|_| now);
        if how_long < SLOW {
            self.slow = self.slow.map(|_| now);
            self.patience = PATIENCE;
        }
    }

    /// It has refused a batch: that is an answer.
    pub(super) fn refused(&mut self, now: Instant) {
        self.unanswered = self.unanswered.map(|_| now);
        self.slow = self.slow.map(|_| now);
    }

    /// It told a batch to come again.
    pub(super) fn busy(&mut self, now: Instant) {
        self.refused(now);
        self.busy.get_or_insert(now);
    }

    /// Whether batches wait for answers now, and whether there are others that are to be sent.
    pub(super) fn in_flight(&mut self, any: bool, more: bool, now: Instant) {
        if any {
            self.waits.get_or_insert(now);
            self.unanswered.get_or_insert(now);
            self.slow.get_or_insert(now);
        } else {
            (self.waits, self.unanswered, self.slow) = (None, None, None);
        }
        if !any && !more {
            self.busy = None;
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
        let unfit = [self.unanswered, self.busy, self.slow]
            .into_iter()
            .flatten();
        match unfit.min().filter(|_| self.others) {
            Some(since) => next.min(since + self.patience),
            None => next,
        }
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
            for since in [&mut self.unanswered, &mut self.busy, &mut self.slow] {
                *since = since.map(|_| now);
            }
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
            if let Some(unfit) = self.unfit(now) {
                return unfit;
            }
        }
        self.ask(now)
    }

    /// Whether it is no use to wait for this node any longer.
    fn unfit(&mut self, now: Instant) -> Option<Due> {
        let patience = self.patience;
        let over = |since: &Option<Instant>| since.is_some_and(|since| now >= since + patience);
        let due = match () {
            () if over(&self.unanswered) => Due::Unanswered(patience),
            () if over(&self.busy) => Due::Busy(patience),
            () if over(&self.slow) => Due::Slow(patience),
            () => return None,
        };
        // It is said once.
        (self.busy, self.slow) = (None, self.slow.map(|_| now));
        self.patience = (patience * 2).min(MOST_PATIENCE);
        Some(due)
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
        pulse.in_flight(any, any, start);
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
            pulse.took(Duration::from_secs(1), now);
        };
        assert_eq!(check(true, true, answers), (Due::Nothing, 0));
    }

    #[test]
    fn a_node_that_takes_nothing_is_left_where_there_is_another() {
        let busy = |pulse: &mut Pulse, now| {
            pulse.heard(now);
            pulse.busy(now);
        };
        // The first word of it comes with the first ping.
        let (due, after) = check(true, true, busy);
        assert_eq!(due, Due::Busy(PATIENCE));
        assert_eq!(after, 30_500);
        assert_eq!(check(false, true, busy), (Due::Nothing, 0));
        let mut turn = 0;
        let at_times = |pulse: &mut Pulse, now| {
            busy(pulse, now);
            turn += 1;
            if turn % 3 == 0 {
                pulse.took(Duration::from_secs(1), now);
            }
        };
        assert_eq!(check(true, true, at_times), (Due::Nothing, 0));
    }

    #[test]
    fn a_node_that_is_long_about_every_answer_is_left_where_there_is_another() {
        let answers = |seconds| {
            move |pulse: &mut Pulse, now| {
                pulse.heard(now);
                pulse.took(Duration::from_secs(seconds), now);
            }
        };
        let slow = (Due::Slow(PATIENCE), 30_000);
        assert_eq!(check(true, true, answers(10)), slow);
        assert_eq!(check(true, true, answers(9)), (Due::Nothing, 0));
        assert_eq!(check(false, true, answers(10)), (Due::Nothing, 0));
    }

    #[test]
    fn nothing_is_held_against_a_node_that_has_nothing_to_do() {
        let start = Instant::now();
        let mut pulse = Pulse::new(start);
        pulse.begin(true, start);
        pulse.in_flight(true, false, start);
        pulse.busy(start);
        pulse.in_flight(false, true, start);
        assert!(pulse.busy.is_some(), "it waits for its time");
        pulse.in_flight(false, false, start);
        assert!(pulse.busy.is_none() && pulse.slow.is_none());
    }

    #[test]
    fn when_no_node_answers_batches_each_is_given_twice_as_long() {
        let mut now = Instant::now();
        let mut pulse = Pulse::new(now);
        for patience in [30, 60, 120, 240, 480, 600, 600] {
            pulse.begin(true, now);
            pulse.in_flight(true, false, now);
            loop {
                now = pulse.next();
                pulse.heard(now);
                match pulse.due(now) {
                    Due::Unanswered(after) => break assert_eq!(after.as_secs(), patience),
                    Due::Nothing | Due::Ping => {}
                    other => panic!("it spoke: {other:?}"),
                }
            }
        }
        pulse.took(SLOW, now);
        assert_ne!(pulse.patience, PATIENCE);
        pulse.took(Duration::ZERO, now);
        assert_eq!(pulse.patience, PATIENCE);
    }

    #[test]
    fn who_was_not_there_itself_asks_once_more() {
        let start = Instant::now();
        let mut pulse = Pulse::new(start);
        pulse.begin(true, start);
        pulse.in_flight(true, false, start);
        let woken = start + Duration::from_secs(100);
        assert_eq!(pulse.due(woken), Due::Ping);
        assert_eq!(
            pulse.due(woken + ANSWER_WITHIN),
            Due::Silent(Duration::from_secs(3))
        );
    }
}
