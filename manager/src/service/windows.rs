//! Windows in which the nodes of a bus cluster hand over connections until the spread is even.
//!
//! # Operation
//! The manager knows each node's connections from its reports, and says in the answer to a report what the
//! node is to do: no node needs an open port for it. Nodes with room are told first. Only when all of them
//! have said in a report that they know, those above their share are told to hand over: else agents would
//! move on to a node that does not know its share yet, and move twice. Nodes that do not say so in time end the
//! window before anything has moved.
//!
//! What is open is in memory; [`crate::store::audit`] keeps the record. Pure but for its lock: time is an
//! argument. Not for: who goes and who is turned away (that is the bus's).

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};
use tributary_common::{
    even::{EVEN_PERCENT, LONGEST_WINDOW_S, share, spread_percent},
    report::{Health, Rebalance, RebalanceHealth, Reporter},
};

/// Nodes with room say within this that they know, in ms: they report every second.
const KNOWN_WITHIN_MS: i64 = 15_000;
/// The last agents are on their way so long after the window, in ms.
const AFTER_MS: i64 = 10_000;

/// How a window is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WindowState {
    /// Nodes with room are being told; nothing moves yet.
    Telling,
    /// Nodes above their share hand over.
    Open,
    /// It is over: the spread is below 10 % of a share.
    Even,
    /// It is over, and the spread is still larger.
    Uneven,
    /// It is over before it began: nodes with room did not say that they know.
    NotBegun,
    /// The manager was restarted while it was open; the nodes end it by themselves.
    Unknown,
}

impl WindowState {
    /// Whether it goes on.
    pub(crate) fn is_open(self) -> bool {
        matches!(self, Self::Telling | Self::Open)
    }
}

/// A node in a window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub(crate) struct WindowNode {
    /// Its id.
    pub(crate) id: String,
    /// Its connections when the window was asked for.
    pub(crate) had: u64,
    /// Its connections, as it said last while the window was open.
    pub(crate) connections: u64,
    /// It said that it knows.
    pub(crate) knows: bool,
    /// Agents that it has asked to go to another node.
    pub(crate) handed_over: u64,
    /// Agents that came to it, have another node to try, and were sent there.
    pub(crate) turned_away: u64,
}

/// A window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub(crate) struct Window {
    /// Its number; later ones have greater ones.
    pub(crate) number: i64,
    /// The bus cluster.
    pub(crate) cluster: String,
    /// How it is.
    pub(crate) state: WindowState,
    /// Connections that each node is to have.
    pub(crate) share: u64,
    /// Over how many seconds the hand-over is spread.
    pub(crate) within_s: u64,
    /// When it was asked for, in ms since 1970.
    pub(crate) opened_ms: i64,
    /// When nodes above their share were told; `null` until then.
    pub(crate) begun_ms: Option<i64>,
    /// When it was over; `null` until then.
    pub(crate) ended_ms: Option<i64>,
    /// The difference between the fullest and the emptiest of its nodes, in percent of the share.
    pub(crate) spread_percent: u64,
    /// Its nodes, by id.
    pub(crate) nodes: Vec<WindowNode>,
}

/// Why no window is opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoWindow {
    /// Another one is open.
    #[error(
        "cluster {cluster} has a window already; wait until it is over, at most {left_s} s from now"
    )]
    Open {
        /// The cluster.
        cluster: String,
        /// How long it lasts at most.
        left_s: i64,
    },
    /// Nothing would move.
    #[error(
        "the spread of cluster {cluster} is {percent} % of a share, below {EVEN_PERCENT} %: there is nothing to do"
    )]
    Even {
        /// The cluster.
        cluster: String,
        /// The spread.
        percent: u64,
    },
}

impl Window {
    /// When it is over at the latest, in ms.
    fn ends_ms(&self) -> i64 {
        let within_ms = i64::try_from(self.within_s.min(LONGEST_WINDOW_S)).unwrap_or(0) * 1000;
        match self.begun_ms {
            None => self.opened_ms + KNOWN_WITHIN_MS,
            Some(begun) => begun + within_ms + AFTER_MS,
        }
    }

    fn connections(&self) -> Vec<u64> {
        self.nodes.iter().map(|node| node.connections).collect()
    }

    /// Whether a node of so many connections only takes.
    fn has_room(&self, had: u64) -> bool {
        had <= self.share
    }

    /// Whether every node has what it is to have. An agent on its way is counted by both nodes for a moment, or
    /// by none, so who was to hand over has to say that it has, and all have to be there.
    fn is_done(&self) -> bool {
        let sum = |of: fn(&WindowNode) -> u64| self.nodes.iter().map(of).sum::<u64>();
        let has_its_share = |node: &WindowNode| node.knows && node.connections <= self.share;
        self.nodes.iter().all(has_its_share)
            && sum(|node| node.connections) >= sum(|node| node.had)
            && self.spread_percent < EVEN_PERCENT
    }

