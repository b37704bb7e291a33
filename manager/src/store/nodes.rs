//! Tables `nodes` and `topic_nodes`: who reports, and about which topics.

use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};
use tributary_common::report::{Health, Reporter};

use super::{Store, StoreError};

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

/// What the newest report of a node said.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Newest {
    /// The database's number of the node.
    pub(crate) id: i64,
    /// The node's life.
    pub(crate) epoch: u64,
    /// The report's number.
    pub(crate) number: u64,
}

/// A report's place and time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    /// The node's life.
    pub(crate) epoch: u64,
    /// The report's number.
    pub(crate) number: u64,
    /// When it came, in ms by the manager's clock.
    pub(crate) now_ms: i64,
    /// The node's clock minus the manager's, in ms.
    pub(crate) skew_ms: i64,
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

/// The node as known; made, as of before its first report, when it is new.
pub(crate) async fn find(
    tx: &mut SqliteConnection,
    reporter: &Reporter,
    seen: Seen,
) -> Result<Newest, StoreError> {
    let [part, name, host, zone, cluster] = columns(reporter);
    let known = sqlx::query("SELECT id, epoch, number FROM nodes WHERE part = ?1 AND name = ?2")
        .bind(part)
        .bind(name)
        .try_map(|row: SqliteRow| {
            let number = |index| row.try_get::<i64, _>(index).map(i64::cast_unsigned);
            Ok(Newest {
                id: row.try_get(0)?,
                epoch: number(1)?,
                number: number(2)?,
            })
        });
    if let Some(newest) = known.fetch_optional(&mut *tx).await? {
        return Ok(newest);
    }
    let id = sqlx::query_scalar(
        "INSERT INTO nodes (part, name, host, zone, cluster, epoch, number, restarts, first_ms,
                            last_ms, skew_ms, health)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, 0, ?7, ?7, ?8, '{}') RETURNING id",
    )
    .bind(part)
    .bind(name)
    .bind(host)
    .bind(zone)
    .bind(cluster)
    .bind(seen.epoch.cast_signed())
    .bind(seen.now_ms)
    .bind(seen.skew_ms)
    .fetch_one(tx)
    .await?;
    Ok(Newest {
        id,
        epoch: seen.epoch,
        number: 0,
    })
}

/// Takes over what the newest report says of its node.
pub(crate) async fn update(
    tx: &mut SqliteConnection,
    known: Newest,
    reporter: &Reporter,
    seen: Seen,
    health: &Health,
) -> Result<(), StoreError> {
    let [_, _, host, zone, cluster] = columns(reporter);
    let new_life = seen.epoch != known.epoch;
    sqlx::query(
        "UPDATE nodes SET host = ?2, zone = ?3, cluster = ?4, epoch = ?5, number = ?6,
                restarts = restarts + ?7, first_ms = iif(?7 = 1, ?8, first_ms),
                last_ms = max(last_ms, ?8), skew_ms = ?9, health = ?10
          WHERE id = ?1",
    )
    .bind(known.id)
    .bind(host)
    .bind(zone)
    .bind(cluster)
    .bind(seen.epoch.cast_signed())
    .bind(seen.number.cast_signed())
    .bind(i64::from(new_life))
    .bind(seen.now_ms)
    .bind(seen.skew_ms)
    .bind(serde_json::to_string(health)?)
    .execute(tx)
    .await?;
    Ok(())
}

/// Marks that a node was heard, though with nothing new.
pub(crate) async fn heard(
    tx: &mut SqliteConnection,
    node: i64,
    now_ms: i64,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE nodes SET last_ms = max(last_ms, ?2) WHERE id = ?1")
        .bind(node)
        .bind(now_ms)
        .execute(tx)
        .await?;
    Ok(())
}

/// Marks that an agent collects topics.
pub(crate) async fn link(
    tx: &mut SqliteConnection,
    node: i64,
    topics: &[i64],
    now_ms: i64,
) -> Result<(), StoreError> {
    if topics.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO topic_nodes (topic_id, node_id, last_ms)
         SELECT value, ?2, ?3 FROM json_each(?1) WHERE true
         ON CONFLICT (topic_id, node_id) DO UPDATE SET last_ms = excluded.last_ms",
    )
    .bind(serde_json::to_string(topics)?)
    .bind(node)
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
