//! Accepts connections and lets hyper serve them: bounded in number, in the time for a request's
//! head, and in the time after the stop.
//!
//! Not for: what is answered (see [`crate::router`]). Called by [`crate::serve`].

use std::{io, sync::Arc, time::Duration};

use axum::Router;
use hyper::{Request, body::Incoming, server::conn::http1};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tributary_common::{
    net,
    tls::{Acceptor, Stream},
};

use crate::api::extract::Peer;

/// The most open connections: one for each agent of the largest site, and people. Further ones
/// wait in the system's queue.
const MAX_CONNECTIONS: usize = 20_000;
/// How long a client may take to send the head of a request.
const HEAD_WITHIN: Duration = Duration::from_secs(30);
/// Pause after a failed accept: without file descriptors the next one fails as well.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stop`; then open requests may take `grace`.
pub(crate) async fn serve(
    (listener, tls): (TcpListener, Option<Arc<Acceptor>>),
    router: Router,
    stop: CancellationToken,
    grace: Duration,
) -> anyhow::Result<()> {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut sessions = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept(&listener, &permits) => match accepted {
                Ok((stream, peer, permit)) => {
                    let service = Service { router: router.clone(), peer };
                    sessions.spawn(session((stream, tls.clone()), service, stop.clone(), permit));
                }
                Err(error) => {
                    tracing::warn!(%error, "failed to accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_ended) = sessions.join_next() => {}
        }
    }
    drop(listener);
    let all = async { while sessions.join_next().await.is_some() {} };
    if tokio::time::timeout(grace, all).await.is_err() {
        tracing::warn!(
            connections = sessions.len(),
            "some requests were not done in time"
        );
    }
    Ok(())
}

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> io::Result<(TcpStream, Peer, OwnedSemaphorePermit)> {
    let permit = Arc::clone(permits)
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    net::prepare(&stream)?;
    Ok((stream, Peer(peer), permit))
}

/// The routes, as one client sees them.
struct Service {
    router: Router,
    peer: Peer,
}

impl hyper::service::Service<Request<Incoming>> for Service {
    type Response =
        <TowerToHyperService<Router> as hyper::service::Service<Request<Incoming>>>::Response;
    type Error = <TowerToHyperService<Router> as hyper::service::Service<Request<Incoming>>>::Error;
    type Future =
        <TowerToHyperService<Router> as hyper::service::Service<Request<Incoming>>>::Future;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.peer);
        TowerToHyperService::new(self.router.clone()).call(request)
    }
}

/// One connection. How it ends concerns only its client.
async fn session(
    (stream, tls): (TcpStream, Option<Arc<Acceptor>>),
    service: Service,
    stop: CancellationToken,
    _permit: OwnedSemaphorePermit,
) {
    let stream = match &tls {
        None => Stream::plain(stream),
        Some(tls) => match stop.run_until_cancelled(tls.secure(stream)).await {
            Some(Ok(stream)) => stream,
            Some(Err(error)) => {
                tracing::info!(%error, "a connection did not come to TLS");
                return;
            }
            None => return,
        },
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke off");
    }
}
