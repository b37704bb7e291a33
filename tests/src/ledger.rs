//! What the manager says of a topic, and the comparison with what was written.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use serde::Deserialize;

use crate::{http, poll};

/// The manager's counts of one topic or minute, in records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[expect(missing_docs, reason = "the words of the glossary in tributary-common")]
pub struct Counts {
    pub read: u64,
    pub sent: u64,
    pub received: u64,
    pub delivered: u64,
    pub in_flight: u64,
    pub spilled: u64,
    pub duplicates_removed: u64,
    pub refused: u64,
    pub dropped: u64,
    #[serde(default)]
    pub doubled: u64,
    pub unexplained: i64,
    #[serde(default)]
    pub dead: u64,
    #[serde(default)]
    pub purged: u64,
    #[serde(default)]
    pub replayed: u64,
}

/// Records that were in the dead letters: how many still are, were given up, were replayed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words of the glossary in tributary-common")]
pub struct Letters {
    pub dead: u64,
    pub purged: u64,
    pub replayed: u64,
}

impl Counts {
    /// Whether every one of `records` went through every hop, and nothing is open or unexplained.
    #[must_use]
    pub fn all_went_through(&self, records: u64) -> bool {
        self.all_but(records, Letters::default())
    }

    /// The same, but for records that are dead or given up; those replayed are among the delivered.
    #[must_use]
    pub fn all_but(&self, records: u64, letters: Letters) -> bool {
        let Letters {
            dead,
            purged,
            replayed,
        } = letters;
        let ends = [self.dead, self.purged, self.replayed] == [dead, purged, replayed];
        let Self {
            read,
            sent,
            received,
            delivered,
            in_flight,
            ..
        } = *self;
        let Self {
            refused,
            dropped,
            doubled,
            unexplained,
            ..
        } = *self;
        ends && [read, sent, received, delivered + dead + purged] == [records; 4]
            && [in_flight, refused, dropped, doubled] == [0; 4]
            && unexplained == 0
    }

    /// Adds the counts of another topic or minute.
    pub fn add(&mut self, other: Self) {
        self.read += other.read;
        self.sent += other.sent;
        self.received += other.received;
        self.delivered += other.delivered;
        self.in_flight += other.in_flight;
        self.spilled += other.spilled;
        self.duplicates_removed += other.duplicates_removed;
        self.refused += other.refused;
        self.dropped += other.dropped;
        self.doubled += other.doubled;
        self.unexplained += other.unexplained;
        self.dead += other.dead;
        self.purged += other.purged;
        self.replayed += other.replayed;
    }
}

/// One topic of `GET /api/v1/topics`.
#[derive(Debug, Deserialize)]
struct Topic {
    topic: String,
    counts: Counts,
}

#[derive(Debug, Deserialize)]
struct Topics {
    topics: Vec<Topic>,
}

#[derive(Debug, Deserialize)]
struct Minute {
    minute_ms: i64,
    counts: Counts,
}

#[derive(Debug, Deserialize)]
struct TopicCounts {
    totals: Counts,
    minutes: Vec<Minute>,
}

/// A topic's counts over all time; zeros for a topic that the manager has not heard of.
///
/// # Errors
/// When the manager does not answer as it should.
pub fn topic(manager: &str, topic: &str) -> Result<Counts> {
    let answer = http::get(manager, "/api/v1/topics")?;
    ensure!(
        answer.status == 200,
        "the manager answers {}: {}",
        answer.status,
        answer.text()
    );
    in_answer(&answer.text(), topic)
}

/// The counts of a topic in an answer to `GET /api/v1/topics`; zeros when it is not there.
///
/// # Errors
/// When it is no such answer.
pub fn in_answer(text: &str, topic: &str) -> Result<Counts> {
    let all: Topics =
        serde_json::from_str(text).with_context(|| format!("unknown shape: {text}"))?;
    let found = all.topics.into_iter().find(|one| one.topic == topic);
    Ok(found.map(|one| one.counts).unwrap_or_default())
}

/// Waits until the manager says that `records` went through every hop; then asks for the minutes,
/// whose sums must be the same.
///
/// # Errors
/// With the last counts, when that is not so within `limit`.
pub fn must_agree(manager: &str, name: &str, records: u64, limit: Duration) -> Result<Counts> {
    must_agree_but(manager, name, records, Letters::default(), limit)
}

/// The same, but for records that were in the dead letters.
///
/// # Errors
/// With the last counts, when that is not so within `limit`.
pub fn must_agree_but(
    manager: &str,
    name: &str,
    records: u64,
    letters: Letters,
    limit: Duration,
) -> Result<Counts> {
    let what = format!("the ledger to count {records} records of {name} at every hop, {letters:?}");
    // A manager that is away or starting is waited for, too.
    let look = || Ok(topic(manager, name).map_err(|error| format!("{error:#}")));
    let good = |seen: &Result<Counts, String>| {
        seen.as_ref()
            .is_ok_and(|counts| counts.all_but(records, letters))
    };
    let counts = poll::until_seen(&what, limit, look, good)?.map_err(anyhow::Error::msg)?;
    let from_minutes = minutes(manager, name)?;
    ensure!(
        from_minutes.all_but(records, letters),
        "the minutes of {name} do not sum up to {records}: {from_minutes:?}"
    );
    Ok(counts)
}

/// The sum over a topic's minutes, which must be the totals that come with them.
fn minutes(manager: &str, name: &str) -> Result<Counts> {
    // From 1970 to the year 2100, in ms: every minute that the run may have written.
    let path = format!("/api/v1/topics/{name}/counts?from=0&to=4102444800000");
    let answer = http::get(manager, &path)?;
    ensure!(
        answer.status == 200,
        "{path} answers {}: {}",
        answer.status,
        answer.text()
    );
    let answer: TopicCounts = serde_json::from_slice(&answer.body)
        .map_err(|error| anyhow!("unknown shape ({error}): {}", answer.text()))?;
    let mut sum = Counts::default();
    for minute in &answer.minutes {
        ensure!(
            minute.minute_ms % 60_000 == 0,
            "{} is no minute",
            minute.minute_ms
        );
        sum.add(minute.counts);
    }
    ensure!(
        sum == answer.totals,
        "totals {:?} are not the sum {sum:?}",
        answer.totals
    );
    Ok(sum)
}
