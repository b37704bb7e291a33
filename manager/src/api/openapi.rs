//! The API's description, made from the code. `manager/openapi.json` is this document; a test says
//! when the two differ, and the console's client is generated from it.

use axum::{
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use utoipa::OpenApi;

use crate::{
    api::{
        audit, clusters, collection, dead, live, losses, nodes, reports, routes, switches, system,
        topics,
    },
    service::range::Named,
};

#[derive(Debug, OpenApi)]
#[openapi(
    info(
        title = "Tributary manager",
        version = "1",
        description = "Counts per topic, event minute and hop; losses; nodes. Times are ms since \
                       1970 UTC. Errors are {\"error\": {\"code\", \"message\"}}.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    paths(
        topics::list,
        topics::show,
        topics::counts,
        losses::list,
        dead::list,
        nodes::list,
        clusters::list,
        clusters::rebalance,
        routes::show,
        routes::put,
        routes::take_back,
        collection::show_zone,
        collection::put_zone,
        collection::take_zone_back,
        collection::show_agent,
        collection::put_agent,
        collection::take_agent_back,
        switches::list,
        audit::list,
        live::events,
        reports::take,
        system::healthz,
        system::readyz,
        system::metrics,
    ),
    components(schemas(live::Heartbeat, Named)),
    tags(
        (name = "topics", description = "Topics, their counts and losses"),
        (name = "nodes", description = "Agents, bus nodes and their clusters"),
        (name = "audit", description = "What people asked the manager to do"),
        (name = "reports", description = "What agents and bus nodes tell"),
        (name = "system", description = "The manager itself"),
    )
)]
struct Document;

/// The document as pretty JSON with a newline at its end.
///
/// # Errors
/// None in practice: the document is built from types that serialise.
pub fn document() -> Result<String, serde_json::Error> {
    Ok(Document::openapi().to_pretty_json()? + "\n")
}

/// `GET /api/openapi.json`
pub(crate) async fn show() -> Response {
    match document() {
        Ok(json) => {
            let kind = HeaderValue::from_static("application/json");
            ([(header::CONTENT_TYPE, kind)], json).into_response()
        }
        Err(error) => {
            tracing::error!(%error, "failed to write the API's description");
            axum::http::StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    #[test]
    fn the_written_description_is_what_the_code_says() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json");
        let made = super::document().unwrap();
        if std::env::var_os("UPDATE").is_some() {
            tributary_common::disk::replace(&path, made.as_bytes()).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            written == made,
            "manager/openapi.json is old; run the test with UPDATE=1"
        );
    }
}
