//! What agents collect: a document for all agents of a zone or for one of them, and what they made of it.
//!
//! An agent's own document counts in place of its zone's: who tries a change on one agent gives it to that one first.
//!
//! Not for: how a document is taken in (see [`super::documents`]).

use axum::{Json, body::Body, extract::State, http::Request};
use serde::Serialize;
use tributary_common::given::COLLECTION;

use crate::{
    api::{
        documents::{DocumentAsked, NodeGiven, ask, read},
        error::{ApiError, ErrorBody},
        extract::{Admin, Segment},
    },
    app::App,
    store::{documents::Scope, nodes::NodeRow},
};

/// So many agents are named.
const MOST_NAMED: usize = 100;

/// What the agents of a zone collect.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct ZoneCollection {
    /// The manager's clock, in ms since 1970.
    pub(crate) generated_at_ms: i64,
    /// The zone.
    pub(crate) zone: String,
    /// What somebody asked for last; `null` for never.
    pub(crate) asked: Option<DocumentAsked>,
    /// Agents of the zone that have reported.
    pub(crate) agents: u64,
    /// Those that go by it.
    pub(crate) agents_by_it: u64,
    /// Those that refused it.
    pub(crate) agents_refused: u64,
    /// Those that do not go by it, those that refused it first; at most 100.
    pub(crate) others: Vec<NodeGiven>,
}

/// What one agent collects.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct AgentCollection {
    /// The manager's clock, in ms since 1970.
    pub(crate) generated_at_ms: i64,
    /// Its zone.
    pub(crate) zone: String,
    /// What somebody asked for last for this agent alone; `null` for never.
    pub(crate) asked: Option<DocumentAsked>,
    /// The agent, and what it made of what counts for it.
    pub(crate) agent: NodeGiven,
}

/// What was asked for last, and what the agents made of it.
#[utoipa::path(
    get, path = "/api/v1/zones/{zone}/collection", operation_id = "showZoneCollection", tag = "nodes",
    params(("zone" = String, Path, description = "The zone.")),
    responses(
        (status = 200, body = ZoneCollection),
        (status = 404, body = ErrorBody, description = "No such zone."),
    )
)]
pub(crate) async fn show_zone(
    State(app): State<App>,
    Segment(zone): Segment,
) -> Result<Json<ZoneCollection>, ApiError> {
    let agents = agents_of(&app, &zone).await?;
    Ok(Json(zone_page(&app, zone, agents)))
}

/// Gives all agents of a zone other tasks, buses or limits.
///
/// The body is TOML with `[[task]]`, `[[bus]]` and `[limits]` as in `agent.toml`; one that it does not have is that
/// of each agent's file. Agents hear of it in the answers to their reports, within six seconds. Each takes it whole,
/// keeps it, and goes on by it after a restart, or refuses it with all its faults and goes on as before.
#[utoipa::path(
    put, path = "/api/v1/zones/{zone}/collection", operation_id = "putZoneCollection", tag = "nodes",
    params(("zone" = String, Path, description = "The zone.")),
    request_body(content = String, content_type = "application/toml", description = "At most 1 MiB; text/plain is taken, too."),
    responses(
        (status = 200, body = ZoneCollection),
        (status = 400, body = ErrorBody, description = "No TOML, or it has other keys; each fault with its place."),
        (status = 401, body = ErrorBody, description = "The admin token is missing or wrong."),
        (status = 403, body = ErrorBody, description = "From another host, and the manager has no admin token."),
        (status = 404, body = ErrorBody, description = "No such zone."),
        (status = 413, body = ErrorBody, description = "Longer than 1 MiB."),
        (status = 415, body = ErrorBody, description = "Neither application/toml nor text/plain."),
        (status = 503, body = ErrorBody, description = "Stopping; see Retry-After."),
    )
)]
pub(crate) async fn put_zone(
    State(app): State<App>,
    Segment(zone): Segment,
    admin: Admin,
    request: Request<Body>,
) -> Result<Json<ZoneCollection>, ApiError> {
    let agents = agents_of(&app, &zone).await?;
    let text = read(request, &COLLECTION).await?;
    ask(&app, Scope::Zone(zone.clone()), admin, Some(text)).await?;
    Ok(Json(zone_page(&app, zone, agents)))
}

/// Takes back what was given: the agents go by their files again, or by what each was given itself.
#[utoipa::path(
    delete, path = "/api/v1/zones/{zone}/collection", operation_id = "takeZoneCollectionBack", tag = "nodes",
    params(("zone" = String, Path, description = "The zone.")),
    responses(
        (status = 200, body = ZoneCollection),
        (status = 401, body = ErrorBody, description = "The admin token is missing or wrong."),
        (status = 403, body = ErrorBody, description = "From another host, and the manager has no admin token."),
        (status = 404, body = ErrorBody, description = "No such zone."),
        (status = 503, body = ErrorBody, description = "Stopping; see Retry-After."),
    )
)]
pub(crate) async fn take_zone_back(
    State(app): State<App>,
    Segment(zone): Segment,
    admin: Admin,
) -> Result<Json<ZoneCollection>, ApiError> {
    let agents = agents_of(&app, &zone).await?;
    ask(&app, Scope::Zone(zone.clone()), admin, None).await?;
    Ok(Json(zone_page(&app, zone, agents)))
}

