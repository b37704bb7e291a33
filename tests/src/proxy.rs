//! A TCP hop between two programs that breaks on command.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::say;

/// How often a held or slowed pump looks whether things have changed.
const LOOK: Duration = Duration::from_millis(5);

/// What the hop does with bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Passes them on.
    Pass,
    /// Takes connections and bytes and passes nothing on, for ever: a network that drops packets.
    Blackhole,
    /// Passes on only what goes to the server: its answers are lost.
    NoAnswers,
    /// Closes new connections at once; with [`Proxy::cut`]: a peer that is down.
    Refuse,
    /// Holds each piece of at most 16 KiB for so long.
    Delay(Duration),
    /// At most so many bytes per second, per connection and direction.
    Throttle(u32),
}

/// A running hop. It listens until dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    to: String,
    stop: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    mode: Mode,
    open: Vec<Pair>,
}

/// Both sides of a connection.
#[derive(Debug)]
struct Pair {
    client: TcpStream,
    server: TcpStream,
    /// The pumps must drop it without a word, so that its end is a RST.
    aborted: Arc<AtomicBool>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while holding it leaves the list intact.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mode(&self) -> Mode {
        self.state().mode
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

impl Proxy {
    /// Listens on a free port and passes on to `to`, which need not be up yet.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start(to: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("failed to listen")?;
        let address = listener.local_addr()?;
        let state = Mutex::new(State {
            mode: Mode::Pass,
            open: Vec::new(),
        });
        let shared = Arc::new(Shared {
            to: to.to_owned(),
            stop: AtomicBool::new(false),
            state,
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || accept(&listener, &accepting));
        Ok(Self { address, shared })
    }

    /// Where a client connects.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Changes what happens from now on, on open connections too.
    pub fn set(&self, mode: Mode) {
        self.shared.state().mode = mode;
    }

    /// Connections that were opened and not yet cut or reset.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.state().open.len()
    }

    /// Ends all open connections in an orderly way (FIN to both sides).
    pub fn cut(&self) {
        for Pair { client, server, .. } in self.shared.state().open.drain(..) {
            close(&client, Shutdown::Both);
            close(&server, Shutdown::Both);
        }
    }

    /// Ends all open connections with RST to both sides.
    pub fn reset(&self) {
        for Pair {
            client,
            server,
            aborted,
        } in self.shared.state().open.drain(..)
        {
            aborted.store(true, Ordering::Relaxed);
            for side in [client, server] {
                // With a linger of 0 the close that follows sends RST.
                let linger = rustix::net::sockopt::set_socket_linger(&side, Some(Duration::ZERO));
                if let Err(error) = linger {
                    say(&format!("failed to set linger: {error}"));
                }
                close(&side, Shutdown::Read);
            }
        }
    }

    /// Tells the servers that the clients are done writing, while answers still flow.
    pub fn half_close(&self) {
        for Pair { server, .. } in &self.shared.state().open {
            close(server, Shutdown::Write);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.cut();
        // Wakes the acceptor, which then sees that it must stop; if it is gone, all the better.
        drop(TcpStream::connect(self.address));
    }
}

/// Closing what the peer has closed already fails, and that is fine.
fn close(side: &TcpStream, how: Shutdown) {
    drop(side.shutdown(how));
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for client in listener.incoming() {
        if shared.stopped() {
            return;
        }
        if let Err(error) = client
            .map_err(Into::into)
            .and_then(|client| serve(client, shared))
        {
            say(&format!("proxy to {}: {error:#}", shared.to));
        }
    }
}

fn serve(client: TcpStream, shared: &Arc<Shared>) -> Result<()> {
    if shared.mode() == Mode::Refuse {
        return Ok(()); // dropping it closes it
    }
    let Ok(server) = TcpStream::connect(&shared.to) else {
        return Ok(()); // the client sees what it would see without the hop: nobody there
    };
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let aborted = Arc::new(AtomicBool::new(false));
    shared.state().open.push(Pair {
        client: client.try_clone()?,
        server: server.try_clone()?,
        aborted: Arc::clone(&aborted),
    });
    let (up, down) = (Arc::clone(shared), Arc::clone(shared));
    let (client_again, server_again) = (client.try_clone()?, server.try_clone()?);
    let aborted_too = Arc::clone(&aborted);
    thread::spawn(move || pump(client, server, Way::Up, &up, &aborted));
    thread::spawn(move || pump(server_again, client_again, Way::Down, &down, &aborted_too));
    Ok(())
}

/// To the server, or from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

impl Way {
    fn is_held(self, mode: Mode) -> bool {
        mode == Mode::Blackhole || (mode == Mode::NoAnswers && self == Self::Down)
    }
}

/// Moves bytes one way until either side ends.
fn pump(mut from: TcpStream, mut to: TcpStream, way: Way, shared: &Shared, aborted: &AtomicBool) {
    let mut block = [0; 16 * 1024];
    loop {
        let read = from.read(&mut block).unwrap_or(0);
        if aborted.load(Ordering::Relaxed) {
            return;
        }
        if read == 0 {
            close(&to, Shutdown::Write);
            return;
        }
        while way.is_held(shared.mode()) {
            if shared.stopped() || aborted.load(Ordering::Relaxed) {
                return;
            }
            thread::sleep(LOOK);
        }
        match shared.mode() {
            Mode::Delay(time) => thread::sleep(time),
            Mode::Throttle(rate) => {
                let bytes = u32::try_from(read).unwrap_or(u32::MAX);
                thread::sleep(Duration::from_secs(1) * bytes / rate.max(1));
            }
            Mode::Pass | Mode::NoAnswers | Mode::Refuse | Mode::Blackhole => {}
        }
        if to.write_all(&block[..read]).is_err() {
            close(&from, Shutdown::Read);
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    /// A server that answers every byte with itself, behind a hop, and a client of it.
    fn echo() -> (Proxy, TcpStream) {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Proxy::start(&server.local_addr().unwrap().to_string()).unwrap();
        thread::spawn(move || {
            for peer in server.incoming() {
                let (mut from, mut to) = (peer.as_ref().unwrap(), peer.as_ref().unwrap());
                drop(std::io::copy(&mut from, &mut to));
            }
        });
        let client = TcpStream::connect(proxy.address()).unwrap();
        client
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        (proxy, client)
    }

    fn ask(mut client: &TcpStream) -> std::io::Result<usize> {
        client.write_all(b"hello")?;
        client.read(&mut [0; 5])
    }

    #[test]
    fn bytes_pass_both_ways() {
        let (_proxy, client) = echo();
        assert_eq!(ask(&client).unwrap(), 5);
    }

    #[test]
    fn a_cut_is_an_orderly_end() {
        let (proxy, client) = echo();
        ask(&client).unwrap();
        proxy.cut();
        assert_eq!((&client).read(&mut [0; 5]).unwrap(), 0);
        assert_eq!(proxy.connections(), 0);
    }

    #[test]
    fn a_reset_is_a_reset() {
        let (proxy, client) = echo();
        ask(&client).unwrap();
        proxy.reset();
        let error = (&client).read(&mut [0; 5]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }

    #[test]
    fn a_black_hole_is_silent_until_it_ends() {
        let (proxy, client) = echo();
        ask(&client).unwrap();
        proxy.set(Mode::Blackhole);
        client
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        assert_eq!(ask(&client).unwrap_err().kind(), ErrorKind::WouldBlock);
        proxy.set(Mode::Pass);
        client
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        assert_eq!((&client).read(&mut [0; 5]).unwrap(), 5);
    }

    #[test]
    fn a_refusing_hop_closes_new_connections() {
        let (proxy, _client) = echo();
        proxy.set(Mode::Refuse);
        let mut late = TcpStream::connect(proxy.address()).unwrap();
        assert!(matches!(late.read(&mut [0; 5]), Ok(0) | Err(_)));
    }

    #[test]
    fn a_half_closed_server_side_ends_the_answers() {
        let (proxy, client) = echo();
        ask(&client).unwrap();
        proxy.half_close();
        // The echo sees the end of its input and closes.
        assert_eq!((&client).read(&mut [0; 5]).unwrap(), 0);
    }
}
