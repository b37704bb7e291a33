//! The agents' port: accepts, speaks HTTP/1.1, upgrades to the framed stream.
//!
//! A connection takes its permit before it is accepted; what waits in the kernel's queue costs
//! nothing here. A head that does not come in time, is too large or asks for something unknown is
//! answered and closed. Not for: frames (see [`crate::session`]), lines (see [`crate::lines`]).

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ::metrics::counter;
use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{self, HeaderMap, HeaderValue},
    server::conn::http1,
    service::service_fn,
    upgrade::OnUpgrade,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tributary_common::{
    metrics, net,
    tls::{Acceptor, Stream},
    wire::{ELSEWHERE, PROTOCOL, STREAM_PATH},
};

use crate::{
    lines::Lines,
    node::Node,
    session::{self, Open},
};

/// A request's head comes within this; also the longest that a kept connection may be idle.
const HEAD_WITHIN: Duration = Duration::from_secs(20);
/// The longest head in bytes.
const MAX_HEAD_BYTES: usize = 16 << 10;
/// A listener without descriptors is tried again after this.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// How long connections may finish after the stop.
const FINISH_WITHIN: Duration = Duration::from_secs(6);
/// What there is, for 404.
const PATHS: &str =
    "there are GET /v1/stream (upgrade), POST /v1/lines/{topic}, GET /healthz, /readyz, /metrics";

/// A stream that is about to begin.
type Upgrade = (OnUpgrade, Open);

/// An answer of one piece.
pub(crate) type Answer = Response<Full<Bytes>>;

/// Who may come in, and how.
pub(crate) struct Door {
    /// Most open connections.
    pub(crate) connections: usize,
    /// Only with TLS.
    pub(crate) tls: Option<Arc<Acceptor>>,
}

