//! Hands over connections while an operator has opened a window for it, and at no other time.
//!
//! Nodes of a cluster do not know each other. The operator's tool asks each how many connections it
//! has, and tells all of them the share that each is to have (`POST /v1/rebalance`). Until the window
//! ends, a node above its share asks one agent after the other to go, spread over the window, and a node
//! that has its share turns away who says that it has another node to try; who has none is let in.
//!
//! Not for: stopping (there everybody goes). The admin port opens the window, sessions wait for their
//! turn, the agents' port asks whether to turn away. Pure but for its locks: time is an argument.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{sync::Notify, time::Instant};

/// Agents are turned away for so much longer than the window: the last one is on its way then.
const AFTER: Duration = Duration::from_secs(2);
/// The longest window.
const LONGEST: Duration = Duration::from_secs(3_600);
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
}

impl Window {
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
    window: Mutex<Option<Window>>,
    /// One waiting session for each agent that is to go.
    go: Notify,
}

impl Balance {
    fn lock(&self) -> MutexGuard<'_, Option<Window>> {
        // A window is whole after every line, so a panic elsewhere leaves it usable.
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a window by the query of a request, `connections=120&within=60s`, on a node with so many
    /// connections; says what will happen.
    ///
    /// # Errors
    /// What is wrong with the query.
    pub(crate) fn open(&self, query: &str, has: u64, now: Instant) -> Result<Value, String> {
        let (share, within) = asked(query)?;
        let total = has.saturating_sub(share);
        *self.lock() = Some(Window {
            share,
            opened: now,
            done_by: now + within.mul_f64(HAND_OVER_IN),
            ends: now + within + AFTER,
            total,
            handed_over: 0,
            turned_away: 0,
        });
        tracing::info!(
            share,
            hands_over = total,
            within_s = within.as_secs(),
            "connections are rebalanced"
        );
        Ok(json!({ "connections": has, "share": share, "hands_over": total }))
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

    /// Whether an agent that has another node to try is to go there, where so many are here.
    pub(crate) fn turns_away(&self, has: u64, now: Instant) -> bool {
        match self.lock().as_mut() {
            Some(open) if now < open.ends && has >= open.share => {
                open.turned_away += 1;
                true
            }
            Some(_) | None => false,
        }
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
        assert!(balance.turns_away(20, now));
        assert!(!balance.turns_away(19, now));
        assert!(!balance.turns_away(20, now + Duration::from_secs(62)));
        assert!(!Balance::default().turns_away(1_000, now));
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
