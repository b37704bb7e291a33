//! Which node of the cluster gets the next request: one that answers, in turn. A node that fails is
//! left, and tried again after a while that doubles.
//!
//! Pure: no clock of its own. Not for: sending (see [`super::worker`]).

use std::time::Duration;

use tokio::time::Instant;

/// The first wait of a node that failed, and the longest.
const WAIT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

#[derive(Debug, Clone)]
struct Node {
    url: String,
    /// Since when it fails, when it is tried again, and why it failed.
    failing: Option<(Instant, Instant, String)>,
    wait: Duration,
}

/// The nodes of a cluster.
#[derive(Debug, Clone)]
pub(super) struct Nodes {
    nodes: Vec<Node>,
    next: usize,
}

impl Nodes {
    /// Nodes that nobody has tried yet.
    pub(super) fn new(urls: &[String]) -> Self {
        let nodes = urls.iter().map(|url| Node {
            url: url.clone(),
            failing: None,
            wait: WAIT.0,
        });
        Self {
            nodes: nodes.collect(),
            next: 0,
        }
    }

    /// The number of a node to use now: one that answers before one whose wait is over.
    pub(super) fn pick(&mut self, now: Instant) -> Option<usize> {
        let count = self.nodes.len();
        let turn = |step: usize| (self.next + step) % count.max(1);
        let well = |no: &usize| {
            self.nodes
                .get(*no)
                .is_some_and(|node| node.failing.is_none())
        };
        let due = |no: &usize| {
            let failing = self.nodes.get(*no).and_then(|node| node.failing.as_ref());
            failing.is_some_and(|(_since, again, _why)| *again <= now)
        };
        let well = (0..count).map(turn).find(well);
        // One that failed gets its trial although others answer.
        let chosen = (0..count).map(turn).find(due).or(well)?;
        if let Some((_since, again, _why)) = self
            .nodes
            .get_mut(chosen)
            .and_then(|node| node.failing.as_mut())
        {
            // One trial at a time.
            *again = now + WAIT.1;
        }
        self.next = chosen + 1;
        Some(chosen)
    }

    /// A node has answered.
    pub(super) fn well(&mut self, no: usize) {
        if let Some(node) = self.nodes.get_mut(no) {
            node.failing = None;
            node.wait = WAIT.0;
        }
    }

    /// A node has not answered, or as one that cannot work.
    pub(super) fn failed(&mut self, no: usize, why: &str, now: Instant) {
        if let Some(node) = self.nodes.get_mut(no) {
            let since = node.failing.as_ref().map_or(now, |(since, ..)| *since);
            node.failing = Some((since, now + node.wait, why.to_owned()));
            node.wait = (node.wait * 2).min(WAIT.1);
        }
    }

    /// How long all of them have been failing, and why one of them does; `None` while one answers.
    pub(super) fn all_failing(&self, now: Instant) -> Option<(Duration, String)> {
        let last = self.nodes.iter().map(|node| node.failing.as_ref());
        let (since, _again, why) = last
            .collect::<Option<Vec<_>>>()?
            .into_iter()
            .max_by_key(|(since, ..)| *since)?;
        Some((now.saturating_duration_since(*since), why.clone()))
    }

    /// The nodes that fail, for people.
    pub(super) fn failing(&self) -> Vec<String> {
        let failing = self.nodes.iter().filter_map(|node| {
            let (_since, _again, why) = node.failing.as_ref()?;
            Some(format!("{}: {why}", node.url))
        });
        failing.collect()
    }

    /// A node's address.
    pub(super) fn url(&self, no: usize) -> Option<&str> {
        self.nodes.get(no).map(|node| node.url.as_str())
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> Nodes {
        Nodes::new(&["http://a".to_owned(), "http://b".to_owned()])
    }

    #[test]
    fn nodes_take_turns_and_one_that_fails_is_left_and_tried_again() {
        let (mut nodes, now) = (two(), Instant::now());
        let picks = |nodes: &mut Nodes, now, count: usize| -> Vec<_> {
            (0..count).map(|_no| nodes.pick(now)).collect()
        };
        assert_eq!(picks(&mut nodes, now, 3), [Some(0), Some(1), Some(0)]);
        nodes.failed(1, "gone", now);
        assert_eq!(picks(&mut nodes, now, 3), [Some(0), Some(0), Some(0)]);
        assert!(nodes.all_failing(now).is_none());
        assert_eq!(nodes.failing(), ["http://b: gone"]);
        let later = now + WAIT.0;
        let tried = picks(&mut nodes, later, 3);
        assert_eq!(
            tried.iter().filter(|no| **no == Some(1)).count(),
            1,
            "{tried:?}"
        );
        nodes.well(1);
        let both = picks(&mut nodes, later, 4);
        assert_eq!(
            both.iter().filter(|no| **no == Some(1)).count(),
            2,
            "{both:?}"
        );
    }

    #[test]
    fn without_a_node_nobody_is_picked_before_a_wait_is_over() {
        let (mut nodes, now) = (two(), Instant::now());
        nodes.failed(0, "x", now);
        nodes.failed(1, "y", now + Duration::from_secs(1));
        let now = now + Duration::from_secs(1);
        assert_eq!(nodes.pick(now), Some(0));
        assert_eq!(nodes.pick(now), None);
        let (long, why) = nodes.all_failing(now + Duration::from_secs(3)).unwrap();
        assert_eq!((long, why.as_str()), (Duration::from_secs(3), "y"));
    }
}
