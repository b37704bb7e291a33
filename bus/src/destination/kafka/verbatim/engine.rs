//! The thread that owns the producer: takes batches, does what [`super::cluster`] says, tells flights
//! what became of them.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep_until},
};
use tributary_common::{
    batch::{Decoder, Merger},
    wire::RefuseReason,
};

use super::{
    super::{
        super::Failure, Shared, owner::Work, produced::Flight, readback::Found, stops::behind,
        watch::THROTTLED_FOR,
    },
    apart::{self, Apart, Rest},
    broker::Kind,
    cargo::{self, Cargo, Packed},
    cluster::{Cluster, LaneNo, LinkNo},
    frame::Frame,
    lane::{CutNo, Parcel, RequestNo},
    link::{self, Heard},
    meaning::Meaning,
    proto::{self, Versions},
    says::{Against, Command},
    security::Security,
};

/// Answers and ends of connections that wait to be looked at.
const HEARD: usize = 64;
/// Orders that are taken before requests are made of them.
const AT_A_TIME: usize = 256;

/// What the engine is told.
pub(super) enum Order {
    /// A batch without keys.
    Work(Work),
    /// A part of a batch with keys.
    Parcel(Parcel<Arc<Cargo>>),
    /// The dead letters of a batch that is taken apart are kept, or why not.
    Buried {
        at: (LaneNo, CutNo),
        pieces: Vec<Parcel<Arc<Cargo>>>,
        of: Vec<(Arc<Flight>, u32)>,
        kept: Result<(), String>,
    },
    /// Give everything back and begin anew.
    Reset,
}

/// A connection's task.
struct Task {
    requests: mpsc::Sender<Frame>,
    abort: AbortHandle,
    versions: Option<Versions>,
}

/// The thread's state.
pub(super) struct Engine {
    shared: Arc<Shared>,
    security: Arc<Security>,
    orders: mpsc::UnboundedReceiver<Order>,
    /// To itself, for what is kept meanwhile.
    own: mpsc::WeakUnboundedSender<Order>,
    cluster: Cluster<Arc<Cargo>>,
    links: HashMap<LinkNo, Task>,
    tasks: JoinSet<()>,
    heard: mpsc::Receiver<(LinkNo, Heard)>,
    hear: mpsc::Sender<(LinkNo, Heard)>,
    decoder: Decoder,
    merger: Merger,
    merged: Merged,
}

/// Counts what was merged.
struct Merged {
    into: metrics::Counter,
    out: metrics::Counter,
}

impl Engine {
    pub(super) fn new(
        shared: Arc<Shared>,
        (bootstrap, security): (&[String], Arc<Security>),
        (orders, own): (
            mpsc::UnboundedReceiver<Order>,
            mpsc::WeakUnboundedSender<Order>,
        ),
    ) -> Self {
        let (hear, heard) = mpsc::channel(HEARD);
        let name = shared.name.to_string();
        let merged = Merged {
            into: metrics::counter!("tributary_bus_merged_in_batches_total", "destination" => name.clone()),
            out: metrics::counter!("tributary_bus_merged_out_batches_total", "destination" => name),
        };
        Self {
            shared,
            security,
            orders,
            own,
            cluster: Cluster::new(
                bootstrap,
                |cargo| cargo.streams(),
                fastrand::Rng::new(),
                Instant::now(),
            ),
            links: HashMap::new(),
            tasks: JoinSet::new(),
            heard,
            hear,
            decoder: Decoder::new(),
            merger: Merger::new(),
            merged,
        }
    }

