//! Table `switches`: which destination of its route a bus node used until when, and which one since.
//!
//! The newest [`MOST`] stay; the retention of facts does not touch them: what lies in a standby cluster stays there for as
//! long as that keeps it.

use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};
use tributary_common::report::Switched;

use super::{Store, StoreError};

/// So many are kept.
const MOST: i64 = 10_000;

/// A change, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SwitchRow {
    /// The bus node.
    pub(crate) node: String,
    /// Its cluster.
    pub(crate) cluster: String,
    /// The pattern of the topics.
    pub(crate) topic: String,
    /// When, in ms.
    pub(crate) at_ms: i64,
    /// Used until then.
    pub(crate) from: String,
    /// Since when, in ms.
    pub(crate) used_from_ms: i64,
    /// Used since.
    pub(crate) to: String,
    /// Why.
    pub(crate) why: String,
}

/// Writes what a node tells, unless it is known.
pub(crate) async fn add(
    tx: &mut SqliteConnection,
    node: i64,
    told: &[Switched],
) -> Result<(), StoreError> {
    let ms = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
    for one in told {
        sqlx::query(
            "INSERT INTO switches (node_id, topic, at_ms, from_name, used_from_ms, to_name, why)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING",
        )
        .bind(node)
        .bind(&one.topic)
        .bind(ms(one.at_ms))
        .bind(one.from.as_str())
        .bind(ms(one.used_from_ms))
        .bind(one.to.as_str())
        .bind(&one.why)
        .execute(&mut *tx)
        .await?;
    }
    if !told.is_empty() {
        sqlx::query(
            "DELETE FROM switches WHERE id NOT IN (SELECT id FROM switches ORDER BY id DESC LIMIT ?1)",
        )
        .bind(MOST)
        .execute(tx)
        .await?;
    }
    Ok(())
}

impl Store {
    /// The newest first, at most so many; of one cluster, or of all.
    pub(crate) async fn switches(
        &self,
        cluster: Option<&str>,
        limit: i64,
    ) -> Result<Vec<SwitchRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT nodes.name, nodes.cluster, topic, at_ms, from_name, used_from_ms, to_name, why
               FROM switches JOIN nodes ON nodes.id = node_id
              WHERE ?1 IS NULL OR nodes.cluster = ?1 ORDER BY at_ms DESC, switches.id DESC LIMIT ?2",
        )
        .bind(cluster)
        .bind(limit)
        .try_map(|row: SqliteRow| {
            Ok(SwitchRow {
                node: row.try_get(0)?,
                cluster: row.try_get(1)?,
                topic: row.try_get(2)?,
                at_ms: row.try_get(3)?,
                from: row.try_get(4)?,
                used_from_ms: row.try_get(5)?,
                to: row.try_get(6)?,
                why: row.try_get(7)?,
            })
        });
        Ok(rows.fetch_all(self.reader()).await?)
    }
}
