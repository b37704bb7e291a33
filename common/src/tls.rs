//! TLS 1.3 for connections of ours: certificates from files, for who dials and for who listens.
//!
//! Files are looked at again when a connection comes, at most every few seconds: a renewed certificate
//! counts for the next handshake and drops no connection, and one that cannot be used leaves the one
//! before in place and says so. Proof of the cryptography is rustls with aws-lc-rs.
//!
//! Not for: sockets (see [`crate::net`]), what is spoken inside. Called by agent, bus and manager.

mod files;
mod gulp;
mod settings;
mod stream;
#[cfg(test)]
mod tests;

use std::{
    error::Error,
    io,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::Duration,
};

use rustls::{
    CipherSuite, ClientConfig, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::ServerName,
    server::WebPkiClientVerifier,
};
use tokio::{
    net::TcpStream,
    sync::Semaphore,
    task::yield_now,
    time::{Instant, timeout},
};
use tokio_rustls::{LazyConfigAcceptor, TlsConnector};

use self::{files::Stamps, gulp::Gulp};
pub use self::{
    settings::{ACCEPTOR, AcceptorSettings, DIALER, DialerSettings},
    stream::Stream,
};

/// Files are looked at again after this, when a connection comes.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// A handshake takes at most this long from the first byte.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// Handshakes whose keys are worked out in one turn of who is connected: when a whole site comes back,
/// others still get the CPU. Nobody has a place while it waits for the other side.
const HANDSHAKES: usize = 64;
/// The first byte of every handshake.
const HANDSHAKE_BYTE: u8 = 22;

/// The certificate that one shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// PEM: its own, then those between it and the authority.
    pub cert: PathBuf,
    /// PEM: the private key.
    pub key: PathBuf,
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds something else. A matter for a person.
    #[error("failed to use {}: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The configuration key that names it.
        key: &'static str,
        /// Why.
        why: String,
    },
    /// Certificate and key are no pair, or of no use together. A matter for a person.
    #[error("failed to use {cert} with {key}: {source}", cert = cert.display(), key = key.display())]
    Pair {
        /// The certificate.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// The system knows no authorities. A matter for a person.
    #[error(
        "this system has no certificates of authorities; install ca-certificates, or name a file: `tls.ca`"
    )]
    NoAuthorities,
    /// No certificate can be for such a name. A matter for a person.
    #[error("{host:?} is no name that a certificate can have")]
    Name {
        /// As given.
        host: String,
    },
    /// The other side speaks something else.
    #[error("{peer} does not speak TLS; it needs `[tls]`, or this side must do without")]
    NotTls {
        /// Who.
        peer: String,
    },
    /// One of the two does not trust the other, or they have no version in common.
    #[error("no TLS with {peer}: {source}")]
    Refused {
        /// Who.
        peer: String,
        /// Why.
        source: rustls::Error,
    },
    /// The connection broke. Try again later.
    #[error("no TLS with {peer}: {source}")]
    Broken {
        /// Who.
        peer: String,
        /// Why.
        source: io::Error,
    },
    /// It took too long. Try again later.
    #[error("no TLS with {peer} within {HANDSHAKE_WITHIN:?}")]
    Slow {
        /// Who.
        peer: String,
    },
}

impl TlsError {
    /// Says why a handshake failed.
    fn of(peer: &str, source: io::Error) -> Self {
        let peer = peer.to_owned();
        match cause(&source) {
            Some(rustls::Error::InvalidMessage(_)) => Self::NotTls { peer },
            Some(why) => Self::Refused {
                peer,
                source: why.clone(),
            },
            None => Self::Broken { peer, source },
        }
    }

    /// The configuration key that it is a matter of, when it is one.
    #[must_use]
    pub fn key(&self) -> Option<&'static str> {
        match self {
            Self::File { key, .. } => Some(key),
            Self::Pair { .. } => Some("tls.key"),
            Self::NoAuthorities => Some("tls.ca"),
            Self::Name { .. }
            | Self::NotTls { .. }
            | Self::Refused { .. }
            | Self::Broken { .. }
            | Self::Slow { .. } => None,
        }
    }

    /// The kind of it, as a metric label.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::File { .. } | Self::Pair { .. } | Self::NoAuthorities | Self::Name { .. } => {
                "files"
            }
            Self::NotTls { .. } => "not_tls",
            Self::Refused { .. } => "refused",
            Self::Broken { .. } => "broken",
            Self::Slow { .. } => "slow",
        }
    }
}

