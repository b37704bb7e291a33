//! Hands over connections while an operator has opened a window for it, and at no other time; and turns
//! newcomers away who have another node to try, while this one has nearly all that it can.
//!
//! Nodes of a cluster do not know each other. The operator's tool asks each how many connections it
//! has, and tells all of them the share that each is to have (`POST /v1/rebalance`); the manager, which hears
//! from all of them, says the same in its answers to their reports. Until the window
//! ends, a node above its share asks one agent after the other to go, spread over the window, and a node
//! that has its share turns away who says that it has another node to try; who has none is let in.
//!
//! Not for: stopping (there everybody goes). The admin port or the answer to a report opens the window, sessions
//! wait for their turn, the agents' port asks whether to turn away. Pure but for its locks: time is an argument.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{sync::Notify, time::Instant};
use tributary_common::{
    even::LONGEST_WINDOW_S,
    report::{Rebalance, RebalanceHealth},
};

/// Agents are turned away for so much longer than the window: the last one is on its way then.
const AFTER: Duration = Duration::from_secs(2);
/// The longest window.
const LONGEST: Duration = Duration::from_secs(LONGEST_WINDOW_S);
/// The manager tells nodes with room before the others, and lets their windows last longer by at most this.
const EARLIER: Duration = Duration::from_secs(60);
/// Newcomers are turned away from this part of the most connections on.
const NEARLY_FULL: f64 = 0.9;
/// The last agent is asked to go at this part of the window.
const HAND_OVER_IN: f64 = 0.8;

/// An open window.
#[derive(Debug, Clone, Copy)]
struct Window {
    /// Connections that this node is to have.
    share: u64,
    opened: Instant,
    /// When the hand-over is to be done.
    done_by: Instant,
    ends: Instant,
    /// To be handed over in all.
    total: u64,
    handed_over: u64,
    turned_away: u64,
    /// The manager's number of it; none where an operator's tool opened it.
    number: Option<u64>,
}

impl Window {
    fn new((share, within): (u64, Duration), has: u64, now: Instant, number: Option<u64>) -> Self {
        let total = has.saturating_sub(share);
        tracing::info!(
            share,
            hands_over = total,
            within_s = within.as_secs(),
            "connections are rebalanced"
        );
        Self {
            share,
            opened: now,
            done_by: now + within.mul_f64(HAND_OVER_IN),
            ends: now + within + AFTER,
            total,
            handed_over: 0,
            turned_away: 0,
            number,
        }
    }

    /// For the manager, where it opened this.
    fn health(&self) -> Option<RebalanceHealth> {
        Some(RebalanceHealth {
            window: self.number?,
            hands_over: self.total,
            handed_over: self.handed_over,
            turned_away: self.turned_away,
        })
    }

    /// How many agents are to have been asked by now.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "connections of one node, and a part between 0 and 1"
    )]
    fn due(&self, now: Instant) -> u64 {
        let whole = self.done_by.saturating_duration_since(self.opened);
        let gone = now.saturating_duration_since(self.opened);
        let part = (gone.as_secs_f64() / whole.as_secs_f64().max(0.001)).min(1.0);
        (self.total as f64 * part).ceil() as u64
    }
}

/// Who goes, and who is turned away.
#[derive(Debug, Default)]
pub(crate) struct Balance {
    /// From so many connections on newcomers are turned away; 0 where nobody has said.
    nearly_full: AtomicU64,
    window: Mutex<Option<Window>>,
    /// How the last window went that the manager had opened.
    last: Mutex<Option<RebalanceHealth>>,
    /// One waiting session for each agent that is to go.
    go: Notify,
}

