//! What is common to the documents that the manager gives: how one is taken in, and what is said of it.
//!
//! Not for: what a document means: the parts check it, and take it whole or refuse it (see
//! [`crate::service::documents`]). Used by [`super::routes`] and [`super::collection`].

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderMap, Request, header},
};
use serde::Serialize;
use tributary_common::{
    config::Over,
    given::{GivenFrom, GivenHealth, Kind, MAX_BYTES},
};

use crate::{
    api::{error::ApiError, extract::Admin},
    app::App,
    service::states::NodeState,
    store::{
        documents::{DocumentRow, Scope},
        nodes::NodeRow,
    },
};

/// How long the body may take to arrive.
const BODY_WITHIN: Duration = Duration::from_secs(20);

/// What somebody asked for last.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct DocumentAsked {
    /// Its version: another one each time, also for the same text.
    pub(crate) version: String,
    /// When, in ms since 1970 by the manager's clock.
    pub(crate) at_ms: i64,
    /// Who: the address that the request came from.
    pub(crate) who: String,
    /// The document as it came; `null` where it was taken back.
    pub(crate) text: Option<String>,
}

impl From<DocumentRow> for DocumentAsked {
    fn from(row: DocumentRow) -> Self {
        Self {
            version: row.version,
            at_ms: row.at_ms,
            who: row.who,
            text: row.text,
        }
    }
}

/// What a part goes by.
#[derive(Debug, Clone, Copy, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum GoesBy {
    /// Its file.
    File,
    /// The manager's document over it.
    Manager,
}

/// What a part made of it, as it said last.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct NodeGiven {
    /// Its id.
    pub(crate) id: String,
    /// Its host's name.
    pub(crate) host: String,
    /// Whether it reports.
    pub(crate) state: NodeState,
    /// Its last report, in ms since 1970 by the manager's clock.
    pub(crate) last_report_ms: i64,
    /// It is of a version that takes such documents.
    pub(crate) takes: bool,
    /// What it goes by.
    pub(crate) from: GoesBy,
    /// The version that it took last; empty for none.
    pub(crate) version: String,
    /// The version that it refused since; empty for none.
    pub(crate) refused: String,
    /// Why, a fault a line.
    pub(crate) fault: String,
}

impl NodeGiven {
    /// What a node said last of what it has.
    pub(crate) fn new(node: NodeRow, has: Option<GivenHealth>, now_ms: i64) -> Self {
        let takes = has.is_some();
        let has = has.unwrap_or_default();
        Self {
            id: node.name,
            host: node.host,
            state: NodeState::of(node.last_ms, now_ms),
            last_report_ms: node.last_ms,
            takes,
            from: match has.from {
                GivenFrom::File => GoesBy::File,
                GivenFrom::Manager => GoesBy::Manager,
            },
            version: has.version,
            refused: has.refused,
            fault: has.fault,
        }
    }
}

/// Stores what is asked for; then it counts.
pub(crate) async fn ask(
    app: &App,
    scope: Scope,
    admin: Admin,
    text: Option<String>,
) -> Result<(), ApiError> {
    let who = admin.0.ip().to_string();
    let row = app.documents.row(scope, who, text, app.clock.now_ms());
    app.intake.document(row.clone()).await?;
    tracing::info!(
        scope = ?row.scope,
        who = %admin.0,
        version = row.version,
        bytes = row.text.as_ref().map_or(0, String::len),
        "parts are to go by another document"
    );
    app.documents.put(row);
    Ok(())
}

/// The document of a request, when it is one of this kind.
pub(crate) async fn read(request: Request<Body>, kind: &Kind) -> Result<String, ApiError> {
    is_toml(request.headers())?;
    let reading = axum::body::to_bytes(request.into_body(), MAX_BYTES);
    let read = tokio::time::timeout(BODY_WITHIN, reading).await;
    let read = read.or(Err(ApiError::Slow(BODY_WITHIN)))?;
    let bytes = read.map_err(|error| {
        let cause = std::error::Error::source(&error);
        match cause.is_some_and(|cause| cause.is::<http_body_util::LengthLimitError>()) {
            true => ApiError::LongDocument,
            false => ApiError::Document(format!("the body broke off: {error}")),
        }
    })?;
    let text = str::from_utf8(&bytes).map_err(|error| {
        ApiError::Document(format!("the body holds bytes that are no UTF-8: {error}"))
    })?;
    let over = Over {
        name: kind.what,
        text,
        keys: kind.keys,
    };
    over.check()
        .map_err(|faults| ApiError::Document(faults.to_string()))?;
    Ok(text.to_owned())
}

fn is_toml(headers: &HeaderMap) -> Result<(), ApiError> {
    let given = headers.get(header::CONTENT_TYPE);
    let given = given
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let kind = given.split(';').next().unwrap_or_default().trim();
    let good = ["application/toml", "text/plain"];
    match good.iter().any(|good| kind.eq_ignore_ascii_case(good)) {
        true => Ok(()),
        false => Err(ApiError::NotToml(given.to_owned())),
    }
}
