//! A small HTTP/1.1 client: one request, one bounded answer, one deadline for the whole call.
//!
//! A [`Client`] keeps its connection open between calls; [`get`] and [`post_json`] are for the one
//! call. `https` is TLS 1.3 (see [`crate::tls`]).
//!
//! Not for: the framed stream (that is [`crate::wire`] over an upgrade), many calls at once. Called
//! by agent and bus to reach the manager, and by the `tributary` program.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    Method, Request, Response, StatusCode, Uri,
    body::Incoming,
    client::conn::http1::{SendRequest, handshake},
    header::{
        AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HOST, HeaderValue, InvalidHeaderValue,
    },
};
use hyper_util::rt::TokioIo;
use tokio::{task::JoinSet, time::timeout};

use crate::{
    net::{self, NetError},
    tls::{Dialer, Stream, TlsError},
};

/// The longest answer that is read, in bytes.
pub const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The URL cannot be used. A matter for a person.
    #[error("{url:?} cannot be used: {why}")]
    Url {
        /// As given.
        url: String,
        /// Why.
        why: String,
    },
    /// The token holds characters that no header takes. A matter for a person.
    #[error("the token holds characters that an HTTP header cannot carry")]
    Token(#[source] InvalidHeaderValue),
    /// No connection; try again later.
    #[error(transparent)]
    Net(#[from] NetError),
    /// No TLS; try again later, or mend the certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// No whole answer in time; try again later. The server may have acted on it.
    #[error("{url} did not answer within {after:?}")]
    Timeout {
        /// The request's URL.
        url: String,
        /// How long it was waited.
        after: Duration,
    },
    /// The connection broke or spoke no HTTP; try again later. The server may have acted on it.
    #[error("the connection to {url} failed: {source}")]
    Broken {
        /// The request's URL.
        url: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The answer is longer than [`MAX_ANSWER_BYTES`].
    #[error("the answer of {url} is longer than {MAX_ANSWER_BYTES} bytes")]
    TooLong {
        /// The request's URL.
        url: String,
    },
}

/// Gets `url` within `limit`.
///
/// # Errors
/// [`HttpError`]; a status that is no success is an answer, no error.
pub async fn get(
    url: &str,
    token: Option<&str>,
    limit: Duration,
) -> Result<(StatusCode, Bytes), HttpError> {
    Client::new(url, token, None)?.get("", limit).await
}

/// Posts a JSON document to `url` within `limit`.
///
/// # Errors
/// As [`get`].
pub async fn post_json(
    url: &str,
    token: Option<&str>,
    body: Vec<u8>,
    limit: Duration,
) -> Result<(StatusCode, Bytes), HttpError> {
    Client::new(url, token, None)?
        .post_json("", body, limit)
        .await
}

/// What a request carries.
#[derive(Debug, Clone, Default)]
pub struct Content {
    /// The bytes.
    pub body: Bytes,
    /// What they are; none without a body.
    pub kind: Option<&'static str>,
    /// They are packed with gzip.
    pub gzip: bool,
}

impl Content {
    /// A JSON document.
    #[must_use]
    pub fn json(body: Vec<u8>) -> Self {
        Self {
            body: body.into(),
            kind: Some("application/json"),
            gzip: false,
        }
    }
}

/// A client of one server, which keeps its connection between calls.
#[derive(Debug)]
pub struct Client {
    base: String,
    addr: String,
    /// Of an `https` server.
    dialer: Option<Arc<Dialer>>,
    host: HeaderValue,
    auth: Option<HeaderValue>,
    idle: Option<SendRequest<Full<Bytes>>>,
    /// Drives the connection; at most the one of `idle`.
    driver: JoinSet<()>,
}

impl Client {
    /// A client for the server of `base`, for instance `http://127.0.0.1:7500`. `token` is sent as
    /// a bearer token. An `https` server is trusted by `dialer`, without one when an authority of the
    /// system signed its certificate. Connects with the first call.
    ///
    /// # Errors
    /// [`HttpError::Url`], [`HttpError::Token`] or [`HttpError::Tls`].
    pub fn new(
        base: &str,
        token: Option<&str>,
        dialer: Option<Arc<Dialer>>,
    ) -> Result<Self, HttpError> {
        let bearer = token.map(|token| format!("Bearer {token}"));
        Self::authorized(base, bearer.as_deref(), dialer)
    }

    /// As [`Client::new`], with the whole value of the header `Authorization`, such as
    /// `Basic dTpw`.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn authorized(
        base: &str,
        authorization: Option<&str>,
        dialer: Option<Arc<Dialer>>,
    ) -> Result<Self, HttpError> {
        let wrong = |why: &str| HttpError::Url {
            url: base.to_owned(),
            why: why.to_owned(),
        };
        let uri: Uri = base.parse().map_err(|error| wrong(&format!("{error}")))?;
        let (dialer, port) = match (uri.scheme_str(), dialer) {
            (Some("http"), _) => (None, 80),
            (Some("https"), Some(dialer)) => (Some(dialer), 443),
            (Some("https"), None) => (Some(Arc::new(Dialer::new(None, None)?)), 443),
            _other => return Err(wrong("expected is http://host:port/path, or https://")),
        };
        let authority = uri.authority().ok_or_else(|| wrong("it names no host"))?;
        let addr = match authority.port_u16() {
            Some(port) => format!("{}:{port}", authority.host()),
            None => format!("{}:{port}", authority.host()),
        };
        let host =
            HeaderValue::from_str(authority.as_str()).map_err(|error| wrong(&error.to_string()))?;
        let hidden = |text: &str| {
            let mut value = HeaderValue::from_str(text)?;
            value.set_sensitive(true);
            Ok(value)
        };
        let auth = authorization.map(hidden).transpose();
        let auth = auth.map_err(HttpError::Token)?;
        let base = base.trim_end_matches('/').to_owned();
        Ok(Self {
            base,
            addr,
            dialer,
            host,
            auth,
            idle: None,
            driver: JoinSet::new(),
        })
    }

    /// Gets `path` (with its leading `/`; empty for the base itself) within `limit`.
    ///
    /// # Errors
    /// As [`get`].
    pub async fn get(
        &mut self,
        path: &str,
        limit: Duration,
    ) -> Result<(StatusCode, Bytes), HttpError> {
        self.send(Method::GET, path, Content::default(), limit)
            .await
    }

    /// Posts a JSON document to `path` within `limit`.
    ///
    /// # Errors
    /// As [`get`].
    pub async fn post_json(
        &mut self,
        path: &str,
        body: Vec<u8>,
        limit: Duration,
    ) -> Result<(StatusCode, Bytes), HttpError> {
        self.send(Method::POST, path, Content::json(body), limit)
            .await
    }

    /// One call of any method. A kept connection that the server has closed meanwhile is replaced once.
    ///
    /// # Errors
    /// As [`get`].
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        content: Content,
        limit: Duration,
    ) -> Result<(StatusCode, Bytes), HttpError> {
        let url = format!("{}{path}", self.base);
        let request = self.request(&method, &url, content)?;
        let call = async {
            let request = match self.over_kept(request, &url).await? {
                Kept::Answered(answer) => return Ok(answer),
                // The kept connection had gone, so it is safe to try anew.
                Kept::NotSent(request) => *request,
            };
            let mut connection = self.connect(limit, &url).await?;
            let answer = connection.send_request(request).await;
            let answer = answer.map_err(|error| broken(&url, error))?;
            self.read(connection, answer, &url).await
        };
        let done = timeout(limit, call).await;
        done.unwrap_or_else(|_elapsed| Err(HttpError::Timeout { url, after: limit }))
    }

    /// One call over the connection that was kept; `None`, and nothing was sent, when there is none any more: for
    /// those who look who answers on a new one.
    ///
    /// # Errors
    /// As [`get`].
    pub async fn send_kept(
        &mut self,
        method: Method,
        path: &str,
        content: Content,
        limit: Duration,
    ) -> Result<Option<(StatusCode, Bytes)>, HttpError> {
        let url = format!("{}{path}", self.base);
        let request = self.request(&method, &url, content)?;
        match timeout(limit, self.over_kept(request, &url)).await {
            Ok(Ok(Kept::Answered(answer))) => Ok(Some(answer)),
            Ok(Ok(Kept::NotSent(_request))) => Ok(None),
            Ok(Err(error)) => Err(error),
            Err(_elapsed) => Err(HttpError::Timeout { url, after: limit }),
        }
    }

    async fn over_kept(
        &mut self,
        request: Request<Full<Bytes>>,
        url: &str,
    ) -> Result<Kept, HttpError> {
        let Some(mut connection) = self.idle.take().filter(|idle| !idle.is_closed()) else {
            return Ok(Kept::NotSent(request.into()));
        };
        match connection.try_send_request(request).await {
            Ok(answer) => Ok(Kept::Answered(self.read(connection, answer, url).await?)),
            Err(mut error) => match error.take_message() {
                // Nothing of it was sent.
                Some(request) => Ok(Kept::NotSent(request.into())),
                None => Err(broken(url, error.into_error())),
            },
        }
    }

    /// Reads an answer whole, and keeps its connection.
    async fn read(
        &mut self,
        connection: SendRequest<Full<Bytes>>,
        answer: Response<Incoming>,
        url: &str,
    ) -> Result<(StatusCode, Bytes), HttpError> {
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES)
            .collect()
            .await
            .map_err(|source| match source.is::<LengthLimitError>() {
                true => HttpError::TooLong {
                    url: url.to_owned(),
                },
                false => HttpError::Broken {
                    url: url.to_owned(),
                    source,
                },
            })?;
        self.idle = Some(connection);
        Ok((status, body.to_bytes()))
    }

    /// The request of a call.
    fn request(
        &self,
        method: &Method,
        url: &str,
        content: Content,
    ) -> Result<Request<Full<Bytes>>, HttpError> {
        let wrong = |why: String| HttpError::Url {
            url: url.to_owned(),
            why,
        };
        let uri: Uri = url.parse().map_err(|error| wrong(format!("{error}")))?;
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        let mut request = Request::builder()
            .method(method)
            .uri(target)
            .header(HOST, &self.host);
        if let Some(auth) = &self.auth {
            request = request.header(AUTHORIZATION, auth);
        }
        if let Some(kind) = content.kind {
            request = request.header(CONTENT_TYPE, kind);
        }
        if content.gzip {
            request = request.header(CONTENT_ENCODING, "gzip");
        }
        request
            .body(Full::new(content.body))
            .map_err(|error| wrong(error.to_string()))
    }

    /// A new connection, driven by a task of this client.
    async fn connect(
        &mut self,
        limit: Duration,
        url: &str,
    ) -> Result<SendRequest<Full<Bytes>>, HttpError> {
        let stream = net::dial(&self.addr, limit).await?;
        let stream = match &self.dialer {
            Some(dialer) => dialer.secure(stream, &self.addr).await?,
            None => Stream::plain(stream),
        };
        let opened = handshake(TokioIo::new(stream)).await;
        let (sender, connection) = opened.map_err(|error| broken(url, error))?;
        self.driver.abort_all();
        while self.driver.try_join_next().is_some() {}
        // How it ends is told by the request that was on it.
        self.driver.spawn(async { drop(connection.await) });
        Ok(sender)
    }
}

/// What came of a request over a kept connection.
enum Kept {
    Answered((StatusCode, Bytes)),
    NotSent(Box<Request<Full<Bytes>>>),
}

fn broken(url: &str, source: hyper::Error) -> HttpError {
    HttpError::Broken {
        url: url.to_owned(),
        source: source.into(),
    }
}

#[cfg(test)]
mod tests;
