//! The admin port of agent and bus: `/metrics`, `/healthz`, `/readyz`, `/status`, and what an operator
//! may ask a part to do.
//!
//! What a person or a scraper asks must never harm the data path: few connections, a deadline for
//! each, answers from memory only.
//!
//! Not for: the manager, which serves these paths beside its API. Called by the `run` of agent and
//! bus.

use std::{convert::Infallible, fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    select,
    sync::Semaphore,
    task::{JoinSet, spawn_blocking},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{metrics, net};

/// Connections at once: scrapers and people, no more.
const MAX_CONNECTIONS: usize = 64;
/// A request's head must be there within this time.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection's whole life; a scraper dials again.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(300);
/// A listener out of descriptors is tried again after this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

type Ready = dyn Fn() -> Result<(), String> + Send + Sync;
type Status = dyn Fn() -> serde_json::Value + Send + Sync;
type Act = dyn Fn(&str) -> Result<serde_json::Value, String> + Send + Sync;

/// What the port answers with. Both functions shall be quick and must not block.
#[derive(Clone)]
pub struct Admin {
    ready: Arc<Ready>,
    status: Arc<Status>,
    /// Further paths: the method that each takes, and what it does with the query.
    acts: Vec<(&'static str, Method, Arc<Act>)>,
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}

impl Admin {
    /// `ready` says whether the part can do its work, or why not; `status` is what a person asks
    /// first, as JSON.
    pub fn new(
        ready: impl Fn() -> Result<(), String> + Send + Sync + 'static,
        status: impl Fn() -> serde_json::Value + Send + Sync + 'static,
    ) -> Self {
        Self {
            ready: Arc::new(ready),
            status: Arc::new(status),
            acts: Vec::new(),
        }
    }

    /// Also takes POST to a path: `act` gets the query and says what it does, or what is wrong with it.
    #[must_use]
    pub fn takes(
        mut self,
        path: &'static str,
        act: impl Fn(&str) -> Result<serde_json::Value, String> + Send + Sync + 'static,
    ) -> Self {
        self.acts.push((path, Method::POST, Arc::new(act)));
        self
    }

    /// Also takes GET of a path: `show` gets the query and gives what it asks for, or says what is wrong
    /// with it. Both may block for a while.
    #[must_use]
    pub fn shows(
        mut self,
        path: &'static str,
        show: impl Fn(&str) -> Result<serde_json::Value, String> + Send + Sync + 'static,
    ) -> Self {
        self.acts.push((path, Method::GET, Arc::new(show)));
        self
    }

    /// The answer to a request of one of the further paths; `None` when it is none of them.
    async fn act(&self, method: &Method, path: &str, query: &str) -> Option<Response<Full<Bytes>>> {
        let (_, wants, act) = self.acts.iter().find(|(taken, ..)| *taken == path)?;
        if method != wants {
            let text = format!("only {wants} is allowed\n");
            let mut response = respond(StatusCode::METHOD_NOT_ALLOWED, TEXT, text);
            if let Ok(allowed) = HeaderValue::from_str(wants.as_str()) {
                response.headers_mut().insert(ALLOW, allowed);
            }
            return Some(response);
        }
        let (act, query) = (Arc::clone(act), query.to_owned());
        let done = spawn_blocking(move || act(&query)).await;
        Some(match done {
            Ok(Ok(done)) => respond(StatusCode::OK, JSON, format!("{done:#}\n")),
            Ok(Err(why)) => respond(StatusCode::BAD_REQUEST, TEXT, format!("{why}\n")),
            Err(panicked) => {
                tracing::error!(error = %panicked, path, "the admin port failed to answer");
                respond(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "failed\n".into())
            }
        })
    }

    /// The answer to a request.
    fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        if !matches!(path, "/metrics" | "/healthz" | "/readyz" | "/status") {
            let text = "not found; there are /metrics, /healthz, /readyz, /status\n";
            return respond(StatusCode::NOT_FOUND, TEXT, text.into());
        }
        if method != Method::GET && method != Method::HEAD {
            let text = "only GET and HEAD are allowed\n";
            let mut response = respond(StatusCode::METHOD_NOT_ALLOWED, TEXT, text.into());
            response
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match path {
            "/metrics" => respond(
                StatusCode::OK,
                "text/plain; version=0.0.4",
                metrics::render(),
            ),
            "/status" => respond(StatusCode::OK, JSON, format!("{:#}\n", (self.status)())),
            "/readyz" => match (self.ready)() {
                Ok(()) => respond(StatusCode::OK, TEXT, "ready\n".into()),
                Err(why) => respond(
                    StatusCode::SERVICE_UNAVAILABLE,
                    TEXT,
                    format!("not ready: {why}\n"),
                ),
            },
            _healthz => respond(StatusCode::OK, TEXT, "ok\n".into()),
        }
    }
}

/// A response of one piece.
fn respond(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// Serves until `stop`; open connections are cut then.
///
/// # Errors
/// None at present: a listener that cannot accept for a while is tried again.
pub async fn serve(
    listener: TcpListener,
    admin: Admin,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    connections.spawn(metrics::upkeep(stop.clone()));
    loop {
        let accepted = select! {
            () = stop.cancelled() => return Ok(()),
            Some(_done) = connections.join_next() => continue,
            // The permit comes first: what waits in the kernel's queue costs nothing here.
            accepted = accept(&listener, &permits) => accepted,
        };
        match accepted {
            Ok((stream, permit)) => {
                let admin = admin.clone();
                connections.spawn(async move {
                    converse(stream, admin).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(error = %error, "admin port failed to accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Takes a permit, then a connection.
async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(permits)
        .acquire_owned()
        .await
        .expect("the semaphore is never closed");
    let (stream, _peer) = listener.accept().await?;
    Ok((stream, permit))
}

/// Answers the requests of one connection.
async fn converse(stream: TcpStream, admin: Admin) {
    if net::prepare(&stream).is_err() {
        return; // The peer has gone already.
    }
    let service = service_fn(|request: Request<Incoming>| {
        let admin = &admin;
        async move {
            let (method, uri) = (request.method(), request.uri());
            let query = uri.query().unwrap_or_default();
            let acted = admin.act(method, uri.path(), query).await;
            let response = acted.unwrap_or_else(|| admin.answer(method, uri.path()));
            Ok::<_, Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(CONNECTION_TIMEOUT, connection).await {
        Ok(Ok(())) | Err(_) => {}
        Ok(Err(error)) => tracing::debug!(error = %error, "admin connection ended"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::http;

    const LIMIT: Duration = Duration::from_secs(5);

    struct Served {
        url: String,
        ready: Arc<AtomicBool>,
        stop: CancellationToken,
        server: JoinSet<anyhow::Result<()>>,
    }

    async fn served() -> Served {
        metrics::install();
        let listener = net::listen("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let ready = Arc::new(AtomicBool::new(true));
        let admin = Admin::new(
            {
                let ready = Arc::clone(&ready);
                move || match ready.load(Ordering::Relaxed) {
                    true => Ok(()),
                    false => Err("no bus answers".to_owned()),
                }
            },
            || serde_json::json!({"files": 3}),
        )
        .takes("/v1/act", |query| match query {
            "n=1" => Ok(serde_json::json!({"done": 1})),
            other => Err(format!("no {other}")),
        });
        let stop = CancellationToken::new();
        let mut server = JoinSet::new();
        server.spawn(serve(listener, admin, stop.clone()));
        Served {
            url,
            ready,
            stop,
            server,
        }
    }

    impl Served {
        async fn check(&self, path: &str, status: u16, begin: &str) {
            let url = format!("{}{path}", self.url);
            let (found, body) = http::get(&url, None, LIMIT).await.unwrap();
            let body = String::from_utf8(body.to_vec()).unwrap();
            assert_eq!(found.as_u16(), status, "{path}: {body}");
            assert!(body.contains(begin), "{path}: {body}");
        }
    }

    #[tokio::test]
    async fn each_path_has_its_answer() {
        let served = served().await;
        served.check("/healthz", 200, "ok\n").await;
        served.check("/readyz", 200, "ready\n").await;
        served.check("/status", 200, "\"files\": 3").await;
        served
            .check("/metrics?x=1", 200, "process_resident_memory_bytes ")
            .await;
        served
            .check("/other", 404, "not found; there are /metrics")
            .await;
        served.ready.store(false, Ordering::Relaxed);
        served
            .check("/readyz", 503, "not ready: no bus answers\n")
            .await;
        served.check("/v1/act", 405, "only POST").await;
        for (query, status, begin) in [("n=1", 200, "\"done\": 1"), ("n=2", 400, "no n=2")] {
            let url = format!("{}/v1/act?{query}", served.url);
            let posted = http::post_json(&url, None, Vec::new(), LIMIT).await;
            let (found, body) = posted.unwrap();
            assert_eq!(found.as_u16(), status);
            assert!(String::from_utf8_lossy(&body).contains(begin), "{body:?}");
        }
        let url = format!("{}/metrics", served.url);
        let (status, _) = http::post_json(&url, None, Vec::new(), LIMIT)
            .await
            .unwrap();
        assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    }

    #[tokio::test]
    async fn junk_and_idle_connections_harm_nobody() {
        let served = served().await;
        let addr = served.url.strip_prefix("http://").unwrap();
        let mut junk = net::dial(addr, LIMIT).await.unwrap();
        junk.write_all(&[0xff; 100]).await.unwrap();
        let mut answer = Vec::new();
        junk.read_to_end(&mut answer).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 400"), "{answer:?}");
        let mut idle = Vec::new();
        for _ in 0..MAX_CONNECTIONS - 1 {
            idle.push(net::dial(addr, LIMIT).await.unwrap());
        }
        served.check("/healthz", 200, "ok\n").await;
    }

    #[tokio::test]
    async fn the_stop_ends_it_with_connections_open() {
        let mut served = served().await;
        let addr = served.url.strip_prefix("http://").unwrap();
        let mut open = net::dial(addr, LIMIT).await.unwrap();
        served.check("/healthz", 200, "ok\n").await;
        served.stop.cancel();
        served.server.join_next().await.unwrap().unwrap().unwrap();
        assert_eq!(open.read(&mut [0; 1]).await.unwrap_or(0), 0);
        assert!(net::dial(addr, LIMIT).await.is_err());
    }
}
