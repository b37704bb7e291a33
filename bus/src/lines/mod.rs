//! `POST /v1/lines/{topic}`: newline-delimited lines from any client, answered when they are safe.
//!
//! The node acts as the agent: it cuts the body into batches of streams of its own and sends them
//! the way of all batches. The body is looked through once before anything is delivered, so a bad
//! one is refused whole. The answer is 200 only when every destination has every line; a request
//! that failed may have been delivered in part, and whoever repeats it delivers at least once.
//!
//! Memory: the encoded body has its own budget, taken as the body comes, so that one that hardly comes holds hardly
//! anything; each batch takes from the node's budget as all do. Batches on their way never wait for bodies, so the two cannot lock each
//! other. Not for: agents (see [`crate::session`]).

mod body;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    Request, Response, StatusCode,
    body::Body,
    header::{self, HeaderValue},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::{Instant, timeout},
};
use tributary_common::{
    batch::{BatchError, Codec, Encoded, Encoder, TARGET_BYTES},
    header::BatchHeader,
    ids::{BatchId, Class, GenerationId, NameError, StreamId, TaskId, Topic},
    span::Span,
    wire::RefuseReason,
};
use xxhash_rust::xxh3::xxh3_64;

use self::body::{Coding, LineReader, LinesError, Totals};
use crate::{
    budget,
    dedupe::{Answer as BatchAnswer, Waiter},
    destination::{Accepted, Failure},
    journal::now_ms,
    listen::{Answer, text},
    node::Node,
};

/// The longest body as sent, in bytes.
pub(crate) const MAX_ENCODED_BYTES: u64 = 16 << 20;
/// So much memory is taken at a time while a body comes.
const PIECE_BYTES: u64 = 16 << 10;
/// The body's budget is this part of the node's memory.
const BODIES_PART: u64 = 4;
/// How long a request waits for memory.
const MEMORY_WITHIN: Duration = Duration::from_secs(5);
/// How long a body may take to come.
const BODY_WITHIN: Duration = Duration::from_secs(60);
/// How long a request waits for its delivery.
const DELIVER_WITHIN: Duration = Duration::from_secs(30);
/// Raw bytes of a batch that is cut here.
const BATCH_BYTES: u64 = TARGET_BYTES as u64;
/// What a client waits before it comes again, in seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// One topic's stream of lines.
#[derive(Debug, Default)]
struct Stream {
    last_seq: u64,
    bytes: u64,
}

/// The streams that this node cuts itself.
#[derive(Debug)]
pub(crate) struct Lines {
    streams: Mutex<HashMap<Topic, Stream>>,
    bodies: Arc<Semaphore>,
}

/// A request that was not served.
#[derive(Debug)]
struct No {
    status: StatusCode,
    words: String,
    again: bool,
}

impl No {
    fn new(status: StatusCode, words: impl Into<String>) -> Self {
        Self {
            status,
            words: words.into(),
            again: false,
        }
    }

    fn later(status: StatusCode, words: impl Into<String>) -> Self {
        Self {
            status,
            words: words.into(),
            again: true,
        }
    }
}

impl From<LinesError> for No {
    fn from(error: LinesError) -> Self {
        let status = match error {
            LinesError::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            LinesError::Empty | LinesError::Line(_) | LinesError::Coding(_) => {
                StatusCode::BAD_REQUEST
            }
        };
        Self::new(status, error.to_string())
    }
}

impl From<Failure> for No {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Unavailable(why) => Self::later(StatusCode::SERVICE_UNAVAILABLE, why),
            Failure::Rejected(RefuseReason::NoRoute, why) => Self::new(StatusCode::NOT_FOUND, why),
            Failure::Rejected(RefuseReason::TooLarge, why) => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, why)
            }
            Failure::Rejected(RefuseReason::Corrupt | RefuseReason::Destination, why) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, why)
            }
        }
    }
}

/// A batch of a request, and who hears of its delivery.
type Sent = oneshot::Receiver<BatchAnswer>;

impl Lines {
    /// For a node with so many bytes of memory for batches.
    pub(crate) fn new(memory_bytes: u64) -> Self {
        let bodies = (memory_bytes / BODIES_PART).max(MAX_ENCODED_BYTES);
        let bodies = usize::try_from(bodies)
            .unwrap_or(usize::MAX)
            .min(Semaphore::MAX_PERMITS);
        Self {
            streams: Mutex::default(),
            bodies: Arc::new(Semaphore::new(bodies)),
        }
    }

