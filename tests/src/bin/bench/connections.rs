//! What many connections cost a bus while nobody says anything, with TLS and without; and what comes of it when
//! their node is killed.
//!
//! All of them are of this process; they say hello, answer pings, and send nothing. When the node is gone all of them
//! go to another one at once, each step as long as an agent waits, and again as an agent tries again.
//!
//! Not for: what batches cost (see [`crate::line`]).

use std::{fs, path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tributary_common::{
    backoff::Backoff,
    ids::{AgentId, Epoch, Zone},
    net,
    tls::{Dialer, Identity, Stream},
    wire::{self, Frame, Hello, PRELUDE_BYTES, PROTOCOL, Prelude, STREAM_PATH},
};
use tributary_tests::{certs::Authority, child::Child, kafka::free_port, say};

use crate::{cpu::usage, line::start};

/// How many.
const CONNECTIONS: u32 = 10_000;
/// So many are on their way at a time.
const AT_ONCE: usize = 200;
/// How long nobody says anything: every connection is pinged once in it.
const IDLE: Duration = Duration::from_secs(25);
const CONNECT_WITHIN: Duration = Duration::from_secs(60);
/// How long an agent waits for each step of a connection, and between two tries.
const STEP: Duration = Duration::from_secs(5);
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// Measures both, as a table.
///
/// # Errors
/// When a bus does not come up, or does not take all connections.
pub(crate) fn measure(folder: &Path) -> Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut rows = vec![
        format!("| {CONNECTIONS} connections of agents | without TLS | mutual TLS | |"),
        "|---|---|---|---|".to_owned(),
    ];
    let plain = runtime.block_on(one(&folder.join("plain"), false))?;
    let tls = runtime.block_on(one(&folder.join("tls"), true))?;
    let mut row = |what: &str, of: &dyn Fn(&Seen) -> String, bar: &str| {
        rows.push(format!(
            "| {what} | {} | {} | {bar} |",
            of(&plain),
            of(&tls)
        ));
    };
    row(
        "resident memory each",
        &|seen| format!("{:.1} KiB", seen.kib_each),
        "bar 20 KiB",
    );
    row(
        "idle, of a core",
        &|seen| format!("{:.2} %", seen.idle_cpu * 100.0),
        "bar 5 %",
    );
    row(
        "coming: CPU of the bus each",
        &|seen| format!("{:.2} ms", seen.come_ms_each),
        "",
    );
    row(
        "all of them came within",
        &|seen| format!("{:.1} s", seen.came_in_s),
        "bar 60 s",
    );
    row(
        "their node is killed: all are at another one within",
        &|seen| format!("{:.1} s", seen.back_in_s),
        "bar 60 s",
    );
    row(
        "… after so many tries that failed",
        &|seen| seen.failed.to_string(),
        "bar 0",
    );
    Ok(rows.join("\n") + "\n")
}

struct Seen {
    kib_each: f64,
    /// As a part of one core.
    idle_cpu: f64,
    come_ms_each: f64,
    came_in_s: f64,
    back_in_s: f64,
    failed: u64,
}

async fn one(folder: &Path, secure: bool) -> Result<Seen> {
    say(if secure {
        "connections with TLS"
    } else {
        "connections without TLS"
    });
    fs::create_dir_all(folder)?;
    let authority = Authority::new(&folder.join("ca"))?;
    let (listen, admin) = (free_port()?, free_port()?);
    let tls = match secure {
        true => format!(
            "tls = {{ {}, client_ca = {:?} }}\n",
            authority.identity("bus", "127.0.0.1")?,
            authority.ca()
        ),
        false => String::new(),
    };
    let mut bus = node(folder, &tls, (listen, admin))?;
    let dialer = secure.then(|| dialer(folder, &authority)).transpose()?;

    let before = (usage(bus.pid())?, resident_kib(bus.pid())?);
    let began = Instant::now();
    let mut open = JoinSet::new();
    let mut coming = JoinSet::new();
    for number in 0..CONNECTIONS {
        let (dialer, addr) = (dialer.clone(), format!("127.0.0.1:{listen}"));
        let connect = async move { connect(&addr, number, dialer.as_deref()).await };
        coming.spawn(connect);
        if coming.len() >= AT_ONCE {
            let stream = coming.join_next().await.context("some are coming")???;
            open.spawn(answer(stream));
        }
    }
    while let Some(stream) = coming.join_next().await {
        open.spawn(answer(stream??));
    }
    let came_in_s = began.elapsed().as_secs_f64();
    let came = usage(bus.pid())?;
    sleep(IDLE).await;
    ensure!(open.try_join_next().is_none(), "a connection ended");
    let idle = usage(bus.pid())?.since(came);
    let grown = resident_kib(bus.pid())?.saturating_sub(before.1);
    let each = |value: f64| value / f64::from(CONNECTIONS);
    #[expect(clippy::cast_precision_loss, reason = "a size in KiB")]
    let grown = grown as f64;
    let (listen, admin) = (free_port()?, free_port()?);
    let _other = node(&folder.join("other"), &tls, (listen, admin))?;
    bus.kill()?;
    let (back_in_s, failed) = all_at_once(&format!("127.0.0.1:{listen}"), dialer.as_ref()).await?;
    Ok(Seen {
        back_in_s,
        failed,
        kib_each: each(grown),
        idle_cpu: idle.cpu_s() / IDLE.as_secs_f64(),
        come_ms_each: each(came.since(before.0).cpu_s() * 1000.0),
        came_in_s,
    })
}