    /// Works until the destination closes; what is on its way then is given back.
    pub(super) async fn run(mut self) {
        let mut taken = Vec::with_capacity(AT_A_TIME);
        while !self.shared.is_closing() {
            let wake = self.cluster.wake(Instant::now());
            tokio::select! {
                count = self.orders.recv_many(&mut taken, AT_A_TIME) => {
                    if count == 0 {
                        break;
                    }
                    taken.drain(..).for_each(|order| self.order(order));
                }
                heard = self.heard.recv() => {
                    if let Some((link, heard)) = heard {
                        self.hear(link, heard);
                    }
                }
                // What a task ends with it has told before.
                Some(_ended) = self.tasks.join_next() => {}
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
            }
            while let Ok((link, heard)) = self.heard.try_recv() {
                self.hear(link, heard);
            }
            self.pump();
            self.obey();
        }
        self.cluster.reset("this node is stopping", Instant::now());
        self.obey();
        while let Ok(order) = self.orders.try_recv() {
            let why = Failure::Unavailable("this node is stopping".to_owned());
            match order {
                Order::Work(work) => self.shared.give_back(work, why),
                Order::Parcel(parcel) => parcel.cargo.failed(&why),
                // Given back by the reset.
                Order::Buried { .. } | Order::Reset => {}
            }
        }
    }

    /// Requests are made of what may go.
    fn pump(&mut self) {
        let (merger, merged) = (&mut self.merger, &self.merged);
        self.cluster.pump(Instant::now(), |run| {
            let one = cargo::merge(run, merger)?;
            merged.into.increment(one.batches as u64);
            merged.out.increment(1);
            Some(one)
        });
    }

    fn order(&mut self, order: Order) {
        match order {
            Order::Work(work) => self.take(work),
            // Its thread may have made it before a batch before it was refused.
            Order::Parcel(parcel) if parcel.cargo.is_held() => parcel.cargo.failed(&behind()),
            Order::Parcel(parcel) => self.push(parcel),
            Order::Buried {
                at,
                pieces,
                of,
                kept,
            } => self.buried(at, pieces, of, kept),
            Order::Reset => {
                self.cluster
                    .reset("the producer is replaced", Instant::now());
                self.obey();
            }
        }
    }

    fn push(&mut self, parcel: Parcel<Arc<Cargo>>) {
        let (topic, partition) = (Arc::clone(&parcel.cargo.topic.name), parcel.cargo.partition);
        self.cluster.push(&topic, partition, parcel, Instant::now());
    }

    /// Takes a batch without keys.
    fn take(&mut self, work: Work) {
        if work.topic.is_closed() || self.shared.is_closing() || self.shared.holds(&work) {
            let why = "the topic is being looked at".to_owned();
            return self.shared.give_back(work, Failure::Unavailable(why));
        }
        let Some(work) = self.shared.unless_ended(work) else {
            return;
        };
        let found = self.shared.found(&work).into_iter().next();
        if found.is_some()
            || work.job.replay.is_some()
            || !self.shared.dead_of(&work.job).is_empty()
        {
            return self.take_opened(work, found);
        }
        let header = &work.job.batch.header;
        let packed = match cargo::seal(&work.job.batch) {
            Ok(packed) => packed,
            Err(failure) => return self.shared.give_back(work, failure),
        };
        let (records, partition) = (header.records, work.partition);
        self.fly(work, (partition, packed), records, None);
    }

    fn fly(
        &mut self,
        work: Work,
        (partition, packed): (i32, Packed),
        records: u32,
        known: Option<(i32, i64, i64)>,
    ) {
        let Work { topic, job, no, .. } = work;
        let flight = Flight::new(
            (&self.shared, &topic),
            (partition, None),
            records,
            known.into_iter(),
            (job, no),
        );
        self.push(Cargo::parcel(&flight, &topic, partition, packed));
    }

    /// Takes a batch that an earlier life has produced, wholly or in part, or of which records are dead; or a
    /// dead letter that goes out again.
    fn take_opened(&mut self, work: Work, found: Option<Found>) {
        let decoded = match work.job.batch.open(&mut self.decoder) {
            Ok(decoded) => decoded,
            Err(failure) => return self.shared.give_back(work, failure),
        };
        let alive = self.shared.alive(&work.job, &decoded);
        let (topic, id) = (&work.topic, work.job.batch.header.id());
        let (mut partition, mut known, mut skip) = (work.partition, None, 0);
        if let Some(found) = found {
            let present = found.present(alive.records().map(|(_place, record)| record));
            (partition, skip) = (found.partition, present.records);
            known = Some((partition, present.first, present.end));
            tracing::info!(
                destination = %self.shared.name,
                topic = &*topic.name,
                batch.id = %id,
                records = skip,
                of_records = decoded.len(),
                "a batch of the life before is found in the topic"
            );
        }
        let left = alive.len() - skip;
        if left == 0 {
            let nowhere = || self.shared.nowhere(topic, &work.job.batch.header);
            let place = known.map_or_else(nowhere, |part| self.shared.place(topic, part));
            return self.shared.note(topic, work.job, place);
        }
        let rest = cargo::encode(decoded.codec(), id, alive.records().skip(skip as usize));
        let rest = match rest {
            Ok(rest) => rest,
            Err(failure) => return self.shared.give_back(work, failure),
        };
        self.decoder.recycle(decoded);
        self.fly(work, (partition, rest), left, known);
    }

