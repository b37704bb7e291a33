//! Bus clusters: how evenly agents are spread over their nodes, and the window that spreads them.
//!
//! Not for: how a window goes on (see [`crate::service::windows`]), nor one node's health (see
//! [`super::nodes`]).

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use tributary_common::even::{EVEN_PERCENT, LONGEST_WINDOW_S, share, spread_percent};

use crate::{
    api::{
        error::{ApiError, ErrorBody},
        extract::{Body, Peer, Segment},
    },
    app::App,
    service::{states::NodeState, windows::Window},
    store::{
        audit::{AuditRow, AuditWrite},
        nodes::NodeRow,
    },
};

/// What an audit record of a window is called.
pub(crate) const REBALANCE: &str = "rebalance";

/// A node of a cluster.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct ClusterNode {
    /// Its id.
    pub(crate) id: String,
    /// Its zone.
    pub(crate) zone: String,
    /// Whether it reports.
    pub(crate) state: NodeState,
    /// Its last report, in ms since 1970 by the manager's clock.
    pub(crate) last_report_ms: i64,
    /// Why it takes no agents, as it said last; empty while it does.
    pub(crate) not_ready: String,
    /// Connections of agents, as it said last.
    pub(crate) connections: u64,
    /// It can take part in a window: it reports, and takes agents.
    pub(crate) takes_part: bool,
    /// Connections that it would hand over, were a window opened now.
    pub(crate) hands_over: u64,
}

/// A bus cluster.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct ClusterItem {
    /// Its name.
    pub(crate) cluster: String,
    /// Its nodes, by id.
    pub(crate) nodes: Vec<ClusterNode>,
    /// Connections of the nodes that can take part.
    pub(crate) connections: u64,
    /// Connections that each of them would have.
    pub(crate) share: u64,
    /// The difference between the fullest and the emptiest of them, in percent of the share.
    pub(crate) spread_percent: u64,
    /// Whether a window would change anything: the spread is 10 % or more.
    pub(crate) uneven: bool,
    /// The last window since the manager was started; `null` without any.
    pub(crate) window: Option<Window>,
}

/// All bus clusters.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct ClustersPage {
    /// The manager's clock, in ms since 1970.
    pub(crate) generated_at_ms: i64,
    /// By name.
    pub(crate) clusters: Vec<ClusterItem>,
}

/// What is to be opened.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OpenWindow {
    /// Over how many seconds the hand-over is spread, 1 to 3600.
    pub(crate) within_s: u64,
    /// The ids of the nodes that take part, at least two.
    pub(crate) nodes: Vec<String>,
}

/// Bus clusters with their nodes, and how even they are.
#[utoipa::path(
    get, path = "/api/v1/clusters", operation_id = "listClusters", tag = "nodes",
    responses((status = 200, body = ClustersPage))
)]
pub(crate) async fn list(State(app): State<App>) -> Result<Json<ClustersPage>, ApiError> {
    let now_ms = app.clock.now_ms();
    let clusters = clusters(&app).await?;
    let item = |(cluster, nodes): (String, Vec<NodeRow>)| {
        let window = app.windows.of(&cluster, now_ms);
        item(cluster, nodes, window, now_ms)
    };
    Ok(Json(ClustersPage {
        generated_at_ms: now_ms,
        clusters: clusters.into_iter().map(item).collect(),
    }))
}

/// Opens a window in which nodes with more than their share hand over connections.
///
/// Nodes hear of it in the answers to their reports: within two seconds. Nothing is sent twice, and an
/// agent that has no other node stays.
#[utoipa::path(
    post, path = "/api/v1/clusters/{cluster}/rebalance", operation_id = "rebalance", tag = "nodes",
    params(("cluster" = String, Path, description = "The cluster.")), request_body = OpenWindow,
    responses(
        (status = 200, body = Window),
        (status = 400, body = ErrorBody, description = "The body is none, or names fewer than two nodes."),
        (status = 404, body = ErrorBody, description = "No such cluster."),
        (status = 409, body = ErrorBody, description = "`node_away`: a node is unknown, silent or not ready. \
            `window_open`: there is one. `even`: nothing to do."),
        (status = 415, body = ErrorBody, description = "Not application/json."),
        (status = 503, body = ErrorBody, description = "Stopping; see Retry-After."),
    )
)]
pub(crate) async fn rebalance(
    State(app): State<App>,
    Segment(cluster): Segment,
    peer: Peer,
    Body(asked): Body<OpenWindow>,
) -> Result<Json<Window>, ApiError> {
    let now_ms = app.clock.now_ms();
    let mut known = clusters(&app).await?;
    let known = known.remove(&cluster);
    let known = known.ok_or_else(|| ApiError::UnknownCluster(cluster.clone()))?;
    let nodes = taking_part(&cluster, &known, &asked, now_ms)?;
    let window = app.windows.open(&cluster, nodes, asked.within_s, now_ms)?;
    let record = AuditRow {
        id: window.number,
        at_ms: now_ms,
        who: peer.0.ip().to_string(),
        act: REBALANCE.to_owned(),
        subject: cluster,
        ended_ms: None,
        details: serde_json::to_string(&window).map_err(|_error| ApiError::Failed)?,
    };
    // What is not in the record does not happen. Nodes hear of it with their next reports at the earliest,
    // and what they heard until now moves nothing.
    if let Err(error) = app.intake.audit(AuditWrite::New(record)).await {
        app.windows.forget(&window);
        return Err(error.into());
    }
    tracing::info!(
        cluster = window.cluster,
        who = %peer.0,
        share = window.share,
        within_s = window.within_s,
        "a window for handing over connections is opened"
    );
    Ok(Json(window))
}

