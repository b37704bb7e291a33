//! Tables `nodes` and `topic_nodes`: who reports, and about which topics.

use std::collections::{HashMap, HashSet};

use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};
use tributary_common::report::{Health, Reporter};

use super::{Store, StoreError, losses::to_i64};
use crate::service::writer::Incoming;

/// One agent or bus node.
#[derive(Debug, Clone)]
pub(crate) struct NodeRow {
    /// `agent` or `bus`.
    pub(crate) part: String,
    /// Its id.
    pub(crate) name: String,
    /// Its host's name.
    pub(crate) host: String,
    /// Its zone.
    pub(crate) zone: String,
    /// A bus node's cluster, else empty.
    pub(crate) cluster: String,
    /// How often it began a new life.
    pub(crate) restarts: i64,
    /// First report of its present life, in ms.
    pub(crate) first_ms: i64,
    /// Last report, in ms.
    pub(crate) last_ms: i64,
    /// Its clock minus the manager's, in ms.
    pub(crate) skew_ms: i64,
    /// How it said that it is.
    pub(crate) health: Health,
}

/// One agent of a topic.
#[derive(Debug, Clone)]
pub(crate) struct TopicHostRow {
    /// The agent's id.
    pub(crate) name: String,
    /// Its host's name.
    pub(crate) host: String,
    /// Its zone.
    pub(crate) zone: String,
    /// Last report, in ms.
    pub(crate) last_ms: i64,
    /// How it said that it is.
    pub(crate) health: Health,
}

/// What the newest report of a node says of it, to be written.
#[derive(Debug)]
pub(crate) struct NodeWrite {
    id: i64,
    /// Host, zone, cluster.
    place: [String; 3],
    epoch: u64,
    number: u64,
    /// Lives that began since the last write.
    new_lives: i64,
    /// When the present life began, if it began since the last write.
    first_ms: Option<i64>,
    last_ms: i64,
    skew_ms: i64,
    health: String,
}

impl NodeWrite {
    /// From a node's newest report. `before` is the epoch and number of the newest one until now
    /// (number 0: there was none), `unwritten` what waits to be written of it.
    pub(crate) fn new(
        id: i64,
        before: (u64, u64),
        incoming: &Incoming,
        unwritten: Option<&Self>,
    ) -> Result<Self, StoreError> {
        let Incoming { report, now_ms } = incoming;
        let [_, _, host, zone, cluster] = columns(&report.reporter);
        let new_life = report.epoch.0 != before.0;
        let waiting = unwritten.map_or((0, None), |write| (write.new_lives, write.first_ms));
        Ok(Self {
            id,
            place: [host, zone, cluster].map(str::to_owned),
            epoch: report.epoch.0,
            number: report.number,
            new_lives: waiting.0 + i64::from(new_life),
            first_ms: if new_life { Some(*now_ms) } else { waiting.1 },
            last_ms: *now_ms,
            skew_ms: to_i64(report.sent_at_ms).saturating_sub(*now_ms),
            health: serde_json::to_string(&report.health)?,
        })
    }
}

/// The parts of a reporter as they stand in the table: part, id, host, zone, cluster.
fn columns(reporter: &Reporter) -> [&str; 5] {
    match reporter {
        Reporter::Agent { id, host, zone } => ["agent", id.as_str(), host, zone.as_str(), ""],
        Reporter::Bus { id, cluster, zone } => [
            "bus",
            id.as_str(),
            id.as_str(),
            zone.as_str(),
            cluster.as_str(),
        ],
    }
}

/// The number of a node, and epoch and number of its newest report. A new node is made, as of
/// before its first report.
pub(crate) async fn find(
    tx: &mut SqliteConnection,
    reporter: &Reporter,
    epoch: u64,
    now_ms: i64,
) -> Result<(i64, (u64, u64)), StoreError> {
    let [part, name, host, zone, cluster] = columns(reporter);
    let known = sqlx::query("SELECT id, epoch, number FROM nodes WHERE part = ?1 AND name = ?2")
        .bind(part)
        .bind(name)
        .try_map(|row: SqliteRow| {
            let number = |index| row.try_get::<i64, _>(index).map(i64::cast_unsigned);
            Ok((row.try_get(0)?, (number(1)?, number(2)?)))
        });
    if let Some(known) = known.fetch_optional(&mut *tx).await? {
        return Ok(known);
    }
    let id = sqlx::query_scalar(
        "INSERT INTO nodes (part, name, host, zone, cluster, epoch, number, restarts, first_ms,
                            last_ms, skew_ms, health)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, 0, ?7, ?7, 0, '{}') RETURNING id",
    )
    .bind(part)
    .bind(name)
    .bind(host)
    .bind(zone)
    .bind(cluster)
    .bind(epoch.cast_signed())
    .bind(now_ms)
    .fetch_one(tx)
    .await?;
    Ok((id, (epoch, 0)))
}

