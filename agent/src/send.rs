//! Sends batches to a bus node and takes its answers.
//!
//! One loop owns the window and the connection. Batches are taken in at any time, also while there is
//! no connection; memory is bounded by their permits. An answer is written to the checkpoint before
//! the batch is forgotten. A node that hangs is given up, and what was in flight is sent again
//! elsewhere with the same identity; one that asks us to go is left when all of that is answered.
//!
//! Not for: making batches (see [`crate::reader`]). Started by [`crate::run`].

mod ahead;
mod connect;
mod counters;
mod link;
mod nodes;
mod pace;
mod pulse;
mod ways;
mod window;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use metrics::{counter, gauge};
use tokio::{
    select,
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tributary_common::{
    header::BatchHeader,
    ids::Class,
    tls::Dialer,
    wire::{self, Frame, Hello, Outcome, Receipt, Refusal, RefuseReason},
};
pub(crate) use window::ClassLoad;

pub(crate) use self::ways::Ways;
use self::{
    ahead::Ahead,
    connect::Home,
    counters::Counters,
    link::{Link, LinkError},
    nodes::Nodes,
    pace::Pace,
    pulse::{Due, Pulse},
    ways::changed,
    window::Window,
};
use crate::{
    checkpoint::{Checkpoint, End, Record},
    limit::{Permit, Reason},
    status::{Refused, Status},
};

/// What a batch has about, compressed: classes and streams take turns by so much.
const PIECE_BYTES: u64 = 64 << 10;
/// After the stop, acknowledgements are waited for this long, or this long without a connection.
const LAST_ANSWERS: Duration = Duration::from_secs(10);
const LAST_CONNECT: Duration = Duration::from_secs(2);
/// Answers handled before the socket is served again.
const ANSWERS_AT_ONCE: usize = 64;
/// A node that the configuration does not name any more is left within this time.
const LEAVE_WITHIN: Duration = Duration::from_secs(10);
/// A connection that lived this long was a good one.
const GOOD_LIFE: Duration = Duration::from_secs(5);
/// Asked to go, answers to what is in flight are waited for this long: longer than a node takes to
/// stop, since what is given up is sent again elsewhere, and the node may have delivered it.
const GO_WITHIN: Duration = Duration::from_secs(15);
/// A node that takes nothing, or is long about it, has so long for what is in flight.
const FINISH_WITHIN: Duration = Duration::from_secs(60);
/// A node that asked us to go stands behind its neighbours for so long.
const LEFT_FOR: Duration = Duration::from_secs(300);

/// A batch on its way.
#[derive(Debug)]
pub(crate) struct Outgoing {
    /// What is said of it.
    pub(crate) header: Box<BatchHeader>,
    /// Its records.
    pub(crate) payload: Bytes,
    /// The memory that it takes.
    pub(crate) permit: Permit,
}

/// The loop's state.
#[derive(Debug)]
pub(crate) struct Sender {
    hello: Hello,
    /// Connections are TLS.
    tls: Option<Arc<Dialer>>,
    nodes: Nodes,
    /// Where to, and how fast; another one may come at any time.
    ways: watch::Receiver<Ways>,
    /// They changed since the order of the nodes was made.
    reorder: bool,
    /// The last node hung.
    hung: bool,
    /// A node asked us to go; with nothing to send the next one is not sought before.
    rest_until: Option<Instant>,
    /// A node of a better cluster that has welcomed us.
    found: Option<(usize, Link)>,
    /// On a standby cluster, a better one is looked for after this, up to twice.
    return_after: Duration,
    incoming: mpsc::Receiver<Vec<Outgoing>>,
    /// The reader is done.
    ended: bool,
    checkpoint: Arc<Checkpoint>,
    status: Arc<Status>,
    pace: Pace,
    ahead: Ahead,
    pulse: Pulse,
    window: Window,
    counters: Counters,
    /// When the stop was heard.
    stopped: Option<Instant>,
    rng: fastrand::Rng,
}

/// What people were told of each node that cannot be reached.
type Told = BTreeMap<String, String>;

/// How a connection ended.
enum Close {
    /// Everything is acknowledged, and nothing more comes.
    Done,
    /// The node asked us to go, or the configuration.
    GoAway,
    /// Another node of a better cluster has welcomed us.
    Home,
    /// It takes nothing, or is long about it, and there is another one.
    Unfit(String),
    /// It broke.
    Broken(LinkError),
}

/// One connection's state.
struct Session {
    link: Link,
    pings: u64,
    /// The node asked us to go: nothing new is sent.
    leave_by: Option<Instant>,
    /// Why it is left, where that is for us to say.
    unfit: Option<String>,
    /// The way to a better cluster.
    home: Home,
}

impl Session {
    /// Sends nothing more; the node is left when it has answered what it has.
    fn leave(&mut self, now: Instant, why: String) {
        self.leave_by.get_or_insert(now + FINISH_WITHIN);
        self.unfit = Some(why);
    }
}

impl Sender {
    /// A sender that connects in the order of these clusters, by TLS when it is given.
    pub(crate) fn new(
        (hello, tls): (Hello, Option<Arc<Dialer>>),
        mut ways: watch::Receiver<Ways>,
        incoming: mpsc::Receiver<Vec<Outgoing>>,
        checkpoint: Arc<Checkpoint>,
        status: Arc<Status>,
    ) -> Self {
        let first = ways.borrow_and_update().clone();
        status.set_bandwidth(first.bandwidth);
        Self {
            nodes: Nodes::new(&hello.agent, &first.clusters),
            hello,
            tls,
            ways,
            reorder: false,
            hung: false,
            rest_until: None,
            found: None,
            return_after: first.return_after,
            incoming,
            ended: false,
            checkpoint,
            status,
            pace: Pace::new(first.bucket()),
            ahead: Ahead::new(Instant::now()),
            pulse: Pulse::new(Instant::now()),
            window: Window::new(PIECE_BYTES),
            counters: Counters::new(),
            stopped: None,
            rng: fastrand::Rng::new(),
        }
    }

    /// Sends until the reader is done and all is acknowledged, or the deadline after `stop` is over.
    ///
    /// # Errors
    /// None at present: a bus that cannot be reached is tried again.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut told = Told::new();
        loop {
            let Some((node, link)) = self.connect(&stop, &mut told).await else {
                return Ok(());
            };
            let (cluster, addr) = self.nodes.name(node);
            tracing::info!(cluster, node = addr, "connected to the bus");
            told.clear();
            self.status.link(|link| {
                link.connected = true;
                link.cluster = cluster.to_owned();
                link.node = addr.to_owned();
                link.last_error.clear();
            });
            gauge!("tributary_agent_connected_count").set(1.0);
            let began = Instant::now();
            let addr = addr.to_owned();
            let close = self.session(link, (node, &addr), &stop).await;
            gauge!("tributary_agent_connected_count").set(0.0);
            let now = Instant::now();
            let fits = !matches!(
                close,
                Close::Unfit(_) | Close::Broken(LinkError::Unanswered(_))
            );
            if fits && now.saturating_duration_since(began) >= GOOD_LIFE {
                self.nodes.works(node);
            }
            self.window.reset();
            let why = match close {
                Close::Done => return Ok(()),
                Close::GoAway => {
                    self.nodes.leave(node, now + LEFT_FOR);
                    "the node asked us to connect elsewhere".to_owned()
                }
                Close::Home => "a better cluster is there again".to_owned(),
                Close::Unfit(why) => {
                    self.nodes.unfit(node, now, &mut self.rng);
                    why
                }
                Close::Broken(error @ (LinkError::Silent(_) | LinkError::Unanswered(_))) => {
                    self.hung = true;
                    self.nodes.hangs(node, now, &mut self.rng);
                    if matches!(error, LinkError::Unanswered(_)) {
                        self.nodes.unfit(node, now, &mut self.rng);
                    }
                    error.to_string()
                }
                Close::Broken(error) => {
                    self.nodes.failed(node, now, &mut self.rng);
                    error.to_string()
                }
            };
            let (cluster, addr) = self.nodes.name(node);
            tracing::warn!(
                cluster,
                node = addr,
                reason = why,
                "disconnected from the bus"
            );
            counter!("tributary_agent_disconnects_total").increment(1);
            self.status.link(|link| {
                link.connected = false;
                link.last_error = format!("{addr}: {why}");
            });
        }
    }

    /// Keeps to a ceiling from now on.
    fn keep_to(&mut self, ways: &Ways) {
        self.pace = Pace::new(ways.bucket());
        self.status.set_bandwidth(ways.bandwidth);
    }

    /// Goes by the clusters that are given from now on.
    fn take_over(&mut self) {
        let ways = self.ways.borrow_and_update().clone();
        self.reorder = false;
        self.keep_to(&ways);
        self.nodes = Nodes::new(&self.hello.agent, &ways.clusters);
    }

    /// Other ways while connected: the connection stays, unless its node is none of them any more.
    /// The order counts when it ends.
    fn look_at_ways(&mut self, session: &mut Session, addr: &str) {
        let ways = self.ways.borrow_and_update().clone();
        self.reorder = true;
        self.keep_to(&ways);
        if !ways.lead_to(addr) {
            tracing::info!(
                node = addr,
                "the configuration does not name this node any more"
            );
            let leave_by = Instant::now() + LEAVE_WITHIN;
            session.leave_by.get_or_insert(leave_by);
        }
    }

    /// Waits for something while batches are taken in; `None` when it is time to end.
    async fn meanwhile<T>(
        &mut self,
        wait: impl Future<Output = T>,
        stop: &CancellationToken,
    ) -> Option<T> {
        let mut wait = std::pin::pin!(wait);
        loop {
            let deadline = self.stopped.map(|at| at + LAST_CONNECT);
            select! {
                // In this order: each but the batches comes once.
                biased;
                () = stop.cancelled(), if self.stopped.is_none() => {
                    self.stopped = Some(Instant::now());
                }
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    return None;
                }
                done = &mut wait => return Some(done),
                hand = self.incoming.recv(), if !self.ended => self.take_in(hand),
            }
        }
    }

    /// Tells a person once why there is no connection, and again when the reason changes.
    fn tell(&self, addr: &str, error: &LinkError, told: &mut Told) {
        let text = format!("{addr}: {error}");
        if told.get(addr) != Some(&text) {
            tracing::warn!(
                node = addr,
                error = error.to_string(),
                "the bus cannot be reached; it is tried again, and lines wait in their files"
            );
        }
        self.status.link(|link| link.last_error.clone_from(&text));
        told.insert(addr.to_owned(), text);
    }

    /// Batches from the reader, or the word that there are no more.
    fn take_in(&mut self, hand: Option<Vec<Outgoing>>) {
        match hand {
            Some(hand) => hand.into_iter().for_each(|batch| self.window.push(batch)),
            None => self.ended = true,
        }
    }

    /// Speaks with one node until the connection ends.
    async fn session(
        &mut self,
        link: Link,
        (node, addr): (usize, &str),
        stop: &CancellationToken,
    ) -> Close {
        let now = Instant::now();
        self.window.open(&link.welcome);
        self.ahead.begin(link.greeted_in, now);
        self.pulse.begin(self.nodes.has_others(), now);
        let mut session = Session {
            link,
            pings: 0,
            leave_by: None,
            unfit: None,
            home: self.way_home(node, now),
        };
        let close = self.converse(&mut session, (node, addr), stop).await;
        self.found = session.home.take();
        if let Close::Broken(LinkError::Silent(_) | LinkError::Unanswered(_)) = close {
            session.link.cutter.cut();
        }
        let close = match (close, session.leave_by) {
            // It has answered all that it could, and stopped.
            (Close::Broken(LinkError::Closed), Some(_)) => Close::GoAway,
            (close, _) => close,
        };
        match (close, session.unfit) {
            (Close::GoAway, Some(why)) => Close::Unfit(why),
            (close, _) => close,
        }
    }

    async fn converse(
        &mut self,
        session: &mut Session,
        (node, addr): (usize, &str),
        stop: &CancellationToken,
    ) -> Close {
        loop {
            if self.ended && self.window.is_empty() {
                return Close::Done;
            }
            let now = Instant::now();
            let deadline = self.stopped.map(|at| at + LAST_ANSWERS);
            if deadline.is_some_and(|deadline| deadline <= now) {
                return Close::Done;
            }
            let filled = match self.fill(session, now) {
                Ok(filled) => filled,
                Err(error) => return Close::Broken(error),
            };
            let waiting = session.link.writer.waiting();
            let held = session.link.writer.holds();
            let (most, paced) = match self.pace.allows(waiting, now) {
                Ok(most) => (most, None),
                Err(until) => (0, Some(until)),
            };
            self.held_back(now, filled.into_iter().chain(paced).min());
            self.show();
            if let Some(leave_by) = session.leave_by
                && (leave_by <= now || self.window.in_flight() == 0)
            {
                return Close::GoAway;
            }
            self.look_home(node, &mut session.home, now);
            if session.home.is_found() && self.window.in_flight() == 0 {
                return Close::Home;
            }
            let (in_flight, waiting) = (self.window.in_flight(), self.window.waiting());
            self.pulse.in_flight(in_flight > 0, waiting > 0, now);
            let wake = [
                filled,
                paced,
                self.window.next_time(),
                session.leave_by,
                session.home.next(),
                deadline,
            ];
            let pulse = self.pulse.next();
            let wake = wake.into_iter().flatten().fold(pulse, Instant::min);
            select! {
                // In this order: what comes once; answers, of which there are no more than batches in
                // flight; batches, which memory bounds; the socket.
                biased;
                () = stop.cancelled(), if self.stopped.is_none() => {
                    self.stopped = Some(Instant::now());
                }
                () = changed(&mut self.ways) => self.look_at_ways(session, addr),
                looked = session.home.looked() => self.looked(&mut session.home, looked),
                answer = session.link.answers.recv() => {
                    if let Err(error) = self.on_answers(session, answer) {
                        return Close::Broken(error);
                    }
                }
                hand = self.incoming.recv(), if !self.ended => self.take_in(hand),
                written = session.link.writer.write_some(most), if most > 0 || held => match written {
                    Ok(bytes) => self.pace.written(bytes),
                    Err(error) => return Close::Broken(error),
                },
                () = sleep_until(wake) => {
                    if let Some(close) = self.on_time(session, deadline) {
                        return close;
                    }
                }
            }
        }
    }

    /// Queues what the socket takes. The answer is when the ceiling allows more.
    fn fill(&mut self, session: &mut Session, now: Instant) -> Result<Option<Instant>, LinkError> {
        while session.leave_by.is_none() && !session.home.is_found() {
            match self.pace.has_room(session.link.writer.waiting(), now) {
                Ok(true) => {}
                Ok(false) => break,
                Err(until) => return Ok(Some(until)),
            }
            let least_urgent = self.ahead.least_urgent();
            let Some(batch) = self.window.next(now, least_urgent) else {
                break;
            };
            let head = wire::encode_batch_head(&batch.header, batch.payload.len())?;
            let payload = batch.payload.clone();
            let (id, resends) = (batch.header.id(), batch.header.resends);
            let frame = head.len() + payload.len();
            self.pace.queued(frame);
            self.ahead.give(batch.header.class, frame as u64);
            self.counters.sent_bytes.increment(frame as u64);
            if resends > 0 {
                self.counters.resent_batches.increment(1);
            } else {
                self.checkpoint.sent(id);
            }
            session.link.writer.push_batch(head, payload);
            self.ask(session, now)?;
        }
        self.ask(session, now)?;
        Ok(None)
    }

    /// Pings the node behind the bulk that was queued, to know when it has read that.
    fn ask(&mut self, session: &mut Session, now: Instant) -> Result<(), LinkError> {
        if self.ahead.wants_ping(now) {
            session.pings += 1;
            self.ahead.asks(session.pings, now);
            session.link.writer.push(&Frame::Ping(session.pings))?;
        }
        Ok(())
    }

    /// Until then the ceiling holds back what waits.
    fn held_back(&self, now: Instant, until: Option<Instant>) {
        let Some(until) = until else {
            return;
        };
        for (class, load) in Class::ALL.into_iter().zip(self.window.classes()) {
            if load.waiting > 0 {
                let throttled = self.status.throttled();
                throttled.note(class, Reason::Bandwidth, now, until);
            }
        }
    }

    /// Handles an answer and all that came with it.
    fn on_answers(
        &mut self,
        session: &mut Session,
        first: Option<Result<Frame, LinkError>>,
    ) -> Result<(), LinkError> {
        self.pulse.heard(Instant::now());
        let mut ends = Vec::new();
        let mut next = first;
        let mut result = Ok(());
        for _answer in 0..ANSWERS_AT_ONCE {
            let Some(answer) = next else {
                result = Err(LinkError::Closed);
                break;
            };
            result = answer.and_then(|frame| self.on_frame(session, frame, &mut ends));
            if result.is_err() {
                break;
            }
            match session.link.answers.try_recv() {
                Ok(answer) => next = Some(answer),
                Err(_none_now) => break,
            }
        }
        // What was acknowledged before the connection broke stays acknowledged.
        self.acknowledge(&ends);
        result
    }

    fn on_frame(
        &mut self,
        session: &mut Session,
        frame: Frame,
        ends: &mut Vec<Receipt>,
    ) -> Result<(), LinkError> {
        let heard = self.pulse.heard_at();
        match frame {
            Frame::Receipts(receipts) => ends.extend(receipts),
            Frame::Busy(busy) => {
                counter!("tributary_agent_busy_total").increment(1);
                self.pulse.busy(heard);
                if let Some(batch) = self.window.busy(&busy, heard) {
                    batch.permit.stands_still();
                }
            }
            Frame::Refuse(refusal) => {
                self.pulse.refused(heard);
                self.refused(&refusal, heard);
            }
            Frame::GoAway {
                reconnect_within_ms,
            } => {
                let spread = self.rng.u64(0..=u64::from(reconnect_within_ms));
                self.rest_until = Some(heard + Duration::from_millis(spread));
                session.leave_by = Some(heard + GO_WITHIN);
            }
            Frame::Ping(number) => session.link.writer.push(&Frame::Pong(number))?,
            Frame::Pong(number) => self.ahead.answered(number, heard),
            Frame::Error(why) => return Err(LinkError::Refused(why)),
            Frame::Hello(_) | Frame::Welcome(_) | Frame::Batch(..) => {
                return Err(LinkError::Unexpected);
            }
        }
        Ok(())
    }

    /// Batches are done: first the checkpoint, then their memory.
    fn acknowledge(&mut self, receipts: &[Receipt]) {
        if receipts.is_empty() {
            return;
        }
        let mut records = Vec::with_capacity(receipts.len());
        let mut done = Vec::with_capacity(receipts.len());
        for receipt in receipts {
            // An answer to what another connection had sent is as good.
            let Some((batch, sent)) = self.window.acknowledge(receipt.batch) else {
                continue;
            };
            let heard = self.pulse.heard_at();
            let took = sent.map_or(Duration::ZERO, |sent| heard.saturating_duration_since(sent));
            self.pulse.took(took, heard);
            let end = match receipt.outcome {
                Outcome::Delivered(_) => End::Delivered,
                Outcome::Duplicate => End::Duplicate,
                Outcome::Spilled => End::Spilled,
            };
            records.push(Record::Ended {
                batch: receipt.batch,
                end,
            });
            done.push(batch);
        }
        self.checkpoint.note(records);
        for batch in done {
            self.counters.acknowledged_batches.increment(1);
            self.counters
                .acknowledged_records
                .increment(batch.header.records.into());
            batch.permit.flows();
            self.status.accept(batch.header.stream);
        }
    }

    /// The bus refused a batch: its stream stands still, and people see it.
    fn refused(&mut self, refusal: &Refusal, now: Instant) {
        let reason = refusal.reason.as_str();
        counter!("tributary_agent_refused_total", "reason" => reason).increment(1);
        let Some(batch) = self.window.refuse(refusal.batch, now) else {
            return;
        };
        match refusal.reason {
            RefuseReason::NoRoute | RefuseReason::Destination => batch.permit.stands_still(),
            RefuseReason::Corrupt | RefuseReason::TooLarge => {}
        }
        let (task, topic) = (batch.header.task.clone(), batch.header.topic.clone());
        let known = self.status.refused().contains_key(&refusal.batch.stream);
        if !known {
            tracing::error!(
                topic = topic.as_str(),
                task = task.as_str(),
                file = batch.header.file,
                reason,
                detail = refusal.detail,
                "the bus refused a batch; its file waits, and is tried again regularly"
            );
        }
        let reason = format!("refused by the bus: {reason}: {}", refusal.detail);
        self.status.refuse(
            refusal.batch.stream,
            Refused {
                task,
                topic,
                reason,
            },
        );
    }

    /// Shows people how it goes.
    fn show(&self) {
        let (in_flight, waiting) = (self.window.in_flight(), self.window.waiting());
        let classes = self.window.classes();
        self.status.link(|link| {
            link.in_flight = in_flight;
            link.waiting = waiting;
            link.classes = classes;
        });
    }

    /// Something was due: the end, a ping, or the end of patience.
    fn on_time(&mut self, session: &mut Session, deadline: Option<Instant>) -> Option<Close> {
        let now = Instant::now();
        if deadline.is_some_and(|deadline| deadline <= now) {
            return Some(Close::Done);
        }
        match self.pulse.due(now) {
            Due::Nothing => None,
            Due::Silent(after) => Some(Close::Broken(LinkError::Silent(after))),
            Due::Unanswered(after) => Some(Close::Broken(LinkError::Unanswered(after))),
            Due::Busy(after) => {
                session.leave(
                    now,
                    format!("it has taken no batch for {after:?}, and there is another node"),
                );
                None
            }
            Due::Slow(after) => {
                session.leave(
                    now,
                    format!(
                        "it has answered no batch quickly for {after:?}, and there is another node"
                    ),
                );
                None
            }
            Due::Ping => {
                session.pings += 1;
                let pinged = session.link.writer.push(&Frame::Ping(session.pings));
                pinged.err().map(Close::Broken)
            }
        }
    }
}
