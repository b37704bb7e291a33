//! Where to send, and how fast: what the sender takes anew while it runs.
//!
//! Not for: which node of them now (see [`super::nodes`]). [`crate::live`] gives them.

use std::time::Duration;

use tokio::{sync::watch, time::Instant};

use crate::{
    config::{Cluster, Config},
    limit::Bucket,
};

/// What the sender keeps to.
#[derive(Debug, Clone)]
pub(crate) struct Ways {
    /// Clusters in failover order.
    pub(crate) clusters: Vec<Cluster>,
    /// Bytes per second.
    pub(super) bandwidth: Option<u64>,
    /// On a standby cluster, a better one is looked for after this, up to twice.
    pub(super) return_after: Duration,
}

impl Ways {
    /// As the configuration says.
    pub(crate) fn of(config: &Config) -> Self {
        Self {
            clusters: config.bus.clone(),
            bandwidth: config.limits.bandwidth,
            return_after: Duration::from_millis(config.return_after),
        }
    }

    /// To these, without a ceiling.
    #[cfg(feature = "sim")]
    pub(crate) fn to(clusters: Vec<Cluster>, return_after: Duration) -> Self {
        Self {
            clusters,
            bandwidth: None,
            return_after,
        }
    }

    /// The ceiling.
    pub(super) fn bucket(&self) -> Option<Bucket> {
        self.bandwidth.map(|rate| Bucket::new(rate, Instant::now()))
    }

    /// Whether a node is one of them.
    pub(super) fn lead_to(&self, addr: &str) -> bool {
        let mut nodes = self.clusters.iter().flat_map(|cluster| &cluster.nodes);
        nodes.any(|node| node == addr)
    }
}

/// Waits until there are others; for ever when nobody can give any.
pub(super) async fn changed(ways: &mut watch::Receiver<Ways>) {
    if ways.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}
