//! The live table of `up` and `demo`: per topic what each hop counted.
//!
//! It asks the manager's API like any other client, so what it shows is what the console shows.
//! Not for: the counts themselves (the manager's ledger). Called by `up` and `demo`.

use std::{fmt::Write as _, time::Duration};

use anyhow::{Context as _, bail};
use serde::Deserialize;
use tributary_common::http;

use crate::out;

/// How long the manager may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The counts of one topic, in records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub(crate) struct Counts {
    pub(crate) read: i64,
    pub(crate) sent: i64,
    pub(crate) received: i64,
    pub(crate) delivered: i64,
    pub(crate) in_flight: i64,
    /// Of those in flight: on a bus node's disk.
    #[serde(default)]
    pub(crate) spilled: i64,
    pub(crate) duplicates_removed: i64,
    pub(crate) refused: i64,
    pub(crate) dropped: i64,
    pub(crate) doubled: i64,
    pub(crate) unexplained: i64,
    /// In the dead letters of a destination.
    #[serde(default)]
    pub(crate) dead: i64,
    /// Given up there.
    #[serde(default)]
    pub(crate) purged: i64,
}

impl Counts {
    /// Records that will not arrive: dropped with a reason, purged from the dead letters, or without an
    /// explanation.
    pub(crate) fn lost(&self) -> i64 {
        self.dropped + self.purged + self.unexplained.max(0)
    }
}

/// One row.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct TopicCounts {
    pub(crate) topic: String,
    pub(crate) counts: Counts,
}

#[derive(Debug, Deserialize)]
struct Topics {
    topics: Vec<TopicCounts>,
}

/// Asks the manager at `url` for the counts of the last 24 hours, sorted by topic.
///
/// # Errors
/// When the manager does not answer in time, or not with 200 and counts.
pub(crate) async fn fetch(url: &str) -> anyhow::Result<Vec<TopicCounts>> {
    let address = format!("{url}/api/v1/topics?range=24h");
    let (status, body) = http::get(&address, None, ANSWER_TIMEOUT)
        .await
        .context("failed to ask the manager")?;
    if !status.is_success() {
        bail!("the manager answered {status} to {address}");
    }
    let mut topics = serde_json::from_slice::<Topics>(&body)
        .with_context(|| format!("the answer to {address} is not what this version reads"))?
        .topics;
    topics.sort_by(|a, b| a.topic.cmp(&b.topic));
    Ok(topics)
}

/// The table as text, a line each, with a line of sums when there is more than one topic.
pub(crate) fn render(topics: &[TopicCounts]) -> String {
    let names = topics.iter().map(|row| row.topic.chars().count());
    let width = names
        .chain(["topic".len(), "all topics".len()])
        .max()
        .unwrap_or_default();
    let mut text = String::new();
    let mut row = |name: &str, cells: [String; 7]| {
        let cells: String = cells.iter().map(|cell| format!("  {cell:>13}")).collect();
        // Writing into a String cannot fail.
        writeln!(text, "{name:<width$}{cells}").unwrap_or_default();
    };
    let heads = [
        "read",
        "sent",
        "delivered",
        "spilled",
        "in flight",
        "lost",
        "doubled",
    ];
    row("topic", heads.map(str::to_owned));
    for topic in topics {
        row(&topic.topic, cells(&topic.counts));
    }
    if topics.len() > 1 {
        row("all topics", cells(&sum(topics)));
    }
    text
}

/// The sum of all rows.
pub(crate) fn sum(topics: &[TopicCounts]) -> Counts {
    topics
        .iter()
        .map(|row| row.counts)
        .fold(Counts::default(), |sum, row| Counts {
            read: sum.read + row.read,
            sent: sum.sent + row.sent,
            received: sum.received + row.received,
            delivered: sum.delivered + row.delivered,
            in_flight: sum.in_flight + row.in_flight,
            spilled: sum.spilled + row.spilled,
            duplicates_removed: sum.duplicates_removed + row.duplicates_removed,
            refused: sum.refused + row.refused,
            dropped: sum.dropped + row.dropped,
            doubled: sum.doubled + row.doubled,
            unexplained: sum.unexplained + row.unexplained,
            dead: sum.dead + row.dead,
            purged: sum.purged + row.purged,
        })
}

/// Refused records are still held by their agent: they count as in flight until somebody acts.
/// So do dead letters, which a bus node keeps. What is spilled stands in its own column only: it is in
/// flight, and safe.
fn cells(counts: &Counts) -> [String; 7] {
    [
        counts.read,
        counts.sent,
        counts.delivered,
        counts.spilled,
        counts.in_flight - counts.spilled + counts.refused + counts.dead,
        counts.lost(),
        counts.doubled,
    ]
    .map(out::count)
}

/// Draws the table over and over at the same place of a terminal; elsewhere says one line of sums.
#[derive(Debug, Default)]
pub(crate) struct Screen {
    lines_drawn: usize,
}

impl Screen {
    /// Shows the counts under a headline.
    pub(crate) fn draw(&mut self, headline: &str, topics: &[TopicCounts]) {
        if !out::is_terminal() {
            let all = sum(topics);
            out::line(format_args!(
                "{headline} · read {} sent {} delivered {} spilled {} in flight {} lost {} doubled {}",
                out::count(all.read),
                out::count(all.sent),
                out::count(all.delivered),
                out::count(all.spilled),
                out::count(all.in_flight - all.spilled + all.refused + all.dead),
                out::count(all.lost()),
                out::count(all.doubled),
            ));
            return;
        }
        let text = format!("{headline}\n{}", render(topics));
        // Up over what was drawn before, then clear to the end of the screen.
        let back = match self.lines_drawn {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\r\x1b[J"),
        };
        out::write(format_args!("{back}{text}"));
        self.lines_drawn = text.lines().count();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_shows_each_hop_and_the_sum() {
        let row = |topic: &str, read, delivered, in_flight| TopicCounts {
            topic: topic.into(),
            counts: Counts {
                read,
                sent: read,
                delivered,
                in_flight,
                ..Counts::default()
            },
        };
        let text = render(&[row("app", 1_000, 900, 100), row("web.access", 5, 5, 0)]);
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(
            lines[1],
            ["app", "1,000", "1,000", "900", "0", "100", "0", "0"]
        );
        assert_eq!(lines[2], ["web.access", "5", "5", "5", "0", "0", "0", "0"]);
        assert_eq!(
            lines[3][2..],
            ["1,005", "1,005", "905", "0", "100", "0", "0"]
        );
    }

    #[test]
    fn a_loss_is_what_was_dropped_and_what_nobody_explains() {
        let counts = Counts {
            dropped: 2,
            unexplained: 3,
            purged: 1,
            ..Counts::default()
        };
        assert_eq!(counts.lost(), 6);
        assert_eq!(
            Counts {
                unexplained: -3,
                ..Counts::default()
            }
            .lost(),
            0
        );
    }
}
