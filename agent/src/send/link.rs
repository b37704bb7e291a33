//! One connection to a bus node: dialled, upgraded, greeted.
//!
//! Not for: which node (see [`super::nodes`]), what is sent (see [`super::window`]).

use std::{
    collections::VecDeque,
    future::poll_fn,
    io::IoSlice,
    pin::Pin,
    task::{Poll, ready},
    time::Duration,
};

use bytes::{Buf as _, Bytes};
use http_body_util::Empty;
use hyper::{
    Request, StatusCode,
    client::conn::http1,
    header::{CONNECTION, HOST, UPGRADE},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{self, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt as _, BufReader, WriteHalf},
    sync::mpsc,
    task::JoinSet,
    time::{Instant, timeout},
};
use tributary_common::{
    net::{self, Cutter, NetError},
    tls::{self, Dialer, Stream, TlsError},
    wire::{
        self, ELSEWHERE, Frame, Hello, PRELUDE_BYTES, PROTOCOL, Prelude, STREAM_PATH, Welcome,
        WireError,
    },
};

/// Dialling, upgrading and greeting take at most this long each.
const LIMIT: Duration = Duration::from_secs(5);
/// Answers that wait to be handled. Small: the bus waits when they are not.
const ANSWERS: usize = 64;
/// Slices given to one write.
const SLICES: usize = 16;
/// Payloads up to this long are copied behind their heads, and such frames gathered up to a buffer of
/// this size: less than a slice each costs.
const SMALL_PAYLOAD_BYTES: usize = 4 << 10;
const GATHERED_BYTES: usize = 16 << 10;

