//! Losses: source bytes that will never be sent, each with host, file, range and reason.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};

use crate::{
    api::{
        error::{ApiError, ErrorBody},
        extract::Params,
        topics::RangeQuery,
    },
    app::App,
    service::range::{MINUTE_MS, Named},
    store::losses::LossRow,
};

/// The most losses in one answer.
const MAX_LIMIT: i64 = 1_000;

/// Which losses.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct LossQuery {
    /// Only of this topic.
    pub(crate) topic: Option<String>,
    /// At most so many, 1 to 1000; without it 100. The newest come first.
    pub(crate) limit: Option<i64>,
}

/// One loss.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct LossItem {
    /// The topic.
    pub(crate) topic: String,
    /// The task.
    pub(crate) task: String,
    /// The agent that told it.
    pub(crate) agent: String,
    /// The agent's host name.
    pub(crate) host: String,
    /// The file's last known path.
    pub(crate) file: String,
    /// Which physical file, in hex.
    pub(crate) generation: String,
    /// First lost source byte.
    pub(crate) start: u64,
    /// The byte after the last lost one, as far as known.
    pub(crate) end: u64,
    /// Why, in words of the field: `truncated-unread`, `deleted-unread` …
    pub(crate) reason: String,
    /// Lost records where they can be counted; absent is unknown.
    #[schema(nullable)]
    pub(crate) records: Option<i64>,
    /// Start of the minute in which the loss was seen, in ms since 1970.
    pub(crate) minute_ms: i64,
}

/// Losses, newest first.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct LossesPage {
    /// The manager's clock, in ms since 1970.
    pub(crate) generated_at_ms: i64,
    /// Start of the range as used, in ms since 1970.
    pub(crate) from_ms: i64,
    /// End of the range as used, in ms since 1970; the first instant outside.
    pub(crate) to_ms: i64,
    /// How many there are in the range; `losses` may hold fewer.
    pub(crate) total: i64,
    /// The newest ones.
    pub(crate) losses: Vec<LossItem>,
}

impl From<LossRow> for LossItem {
    fn from(row: LossRow) -> Self {
        Self {
            topic: row.topic,
            task: row.task,
            agent: row.agent,
            host: row.host,
            file: row.file,
            generation: format!("{:016x}", row.generation),
            start: row.start,
            end: row.end,
            reason: row.reason,
            records: row.records,
            minute_ms: row.minute * MINUTE_MS,
        }
    }
}

/// Losses with file, range and reason. Without a range: all that are known.
#[utoipa::path(
    get, path = "/api/v1/losses", operation_id = "listLosses", tag = "topics", params(LossQuery, RangeQuery),
    responses(
        (status = 200, body = LossesPage),
        (status = 400, body = ErrorBody, description = "A parameter is wrong."),
    )
)]
pub(crate) async fn list(
    State(app): State<App>,
    Params(query): Params<LossQuery>,
    Params(range): Params<RangeQuery>,
) -> Result<Json<LossesPage>, ApiError> {
    let now_ms = app.clock.now_ms();
    let minutes = range.minutes(Named::All, now_ms)?;
    let limit = query.limit.unwrap_or(100);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(ApiError::Query(format!(
            "limit={limit} is out of range; allowed are 1 to {MAX_LIMIT}"
        )));
    }
    let (total, rows) = app
        .store
        .losses(query.topic.as_deref(), minutes, limit)
        .await?;
    Ok(Json(LossesPage {
        generated_at_ms: now_ms,
        from_ms: minutes.start_ms(),
        to_ms: minutes.end_ms(),
        total,
        losses: rows.into_iter().map(LossItem::from).collect(),
    }))
}
