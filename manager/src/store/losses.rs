//! Table `losses`: source bytes that will never be sent.

use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};
use tributary_common::{ids::BatchId, report::Loss};

use super::{Store, StoreError, streams::StreamKey};
use crate::service::range::Minutes;

/// One loss.
#[derive(Debug, Clone)]
pub(crate) struct LossRow {
    /// The topic.
    pub(crate) topic: String,
    /// The task.
    pub(crate) task: String,
    /// The agent that told it.
    pub(crate) agent: String,
    /// The agent's host.
    pub(crate) host: String,
    /// The file's last known path.
    pub(crate) file: String,
    /// Which physical file.
    pub(crate) generation: u64,
    /// First lost byte.
    pub(crate) start: u64,
    /// The byte after the last lost one.
    pub(crate) end: u64,
    /// Why.
    pub(crate) reason: String,
    /// Lost records, where known.
    pub(crate) records: Option<i64>,
    /// The minute in which it was seen.
    pub(crate) minute: i64,
}

/// Stores a loss, unless it is known. With the batch that its bytes had become.
pub(crate) async fn add(
    tx: &mut SqliteConnection,
    node: i64,
    topic: i64,
    (loss, batch): (&Loss, Option<BatchId>),
    now_ms: i64,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO losses (node_id, topic_id, task, file, generation, span_start, span_end,
                             reason, records, minute, seen_ms, stream, epoch, seq)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)
         ON CONFLICT DO NOTHING",
    )
    .bind(node)
    .bind(topic)
    .bind(loss.task.as_str())
    .bind(&loss.file)
    .bind(loss.generation.0.cast_signed())
    .bind(to_i64(loss.span.start))
    .bind(to_i64(loss.span.end))
    .bind(&loss.reason)
    .bind(loss.records.map(to_i64))
    .bind(i64::from(loss.minute))
    .bind(now_ms)
    .bind(batch.map(|batch| batch.stream.0.cast_signed()))
    .bind(batch.map(|batch| batch.epoch.0.cast_signed()))
    .bind(batch.map(|batch| batch.seq.cast_signed()))
    .execute(tx)
    .await?;
    Ok(())
}

/// Batches that were told as lost have been delivered: they are no losses.
pub(crate) async fn take_back(
    tx: &mut SqliteConnection,
    key: StreamKey,
    seqs: &[u64],
) -> Result<(), StoreError> {
    for seq in seqs {
        sqlx::query(
            "DELETE FROM losses WHERE topic_id = ?1 AND stream = ?2 AND epoch = ?3 AND seq = ?4",
        )
        .bind(key.topic)
        .bind(key.stream)
        .bind(key.epoch)
        .bind(seq.cast_signed())
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}

/// The largest number of bytes or records that is taken at its word: what JSON readers can hold.
const MAX: i64 = (1 << 53) - 1;

/// A count for the table; absurd ones are cut to [`MAX`].
pub(crate) fn to_i64(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(MAX).min(MAX)
}

impl Store {
    /// How many losses a range has, and the newest of them.
    pub(crate) async fn losses(
        &self,
        topic: Option<&str>,
        range: Minutes,
        limit: i64,
    ) -> Result<(i64, Vec<LossRow>), StoreError> {
        let mut tx = self.reader().begin().await?;
        let total = sqlx::query_scalar(
            "SELECT count(*) FROM losses l JOIN topics t ON t.id = l.topic_id
              WHERE (?1 IS NULL OR t.name = ?1) AND l.minute >= ?2 AND l.minute < ?3",
        )
        .bind(topic)
        .bind(range.from)
        .bind(range.to)
        .fetch_one(&mut *tx)
        .await?;
        let rows = sqlx::query(
            "SELECT t.name, l.task, coalesce(n.name, ''), coalesce(n.host, ''), l.file,
                    l.generation, l.span_start, l.span_end, l.reason, l.records, l.minute
               FROM losses l JOIN topics t ON t.id = l.topic_id LEFT JOIN nodes n ON n.id = l.node_id
              WHERE (?1 IS NULL OR t.name = ?1) AND l.minute >= ?2 AND l.minute < ?3
              ORDER BY l.minute DESC, l.id DESC LIMIT ?4",
        )
        .bind(topic)
        .bind(range.from)
        .bind(range.to)
        .bind(limit)
        .try_map(|row: SqliteRow| {
            let number = |index| row.try_get::<i64, _>(index).map(i64::cast_unsigned);
            Ok(LossRow {
                topic: row.try_get(0)?,
                task: row.try_get(1)?,
                agent: row.try_get(2)?,
                host: row.try_get(3)?,
                file: row.try_get(4)?,
                generation: number(5)?,
                start: number(6)?,
                end: number(7)?,
                reason: row.try_get(8)?,
                records: row.try_get(9)?,
                minute: row.try_get(10)?,
            })
        })
        .fetch_all(&mut *tx)
        .await?;
        Ok((total, rows))
    }
}
