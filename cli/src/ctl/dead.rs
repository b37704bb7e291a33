//! `tributary ctl dead`: the records that destinations of bus nodes will never take as they are.
//!
//! Asks the admin ports of the nodes (`/v1/dead`): each keeps its own. Not for: what the records are
//! (the bus keeps them).

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, Subcommand};
use serde_json::Value;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tributary_common::http;

use crate::out;

/// A node answers within this.
const LIMIT: Duration = Duration::from_secs(30);
/// Between two looks at a replay.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What is asked for.
#[derive(Debug, Subcommand)]
pub(crate) enum Dead {
    /// Say how many there are, by destination, topic and reason.
    List(Which),
    /// Show the oldest with their records and reasons, as JSON.
    Show(Show),
    /// Give them to their destination once more, after what is wrong there was mended.
    ///
    /// Ends with 0 when the destination has all of them.
    Replay(Which),
    /// Give them up: they are gone for good.
    Purge(Purge),
}

/// Which letters are meant.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// The admin ports of bus nodes, as host:port.
    #[arg(required = true)]
    nodes: Vec<String>,
    /// Only those of this destination.
    #[arg(long)]
    destination: Option<String>,
    /// Only those of this topic.
    #[arg(long)]
    topic: Option<String>,
    /// Only those with this reason, as `list` says it.
    #[arg(long)]
    reason: Option<String>,
    /// Only the one of this number, as `show` says it.
    #[arg(long)]
    no: Option<u64>,
}

/// The arguments of `show`.
#[derive(Debug, Args)]
pub(crate) struct Show {
    #[command(flatten)]
    which: Which,
    /// How many, at most 1000.
    #[arg(long, default_value_t = 20)]
    limit: u32,
}

/// The arguments of `purge`.
#[derive(Debug, Args)]
pub(crate) struct Purge {
    #[command(flatten)]
    which: Which,
    /// Yes, for good.
    #[arg(long)]
    yes: bool,
}

impl Which {
    fn query(&self, destination: Option<&str>) -> String {
        let number = self.no.map(|no| no.to_string());
        let pairs = [
            ("destination", destination),
            ("topic", self.topic.as_deref()),
            ("reason", self.reason.as_deref()),
            ("no", number.as_deref()),
        ];
        let pairs = pairs
            .iter()
            .filter_map(|(key, value)| Some(format!("{key}={}", (*value)?)));
        pairs.collect::<Vec<_>>().join("&")
    }

    /// The one destination that is meant, for what changes something.
    fn one(&self) -> Result<&str> {
        let name = self.destination.as_deref();
        name.context("say which destination: --destination NAME; `list` says their names")
    }
}

async fn ask(node: &str, path: &str, query: &str, post: bool) -> Result<Value> {
    let url = format!("http://{node}/v1/dead{path}?{query}");
    let (status, body) = match post {
        true => http::post_json(&url, None, Vec::new(), LIMIT).await?,
        false => http::get(&url, None, LIMIT).await?,
    };
    let text = String::from_utf8_lossy(&body);
    ensure!(
        status.is_success(),
        "{url} answers {status}: {}",
        text.trim()
    );
    serde_json::from_slice(&body).with_context(|| format!("{url} answers no JSON"))
}

/// Does what is asked for.
///
/// # Errors
/// When a node does not answer or refuses, when a replay leaves letters behind.
pub(crate) async fn run(asked: Dead, stop: CancellationToken) -> Result<()> {
    match asked {
        Dead::List(which) => {
            for node in &which.nodes {
                let query = which.query(which.destination.as_deref());
                list(node, &ask(node, "", &query, false).await?);
            }
        }
        Dead::Show(Show { which, limit }) => {
            let destination = which.one()?;
            for node in &which.nodes {
                let query = format!("{}&limit={limit}", which.query(Some(destination)));
                let shown = ask(node, "/letters", &query, false).await?;
                out::line(format_args!("{:#}", shown["shown"]));
            }
        }
        Dead::Replay(which) => {
            let destination = which.one()?;
            for node in &which.nodes {
                replay(node, &which.query(Some(destination)), &stop).await?;
            }
        }
        Dead::Purge(Purge { which, yes }) => {
            let destination = which.one()?;
            ensure!(yes, "they would be gone for good; say --yes");
            for node in &which.nodes {
                let purged = ask(node, "/purge", &which.query(Some(destination)), true).await?;
                out::line(format_args!("{node}: {} purged", purged["purged"]));
            }
        }
    }
    Ok(())
}

/// A line for each destination, and for each topic and reason.
fn list(node: &str, said: &Value) {
    let each = |value: &Value| value.as_array().cloned().unwrap_or_default();
    for one in each(&said["destinations"]) {
        let word = |key: &str| one[key].as_str().unwrap_or_default().to_owned();
        let name = word("destination");
        out::line(format_args!(
            "{node} {name}: {} letters, {} of {} bytes",
            one["letters"], one["bytes"], one["max_bytes"]
        ));
        for group in each(&one["groups"]) {
            let word = |key: &str| group[key].as_str().unwrap_or_default().to_owned();
            out::line(format_args!(
                "  {} {} {} ({}): first {}, last {} ms since 1970",
                group["letters"],
                word("topic"),
                word("reason"),
                group["status"],
                group["first_ms"],
                group["last_ms"]
            ));
        }
    }
}

/// Replays, and waits for the end.
async fn replay(node: &str, query: &str, stop: &CancellationToken) -> Result<()> {
    let asked = ask(node, "/replay", query, true).await?["replaying"].clone();
    let (mut left, mut busy) = (0, true);
    while busy {
        let waited = stop.run_until_cancelled(sleep(LOOK_EVERY)).await;
        ensure!(waited.is_some(), "interrupted; the node goes on with it");
        let said = ask(node, "", query, false).await?;
        let one = &said["destinations"][0];
        let groups = one["groups"].as_array().cloned().unwrap_or_default();
        left = groups
            .iter()
            .filter_map(|group| group["letters"].as_u64())
            .sum();
        busy = one["replaying"].as_u64().unwrap_or(0) > 0;
    }
    if left > 0 {
        bail!("{node}: {left} of {asked} are left; `ctl dead list` says why");
    }
    out::line(format_args!("{node}: {asked} replayed"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_names_what_is_meant() {
        let which = Which {
            nodes: vec!["bus1:7401".to_owned()],
            destination: None,
            topic: Some("web".to_owned()),
            reason: None,
            no: Some(7),
        };
        assert_eq!(which.query(None), "topic=web&no=7");
        assert_eq!(which.query(Some("es")), "destination=es&topic=web&no=7");
        let error = which.one().unwrap_err().to_string();
        assert!(error.contains("--destination"), "{error}");
    }
}
