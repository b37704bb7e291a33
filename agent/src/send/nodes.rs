//! Which bus node: clusters in the order of the configuration, the nodes of each in an order of this
//! agent's own, and each left alone for a while after it failed.
//!
//! The order is a rendezvous hash, so that agents spread over the nodes, and stay where they are when
//! a node is added.
//!
//! Not for: connecting (see [`super::link`]). Pure: time and chance are arguments.

use std::time::Duration;

use tokio::time::Instant;
use tributary_common::{
    backoff::Backoff,
    ids::{AgentId, Name},
};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::config::Cluster;

/// A node that failed is tried again after about this long, then twice as long, …
const FIRST: Duration = Duration::from_millis(200);
/// … up to this.
const CAP: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Node {
    cluster: Name,
    addr: String,
    backoff: Backoff,
    not_before: Option<Instant>,
}

/// All nodes, the best first.
#[derive(Debug)]
pub(crate) struct Nodes {
    nodes: Vec<Node>,
}

impl Nodes {
    /// The nodes of these clusters in the order of this agent.
    pub(crate) fn new(agent: &AgentId, clusters: &[Cluster]) -> Self {
        let seed = xxh3_64_with_seed(agent.as_str().as_bytes(), 0);
        let mut nodes = Vec::new();
        for cluster in clusters {
            let mut own: Vec<&String> = cluster.nodes.iter().collect();
            own.sort_by_key(|addr| xxh3_64_with_seed(addr.as_bytes(), seed));
            nodes.extend(own.into_iter().map(|addr| Node {
                cluster: cluster.name.clone(),
                addr: addr.clone(),
                backoff: Backoff::new(FIRST, CAP),
                not_before: None,
            }));
        }
        Self { nodes }
    }

    /// The best node that may be tried now; or when the next one may.
    pub(crate) fn pick(&self, now: Instant) -> Result<usize, Instant> {
        let free = |node: &Node| node.not_before.is_none_or(|at| at <= now);
        self.nodes.iter().position(free).ok_or_else(|| {
            self.nodes
                .iter()
                .filter_map(|node| node.not_before)
                .min()
                .unwrap_or(now + CAP)
        })
    }

    /// A node's cluster and address.
    pub(crate) fn name(&self, node: usize) -> (&str, &str) {
        self.nodes
            .get(node)
            .map_or(("", ""), |node| (node.cluster.as_str(), node.addr.as_str()))
    }

    /// A node failed: it is left alone for a while.
    pub(crate) fn failed(&mut self, node: usize, now: Instant, rng: &mut fastrand::Rng) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.not_before = Some(now + node.backoff.next(rng));
        }
    }

    /// A node asks to be left for so long.
    pub(crate) fn leave(&mut self, node: usize, until: Instant) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.not_before = Some(until);
        }
    }

    /// A node works.
    pub(crate) fn works(&mut self, node: usize) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.backoff.reset();
            node.not_before = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(agent: &str) -> Nodes {
        let cluster = |name: &str, nodes: &[&str]| Cluster {
            name: Name::new(name).unwrap(),
            nodes: nodes.iter().map(|&node| node.to_owned()).collect(),
        };
        let clusters = [
            cluster("dc1", &["a:1", "b:1", "c:1"]),
            cluster("dc2", &["d:1"]),
        ];
        Nodes::new(&AgentId::new(agent).unwrap(), &clusters)
    }

    #[test]
    fn agents_spread_over_the_first_cluster_and_keep_their_order() {
        let first = |agent: usize| nodes(&format!("agent-{agent}")).name(0).1.to_owned();
        let firsts: Vec<String> = (0..60).map(first).collect();
        for addr in ["a:1", "b:1", "c:1"] {
            assert!(
                firsts.iter().filter(|first| *first == addr).count() > 8,
                "{addr}"
            );
        }
        assert_eq!(first(3), first(3));
        assert_eq!(nodes("x").name(3), ("dc2", "d:1"));
    }

    #[test]
    fn a_node_that_failed_is_left_alone_for_a_while() {
        let (mut nodes, now, mut rng) = (nodes("x"), Instant::now(), fastrand::Rng::with_seed(1));
        for node in 0..4 {
            assert_eq!(nodes.pick(now), Ok(node));
            nodes.failed(node, now, &mut rng);
        }
        let next = nodes.pick(now).unwrap_err();
        assert!(next > now && next <= now + FIRST);
        assert!(nodes.pick(next).is_ok());
        nodes.works(2);
        assert_eq!(nodes.pick(now), Ok(2));
    }
}
