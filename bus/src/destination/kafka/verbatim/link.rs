//! One connection to a broker: dial, agree on versions, then frames both ways.
//!
//! Writes and reads go beside each other, so that a broker that takes nothing still can answer. Not
//! for: what is in the frames (see [`super::proto`]).

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::ApiVersionsResponse;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader, ReadHalf, WriteHalf, split},
    sync::mpsc::{Receiver, Sender},
    time::{sleep, timeout},
};
use tributary_common::{net, tls::Stream};

use super::{
    cluster::LinkNo,
    frame::Frame,
    proto::{self, Versions},
    security::Security,
};

/// A connection and the agreement on versions take at most this long.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// The longest answer that is read, in bytes: one with the partitions of many topics.
const MAX_ANSWER: usize = 16 << 20;
/// The part of a login's life that is used: then there is a new one.
const USED: f64 = 0.8;
/// Answers that are read at a time, in bytes: one has some 50 for each batch.
const ANSWER_BYTES: usize = 4 << 10;
/// Requests that wait to be written: those of a whole window and two questions.
pub(super) const MAX_WAITING: usize = 8;

/// What a connection tells.
#[derive(Debug)]
pub(super) enum Heard {
    /// It stands.
    Up(Versions),
    /// An answer, without its length.
    Answer(Bytes),
    /// It ended, or did not come about.
    Down(String),
}

/// Lives until the connection ends or `requests` is closed. Whole frames go in and out.
pub(super) async fn run(
    link: LinkNo,
    (addr, security): (String, Arc<Security>),
    requests: Receiver<Frame>,
    heard: Sender<(LinkNo, Heard)>,
) {
    let ended = talk(link, (&addr, &security), requests, &heard).await;
    let why = match ended {
        Ok(()) => format!("the connection to {addr} was ended"),
        Err(error) => format!("{addr}: {error:#}"),
    };
    // An engine that is gone does not want to know.
    drop(heard.send((link, Heard::Down(why))).await);
}

async fn talk(
    link: LinkNo,
    (addr, security): (&str, &Security),
    requests: Receiver<Frame>,
    heard: &Sender<(LinkNo, Heard)>,
) -> Result<()> {
    let connect = async {
        let (stream, known, lifetime) = open(addr, security).await?;
        let versions = proto::negotiate(&known)?;
        let (reading, writing) = split(stream);
        anyhow::Ok((reading, writing, versions, lifetime))
    };
    let connected = timeout(CONNECT_WITHIN, connect).await;
    let (reading, writing, versions, lifetime) =
        connected.context("it does not say which Kafka it is")??;
    let up = (link, Heard::Up(versions));
    heard.send(up).await.context("nobody listens")?;
    tokio::select! {
        ended = write_all(writing, requests) => ended,
        ended = read_all(link, reading, heard) => ended,
        // A new connection logs in anew; what is on its way over this one is sent again as it was.
        () = sleep(lifetime.unwrap_or_default().mul_f64(USED)), if lifetime.is_some() => Ok(()),
    }
}

/// Connects, asks which Kafka it is, and logs in. Gives what the broker says that it knows, and how long
/// it lets the connection live.
///
/// # Errors
/// What is wrong with the broker, or with us.
pub(super) async fn open(
    addr: &str,
    security: &Security,
) -> Result<(Stream, ApiVersionsResponse, Option<Duration>)> {
    let stream = net::dial(addr, CONNECT_WITHIN).await?;
    let mut stream = match &security.tls {
        Some(tls) => tls.secure(stream, addr).await?,
        None => Stream::plain(stream),
    };
    write(&mut stream, &proto::hello()?).await?;
    let known = proto::versions(read(&mut stream).await?)?;
    let version = || proto::common(&known, &proto::SASL);
    let lifetime = match (&security.login, &security.bearer) {
        (Some(login), _) => login.run(&mut stream, version()?).await?,
        (None, Some(bearer)) => bearer.run(&mut stream, version()?).await?,
        (None, None) => None,
    };
    Ok((stream, known, lifetime))
}

async fn write_all(mut writing: WriteHalf<Stream>, mut requests: Receiver<Frame>) -> Result<()> {
    while let Some(mut frame) = requests.recv().await {
        while let Ok(more) = requests.try_recv() {
            frame.append(more);
        }
        writing.write_all_buf(&mut frame).await?;
        // TLS may hold the end of it back.
        writing.flush().await?;
    }
    Ok(())
}

async fn read_all(
    link: LinkNo,
    reading: ReadHalf<Stream>,
    heard: &Sender<(LinkNo, Heard)>,
) -> Result<()> {
    let mut reading = BufReader::with_capacity(ANSWER_BYTES, reading);
    loop {
        let answer = read(&mut reading).await?;
        let answer = (link, Heard::Answer(answer));
        heard.send(answer).await.context("nobody listens")?;
    }
}

/// Writes a whole frame.
pub(super) async fn write(stream: &mut Stream, frame: &[u8]) -> Result<()> {
    stream.write_all(frame).await?;
    Ok(stream.flush().await?)
}

/// Reads an answer, without its length.
pub(super) async fn read<R: AsyncRead + Unpin>(reading: &mut R) -> Result<Bytes> {
    let len = reading.read_u32().await?;
    let len = usize::try_from(len)?;
    ensure!(
        (4..=MAX_ANSWER).contains(&len),
        "an answer of {len} bytes; is it Kafka, and with TLS or without as we are?"
    );
    let mut answer = BytesMut::zeroed(len);
    reading.read_exact(&mut answer).await?;
    Ok(answer.freeze())
}
