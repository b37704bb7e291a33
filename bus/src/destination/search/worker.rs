//! Makes documents of batches, sends them, and does what the server says of each.
//!
//! A thread of its own with one connection to each node; streams keep their worker, so their order. Not
//! for: whether the cluster is back (see [`super::watch`]).

mod replay;
mod send;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use tokio::time::Instant;
use tributary_common::{batch::Decoder, wire::Place};

use self::send::Sent;
use super::{
    Shared,
    bulk::{Docs, Packer, Pile},
    document::Writer,
    fail,
    link::Links,
};
use crate::{
    dead::{Dead, alone},
    destination::{Job, note_and_tell},
    journal::now_ms,
};

/// How long nothing is waited for without a look around.
const IDLE: Duration = Duration::from_millis(200);
/// The most batches of a group.
const GROUP_BATCHES: usize = 256;

/// What a worker is given.
pub(super) enum Work {
    /// A batch.
    Job(Job),
    /// Dead letters by their numbers.
    Replay(Vec<u64>),
}

pub(super) struct Worker {
    shared: Arc<Shared>,
    number: usize,
    incoming: Receiver<Work>,
    backlog: VecDeque<Job>,
    replays: VecDeque<u64>,
    links: Links,
    writer: Writer,
    /// The memory of the last documents.
    pile: Pile,
    packer: Packer,
    decoder: Decoder,
    rng: fastrand::Rng,
}

impl Worker {
    pub(super) fn new(
        shared: Arc<Shared>,
        number: usize,
        incoming: Receiver<Work>,
    ) -> anyhow::Result<Self> {
        let links = Links::new(shared.stop.clone())?;
        let writer = Writer::new(shared.config.document);
        Ok(Self {
            shared,
            number,
            incoming,
            backlog: VecDeque::new(),
            replays: VecDeque::new(),
            links,
            writer,
            pile: Pile::default(),
            packer: Packer::new(),
            decoder: Decoder::new(),
            rng: fastrand::Rng::new(),
        })
    }

    /// Works until nobody can give anything any more.
    pub(super) fn run(mut self) {
        let mut open = true;
        while open || !self.backlog.is_empty() {
            if self.backlog.is_empty() && self.replays.is_empty() {
                match self.incoming.recv_timeout(IDLE) {
                    Ok(work) => self.take(work),
                    Err(RecvTimeoutError::Timeout) => continue,
                    Err(RecvTimeoutError::Disconnected) => open = false,
                }
            }
            while let Ok(work) = self.incoming.try_recv() {
                self.take(work);
            }
            if self.shared.stop.is_cancelled() {
                return fail(self.backlog.drain(..), "this node is stopping");
            }
            let group = self.group();
            if !group.is_empty() {
                self.deliver(group);
            } else if !self.replays.is_empty() {
                self.replay();
            }
        }
    }

    fn take(&mut self, work: Work) {
        match work {
            Work::Job(job) => self.backlog.push_back(job),
            Work::Replay(numbers) => self.replays.extend(numbers),
        }
    }

    /// Batches of one target that are sent together.
    fn group(&mut self) -> Vec<Job> {
        let Some(target) = self.backlog.front().map(|job| job.target.clone()) else {
            return Vec::new();
        };
        let most = self.shared.config.request as u64 / 2;
        let (mut group, mut bytes) = (Vec::new(), 0);
        let mut others = VecDeque::new();
        while let Some(job) = self.backlog.pop_front() {
            let more = job.batch.header.raw_bytes;
            let fits = group.is_empty() || bytes + more <= most && group.len() < GROUP_BATCHES;
            match job.target == target {
                true if fits => {
                    bytes += more;
                    group.push(job);
                }
                true => {
                    // What is behind it, it too, comes later.
                    others.push_back(job);
                    break;
                }
                false => others.push_back(job),
            }
        }
        others.append(&mut self.backlog);
        self.backlog = others;
        group
    }

    /// Sends a group and answers its batches.
    fn deliver(&mut self, group: Vec<Job>) {
        let target = group.first().map(|job| job.target.clone());
        let target = target.unwrap_or_default();
        if let Some(why) = self.shared.refuses().or_else(|| self.shared.left(&target)) {
            return self.give_up(group, &target, &why);
        }
        let started = Instant::now();
        let (docs, jobs) = self.documents(group, &target);
        let sent = self
            .ready(&target)
            .and_then(|()| self.send(&docs, &target))
            .and_then(|sent| {
                self.bury(&jobs, &docs, &sent)?;
                Ok(sent)
            });
        match sent {
            Ok(sent) => {
                self.count(&sent);
                self.shared.taken(&target);
                self.shared.took.record(started.elapsed().as_secs_f64());
                self.acknowledge(jobs);
            }
            Err(why) => self.give_up(jobs, &target, &why),
        }
        self.pile = docs.recycle();
    }

