//! Every route of the manager, on one page.

use axum::{
    Router,
    extract::Request,
    http::Uri,
    middleware::{self, Next},
    response::Response,
    routing::{MethodRouter, get, post},
};
use tributary_common::report::REPORTS_PATH;

use crate::{
    api::{
        audit, clusters, collection, dead, error::ApiError, live, losses, nodes, openapi, reports,
        routes, switches, system, topics,
    },
    app::App,
    console,
};

/// The routes. Whatever is none of these is the console's.
pub(crate) fn routes(app: App) -> Router {
    let api = [
        ("/api/openapi.json", get(openapi::show)),
        ("/api/v1/topics", get(topics::list)),
        ("/api/v1/topics/{topic}", get(topics::show)),
        ("/api/v1/topics/{topic}/counts", get(topics::counts)),
        ("/api/v1/losses", get(losses::list)),
        ("/api/v1/dead", get(dead::list)),
        ("/api/v1/nodes", get(nodes::list)),
        ("/api/v1/clusters", get(clusters::list)),
        (
            "/api/v1/clusters/{cluster}/rebalance",
            post(clusters::rebalance),
        ),
        (
            "/api/v1/clusters/{cluster}/routes",
            get(routes::show).put(routes::put).delete(routes::take_back),
        ),
        (
            "/api/v1/zones/{zone}/collection",
            get(collection::show_zone)
                .put(collection::put_zone)
                .delete(collection::take_zone_back),
        ),
        (
            "/api/v1/agents/{agent}/collection",
            get(collection::show_agent)
                .put(collection::put_agent)
                .delete(collection::take_agent_back),
        ),
        ("/api/v1/switches", get(switches::list)),
        ("/api/v1/audit", get(audit::list)),
        ("/api/v1/live", get(live::events)),
        (REPORTS_PATH, post(reports::take)),
        ("/healthz", get(system::healthz)),
        ("/readyz", get(system::readyz)),
        ("/metrics", get(system::metrics)),
    ];
    let add = |router: Router<App>, (path, method): (&str, MethodRouter<App>)| {
        router.route(path, method.fallback(other_method))
    };
    api.into_iter()
        .fold(Router::new(), add)
        .route("/api", get(unknown).fallback(unknown))
        .route("/api/", get(unknown).fallback(unknown))
        .route("/api/{*rest}", get(unknown).fallback(unknown))
        .fallback(get(console::serve).fallback(other_method))
        .layer(middleware::from_fn(with_security_headers))
        .with_state(app)
}

async fn unknown(uri: Uri) -> ApiError {
    ApiError::UnknownPath(uri.path().to_owned())
}

async fn other_method(request: Request) -> ApiError {
    ApiError::Method {
        method: request.method().to_string(),
        path: request.uri().path().to_owned(),
    }
}

async fn with_security_headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    console::security_headers(response.headers_mut());
    response
}