/// What TLS says inside of an error of a connection, when it says anything: an alert of the other side
/// comes with the first read after the handshake.
#[must_use]
pub fn cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = match error.downcast_ref::<io::Error>() {
            Some(io) => io.get_ref().map(|inner| inner as &(dyn Error + 'static)),
            None => error.source(),
        };
    }
    None
}

/// The cryptography, for all of the process. Of the suites of TLS 1.3 the one comes first that every
/// peer has and that costs least: ten rounds of AES in place of fourteen.
static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    let mut provider = aws_lc_rs::default_provider();
    let cheap = CipherSuite::TLS13_AES_128_GCM_SHA256;
    provider
        .cipher_suites
        .sort_by_key(|suite| suite.suite() != cheap);
    Arc::new(provider)
});

/// Who dials.
#[derive(Debug)]
pub struct Dialer {
    ca: Option<PathBuf>,
    identity: Option<Identity>,
    kept: Kept<ClientConfig>,
}

impl Dialer {
    /// Trusts the authorities of a PEM file, or without one those of the system; shows `identity` to
    /// who asks.
    ///
    /// # Errors
    /// [`TlsError`] when a file cannot be used.
    pub fn new(ca: Option<&Path>, identity: Option<Identity>) -> Result<Self, TlsError> {
        let stamps = Stamps::of(ca, identity.as_ref());
        let config = client_config(ca, identity.as_ref())?;
        Ok(Self {
            ca: ca.map(Path::to_owned),
            identity,
            kept: Kept::new(config, stamps),
        })
    }

    /// Makes a connection to `addr` (`host:port`) secure; the certificate there must be for `host`.
    ///
    /// # Errors
    /// [`TlsError`].
    pub async fn secure(&self, stream: TcpStream, addr: &str) -> Result<Stream, TlsError> {
        let host = addr.rsplit_once(':').map_or(addr, |(host, _port)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned()).map_err(|_invalid| TlsError::Name {
            host: host.to_owned(),
        })?;
        let identity = self.identity.as_ref();
        let config = self.kept.current(
            || Stamps::of(self.ca.as_deref(), identity),
            || client_config(self.ca.as_deref(), identity),
        );
        let connect = TlsConnector::from(config).connect(name, Gulp::new(stream));
        match timeout(HANDSHAKE_WITHIN, connect).await {
            Ok(Ok(stream)) => Ok(Stream::tls(stream.into())),
            Ok(Err(error)) => Err(TlsError::of(addr, error)),
            Err(_elapsed) => Err(TlsError::Slow {
                peer: addr.to_owned(),
            }),
        }
    }
}

fn client_config(ca: Option<&Path>, identity: Option<&Identity>) -> Result<ClientConfig, TlsError> {
    let roots = match ca {
        Some(path) => files::authorities(path, "tls.ca")?,
        None => system_authorities()?,
    };
    let builder = ClientConfig::builder_with_provider(Arc::clone(&PROVIDER))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has TLS 1.3")
        .with_root_certificates(roots);
    let Some(identity) = identity else {
        return Ok(builder.with_no_client_auth());
    };
    let (certs, key) = files::pair(identity)?;
    let config = builder.with_client_auth_cert(certs, key);
    config.map_err(|source| no_pair(identity, source))
}

/// The authorities that the system trusts.
fn system_authorities() -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    match roots.is_empty() {
        true => Err(TlsError::NoAuthorities),
        false => Ok(roots),
    }
}

fn no_pair(identity: &Identity, source: rustls::Error) -> TlsError {
    TlsError::Pair {
        cert: identity.cert.clone(),
        key: identity.key.clone(),
        source,
    }
}

/// Who listens.
#[derive(Debug)]
pub struct Acceptor {
    identity: Identity,
    client_ca: Option<PathBuf>,
    kept: Kept<ServerConfig>,
    handshakes: Semaphore,
}

impl Acceptor {
    /// Shows `identity`. With `client_ca`, a PEM file of authorities, it takes nobody without a
    /// certificate of theirs.
    ///
    /// # Errors
    /// [`TlsError`] when a file cannot be used.
    pub fn new(identity: Identity, client_ca: Option<PathBuf>) -> Result<Self, TlsError> {
        let stamps = Stamps::of(client_ca.as_deref(), Some(&identity));
        let config = server_config(&identity, client_ca.as_deref())?;
        Ok(Self {
            identity,
            client_ca,
            kept: Kept::new(config, stamps),
            handshakes: Semaphore::new(HANDSHAKES),
        })
    }

