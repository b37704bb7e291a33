//! Tables `topics` and `tallies`: the sums per topic and minute (and again per hour and day).

use std::collections::HashMap;

use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use super::{Store, StoreError};
use crate::service::{
    range::{Grain, Minutes, Named, RangeError},
    states::SILENT_AFTER_MS,
    tally::Tally,
};

/// A sum's columns in the order of [`Tally::columns`]; no row below 0 (one can fall below when the
/// retention took the rest of its story), none above what JSON can carry.
macro_rules! sums {
    ($row:literal) => {
        concat!(
            sums!(@ $row, "read"), ", ", sums!(@ $row, "sent"), ", ", sums!(@ $row, "received"), ", ",
            sums!(@ $row, "delivered"), ", ", sums!(@ $row, "in_flight"), ", ",
            sums!(@ $row, "refused"), ", ", sums!(@ $row, "missing"), ", ", sums!(@ $row, "ahead"), ", ",
            sums!(@ $row, "duplicates"), ", ", sums!(@ $row, "doubled"), ", ", sums!(@ $row, "dropped"), ", ",
            sums!(@ $row, "spilled"), ", ", sums!(@ $row, "dead"), ", ", sums!(@ $row, "purged"), ", ",
            sums!(@ $row, "replayed")
        )
    };
    (@ $row:literal, $column:literal) => {
        concat!("coalesce(sum(min(max(", $row, ".", $column, ", 0), 9007199254740991)), 0)")
    };
}

/// One topic with its sums.
#[derive(Debug, Clone)]
pub(crate) struct TopicRow {
    /// The database's number for it.
    pub(crate) id: i64,
    /// Its name.
    pub(crate) topic: String,
    /// The sums within the range.
    pub(crate) tally: Tally,
    /// The sums of every minute.
    pub(crate) total: Tally,
    /// The first and the last minute that has records, of all.
    pub(crate) found: Option<(i64, i64)>,
    /// When something new was heard of it last, in ms.
    pub(crate) last_ms: i64,
    /// Agents that told facts of it.
    pub(crate) agents: i64,
    /// Of these, silent ones.
    pub(crate) silent_agents: i64,
    /// Told losses within the range.
    pub(crate) losses: i64,
    /// Their source bytes.
    pub(crate) lost_bytes: i64,
}

fn tally(row: &SqliteRow, first: usize) -> Result<Tally, sqlx::Error> {
    let mut columns = [0; Tally::COLUMNS];
    for (index, column) in columns.iter_mut().enumerate() {
        *column = row.try_get(first + index)?;
    }
    Ok(Tally::from_columns(columns))
}

impl Store {
    /// All topics by name, with their sums.
    pub(crate) async fn topics(
        &self,
        range: Minutes,
        now_ms: i64,
    ) -> Result<Vec<TopicRow>, StoreError> {
        self.topics_where(None, range, now_ms).await
    }

    /// One topic with its sums; none when it is unknown.
    pub(crate) async fn topic(
        &self,
        name: &str,
        range: Minutes,
        now_ms: i64,
    ) -> Result<Option<TopicRow>, StoreError> {
        Ok(self.topics_where(Some(name), range, now_ms).await?.pop())
    }

    /// One read transaction, so that all figures are of one moment.
    async fn topics_where(
        &self,
        name: Option<&str>,
        range: Minutes,
        now_ms: i64,
    ) -> Result<Vec<TopicRow>, StoreError> {
        let mut tx = self.reader().begin().await?;
        let mut rows = sqlx::query(
            "SELECT t.id, t.name, t.last_ms,
                    (SELECT count(*) FROM topic_nodes tn WHERE tn.topic_id = t.id),
                    (SELECT count(*) FROM topic_nodes tn JOIN nodes n ON n.id = tn.node_id
                      WHERE tn.topic_id = t.id AND n.last_ms < ?2),
                    (SELECT count(*) FROM losses l
                      WHERE l.topic_id = t.id AND l.minute >= ?3 AND l.minute < ?4),
                    (SELECT coalesce(sum(l.span_end - l.span_start), 0) FROM losses l
                      WHERE l.topic_id = t.id AND l.minute >= ?3 AND l.minute < ?4),
                    (SELECT min(m.at) FROM tallies m WHERE m.topic_id = t.id AND m.grain = 1),
                    (SELECT max(m.at) FROM tallies m WHERE m.topic_id = t.id AND m.grain = 1)
               FROM topics t WHERE ?1 IS NULL OR t.name = ?1 ORDER BY t.name",
        )
        .bind(name)
        .bind(now_ms.saturating_sub(SILENT_AFTER_MS))
        .bind(range.from)
        .bind(range.to)
        .try_map(|row: SqliteRow| {
            Ok(TopicRow {
                id: row.try_get(0)?,
                topic: row.try_get(1)?,
                tally: Tally::default(),
                total: Tally::default(),
                found: row.try_get::<Option<_>, _>(7)?.zip(row.try_get(8)?),
                last_ms: row.try_get(2)?,
                agents: row.try_get(3)?,
                silent_agents: row.try_get(4)?,
                losses: row.try_get(5)?,
                lost_bytes: row.try_get(6)?,
            })
        })
        .fetch_all(&mut *tx)
        .await?;
        let only = name.and(rows.first()).map(|row| row.id);
        let every = Minutes::named(Named::All, now_ms);
        let totals = sums(&mut tx, only, every).await?;
        let within = match range == every {
            true => totals.clone(),
            false => sums(&mut tx, only, range).await?,
        };
        for row in &mut rows {
            row.tally = within.get(&row.id).copied().unwrap_or_default();
            row.total = totals.get(&row.id).copied().unwrap_or_default();
        }
        Ok(rows)
    }

