//! One connection to a broker: dial, agree on versions, then frames both ways.
//!
//! Writes and reads go beside each other, so that a broker that takes nothing still can answer. Not
//! for: what is in the frames (see [`super::proto`]).

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::tcp::{OwnedReadHalf, OwnedWriteHalf},
    sync::mpsc::{Receiver, Sender},
    time::timeout,
};
use tributary_common::net;

use super::{
    cluster::LinkNo,
    proto::{self, Versions},
};

/// A connection and the agreement on versions take at most this long.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// The longest answer that is read, in bytes: one with the partitions of many topics.
const MAX_ANSWER: usize = 16 << 20;
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
    addr: String,
    requests: Receiver<Bytes>,
    heard: Sender<(LinkNo, Heard)>,
) {
    let ended = talk(link, &addr, requests, &heard).await;
    let why = match ended {
        Ok(()) => format!("the connection to {addr} was ended"),
        Err(error) => format!("{addr}: {error:#}"),
    };
    // An engine that is gone does not want to know.
    drop(heard.send((link, Heard::Down(why))).await);
}

async fn talk(
    link: LinkNo,
    addr: &str,
    requests: Receiver<Bytes>,
    heard: &Sender<(LinkNo, Heard)>,
) -> Result<()> {
    let connect = async {
        let stream = net::dial(addr, CONNECT_WITHIN).await?;
        let (mut reading, mut writing) = stream.into_split();
        writing.write_all(&proto::hello()?).await?;
        let versions = proto::negotiate(read(&mut reading).await?)?;
        anyhow::Ok((reading, writing, versions))
    };
    let connected = timeout(CONNECT_WITHIN, connect).await;
    let (reading, writing, versions) = connected.context("it does not say which Kafka it is")??;
    let up = (link, Heard::Up(versions));
    heard.send(up).await.context("nobody listens")?;
    tokio::select! {
        ended = write_all(writing, requests) => ended,
        ended = read_all(link, reading, heard) => ended,
    }
}

async fn write_all(mut writing: OwnedWriteHalf, mut requests: Receiver<Bytes>) -> Result<()> {
    while let Some(request) = requests.recv().await {
        writing.write_all(&request).await?;
    }
    Ok(())
}

async fn read_all(
    link: LinkNo,
    mut reading: OwnedReadHalf,
    heard: &Sender<(LinkNo, Heard)>,
) -> Result<()> {
    loop {
        let answer = read(&mut reading).await?;
        let answer = (link, Heard::Answer(answer));
        heard.send(answer).await.context("nobody listens")?;
    }
}

async fn read(reading: &mut OwnedReadHalf) -> Result<Bytes> {
    let len = reading.read_u32().await?;
    let len = usize::try_from(len)?;
    ensure!(
        (4..=MAX_ANSWER).contains(&len),
        "an answer of {len} bytes; is it Kafka, without TLS?"
    );
    let mut answer = BytesMut::zeroed(len);
    reading.read_exact(&mut answer).await?;
    Ok(answer.freeze())
}
