//! The manager: takes what agents and bus nodes report, keeps the ledger, answers per topic, event
//! minute and hop, and serves the console.
//!
//! ```text
//! reports -> api/reports -> service/intake (one writer) -> service/ledger -> store (SQLite)
//! people  -> api/*, api/live, console                   <- store (readers), service/rates
//! api/clusters -> service/windows -> the answers to the bus nodes' reports
//! api/routes, api/collection -> service/documents -> the answers to all reports
//! ```
//!
//! [`run`] and [`serve`] are the whole surface; `tributary-manager`, `tributary up` and the tests
//! call them.

mod api;
mod app;
pub mod config;
mod console;
mod jobs;
mod router;
mod server;
mod service;
mod store;

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anyhow::Context;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;
use tributary_common::{disk::Lock, metrics, net, tasks::Supervisor};

pub use crate::{api::openapi::document as openapi_document, config::Config};
use crate::{
    app::{App, Clock},
    service::{documents::Documents, intake, live::Live, rates::Rates, windows::Windows},
    store::Store,
};

/// How long open requests may take after the stop.
const REQUEST_GRACE: Duration = Duration::from_secs(5);
/// How long everything may take after the stop: open requests, then what waits to be written.
const GRACE: Duration = Duration::from_secs(10);

/// Runs the manager until `stop`.
///
/// # Errors
/// When the database can not be opened, the address is in use, or a part of it fails.
pub async fn run(config: Config, stop: CancellationToken) -> anyhow::Result<()> {
    let (bound, _) = oneshot::channel();
    serve(config, stop, bound).await
}

/// As [`run`]; tells through `bound` where it listens, once it does.
///
/// # Errors
/// As [`run`]; `bound` is dropped without a word then.
pub async fn serve(
    config: Config,
    stop: CancellationToken,
    bound: oneshot::Sender<SocketAddr>,
) -> anyhow::Result<()> {
    metrics::install();
    let _lock = lock(&config.database)?;
    let store = Store::open(&config.database).await?;
    let listener = net::listen(&config.listen.to_string()).await?;
    let address = listener
        .local_addr()
        .context("failed to ask for the listening address")?;
    let (rates, live) = (Arc::new(Rates::new()), Arc::new(Live::new()));
    let windows = Arc::new(Windows::new(store.newest_audit().await?));
    let documents = Arc::new(Documents::new(store.documents().await?));
    let (door, writer) = intake::new(store.clone(), Arc::clone(&rates), Arc::clone(&live));
    let app = App {
        store: store.clone(),
        intake: door,
        rates,
        live,
        windows,
        documents,
        report_bytes: Arc::new(Semaphore::new(api::reports::MAX_REPORTS_BYTES)),
        report_token: config.report_token.as_deref().map(Arc::from),
        admin_token: config.admin_token.as_deref().map(Arc::from),
        clock: Clock,
        stop: stop.clone(),
    };
    // The writer goes on until the last request has been answered.
    let answered = CancellationToken::new();
    let mut parts = Supervisor::new(stop.clone(), GRACE);
    parts.spawn("writer", writer.run(answered.clone()));
    parts.spawn(
        "retention",
        jobs::retention(app.clone(), config.keep_facts, stop.clone()),
    );
    parts.spawn("windows", jobs::windows(app.clone(), stop.clone()));
    parts.spawn("http", async move {
        let _answered = answered.drop_guard();
        let routes = router::routes(app.clone());
        let served = server::serve((listener, config.tls), routes, stop, REQUEST_GRACE).await;
        // Of what ended a moment ago the last look does not know.
        served.and(jobs::record_ends(&app).await)
    });
    tracing::info!(address = %address, database = %config.database.display(), "the manager listens");
    if bound.send(address).is_err() {
        tracing::debug!("nobody waits for the address");
    }
    let result = parts.join().await;
    store.close().await;
    result
}

/// The right to work with a database file: what the writer keeps in memory is only true while
/// nobody else writes.
fn lock(database: &Path) -> anyhow::Result<Lock> {
    let mut folder = database.as_os_str().to_owned();
    folder.push(".lock");
    let failed = || format!("failed to open the database {}", database.display());
    Lock::acquire(Path::new(&folder)).with_context(failed)
}