/// Why there is no connection (any more). Always: try again, here or elsewhere.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// Nobody answers there.
    #[error(transparent)]
    Net(#[from] NetError),
    /// It does not come to TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// It ended TLS: it does not like our certificate, or that we have none.
    #[error("it ended TLS: {0}; look at `tls.cert`, and at `tls.client_ca` of the bus")]
    Ended(String),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(std::io::Error),
    /// It speaks no HTTP.
    #[error("it does not speak HTTP/1.1: {0}")]
    Http(hyper::Error),
    /// It does not go over to our protocol.
    #[error("it answers {0} to the upgrade to {PROTOCOL}; is it a Tributary bus?")]
    NoUpgrade(StatusCode),
    /// It has its share of connections, and there is another node.
    #[error("it has its share of connections, and asks us to try another node")]
    TurnedAway,
    /// It took too long.
    #[error("it did not {0} within {LIMIT:?}")]
    Slow(&'static str),
    /// It sent bytes that are no frame.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// It said what we did wrong.
    #[error("it refused the connection: {0}")]
    Refused(String),
    /// It sent a frame that makes no sense now.
    #[error("it sent an unexpected frame")]
    Unexpected,
    /// It closed the connection.
    #[error("it closed the connection")]
    Closed,
    /// It has said nothing for too long.
    #[error("it has not answered for {0:?}")]
    Silent(Duration),
    /// It speaks, and answers no batch.
    #[error("it has not answered any batch for {0:?}, and there is another node")]
    Unanswered(Duration),
}

impl From<std::io::Error> for LinkError {
    fn from(error: std::io::Error) -> Self {
        match tls::cause(&error) {
            Some(why) => Self::Ended(why.to_string()),
            None => Self::Io(error),
        }
    }
}

impl From<hyper::Error> for LinkError {
    fn from(error: hyper::Error) -> Self {
        match tls::cause(&error) {
            Some(why) => Self::Ended(why.to_string()),
            None => Self::Http(error),
        }
    }
}

/// An open connection.
#[derive(Debug)]
pub(crate) struct Link {
    /// How long the greeting took, there and back.
    pub(crate) greeted_in: Duration,
    /// What the node granted.
    pub(crate) welcome: Welcome,
    /// What the node says. Closed after its last word.
    pub(crate) answers: mpsc::Receiver<Result<Frame, LinkError>>,
    /// Where we speak.
    pub(crate) writer: Writer,
    /// To give it up for good.
    pub(crate) cutter: Cutter,
    /// Reads answers; ends with the link.
    _reader: JoinSet<()>,
}

impl Link {
    /// Connects to a node, by TLS when it is given, and greets it. With `elsewhere` it may turn us away:
    /// there is another node of its cluster to try.
    ///
    /// # Errors
    /// [`LinkError`].
    pub(crate) async fn open(
        addr: &str,
        hello: Hello,
        tls: Option<&Dialer>,
        elsewhere: bool,
    ) -> Result<Self, LinkError> {
        let (stream, cutter) = dial(addr, tls).await?;
        let upgraded = timeout(LIMIT, upgrade(stream, addr, elsewhere)).await;
        let (stream, early) = upgraded.map_err(|_late| LinkError::Slow("answer the upgrade"))??;
        let (read, write) = io::split(stream);
        let mut read = BufReader::with_capacity(
            16 << 10,
            AsyncReadExt::chain(std::io::Cursor::new(early), read),
        );
        let mut writer = Writer {
            half: write,
            queue: VecDeque::new(),
            gathered: Vec::new(),
            bytes: 0,
            holds: false,
        };
        writer.push(&Frame::Hello(hello))?;
        let begun = Instant::now();
        let greet = async {
            writer.flush().await?;
            read_frame(&mut read).await
        };
        let welcome = match timeout(LIMIT, greet).await {
            Ok(Ok(Frame::Welcome(welcome))) => welcome,
            Ok(Ok(Frame::Error(why))) => return Err(LinkError::Refused(why)),
            Ok(Ok(_)) => return Err(LinkError::Unexpected),
            Ok(Err(error)) => return Err(error),
            Err(_late) => return Err(LinkError::Slow("welcome us")),
        };
        let greeted_in = begun.elapsed();
        let (sender, answers) = mpsc::channel(ANSWERS);
        let mut reader = JoinSet::new();
        reader.spawn(async move {
            loop {
                let frame = read_frame(&mut read).await;
                let last = frame.is_err();
                // Nobody listens any more: the link is dropped.
                if sender.send(frame).await.is_err() || last {
                    return;
                }
            }
        });
        Ok(Self {
            greeted_in,
            welcome,
            answers,
            writer,
            cutter,
            _reader: reader,
        })
    }
}

/// A connection to a node, and how to give it up for good.
async fn dial(addr: &str, tls: Option<&Dialer>) -> Result<(Stream, Cutter), LinkError> {
    #[cfg(feature = "sim")]
    if let Some(dialled) = tributary_common::sim::dial(addr, LIMIT).await {
        let (stream, cutter) = dialled?;
        return Ok((Stream::simulated(stream), cutter.into()));
    }
    let stream = net::dial(addr, LIMIT).await?;
    let cutter = Cutter::of(&stream)?;
    let stream = match tls {
        Some(tls) => tls.secure(stream, addr).await?,
        None => Stream::plain(stream),
    };
    Ok((stream, cutter))
}

/// Goes over to our protocol; also gives bytes that came early.
async fn upgrade(
    stream: Stream,
    addr: &str,
    elsewhere: bool,
) -> Result<(Stream, Bytes), LinkError> {
    let (mut client, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let mut driver = JoinSet::new();
    driver.spawn(connection.with_upgrades());
    let request = Request::get(STREAM_PATH)
        .header(HOST, addr)
        .header(CONNECTION, "upgrade")
        .header(UPGRADE, PROTOCOL);
    let request = match elsewhere {
        true => request.header(ELSEWHERE, "yes"),
        false => request,
    };
    let request = request.body(Empty::<Bytes>::new());
    // Fails only for an address that is no header value; such one was not dialled.
    let request = request.map_err(|_never| LinkError::Unexpected)?;
    let response = client.send_request(request).await?;
    if elsewhere && response.status() == StatusCode::SERVICE_UNAVAILABLE {
        return Err(LinkError::TurnedAway);
    }
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(LinkError::NoUpgrade(response.status()));
    }
    let upgraded = hyper::upgrade::on(response).await?;
    let parts = upgraded
        .downcast::<TokioIo<Stream>>()
        .map_err(|_other_type| LinkError::Unexpected)?;
    Ok((parts.io.into_inner(), parts.read_buf))
}

/// Reads one frame.
async fn read_frame<R: AsyncRead + Unpin>(read: &mut R) -> Result<Frame, LinkError> {
    let mut prelude = [0; PRELUDE_BYTES];
    match read.read_exact(&mut prelude).await {
        Ok(_all) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            return Err(LinkError::Closed);
        }
        Err(error) => return Err(error.into()),
    }
    let prelude = Prelude::decode(prelude)?;
    let mut frame = vec![0; prelude.frame_bytes()];
    read.read_exact(&mut frame).await?;
    Ok(wire::decode(prelude, frame.into())?)
}

