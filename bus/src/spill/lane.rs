//! The way of a batch to one destination: live, or over the disk.
//!
//! One lock guards the [`Queue`]; a batch is given to the destination under it, so that nothing goes
//! behind a batch whose failure is being told. Whoever tells an answer of a batch from within that
//! (a destination that is closed) is heard when the lock is free again. Who waits for a batch is
//! always told without the lock.
//!
//! Not for: which batch goes where (see [`super::queue`]).

use std::{
    cell::RefCell,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel},
    },
    thread::JoinHandle,
};

use anyhow::Context as _;
use tokio::time::Instant;
use tributary_common::{
    header::BatchHeader,
    ids::{BatchId, Name},
    wire::Place as Delivered,
};

use super::{
    beside::Beside,
    drain::Drain,
    queue::{Entry, Place, Queue, Stored, Verdict},
    store::{Lost, Opened, Store},
    usage::Usage,
    writer::{Command, Write, Writer, Written},
};
use crate::{
    budget::{Held, cost},
    destination::{Accepted, Destination, Done, Failure, Job, Outcome},
    journal::Journal,
    node::Node,
};

/// Where a batch has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Settled {
    /// The destination has it.
    At(Delivered),
    /// The node's disk has it.
    Spilled,
}

/// Who is told once where a batch has come to.
pub(crate) type Landing = Box<dyn FnOnce(Result<Settled, Failure>) + Send>;

/// What is kept with a batch that is not delivered.
#[derive(Default)]
pub(super) struct Kept {
    /// Its bytes, until they are on the disk.
    pub(super) batch: Option<Arc<Accepted>>,
    /// Who waits; nobody any more once it is spilled.
    pub(super) landing: Option<Landing>,
}

impl Kept {
    /// What was kept, with nothing left here.
    fn given_back(&mut self) -> Self {
        Self {
            batch: self.batch.take(),
            landing: self.landing.take(),
        }
    }
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept").finish_non_exhaustive()
    }
}

/// How a batch comes to its destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Live,
    OverDisk,
}

/// A batch that the destination has answered.
struct Answered {
    header: Arc<BatchHeader>,
    outcome: Outcome,
}

thread_local! {
    /// While this thread gives a batch to a destination: the answers that came from within.
    static WITHIN: RefCell<Option<Vec<Answered>>> = const { RefCell::new(None) };
}

/// What is to be done once the lock is free.
#[derive(Default)]
struct After {
    write: Vec<(BatchId, Arc<str>, u64, Arc<Accepted>)>,
    tell: Vec<(Landing, Result<Settled, Failure>)>,
    answers: Vec<Answered>,
    drained: Vec<(Place, Option<Arc<BatchHeader>>)>,
    /// Something is on the disk: the drain may go on.
    wake: bool,
}

/// What has passed through in this life, for the drain's pace and for people.
#[derive(Debug, Default)]
pub(super) struct Passed {
    pub(super) spilled_batches: AtomicU64,
    pub(super) drained_batches: AtomicU64,
    pub(super) drained_bytes: AtomicU64,
    pub(super) lost_batches: AtomicU64,
}

