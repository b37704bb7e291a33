//! Calls to HDFS: each with a time limit, each failure as one clear sentence.
//!
//! The library waits for ever where a process hangs, so every call has its own limit; one that is over
//! may still be carried out later (see [`super::upload`] for what that means). Not for: retries.

use std::{collections::BTreeMap, future::Future, time::Duration};

use bytes::Bytes;
use hdfs_native::{Client, ClientBuilder, HdfsError, WriteOptions, file::FileWriter};
use tokio::{runtime::Handle, time::timeout};

use super::{Hdfs, Kerberos, manifest::MAX_BYTES, store::Stamp};

/// Hadoop's key for how long a call may take, in ms; and how long it may where that is not said: a
/// NameNode that starts anew makes its clients wait for half a minute.
const LIMIT_KEY: &str = "dfs.client.socket-timeout";
const CALL_LIMIT: Duration = Duration::from_secs(60);
/// How often the library tries other NameNodes, and how long it waits in between, where that is not said.
/// Everything is tried again here, too, and meanwhile nobody hears of it.
const FAILOVER: [(&str, &str); 3] = [
    ("dfs.client.failover.max.attempts", "4"),
    ("dfs.client.failover.sleep.base.millis", "200"),
    ("dfs.client.failover.sleep.max.millis", "1000"),
];
/// Hadoop's key for how clients say who they are.
const AUTHENTICATION: &str = "hadoop.security.authentication";
const KERBEROS: &str = "kerberos";

/// An HDFS.
#[derive(Debug)]
pub(super) struct Cluster {
    client: Client,
    url: String,
    limit: Duration,
}

/// A file that is being written.
pub(super) struct Writer<'a> {
    writer: FileWriter,
    cluster: &'a Cluster,
}

impl Cluster {
    /// A client; it connects when it is first used, on the given runtime.
    ///
    /// # Errors
    /// Settings that make no address.
    pub(super) fn new(config: &Hdfs, runtime: &Handle) -> anyhow::Result<Self> {
        let mut options: BTreeMap<String, String> = config.options.clone();
        let limit = options.get(LIMIT_KEY).and_then(|ms| ms.parse().ok());
        for (key, value) in FAILOVER {
            options
                .entry(key.to_owned())
                .or_insert_with(|| value.to_owned());
        }
        if config.kerberos.is_some() {
            let key = AUTHENTICATION.to_owned();
            options.entry(key).or_insert_with(|| KERBEROS.to_owned());
        }
        let has_tickets = options.get(AUTHENTICATION).is_some_and(|by| by == KERBEROS);
        let mut client = ClientBuilder::new()
            .with_url(&config.url)
            .with_config(options)
            .with_io_runtime(runtime.clone());
        if !has_tickets {
            // Beside a ticket it would be somebody else, for whom the ticket's owner acts.
            client = client.with_user(&config.user);
        }
        if let Some(Kerberos { principal, keytab }) = &config.kerberos {
            client = client
                .with_kerberos_principal(principal)
                .with_kerberos_keytab(keytab.display().to_string());
        }
        let client = client.build().map_err(|error| {
            anyhow::anyhow!(
                "{} cannot be used: {error}; a name service needs the options \
                 \"dfs.ha.namenodes.NAME\" and \"dfs.namenode.rpc-address.NAME.NODE\"",
                config.url
            )
        })?;
        Ok(Self {
            client,
            url: config.url.trim_end_matches('/').to_owned(),
            limit: limit.map_or(CALL_LIMIT, Duration::from_millis),
        })
    }