/// Serves until the node stops; then asks everybody to leave and waits for them.
///
/// # Errors
/// None at present: a listener that cannot accept for a while is tried again.
pub(crate) async fn run(
    node: Arc<Node>,
    lines: Arc<Lines>,
    listener: TcpListener,
    door: Door,
) -> anyhow::Result<()> {
    let permits = door.connections.min(Semaphore::MAX_PERMITS);
    let permits = Arc::new(Semaphore::new(permits));
    let mut open = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = node.stop.cancelled() => break,
            Some(done) = open.join_next() => {
                panicked(done);
                continue;
            }
            accepted = accept(&listener, &permits) => accepted,
        };
        match accepted {
            Ok((stream, permit)) => {
                let (node, lines) = (Arc::clone(&node), Arc::clone(&lines));
                let tls = door.tls.clone();
                open.spawn(async move {
                    if let Some(stream) = Box::pin(enter(&node, stream, tls.as_deref())).await {
                        converse(node, lines, stream).await;
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "failed to accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let finish = async {
        while let Some(done) = open.join_next().await {
            panicked(done);
        }
    };
    if timeout(FINISH_WITHIN, finish).await.is_err() {
        tracing::warn!(
            connections = open.len(),
            "connections did not finish before the stop and are cut; their batches come again"
        );
    }
    Ok(())
}

fn panicked(done: Result<(), tokio::task::JoinError>) {
    if let Err(error) = done {
        tracing::error!(%error, "a connection's task failed; the others go on");
    }
}

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let permit = Arc::clone(permits)
        .acquire_owned()
        .await
        .expect("the semaphore of connections is never closed");
    let (stream, _peer) = listener.accept().await?;
    Ok((stream, permit))
}

/// What comes before the first byte of HTTP.
async fn enter(node: &Node, stream: TcpStream, tls: Option<&Acceptor>) -> Option<Stream> {
    if let Err(error) = net::prepare(&stream) {
        tracing::debug!(%error, "a connection was gone at once");
        return None;
    }
    let Some(tls) = tls else {
        return Some(Stream::plain(stream));
    };
    let secured = node.stop.run_until_cancelled(tls.secure(stream)).await?;
    match secured {
        Ok(stream) => Some(stream),
        Err(error) => {
            counter!("tributary_bus_handshakes_failed_total", "reason" => error.label())
                .increment(1);
            tracing::info!(%error, "a connection did not come to TLS");
            None
        }
    }
}

/// One connection: HTTP until it ends or is upgraded, then the stream.
pub(crate) async fn converse(node: Arc<Node>, lines: Arc<Lines>, stream: Stream) {
    // What HTTP held is given back before the stream begins, which lasts for weeks.
    let Some((upgrade, open)) = Box::pin(requests(&node, lines, stream)).await else {
        return;
    };
    match upgrade.await {
        Ok(stream) => Box::pin(session::run(open, TokioIo::new(stream))).await,
        Err(error) => tracing::debug!(%error, "an upgrade did not happen"),
    }
}

/// The requests of a connection, and the upgrade that ended them, if one did.
async fn requests(node: &Arc<Node>, lines: Arc<Lines>, stream: Stream) -> Option<Upgrade> {
    let upgraded = Arc::new(Mutex::new(None));
    let service = service_fn(|request| {
        let (node, lines, upgraded) = (Arc::clone(node), Arc::clone(&lines), Arc::clone(&upgraded));
        async move { Ok::<_, Infallible>(answer(&node, &lines, &upgraded, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(connection);
    let ended = tokio::select! {
        biased;
        ended = &mut connection => ended,
        () = node.stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an HTTP connection ended");
    }
    let mut upgraded = upgraded.lock().unwrap_or_else(PoisonError::into_inner);
    upgraded.take()
}

/// All routes of the port.
async fn answer(
    node: &Arc<Node>,
    lines: &Lines,
    upgraded: &Mutex<Option<Upgrade>>,
    mut request: Request<Incoming>,
) -> Answer {
    let path = request.uri().path();
    if path == STREAM_PATH {
        if request.method() != Method::GET {
            return not_allowed("GET");
        }
        if !asks_for_stream(request.headers()) {
            return upgrade_required();
        }
        let may_go = request.headers().contains_key(ELSEWHERE);
        if may_go && node.turns_away(Instant::now()) {
            let words =
                "this node has its share of connections, or of work; connect to another one";
            return text(StatusCode::SERVICE_UNAVAILABLE, words);
        }
        let upgrade = hyper::upgrade::on(&mut request);
        let open = Open::new(Arc::clone(node));
        *upgraded.lock().unwrap_or_else(PoisonError::into_inner) = Some((upgrade, open));
        return switching();
    }
    if let Some(topic) = path.strip_prefix("/v1/lines/") {
        if request.method() != Method::POST {
            return not_allowed("POST");
        }
        let topic = topic.to_owned();
        return lines.answer(node, &topic, request).await;
    }
    if !matches!(path, "/healthz" | "/readyz" | "/metrics") {
        return text(StatusCode::NOT_FOUND, &format!("not found; {PATHS}"));
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return not_allowed("GET, HEAD");
    }
    match path {
        "/healthz" => text(StatusCode::OK, "ok"),
        "/readyz" => match crate::status::ready(node) {
            Ok(()) => text(StatusCode::OK, "ready"),
            Err(why) => text(
                StatusCode::SERVICE_UNAVAILABLE,
                &format!("not ready: {why}"),
            ),
        },
        _metrics => {
            let mut answer = Response::new(Full::from(metrics::render()));
            let kind = HeaderValue::from_static("text/plain; version=0.0.4");
            answer.headers_mut().insert(header::CONTENT_TYPE, kind);
            answer
        }
    }
}

/// Whether a request asks for our protocol.
fn asks_for_stream(headers: &HeaderMap) -> bool {
    let has = |name, wanted: &str| {
        let values = headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok());
        values
            .flat_map(|value| value.split(','))
            .any(|one| one.trim().eq_ignore_ascii_case(wanted))
    };
    has(header::CONNECTION, "upgrade") && has(header::UPGRADE, PROTOCOL)
}

fn switching() -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    name_protocol(&mut answer);
    answer
}

fn upgrade_required() -> Answer {
    let words = format!(
        "this path speaks {PROTOCOL} only: ask with `Connection: upgrade` and `Upgrade: {PROTOCOL}`"
    );
    let mut answer = text(StatusCode::UPGRADE_REQUIRED, &words);
    name_protocol(&mut answer);
    answer
}

fn name_protocol(answer: &mut Answer) {
    let headers = answer.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static(PROTOCOL));
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
}

fn not_allowed(methods: &'static str) -> Answer {
    let mut answer = text(
        StatusCode::METHOD_NOT_ALLOWED,
        &format!("allowed here: {methods}"),
    );
    answer
        .headers_mut()
        .insert(header::ALLOW, HeaderValue::from_static(methods));
    answer
}

/// An answer in one line of text.
pub(crate) fn text(status: StatusCode, words: &str) -> Answer {
    let mut answer = Response::new(Full::from(format!("{words}\n")));
    *answer.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    answer
}