    /// Answers one request.
    pub(crate) async fn answer<B>(
        &self,
        node: &Arc<Node>,
        topic: &str,
        request: Request<B>,
    ) -> Answer
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        match self.serve(node, topic, request).await {
            Ok(totals) => {
                metrics::counter!("tributary_bus_lines_requests_total", "reason" => "200")
                    .increment(1);
                let body = serde_json::json!({ "records": totals.records, "bytes": totals.bytes });
                let mut answer = Response::new(Full::from(format!("{body}\n")));
                let kind = HeaderValue::from_static("application/json");
                answer.headers_mut().insert(header::CONTENT_TYPE, kind);
                answer
            }
            Err(no) => {
                let status = no.status.as_u16().to_string();
                metrics::counter!("tributary_bus_lines_requests_total", "reason" => status)
                    .increment(1);
                let mut answer = text(no.status, &no.words);
                if no.again {
                    answer
                        .headers_mut()
                        .insert(header::RETRY_AFTER, RETRY_AFTER);
                }
                answer
            }
        }
    }

    async fn serve<B>(
        &self,
        node: &Arc<Node>,
        topic: &str,
        request: Request<B>,
    ) -> Result<Totals, No>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let bad =
            |error: &dyn std::fmt::Display| No::new(StatusCode::BAD_REQUEST, error.to_string());
        let topic = Topic::new(topic).map_err(|error| bad(&error))?;
        let class = class_of(request.uri().query()).map_err(|error| bad(&error))?;
        let coding = coding_of(request.headers())?;
        node.look_at_topic(&topic)?;
        node.look_at_load(&topic, class)
            .map_err(|why| No::new(StatusCode::TOO_MANY_REQUESTS, why.to_owned()))?;
        let (body, _held) = self.take_body(request).await?;
        // Decompression and cutting are work for plain threads.
        let look = body.clone();
        let totals = blocking(move || LineReader::new(look, coding)?.totals()).await??;
        let reader = LineReader::new(body, coding)?;
        self.deliver(node, &topic, class, reader).await?;
        Ok(totals)
    }

    /// Reads the body, and takes memory for it as it comes.
    async fn take_body<B>(&self, request: Request<B>) -> Result<(Bytes, OwnedSemaphorePermit), No>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let too_large = || {
            No::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the body is longer than {MAX_ENCODED_BYTES} bytes; send it in parts"),
            )
        };
        let announced = request.body().size_hint().exact();
        if announced.is_some_and(|bytes| bytes > MAX_ENCODED_BYTES) {
            return Err(too_large());
        }
        let mut held = self
            .hold(announced.unwrap_or(PIECE_BYTES).min(PIECE_BYTES))
            .await?;
        let limit = usize::try_from(MAX_ENCODED_BYTES).unwrap_or(usize::MAX);
        let body = Limited::new(request.into_body(), limit);
        let collect = async {
            let mut bytes = BytesMut::new();
            let mut body = std::pin::pin!(body);
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| match error.is::<LengthLimitError>() {
                    true => too_large(),
                    false => No::new(
                        StatusCode::BAD_REQUEST,
                        format!("the body broke off: {error}"),
                    ),
                })?;
                let Ok(data) = frame.into_data() else {
                    continue;
                };
                let more = (bytes.len() + data.len()).saturating_sub(held.num_permits());
                if more > 0 {
                    held.merge(self.hold((more as u64).max(PIECE_BYTES)).await?);
                }
                bytes.extend_from_slice(&data);
            }
            Ok::<_, No>(bytes.freeze())
        };
        let body = timeout(BODY_WITHIN, collect).await.map_err(|_elapsed| {
            No::new(
                StatusCode::REQUEST_TIMEOUT,
                "the body took longer than 60 s",
            )
        })??;
        Ok((body, held))
    }

    /// Takes memory for so many bytes of a body.
    async fn hold(&self, bytes: u64) -> Result<OwnedSemaphorePermit, No> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let held = Arc::clone(&self.bodies).acquire_many_owned(bytes);
        let held = timeout(MEMORY_WITHIN, held).await.map_err(|_elapsed| {
            No::later(
                StatusCode::TOO_MANY_REQUESTS,
                "too many bodies are on their way",
            )
        })?;
        Ok(held.expect("the semaphore of bodies is never closed"))
    }

    /// Cuts the body into batches, sends them on their way and waits for all of them.
    async fn deliver(
        &self,
        node: &Arc<Node>,
        topic: &Topic,
        class: Class,
        reader: LineReader,
    ) -> Result<(), No> {
        let mut sent: Vec<Sent> = Vec::new();
        let mut cutter = Cutter {
            reader,
            encoder: Encoder::new(Codec::None),
            spare: None,
        };
        let at_ms = i64::try_from(now_ms()).unwrap_or(i64::MAX);
        loop {
            let (id, header) = self.begin(node, topic, class);
            let (cut, back) = blocking(move || {
                let mut cutter = cutter;
                let cut = cutter.cut(id, at_ms);
                (cut, cutter)
            })
            .await?;
            cutter = back;
            let Some(encoded) = cut? else { break };
            let header = self.complete(header, &encoded);
            let bytes = budget::cost(&header, encoded.payload.len());
            let permit = node.budget.take(bytes).await;
            let payload_bytes = encoded.payload.len() as u64;
            node.quotas
                .take_of_topic(topic, payload_bytes, Instant::now());
            let (told, answer) = oneshot::channel();
            let batch = Accepted::new(header, encoded.payload, permit);
            node.take(batch, Waiter::Lines(told));
            sent.push(answer);
        }
        let wait = async {
            for answer in sent {
                match answer.await {
                    Ok(BatchAnswer::Receipt(_receipt)) => {}
                    Ok(BatchAnswer::Busy(busy)) => {
                        return Err(Failure::Unavailable(busy.reason).into());
                    }
                    Ok(BatchAnswer::Refuse(refusal)) => {
                        return Err(Failure::Rejected(refusal.reason, refusal.detail).into());
                    }
                    Err(_gone) => {
                        return Err(Failure::Unavailable("the node stopped".to_owned()).into());
                    }
                }
            }
            Ok(())
        };
        timeout(DELIVER_WITHIN, wait)
            .await
            .unwrap_or_else(|_elapsed| {
                let words = "not delivered within 30 s; it may still be, a repeat may double it";
                Err(No::later(StatusCode::SERVICE_UNAVAILABLE, words))
            })
    }

    /// The next batch's identity, and its header without counts. A number that is not used in the
    /// end leaves a hole, which nobody misses: only what is delivered is told.
    fn begin(&self, node: &Node, topic: &Topic, class: Class) -> (BatchId, BatchHeader) {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let stream = streams.entry(topic.clone()).or_default();
        stream.last_seq += 1;
        let identity = &node.identity;
        let name = format!("lines/{}/{topic}", identity.node);
        let id = StreamId(xxh3_64(name.as_bytes()));
        let header = BatchHeader {
            agent: identity.lines_agent.clone(),
            stream: id,
            epoch: identity.epoch,
            seq: stream.last_seq,
            generation: GenerationId(id.0 ^ identity.epoch.0),
            span: Span {
                start: stream.bytes,
                end: stream.bytes,
            },
            task: TaskId::new("lines").expect("lines is a name"),
            topic: topic.clone(),
            class,
            resends: 0,
            records: 0,
            raw_bytes: 0,
            minutes: Vec::new(),
            content_sum: 0,
            file: "http".to_owned(),
            keyed: false,
        };
        (header.id(), header)
    }

    /// Adds what is known once the batch is cut.
    fn complete(&self, mut header: BatchHeader, encoded: &Encoded) -> BatchHeader {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let stream = streams.entry(header.topic.clone()).or_default();
        let bytes = encoded.raw_bytes + u64::from(encoded.records);
        header.span = Span {
            start: stream.bytes,
            end: stream.bytes + bytes,
        };
        stream.bytes += bytes;
        header.records = encoded.records;
        header.raw_bytes = encoded.raw_bytes;
        header.minutes.clone_from(&encoded.minutes);
        header.content_sum = encoded.content_sum;
        header
    }
}