/// A bus with files for a destination.
fn node(folder: &Path, tls: &str, (listen, admin): (u16, u16)) -> Result<Child> {
    fs::create_dir_all(folder)?;
    let config = format!(
        "zone = \"z\"\ncluster = \"c\"\nlisten = \"127.0.0.1:{listen}\"\n\
         admin = \"127.0.0.1:{admin}\"\ndata_dir = {:?}\n{tls}\
         [[destination]]\nname = \"local\"\nkind = \"file\"\npath = {:?}\n\
         [[route]]\ntopic = \"*\"\nto = [{{ destination = \"local\" }}]\n",
        folder.join("data"),
        folder.join("out"),
    );
    start("bus", folder, admin, &config)
}

/// All agents of a node that is gone come to another one: after how many seconds the last one is there, and how
/// many tries had failed by then.
async fn all_at_once(addr: &str, dialer: Option<&Arc<Dialer>>) -> Result<(f64, u64)> {
    let began = Instant::now();
    let mut coming = JoinSet::new();
    for number in 0..CONNECTIONS {
        let (dialer, addr) = (dialer.cloned(), addr.to_owned());
        coming.spawn(async move {
            let (mut failed, mut rng) = (0_u64, fastrand::Rng::with_seed(number.into()));
            let mut backoff = Backoff::new(PAUSE.0, PAUSE.1);
            loop {
                match connect_as_agent(&addr, number, dialer.as_deref()).await {
                    Ok(stream) => return (stream, failed),
                    Err(_failed) => failed += 1,
                }
                sleep(backoff.next(&mut rng)).await;
            }
        });
    }
    let (mut there, mut failed) = (JoinSet::new(), 0);
    while let Some(came) = coming.join_next().await {
        let (stream, tries) = came?;
        failed += tries;
        there.spawn(answer(stream));
    }
    Ok((began.elapsed().as_secs_f64(), failed))
}

/// [`connect`] with an agent's patience.
async fn connect_as_agent(addr: &str, number: u32, dialer: Option<&Dialer>) -> Result<Stream> {
    let stream = net::dial(addr, STEP).await?;
    let stream = match dialer {
        Some(dialer) => timeout(STEP, dialer.secure(stream, addr)).await??,
        None => Stream::plain(stream),
    };
    timeout(STEP, greet(stream, addr, number)).await?
}

/// Who trusts the authority, and has a certificate of it.
pub(crate) fn dialer(folder: &Path, authority: &Authority) -> Result<Arc<Dialer>> {
    let _files = authority.identity("agent", "agent")?;
    let at = |end: &str| folder.join(format!("ca/agent.{end}"));
    let identity = Identity {
        cert: at("pem"),
        key: at("key"),
    };
    Ok(Arc::new(Dialer::new(
        Some(&authority.ca()),
        Some(identity),
    )?))
}

/// What an agent does before its first batch.
pub(crate) async fn connect(addr: &str, number: u32, dialer: Option<&Dialer>) -> Result<Stream> {
    let stream = net::dial(addr, CONNECT_WITHIN).await?;
    let stream = match dialer {
        Some(dialer) => dialer.secure(stream, addr).await?,
        None => Stream::plain(stream),
    };
    greet(stream, addr, number).await
}

async fn greet(mut stream: Stream, addr: &str, number: u32) -> Result<Stream> {
    let upgrade = format!(
        "GET {STREAM_PATH} HTTP/1.1\r\nhost: {addr}\r\nconnection: upgrade\r\nupgrade: {PROTOCOL}\r\n\r\n"
    );
    stream.write_all(upgrade.as_bytes()).await?;
    stream.flush().await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let hello = Hello {
        agent: format!("agent-{number}").parse::<AgentId>()?,
        host: format!("host-{number}"),
        zone: "z".parse::<Zone>()?,
        epoch: Epoch(1),
        software: "bench".to_owned(),
    };
    say_frame(&mut stream, &Frame::Hello(hello)).await?;
    match hear_frame(&mut stream).await? {
        Frame::Welcome(_) => Ok(stream),
        other => bail!("not a welcome: {other:?}"),
    }
}

/// Answers pings for ever.
async fn answer(mut stream: Stream) -> Result<()> {
    loop {
        if let Frame::Ping(number) = hear_frame(&mut stream).await? {
            say_frame(&mut stream, &Frame::Pong(number)).await?;
        }
    }
}

pub(crate) async fn say_frame(stream: &mut Stream, frame: &Frame) -> Result<()> {
    stream.write_all(&wire::encode(frame)?).await?;
    Ok(stream.flush().await?)
}

pub(crate) async fn hear_frame(stream: &mut (impl AsyncRead + Unpin)) -> Result<Frame> {
    let mut prelude = [0; PRELUDE_BYTES];
    stream.read_exact(&mut prelude).await?;
    let prelude = Prelude::decode(prelude)?;
    let mut frame = vec![0; prelude.frame_bytes()];
    stream.read_exact(&mut frame).await?;
    Ok(wire::decode(prelude, frame.into())?)
}

pub(crate) fn resident_kib(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let text = line.context("no VmRSS")?.trim().trim_end_matches(" kB");
    Ok(text.trim().parse()?)
}
