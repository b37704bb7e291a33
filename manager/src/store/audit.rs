//! Table `audit`: what people asked the manager to do, who, when, and what came of it.
//!
//! A record is written before anything is done, and once more when it is over. The newest
//! [`MOST`] stay; the retention of facts does not touch them. `details` is JSON of the act's own shape.

use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use super::{Store, StoreError};

/// So many records are kept.
const MOST: i64 = 10_000;

/// A record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AuditRow {
    /// Its number.
    pub(crate) id: i64,
    /// When, in ms.
    pub(crate) at_ms: i64,
    /// Who asked.
    pub(crate) who: String,
    /// What was asked for.
    pub(crate) act: String,
    /// Of what.
    pub(crate) subject: String,
    /// When it was over, in ms.
    pub(crate) ended_ms: Option<i64>,
    /// The act in its own shape.
    pub(crate) details: String,
}

/// What is written.
#[derive(Debug, Clone)]
pub(crate) enum AuditWrite {
    /// Somebody asks for something.
    New(AuditRow),
    /// It is over.
    Ended {
        /// The record's number.
        id: i64,
        /// When.
        ended_ms: i64,
        /// The act as it ended.
        details: String,
    },
}

/// Writes it.
pub(crate) async fn write(
    tx: &mut SqliteConnection,
    record: &AuditWrite,
) -> Result<(), StoreError> {
    let row = match record {
        AuditWrite::New(row) => row,
        AuditWrite::Ended {
            id,
            ended_ms,
            details,
        } => {
            sqlx::query("UPDATE audit SET ended_ms = ?2, details = ?3 WHERE id = ?1")
                .bind(id)
                .bind(ended_ms)
                .bind(details)
                .execute(tx)
                .await?;
            return Ok(());
        }
    };
    sqlx::query(
        "INSERT INTO audit (id, at_ms, who, act, subject, ended_ms, details)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )
    .bind(row.id)
    .bind(row.at_ms)
    .bind(&row.who)
    .bind(&row.act)
    .bind(&row.subject)
    .bind(row.ended_ms)
    .bind(&row.details)
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "DELETE FROM audit WHERE id NOT IN (SELECT id FROM audit ORDER BY id DESC LIMIT ?1)",
    )
    .bind(MOST)
    .execute(tx)
    .await?;
    Ok(())
}

impl Store {
    /// The newest records first, at most so many; of one subject, or of all.
    pub(crate) async fn audit(
        &self,
        subject: Option<&str>,
        limit: i64,
    ) -> Result<Vec<AuditRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, at_ms, who, act, subject, ended_ms, details FROM audit
              WHERE ?1 IS NULL OR subject = ?1 ORDER BY id DESC LIMIT ?2",
        )
        .bind(subject)
        .bind(limit)
        .try_map(|row: SqliteRow| {
            Ok(AuditRow {
                id: row.try_get(0)?,
                at_ms: row.try_get(1)?,
                who: row.try_get(2)?,
                act: row.try_get(3)?,
                subject: row.try_get(4)?,
                ended_ms: row.try_get(5)?,
                details: row.try_get(6)?,
            })
        });
        Ok(rows.fetch_all(self.reader()).await?)
    }

    /// The number of the newest record; 0 without any.
    pub(crate) async fn newest_audit(&self) -> Result<i64, StoreError> {
        let newest = sqlx::query_scalar("SELECT coalesce(max(id), 0) FROM audit");
        Ok(newest.fetch_one(self.reader()).await?)
    }
}