/// The speaking half, with what is not yet out.
#[derive(Debug)]
pub(crate) struct Writer {
    half: WriteHalf<Stream>,
    queue: VecDeque<Bytes>,
    /// Small frames behind those in the queue.
    gathered: Vec<u8>,
    bytes: usize,
    /// TLS has taken more than the socket did.
    holds: bool,
}

impl Writer {
    /// Bytes that are not yet out.
    pub(crate) fn waiting(&self) -> usize {
        self.bytes
    }

    /// Whether something that was written has yet to leave: call [`Writer::write_some`].
    pub(crate) fn holds(&self) -> bool {
        self.holds
    }

    /// Queues a frame without a payload.
    ///
    /// # Errors
    /// [`LinkError::Wire`] when it is too long.
    pub(crate) fn push(&mut self, frame: &Frame) -> Result<(), LinkError> {
        self.push_bytes(wire::encode(frame)?.into());
        Ok(())
    }

    /// Queues a batch's frame.
    pub(crate) fn push_batch(&mut self, head: Vec<u8>, payload: Bytes) {
        if payload.len() > SMALL_PAYLOAD_BYTES {
            self.push_bytes(head.into());
            self.push_bytes(payload);
            return;
        }
        self.bytes += head.len() + payload.len();
        if self.gathered.capacity() == 0 {
            self.gathered.reserve(GATHERED_BYTES);
        }
        self.gathered.extend_from_slice(&head);
        self.gathered.extend_from_slice(&payload);
        if self.gathered.len() >= GATHERED_BYTES {
            self.close_gathered();
        }
    }

    /// Queues bytes of a frame.
    fn push_bytes(&mut self, bytes: Bytes) {
        self.close_gathered();
        self.bytes += bytes.len();
        self.queue.push_back(bytes);
    }

    /// What was gathered takes its place in the queue.
    fn close_gathered(&mut self) {
        if !self.gathered.is_empty() {
            self.queue
                .push_back(std::mem::take(&mut self.gathered).into());
        }
    }

    /// Writes some of what is queued, at most `most` bytes; returns how many. With nothing to write it
    /// waits until all that was written has left. May be dropped at any time: what was written is
    /// accounted for.
    ///
    /// # Errors
    /// [`LinkError::Io`].
    pub(crate) async fn write_some(&mut self, most: usize) -> Result<usize, LinkError> {
        self.close_gathered();
        let mut slices = [IoSlice::new(&[]); SLICES];
        let count = self.queue.len().min(SLICES);
        let mut left = most;
        for (slice, bytes) in slices.iter_mut().zip(&self.queue) {
            let part = bytes.get(..left).unwrap_or(bytes);
            left -= part.len();
            *slice = IoSlice::new(part);
        }
        let slices = slices.get(..count).unwrap_or_default();
        let (half, holds) = (&mut self.half, &mut self.holds);
        let nothing = slices.iter().all(|slice| slice.is_empty());
        let written = poll_fn(|context| {
            let mut half = Pin::new(&mut *half);
            let written = match nothing {
                true => 0,
                false => {
                    let written = ready!(half.as_mut().poll_write_vectored(context, slices))?;
                    *holds = true;
                    written
                }
            };
            match half.poll_flush(context) {
                Poll::Ready(flushed) => {
                    flushed?;
                    *holds = false;
                }
                // What was written counts; the rest is for the next call.
                Poll::Pending if written > 0 => {}
                Poll::Pending => return Poll::Pending,
            }
            Poll::Ready(std::io::Result::Ok(written))
        })
        .await?;
        if written == 0 && self.bytes.min(most) > 0 {
            return Err(LinkError::Closed);
        }
        self.bytes -= written;
        let mut gone = written;
        while let Some(first) = self.queue.front_mut() {
            if gone < first.len() {
                first.advance(gone);
                break;
            }
            gone -= first.len();
            self.queue.pop_front();
        }
        Ok(written)
    }

    /// Writes all that is queued.
    ///
    /// # Errors
    /// [`LinkError::Io`].
    pub(crate) async fn flush(&mut self) -> Result<(), LinkError> {
        while self.bytes > 0 {
            self.write_some(usize::MAX).await?;
        }
        self.half.flush().await?;
        self.holds = false;
        Ok(())
    }
}
