//! Table `routes`: where the topics of a bus cluster are to go, who said so, and when.
//!
//! A row is written before any node hears of it. The newest [`MOST`] of a cluster stay; the newest one counts,
//! and the retention of facts does not touch them.

use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use super::{Store, StoreError};

/// So many rows of a cluster are kept.
const MOST: i64 = 100;

/// What somebody asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RoutesRow {
    /// Its number.
    pub(crate) id: i64,
    /// The bus cluster.
    pub(crate) cluster: String,
    /// Its version.
    pub(crate) version: String,
    /// When, in ms.
    pub(crate) at_ms: i64,
    /// Who asked.
    pub(crate) who: String,
    /// The document; none where the nodes are to go by their files.
    pub(crate) text: Option<String>,
}

/// Writes it.
pub(crate) async fn write(tx: &mut SqliteConnection, row: &RoutesRow) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO routes (id, cluster, version, at_ms, who, text)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )
    .bind(row.id)
    .bind(&row.cluster)
    .bind(&row.version)
    .bind(row.at_ms)
    .bind(&row.who)
    .bind(&row.text)
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "DELETE FROM routes WHERE cluster = ?1 AND id NOT IN
         (SELECT id FROM routes WHERE cluster = ?1 ORDER BY id DESC LIMIT ?2)",
    )
    .bind(&row.cluster)
    .bind(MOST)
    .execute(tx)
    .await?;
    Ok(())
}

impl Store {
    /// What counts of each cluster.
    pub(crate) async fn routes(&self) -> Result<Vec<RoutesRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, cluster, version, at_ms, who, text FROM routes
              WHERE id IN (SELECT max(id) FROM routes GROUP BY cluster) ORDER BY cluster",
        )
        .try_map(|row: SqliteRow| {
            Ok(RoutesRow {
                id: row.try_get(0)?,
                cluster: row.try_get(1)?,
                version: row.try_get(2)?,
                at_ms: row.try_get(3)?,
                who: row.try_get(4)?,
                text: row.try_get(5)?,
            })
        });
        Ok(rows.fetch_all(self.reader()).await?)
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn row(id: i64, cluster: &str, text: Option<&str>) -> RoutesRow {
        RoutesRow {
            id,
            cluster: cluster.to_owned(),
            version: format!("{id}-0a"),
            at_ms: id * 10,
            who: "127.0.0.1".to_owned(),
            text: text.map(str::to_owned),
        }
    }

    #[tokio::test]
    async fn the_newest_row_of_each_cluster_counts_and_only_so_many_stay() {
        let folder = TempDir::new().unwrap();
        let store = Store::open(&folder.path().join("manager.db")).await;
        let store = store.unwrap();
        assert_eq!(store.routes().await.unwrap(), []);
        let mut tx = store.writer().begin().await.unwrap();
        write(&mut tx, &row(1, "far", Some("b"))).await.unwrap();
        for id in 2..MOST + 10 {
            write(&mut tx, &row(id, "dc1", Some("a"))).await.unwrap();
        }
        let last = row(MOST + 10, "dc1", None);
        write(&mut tx, &last).await.unwrap();
        tx.commit().await.unwrap();
        let known = store.routes().await.unwrap();
        assert_eq!(known, [last, row(1, "far", Some("b"))]);
        let count = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM routes");
        assert_eq!(count.fetch_one(store.reader()).await.unwrap(), MOST + 1);
    }
}
