//! `tributary ctl groups`: the brokers of a Kafka cluster by class, where topics lie, and moving those that
//! lie outside of their group.
//!
//! Asks the admin port of a bus node (`/v1/groups`), which asks the cluster: a node knows the classes of
//! the topics that came to it. Not for: which broker belongs to which group (the node's configuration says).

use std::{fmt::Write as _, time::Duration};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, Subcommand};
use serde_json::Value;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tributary_common::http;

use crate::out;

/// A node answers within this; it may have to wait for a broker that hangs.
const LIMIT: Duration = Duration::from_secs(30);
/// Between two looks at a move.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What is asked for.
#[derive(Debug, Subcommand)]
pub(crate) enum Groups {
    /// Show groups with their brokers, and which topics lie inside and outside of theirs.
    List(Which),
    /// Move a topic, or all that lie outside of their group, by reassignment of their replicas.
    ///
    /// Says how far it is, and ends with 0 when the cluster has moved all of it. Interrupted, the cluster
    /// goes on with it.
    Move(Move),
    /// Say how far the moves are that clusters are at.
    Progress(Which),
}

/// Which destinations are meant.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// The admin port of a bus node, as host:port.
    node: String,
    /// Only this destination.
    #[arg(long)]
    destination: Option<String>,
}

/// The arguments of `move`.
#[derive(Debug, Args)]
pub(crate) struct Move {
    /// The admin port of a bus node, as host:port.
    node: String,
    /// The destination.
    #[arg(long)]
    destination: String,
    /// The topic, as the cluster has it. Left out: all topics of this node outside of their groups.
    #[arg(long)]
    topic: Option<String>,
    /// The group, P0 to P3. Left out: that of the topic's class.
    #[arg(long)]
    to: Option<String>,
    /// Only begin; `progress` says how far it is.
    #[arg(long)]
    detach: bool,
}

fn query(pairs: &[(&str, Option<&str>)]) -> String {
    let pairs = pairs.iter();
    let pairs = pairs.filter_map(|(key, value)| Some(format!("{key}={}", (*value)?)));
    pairs.collect::<Vec<_>>().join("&")
}

