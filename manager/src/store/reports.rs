//! Table `reports`: which numbers of a node's life were taken.

use std::collections::HashMap;

use sqlx::SqliteConnection;
use tributary_common::span::RangeSet;

use super::StoreError;
use crate::service::ledger::StateError;

/// The version of a stored set that this build writes and reads.
const VERSION: u8 = 1;

/// The numbers that were taken.
pub(crate) async fn numbers(
    tx: &mut SqliteConnection,
    node: i64,
    epoch: u64,
) -> Result<RangeSet, StoreError> {
    let bytes: Option<Vec<u8>> =
        sqlx::query_scalar("SELECT numbers FROM reports WHERE node_id = ?1 AND epoch = ?2")
            .bind(node)
            .bind(epoch.cast_signed())
            .fetch_optional(tx)
            .await?;
    match bytes.as_deref().map(<[u8]>::split_first) {
        None => Ok(RangeSet::default()),
        Some(Some((&VERSION, body))) => {
            Ok(postcard::from_bytes(body).map_err(StateError::Damaged)?)
        }
        Some(Some((&version, _))) => Err(StateError::Version(version).into()),
        Some(None) => Err(StateError::Empty.into()),
    }
}

/// Stores the numbers that were taken, per node and life: one statement, as in
/// [`super::streams::save`].
pub(crate) async fn save(
    tx: &mut SqliteConnection,
    numbers: &HashMap<(i64, u64), RangeSet>,
    now_ms: i64,
) -> Result<(), StoreError> {
    if numbers.is_empty() {
        return Ok(());
    }
    let mut blob = Vec::new();
    let mut rows: Vec<(i64, i64, usize, usize)> = Vec::with_capacity(numbers.len());
    for (&(node, epoch), set) in numbers {
        let bytes = postcard::to_extend(set, vec![VERSION]).map_err(StateError::Damaged)?;
        rows.push((node, epoch.cast_signed(), blob.len() + 1, bytes.len()));
        blob.extend_from_slice(&bytes);
    }
    sqlx::query(
        "INSERT INTO reports (node_id, epoch, touched_ms, numbers)
         SELECT value ->> 0, value ->> 1, ?3, substr(?2, value ->> 2, value ->> 3)
           FROM json_each(?1) WHERE true
         ON CONFLICT (node_id, epoch) DO UPDATE SET
            touched_ms = excluded.touched_ms, numbers = excluded.numbers",
    )
    .bind(serde_json::to_string(&rows)?)
    .bind(blob)
    .bind(now_ms)
    .execute(tx)
    .await?;
    Ok(())
}
