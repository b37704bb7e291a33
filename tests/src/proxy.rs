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
    /// Both sides of each connection: (from the client, to the server).
    open: Vec<(TcpStream, TcpStream)>,
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
        for (client, server) in self.shared.state().open.drain(..) {
            close(&client, Shutdown::Both);
            close(&server, Shutdown::Both);
        }
    }

    /// Ends all open connections with RST to both sides.
    pub fn reset(&self) {
        for (client, server) in self.shared.state().open.drain(..) {
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
        for (_, server) in &self.shared.state().open {
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
    shared
        .state()
        .open
        .push((client.try_clone()?, server.try_clone()?));
    let (up, down) = (Arc::clone(shared), Arc::clone(shared));
    let (client_again, server_again) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || pump(client, server, &up));
    thread::spawn(move || pump(server_again, client_again, &down));
    Ok(())
}

/// Moves bytes one way until either side ends.
fn pump(mut from: TcpStream, mut to: TcpStream, shared: &Shared) {
    let mut block = [0; 16 * 1024];
    loop {
        let read = from.read(&mut block).unwrap_or(0);
        if read == 0 {
            close(&to, Shutdown::Write);
            return;
        }
        while shared.mode() == Mode::Blackhole {
            if shared.stopped() {
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
            Mode::Pass | Mode::Refuse | Mode::Blackhole => {}
        }
        if to.write_all(&block[..read]).is_err() {
            close(&from, Shutdown::Read);
            return;
        }
    }
}
