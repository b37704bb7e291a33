//! Where the topics of a bus cluster go: a document for all of its nodes, and what each made of it.
//!
//! Not for: what a document means: nodes check it, and take it whole or refuse it (see
//! [`crate::service::routes`]).

use std::time::Duration;

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, Request, header},
};
use serde::Serialize;
use tributary_common::{
    config::Over,
    report::{MAX_ROUTES_BYTES, ROUTES_KEYS, RoutesFrom},
};

use crate::{
    api::{
        error::{ApiError, ErrorBody},
        extract::{Peer, Segment},
    },
    app::App,
    service::states::NodeState,
    store::{nodes::NodeRow, routes::RoutesRow},
};

/// How long the body may take to arrive.
const BODY_WITHIN: Duration = Duration::from_secs(20);

/// What somebody asked for last.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct RoutesAsked {
    /// Its version: another one each time, also for the same text.
    pub(crate) version: String,
    /// When, in ms since 1970 by the manager's clock.
    pub(crate) at_ms: i64,
    /// Who: the address that the request came from.
    pub(crate) who: String,
    /// The document as it came; `null` where the nodes are to go by their files.
    pub(crate) text: Option<String>,
}

/// Whose routes a node goes by.
#[derive(Debug, Clone, Copy, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum NodeRoutesFrom {
    /// Those of its file.
    File,
    /// Those of the manager.
    Manager,
}

/// What a node made of it, as it said last.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct NodeRoutes {
    /// Its id.
    pub(crate) id: String,
    /// Whether it reports.
    pub(crate) state: NodeState,
    /// Its last report, in ms since 1970 by the manager's clock.
    pub(crate) last_report_ms: i64,
    /// It is of a version that takes routes from the manager.
    pub(crate) takes_routes: bool,
    /// Whose routes it goes by.
    pub(crate) from: NodeRoutesFrom,
    /// The version that it took last; empty for none.
    pub(crate) version: String,
    /// The version that it refused since; empty for none.
    pub(crate) refused: String,
    /// Why, a fault a line.
    pub(crate) fault: String,
}

/// Where the topics of a bus cluster go.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct RoutesPage {
    /// The manager's clock, in ms since 1970.
    pub(crate) generated_at_ms: i64,
    /// The cluster.
    pub(crate) cluster: String,
    /// What somebody asked for last; `null` for never.
    pub(crate) asked: Option<RoutesAsked>,
    /// Its nodes, by id.
    pub(crate) nodes: Vec<NodeRoutes>,
}

/// What was asked for last, and what each node made of it.
#[utoipa::path(
    get, path = "/api/v1/clusters/{cluster}/routes", operation_id = "showRoutes", tag = "nodes",
    params(("cluster" = String, Path, description = "The cluster.")),
    responses(
        (status = 200, body = RoutesPage),
        (status = 404, body = ErrorBody, description = "No such cluster."),
    )
)]
pub(crate) async fn show(
    State(app): State<App>,
    Segment(cluster): Segment,
) -> Result<Json<RoutesPage>, ApiError> {
    let nodes = nodes(&app, &cluster).await?;
    Ok(Json(page(&app, cluster, nodes)))
}

/// Gives all nodes of a cluster other routes and destinations.
///
/// The body is TOML with `[[destination]]` and `[[route]]` as in `bus.toml`; a list that it does not have is that
/// of each node's file. Nodes hear of it in the answers to their reports, within two seconds. Each takes it whole,
/// keeps it, and goes on by it after a restart, or refuses it with all its faults and goes on as before.
#[utoipa::path(
    put, path = "/api/v1/clusters/{cluster}/routes", operation_id = "putRoutes", tag = "nodes",
    params(("cluster" = String, Path, description = "The cluster.")),
    request_body(content = String, content_type = "application/toml", description = "At most 1 MiB; text/plain is taken, too."),
    responses(
        (status = 200, body = RoutesPage),
        (status = 400, body = ErrorBody, description = "No TOML, or it has other keys; each fault with its place."),
        (status = 404, body = ErrorBody, description = "No such cluster."),
        (status = 413, body = ErrorBody, description = "Longer than 1 MiB."),
        (status = 415, body = ErrorBody, description = "Neither application/toml nor text/plain."),
        (status = 503, body = ErrorBody, description = "Stopping; see Retry-After."),
    )
)]
pub(crate) async fn put(
    State(app): State<App>,
    Segment(cluster): Segment,
    peer: Peer,
    request: Request<Body>,
) -> Result<Json<RoutesPage>, ApiError> {
    let nodes = nodes(&app, &cluster).await?;
    is_toml(request.headers())?;
    let text = read(request.into_body()).await?;
    ask(&app, &cluster, peer, Some(text)).await?;
    Ok(Json(page(&app, cluster, nodes)))
}