async fn ask(node: &str, path: &str, query: &str, post: bool) -> Result<Value> {
    let url = format!("http://{node}/v1/groups{path}?{query}");
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
/// When the node or the cluster does not answer or refuses.
pub(crate) async fn run(asked: Groups, stop: CancellationToken) -> Result<()> {
    match asked {
        Groups::List(Which { node, destination }) => {
            let query = query(&[("destination", destination.as_deref())]);
            let said = ask(&node, "", &query, false).await?;
            each(&said["destinations"]).for_each(|one| out::line(format_args!("{}", list(one))));
        }
        Groups::Progress(Which { node, destination }) => {
            let query = query(&[("destination", destination.as_deref())]);
            let said = ask(&node, "/progress", &query, false).await?;
            for one in each(&said["destinations"]) {
                let name = word(&one["destination"]);
                let mut topics = each(&one["topics"]).peekable();
                if topics.peek().is_none() {
                    out::line(format_args!("{name}: nothing moves"));
                }
                topics.for_each(|topic| out::line(format_args!("{name} {}", progress(topic))));
            }
        }
        Groups::Move(asked) => begin(asked, &stop).await?,
    }
    Ok(())
}

fn each(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn numbers(value: &Value) -> String {
    let all = each(value).map(Value::to_string);
    all.collect::<Vec<_>>().join(", ")
}

/// A destination's groups and topics, a line each.
fn list(one: &Value) -> String {
    let mut text = word(&one["destination"]).to_owned();
    let mut line = |line: String| {
        // Writing into a String cannot fail.
        write!(text, "\n  {line}").unwrap_or_default();
    };
    for group in each(&one["groups"]) {
        let away = match numbers(&group["away"]) {
            away if away.is_empty() => away,
            away => format!(" (away: {away})"),
        };
        let (class, brokers) = (word(&group["class"]), numbers(&group["brokers"]));
        line(format!("group {class}: brokers {brokers}{away}"));
    }
    let without = numbers(&one["brokers_without_group"]);
    if !without.is_empty() {
        line(format!("in no group: brokers {without}"));
    }
    for topic in each(&one["topics"]) {
        let (name, class, group) = (
            word(&topic["topic"]),
            word(&topic["class"]),
            word(&topic["group"]),
        );
        let outside = match topic["outside"].as_u64() {
            Some(0) => "inside".to_owned(),
            _some => format!("{} partitions outside", topic["outside"]),
        };
        line(format!("{name} ({class}): {outside} of group {group}"));
    }
    text
}

/// How far a topic's move is.
fn progress(topic: &Value) -> String {
    let number = |key: &str| topic[key].as_u64().unwrap_or(0);
    let (all, moving) = (number("partitions"), number("moving"));
    format!(
        "{}: {} of {all} partitions are in place, {} of {} new replicas of the others have caught up",
        word(&topic["topic"]),
        all.saturating_sub(moving),
        number("new_replicas_in_sync"),
        number("new_replicas")
    )
}

/// Begins a move, and waits for its end.
async fn begin(asked: Move, stop: &CancellationToken) -> Result<()> {
    let its = Some(asked.destination.as_str());
    let what = query(&[
        ("destination", its),
        ("topic", asked.topic.as_deref()),
        ("to", asked.to.as_deref()),
    ]);
    let begun = ask(&asked.node, "/move", &what, true).await?;
    let begun: Vec<&Value> = each(&begun["moving"]).collect();
    if begun.is_empty() {
        out::line(format_args!("nothing is to be moved"));
        return Ok(());
    }
    for one in &begun {
        let topic = word(&one["topic"]);
        out::line(format_args!(
            "{topic}: {} partitions are moved",
            one["partitions"]
        ));
    }
    let names: Vec<&str> = begun.iter().map(|one| word(&one["topic"])).collect();
    let its = query(&[("destination", its)]);
    if asked.detach {
        return Ok(());
    }
    loop {
        let waited = stop.run_until_cancelled(sleep(LOOK_EVERY)).await;
        ensure!(waited.is_some(), "interrupted; the cluster goes on with it");
        let said = ask(&asked.node, "/progress", &its, false).await?;
        let ours = each(&said["destinations"][0]["topics"]);
        let ours = ours.filter(|topic| names.contains(&word(&topic["topic"])));
        let left: Vec<String> = ours.map(progress).collect();
        if left.is_empty() {
            out::line(format_args!("moved"));
            break;
        }
        left.iter()
            .for_each(|line| out::line(format_args!("{line}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn groups_and_topics_have_a_line_each() {
        let said = json!({
            "destination": "main",
            "groups": [
                { "class": "P0", "brokers": [1, 2], "away": [] },
                { "class": "P2", "brokers": [3], "away": [3] },
            ],
            "brokers_without_group": [9],
            "topics": [
                { "topic": "pay", "class": "P0", "group": "P0", "inside": 8, "outside": 0 },
                { "topic": "web", "class": "P3", "group": "P2", "inside": 1, "outside": 7 },
            ],
        });
        assert_eq!(
            list(&said),
            "main\n  group P0: brokers 1, 2\n  group P2: brokers 3 (away: 3)\n  in no group: brokers 9\
             \n  pay (P0): inside of group P0\n  web (P3): 7 partitions outside of group P2"
        );
        let topic = json!({
            "topic": "web", "partitions": 8, "moving": 3, "new_replicas": 6, "new_replicas_in_sync": 2,
        });
        assert_eq!(
            progress(&topic),
            "web: 5 of 8 partitions are in place, 2 of 6 new replicas of the others have caught up"
        );
    }

    #[test]
    fn a_query_has_what_was_said_and_nothing_else() {
        let pairs = [
            ("destination", Some("main")),
            ("topic", None),
            ("to", Some("P1")),
        ];
        assert_eq!(query(&pairs), "destination=main&to=P1");
    }
}
