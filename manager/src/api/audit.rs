//! What people asked the manager to do, and what came of it.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};

use crate::{
    api::{clusters::REBALANCE, error::ApiError, extract::Params},
    app::App,
    service::windows::{Window, WindowState},
    store::audit::AuditRow,
};

/// The most records of one answer, and how many there are unless asked for.
const LIMITS: (i64, i64) = (1_000, 100);

/// Which records.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct AuditQuery {
    /// Only of this thing, such as a bus cluster.
    pub(crate) subject: Option<String>,
    /// At most so many, 1 to 1000 (default 100).
    pub(crate) limit: Option<i64>,
}

/// One record.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct AuditItem {
    /// Its number; later ones have greater ones.
    pub(crate) id: i64,
    /// When it was asked for, in ms since 1970.
    pub(crate) at_ms: i64,
    /// Who asked: the address that the request came from.
    pub(crate) who: String,
    /// What was asked for: `rebalance`.
    pub(crate) act: String,
    /// Of what: for `rebalance` the bus cluster.
    pub(crate) subject: String,
    /// When it was over, in ms since 1970; `null` while it is not, or when nobody saw its end.
    pub(crate) ended_ms: Option<i64>,
    /// For `rebalance`: the window.
    pub(crate) window: Option<Window>,
}

/// Records.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct AuditPage {
    /// The manager's clock, in ms since 1970.
    pub(crate) generated_at_ms: i64,
    /// The newest first.
    pub(crate) records: Vec<AuditItem>,
}

/// What people asked the manager to do, the newest first. The newest 10,000 records are kept.
#[utoipa::path(
    get, path = "/api/v1/audit", operation_id = "listAudit", tag = "audit", params(AuditQuery),
    responses((status = 200, body = AuditPage))
)]
pub(crate) async fn list(
    State(app): State<App>,
    Params(query): Params<AuditQuery>,
) -> Result<Json<AuditPage>, ApiError> {
    let now_ms = app.clock.now_ms();
    let limit = query.limit.unwrap_or(LIMITS.1).clamp(1, LIMITS.0);
    let rows = app.store.audit(query.subject.as_deref(), limit).await?;
    let records = rows.into_iter().map(|row| item(&app, row, now_ms));
    Ok(Json(AuditPage {
        generated_at_ms: now_ms,
        records: records.collect(),
    }))
}

fn item(app: &App, row: AuditRow, now_ms: i64) -> AuditItem {
    let written = match row.act.as_str() {
        REBALANCE => serde_json::from_str::<Window>(&row.details).ok(),
        _other => None,
    };
    let window = written.map(|mut window| {
        let now = app.windows.of(&window.cluster, now_ms);
        match now.filter(|now| now.number == window.number) {
            Some(now) => now,
            None => {
                if row.ended_ms.is_none() {
                    window.state = WindowState::Unknown;
                }
                window
            }
        }
    });
    AuditItem {
        id: row.id,
        at_ms: row.at_ms,
        who: row.who,
        act: row.act,
        subject: row.subject,
        ended_ms: row
            .ended_ms
            .or(window.as_ref().and_then(|window| window.ended_ms)),
        window,
    }
}