/// Takes back what was given: the nodes go by their files again.
#[utoipa::path(
    delete, path = "/api/v1/clusters/{cluster}/routes", operation_id = "takeRoutesBack", tag = "nodes",
    params(("cluster" = String, Path, description = "The cluster.")),
    responses(
        (status = 200, body = RoutesPage),
        (status = 404, body = ErrorBody, description = "No such cluster."),
        (status = 503, body = ErrorBody, description = "Stopping; see Retry-After."),
    )
)]
pub(crate) async fn take_back(
    State(app): State<App>,
    Segment(cluster): Segment,
    peer: Peer,
) -> Result<Json<RoutesPage>, ApiError> {
    let nodes = nodes(&app, &cluster).await?;
    ask(&app, &cluster, peer, None).await?;
    Ok(Json(page(&app, cluster, nodes)))
}

/// Stores what is asked for; then it counts.
async fn ask(app: &App, cluster: &str, peer: Peer, text: Option<String>) -> Result<(), ApiError> {
    let who = peer.0.ip().to_string();
    let row = app.routes.row(cluster, who, text, app.clock.now_ms());
    app.intake.routes(row.clone()).await?;
    tracing::info!(
        cluster,
        who = %peer.0,
        version = row.version,
        bytes = row.text.as_ref().map_or(0, String::len),
        "the nodes of a cluster are to go by other routes"
    );
    app.routes.put(row);
    Ok(())
}

/// The nodes of a bus cluster, by id.
async fn nodes(app: &App, cluster: &str) -> Result<Vec<NodeRow>, ApiError> {
    let mut nodes = app.store.nodes().await?;
    nodes.retain(|node| node.part == "bus" && node.cluster == cluster);
    match nodes.is_empty() {
        true => Err(ApiError::UnknownCluster(cluster.to_owned())),
        false => Ok(nodes),
    }
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

/// The document, when it is one.
async fn read(body: Body) -> Result<String, ApiError> {
    let reading = axum::body::to_bytes(body, MAX_ROUTES_BYTES);
    let read = tokio::time::timeout(BODY_WITHIN, reading).await;
    let read = read.or(Err(ApiError::Slow(BODY_WITHIN)))?;
    let bytes = read.map_err(|error| {
        let cause = std::error::Error::source(&error);
        match cause.is_some_and(|cause| cause.is::<http_body_util::LengthLimitError>()) {
            true => ApiError::LongRoutes,
            false => ApiError::Routes(format!("the body broke off: {error}")),
        }
    })?;
    let text = str::from_utf8(&bytes).map_err(|error| {
        ApiError::Routes(format!("the body holds bytes that are no UTF-8: {error}"))
    })?;
    let over = Over {
        name: "routes",
        text,
        keys: ROUTES_KEYS,
    };
    over.check()
        .map_err(|faults| ApiError::Routes(faults.to_string()))?;
    Ok(text.to_owned())
}

fn page(app: &App, cluster: String, nodes: Vec<NodeRow>) -> RoutesPage {
    let now_ms = app.clock.now_ms();
    let asked = |row: RoutesRow| RoutesAsked {
        version: row.version,
        at_ms: row.at_ms,
        who: row.who,
        text: row.text,
    };
    let node = |node: NodeRow| {
        let takes_routes = node.health.routes.is_some();
        let routes = node.health.routes.unwrap_or_default();
        NodeRoutes {
            id: node.name,
            state: NodeState::of(node.last_ms, now_ms),
            last_report_ms: node.last_ms,
            takes_routes,
            from: match routes.from {
                RoutesFrom::File => NodeRoutesFrom::File,
                RoutesFrom::Manager => NodeRoutesFrom::Manager,
            },
            version: routes.version,
            refused: routes.refused,
            fault: routes.fault,
        }
    };
    RoutesPage {
        generated_at_ms: now_ms,
        asked: app.routes.of(&cluster).map(asked),
        cluster,
        nodes: nodes.into_iter().map(node).collect(),
    }
}