/// The nodes of each bus cluster.
async fn clusters(app: &App) -> Result<BTreeMap<String, Vec<NodeRow>>, ApiError> {
    let mut clusters = BTreeMap::<String, Vec<NodeRow>>::new();
    for node in app.store.nodes().await? {
        if node.part == "bus" {
            clusters.entry(node.cluster.clone()).or_default().push(node);
        }
    }
    Ok(clusters)
}

/// Why a node cannot take part.
fn away(node: &NodeRow, now_ms: i64) -> Option<String> {
    let (id, cluster) = (&node.name, &node.cluster);
    if NodeState::of(node.last_ms, now_ms) == NodeState::Silent {
        let silent_s = (now_ms - node.last_ms) / 1000;
        return Some(format!(
            "{id} of cluster {cluster} is silent: it has not reported for {silent_s} s, and hears of a window \
             only in the answers to its reports; mend its way to the manager ([manager] in its bus.toml), or \
             leave it out"
        ));
    }
    let why = &node.health.not_ready;
    (!why.is_empty()).then(|| {
        format!("{id} of cluster {cluster} is not ready: {why}; mend that, or leave it out")
    })
}

fn item(cluster: String, rows: Vec<NodeRow>, window: Option<Window>, now_ms: i64) -> ClusterItem {
    let takes_part = |node: &NodeRow| away(node, now_ms).is_none();
    let parts = rows.iter().filter(|node| takes_part(node));
    let connections: Vec<u64> = parts.map(|node| node.health.connections).collect();
    let (share, spread_percent) = (share(&connections), spread_percent(&connections));
    let node = |node: NodeRow| {
        let takes_part = takes_part(&node);
        let above = node.health.connections.saturating_sub(share);
        ClusterNode {
            id: node.name,
            zone: node.zone,
            state: NodeState::of(node.last_ms, now_ms),
            last_report_ms: node.last_ms,
            not_ready: node.health.not_ready,
            connections: node.health.connections,
            takes_part,
            hands_over: if takes_part { above } else { 0 },
        }
    };
    ClusterItem {
        cluster,
        connections: connections.iter().sum(),
        share,
        spread_percent,
        uneven: spread_percent >= EVEN_PERCENT,
        window,
        nodes: rows.into_iter().map(node).collect(),
    }
}

/// The named nodes with their connections.
fn taking_part(
    cluster: &str,
    known: &[NodeRow],
    asked: &OpenWindow,
    now_ms: i64,
) -> Result<Vec<(String, u64)>, ApiError> {
    if !(1..=LONGEST_WINDOW_S).contains(&asked.within_s) {
        let within_s = asked.within_s;
        let why = format!("within_s is {within_s}; allowed are 1 to {LONGEST_WINDOW_S}");
        return Err(ApiError::Body(why));
    }
    let mut nodes = BTreeMap::new();
    for id in &asked.nodes {
        let Some(node) = known.iter().find(|node| node.name == *id) else {
            let all: Vec<&str> = known.iter().map(|node| node.name.as_str()).collect();
            let all = all.join(", ");
            let why = format!("cluster {cluster} has no node {id:?}; its nodes are {all}");
            return Err(ApiError::Node(why));
        };
        if let Some(why) = away(node, now_ms) {
            return Err(ApiError::Node(why));
        }
        nodes.insert(id.clone(), node.health.connections);
    }
    if nodes.len() < 2 || nodes.len() < asked.nodes.len() {
        let why = "nodes names fewer than two nodes, or one of them twice".to_owned();
        return Err(ApiError::Body(why));
    }
    Ok(nodes.into_iter().collect())
}