/// Makes batches of lines.
struct Cutter {
    reader: LineReader,
    encoder: Encoder,
    /// A line that did not fit the batch before.
    spare: Option<Vec<u8>>,
}

impl Cutter {
    /// The next batch; `None` when there are no more lines.
    fn cut(&mut self, id: BatchId, at_ms: i64) -> Result<Option<Encoded>, No> {
        self.encoder.begin(id);
        if let Some(line) = self.spare.take() {
            self.encoder.push(at_ms, None, &line);
        }
        while self.encoder.raw_bytes() < BATCH_BYTES {
            let Some(line) = self.reader.next()? else {
                break;
            };
            if self.encoder.has_room(None, line) {
                self.encoder.push(at_ms, None, line);
            } else {
                self.spare = Some(line.to_vec());
                break;
            }
        }
        if self.encoder.records() == 0 {
            return Ok(None);
        }
        let failed = |error: BatchError| No::new(StatusCode::BAD_REQUEST, error.to_string());
        self.encoder.finish().map(Some).map_err(failed)
    }
}

/// Runs work on a plain thread and waits for it.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, No> {
    let failed = |_panic| {
        No::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the request could not be worked on",
        )
    };
    tokio::task::spawn_blocking(work).await.map_err(failed)
}

/// The class of a request: `?class=P1`, else the default.
fn class_of(query: Option<&str>) -> Result<Class, String> {
    let mut class = Class::default();
    for pair in query
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty())
    {
        class = match pair.split_once('=') {
            Some(("class", value)) => value
                .parse()
                .map_err(|error: NameError| error.to_string())?,
            Some((key, _)) => return Err(format!("{key:?} is unknown; allowed is class")),
            None => return Err(format!("{pair:?} is unknown; allowed is class=P0 to P3")),
        };
    }
    Ok(class)
}

fn coding_of(headers: &header::HeaderMap) -> Result<Coding, No> {
    let Some(value) = headers.get(header::CONTENT_ENCODING) else {
        return Ok(Coding::Identity);
    };
    let text = value.to_str().unwrap_or("?").trim().to_ascii_lowercase();
    match text.as_str() {
        "identity" | "" => Ok(Coding::Identity),
        "gzip" | "x-gzip" => Ok(Coding::Gzip),
        "zstd" => Ok(Coding::Zstd),
        other => Err(No::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            format!("content-encoding {other:?} is unknown; allowed are identity, gzip, zstd"),
        )),
    }
}

#[cfg(test)]
mod tests;
