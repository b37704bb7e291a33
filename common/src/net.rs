//! The only door to sockets: dial and listen, with the options that every connection of ours has.
//!
//! `TCP_NODELAY` because frames are written whole and an ack must not wait for Nagle; keep-alive
//! because a dead peer behind a switch says nothing. Clients inside libraries (librdkafka, SQL)
//! open their own sockets.
//!
//! Not for: TLS, HTTP (see [`crate::http`], [`crate::admin`]). Called by agent, bus, manager.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd as _, OwnedFd},
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpSocket, TcpStream, lookup_host},
    task::JoinSet,
    time::{Instant, timeout, timeout_at},
};

/// An idle connection is probed after this long.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
/// A probe without answer is repeated after this long.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// A connection is dead after this many probes without answer: 60 s in all.
const KEEPALIVE_PROBES: u32 = 3;
/// Connections that wait for their accept. A site's agents come back together after an outage; the
/// kernel cuts it to `net.core.somaxconn`.
const BACKLOG: u32 = 4096;
/// A name's next address is tried beside one that has said nothing for so long (RFC 8305 advises it).
const BESIDE_AFTER: Duration = Duration::from_millis(250);

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// It is no `host:port`. Mend it.
    #[error("{addr:?} is no address: {source}; expected is host:port")]
    Address {
        /// What was asked for.
        addr: String,
        /// Why.
        source: io::Error,
    },
    /// The name has no address. Try again later or mend the name.
    #[error("failed to resolve {addr}: {source}; check the name, and the host's name servers")]
    Resolve {
        /// What was asked for.
        addr: String,
        /// Why.
        source: io::Error,
    },
    /// Nobody answered on any of its addresses. Try again later, or elsewhere.
    #[error("failed to connect to {addr}: {source}")]
    Connect {
        /// What was asked for.
        addr: String,
        /// Why, of the last address tried.
        source: io::Error,
    },
    /// No answer in time. Try again later, or elsewhere.
    #[error("failed to connect to {addr}: no answer within {after:?}")]
    Timeout {
        /// What was asked for.
        addr: String,
        /// How long it was tried.
        after: Duration,
    },
    /// Another process listens there. A matter for a person.
    #[error(
        "failed to listen on {addr}: address in use; choose another `{key}`, or stop the process \
         that holds it"
    )]
    InUse {
        /// The address.
        addr: String,
        /// The configuration key that named it.
        key: &'static str,
    },
    /// It cannot be listened on. A matter for a person.
    #[error("failed to listen on {addr}: {source}; check `{key}`")]
    Listen {
        /// The address.
        addr: String,
        /// The configuration key that named it.
        key: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// Connects to `addr` (`host:port`) within `limit` in all. The name is resolved anew each time; of its
/// addresses one that is refused or says nothing for a moment has the next one tried beside it, and the
/// first connection counts.
///
/// # Errors
/// [`NetError`] with the address; all of them may pass by themselves.
pub async fn dial(addr: &str, limit: Duration) -> Result<TcpStream, NetError> {
    let resolve = |source: io::Error| {
        let addr = addr.to_owned();
        match source.kind() {
            io::ErrorKind::InvalidInput => NetError::Address { addr, source },
            _ => NetError::Resolve { addr, source },
        }
    };
    let deadline = Instant::now() + limit;
    let targets = match timeout_at(deadline, lookup_host(addr)).await {
        Ok(found) => found.map_err(resolve)?,
        Err(_elapsed) => {
            let why = format!("the name servers did not answer within {limit:?}");
            return Err(resolve(io::Error::new(io::ErrorKind::TimedOut, why)));
        }
    };
    match timeout_at(deadline, dial_any(targets)).await {
        Ok(dialled) => dialled.map_err(|source| NetError::Connect {
            addr: addr.to_owned(),
            source,
        }),
        Err(_elapsed) => Err(NetError::Timeout {
            addr: addr.to_owned(),
            after: limit,
        }),
    }
}

/// The first of the addresses that takes a connection; else why the last one that answered did not.
async fn dial_any(mut targets: impl Iterator<Item = SocketAddr>) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let mut tries = JoinSet::new();
    let mut next = targets.next();
    loop {
        if let Some(target) = next.take() {
            tries.spawn(dial_one(target));
            next = targets.next();
        }
        let ended = match next {
            Some(_) => timeout(BESIDE_AFTER, tries.join_next()).await,
            None => Ok(tries.join_next().await),
        };
        match ended {
            Ok(Some(Ok(Ok(stream)))) => return Ok(stream),
            Ok(Some(Ok(Err(error)))) => last = error,
            Ok(Some(Err(panicked))) => last = io::Error::other(panicked),
            Ok(None) if next.is_none() => return Err(last),
            Ok(None) | Err(_) => {}
        }
    }
}

/// Connects to one address.
async fn dial_one(target: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(target).await?;
    prepare(&stream)?;
    Ok(stream)
}

/// Sets the options of every connection: no delay, keep-alive. Call it on accepted streams;
/// [`dial`] has done it already.
///
/// # Errors
/// When the connection is gone already.
pub fn prepare(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
    Ok(())
}

/// A second hold on a connection, to give it up for good.
#[derive(Debug)]
pub struct Cutter(Hold);

#[derive(Debug)]
enum Hold {
    Socket(OwnedFd),
    #[cfg(feature = "sim")]
    Simulated(crate::sim::Cutter),
}

#[cfg(feature = "sim")]
impl From<crate::sim::Cutter> for Cutter {
    fn from(cutter: crate::sim::Cutter) -> Self {
        Self(Hold::Simulated(cutter))
    }
}