impl Balance {
    fn lock(&self) -> MutexGuard<'_, Option<Window>> {
        // A window is whole after every line, so a panic elsewhere leaves it usable.
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The most connections that this node can have.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "connections of one node"
    )]
    pub(crate) fn set_most(&self, most: usize) {
        let nearly = (most as f64 * NEARLY_FULL).ceil() as u64;
        self.nearly_full.store(nearly.max(1), Ordering::Relaxed);
    }

    /// Opens a window by the query of a request, `connections=120&within=60s`, on a node with so many
    /// connections; says what will happen.
    ///
    /// # Errors
    /// What is wrong with the query.
    pub(crate) fn open(&self, query: &str, has: u64, now: Instant) -> Result<Value, String> {
        let (share, within) = asked(query)?;
        let window = Window::new((share, within), has, now, None);
        let total = window.total;
        self.begin(window);
        Ok(json!({ "connections": has, "share": share, "hands_over": total }))
    }

    /// Opens a window that the manager asks for, once.
    pub(crate) fn open_asked(&self, asked: Rebalance, has: u64, now: Instant) {
        if self
            .health()
            .is_some_and(|last| last.window == asked.window)
        {
            return;
        }
        let within = Duration::from_secs(asked.within_s).min(LONGEST + EARLIER);
        let window = Window::new((asked.connections, within), has, now, Some(asked.window));
        self.begin(window);
    }

    fn begin(&self, window: Window) {
        // One that the manager opened before ends here.
        self.health();
        *self.lock() = Some(window);
    }

    /// How the last window goes, or went, that the manager has opened.
    pub(crate) fn health(&self) -> Option<RebalanceHealth> {
        let window = self.lock();
        let open = window.as_ref().and_then(Window::health);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if open.is_some() {
            last.clone_from(&open);
        }
        last.clone()
    }

    /// Asks those to go whose time has come. Called every now and then.
    pub(crate) fn tick(&self, now: Instant) {
        let mut window = self.lock();
        let Some(open) = window.as_mut() else { return };
        while open.handed_over < open.due(now) {
            open.handed_over += 1;
            self.go.notify_one();
        }
        if open.ends <= now {
            let Window {
                handed_over,
                turned_away,
                ..
            } = *open;
            tracing::info!(handed_over, turned_away, "the rebalance is over");
            if let Some(health) = open.health() {
                *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(health);
            }
            *window = None;
        }
    }

    /// Waits until this session is the one to go.
    pub(crate) async fn is_to_go(&self) {
        loop {
            self.go.notified().await;
            // A turn that nobody waited for is not that of who comes later.
            if self.lock().is_some() {
                return;
            }
        }
    }

    /// Whether an agent that has another node to try is to go there, where so many are here; `crowded`: the
    /// memory is nearly all taken.
    pub(crate) fn turns_away(&self, has: u64, crowded: bool, now: Instant) -> bool {
        match self.lock().as_mut() {
            Some(open) if now < open.ends && has >= open.share => {
                open.turned_away += 1;
                return true;
            }
            Some(_) | None => {}
        }
        let nearly_full = self.nearly_full.load(Ordering::Relaxed);
        crowded || (nearly_full > 0 && has >= nearly_full)
    }

    /// For people.
    pub(crate) fn shown(&self, now: Instant) -> Value {
        self.lock().map_or(Value::Null, |open| {
            json!({
                "share": open.share,
                "hands_over": open.total,
                "handed_over": open.handed_over,
                "turned_away": open.turned_away,
                "ends_in_s": open.ends.saturating_duration_since(now).as_secs(),
            })
        })
    }
}