    /// A path with the address before it.
    pub(super) fn full(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    /// The path of a full one, when it is of this address.
    pub(super) fn path_of<'a>(&self, full: &'a str) -> Option<&'a str> {
        full.strip_prefix(&self.url)
    }

    /// How long a call may take.
    pub(super) fn limit(&self) -> Duration {
        self.limit
    }

    /// A file that is there; `None` when there is none.
    ///
    /// # Errors
    /// When the NameNode does not say it within `limit`.
    pub(super) async fn look(&self, path: &str, limit: Duration) -> Result<Option<Stamp>, String> {
        match timeout(limit, self.client.get_file_info(path)).await {
            Ok(Ok(file)) => Ok(Some(Stamp(file.modification_time, file.length))),
            Ok(Err(HdfsError::FileNotFound(_))) => Ok(None),
            Ok(Err(error)) => Err(sentence("look for a file", &error)),
            Err(_elapsed) => Err(format!(
                "the NameNode has not answered for {} s",
                limit.as_secs_f32()
            )),
        }
    }

    /// Begins a new file; an old one of the name is replaced.
    ///
    /// # Errors
    /// Why not; it may be there nevertheless.
    pub(super) async fn create(&self, path: &str) -> Result<Writer<'_>, String> {
        let options = WriteOptions::default().overwrite(true);
        let created = self.client.create(path, options);
        let writer = self.call("create a file", created).await?;
        Ok(Writer {
            writer,
            cluster: self,
        })
    }

    /// Deletes a file; none is as good.
    ///
    /// # Errors
    /// When it may still be there.
    pub(super) async fn delete(&self, path: &str) -> Result<(), String> {
        let deleted = async {
            match self.client.delete(path, false).await {
                Ok(_there_was_one) => Ok(()),
                Err(HdfsError::FileNotFound(_)) => Ok(()),
                Err(error) => Err(error),
            }
        };
        self.call("delete a file", deleted).await
    }

    /// The length of a file; `None` when there is none.
    ///
    /// # Errors
    /// When that cannot be said.
    pub(super) async fn length(&self, path: &str) -> Result<Option<usize>, String> {
        let asked = async {
            match self.client.get_file_info(path).await {
                Ok(status) => Ok(Some(status.length)),
                Err(HdfsError::FileNotFound(_)) => Ok(None),
                Err(error) => Err(error),
            }
        };
        self.call("look for a file", asked).await
    }

    /// Renames a file; nothing may have the new name.
    ///
    /// # Errors
    /// Why not; it may have it nevertheless.
    pub(super) async fn rename(&self, from: &str, to: &str) -> Result<(), String> {
        self.call("rename a file", self.client.rename(from, to, false))
            .await
    }

    /// Reads a small file whole.
    ///
    /// # Errors
    /// When it is not there or cannot be read.
    pub(super) async fn get(&self, path: &str) -> Result<Bytes, String> {
        let read = async {
            let reader = self.client.read(path).await?;
            let length = reader.file_length().min(MAX_BYTES);
            reader.read_range(0, length).await
        };
        self.call("read a file", read).await
    }

    async fn call<T>(
        &self,
        doing: &str,
        answer: impl Future<Output = Result<T, HdfsError>>,
    ) -> Result<T, String> {
        match timeout(self.limit, answer).await {
            Ok(answer) => answer.map_err(|error| sentence(doing, &error)),
            Err(_elapsed) => {
                let seconds = self.limit.as_secs_f32();
                let why = format!("HDFS has not answered for {seconds} s");
                Err(format!("failed to {doing}: {why}"))
            }
        }
    }
}

impl Writer<'_> {
    /// Writes bytes behind those that are there.
    ///
    /// # Errors
    /// Why not: the file is of no use any more.
    pub(super) async fn write(&mut self, bytes: Bytes) -> Result<(), String> {
        // The library's futures take tens of KiB.
        let written = Box::pin(self.writer.write_bytes(bytes));
        let written = self.cluster.call("write to a file", written).await;
        written.map(drop)
    }

    /// Makes the bytes durable on the disk of each DataNode that has them, and closes the file.
    ///
    /// # Errors
    /// Why not: the file is of no use any more.
    pub(super) async fn close(&mut self) -> Result<(), String> {
        let synced = Box::pin(self.writer.hsync());
        self.cluster.call("sync a file", synced).await?;
        let closed = Box::pin(self.writer.close());
        self.cluster.call("close a file", closed).await
    }
}

/// A failure in words: what it means first, and what the server said.
pub(super) fn sentence(doing: &str, error: &HdfsError) -> String {
    let said = error.to_string();
    // Java's exceptions come with their stack; the first line says it.
    let said = said.lines().next().unwrap_or_default();
    let meaning = meaning(said);
    format!("failed to {doing}: {meaning}{said}")
}

/// What a server's words mean, for whoever does not know them.
fn meaning(said: &str) -> &'static str {
    let has = |word: &str| said.contains(word);
    match () {
        () if has("SafeModeException") || has("safe mode") => {
            "the NameNode is in safe mode and takes no changes until its DataNodes have reported: "
        }
        () if has("QuotaExceeded") => "the quota of the folder is full: ",
        () if has("AccessControlException") || has("AuthorizationException") => {
            "the user may not write there: "
        }
        () if has("StandbyException") => "no NameNode of the service is active: ",
        () if has("AlreadyBeingCreated") || has("LeaseExpired") || has("RecoveryInProgress") => {
            "another writer holds the file's lease: "
        }
        // So it is said of a block that is to be synced when its file was closed by somebody else.
        () if has("but not UNDER_CONSTRUCTION") => "another writer holds the file's lease: ",
        () if has("could only be written to") => "no DataNode has room for it: ",
        () if has("Connection refused") || has("Connection reset") => {
            "a NameNode or DataNode is not there: "
        }
        () if has("RPC listener disconnected") => {
            "the NameNode ended the connection (one that asks for Kerberos does, where \"kerberos\" is not set): "
        }
        () if has("No valid SASL mechanism") || has("GSSAPI") || has("SASL") => {
            "HDFS does not let this node in: "
        }
        () => "",
    }
}
