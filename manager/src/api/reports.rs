//! `POST /api/v1/reports`: what agents and bus nodes tell.
//!
//! Bytes are bounded: a report takes a permit for its length before its body is read.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, Request, header},
};
use bytes::Bytes;
use serde::Serialize;
use tributary_common::{
    given::Given,
    report::{Rebalance, Report, ReportAnswer, Reporter},
};

use crate::{
    api::{
        error::{ApiError, ErrorBody},
        extract::{bears, is_json},
    },
    app::App,
};

/// The longest report, in bytes.
pub(crate) const MAX_REPORT_BYTES: usize = 16 << 20;
/// Reports in memory at once, in bytes: four of the longest.
pub(crate) const MAX_REPORTS_BYTES: usize = 4 * MAX_REPORT_BYTES;
/// How long the body of a report may take to arrive.
const BODY_WITHIN: Duration = Duration::from_secs(20);
/// A report longer than this is parsed on a blocking thread.
const PARSE_INLINE_BYTES: usize = 256 << 10;

/// The answer to a report.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = ReportAnswer)]
pub(crate) struct Answer {
    /// The number that was taken, now or before.
    pub(crate) number: u64,
    /// For a bus node: a window that it is to open, in which it hands over connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(crate) rebalance: Option<Asked>,
    /// For a bus node: where topics are to go.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(crate) routes: Option<Told>,
    /// For an agent: what it is to collect.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(crate) collection: Option<Told>,
}

/// What a part is to go by.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Given)]
pub(crate) struct Told {
    /// Its version.
    pub(crate) version: String,
    /// The document; `null` where the part is to go by its file.
    pub(crate) text: Option<String>,
}

/// A window that a bus node is to open.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Rebalance)]
pub(crate) struct Asked {
    /// Its number: a window is opened once.
    pub(crate) window: u64,
    /// Connections that the node is to have.
    pub(crate) connections: u64,
    /// How long it is open, in seconds.
    pub(crate) within_s: u64,
}

impl From<ReportAnswer> for Answer {
    fn from(answer: ReportAnswer) -> Self {
        let ReportAnswer {
            number,
            rebalance,
            routes,
            collection,
        } = answer;
        let told = |Given { version, text }| Told { version, text };
        let asked = |asked: Rebalance| Asked {
            window: asked.window,
            connections: asked.connections,
            within_s: asked.within_s,
        };
        Self {
            number,
            rebalance: rebalance.map(asked),
            routes: routes.map(told),
            collection: collection.map(told),
        }
    }
}

/// Takes a report of an agent or a bus node. Sending it again changes nothing.
#[utoipa::path(
    post, path = "/api/v1/reports", operation_id = "takeReport", tag = "reports",
    request_body(content = Object, description = "A report as `tributary_common::report::Report` describes it."),
    responses(
        (status = 200, body = Answer),
        (status = 400, body = ErrorBody, description = "No report."),
        (status = 401, body = ErrorBody, description = "The report token is missing or wrong."),
        (status = 413, body = ErrorBody, description = "Longer than 16 MiB."),
        (status = 415, body = ErrorBody, description = "Not application/json."),
        (status = 503, body = ErrorBody, description = "Busy or stopping; see Retry-After."),
    )
)]
pub(crate) async fn take(
    State(app): State<App>,
    request: Request<Body>,
) -> Result<Json<Answer>, ApiError> {
    let received_ms = app.clock.now_ms();
    let headers = request.headers();
    check_token(app.report_token.as_deref(), headers)?;
    is_json(headers)?;
    let length = announced_bytes(headers)?;
    let permits = u32::try_from(length.max(1)).unwrap_or(u32::MAX);
    let _permit = Arc::clone(&app.report_bytes)
        .try_acquire_many_owned(permits)
        .or(Err(ApiError::Busy("reports")))?;
    let reading = axum::body::to_bytes(request.into_body(), length);
    let body = tokio::time::timeout(BODY_WITHIN, reading).await;
    let body = body.or(Err(ApiError::Slow(BODY_WITHIN)))?;
    let body = body.map_err(|error| unread(&error, length))?;
    let report = parse(body).await?;
    let reporter = report.reporter.clone();
    let mut answer = ReportAnswer {
        number: 0,
        rebalance: None,
        routes: None,
        collection: None,
    };
    match &reporter {
        Reporter::Bus { .. } => {
            let health = report.health.clone();
            answer.number = app.intake.take(report, received_ms).await?;
            answer.rebalance = app.windows.heard(&reporter, &health, received_ms);
            answer.routes = app.documents.heard(&reporter, health.routes.as_ref());
        }
        Reporter::Agent { .. } => {
            let has = report.health.collection.clone();
            answer.number = app.intake.take(report, received_ms).await?;
            answer.collection = app.documents.heard(&reporter, has.as_ref());
        }
    }
    Ok(Json(answer.into()))
}

/// The bytes that the body may have: as announced, or the most where nothing is announced.
fn announced_bytes(headers: &HeaderMap) -> Result<usize, ApiError> {
    let Some(length) = headers.get(header::CONTENT_LENGTH) else {
        return Ok(MAX_REPORT_BYTES);
    };
    let length: Option<usize> = length.to_str().ok().and_then(|text| text.parse().ok());
    match length {
        Some(length) if length <= MAX_REPORT_BYTES => Ok(length),
        Some(_) => Err(ApiError::TooLarge {
            limit_bytes: MAX_REPORT_BYTES,
        }),
        None => Err(ApiError::BadReport(
            "content-length is no number".to_owned(),
        )),
    }
}

/// A body that ended early, or went on beyond the limit.
fn unread(error: &axum::Error, length: usize) -> ApiError {
    let cause = std::error::Error::source(error);
    if cause.is_some_and(|cause| cause.is::<http_body_util::LengthLimitError>()) {
        return ApiError::TooLarge {
            limit_bytes: length,
        };
    }
    ApiError::BadReport(format!("the body broke off: {error}"))
}

async fn parse(body: Bytes) -> Result<Report, ApiError> {
    let read = |body: &Bytes| {
        serde_json::from_slice(body).map_err(|error| ApiError::BadReport(error.to_string()))
    };
    if body.len() <= PARSE_INLINE_BYTES {
        return read(&body);
    }
    match tokio::task::spawn_blocking(move || read(&body)).await {
        Ok(report) => report,
        Err(error) => Err(ApiError::BadReport(format!("parsing broke off: {error}"))),
    }
}

fn check_token(wanted: Option<&str>, headers: &HeaderMap) -> Result<(), ApiError> {
    match wanted {
        Some(wanted) if !bears(headers, wanted) => Err(ApiError::Token),
        Some(_) | None => Ok(()),
    }
}