/// The spill of one destination.
pub(crate) struct Spill {
    pub(super) name: Name,
    pub(super) destination: Arc<Destination>,
    pub(super) store: Arc<Store>,
    pub(super) passed: Passed,
    pub(super) node: OnceLock<Weak<Node>>,
    /// The drain's state in words, for `/status`.
    pub(super) progress: Mutex<super::drain::Progress>,
    /// How fast the drain may go beside what comes live.
    pub(super) beside: Mutex<Beside>,
    /// What the destination holds of the node's memory.
    held: Held,
    queue: Mutex<Queue<Kept>>,
    /// What the opening found to be lost, with the segments, until it is told.
    pub(super) lost: Mutex<Vec<Lost>>,
    writes: Sender<Command>,
    pub(super) to_write: Mutex<Option<Receiver<Command>>>,
    wake: SyncSender<()>,
    pub(super) woken: Mutex<Option<Receiver<()>>>,
    stopped: AtomicBool,
    writer: Mutex<Option<JoinHandle<()>>>,
    drain: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for Spill {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spill")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Spill {
    /// Opens the spill of a destination. Nothing moves before [`Spill::start`].
    ///
    /// # Errors
    /// A disk that does not answer, a segment of another version: do not start.
    pub(crate) fn open(
        dir: &Path,
        usage: &Arc<Usage>,
        (name, destination): (&Name, Arc<Destination>),
        journal: &Journal,
    ) -> anyhow::Result<(Arc<Self>, Opened, Vec<BatchId>)> {
        let mut queue = match destination.late() {
            Some(_) => Queue::disk_first(),
            None => Queue::default(),
        };
        let (no, mut found) = (destination.no(), Vec::new());
        let (store, mut opened) =
            Store::open(&dir.join(name.as_str()), usage, |place, waiting| {
                let batch = waiting.batch;
                // What was drained is in the journal before it leaves the disk.
                if journal.memory().done.contains(no, batch) {
                    return false;
                }
                let class = (waiting.class, waiting.order);
                let new = queue.recovered(batch, &waiting.target, class, place);
                if new {
                    found.push(batch);
                }
                new
            })?;
        // What is drained, or was written once more, is not lost with its record.
        let memory = journal.memory();
        opened.lost.retain(|lost| {
            let id = lost.header.id();
            let is_lost = !memory.done.contains(no, id) && !queue.holds(id);
            if is_lost {
                store.until_told(lost.segment, id);
            }
            is_lost
        });
        drop(memory);
        let (writes, to_write) = channel();
        let (wake, woken) = sync_channel(1);
        let spill = Arc::new(Self {
            name: name.clone(),
            destination,
            store: Arc::new(store),
            passed: Passed::default(),
            node: OnceLock::new(),
            progress: Mutex::default(),
            beside: Mutex::new(Beside::new(Instant::now())),
            held: Held::default(),
            queue: Mutex::new(queue),
            lost: Mutex::new(std::mem::take(&mut opened.lost)),
            writes,
            to_write: Mutex::new(Some(to_write)),
            wake,
            woken: Mutex::new(Some(woken)),
            stopped: AtomicBool::new(false),
            writer: Mutex::default(),
            drain: Mutex::default(),
        });
        Ok((spill, opened, found))
    }

    /// Starts the threads: now batches can be taken. What the opening found to be lost is told.
    ///
    /// # Errors
    /// When there are no threads left.
    pub(crate) fn start(self: &Arc<Self>, node: &Arc<Node>) -> anyhow::Result<()> {
        drop(self.node.set(Arc::downgrade(node)));
        self.tell_what_opening_found();
        let to_write = once(&self.to_write)?;
        let woken = once(&self.woken)?;
        let (writer, told) = (Writer::new(Arc::clone(&self.store)), Arc::clone(self));
        let makes = Arc::clone(self);
        let write = move || {
            let told = |written| told.written(written);
            writer.run(&to_write, told, || makes.drop_oldest());
        };
        keep(&self.writer, self.thread("write", Box::new(write))?);
        let drain = Drain::new(Arc::clone(self), woken);
        keep(
            &self.drain,
            self.thread("drain", Box::new(move || drain.run()))?,
        );
        // What an earlier life left is not waited for.
        self.wake();
        Ok(())
    }

    fn thread(&self, role: &str, work: Box<dyn FnOnce() + Send>) -> anyhow::Result<JoinHandle<()>> {
        let thread = std::thread::Builder::new().name(format!("spill-{role}-{}", self.name));
        thread.spawn(work).context("failed to start a thread")
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Queue<Kept>> {
        // The queue's changes are whole, also in a panic elsewhere.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn beside(&self) -> MutexGuard<'_, Beside> {
        self.beside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the batch is on the disk: a repeat of it is acknowledged.
    pub(crate) fn holds(&self, batch: BatchId) -> bool {
        self.lock().holds(batch)
    }

    /// Why a batch would not be taken now; asked before its payload is read.
    pub(crate) fn busy(&self, batch: BatchId, down: bool) -> Option<String> {
        let verdict = self.lock().would(batch, down);
        match verdict {
            Verdict::Live => None,
            Verdict::Wait(()) => Some("the stream's spill is about to be drained".to_owned()),
            Verdict::Spill => self.store.usage().admits().err(),
        }
    }

    /// Whether a batch would go to the disk now.
    pub(crate) fn takes_over_disk(&self, batch: BatchId, down: bool) -> bool {
        matches!(self.lock().would(batch, down), Verdict::Spill)
    }

    /// What the destination holds of the node's memory.
    pub(crate) fn held(&self) -> &Held {
        &self.held
    }

    /// Whether the disk has room.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn room(&self) -> Result<(), String> {
        self.store.usage().admits()
    }

    /// Takes a batch; `landing` is told once where it has come to.
    pub(crate) fn take(self: &Arc<Self>, batch: Arc<Accepted>, target: String, landing: Landing) {
        let down = self.destination.down(&target).is_some();
        let target: Arc<str> = target.into();
        let (id, class) = (batch.header.id(), batch.header.class);
        let kept = Kept {
            batch: Some(Arc::clone(&batch)),
            landing: Some(landing),
        };
        let mut after = After::default();
        if !down {
            self.destination.prepare(&batch);
        }
        {
            let mut queue = self.lock();
            self.see(&mut queue, &target, down, &mut after);
            match queue.arrive(id, &target, class, kept) {
                Verdict::Live => self.fly(batch, &target, Way::Live, &mut after),
                Verdict::Spill => Self::want_write(&mut queue, id, &target, &mut after),
                Verdict::Wait(kept) => {
                    let why = "the stream's spill is about to be drained".to_owned();
                    after.fail(kept, Failure::Unavailable(why));
                }
            }
        }
        self.finish(after);
    }

    /// A target is up or down: what is on its way to one that went down is to be written.
    fn see(&self, queue: &mut Queue<Kept>, target: &Arc<str>, down: bool, after: &mut After) {
        for batch in queue.set_down(target, down) {
            Self::want_write(queue, batch, target, after);
        }
    }

    /// Looks at the targets that something waits for, and writes what is on its way to those that
    /// are down.
    pub(super) fn look(self: &Arc<Self>) {
        let mut after = After::default();
        {
            let mut queue = self.lock();
            for (batch, target) in queue.retry() {
                Self::want_write(&mut queue, batch, &target, &mut after);
            }
        }
        self.finish(after);
        let mut targets: Vec<Arc<str>> = {
            let queue = self.lock();
            queue
                .modes()
                .map(|(target, ..)| Arc::clone(target))
                .collect()
        };
        targets.sort_unstable();
        for target in targets {
            let down = self.destination.down(&target).is_some();
            let mut after = After::default();
            {
                let mut queue = self.lock();
                self.see(&mut queue, &target, down, &mut after);
                if down && !self.is_stopped() {
                    // What could not be written before is tried again.
                    for batch in queue.rescue(&target) {
                        Self::want_write(&mut queue, batch, &target, &mut after);
                    }
                }
            }
            self.finish(after);
        }
    }

    fn want_write(queue: &mut Queue<Kept>, id: BatchId, target: &Arc<str>, after: &mut After) {
        let order = queue.order_of(id).unwrap_or_default();
        if let Some(batch) = queue.data(id).and_then(|kept| kept.batch.clone()) {
            after.write.push((id, Arc::clone(target), order, batch));
        }
    }

    /// Gives a batch to the destination. Under the lock.
    fn fly(self: &Arc<Self>, batch: Arc<Accepted>, target: &Arc<str>, way: Way, after: &mut After) {
        let (spill, header) = (Arc::clone(self), Arc::clone(&batch.header));
        let minded = way == Way::Live && Beside::minds(header.class);
        let since = minded.then(Instant::now);
        // One that answers with whole files keeps the answer, not the batch.
        let holds = self.destination.late().is_none();
        let held = holds.then(|| self.held.count(cost(&header, batch.payload.len())));
        let done = Done::new(move |outcome| {
            drop(held);
            if let (Some(since), Ok(_place)) = (since, &outcome) {
                spill.beside().delivered(since.elapsed(), Instant::now());
            }
            let answered = Answered { header, outcome };
            let outside = WITHIN.with_borrow_mut(|within| match within {
                Some(answers) => {
                    answers.push(answered);
                    None
                }
                None => Some(answered),
            });
            if let Some(answered) = outside {
                let answers = vec![answered];
                spill.finish(After {
                    answers,
                    ..After::default()
                });
            }
        });
        WITHIN.set(Some(Vec::new()));
        self.destination.deliver(Job {
            batch,
            target: target.to_string(),
            replay: None,
            done,
        });
        after.answers.extend(WITHIN.take().unwrap_or_default());
    }

    /// Gives a batch from the disk to the destination, unless one before it failed meanwhile.
    pub(super) fn give(self: &Arc<Self>, batch: Arc<Accepted>, target: &Arc<str>) -> bool {
        let id = batch.header.id();
        let mut after = After::default();
        self.destination.prepare(&batch);
        let flies = {
            let mut queue = self.lock();
            let flies = queue.may_fly(id);
            match flies {
                true => self.fly(batch, target, Way::OverDisk, &mut after),
                false => queue.put_back(id),
            }
            flies
        };
        self.finish(after);
        flies
    }

    /// Does what the lock had to be free for.
    fn finish(self: &Arc<Self>, mut after: After) {
        loop {
            for (id, target, order, batch) in std::mem::take(&mut after.write) {
                let write = Command::Write(Write {
                    order,
                    target,
                    batch,
                });
                if self.is_stopped() || self.writes.send(write).is_err() {
                    let why = "this node is stopping".to_owned();
                    self.not_written(id, why, &mut after);
                }
            }
            for (landing, told) in std::mem::take(&mut after.tell) {
                landing(told);
            }
            for (place, header) in std::mem::take(&mut after.drained) {
                self.store.drained(place);
                if let Some(header) = header {
                    self.drained(&header, place);
                }
            }
            let answers = std::mem::take(&mut after.answers);
            for answered in answers {
                self.answered(answered, &mut after);
            }
            if after.is_empty() {
                if after.wake {
                    self.wake();
                }
                return;
            }
        }
    }

    /// The destination has answered a batch.
    fn answered(self: &Arc<Self>, answered: Answered, after: &mut After) {
        let Answered { header, outcome } = answered;
        let id = header.id();
        let mut queue = self.lock();
        match outcome {
            Ok(place) => {
                let Some(entry) = queue.remove(id) else {
                    return;
                };
                after.wake |= queue.backlog().batches > 0;
                drop(queue);
                let (stored, kept) = parts(entry);
                let told = kept.landing.is_none();
                if let Some(landing) = kept.landing {
                    after.tell.push((landing, Ok(Settled::At(place))));
                }
                if let Stored::At(place) = stored {
                    after.drained.push((place, told.then_some(header)));
                }
            }
            Err(Failure::Rejected(reason, detail)) => {
                after.wake = true;
                let told = queue
                    .entry(id)
                    .is_some_and(|entry| entry.data.landing.is_none());
                if !told {
                    let Some(entry) = queue.remove(id) else {
                        return;
                    };
                    let (stored, kept) = parts(entry);
                    if let Stored::At(place) = stored {
                        after.drained.push((place, None));
                    }
                    return after.fail(kept, Failure::Rejected(reason, detail));
                }
                queue.failed(id);
                queue.stick(id.stream);
                drop(queue);
                tracing::error!(
                    destination = %self.name,
                    batch.id = %id,
                    batch.file = header.file,
                    reason = reason.as_str(),
                    "the destination refuses a spilled batch; its stream stays on the disk and is tried again: {detail}"
                );
            }
            Err(Failure::Unavailable(why)) => {
                after.wake = true;
                let closing = self.is_stopped();
                let told = queue
                    .entry(id)
                    .is_some_and(|entry| entry.data.landing.is_none());
                if closing && !told {
                    // Nobody is there to be told any more: it comes again, here or elsewhere.
                    let Some(entry) = queue.remove(id) else {
                        return;
                    };
                    let (stored, kept) = parts(entry);
                    if let Stored::At(place) = stored {
                        after.drained.push((place, None));
                    }
                    return after.fail(kept, Failure::Unavailable(why));
                }
                if queue.failed(id) {
                    let target = queue.target_of(id);
                    Self::want_write(&mut queue, id, &target, after);
                }
            }
        }
    }

    /// The writer has done with batches.
    pub(super) fn written(self: &Arc<Self>, written: Vec<Written>) {
        let mut after = After {
            wake: true,
            ..After::default()
        };
        for (id, result) in written {
            match result {
                Ok(place) => self.one_written(id, place, &mut after),
                Err(why) => self.not_written(id, why, &mut after),
            }
        }
        self.finish(after);
    }

    fn one_written(&self, id: BatchId, place: Place, after: &mut After) {
        let mut queue = self.lock();
        if let Some(kept) = queue.stored(id, place) {
            if let Some(landing) = kept.landing {
                after.tell.push((landing, Ok(Settled::Spilled)));
            }
            self.passed.spilled_batches.fetch_add(1, Ordering::Relaxed);
            return;
        }
        after.drained.push((place, None));
        if queue.is_doomed(id)
            && let Some(entry) = queue.remove(id)
        {
            let why = "an earlier batch of this stream could not be spilled".to_owned();
            after.fail(entry.data, Failure::Unavailable(why));
        }
    }

    fn not_written(&self, id: BatchId, why: String, after: &mut After) {
        let mut queue = self.lock();
        let out = match queue.not_stored(id) {
            Some(entry) => Some(entry.data),
            // It is tried again, and after the end by nobody.
            None if self.is_stopped() && !queue.entry(id).is_some_and(Entry::is_flying) => {
                queue.data(id).map(Kept::given_back)
            }
            None => None,
        };
        drop(queue);
        if let Some(kept) = out {
            after.fail(kept, Failure::Unavailable(why));
        }
    }

    /// A batch that was spilled is delivered.
    fn drained(&self, header: &BatchHeader, place: Place) {
        self.passed.drained_batches.fetch_add(1, Ordering::Relaxed);
        let bytes = u64::from(place.bytes);
        self.passed
            .drained_bytes
            .fetch_add(bytes, Ordering::Relaxed);
        metrics::counter!("tributary_bus_drained_records_total", "destination" => self.name.to_string())
            .increment(u64::from(header.records));
        if let Some(node) = self.node.get().and_then(Weak::upgrade) {
            node.drained(header);
        }
    }

    /// Something may be drained.
    fn wake(&self) {
        match self.wake.try_send(()) {
            // One word is enough.
            Ok(()) | Err(TrySendError::Full(()) | TrySendError::Disconnected(())) => {}
        }
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Nothing more is drained. Before the destination is closed. Blocks shortly.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.wake();
        self.join(&self.drain);
    }

    /// The last word, after the destination was closed: what is drained is noted. Blocks.
    pub(crate) fn close(&self) {
        // A thread that is gone has panicked; its join says so.
        drop(self.writes.send(Command::Close));
        self.join(&self.writer);
    }

    /// Whether nothing waits here, neither on the disk nor on its way.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// After [`Spill::close`], where the node goes on: whoever still waits for a batch is told to come
    /// again, and what is on the disk is counted by who opens it next.
    pub(crate) fn give_back(self: &Arc<Self>) {
        let mut after = After::default();
        for kept in self.lock().all() {
            let why = "the destination's settings change".to_owned();
            after.fail(kept.given_back(), Failure::Unavailable(why));
        }
        self.finish(after);
        self.store.leave();
    }

    fn join(&self, thread: &Mutex<Option<JoinHandle<()>>>) {
        let thread = thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!(destination = %self.name, "a thread of the spill panicked");
        }
    }
}

/// The end of a channel that a thread takes.
pub(super) fn once<T>(place: &Mutex<Option<T>>) -> anyhow::Result<T> {
    let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
    place.take().context("the spill was started before")
}

fn keep(place: &Mutex<Option<JoinHandle<()>>>, thread: JoinHandle<()>) {
    *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
}

impl After {
    fn fail(&mut self, kept: Kept, failure: Failure) {
        if let Some(landing) = kept.landing {
            self.tell.push((landing, Err(failure)));
        }
    }

    fn is_empty(&self) -> bool {
        self.write.is_empty()
            && self.tell.is_empty()
            && self.answers.is_empty()
            && self.drained.is_empty()
    }
}

fn parts(entry: Entry<Kept>) -> (Stored, Kept) {
    (entry.stored, entry.data)
}
