//! The only map from what went wrong to a status and a sentence with the next step.
//!
//! Every error answer of the API has the same shape:
//! `{"error": {"code": "unknown_topic", "message": "…"}}`.

use std::time::Duration;

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use tributary_common::given::MAX_BYTES;

use crate::{
    service::{intake::IntakeError, range::RangeError, windows::NoWindow},
    store::StoreError,
};

/// What every error answer holds.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct ErrorBody {
    /// The error.
    pub(crate) error: ErrorDetail,
}

/// One error.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct ErrorDetail {
    /// For programs: one of the codes that the API's description names; never changes.
    pub(crate) code: &'static str,
    /// For people: what was wrong, what is allowed, what to do next.
    pub(crate) message: String,
}

/// Why a request gets no answer but an error.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// The query's range is none.
    #[error("{0}")]
    Range(#[from] RangeError),
    /// Another parameter of the query is wrong.
    #[error("{0}")]
    Query(String),
    /// The body is no report.
    #[error("failed to read the report: {0}; send JSON as common::report::Report describes it")]
    BadReport(String),
    /// The body does not say that it is JSON.
    #[error("content-type is {0:?}; the body must be JSON, and say application/json")]
    ContentType(String),
    /// The body is too long.
    #[error("the report is longer than {limit_bytes} bytes; send fewer facts in one report")]
    TooLarge {
        /// The limit.
        limit_bytes: usize,
    },
    /// The body did not come in time.
    #[error("the body did not arrive within {0:?}; send it again")]
    Slow(Duration),
    /// The token is missing or another.
    #[error(
        "the report token is missing or wrong; send `Authorization: Bearer <token>` with the token of the manager's auth.report_token_file"
    )]
    Token,
    /// The token of who may change things is missing or another.
    #[error(
        "the admin token is missing or wrong; send `Authorization: Bearer <token>` with the token of the manager's auth.admin_token_file"
    )]
    AdminToken,
    /// Only this host may, since there is no such token.
    #[error(
        "from {0} nothing can be changed: without auth.admin_token_file the manager takes changes from its own host alone; set that key, or ask there"
    )]
    FromAfar(std::net::IpAddr),
    /// Too much work at once.
    #[error("the manager is busy with other {0}; try again in a second")]
    Busy(&'static str),
    /// The manager stops.
    #[error("the manager is stopping; try again in a few seconds")]
    Stopping,
    /// The body is not what is asked for.
    #[error("failed to read the body: {0}; /api/openapi.json describes it")]
    Body(String),
    /// The body does not say that it is TOML.
    #[error("content-type is {0:?}; the body must be TOML, and say application/toml or text/plain")]
    NotToml(String),
    /// The body is no document of its kind.
    #[error("{0}")]
    Document(String),
    /// The document is too long.
    #[error("the document is longer than {MAX_BYTES} bytes; join what is alike by patterns")]
    LongDocument,
    /// No such zone.
    #[error("no agent of a zone {0:?} has reported; /api/v1/nodes lists those that have")]
    UnknownZone(String),
    /// No such agent.
    #[error("no agent {0:?} has reported; /api/v1/nodes lists those that have")]
    UnknownAgent(String),
    /// No such cluster.
    #[error(
        "no bus node of a cluster {0:?} has reported; /api/v1/clusters lists those that have some"
    )]
    UnknownCluster(String),
    /// A node that cannot take part.
    #[error("{0}")]
    Node(String),
    /// There is nothing to open, or it is open.
    #[error("{0}")]
    NoWindow(#[from] NoWindow),
    /// No such topic.
    #[error("topic {0:?} is unknown; /api/v1/topics lists those that agents or bus nodes reported")]
    UnknownTopic(String),
    /// No such path.
    #[error("there is no {0}; /api/openapi.json lists what there is")]
    UnknownPath(String),
    /// The path exists, the method does not.
    #[error("{method} is not possible on {path}; /api/openapi.json lists what is")]
    Method {
        /// The method.
        method: String,
        /// The path.
        path: String,
    },
    /// The database failed; the log has the cause.
    #[error(
        "the manager's database failed; its log has the cause, and the request can be sent again"
    )]
    Store(#[from] StoreError),
    /// As [`ApiError::Store`], where the cause is in the log already.
    #[error(
        "the manager's database failed; its log has the cause, and the request can be sent again"
    )]
    Failed,
}

impl ApiError {
    /// Status and code.
    pub(super) fn kind(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Range(_) => (StatusCode::BAD_REQUEST, "bad_range"),
            Self::Query(_) => (StatusCode::BAD_REQUEST, "bad_query"),
            Self::BadReport(_) => (StatusCode::BAD_REQUEST, "bad_report"),
            Self::ContentType(_) => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_json"),
            Self::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
            Self::Slow(_) => (StatusCode::REQUEST_TIMEOUT, "slow"),
            Self::Token => (StatusCode::UNAUTHORIZED, "bad_token"),
            Self::AdminToken => (StatusCode::UNAUTHORIZED, "bad_token"),
            Self::FromAfar(_) => (StatusCode::FORBIDDEN, "from_afar"),
            Self::Busy(_) => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
            Self::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
            Self::Body(_) => (StatusCode::BAD_REQUEST, "bad_body"),
            Self::NotToml(_) => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_toml"),
            Self::Document(_) => (StatusCode::BAD_REQUEST, "bad_document"),
            Self::LongDocument => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
            Self::UnknownZone(_) => (StatusCode::NOT_FOUND, "unknown_zone"),
            Self::UnknownAgent(_) => (StatusCode::NOT_FOUND, "unknown_agent"),
            Self::UnknownCluster(_) => (StatusCode::NOT_FOUND, "unknown_cluster"),
            Self::Node(_) => (StatusCode::CONFLICT, "node_away"),
            Self::NoWindow(NoWindow::Open { .. }) => (StatusCode::CONFLICT, "window_open"),
            Self::NoWindow(NoWindow::Even { .. }) => (StatusCode::CONFLICT, "even"),
            Self::UnknownTopic(_) => (StatusCode::NOT_FOUND, "unknown_topic"),
            Self::UnknownPath(_) => (StatusCode::NOT_FOUND, "unknown_path"),
            Self::Method { .. } => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::Store(_) | Self::Failed => (StatusCode::INTERNAL_SERVER_ERROR, "database"),
        }
    }
}

impl From<IntakeError> for ApiError {
    fn from(error: IntakeError) -> Self {
        match error {
            IntakeError::Busy => Self::Busy("reports"),
            IntakeError::Stopping => Self::Stopping,
            IntakeError::Invalid(reason) => Self::BadReport(reason),
            IntakeError::Failed => Self::Failed,
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, code) = self.kind();
        if let Self::Store(cause) = &self {
            tracing::error!(error = %cause, "failed to use the database for a request");
        }
        let body = ErrorBody {
            error: ErrorDetail {
                code,
                message: self.to_string(),
            },
        };
        let mut response = (status, Json(body)).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer");
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}
