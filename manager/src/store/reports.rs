//! Table `reports`: which numbers of a node's life were taken.

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
    epoch: i64,
) -> Result<RangeSet, StoreError> {
    let bytes: Option<Vec<u8>> =
        sqlx::query_scalar("SELECT numbers FROM reports WHERE node_id = ?1 AND epoch = ?2")
            .bind(node)
            .bind(epoch)
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

/// Stores the numbers that were taken.
pub(crate) async fn save(
    tx: &mut SqliteConnection,
    node: i64,
    epoch: i64,
    numbers: &RangeSet,
    now_ms: i64,
) -> Result<(), StoreError> {
    let bytes = postcard::to_extend(numbers, vec![VERSION]).map_err(StateError::Damaged)?;
    sqlx::query(
        "INSERT INTO reports (node_id, epoch, touched_ms, numbers) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (node_id, epoch) DO UPDATE SET
            touched_ms = excluded.touched_ms, numbers = excluded.numbers",
    )
    .bind(node)
    .bind(epoch)
    .bind(now_ms)
    .bind(bytes)
    .execute(tx)
    .await?;
    Ok(())
}
