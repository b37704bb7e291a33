//! What a handler takes out of a request, with the API's own errors where it is not there.

use std::net::SocketAddr;

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::{HeaderMap, header, request::Parts},
};
use serde::de::DeserializeOwned;

use crate::{api::error::ApiError, app::App};

/// The parameters after `?`.
#[derive(Debug)]
pub(crate) struct Params<T>(pub(crate) T);

impl<S, T> FromRequestParts<S> for Params<T>
where
    S: Send + Sync,
    T: DeserializeOwned + Send,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(query)) => Ok(Self(query)),
            Err(rejection) => Err(ApiError::Query(rejection.body_text())),
        }
    }
}

/// The one `{segment}` of a path.
#[derive(Debug)]
pub(crate) struct Segment(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(segment)) => Ok(Self(segment)),
            Err(rejection) => Err(ApiError::Query(rejection.body_text())),
        }
    }
}

/// A JSON document as the body. Since it must say so, no page of another site can send one through a
/// browser without being asked.
#[derive(Debug)]
pub(crate) struct Body<T>(pub(crate) T);

impl<S, T> FromRequest<S> for Body<T>
where
    S: Send + Sync,
    T: DeserializeOwned + Send,
{
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        is_json(request.headers())?;
        let bytes = Bytes::from_request(request, state).await;
        let bytes = bytes.map_err(|rejection| ApiError::Body(rejection.body_text()))?;
        let read = serde_json::from_slice(&bytes);
        read.map(Self)
            .map_err(|error| ApiError::Body(error.to_string()))
    }
}

/// Whether a request says that its body is JSON.
pub(crate) fn is_json(headers: &HeaderMap) -> Result<(), ApiError> {
    let given = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let given = given.unwrap_or_default();
    let kind = given.split(';').next().unwrap_or_default().trim();
    if kind.eq_ignore_ascii_case("application/json") {
        Ok(())
    } else {
        Err(ApiError::ContentType(given.to_owned()))
    }
}

/// Where a request came from; set by [`crate::server`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) SocketAddr);

impl<S: Send + Sync> FromRequestParts<S> for Peer {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        parts.extensions.get().copied().ok_or(ApiError::Failed)
    }
}

/// Who may change what agents and bus nodes do, and where the request came from: who brings the admin token, or,
/// where the manager has none, who is on its host.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Admin(pub(crate) SocketAddr);

impl FromRequestParts<App> for Admin {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let Peer(peer) = Peer::from_request_parts(parts, app).await?;
        may_change(app.admin_token.as_deref(), &parts.headers, peer)?;
        Ok(Self(peer))
    }
}

fn may_change(wanted: Option<&str>, headers: &HeaderMap, peer: SocketAddr) -> Result<(), ApiError> {
    match wanted {
        Some(wanted) if bears(headers, wanted) => Ok(()),
        Some(_) => Err(ApiError::AdminToken),
        None if peer.ip().to_canonical().is_loopback() => Ok(()),
        None => Err(ApiError::FromAfar(peer.ip())),
    }
}

/// Whether a request brings this token.
pub(crate) fn bears(headers: &HeaderMap, wanted: &str) -> bool {
    let given = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let given = given
        .and_then(|value| value.strip_prefix("Bearer "))
        .unwrap_or_default();
    same(given.trim().as_bytes(), wanted.as_bytes())
}

/// Compares without telling by its time how much is right.
fn same(given: &[u8], wanted: &[u8]) -> bool {
    let differs = given
        .iter()
        .zip(wanted)
        .fold(0u8, |sum, (a, b)| sum | (a ^ b));
    given.len() == wanted.len() && differs == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_need_the_token_or_come_from_this_host() {
        let check = |wanted: Option<&str>, given: &str, peer: &str, code: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, given.parse().unwrap());
            let peer = format!("{peer}:1").parse().unwrap();
            let found = may_change(wanted, &headers, peer);
            let found = found.err().map(|error| error.kind().1);
            assert_eq!(found, code, "{wanted:?} {given:?} {peer}");
        };
        check(None, "", "127.0.0.1", None);
        check(None, "", "[::ffff:127.0.0.1]", None);
        check(None, "Bearer x", "10.0.0.1", Some("from_afar"));
        check(Some("x"), "Bearer x", "10.0.0.1", None);
        for wrong in ["", "x", "Bearer ", "Bearer y", "Bearer xx"] {
            check(Some("x"), wrong, "127.0.0.1", Some("bad_token"));
        }
    }
}
