//! Connections to the nodes: one per node for each thread that asks, with what a node wants to see of
//! whoever asks.
//!
//! Credentials are read anew with each connection, so that changed files count by themselves. Not for:
//! which node is asked (see [`super::nodes`]).

use std::{collections::HashMap, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use hyper::{Method, StatusCode};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use tributary_common::{
    disk,
    http::{Client, Content, HttpError},
    tls::Dialer,
};

use super::SearchConfig;

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
        access: &Access,
        (no, url): (usize, &str),
        (method, path, content): (Method, &str, Content),
        limit: Duration,
    ) -> Result<(StatusCode, Bytes), NoAnswer> {
        let mut client = match self.clients.remove(&no) {
            Some(client) => client,
            None => access
                .client(url)
                .map_err(|error| NoAnswer::Failed(format!("{error:#}")))?,
        };
        let call = client.send(method, path, content, limit);
        let told = self.runtime.block_on(self.stop.run_until_cancelled(call));
        match told {
            None => Err(NoAnswer::Stopped),
            Some(Ok(answer)) => {
                let refused = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN];
                if !refused.contains(&answer.0) {
                    self.clients.insert(no, client);
                }
                Ok(answer)
            }
            Some(Err(error @ HttpError::TooLong { .. })) => {
                Err(NoAnswer::TooLong(error.to_string()))
            }
            Some(Err(error)) => Err(NoAnswer::Failed(error.to_string())),
        }
    }
}
