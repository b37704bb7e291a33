//! Dead letters: what destinations refuse for good, as the bus nodes that keep it said last.
//!
//! Not for: the records themselves and what is to become of them (that is the node's `/v1/dead`, see
//! `tributary ctl dead`), nor the accounts (see [`super::topics`]).

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use tributary_common::report::{DeadGroup, DeadHealth};

use crate::{
    api::{error::ApiError, extract::Params},
    app::App,
    service::states::NodeState,
    store::nodes::NodeRow,
};

/// Which dead letters.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct DeadQuery {
    /// Only of this topic.
    pub(crate) topic: Option<String>,
}

/// Dead letters of one topic and reason.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct DeadReason {
    /// The topic.
    pub(crate) topic: String,
    /// The first word of what the destination said.
    pub(crate) reason: String,
    /// What it answered, as a status of HTTP.
    pub(crate) status: u16,
    /// How many, in records.
    pub(crate) letters: u64,
    /// When the first of them died, in ms since 1970 by the node's clock.
    pub(crate) first_ms: u64,
    /// When one of them was refused last.
    pub(crate) last_ms: u64,
}

impl From<DeadGroup> for DeadReason {
    fn from(group: DeadGroup) -> Self {
        Self {
            topic: group.topic.into(),
            reason: group.reason,
            status: group.status,
            letters: group.letters,
            first_ms: group.first_ms,
            last_ms: group.last_ms,
        }
    }
}

/// The dead letters of a destination that one bus node keeps.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct DeadItem {
    /// The destination's configured name.
    pub(crate) destination: String,
    /// The bus node.
    pub(crate) node: String,
    /// Its cluster.
    pub(crate) cluster: String,
    /// Whether the node reports.
    pub(crate) state: NodeState,
    /// The node's last report, in ms since 1970 by the manager's clock.
    pub(crate) last_report_ms: i64,
    /// How many letters there are, of all topics.
    pub(crate) letters: u64,
    /// Their bytes on the node's disk.
    pub(crate) bytes: u64,
    /// The most bytes that there may be; when they are full, what would come to them waits.
    pub(crate) max_bytes: u64,
    /// By topic and reason, the most first; at most 100.
    pub(crate) reasons: Vec<DeadReason>,
}

/// All dead letters.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct DeadPage {
    /// The manager's clock, in ms since 1970.
    pub(crate) generated_at_ms: i64,
    /// Destinations that have some, by name and node.
    pub(crate) destinations: Vec<DeadItem>,
}

/// Dead letters by destination, bus node, topic and reason, as they are now.
#[utoipa::path(
    get, path = "/api/v1/dead", operation_id = "listDead", tag = "topics", params(DeadQuery),
    responses((status = 200, body = DeadPage))
)]
pub(crate) async fn list(
    State(app): State<App>,
    Params(query): Params<DeadQuery>,
) -> Result<Json<DeadPage>, ApiError> {
    let now_ms = app.clock.now_ms();
    let nodes = app.store.nodes().await?;
    let mut destinations: Vec<DeadItem> = nodes
        .into_iter()
        .flat_map(|node| of_node(node, query.topic.as_deref(), now_ms))
        .collect();
    destinations.sort_by(|a, b| (&a.destination, &a.node).cmp(&(&b.destination, &b.node)));
    Ok(Json(DeadPage {
        generated_at_ms: now_ms,
        destinations,
    }))
}

/// What a node keeps, of one topic or of all.
fn of_node(node: NodeRow, topic: Option<&str>, now_ms: i64) -> Vec<DeadItem> {
    let mut items = Vec::new();
    for destination in node.health.destinations {
        let Some(DeadHealth {
            letters,
            bytes,
            max_bytes,
            groups,
        }) = destination.dead
        else {
            continue;
        };
        let reasons: Vec<DeadReason> = groups
            .into_iter()
            .filter(|group| topic.is_none_or(|topic| group.topic.as_str() == topic))
            .map(DeadReason::from)
            .collect();
        if reasons.is_empty() {
            continue;
        }
        items.push(DeadItem {
            destination: destination.name.into(),
            node: node.name.clone(),
            cluster: node.cluster.clone(),
            state: NodeState::of(node.last_ms, now_ms),
            last_report_ms: node.last_ms,
            letters,
            bytes,
            max_bytes,
            reasons,
        });
    }
    items
}