    fn hear(&mut self, link: LinkNo, heard: Heard) {
        let now = Instant::now();
        match heard {
            Heard::Up(versions) => {
                if let Some(task) = self.links.get_mut(&link) {
                    task.versions = Some(versions);
                    self.cluster.on_up(link, now);
                }
            }
            Heard::Answer(bytes) => {
                let versions = self.links.get(&link).and_then(|task| task.versions);
                let expected = self.cluster.expected(link);
                let Some((versions, (no, kind))) = versions.zip(expected) else {
                    return self.hang_up(link, "it says something unasked");
                };
                if let Err(error) = self.answer(link, (versions, no, kind), bytes) {
                    self.hang_up(
                        link,
                        &format!("a broker's answer cannot be read: {error:#}"),
                    );
                }
            }
            Heard::Down(why) => {
                self.links.remove(&link);
                self.cluster.on_down(link, &why, now);
            }
        }
        self.obey();
    }

    fn answer(
        &mut self,
        link: LinkNo,
        (versions, no, kind): (Versions, RequestNo, Kind),
        bytes: Bytes,
    ) -> anyhow::Result<()> {
        let now = Instant::now();
        match kind {
            Kind::Produce => {
                let (answers, throttle) = proto::produced(versions, no, bytes)?;
                if !throttle.is_zero() {
                    self.shared.health().throttled = Some(now + throttle + THROTTLED_FOR);
                }
                self.cluster.on_produced(link, &answers, throttle, now);
            }
            Kind::Leaders => {
                let leaders = proto::leaders(versions, no, bytes)?;
                self.cluster.on_leaders(link, &leaders, now);
            }
            Kind::Producer => {
                let producer = proto::producer(versions, no, bytes)?;
                self.cluster.on_producer(link, producer, now);
            }
        }
        Ok(())
    }

    /// Ends a connection that does not do what it should.
    fn hang_up(&mut self, link: LinkNo, why: &str) {
        if let Some(task) = self.links.remove(&link) {
            task.abort.abort();
            self.cluster.on_down(link, why, Instant::now());
        }
    }

    /// Does what the cluster says.
    fn obey(&mut self) {
        while let Some(command) = self.cluster.command() {
            match command {
                Command::Dial { link, addr } => self.dial(link, addr),
                Command::Hangup { link } => {
                    if let Some(task) = self.links.remove(&link) {
                        task.abort.abort();
                    }
                }
                Command::Produce { link, no, parts } => {
                    let loads = parts.into_iter().map(cargo::stamped).collect();
                    self.send(link, |versions| proto::produce(versions, no, loads));
                }
                Command::AskLeaders { link, no, topics } => {
                    self.send(link, |versions| proto::ask_leaders(versions, no, &topics));
                }
                Command::AskProducer { link, no } => {
                    self.send(link, |versions| proto::ask_producer(versions, no));
                }
                Command::Taken { parcel, offset } => parcel.cargo.landed(offset),
                Command::Refused {
                    parcel,
                    meaning,
                    why,
                } => refuse(&parcel, meaning, why),
                Command::Cut { lane, cut, against } => self.cut((lane, cut), &against),
                Command::GiveBack { parcels, why } => {
                    tracing::warn!(destination = %self.shared.name, batches = parcels.len(), why, "batches are to be looked for in their topic");
                    for parcel in parcels {
                        parcel.cargo.failed(&Failure::Unavailable(why.clone()));
                    }
                }
                Command::Trouble(why) => self.trouble(why),
            }
        }
    }