/// What was asked for last for one agent, and what it made of it.
#[utoipa::path(
    get, path = "/api/v1/agents/{agent}/collection", operation_id = "showAgentCollection", tag = "nodes",
    params(("agent" = String, Path, description = "The agent's id.")),
    responses(
        (status = 200, body = AgentCollection),
        (status = 404, body = ErrorBody, description = "No such agent."),
    )
)]
pub(crate) async fn show_agent(
    State(app): State<App>,
    Segment(agent): Segment,
) -> Result<Json<AgentCollection>, ApiError> {
    let agent = agent_of(&app, &agent).await?;
    Ok(Json(agent_page(&app, agent)))
}

/// Gives one agent other tasks, buses or limits, in place of what its zone is given.
#[utoipa::path(
    put, path = "/api/v1/agents/{agent}/collection", operation_id = "putAgentCollection", tag = "nodes",
    params(("agent" = String, Path, description = "The agent's id.")),
    request_body(content = String, content_type = "application/toml", description = "As for a zone."),
    responses(
        (status = 200, body = AgentCollection),
        (status = 400, body = ErrorBody, description = "No TOML, or it has other keys; each fault with its place."),
        (status = 401, body = ErrorBody, description = "The admin token is missing or wrong."),
        (status = 403, body = ErrorBody, description = "From another host, and the manager has no admin token."),
        (status = 404, body = ErrorBody, description = "No such agent."),
        (status = 413, body = ErrorBody, description = "Longer than 1 MiB."),
        (status = 415, body = ErrorBody, description = "Neither application/toml nor text/plain."),
        (status = 503, body = ErrorBody, description = "Stopping; see Retry-After."),
    )
)]
pub(crate) async fn put_agent(
    State(app): State<App>,
    Segment(agent): Segment,
    admin: Admin,
    request: Request<Body>,
) -> Result<Json<AgentCollection>, ApiError> {
    let node = agent_of(&app, &agent).await?;
    let text = read(request, &COLLECTION).await?;
    ask(&app, Scope::Agent(agent), admin, Some(text)).await?;
    Ok(Json(agent_page(&app, node)))
}

/// Takes back what the agent was given: it goes by what its zone is given, or by its file.
#[utoipa::path(
    delete, path = "/api/v1/agents/{agent}/collection", operation_id = "takeAgentCollectionBack", tag = "nodes",
    params(("agent" = String, Path, description = "The agent's id.")),
    responses(
        (status = 200, body = AgentCollection),
        (status = 401, body = ErrorBody, description = "The admin token is missing or wrong."),
        (status = 403, body = ErrorBody, description = "From another host, and the manager has no admin token."),
        (status = 404, body = ErrorBody, description = "No such agent."),
        (status = 503, body = ErrorBody, description = "Stopping; see Retry-After."),
    )
)]
pub(crate) async fn take_agent_back(
    State(app): State<App>,
    Segment(agent): Segment,
    admin: Admin,
) -> Result<Json<AgentCollection>, ApiError> {
    let node = agent_of(&app, &agent).await?;
    ask(&app, Scope::Agent(agent), admin, None).await?;
    Ok(Json(agent_page(&app, node)))
}

/// The agents of a zone, by id.
async fn agents_of(app: &App, zone: &str) -> Result<Vec<NodeRow>, ApiError> {
    let mut nodes = app.store.nodes().await?;
    nodes.retain(|node| node.part == "agent" && node.zone == zone);
    match nodes.is_empty() {
        true => Err(ApiError::UnknownZone(zone.to_owned())),
        false => Ok(nodes),
    }
}

async fn agent_of(app: &App, agent: &str) -> Result<NodeRow, ApiError> {
    let nodes = app.store.nodes().await?;
    let mut nodes = nodes.into_iter();
    let node = nodes.find(|node| node.part == "agent" && node.name == agent);
    node.ok_or_else(|| ApiError::UnknownAgent(agent.to_owned()))
}

fn given(mut node: NodeRow, now_ms: i64) -> NodeGiven {
    let has = node.health.collection.take();
    NodeGiven::new(node, has, now_ms)
}

fn zone_page(app: &App, zone: String, agents: Vec<NodeRow>) -> ZoneCollection {
    let now_ms = app.clock.now_ms();
    let asked = app.documents.of(&Scope::Zone(zone.clone()));
    let version = asked.as_ref().map(|row| row.version.clone());
    let version = version.unwrap_or_default();
    let total = agents.len();
    let agents = agents.into_iter().map(|agent| given(agent, now_ms));
    // One that has nothing of the manager's goes by what nobody asked for, and by what was taken back.
    let is_back = asked.as_ref().is_none_or(|row| row.text.is_none());
    let by_it = |agent: &NodeGiven| match agent.version.as_str() {
        "" => is_back && agent.refused.is_empty(),
        has => has == version,
    };
    let mut others: Vec<NodeGiven> = agents.filter(|agent| !by_it(agent)).collect();
    let refused = |agent: &NodeGiven| !agent.refused.is_empty() && agent.refused == version;
    others.sort_by_key(|agent| !refused(agent));
    let agents_refused = others.iter().filter(|agent| refused(agent)).count() as u64;
    let agents_by_it = (total - others.len()) as u64;
    others.truncate(MOST_NAMED);
    ZoneCollection {
        generated_at_ms: now_ms,
        zone,
        asked: asked.map(DocumentAsked::from),
        agents: total as u64,
        agents_by_it,
        agents_refused,
        others,
    }
}

fn agent_page(app: &App, agent: NodeRow) -> AgentCollection {
    let now_ms = app.clock.now_ms();
    let asked = app.documents.of(&Scope::Agent(agent.name.clone()));
    AgentCollection {
        generated_at_ms: now_ms,
        zone: agent.zone.clone(),
        asked: asked.map(DocumentAsked::from),
        agent: given(agent, now_ms),
    }
}
