//! The retention: what was not touched for long goes, in small steps.

use sqlx::SqliteConnection;

use super::StoreError;

/// Rows that one statement deletes, so that reports never wait long.
const STEP: i64 = 5_000;

/// Deletes up to [`STEP`] rows per table of what was last touched before `cutoff_ms`. Returns how
/// many rows went; 0 means that nothing is left to do.
pub(crate) async fn forget(tx: &mut SqliteConnection, cutoff_ms: i64) -> Result<u64, StoreError> {
    let statements = [
        "DELETE FROM nodes WHERE id IN (SELECT id FROM nodes WHERE last_ms < ?1 LIMIT ?2)",
        // What a living agent holds stays counted, however long it has been holding it.
        "DELETE FROM streams WHERE (topic_id, stream, epoch) IN
            (SELECT topic_id, stream, epoch FROM streams s WHERE touched_ms < ?1
                AND NOT EXISTS (SELECT 1 FROM nodes n WHERE n.id = s.holder) LIMIT ?2)",
        "DELETE FROM tallies WHERE (topic_id, grain, at) IN
            (SELECT topic_id, grain, at FROM tallies t WHERE touched_ms < ?1
                AND (in_flight + refused <= 0 OR NOT EXISTS
                    (SELECT 1 FROM streams s WHERE s.topic_id = t.topic_id
                        AND s.holder IS NOT NULL)) LIMIT ?2)",
        // What is known of a batch's dead letters goes after its stream: else a bus node that tells them
        // again would have them counted twice.
        "DELETE FROM letters WHERE (topic_id, stream, epoch, seq) IN
            (SELECT topic_id, stream, epoch, seq FROM letters l WHERE touched_ms < ?1
                AND NOT EXISTS (SELECT 1 FROM streams s WHERE s.topic_id = l.topic_id
                    AND s.stream = l.stream AND s.epoch = l.epoch) LIMIT ?2)",
        "DELETE FROM losses WHERE id IN (SELECT id FROM losses WHERE seen_ms < ?1 LIMIT ?2)",
        "DELETE FROM reports WHERE (node_id, epoch) IN
            (SELECT node_id, epoch FROM reports WHERE touched_ms < ?1 LIMIT ?2)",
        "DELETE FROM topic_nodes WHERE (topic_id, node_id) IN
            (SELECT topic_id, node_id FROM topic_nodes WHERE last_ms < ?1 LIMIT ?2)",
        "DELETE FROM topics WHERE id IN (SELECT id FROM topics t WHERE t.last_ms < ?1
            AND NOT EXISTS (SELECT 1 FROM tallies m WHERE m.topic_id = t.id)
            AND NOT EXISTS (SELECT 1 FROM topic_nodes n WHERE n.topic_id = t.id)
            AND NOT EXISTS (SELECT 1 FROM streams s WHERE s.topic_id = t.id) LIMIT ?2)",
    ];
    let mut gone = 0;
    for statement in statements {
        let done = sqlx::query(statement)
            .bind(cutoff_ms)
            .bind(STEP)
            .execute(&mut *tx)
            .await?;
        gone += done.rows_affected();
    }
    Ok(gone)
}
