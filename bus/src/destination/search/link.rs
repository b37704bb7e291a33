//! Connections to the nodes: one per node for each thread that asks, with what a node wants to see of
//! whoever asks.
//!
//! Credentials are read anew with each connection, so that changed files count by themselves. Behind an address
//! there may be another cluster at any time, so each new connection asks for the cluster's id first. Not
//! for: which node is asked (see [`super::nodes`]).

use std::{collections::HashMap, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use hyper::{Method, StatusCode};
use serde::Deserialize;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use tributary_common::{
    disk,
    http::{Client, Content, HttpError},
    tls::Dialer,
};

use super::{SearchConfig, Shared};

/// What a node says that has not found its cluster yet.
const NO_CLUSTER: &str = "_na_";

/// Who this is, and who is trusted.
#[derive(Debug)]
pub(super) struct Access {
    user: Option<(String, PathBuf)>,
    api_key: Option<PathBuf>,
    dialer: Option<Arc<Dialer>>,
}

impl Access {
    /// Reads everything once, so that what is wrong is said at the start.
    ///
    /// # Errors
    /// Which file cannot be used.
    pub(super) fn new(config: &SearchConfig) -> anyhow::Result<Self> {
        let secure = config.urls.iter().any(|url| url.starts_with("https:"));
        let dialer = match secure {
            true => Some(Arc::new(Dialer::new(config.ca.as_deref(), None)?)),
            false => None,
        };
        let user = config.user.clone().zip(config.password_file.clone());
        let access = Self {
            user,
            api_key: config.api_key_file.clone(),
            dialer,
        };
        access.authorization()?;
        Ok(access)
    }

    fn authorization(&self) -> anyhow::Result<Option<String>> {
        if let Some(file) = &self.api_key {
            return Ok(Some(format!("ApiKey {}", disk::read_secret(file)?)));
        }
        let Some((user, file)) = &self.user else {
            return Ok(None);
        };
        let password = disk::read_secret(file)?;
        let both = STANDARD.encode(format!("{user}:{password}"));
        Ok(Some(format!("Basic {both}")))
    }

    fn client(&self, url: &str) -> anyhow::Result<Client> {
        let authorization = self.authorization()?;
        let dialer = self.dialer.clone();
        Ok(Client::authorized(url, authorization.as_deref(), dialer)?)
    }
}

/// The connections of one thread.
pub(super) struct Links {
    runtime: Runtime,
    clients: HashMap<usize, Client>,
    stop: CancellationToken,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum NoAnswer {
    /// Somebody wants this to stop.
    Stopped,
    /// The answer was longer than it may be: what was asked for is done, and how it ended is unknown.
    TooLong(String),
    /// The node did not answer, or not whole, or not in time.
    Failed(String),
    /// The node is of another cluster than before.
    Wrong(String),
}

impl From<HttpError> for NoAnswer {
    fn from(error: HttpError) -> Self {
        match error {
            HttpError::TooLong { .. } => Self::TooLong(error.to_string()),
            error => Self::Failed(error.to_string()),
        }
    }
}

/// What a node says of itself.
#[derive(Deserialize)]
struct About {
    cluster_uuid: Option<String>,
}

impl Links {
    pub(super) fn new(stop: CancellationToken) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("failed to start a runtime")?;
        Ok(Self {
            runtime,
            clients: HashMap::new(),
            stop,
        })
    }

    /// Asks the node of a number. Blocks.
    pub(super) fn ask(
        &mut self,
        shared: &Shared,
        node: (usize, &str),
        (method, path, content): (Method, &str, Content),
        limit: Duration,
    ) -> Result<(StatusCode, Bytes), NoAnswer> {
        let mut client = self.client(shared, node)?;
        let kept = client.send_kept(method.clone(), path, content.clone(), limit);
        let answer = match self.within(kept)? {
            Some(answer) => answer,
            None => match self.meet(shared, &mut client, limit)? {
                Some(answer) => answer,
                None => self.within(client.send(method, path, content, limit))?,
            },
        };
        self.keep(node.0, client, answer.0);
        Ok(answer)
    }

    /// Looks who the node of a number is; gives its answer where that is none to go on with. Blocks.
    pub(super) fn look(
        &mut self,
        shared: &Shared,
        node: (usize, &str),
        limit: Duration,
    ) -> Result<Option<StatusCode>, NoAnswer> {
        let mut client = self.client(shared, node)?;
        let refused = self.meet(shared, &mut client, limit)?;
        let refused = refused.map(|(status, _body)| status);
        self.keep(node.0, client, refused.unwrap_or_default());
        Ok(refused)
    }

    fn client(&mut self, shared: &Shared, (no, url): (usize, &str)) -> Result<Client, NoAnswer> {
        let made = || shared.access.client(url);
        let client = self.clients.remove(&no).map_or_else(made, Ok);
        client.map_err(|error| NoAnswer::Failed(format!("{error:#}")))
    }

    /// Credentials that were refused are read anew.
    fn keep(&mut self, no: usize, client: Client, status: StatusCode) {
        if ![StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].contains(&status) {
            self.clients.insert(no, client);
        }
    }

    /// Asks a node for its cluster's id. An answer is given where it ends what was to be asked: credentials
    /// that are refused, a node that cannot work. One that tells no id (it is not for everybody to see) is
    /// gone on with.
    fn meet(
        &self,
        shared: &Shared,
        client: &mut Client,
        limit: Duration,
    ) -> Result<Option<(StatusCode, Bytes)>, NoAnswer> {
        let (status, body) = self.within(client.get("/", limit))?;
        if status == StatusCode::UNAUTHORIZED
            || status == StatusCode::TOO_MANY_REQUESTS
            || status.is_server_error()
        {
            return Ok(Some((status, body)));
        }
        let about = serde_json::from_slice::<About>(&body).ok();
        match about.and_then(|about| about.cluster_uuid).as_deref() {
            Some(NO_CLUSTER) => Err(NoAnswer::Failed("it has found no cluster yet".to_owned())),
            Some(id) => shared.meet(id).map(|()| None),
            None => Ok(None),
        }
    }

    fn within<T>(&self, call: impl Future<Output = Result<T, HttpError>>) -> Result<T, NoAnswer> {
        let told = self.runtime.block_on(self.stop.run_until_cancelled(call));
        Ok(told.ok_or(NoAnswer::Stopped)??)
    }
}
