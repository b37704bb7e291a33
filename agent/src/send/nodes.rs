//! Which bus node: clusters in the order of the configuration, the nodes of each in an order of this
//! agent's own, and each left alone for a while after it failed.
//!
//! The order is a rendezvous hash, so that agents spread over the nodes, and stay where they are when
//! a node is added. A node that asked us to go stands behind the others of its cluster for a while:
//! otherwise who was handed over would come straight back. One that took nothing, or answered too late, stands
//! behind those of all clusters for a while.
//!
//! Not for: connecting (see [`super::connect`]). Pure: time and chance are arguments.

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
/// … up to this; one that hangs at once after about this long: it would only be waited for.
const CAP: Duration = Duration::from_secs(10);
/// A node that turned us away stands behind its neighbours for so long.
const FULL_FOR: Duration = Duration::from_secs(60);

/// A node that took nothing stands behind all others for so long, then for twice as long, …
const UNFIT_FOR: Duration = Duration::from_secs(60);
/// … up to this.
const UNFIT_CAP: Duration = Duration::from_secs(1_800);

#[derive(Debug)]
struct Node {
    cluster: Name,
    /// The place of its cluster; 0 is home.
    rank: usize,
    addr: String,
    backoff: Backoff,
    not_before: Option<Instant>,
    /// It asked us to go elsewhere, until then.
    left_until: Option<Instant>,
    /// It has enough connections, and did not let us in, until then.
    full_until: Option<Instant>,
    unfit: Backoff,
    /// It took nothing, and is not to be trusted until then.
    unfit_until: Option<Instant>,
}

