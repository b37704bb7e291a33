//! `tributary ctl`: what an operator asks running parts to do.
//!
//! `rebalance` spreads the agents of a bus cluster evenly over its nodes. Nodes do not know each other:
//! this asks each for its connections, works out the share, and tells all of them. They hand over
//! connections while that window is open; outside one nothing moves by itself. A manager opens the same window
//! over the answers to their reports.
//!
//! `dead` (see [`dead`]) lists, shows, replays and gives up the records that destinations refused for good.
//!
//! `groups` (see [`groups`]) shows where topics lie among the groups of a cluster's brokers, and moves them.
//!
//! Not for: talking to a manager, which has no `ctl` yet.

pub(crate) mod dead;
pub(crate) mod groups;

use std::{ffi::OsString, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, Subcommand};
use serde::Deserialize;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tributary_common::{
    even::{self, EVEN_PERCENT, LONGEST_WINDOW_S},
    http,
};

use crate::out;

/// A node answers within this.
const LIMIT: Duration = Duration::from_secs(5);
/// Between two lines of progress.
const SAID_EVERY: Duration = Duration::from_secs(5);
/// The last agents are on their way so long after the window.
const AFTER: Duration = Duration::from_secs(10);

/// What is asked for.
#[derive(Debug, Subcommand)]
pub(crate) enum Ctl {
    /// Spread the agents of a bus cluster evenly over its nodes.
    ///
    /// Reads /status of each node's admin port, and has nodes with more than their share hand over
    /// connections one after the other. Ends with 0 when the spread is below 10 % of a share.
    Rebalance(Rebalance),
    /// Records that destinations will never take as they are: list, show, replay, purge.
    #[command(subcommand)]
    Dead(dead::Dead),
    /// Brokers of a Kafka cluster by class: list, move topics into their group, progress.
    #[command(subcommand)]
    Groups(groups::Groups),
    /// Talk to a manager. Not in this version.
    #[command(external_subcommand)]
    Other(Vec<OsString>),
}

/// The arguments of `rebalance`.
#[derive(Debug, Args)]
pub(crate) struct Rebalance {
    /// The admin ports of all nodes of the cluster, as host:port.
    #[arg(required = true, num_args = 2..)]
    nodes: Vec<String>,
    /// Spread the hand-over over so many seconds, at most 3600.
    #[arg(long, default_value = "60s", value_parser = seconds)]
    within: u64,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
}

fn seconds(text: &str) -> Result<u64, String> {
    let number = text.strip_suffix('s').unwrap_or(text);
    let seconds = number
        .parse()
        .ok()
        .filter(|seconds| *seconds <= LONGEST_WINDOW_S);
    seconds.ok_or_else(|| "expected are seconds, such as 60s, at most 3600".to_owned())
}

/// What a node says of itself.
#[derive(Debug, Clone, Deserialize)]
struct Seen {
    node: String,
    cluster: String,
    ready: String,
    connections: u64,
}

async fn look(nodes: &[String]) -> Result<Vec<Seen>> {
    let mut all = Vec::new();
    for node in nodes {
        let url = format!("http://{node}/status");
        let (status, body) = http::get(&url, None, LIMIT).await?;
        ensure!(status.is_success(), "{url} answers {status}");
        let seen = serde_json::from_slice(&body);
        all.push(seen.with_context(|| format!("{url} is not the status of a bus node"))?);
    }
    Ok(all)
}

fn connections(all: &[Seen]) -> Vec<u64> {
    all.iter().map(|seen| seen.connections).collect()
}

fn share(all: &[Seen]) -> u64 {
    even::share(&connections(all))
}

fn spread(all: &[Seen]) -> u64 {
    even::spread_percent(&connections(all))
}

/// One line of how it stands.
fn said(all: &[Seen]) -> String {
    let nodes = all.iter().map(|seen| {
        format!(
            "{} {}",
            seen.node,
            out::count(seen.connections.cast_signed())
        )
    });
    let nodes: Vec<String> = nodes.collect();
    format!("{}; spread {} %", nodes.join(", "), spread(all))
}

