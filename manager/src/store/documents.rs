//! Table `documents`: what parts are given over their files, who said so, and when.
//!
//! A row is written before any part hears of it. The newest [`MOST`] for the same parts stay; the newest one counts,
//! and the retention of facts does not touch them.

use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use super::{Store, StoreError};

/// So many rows for the same parts are kept.
const MOST: i64 = 100;

/// Parts that go by one document.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    /// The nodes of a bus cluster: where topics go.
    Cluster(String),
    /// The agents of a zone: what they collect.
    Zone(String),
    /// One agent: what it collects.
    Agent(String),
}

impl Scope {
    /// The word of the table, and the name.
    fn columns(&self) -> (&'static str, &str) {
        match self {
            Self::Cluster(name) => ("cluster", name),
            Self::Zone(name) => ("zone", name),
            Self::Agent(name) => ("agent", name),
        }
    }

    /// As they stand in the table; none of a later version's.
    fn from_columns(word: &str, name: String) -> Option<Self> {
        match word {
            "cluster" => Some(Self::Cluster(name)),
            "zone" => Some(Self::Zone(name)),
            "agent" => Some(Self::Agent(name)),
            _other => None,
        }
    }
}

/// What somebody asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DocumentRow {
    /// Its number.
    pub(crate) id: i64,
    /// For whom.
    pub(crate) scope: Scope,
    /// Its version.
    pub(crate) version: String,
    /// When, in ms.
    pub(crate) at_ms: i64,
    /// Who asked.
    pub(crate) who: String,
    /// The document; none where the parts are to go by their files.
    pub(crate) text: Option<String>,
}

/// Writes it.
pub(crate) async fn write(tx: &mut SqliteConnection, row: &DocumentRow) -> Result<(), StoreError> {
    let (scope, name) = row.scope.columns();
    sqlx::query(
        "INSERT INTO documents (id, scope, name, version, at_ms, who, text)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )
    .bind(row.id)
    .bind(scope)
    .bind(name)
    .bind(&row.version)
    .bind(row.at_ms)
    .bind(&row.who)
    .bind(&row.text)
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "DELETE FROM documents WHERE scope = ?1 AND name = ?2 AND id NOT IN
         (SELECT id FROM documents WHERE scope = ?1 AND name = ?2 ORDER BY id DESC LIMIT ?3)",
    )
    .bind(scope)
    .bind(name)
    .bind(MOST)
    .execute(tx)
    .await?;
    Ok(())
}

impl Store {
    /// What counts for each.
    pub(crate) async fn documents(&self) -> Result<Vec<DocumentRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, scope, name, version, at_ms, who, text FROM documents
              WHERE id IN (SELECT max(id) FROM documents GROUP BY scope, name)
              ORDER BY scope, name",
        )
        .try_map(|row: SqliteRow| {
            let Some(scope) = Scope::from_columns(row.try_get(1)?, row.try_get(2)?) else {
                return Ok(None);
            };
            Ok(Some(DocumentRow {
                id: row.try_get(0)?,
                scope,
                version: row.try_get(3)?,
                at_ms: row.try_get(4)?,
                who: row.try_get(5)?,
                text: row.try_get(6)?,
            }))
        });
        let rows = rows.fetch_all(self.reader()).await?;
        Ok(rows.into_iter().flatten().collect())
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn row(id: i64, scope: Scope, text: Option<&str>) -> DocumentRow {
        DocumentRow {
            id,
            scope,
            version: format!("{id}-0a"),
            at_ms: id * 10,
            who: "127.0.0.1".to_owned(),
            text: text.map(str::to_owned),
        }
    }

    #[tokio::test]
    async fn the_newest_row_for_each_counts_and_only_so_many_stay() {
        let folder = TempDir::new().unwrap();
        let store = Store::open(&folder.path().join("manager.db")).await;
        let store = store.unwrap();
        assert_eq!(store.documents().await.unwrap(), []);
        let mut tx = store.writer().begin().await.unwrap();
        let far = row(1, Scope::Cluster("far".to_owned()), Some("b"));
        // A zone of the same name is another.
        let zone = row(2, Scope::Zone("far".to_owned()), Some("c"));
        let agent = row(3, Scope::Agent("a1".to_owned()), None);
        for row in [&far, &zone, &agent] {
            write(&mut tx, row).await.unwrap();
        }
        let dc1 = |id, text| row(id, Scope::Cluster("dc1".to_owned()), text);
        for id in 4..MOST + 10 {
            write(&mut tx, &dc1(id, Some("a"))).await.unwrap();
        }
        let last = dc1(MOST + 10, None);
        write(&mut tx, &last).await.unwrap();
        tx.commit().await.unwrap();
        let known = store.documents().await.unwrap();
        assert_eq!(known, [agent, last, far, zone]);
        let count = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM documents");
        assert_eq!(count.fetch_one(store.reader()).await.unwrap(), MOST + 3);
    }
}
