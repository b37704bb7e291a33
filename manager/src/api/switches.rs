//! Which destination of its route a bus node used from when to when.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};

use crate::{
    api::{error::ApiError, extract::Params},
    app::App,
    store::switches::SwitchRow,
};

/// The most records of one answer, and how many there are unless asked for.
const LIMITS: (i64, i64) = (1_000, 100);

/// Which records.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct SwitchQuery {
    /// Only of this bus cluster.
    pub(crate) cluster: Option<String>,
    /// At most so many, 1 to 1000 (default 100).
    pub(crate) limit: Option<i64>,
}

/// New batches of some topics went to another destination of their route.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct SwitchItem {
    /// The bus node.
    pub(crate) node: String,
    /// Its cluster.
    pub(crate) cluster: String,
    /// The pattern of the topics, as in the route.
    pub(crate) topic: String,
    /// The destination that they went to before.
    pub(crate) from: String,
    /// Since when they had, in ms since 1970 by the node's clock.
    pub(crate) used_from_ms: i64,
    /// The one that they go to since.
    pub(crate) to: String,
    /// Since when, in ms since 1970 by the node's clock.
    pub(crate) at_ms: i64,
    /// Why, in words.
    pub(crate) why: String,
}

/// Records.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct SwitchesPage {
    /// The manager's clock, in ms since 1970.
    pub(crate) generated_at_ms: i64,
    /// The newest first.
    pub(crate) switches: Vec<SwitchItem>,
}

impl From<SwitchRow> for SwitchItem {
    fn from(row: SwitchRow) -> Self {
        Self {
            node: row.node,
            cluster: row.cluster,
            topic: row.topic,
            from: row.from,
            used_from_ms: row.used_from_ms,
            to: row.to,
            at_ms: row.at_ms,
            why: row.why,
        }
    }
}

/// Which destination a bus node used instead of another one of the same route, and from when to when: which minutes lie
/// where. The newest 10,000 are kept.
#[utoipa::path(
    get, path = "/api/v1/switches", operation_id = "listSwitches", tag = "nodes", params(SwitchQuery),
    responses((status = 200, body = SwitchesPage))
)]
pub(crate) async fn list(
    State(app): State<App>,
    Params(query): Params<SwitchQuery>,
) -> Result<Json<SwitchesPage>, ApiError> {
    let limit = query.limit.unwrap_or(LIMITS.1).clamp(1, LIMITS.0);
    let rows = app.store.switches(query.cluster.as_deref(), limit).await?;
    Ok(Json(SwitchesPage {
        generated_at_ms: app.clock.now_ms(),
        switches: rows.into_iter().map(SwitchItem::from).collect(),
    }))
}