/// Rebalances until the window is over.
///
/// # Errors
/// When a node does not answer or is not ready, when they are of several clusters, and when the spread
/// is not even in the end.
pub(crate) async fn rebalance(asked: Rebalance, stop: CancellationToken) -> Result<()> {
    let all = look(&asked.nodes).await?;
    check(&all)?;
    out::line(said(&all));
    if spread(&all) < EVEN_PERCENT {
        out::line("the spread is even: nothing to do");
        return Ok(());
    }
    let share = share(&all);
    let mut told: Vec<_> = asked.nodes.iter().zip(&all).collect();
    // Those with room first: they must not take more than their share from the others.
    told.sort_by_key(|(_, seen)| seen.connections);
    for (address, seen) in told {
        let away = seen.connections.saturating_sub(share);
        if away > 0 {
            out::line(format_args!("{} hands over {away}", seen.node));
        }
        if asked.dry_run {
            continue;
        }
        let within = asked.within;
        let url = format!("http://{address}/v1/rebalance?connections={share}&within={within}s");
        let (status, body) = http::post_json(&url, None, Vec::new(), LIMIT).await?;
        let body = String::from_utf8_lossy(&body);
        ensure!(status.is_success(), "{url} answers {status}: {body}");
    }
    if asked.dry_run {
        return Ok(());
    }
    watch(&asked, &stop).await
}

/// Whether these nodes can be rebalanced.
fn check(all: &[Seen]) -> Result<()> {
    let Some(first) = all.first() else {
        bail!("there is no node");
    };
    for (at, seen) in all.iter().enumerate() {
        ensure!(
            seen.cluster == first.cluster,
            "{} is of cluster {}, {} of {}: agents keep to a cluster, so only nodes of one are balanced",
            first.node,
            first.cluster,
            seen.node,
            seen.cluster
        );
        ensure!(
            seen.ready == "yes",
            "{} is not ready ({}); mend it, or leave it out",
            seen.node,
            seen.ready
        );
        let mut others = all.iter().skip(at + 1);
        ensure!(
            others.all(|other| other.node != seen.node),
            "{} is named twice",
            seen.node
        );
    }
    Ok(())
}

/// Says how it goes until the window is over or the spread is even.
async fn watch(asked: &Rebalance, stop: &CancellationToken) -> Result<()> {
    let ends = Instant::now() + Duration::from_secs(asked.within) + AFTER;
    loop {
        let next = SAID_EVERY.min(ends.saturating_duration_since(Instant::now()));
        let waited = stop.run_until_cancelled(sleep(next)).await;
        ensure!(
            waited.is_some(),
            "interrupted; the nodes go on until their window is over"
        );
        let all = look(&asked.nodes).await?;
        out::line(said(&all));
        if spread(&all) < EVEN_PERCENT {
            return Ok(());
        }
        ensure!(
            Instant::now() < ends,
            "the spread is still {} % of a share; run it again",
            spread(&all)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(connections: &[u64]) -> Vec<Seen> {
        let node = |(at, &connections): (usize, &u64)| Seen {
            node: format!("bus{at}"),
            cluster: "dc1".to_owned(),
            ready: "yes".to_owned(),
            connections,
        };
        connections.iter().enumerate().map(node).collect()
    }

    #[test]
    fn only_ready_nodes_of_one_cluster_are_balanced() {
        let refused = |change: fn(&mut Seen), part: &str| {
            let mut all = nodes(&[1, 2]);
            assert!(check(&all).is_ok());
            change(&mut all[1]);
            let why = check(&all).unwrap_err().to_string();
            assert!(why.contains(part), "{why}");
        };
        refused(|seen| seen.cluster = "dc2".to_owned(), "of cluster dc1");
        refused(|seen| seen.ready = "no: full".to_owned(), "not ready");
        refused(|seen| seen.node = "bus0".to_owned(), "named twice");
    }
}
