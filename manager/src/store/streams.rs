//! Table `streams`: the accounts of each stream and agent life, as bytes that
//! [`crate::service::ledger`] makes and reads.

use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use super::StoreError;

/// Which accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct StreamKey {
    /// The database's number of the topic.
    pub(crate) topic: i64,
    /// The stream, with its bits as `i64`.
    pub(crate) stream: i64,
    /// The agent's life, with its bits as `i64`.
    pub(crate) epoch: i64,
}

/// Accounts as stored.
#[derive(Debug)]
pub(crate) struct StreamRow {
    /// Which.
    pub(crate) key: StreamKey,
    /// The node whose snapshot holds batches of it.
    pub(crate) holder: Option<i64>,
    /// The state as stored.
    pub(crate) state: Vec<u8>,
}

fn key(row: &SqliteRow) -> Result<StreamKey, sqlx::Error> {
    Ok(StreamKey {
        topic: row.try_get(0)?,
        stream: row.try_get(1)?,
        epoch: row.try_get(2)?,
    })
}

/// The stored accounts of those keys that have some.
pub(crate) async fn load(
    tx: &mut SqliteConnection,
    keys: &[StreamKey],
) -> Result<Vec<StreamRow>, StoreError> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let json: Vec<[i64; 3]> = keys
        .iter()
        .map(|key| [key.topic, key.stream, key.epoch])
        .collect();
    let rows = sqlx::query(
        "SELECT s.topic_id, s.stream, s.epoch, s.holder, s.state
           FROM json_each(?1) k CROSS JOIN streams s
          WHERE s.topic_id = k.value ->> 0 AND s.stream = k.value ->> 1
            AND s.epoch = k.value ->> 2",
    )
    .bind(serde_json::to_string(&json)?)
    .try_map(|row: SqliteRow| {
        Ok(StreamRow {
            key: key(&row)?,
            holder: row.try_get(3)?,
            state: row.try_get(4)?,
        })
    });
    Ok(rows.fetch_all(tx).await?)
}

/// The accounts of which a node's last snapshot held batches.
pub(crate) async fn held_by(
    tx: &mut SqliteConnection,
    node: i64,
) -> Result<Vec<StreamKey>, StoreError> {
    let rows = sqlx::query("SELECT topic_id, stream, epoch FROM streams WHERE holder = ?1");
    Ok(rows
        .bind(node)
        .try_map(|row: SqliteRow| key(&row))
        .fetch_all(tx)
        .await?)
}

/// Writes accounts. All states go as one blob and are cut apart in the statement: one statement
/// per report, however many streams it has.
pub(crate) async fn save(
    tx: &mut SqliteConnection,
    writes: &[StreamRow],
    now_ms: i64,
) -> Result<(), StoreError> {
    if writes.is_empty() {
        return Ok(());
    }
    let mut blob = Vec::new();
    let mut rows: Vec<(i64, i64, i64, Option<i64>, usize, usize)> =
        Vec::with_capacity(writes.len());
    for write in writes {
        let StreamKey {
            topic,
            stream,
            epoch,
        } = write.key;
        rows.push((
            topic,
            stream,
            epoch,
            write.holder,
            blob.len() + 1,
            write.state.len(),
        ));
        blob.extend_from_slice(&write.state);
    }
    sqlx::query(
        "INSERT INTO streams (topic_id, stream, epoch, holder, touched_ms, state)
         SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, ?3,
                substr(?2, value ->> 4, value ->> 5) FROM json_each(?1) WHERE true
         ON CONFLICT (topic_id, stream, epoch) DO UPDATE SET
            holder = excluded.holder, touched_ms = excluded.touched_ms, state = excluded.state",
    )
    .bind(serde_json::to_string(&rows)?)
    .bind(blob)
    .bind(now_ms)
    .execute(tx)
    .await?;
    Ok(())
}