    /// Takes a batch apart that its topic does not take as it is.
    fn cut(&mut self, (lane, cut): (LaneNo, CutNo), against: &Against) {
        let whole = self.cluster.cutting(lane, cut);
        let Some(cargo) = whole.map(|whole| Arc::clone(&whole.cargo)) else {
            return;
        };
        tracing::debug!(destination = %self.shared.name, topic = &*cargo.topic.name, why = against.why, "a batch is taken apart");
        match apart::apart(&cargo, against, (&mut self.decoder, &mut self.merger)) {
            Ok(Apart::Halves(pieces)) => {
                self.cluster.cut((lane, cut), pieces, Instant::now());
            }
            Ok(Apart::Without(rest)) => self.bury((lane, cut), rest),
            Err(failure) => self.refuse((lane, cut), &failure),
        }
    }

    /// Keeps the dead letters of a batch; what is left of it waits for that, and so does what is behind it.
    fn bury(&mut self, at: (LaneNo, CutNo), rest: Rest) {
        let Rest { pieces, dead, of } = rest;
        let (shared, own) = (Arc::clone(&self.shared), self.own.clone());
        self.tasks.spawn_blocking(move || {
            let kept = shared.bury(dead);
            // An engine that is gone has given the batch back.
            if let Some(own) = own.upgrade() {
                drop(own.send(Order::Buried {
                    at,
                    pieces,
                    of,
                    kept,
                }));
            }
        });
    }

    fn buried(
        &mut self,
        (lane, cut): (LaneNo, CutNo),
        pieces: Vec<Parcel<Arc<Cargo>>>,
        of: Vec<(Arc<Flight>, u32)>,
        kept: Result<(), String>,
    ) {
        if self.cluster.cutting(lane, cut).is_none() {
            // It was given back in between, and comes again without its dead records.
            return;
        }
        match kept {
            Ok(()) => {
                self.cluster.cut((lane, cut), pieces, Instant::now());
                for (flight, records) in of {
                    flight.died(records);
                }
            }
            Err(why) => {
                let failure = Failure::Rejected(RefuseReason::Destination, why);
                self.refuse((lane, cut), &failure);
            }
        }
    }

    /// Leaves a batch out that is taken apart, with what is behind it of its streams.
    fn refuse(&mut self, at: (LaneNo, CutNo), failure: &Failure) {
        for out in self.cluster.refuse(at, Instant::now()) {
            out.cargo.failed(failure);
        }
    }

    fn trouble(&self, why: String) {
        tracing::debug!(destination = %self.shared.name, why, "a broker is not as it should be");
        let mut health = self.shared.health();
        health.look = true;
        health.last_error = why;
    }

    fn dial(&mut self, link: LinkNo, addr: String) {
        let (requests, to_write) = mpsc::channel(link::MAX_WAITING);
        let task = link::run(
            link,
            (addr, Arc::clone(&self.security)),
            to_write,
            self.hear.clone(),
        );
        let abort = self.tasks.spawn(task);
        self.links.insert(
            link,
            Task {
                requests,
                abort,
                versions: None,
            },
        );
    }

    /// Gives a connection a request; one that does not take it is ended.
    fn send(&mut self, link: LinkNo, request: impl FnOnce(Versions) -> anyhow::Result<Frame>) {
        let Some(task) = self.links.get(&link) else {
            return;
        };
        let Some(versions) = task.versions else {
            return;
        };
        let sent = request(versions).and_then(|request| Ok(task.requests.try_send(request)?));
        if let Err(error) = sent {
            self.hang_up(link, &format!("a request cannot be sent: {error:#}"));
        }
    }
}

fn refuse(parcel: &Parcel<Arc<Cargo>>, meaning: Meaning, why: String) {
    parcel.cargo.failed(&match meaning {
        Meaning::Refused(reason) => Failure::Rejected(reason, why),
        // Its own answer says only that the one before it is missing.
        _ => behind(),
    });
}