/// Takes over what the newest reports say of their nodes.
pub(crate) async fn update(
    tx: &mut SqliteConnection,
    writes: impl Iterator<Item = &NodeWrite>,
) -> Result<(), StoreError> {
    let rows: Vec<_> = writes
        .map(|write| {
            let [host, zone, cluster] = &write.place;
            let (epoch, number) = (write.epoch.cast_signed(), write.number.cast_signed());
            let times = (
                write.new_lives,
                write.first_ms,
                write.last_ms,
                write.skew_ms,
            );
            (
                write.id,
                host,
                zone,
                cluster,
                epoch,
                number,
                times,
                &write.health,
            )
        })
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "UPDATE nodes SET host = value ->> 1, zone = value ->> 2, cluster = value ->> 3,
                epoch = value ->> 4, number = value ->> 5,
                restarts = restarts + (value ->> '$[6][0]'),
                first_ms = coalesce(value ->> '$[6][1]', first_ms),
                last_ms = max(last_ms, value ->> '$[6][2]'), skew_ms = value ->> '$[6][3]',
                health = value ->> 7
           FROM json_each(?1) WHERE nodes.id = value ->> 0",
    )
    .bind(serde_json::to_string(&rows)?)
    .execute(tx)
    .await?;
    Ok(())
}

/// Marks when nodes were heard last, though with nothing new.
pub(crate) async fn heard(
    tx: &mut SqliteConnection,
    heard: &HashMap<i64, i64>,
) -> Result<(), StoreError> {
    if heard.is_empty() {
        return Ok(());
    }
    let rows: Vec<(&i64, &i64)> = heard.iter().collect();
    sqlx::query(
        "UPDATE nodes SET last_ms = max(last_ms, value ->> 1)
           FROM json_each(?1) WHERE nodes.id = value ->> 0",
    )
    .bind(serde_json::to_string(&rows)?)
    .execute(tx)
    .await?;
    Ok(())
}

/// Marks which agents collect which topics, as (topic, node).
pub(crate) async fn link(
    tx: &mut SqliteConnection,
    links: &HashSet<(i64, i64)>,
    now_ms: i64,
) -> Result<(), StoreError> {
    if links.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO topic_nodes (topic_id, node_id, last_ms)
         SELECT value ->> 0, value ->> 1, ?2 FROM json_each(?1) WHERE true
         ON CONFLICT (topic_id, node_id) DO UPDATE SET last_ms = excluded.last_ms",
    )
    .bind(serde_json::to_string(links)?)
    .bind(now_ms)
    .execute(tx)
    .await?;
    Ok(())
}

/// A health that an older manager wrote may not parse; then nothing is known.
fn health(row: &SqliteRow, column: usize) -> Result<Health, sqlx::Error> {
    let text: &str = row.try_get(column)?;
    Ok(serde_json::from_str(text).unwrap_or_default())
}

impl Store {
    /// All nodes.
    pub(crate) async fn nodes(&self) -> Result<Vec<NodeRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT part, name, host, zone, cluster, restarts, first_ms, last_ms, skew_ms, health
               FROM nodes ORDER BY part, name",
        )
        .try_map(|row: SqliteRow| {
            Ok(NodeRow {
                part: row.try_get(0)?,
                name: row.try_get(1)?,
                host: row.try_get(2)?,
                zone: row.try_get(3)?,
                cluster: row.try_get(4)?,
                restarts: row.try_get(5)?,
                first_ms: row.try_get(6)?,
                last_ms: row.try_get(7)?,
                skew_ms: row.try_get(8)?,
                health: health(&row, 9)?,
            })
        });
        Ok(rows.fetch_all(self.reader()).await?)
    }

    /// The agents that told facts of a topic.
    pub(crate) async fn topic_hosts(&self, topic: i64) -> Result<Vec<TopicHostRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT n.name, n.host, n.zone, n.last_ms, n.health
               FROM topic_nodes tn JOIN nodes n ON n.id = tn.node_id WHERE tn.topic_id = ?1",
        )
        .bind(topic)
        .try_map(|row: SqliteRow| {
            Ok(TopicHostRow {
                name: row.try_get(0)?,
                host: row.try_get(1)?,
                zone: row.try_get(2)?,
                last_ms: row.try_get(3)?,
                health: health(&row, 4)?,
            })
        });
        Ok(rows.fetch_all(self.reader()).await?)
    }
}