    fn end(&mut self, state: WindowState, now_ms: i64) {
        self.state = state;
        self.ended_ms = Some(now_ms);
    }

    /// Takes what a node says of itself.
    fn hear(&mut self, id: &str, connections: u64, told: Option<&RebalanceHealth>, now_ms: i64) {
        let number = self.number.cast_unsigned();
        let Some(node) = self.nodes.iter_mut().find(|node| node.id == id) else {
            return;
        };
        node.connections = connections;
        if let Some(told) = told.filter(|told| told.window == number) {
            node.knows = true;
            (node.handed_over, node.turned_away) = (told.handed_over, told.turned_away);
        }
        self.spread_percent = spread_percent(&self.connections());
        let mut nodes = self.nodes.iter();
        if self.begun_ms.is_none() && nodes.all(|node| node.knows || !self.has_room(node.had)) {
            self.begun_ms = Some(now_ms);
            self.state = WindowState::Open;
        }
        if self.begun_ms.is_some() && self.is_done() {
            self.end(WindowState::Even, now_ms);
        }
    }

    /// What a node is to be told.
    fn ask(&self, id: &str, now_ms: i64) -> Option<Rebalance> {
        let node = self.nodes.iter().find(|node| node.id == id)?;
        if node.knows || !self.state.is_open() {
            return None;
        }
        let left_ms = match (self.begun_ms, self.has_room(node.had)) {
            (None, false) => return None,
            // Open until the others are done.
            (None, true) => KNOWN_WITHIN_MS + i64::try_from(self.within_s).ok()? * 1000,
            (Some(begun), _) => begun + i64::try_from(self.within_s).ok()? * 1000 - now_ms,
        };
        Some(Rebalance {
            window: self.number.cast_unsigned(),
            connections: self.share,
            within_s: u64::try_from(left_ms / 1000).unwrap_or_default().max(1),
        })
    }

    /// Ends it when its time is over; whether it did.
    fn look(&mut self, now_ms: i64) {
        if self.state.is_open() && now_ms >= self.ends_ms() {
            let state = match self.begun_ms {
                None => WindowState::NotBegun,
                // Some agents went away by themselves.
                Some(_) if self.spread_percent < EVEN_PERCENT => WindowState::Even,
                Some(_) => WindowState::Uneven,
            };
            self.end(state, now_ms);
        }
    }
}

/// What is known of all clusters.
#[derive(Debug, Default)]
struct Known {
    /// The last window of each.
    last: BTreeMap<String, Window>,
    /// The greatest number that was given.
    number: i64,
    /// The greatest number of those whose end is in the record, by cluster.
    recorded: BTreeMap<String, i64>,
}

/// The last window of each cluster.
#[derive(Debug)]
pub(crate) struct Windows {
    known: Mutex<Known>,
}