    /// What a chart of a topic shows; none when the topic is unknown. Without a range: the last
    /// hour, or where it has no records the hour up to the last one that has.
    pub(crate) async fn topic_chart(
        &self,
        name: &str,
        range: Option<Minutes>,
        now_ms: i64,
    ) -> Result<Option<Result<Chart, RangeError>>, StoreError> {
        let mut tx = self.reader().begin().await?;
        let id = sqlx::query_scalar::<_, i64>("SELECT id FROM topics WHERE name = ?1");
        let Some(id) = id.bind(name).fetch_optional(&mut *tx).await? else {
            return Ok(None);
        };
        let range = match range {
            Some(range) => range,
            None => default_hour(&mut tx, id, now_ms).await?,
        };
        let found = found(&mut tx, id, range).await?;
        let (range, grain) = match range.for_chart(found) {
            Ok(chart) => chart,
            Err(error) => return Ok(Some(Err(error))),
        };
        let rows = sqlx::query(concat!(
            "SELECT m.at, ",
            sums!("m"),
            " FROM tallies m WHERE m.topic_id = ?1 AND m.grain = ?2 AND m.at >= ?3 AND m.at < ?4",
            " GROUP BY m.at ORDER BY m.at"
        ))
        .bind(id)
        .bind(grain.minutes())
        .bind(range.from / grain.minutes())
        .bind(range.to / grain.minutes())
        .try_map(|row: SqliteRow| Ok((row.try_get(0)?, tally(&row, 1)?)))
        .fetch_all(&mut *tx)
        .await?;
        Ok(Some(Ok(Chart { range, grain, rows })))
    }
}

/// The points of a chart.
#[derive(Debug)]
pub(crate) struct Chart {
    /// The minutes that it covers: whole steps of the grain.
    pub(crate) range: Minutes,
    /// How wide a point is.
    pub(crate) grain: Grain,
    /// The steps that have records, in order, counted from 1970 by the grain.
    pub(crate) rows: Vec<(i64, Tally)>,
}

/// The first and the last minute of a range that has records.
async fn found(
    tx: &mut SqliteConnection,
    topic: i64,
    range: Minutes,
) -> Result<Option<(i64, i64)>, StoreError> {
    let ends = "SELECT
        (SELECT min(at) FROM tallies WHERE topic_id = ?1 AND grain = 1 AND at >= ?2 AND at < ?3),
        (SELECT max(at) FROM tallies WHERE topic_id = ?1 AND grain = 1 AND at >= ?2 AND at < ?3)";
    let (first, last): (Option<i64>, Option<i64>) = sqlx::query_as(ends)
        .bind(topic)
        .bind(range.from)
        .bind(range.to)
        .fetch_one(tx)
        .await?;
    Ok(first.zip(last))
}

async fn default_hour(
    tx: &mut SqliteConnection,
    topic: i64,
    now_ms: i64,
) -> Result<Minutes, StoreError> {
    let now = Minutes::named(Named::H1, now_ms);
    if found(tx, topic, now).await?.is_some() {
        return Ok(now);
    }
    let ever = found(tx, topic, Minutes::named(Named::All, now_ms)).await?;
    Ok(ever.map_or(now, |(_first, last)| Minutes::hour_to(last)))
}

/// The sums of a range per topic, of one topic or of all.
async fn sums(
    tx: &mut SqliteConnection,
    only: Option<i64>,
    range: Minutes,
) -> Result<HashMap<i64, Tally>, StoreError> {
    let mut sums = HashMap::new();
    for (grain, part) in range.split() {
        add_sums(tx, only, grain, part, &mut sums).await?;
    }
    Ok(sums)
}

