//! Where the topics of a bus cluster go: a document for all of its nodes, and what each made of it.
//!
//! Not for: how a document is taken in (see [`super::documents`]).

use axum::{Json, body::Body, extract::State, http::Request};
use serde::Serialize;
use tributary_common::given::ROUTES;

use crate::{
    api::{
        documents::{DocumentAsked, NodeGiven, ask, read},
        error::{ApiError, ErrorBody},
        extract::{Admin, Segment},
    },
    app::App,
    store::{documents::Scope, nodes::NodeRow},
};

/// Where the topics of a bus cluster go.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct RoutesPage {
    /// The manager's clock, in ms since 1970.
    pub(crate) generated_at_ms: i64,
    /// The cluster.
    pub(crate) cluster: String,
    /// What somebody asked for last; `null` for never.
    pub(crate) asked: Option<DocumentAsked>,
    /// Its nodes, by id.
    pub(crate) nodes: Vec<NodeGiven>,
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
        (status = 401, body = ErrorBody, description = "The admin token is missing or wrong."),
        (status = 403, body = ErrorBody, description = "From another host, and the manager has no admin token."),
        (status = 404, body = ErrorBody, description = "No such cluster."),
        (status = 413, body = ErrorBody, description = "Longer than 1 MiB."),
        (status = 415, body = ErrorBody, description = "Neither application/toml nor text/plain."),
        (status = 503, body = ErrorBody, description = "Stopping; see Retry-After."),
    )
)]
pub(crate) async fn put(
    State(app): State<App>,
    Segment(cluster): Segment,
    admin: Admin,
    request: Request<Body>,
) -> Result<Json<RoutesPage>, ApiError> {
    let nodes = nodes(&app, &cluster).await?;
    let text = read(request, &ROUTES).await?;
    ask(&app, Scope::Cluster(cluster.clone()), admin, Some(text)).await?;
    Ok(Json(page(&app, cluster, nodes)))
}

/// Takes back what was given: the nodes go by their files again.
#[utoipa::path(
    delete, path = "/api/v1/clusters/{cluster}/routes", operation_id = "takeRoutesBack", tag = "nodes",
    params(("cluster" = String, Path, description = "The cluster.")),
    responses(
        (status = 200, body = RoutesPage),
        (status = 401, body = ErrorBody, description = "The admin token is missing or wrong."),
        (status = 403, body = ErrorBody, description = "From another host, and the manager has no admin token."),
        (status = 404, body = ErrorBody, description = "No such cluster."),
        (status = 503, body = ErrorBody, description = "Stopping; see Retry-After."),
    )
)]
pub(crate) async fn take_back(
    State(app): State<App>,
    Segment(cluster): Segment,
    admin: Admin,
) -> Result<Json<RoutesPage>, ApiError> {
    let nodes = nodes(&app, &cluster).await?;
    ask(&app, Scope::Cluster(cluster.clone()), admin, None).await?;
    Ok(Json(page(&app, cluster, nodes)))
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

fn page(app: &App, cluster: String, nodes: Vec<NodeRow>) -> RoutesPage {
    let now_ms = app.clock.now_ms();
    let node = |mut node: NodeRow| {
        let has = node.health.routes.take();
        NodeGiven::new(node, has, now_ms)
    };
    let asked = app.documents.of(&Scope::Cluster(cluster.clone()));
    RoutesPage {
        generated_at_ms: now_ms,
        asked: asked.map(DocumentAsked::from),
        cluster,
        nodes: nodes.into_iter().map(node).collect(),
    }
}