    /// The documents of a group, and the batches that they are of; one that is no batch is refused.
    fn documents(&mut self, group: Vec<Job>, target: &str) -> (Docs, Vec<Job>) {
        let mut pile = std::mem::take(&mut self.pile);
        let mut jobs = Vec::with_capacity(group.len());
        for job in group {
            let decoded = match job.batch.open(&mut self.decoder) {
                Ok(decoded) => decoded,
                Err(failure) => {
                    job.done.tell(Err(failure));
                    continue;
                }
            };
            self.writer.begin(&job.batch.header, target);
            for (place, record) in (0..).zip(decoded.records()) {
                pile.add((jobs.len(), place), |text| {
                    self.writer.write(text, place, &record);
                });
            }
            self.decoder.recycle(decoded);
            jobs.push(job);
        }
        (pile.done(), jobs)
    }

    fn acknowledge(&self, jobs: Vec<Job>) {
        for job in jobs {
            let target = job.target.clone();
            let no = self.shared.journal.memory().target(self.shared.no, &target);
            let place = Place {
                destination: self.shared.name.clone(),
                target,
                partition: 0,
                first: 0,
                end: i64::from(job.batch.header.records),
            };
            note_and_tell(&self.shared.journal, no, job, place);
        }
    }

    /// Fails batches, and what waits behind them for the same target.
    fn give_up(&mut self, jobs: Vec<Job>, target: &str, why: &str) {
        fail(jobs, why);
        while let Ok(work) = self.incoming.try_recv() {
            self.take(work);
        }
        let all = self.shared.refuses().is_some();
        let waiting = std::mem::take(&mut self.backlog).into_iter();
        let (failed, others): (VecDeque<Job>, VecDeque<Job>) =
            waiting.partition(|job| all || job.target == target);
        self.backlog = others;
        fail(failed, why);
    }

    /// Keeps what will never be taken.
    fn bury(&mut self, jobs: &[Job], docs: &Docs, sent: &Sent) -> Result<(), String> {
        if sent.dead.is_empty() {
            return Ok(());
        }
        let mut by_job: BTreeMap<usize, HashMap<u32, (u16, &str)>> = BTreeMap::new();
        for (no, status, reason) in &sent.dead {
            if let Some(at) = docs.at.get(*no) {
                let places = by_job.entry(at.job).or_default();
                places.insert(at.place, (*status, reason.as_str()));
            }
        }
        let mut letters = Vec::with_capacity(sent.dead.len());
        for (job, places) in by_job {
            let Some(job) = jobs.get(job) else { continue };
            let opened = job.batch.open(&mut self.decoder);
            // It was opened before.
            let decoded = opened.map_err(|failure| format!("{failure:?}"))?;
            for (place, record) in (0..).zip(decoded.records()) {
                let Some(&(status, reason)) = places.get(&place) else {
                    continue;
                };
                letters.push(Dead {
                    header: Arc::clone(&job.batch.header),
                    at: place,
                    target: job.target.clone(),
                    payload: alone(&job.batch.header, &record)
                        .map_err(|error| error.to_string())?,
                    status,
                    reason: reason.to_owned(),
                });
            }
            self.decoder.recycle(decoded);
        }
        let name = &self.shared.name;
        let target = jobs.first().map_or("", |job| job.target.as_str());
        match self.shared.letters.keep(letters, now_ms()) {
            Ok(0) => Ok(()),
            Ok(new) => {
                metrics::counter!("tributary_bus_dead_records_total", "destination" => name.to_string())
                    .increment(new as u64);
                let why = sent.dead.first().map_or("", |(_, _, why)| why.as_str());
                tracing::warn!(destination = %name, target, dead_records = new, "records were put to the dead letters: {why}");
                Ok(())
            }
            Err(error) => {
                let why = format!("{error:#}");
                self.shared.leave(target, &why);
                Err(why)
            }
        }
    }

    fn count(&self, sent: &Sent) {
        let count = |reason: &'static str, records: u64| {
            let name = self.shared.name.to_string();
            metrics::counter!("tributary_bus_documents_records_total", "destination" => name, "reason" => reason)
                .increment(records);
        };
        count("created", sent.created);
        count("known", sent.known);
        count("dead", sent.dead.len() as u64);
    }
}