impl Cutter {
    /// A hold on a connection; it stays open until both are dropped.
    ///
    /// # Errors
    /// Without descriptors.
    pub fn of(stream: &TcpStream) -> io::Result<Self> {
        let socket = stream.as_fd().try_clone_to_owned()?;
        Ok(Self(Hold::Socket(socket)))
    }

    /// What the peer has not got by now it shall not get when the connection is closed; else the
    /// kernel goes on sending it for a quarter of an hour, and a peer that was cut off takes it twice.
    pub fn cut(&self) {
        match &self.0 {
            Hold::Socket(socket) => {
                let linger = rustix::net::sockopt::set_socket_linger(socket, Some(Duration::ZERO));
                if let Err(error) = linger {
                    tracing::debug!(%error, "a connection was gone before it was cut");
                }
            }
            #[cfg(feature = "sim")]
            Hold::Simulated(cutter) => cutter.cut(),
        }
    }
}

/// Listens on `addr` (`host:port`); port 0 takes a free one. The configuration key is `listen`.
///
/// # Errors
/// [`NetError::InUse`] or [`NetError::Listen`], naming the address and what to do.
pub async fn listen(addr: &str) -> Result<TcpListener, NetError> {
    listen_for("listen", addr).await
}

/// As [`listen`], for the address of another configuration key, which the error names.
///
/// # Errors
/// As [`listen`].
pub async fn listen_for(key: &'static str, addr: &str) -> Result<TcpListener, NetError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => NetError::InUse {
            addr: addr.to_owned(),
            key,
        },
        _ => NetError::Listen {
            addr: addr.to_owned(),
            key,
            source,
        },
    };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for target in lookup_host(addr).await.map_err(failed)? {
        match listen_one(target) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(failed(last))
}

/// Listens on one address.
fn listen_one(target: SocketAddr) -> io::Result<TcpListener> {
    let socket = if target.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    // A restart must not wait for connections of the process before in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(target)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn a_dialled_connection_reaches_its_listener_without_delay() {
        let listener = listen("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let (dialled, accepted) = tokio::join!(dial(&addr, SECOND), listener.accept());
        let (dialled, (accepted, _)) = (dialled.unwrap(), accepted.unwrap());
        prepare(&accepted).unwrap();
        assert!(dialled.nodelay().unwrap() && accepted.nodelay().unwrap());
        assert!(rustix::net::sockopt::socket_keepalive(&dialled).unwrap());
    }

    #[tokio::test]
    async fn what_was_not_sent_when_a_connection_is_cut_is_never_sent() {
        use tokio::io::AsyncReadExt as _;
        let listener = listen("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let (dialled, accepted) = tokio::join!(dial(&addr, SECOND), listener.accept());
        let (dialled, (mut accepted, _)) = (dialled.unwrap(), accepted.unwrap());
        // Until the buffers of both sides are full.
        while dialled.try_write(&[7; 4096]).is_ok() {}
        Cutter::of(&dialled).unwrap().cut();
        drop(dialled);
        let mut all = Vec::new();
        let ended = accepted.read_to_end(&mut all).await.unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_port_in_use_is_named_with_its_key() {
        let listener = listen("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        assert_eq!(
            listen_for("admin", &addr).await.unwrap_err().to_string(),
            format!(
                "failed to listen on {addr}: address in use; choose another `admin`, or stop the \
                 process that holds it"
            )
        );
    }

    #[tokio::test]
    async fn a_port_is_free_again_after_its_listener() {
        let listener = listen("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let (_dialled, accepted) = tokio::join!(dial(&addr, SECOND), listener.accept());
        // The side that closes first keeps the port in TIME_WAIT.
        drop(accepted);
        drop(listener);
        listen(&addr).await.unwrap();
    }

    #[tokio::test]
    async fn a_refused_or_unknown_address_is_named() {
        let gone = listen("127.0.0.1:0")
            .await
            .unwrap()
            .local_addr()
            .unwrap()
            .to_string();
        let error = dial(&gone, SECOND).await.unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("failed to connect to {gone}: ")),
            "{error}"
        );
        let error = dial("127.0.0.1", SECOND).await.unwrap_err().to_string();
        assert!(
            error.starts_with("\"127.0.0.1\" is no address: "),
            "{error}"
        );
        let error = listen("192.0.2.1:1").await.unwrap_err().to_string();
        assert!(
            error.starts_with("failed to listen on 192.0.2.1:1: "),
            "{error}"
        );
    }

    /// A listener whose backlog is full drops further connections without a word.
    async fn silent() -> (SocketAddr, impl Sized) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let addr = listener.local_addr().unwrap();
        let mut kept = Vec::new();
        while let Ok(dialled) = timeout(SECOND / 5, dial_one(addr)).await {
            kept.push(dialled);
        }
        (addr, (listener, kept))
    }

    #[tokio::test]
    async fn no_answer_is_a_timeout() {
        let (addr, _kept) = silent().await;
        let error = dial(&addr.to_string(), SECOND / 5).await.unwrap_err();
        assert!(matches!(error, NetError::Timeout { .. }), "{error}");
    }

    #[tokio::test]
    async fn of_a_names_addresses_the_first_that_answers_counts() {
        let refused = {
            let gone = listen("127.0.0.1:0").await.unwrap();
            gone.local_addr().unwrap()
        };
        let (silent, _kept) = silent().await;
        let listener = listen("127.0.0.1:0").await.unwrap();
        let good = listener.local_addr().unwrap();
        for targets in [
            vec![good, silent],
            vec![silent, good],
            vec![refused, silent, silent, good, refused],
        ] {
            let dialled = dial_any(targets.clone().into_iter()).await;
            assert_eq!(dialled.unwrap().peer_addr().unwrap(), good, "{targets:?}");
        }
        let error = dial_any([refused, refused].into_iter()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        let error = dial_any(std::iter::empty()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
