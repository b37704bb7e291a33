//! Table `letters`: which records of a batch died, as bytes that [`crate::service::letters`] makes and
//! reads.

use std::collections::HashMap;

use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use super::{StoreError, streams::StreamKey};
use crate::service::letters::BatchLetters;

/// Which batch: its stream's accounts, and its sequence number with its bits as `i64`.
pub(crate) type LetterKey = (StreamKey, i64);

/// What is stored of those batches that have some.
pub(crate) async fn load(
    tx: &mut SqliteConnection,
    keys: impl Iterator<Item = &LetterKey>,
) -> Result<HashMap<LetterKey, BatchLetters>, StoreError> {
    let json: Vec<[i64; 4]> = keys
        .map(|(key, seq)| [key.topic, key.stream, key.epoch, *seq])
        .collect();
    let rows = sqlx::query(
        "SELECT l.topic_id, l.stream, l.epoch, l.seq, l.state
           FROM json_each(?1) k CROSS JOIN letters l
          WHERE l.topic_id = k.value ->> 0 AND l.stream = k.value ->> 1
            AND l.epoch = k.value ->> 2 AND l.seq = k.value ->> 3",
    )
    .bind(serde_json::to_string(&json)?)
    .try_map(|row: SqliteRow| {
        let key = StreamKey {
            topic: row.try_get(0)?,
            stream: row.try_get(1)?,
            epoch: row.try_get(2)?,
        };
        Ok(((key, row.try_get(3)?), row.try_get::<Vec<u8>, _>(4)?))
    })
    .fetch_all(tx)
    .await?;
    let mut found = HashMap::with_capacity(rows.len());
    for (key, state) in rows {
        found.insert(key, BatchLetters::decode(&state)?);
    }
    Ok(found)
}

/// Writes what is known of batches; all states as one blob, as for the streams.
pub(crate) async fn save(
    tx: &mut SqliteConnection,
    writes: &[(LetterKey, Vec<u8>)],
    now_ms: i64,
) -> Result<(), StoreError> {
    if writes.is_empty() {
        return Ok(());
    }
    let mut blob = Vec::new();
    let mut rows: Vec<(i64, i64, i64, i64, usize, usize)> = Vec::with_capacity(writes.len());
    for ((key, seq), state) in writes {
        let place = (blob.len() + 1, state.len());
        rows.push((key.topic, key.stream, key.epoch, *seq, place.0, place.1));
        blob.extend_from_slice(state);
    }
    sqlx::query(
        "INSERT INTO letters (topic_id, stream, epoch, seq, touched_ms, state)
         SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, ?3,
                substr(?2, value ->> 4, value ->> 5) FROM json_each(?1) WHERE true
         ON CONFLICT (topic_id, stream, epoch, seq) DO UPDATE SET
            touched_ms = excluded.touched_ms, state = excluded.state",
    )
    .bind(serde_json::to_string(&rows)?)
    .bind(blob)
    .bind(now_ms)
    .execute(tx)
    .await?;
    Ok(())
}
