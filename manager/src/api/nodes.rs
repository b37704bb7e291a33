//! Agents and bus nodes: who reports, since when, how they are.

use axum::{Json, extract::State};
use serde::Serialize;
use tributary_common::report::{ConfigHealth, DestinationHealth, Health, TaskHealth};

use crate::{api::error::ApiError, app::App, service::states::NodeState, store::nodes::NodeRow};

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Part {
    /// An agent on a host.
    Agent,
    /// A bus node.
    Bus,
}

/// One task as its agent sees it.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct NodeTask {
    /// The task.
    pub(crate) task: String,
    /// Its topic.
    pub(crate) topic: String,
    /// Files that match now.
    pub(crate) files: u64,
    /// Bytes of those files that are not acknowledged.
    pub(crate) bytes_behind: u64,
    /// Age of the oldest byte that is not acknowledged, in ms; 0 when there is none.
    pub(crate) oldest_unacked_ms: u64,
    /// The last error in words; empty when there was none.
    pub(crate) last_error: String,
}

impl From<TaskHealth> for NodeTask {
    fn from(task: TaskHealth) -> Self {
        Self {
            task: task.task.into(),
            topic: task.topic.into(),
            files: task.files,
            bytes_behind: task.bytes_behind,
            oldest_unacked_ms: task.oldest_unacked_ms,
            last_error: task.last_error,
        }
    }
}

/// The configuration that a node goes by.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct NodeConfig {
    /// The name of its content: the same for the same settings.
    pub(crate) version: String,
    /// Since when it counts, in ms since 1970 by the node's clock.
    pub(crate) applied_ms: u64,
    /// Why the last document was refused, a fault a line; empty when it was applied.
    pub(crate) fault: String,
    /// When that was, in ms since 1970 by the node's clock; 0 for never.
    pub(crate) fault_ms: u64,
}

impl From<ConfigHealth> for NodeConfig {
    fn from(config: ConfigHealth) -> Self {
        Self {
            version: config.version,
            applied_ms: config.applied_ms,
            fault: config.fault,
            fault_ms: config.fault_ms,
        }
    }
}

/// A destination as a bus node sees it.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct NodeDestination {
    /// Its configured name.
    pub(crate) name: String,
    /// `kafka` or `file`.
    pub(crate) kind: String,
    /// `up` or `down`.
    pub(crate) state: String,
    /// Why, in words; empty when up.
    pub(crate) detail: String,
}

impl From<DestinationHealth> for NodeDestination {
    fn from(destination: DestinationHealth) -> Self {
        Self {
            name: destination.name.into(),
            kind: destination.kind,
            state: destination.state,
            detail: destination.detail,
        }
    }
}

/// One agent or bus node.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct NodeItem {
    /// What it is.
    pub(crate) part: Part,
    /// Its id.
    pub(crate) id: String,
    /// Its host name; for a bus node its id.
    pub(crate) host: String,
    /// Its zone.
    pub(crate) zone: String,
    /// A bus node's cluster; empty for an agent.
    pub(crate) cluster: String,
    /// Whether it reports.
    pub(crate) state: NodeState,
    /// Since when it is in that state, in ms since 1970.
    pub(crate) since_ms: i64,
    /// Its last report, in ms since 1970 by the manager's clock.
    pub(crate) last_report_ms: i64,
    /// When its present life told its first report, in ms since 1970 by the manager's clock.
    pub(crate) started_ms: i64,
    /// How often it was seen to begin a new life.
    pub(crate) restarts: i64,
    /// Its clock minus the manager's, in ms, with the report's travel in it.
    pub(crate) skew_ms: i64,
    /// Software and version.
    pub(crate) software: String,
    /// Resident memory, in bytes.
    pub(crate) memory_bytes: u64,
    /// Agent only: its tasks.
    pub(crate) tasks: Vec<NodeTask>,
    /// Agent only: its configuration; `null` until it told one.
    pub(crate) config: Option<NodeConfig>,
    /// Bus only: open agent connections.
    pub(crate) connections: u64,
    /// Bus only: why it takes no agents; empty while it does.
    pub(crate) not_ready: String,
    /// Bus only: its destinations.
    pub(crate) destinations: Vec<NodeDestination>,
}

/// All nodes.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct NodesPage {
    /// The manager's clock, in ms since 1970.
    pub(crate) generated_at_ms: i64,
    /// Silent ones first, then agents and bus nodes by host name.
    pub(crate) nodes: Vec<NodeItem>,
}

fn item(row: NodeRow, now_ms: i64) -> NodeItem {
    let state = NodeState::of(row.last_ms, now_ms);
    let Health {
        software,
        memory_bytes,
        tasks,
        config,
        connections,
        destinations,
        not_ready,
        rebalance: _its_cluster_says,
        routes: _its_cluster_says_too,
        collection: _its_zone_says,
    } = row.health;
    NodeItem {
        part: if row.part == "agent" {
            Part::Agent
        } else {
            Part::Bus
        },
        id: row.name,
        host: row.host,
        zone: row.zone,
        cluster: row.cluster,
        state,
        since_ms: state.since_ms(row.first_ms, row.last_ms),
        last_report_ms: row.last_ms,
        started_ms: row.first_ms,
        restarts: row.restarts,
        skew_ms: row.skew_ms,
        software,
        memory_bytes,
        tasks: tasks.into_iter().map(NodeTask::from).collect(),
        config: config.map(NodeConfig::from),
        connections,
        not_ready,
        destinations: destinations
            .into_iter()
            .map(NodeDestination::from)
            .collect(),
    }
}

/// All agents and bus nodes that ever reported (within the retention).
#[utoipa::path(
    get, path = "/api/v1/nodes", operation_id = "listNodes", tag = "nodes",
    responses((status = 200, body = NodesPage))
)]
pub(crate) async fn list(State(app): State<App>) -> Result<Json<NodesPage>, ApiError> {
    let now_ms = app.clock.now_ms();
    let mut nodes: Vec<NodeItem> = app
        .store
        .nodes()
        .await?
        .into_iter()
        .map(|row| item(row, now_ms))
        .collect();
    nodes.sort_by(|a, b| {
        let key = |node: &NodeItem| (node.state == NodeState::Live, node.part == Part::Bus);
        key(a).cmp(&key(b)).then_with(|| a.host.cmp(&b.host))
    });
    Ok(Json(NodesPage {
        generated_at_ms: now_ms,
        nodes,
    }))
}
