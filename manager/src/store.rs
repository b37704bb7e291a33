//! The database: SQLite through sqlx, one writer, several readers, migrations in the binary.
//!
//! # Constraints
//! A report that was answered is safe: the write-ahead log is synced with every commit. Readers
//! never wait for the writer. One manager per file: [`crate::serve`] holds a lock beside it.
//!
//! Only [`crate::service::intake`] writes, through [`Store::writer`]; handlers ask. One file per
//! table beside this one, typed rows in and out.

pub(crate) mod audit;
pub(crate) mod documents;
pub(crate) mod letters;
pub(crate) mod losses;
pub(crate) mod nodes;
pub(crate) mod reports;
pub(crate) mod streams;
pub(crate) mod switches;
pub(crate) mod tallies;
pub(crate) mod tidy;

use std::{path::Path, time::Duration};

use sqlx::{
    SqlSafeStr, SqlitePool,
    migrate::{MigrateError, Migration, MigrationType, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use crate::service::ledger::StateError;

/// Connections for questions: one per core that may answer at once, and one to spare.
const READERS: u32 = 4;
/// How long a statement waits for another process's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// The steps that make the tables, in order. A step that was released never changes.
fn migrations() -> Migrator {
    let step = |version, name: &'static str, sql: &'static str| {
        Migration::new(
            version,
            name.into(),
            MigrationType::Simple,
            sql.into_sql_str(),
            false,
        )
    };
    Migrator::with_migrations(vec![
        step(1, "ledger", include_str!("../migrations/0001_ledger.sql")),
        step(2, "days", include_str!("../migrations/0002_days.sql")),
        step(
            3,
            "lost_batches",
            include_str!("../migrations/0003_lost_batches.sql"),
        ),
        step(4, "spilled", include_str!("../migrations/0004_spilled.sql")),
        step(5, "dead", include_str!("../migrations/0005_dead.sql")),
        step(6, "audit", include_str!("../migrations/0006_audit.sql")),
        step(7, "routes", include_str!("../migrations/0007_routes.sql")),
        step(
            8,
            "switches",
            include_str!("../migrations/0008_switches.sql"),
        ),
        step(
            9,
            "documents",
            include_str!("../migrations/0009_documents.sql"),
        ),
    ])
}

/// Why the database did not do it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// The file or its folder can not be opened. Nothing runs without it.
    #[error("failed to open the database {path}: {reason}")]
    Open {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
    /// The file was written by a newer manager; it is not touched.
    #[error(
        "database {path} was written by a newer version of the manager (migration {version}); start that version, or give another database"
    )]
    Newer {
        /// The file.
        path: String,
        /// The unknown migration.
        version: i64,
    },
    /// A statement failed. The request can be sent again.
    #[error("failed to use the database: {0}")]
    Db(#[from] sqlx::Error),
    /// A stored state can not be read.
    #[error("failed to read the database: {0}")]
    State(#[from] StateError),
    /// A value can not be written as JSON, or read.
    #[error("failed to convert for the database: {0}")]
    Json(#[from] serde_json::Error),
}

/// The database; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    read: SqlitePool,
    write: SqlitePool,
}

impl Store {
    /// Opens the file, makes it and its folder where they are missing, and brings its tables up to
    /// date.
    pub(crate) async fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |reason: String| StoreError::Open {
            path: path.display().to_string(),
            reason,
        };
        if let Some(folder) = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
        {
            tributary_common::disk::create_dir_all(folder).map_err(|e| failed(e.to_string()))?;
        }
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT)
            .foreign_keys(false)
            .pragma("cache_size", "-16384")
            .pragma("temp_store", "memory");
        let pool = |connections| SqlitePoolOptions::new().max_connections(connections);
        let write = pool(1).connect_with(options.clone()).await;
        let write = write.map_err(|e| failed(e.to_string()))?;
        match migrations().run(&write).await {
            Ok(()) => {}
            Err(
                MigrateError::VersionMissing(version) | MigrateError::VersionTooNew(version, _),
            ) => {
                return Err(StoreError::Newer {
                    path: path.display().to_string(),
                    version,
                });
            }
            Err(error) => return Err(failed(error.to_string())),
        }
        let read = pool(READERS).connect_with(options.read_only(true)).await;
        Ok(Self {
            read: read.map_err(|e| failed(e.to_string()))?,
            write,
        })
    }

    /// The one connection that writes.
    pub(crate) fn writer(&self) -> &SqlitePool {
        &self.write
    }

    /// Connections for questions.
    fn reader(&self) -> &SqlitePool {
        &self.read
    }

    /// Whether the database answers.
    pub(crate) async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1 FROM topics LIMIT 1")
            .execute(self.reader())
            .await?;
        Ok(())
    }

    /// Closes all connections; the write-ahead log is folded into the file.
    pub(crate) async fn close(&self) {
        self.read.close().await;
        self.write.close().await;
    }
}