impl Node {
    fn is_free(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|at| at <= now)
    }

    fn is_full(&self, now: Instant) -> bool {
        self.full_until.is_some_and(|until| until > now)
    }

    fn unfit_until(&self, now: Instant) -> Option<Instant> {
        self.unfit_until.filter(|&until| until > now)
    }

    /// Behind which of its neighbours it stands: who asked us to go last is the last that we go back to.
    fn behind(&self, now: Instant) -> (bool, Option<Instant>) {
        (
            self.is_full(now),
            self.left_until.filter(|&until| until > now),
        )
    }
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
        for (rank, cluster) in clusters.iter().enumerate() {
            let mut own: Vec<&String> = cluster.nodes.iter().collect();
            own.sort_by_key(|addr| xxh3_64_with_seed(addr.as_bytes(), seed));
            nodes.extend(own.into_iter().map(|addr| Node {
                cluster: cluster.name.clone(),
                rank,
                addr: addr.clone(),
                backoff: Backoff::new(FIRST, CAP),
                not_before: None,
                left_until: None,
                full_until: None,
                unfit: Backoff::new(UNFIT_FOR, UNFIT_CAP),
                unfit_until: None,
            }));
        }
        Self { nodes }
    }

    /// The best node that may be tried now beside these; or when the next one may. Beside others the
    /// best is of another cluster: when one node does not answer, its neighbours may be as far away. Of nodes
    /// that took nothing the one that is to be trusted first.
    pub(crate) fn pick(&self, now: Instant, beside: &[usize]) -> Result<usize, Instant> {
        let tried = |rank: usize| {
            let mut ranks = beside.iter().filter_map(|&at| self.nodes.get(at));
            ranks.any(|node| node.rank == rank)
        };
        let others = || {
            let all = self.nodes.iter().enumerate();
            all.filter(|(at, _)| !beside.contains(at))
        };
        others()
            .filter(|(_, node)| node.is_free(now))
            .min_by_key(|(at, node)| {
                let unfit = node.unfit_until(now);
                (tried(node.rank), unfit, node.rank, node.behind(now), *at)
            })
            .map(|(at, _)| at)
            .ok_or_else(|| {
                let times = others().filter_map(|(_, node)| node.not_before);
                times.min().unwrap_or(now + CAP)
            })
    }

    /// The best node of the clusters before that of this node.
    pub(crate) fn better(&self, than: usize, now: Instant) -> Option<usize> {
        let rank = self.nodes.get(than)?.rank;
        let better = self.nodes.iter().enumerate();
        better
            .filter(|(_, node)| node.rank < rank && node.is_free(now))
            .filter(|(_, node)| node.unfit_until(now).is_none())
            .min_by_key(|(at, node)| (node.rank, node.behind(now), *at))
            .map(|(at, _)| at)
    }

    /// Whether a node is of the first cluster.
    pub(crate) fn is_home(&self, node: usize) -> bool {
        self.nodes.get(node).is_none_or(|node| node.rank == 0)
    }

    /// Whether there is another node of its cluster to try now, in the place of this one.
    pub(crate) fn has_neighbour(&self, of: usize, now: Instant) -> bool {
        let Some(rank) = self.nodes.get(of).map(|node| node.rank) else {
            return false;
        };
        let mut others = self.nodes.iter().enumerate().filter(|(at, _)| *at != of);
        others.any(|(_, node)| {
            let fits = !node.is_full(now) && node.unfit_until(now).is_none();
            node.rank == rank && node.is_free(now) && fits
        })
    }

    /// Whether there is another one than this.
    pub(crate) fn has_others(&self) -> bool {
        self.nodes.len() > 1
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

    /// A node hangs: it takes connections, or lets them be, and says nothing.
    pub(crate) fn hangs(&mut self, node: usize, now: Instant, rng: &mut fastrand::Rng) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.not_before = Some(now + CAP.mul_f64(0.5 + rng.f64() / 2.0));
        }
    }

    /// A node takes nothing, or is too long about it: others are tried first, also those of other clusters.
    pub(crate) fn unfit(&mut self, node: usize, now: Instant, rng: &mut fastrand::Rng) {
        if let Some(node) = self.nodes.get_mut(node) {
            let most = node.unfit.ceiling();
            node.unfit_until = Some(now + (most + node.unfit.next(rng)) / 2);
        }
    }

    /// A node asks to be left for others until then.
    pub(crate) fn leave(&mut self, node: usize, until: Instant) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.left_until = Some(until);
        }
    }

    /// A node has enough connections, and another one may have room.
    pub(crate) fn turned_away(&mut self, node: usize, now: Instant) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.full_until = Some(now + FULL_FOR);
        }
    }

    /// A node works.
    pub(crate) fn works(&mut self, node: usize) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.backoff.reset();
            node.unfit.reset();
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
            assert_eq!(nodes.pick(now, &[]), Ok(node));
            nodes.failed(node, now, &mut rng);
        }
        let next = nodes.pick(now, &[]).unwrap_err();
        assert!(next > now && next <= now + FIRST);
        assert!(nodes.pick(next, &[]).is_ok());
        nodes.works(2);
        assert_eq!(nodes.pick(now, &[]), Ok(2));
        nodes.hangs(2, now, &mut rng);
        assert_ne!(nodes.pick(now + CAP / 2, &[]), Ok(2));
        assert!(nodes.nodes[2].is_free(now + CAP));
    }

    #[test]
    fn who_was_asked_to_go_stays_in_the_cluster_and_goes_to_another_node() {
        let (mut nodes, now) = (nodes("x"), Instant::now());
        let until = now + CAP;
        nodes.leave(0, until);
        assert_eq!(nodes.pick(now, &[]), Ok(1));
        nodes.leave(1, until + CAP);
        nodes.leave(2, until + CAP);
        assert_eq!(nodes.pick(now, &[]), Ok(0), "who asked first");
        nodes.leave(0, until + CAP * 2);
        assert_eq!(nodes.pick(now, &[]), Ok(1), "not back to who asked last");
        assert_eq!(nodes.pick(until + CAP * 2, &[]), Ok(0));
    }

    #[test]
    fn only_who_has_a_neighbour_to_try_may_be_turned_away() {
        let (mut nodes, now) = (nodes("x"), Instant::now());
        assert!(!nodes.has_neighbour(3, now), "another cluster is not meant");
        for node in 0..3 {
            assert_eq!(nodes.pick(now, &[]), Ok(node));
            assert_eq!(nodes.has_neighbour(node, now), node < 2);
            nodes.turned_away(node, now);
        }
        assert_eq!(nodes.pick(now, &[]), Ok(0), "its own cluster all the same");
        assert!(!nodes.has_neighbour(0, now));
    }

    #[test]
    fn who_takes_nothing_stands_behind_all_clusters_and_longer_each_time() {
        let (mut nodes, now, mut rng) = (nodes("x"), Instant::now(), fastrand::Rng::with_seed(1));
        for node in 0..3 {
            assert_eq!(nodes.pick(now, &[]), Ok(node));
            nodes.unfit(node, now + Duration::from_secs(node as u64), &mut rng);
        }
        assert!(!nodes.has_neighbour(0, now));
        assert_eq!((nodes.pick(now, &[]), nodes.better(3, now)), (Ok(3), None));
        nodes.unfit(3, now, &mut rng);
        assert!(nodes.pick(now, &[]).is_ok(), "one of them all the same");
        let later = now + UNFIT_FOR + Duration::from_secs(2);
        assert_eq!(nodes.better(3, later), Some(0));
        nodes.unfit(0, later, &mut rng);
        assert_eq!(nodes.better(3, later + UNFIT_FOR), Some(1));
        assert_eq!(nodes.better(3, later + UNFIT_FOR * 2), Some(0));
    }

    #[test]
    fn beside_a_node_that_does_not_answer_another_cluster_is_tried_first() {
        let (nodes, now) = (nodes("x"), Instant::now());
        assert_eq!(nodes.pick(now, &[0]), Ok(3));
        assert_eq!(nodes.pick(now, &[0, 3]), Ok(1));
        assert_eq!(nodes.pick(now, &[0, 3, 1, 2]), Err(now + CAP));
    }

    #[test]
    fn home_is_the_first_cluster() {
        let (mut nodes, now, mut rng) = (nodes("x"), Instant::now(), fastrand::Rng::with_seed(1));
        assert!(nodes.is_home(2) && !nodes.is_home(3));
        assert_eq!(nodes.better(2, now), None);
        assert_eq!(nodes.better(3, now), Some(0));
        nodes.failed(0, now, &mut rng);
        assert_eq!(nodes.better(3, now), Some(1));
    }
}