    /// Makes an accepted connection secure. Who speaks HTTP without TLS is told so.
    ///
    /// # Errors
    /// [`TlsError`]: it concerns this connection only.
    pub async fn secure(&self, stream: TcpStream) -> Result<Stream, TlsError> {
        let peer = match stream.peer_addr() {
            Ok(addr) => addr.to_string(),
            Err(source) => {
                let peer = "somebody who left".to_owned();
                return Err(TlsError::Broken { peer, source });
            }
        };
        let done = timeout(HANDSHAKE_WITHIN, self.handshake(stream, &peer));
        done.await
            .unwrap_or_else(|_elapsed| Err(TlsError::Slow { peer }))
    }

    async fn handshake(&self, stream: TcpStream, peer: &str) -> Result<Stream, TlsError> {
        let broken = |source| TlsError::of(peer, source);
        let mut first = [0];
        if stream.peek(&mut first).await.map_err(broken)? == 1 && first != [HANDSHAKE_BYTE] {
            stream::say_tls_is_needed(stream).await;
            return Err(TlsError::NotTls {
                peer: peer.to_owned(),
            });
        }
        // Who has said nothing yet holds no place.
        let stream = Gulp::new(stream);
        let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream)
            .await
            .map_err(broken)?;
        let place = self.handshakes.acquire().await;
        // Behind those who are connected already: the next step is what costs.
        yield_now().await;
        let identity = &self.identity;
        let config = self.kept.current(
            || Stamps::of(self.client_ca.as_deref(), Some(identity)),
            || server_config(identity, self.client_ca.as_deref()),
        );
        let rest = start.into_stream(config);
        // Whoever does not go on now holds up nobody else.
        drop(place);
        Ok(Stream::tls(rest.await.map_err(broken)?.into()))
    }
}

fn server_config(identity: &Identity, client_ca: Option<&Path>) -> Result<ServerConfig, TlsError> {
    let builder = ServerConfig::builder_with_provider(Arc::clone(&PROVIDER))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has TLS 1.3");
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let key = "tls.client_ca";
            let roots = Arc::new(files::authorities(path, key)?);
            let verifier =
                WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&PROVIDER)).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| TlsError::File {
                path: path.to_owned(),
                key,
                why: error.to_string(),
            })?)
        }
    };
    let (certs, key) = files::pair(identity)?;
    let mut config = builder
        .with_single_cert(certs, key)
        .map_err(|source| no_pair(identity, source))?;
    // Who comes back has a ticket and pays a fraction; one is enough for one connection each.
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(|source| no_pair(identity, source))?;
    config.send_tls13_tickets = 1;
    Ok(config)
}

/// What was made of files, until they change.
#[derive(Debug)]
struct Kept<T> {
    inner: Mutex<Inner<T>>,
}

#[derive(Debug)]
struct Inner<T> {
    config: Arc<T>,
    stamps: Stamps,
    looked_at: Instant,
}

impl<T> Kept<T> {
    fn new(config: T, stamps: Stamps) -> Self {
        let inner = Inner {
            config: Arc::new(config),
            stamps,
            looked_at: Instant::now(),
        };
        Self {
            inner: Mutex::new(inner),
        }
    }

    /// What counts now. Files that have changed are taken when they can be used.
    fn current(
        &self,
        stamps: impl FnOnce() -> Stamps,
        load: impl FnOnce() -> Result<T, TlsError>,
    ) -> Arc<T> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.looked_at.elapsed() < LOOK_EVERY {
            return Arc::clone(&inner.config);
        }
        inner.looked_at = Instant::now();
        // Before they are read: a change in between is seen at the next look.
        let stamps = stamps();
        if stamps != inner.stamps {
            inner.stamps = stamps;
            match load() {
                Ok(config) => {
                    tracing::info!("certificates have changed; new connections have the new ones");
                    inner.config = Arc::new(config);
                }
                Err(error) => tracing::error!(
                    %error,
                    "certificates have changed and cannot be used; the old ones go on"
                ),
            }
        }
        Arc::clone(&inner.config)
    }
}