/// Adds the sums of a range of minutes, hours or days.
async fn add_sums(
    tx: &mut SqliteConnection,
    only: Option<i64>,
    grain: Grain,
    part: Minutes,
    sums: &mut HashMap<i64, Tally>,
) -> Result<(), StoreError> {
    let rows: Vec<(i64, Tally)> = sqlx::query(concat!(
        "SELECT t.id, ",
        sums!("m"),
        " FROM topics t JOIN tallies m ON m.topic_id = t.id AND m.grain = ?2",
        " AND m.at >= ?3 AND m.at < ?4 WHERE ?1 IS NULL OR t.id = ?1 GROUP BY t.id"
    ))
    .bind(only)
    .bind(grain.minutes())
    .bind(part.from)
    .bind(part.to)
    .try_map(|row: SqliteRow| Ok((row.try_get(0)?, tally(&row, 1)?)))
    .fetch_all(tx)
    .await?;
    for (id, part) in rows {
        sums.entry(id).or_default().add(&part);
    }
    Ok(())
}

/// The number of a topic, made when it is new.
pub(crate) async fn topic_id(
    tx: &mut SqliteConnection,
    name: &str,
    now_ms: i64,
) -> Result<i64, StoreError> {
    let known = sqlx::query_scalar("SELECT id FROM topics WHERE name = ?1").bind(name);
    if let Some(id) = known.fetch_optional(&mut *tx).await? {
        return Ok(id);
    }
    let new = "INSERT INTO topics (name, first_ms, last_ms) VALUES (?1, ?2, ?2) RETURNING id";
    Ok(sqlx::query_scalar(new)
        .bind(name)
        .bind(now_ms)
        .fetch_one(tx)
        .await?)
}

/// Adds differences per (topic, minute) to the minutes, hours and days, and marks the topics as heard of.
pub(crate) async fn add(
    tx: &mut SqliteConnection,
    deltas: &HashMap<(i64, u32), Tally>,
    now_ms: i64,
) -> Result<(), StoreError> {
    let mut rows: HashMap<(i64, i64, i64), Tally> = HashMap::new();
    for (&(topic, minute), delta) in deltas.iter().filter(|(_, delta)| !delta.is_zero()) {
        let minute = i64::from(minute);
        for grain in [Grain::Minute, Grain::Hour, Grain::Day] {
            let step = grain.minutes();
            rows.entry((topic, step, minute / step))
                .or_default()
                .add(delta);
        }
    }
    if rows.is_empty() {
        return Ok(());
    }
    let json: Vec<[i64; 3 + Tally::COLUMNS]> = rows
        .iter()
        .map(|(&(topic, grain, at), tally)| {
            let mut row = [0; 3 + Tally::COLUMNS];
            row[..3].copy_from_slice(&[topic, grain, at]);
            row[3..].copy_from_slice(&tally.columns());
            row
        })
        .collect();
    sqlx::query(
        "INSERT INTO tallies (topic_id, grain, at, read, sent, received, delivered, in_flight,
                              refused, missing, ahead, duplicates, doubled, dropped, spilled,
                              dead, purged, replayed, touched_ms)
         SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5,
                value ->> 6, value ->> 7, value ->> 8, value ->> 9, value ->> 10, value ->> 11,
                value ->> 12, value ->> 13, value ->> 14, value ->> 15,
                value ->> 16, value ->> 17, ?2 FROM json_each(?1) WHERE true
         ON CONFLICT (topic_id, grain, at) DO UPDATE SET
            read = read + excluded.read, sent = sent + excluded.sent,
            received = received + excluded.received, delivered = delivered + excluded.delivered,
            in_flight = in_flight + excluded.in_flight, refused = refused + excluded.refused,
            missing = missing + excluded.missing, ahead = ahead + excluded.ahead,
            duplicates = duplicates + excluded.duplicates, doubled = doubled + excluded.doubled,
            dropped = dropped + excluded.dropped, spilled = spilled + excluded.spilled,
            dead = dead + excluded.dead, purged = purged + excluded.purged,
            replayed = replayed + excluded.replayed,
            touched_ms = excluded.touched_ms",
    )
    .bind(serde_json::to_string(&json)?)
    .bind(now_ms)
    .execute(&mut *tx)
    .await?;
    let topics: Vec<i64> = rows.keys().map(|&(topic, ..)| topic).collect();
    sqlx::query(
        "UPDATE topics SET last_ms = max(last_ms, ?2) WHERE id IN (SELECT value FROM json_each(?1))",
    )
    .bind(serde_json::to_string(&topics)?)
    .bind(now_ms)
    .execute(tx)
    .await?;
    Ok(())
}