/// What a query asks for: the share, and within how long.
fn asked(query: &str) -> Result<(u64, Duration), String> {
    const USE: &str = "expected is ?connections=N&within=60s, at most an hour";
    let (mut share, mut within) = (None, None);
    for pair in query.split('&') {
        match pair.split_once('=') {
            Some(("connections", number)) => share = number.parse::<u64>().ok(),
            Some(("within", seconds)) => {
                let seconds = seconds.strip_suffix('s').unwrap_or(seconds);
                within = seconds.parse::<u64>().ok().map(Duration::from_secs);
            }
            Some(_) | None => return Err(format!("unknown: {pair:?}; {USE}")),
        }
    }
    match (share, within) {
        (Some(share), Some(within)) if within <= LONGEST => Ok((share, within)),
        _ => Err(format!("{query:?} is not enough, or too much; {USE}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minute() -> (Balance, Instant) {
        let (balance, now) = (Balance::default(), Instant::now());
        balance.open("connections=20&within=60s", 60, now).unwrap();
        (balance, now)
    }

    #[test]
    fn agents_are_asked_to_go_one_after_the_other() {
        let (balance, now) = minute();
        let mut last = 0;
        for second in 0..60 {
            balance.tick(now + Duration::from_secs(second));
            let asked = balance.lock().unwrap().handed_over;
            assert!(asked - last <= 1, "{asked} after {last}");
            last = asked;
        }
        assert_eq!(last, 40);
        balance.tick(now + Duration::from_secs(62));
        assert!(balance.lock().is_none());
    }

    #[test]
    fn who_has_another_node_is_turned_away_while_the_window_is_open() {
        let (balance, now) = minute();
        assert!(balance.turns_away(20, false, now));
        assert!(!balance.turns_away(19, false, now));
        assert!(!balance.turns_away(20, false, now + Duration::from_secs(62)));
        assert!(!Balance::default().turns_away(1_000, false, now));
    }

    #[test]
    fn who_has_another_node_is_turned_away_by_one_that_has_nearly_all_that_it_can() {
        let (balance, now) = (Balance::default(), Instant::now());
        balance.set_most(1_000);
        assert!(!balance.turns_away(899, false, now));
        assert!(balance.turns_away(900, false, now));
        assert!(balance.turns_away(0, true, now), "no memory is left");
        balance.set_most(1);
        assert!(!balance.turns_away(0, false, now));
        assert!(balance.turns_away(1, false, now));
    }

    #[test]
    fn a_window_of_the_manager_is_opened_once_and_told_of_also_when_it_is_over() {
        let (balance, now) = (Balance::default(), Instant::now());
        assert_eq!(balance.health(), None);
        let asked = Rebalance {
            window: 7,
            connections: 2,
            within_s: 10,
        };
        let after = |seconds| now + Duration::from_secs(seconds);
        balance.open_asked(asked, 5, now);
        balance.tick(after(4));
        // The answer to a report that was on its way says it again.
        balance.open_asked(asked, 3, after(5));
        balance.tick(after(12));
        assert!(balance.lock().is_none());
        let told = RebalanceHealth {
            window: 7,
            hands_over: 3,
            handed_over: 3,
            turned_away: 0,
        };
        assert_eq!(balance.health(), Some(told.clone()));
        balance.open_asked(asked, 5, after(13));
        assert!(balance.lock().is_none(), "it is over");
        // One by hand is none of the manager's.
        balance
            .open("connections=1&within=9s", 9, after(14))
            .unwrap();
        assert_eq!(balance.health(), Some(told));
        let next = Rebalance { window: 8, ..asked };
        balance.open_asked(next, 9, after(15));
        assert_eq!(balance.health().map(|health| health.hands_over), Some(7));
    }

    #[test]
    fn a_query_that_is_no_good_changes_nothing() {
        for bad in [
            "",
            "connections=1",
            "within=1s",
            "connections=x&within=1s",
            "connections=1&within=3601s",
            "connections=1&within=1s&force",
        ] {
            let balance = Balance::default();
            let why = balance.open(bad, 9, Instant::now()).unwrap_err();
            assert!(why.contains("expected is"), "{bad}: {why}");
            assert!(balance.lock().is_none());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_that_nobody_took_is_over_with_its_window() {
        let (balance, now) = (Balance::default(), Instant::now());
        balance.open("connections=0&within=1s", 1, now).unwrap();
        balance.tick(now + Duration::from_secs(1));
        balance.is_to_go().await;
        balance.open("connections=0&within=1s", 1, now).unwrap();
        balance.tick(now + Duration::from_secs(1) + AFTER);
        let late = tokio::time::timeout(Duration::from_secs(60), balance.is_to_go());
        assert!(late.await.is_err());
    }
}