impl Windows {
    /// None yet. `number` is the greatest that is in the record.
    pub(crate) fn new(number: i64) -> Self {
        let known = Known {
            number,
            ..Known::default()
        };
        Self {
            known: Mutex::new(known),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // A window is whole after every line, so a panic elsewhere leaves it usable.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a window for nodes with so many connections each.
    pub(crate) fn open(
        &self,
        cluster: &str,
        nodes: Vec<(String, u64)>,
        within_s: u64,
        now_ms: i64,
    ) -> Result<Window, NoWindow> {
        let mut known = self.lock();
        let before = known.last.get_mut(cluster);
        if let Some(open) = before.and_then(|window| {
            window.look(now_ms);
            window.state.is_open().then_some(window)
        }) {
            let (cluster, left_s) = (cluster.to_owned(), (open.ends_ms() - now_ms) / 1000 + 1);
            return Err(NoWindow::Open { cluster, left_s });
        }
        let connections: Vec<u64> = nodes
            .iter()
            .map(|(_id, connections)| *connections)
            .collect();
        let percent = spread_percent(&connections);
        if percent < EVEN_PERCENT {
            let cluster = cluster.to_owned();
            return Err(NoWindow::Even { cluster, percent });
        }
        // Never twice the same, also when the clock was set back.
        let number = now_ms.max(known.number + 1);
        known.number = number;
        let node = |(id, had)| WindowNode {
            id,
            had,
            connections: had,
            knows: false,
            handed_over: 0,
            turned_away: 0,
        };
        let window = Window {
            number,
            cluster: cluster.to_owned(),
            state: WindowState::Telling,
            share: share(&connections),
            within_s,
            opened_ms: now_ms,
            begun_ms: None,
            ended_ms: None,
            spread_percent: percent,
            nodes: nodes.into_iter().map(node).collect(),
        };
        known.last.insert(cluster.to_owned(), window.clone());
        Ok(window)
    }

    /// A window that is not in the record is none.
    pub(crate) fn forget(&self, window: &Window) {
        let last = &mut self.lock().last;
        let is_it = |known: &Window| known.number == window.number;
        if last.get(&window.cluster).is_some_and(is_it) {
            last.remove(&window.cluster);
        }
    }

    /// A node has reported; what it is to be told.
    pub(crate) fn heard(
        &self,
        reporter: &Reporter,
        health: &Health,
        now_ms: i64,
    ) -> Option<Rebalance> {
        let Reporter::Bus { id, cluster, .. } = reporter else {
            return None;
        };
        let mut known = self.lock();
        let window = known.last.get_mut(cluster.as_str())?;
        window.look(now_ms);
        if !window.state.is_open() {
            return None;
        }
        let (connections, told) = (health.connections, health.rebalance.as_ref());
        window.hear(id.as_str(), connections, told, now_ms);
        window.ask(id.as_str(), now_ms)
    }

    /// The last window of a cluster.
    pub(crate) fn of(&self, cluster: &str, now_ms: i64) -> Option<Window> {
        let mut known = self.lock();
        let window = known.last.get_mut(cluster)?;
        window.look(now_ms);
        Some(window.clone())
    }

    /// Those that are over, and whose end is not in the record.
    pub(crate) fn ended(&self, now_ms: i64) -> Vec<Window> {
        let known = &mut *self.lock();
        let mut ended = Vec::new();
        for window in known.last.values_mut() {
            window.look(now_ms);
            let recorded = known.recorded.get(&window.cluster).copied();
            if !window.state.is_open() && recorded != Some(window.number) {
                ended.push(window.clone());
            }
        }
        ended
    }

    /// The end of a window is in the record.
    pub(crate) fn recorded(&self, window: &Window) {
        let recorded = &mut self.lock().recorded;
        recorded.insert(window.cluster.clone(), window.number);
    }
}

#[cfg(test)]
mod tests {
    use tributary_common::ids::{Name, NodeId, Zone};

    use super::*;

    const NOW_MS: i64 = 1_000_000;

    fn bus(id: &str) -> Reporter {
        Reporter::Bus {
            id: NodeId::new(id).unwrap(),
            cluster: Name::new("dc1").unwrap(),
            zone: Zone::new("dc1").unwrap(),
        }
    }

    fn open(connections: &[u64]) -> (Windows, Window) {
        let windows = Windows::new(0);
        let node = |(at, had): (usize, &u64)| (format!("b{at}"), *had);
        let nodes = connections.iter().enumerate().map(node).collect();
        let window = windows.open("dc1", nodes, 60, NOW_MS).unwrap();
        (windows, window)
    }

    /// A report of a node that has so many connections, and has opened that window or none.
    fn report(
        windows: &Windows,
        id: &str,
        connections: u64,
        knows: i64,
        at_ms: i64,
    ) -> Option<u64> {
        let health = Health {
            connections,
            rebalance: (knows > 0).then(|| RebalanceHealth {
                window: knows.cast_unsigned(),
                hands_over: 0,
                handed_over: 3,
                turned_away: 4,
            }),
            ..Health::default()
        };
        let asked = windows.heard(&bus(id), &health, NOW_MS + at_ms)?;
        assert_eq!(asked.connections, 10);
        Some(asked.within_s)
    }

    fn state(windows: &Windows, at_ms: i64) -> WindowState {
        windows.of("dc1", NOW_MS + at_ms).unwrap().state
    }

    #[test]
    fn nodes_with_room_are_told_first_and_nobody_hands_over_before_all_of_them_know() {
        let (windows, window) = open(&[30, 0, 0]);
        let number = window.number;
        assert_eq!(report(&windows, "b0", 30, 0, 0), None);
        assert_eq!(report(&windows, "b1", 0, 0, 100), Some(75));
        assert_eq!(report(&windows, "b1", 0, number, 1_100), None);
        assert_eq!(report(&windows, "b0", 30, 0, 1_200), None);
        // What it says of an older one is not this.
        assert_eq!(report(&windows, "b2", 0, number - 1, 1_300), Some(75));
        assert_eq!(state(&windows, 1_300), WindowState::Telling);
        assert_eq!(report(&windows, "b2", 0, number, 2_300), None);
        assert_eq!(state(&windows, 2_300), WindowState::Open);
        assert_eq!(report(&windows, "b0", 30, 0, 5_300), Some(57));
        assert_eq!(report(&windows, "b0", 28, number, 6_300), None);
        report(&windows, "b1", 10, number, 40_000);
        report(&windows, "b2", 10, number, 40_000);
        assert_eq!(state(&windows, 40_000), WindowState::Open);
        report(&windows, "b0", 10, number, 41_000);
        let over = windows.of("dc1", NOW_MS + 41_000).unwrap();
        assert_eq!((over.state, over.spread_percent), (WindowState::Even, 0));
        assert_eq!(over.ended_ms, Some(NOW_MS + 41_000));
        assert_eq!(
            (over.nodes[0].handed_over, over.nodes[0].turned_away),
            (3, 4)
        );
        assert_eq!(report(&windows, "b1", 0, 0, 42_000), None, "it is over");
    }

    #[test]
    fn a_window_whose_nodes_do_not_say_that_they_know_ends_before_anything_moves() {
        let (windows, window) = open(&[20, 0]);
        assert_eq!(report(&windows, "b1", 0, 0, 0), Some(75));
        assert_eq!(state(&windows, 14_999), WindowState::Telling);
        assert_eq!(state(&windows, 15_000), WindowState::NotBegun);
        assert_eq!(report(&windows, "b1", 0, window.number, 15_001), None);
        assert_eq!(report(&windows, "b0", 20, 0, 15_002), None);
    }

    #[test]
    fn a_window_that_is_over_says_whether_the_spread_is_even() {
        let (windows, window) = open(&[20, 0]);
        report(&windows, "b1", 0, window.number, 1_000);
        assert_eq!(report(&windows, "b0", 20, 0, 1_000), Some(60));
        report(&windows, "b0", 14, window.number, 50_000);
        report(&windows, "b1", 6, window.number, 50_000);
        assert_eq!(state(&windows, 70_999), WindowState::Open);
        assert_eq!(state(&windows, 71_000), WindowState::Uneven);
        let ended = windows.ended(NOW_MS + 80_000);
        assert_eq!((ended.len(), ended[0].spread_percent), (1, 80));
        windows.recorded(&ended[0]);
        assert_eq!(windows.ended(NOW_MS + 80_000), []);
    }

    #[test]
    fn an_agent_on_its_way_is_no_even_spread() {
        for (last, at_ms) in [(10, 3_000), (9, 71_000)] {
            let (windows, window) = open(&[20, 0]);
            report(&windows, "b1", 0, window.number, 1_000);
            assert_eq!(report(&windows, "b0", 11, window.number, 2_000), None);
            // Both have the last one for a moment, then none of them has it.
            report(&windows, "b1", 10, window.number, 2_000);
            assert_eq!(state(&windows, 2_000), WindowState::Open);
            report(&windows, "b1", 9, window.number, 2_500);
            report(&windows, "b0", 10, window.number, 2_500);
            assert_eq!(state(&windows, 2_500), WindowState::Open);
            report(&windows, "b1", last, window.number, 3_000);
            assert_eq!(state(&windows, at_ms), WindowState::Even, "{last}");
        }
    }

    #[test]
    fn a_cluster_has_one_window_at_a_time_and_an_even_one_none() {
        let (windows, window) = open(&[20, 0]);
        let nodes = |had: u64| vec![("b0".to_owned(), had), ("b1".to_owned(), 10)];
        let again = |had, at_ms| windows.open("dc1", nodes(had), 60, NOW_MS + at_ms);
        let why = again(30, 5_000).unwrap_err().to_string();
        assert!(why.contains("at most 11 s"), "{why}");
        let why = again(11, 15_000).unwrap_err().to_string();
        assert!(why.contains("nothing to do"), "{why}");
        let next = again(30, 15_000).unwrap();
        assert!(next.number > window.number);
        windows.forget(&window);
        assert!(state(&windows, 15_000).is_open(), "another one");
        windows.forget(&next);
        assert_eq!(windows.of("dc1", NOW_MS), None);
    }

    #[test]
    fn numbers_never_come_again_also_when_the_clock_is_set_back() {
        let windows = Windows::new(NOW_MS);
        let nodes = || vec![("b0".to_owned(), 9), ("b1".to_owned(), 0)];
        let one = windows.open("dc1", nodes(), 60, NOW_MS - 5_000).unwrap();
        let other = windows.open("dc2", nodes(), 60, NOW_MS - 5_000).unwrap();
        assert_eq!([one.number, other.number], [NOW_MS + 1, NOW_MS + 2]);
    }

    #[test]
    fn agents_and_other_clusters_are_told_nothing() {
        let (windows, _window) = open(&[20, 0]);
        let other = Reporter::Bus {
            id: NodeId::new("b1").unwrap(),
            cluster: Name::new("dc2").unwrap(),
            zone: Zone::new("dc1").unwrap(),
        };
        assert_eq!(windows.heard(&other, &Health::default(), NOW_MS), None);
        assert_eq!(
            report(&windows, "b9", 5, 0, 0),
            None,
            "not one of its nodes"
        );
    }
}
