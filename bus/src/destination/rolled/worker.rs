//! The destination's thread: which batch goes into which file, when a file is complete, what the
//! journal says of it, and who is answered.
//!
//! It never waits for what it writes to: each file is a task of a small runtime (see [`super::upload`]), and the
//! thread hears of its end. Compressing happens here; batches come opened (see [`super::open`]).

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    thread::JoinHandle,
    time::Duration,
};

use anyhow::Context as _;
use crossbeam_channel::{Receiver, Sender, select_biased};
use tokio::{
    runtime::Runtime,
    sync::{mpsc, oneshot},
    task::{Id, JoinSet},
    time::Instant,
};
use tributary_common::{
    header::BatchHeader,
    ids::{Epoch, Name, NodeId},
    wire::Place,
};

use self::chain::{Chain, File, Held, Open, Stage};
use super::{
    RolledConfig, Shared, Waiting,
    encode::Encoder,
    lock,
    manifest::{Batches, Draft},
    mark::Mark,
    names::Names,
    open::{self, Message, Opener, Order},
    points::{Point, pass_in_thread},
    settled::Settled,
    small::{Small, Turn},
    store::Store,
    upload::{Ending, Piece, Upload},
    watch::watch,
};
use crate::{
    destination::{Failure, Job},
    done::DestinationNo,
    journal::{
        Journal,
        format::{Delivered, Record},
        now_minute,
    },
    node::minute_of,
};

/// How often files are looked at.
const TICK: Duration = Duration::from_millis(100);
/// How often, once it is to stop.
const CLOSING_TICK: Duration = Duration::from_millis(5);
/// How long tasks may take to notice that they are to end.
pub(super) const END_LIMIT: Duration = Duration::from_millis(500);
/// A folder whose file failed is tried again after: at first, at most.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// The most open files; the oldest is completed for the next.
const MAX_OPEN: usize = 256;
/// The most batches of a file: each is remembered until it is complete.
const MAX_BATCHES: u64 = 100_000;
/// The most pieces on their way to a file; what may wait fits in.
const MAX_PIECES: usize = 1024;
/// How often that is done.
const FORGET_EVERY: Duration = Duration::from_secs(300);

/// The lines of a batch, or why it cannot be opened.
type Lines = Result<Vec<u8>, Failure>;
/// The files of an earlier life once they are settled: those that are complete, with their batches.
type Recovered = Vec<(u32, Option<Vec<Batches>>)>;

/// A file has come to its end.
struct Ended {
    folder: String,
    no: u32,
    ending: Ending,
}

pub(super) struct Worker {
    name: Name,
    no: DestinationNo,
    node: NodeId,
    life: Epoch,
    config: RolledConfig,
    journal: Journal,
    store: Arc<Store>,
    shared: Arc<Shared>,
    runtime: Runtime,
    inbox: Receiver<Message>,
    recovered: Receiver<Recovered>,
    folders: HashMap<String, Chain>,
    tasks: JoinSet<()>,
    /// The folder and the number of each task's file.
    files: HashMap<Id, (String, u32)>,
    /// What the tasks say at their end.
    ended: (Sender<Ended>, Receiver<Ended>),
    settled: Settled,
    small: Option<Small>,
    /// How long a folder waits after its next failure.
    again: HashMap<String, Duration>,
    opener: Opener,
    closing: Option<Instant>,
}

impl Worker {
    /// Starts the thread.
    ///
    /// # Errors
    /// Settings that make no address; no threads left.
    pub(super) fn start(
        (name, no): (&Name, DestinationNo),
        config: &RolledConfig,
        node: &NodeId,
        journal: &Journal,
        shared: &Arc<Shared>,
    ) -> anyhow::Result<(Sender<Order>, JoinHandle<()>)> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name(format!("files-io-{name}"))
            .enable_all()
            .build()
            .context("failed to start a thread")?;
        let mark = Mark::new((name, no), journal, &config.path);
        let store = Store::new(config, mark, runtime.handle())
            .with_context(|| format!("failed to start destination {name}"))?;
        let life = journal.memory().epoch;
        let opening = open::start(name)?;
        // Says one thing.
        let (settled, recovered) = crossbeam_channel::bounded(1);
        let mut worker = Self {
            name: name.clone(),
            no,
            node: node.clone(),
            life,
            config: config.clone(),
            journal: journal.clone(),
            store: Arc::new(store),
            shared: Arc::clone(shared),
            runtime,
            inbox: opening.inbox,
            recovered,
            folders: HashMap::new(),
            tasks: JoinSet::new(),
            files: HashMap::new(),
            // One for each file.
            ended: crossbeam_channel::unbounded(),
            settled: Settled::default(),
            small: Small::new(config),
            again: HashMap::new(),
            opener: opening.opener,
            closing: None,
        };
        *lock(&shared.absent) = Some("it was not asked yet".to_owned());
        worker.begin_recovery(settled);
        let looking = watch(name.clone(), Arc::clone(&worker.store), Arc::clone(shared));
        worker.tasks.spawn_on(looking, worker.runtime.handle());
        let thread = std::thread::Builder::new()
            .name(format!("files-{name}"))
            .spawn(move || {
                worker.run();
                if opening.thread.join().is_err() {
                    tracing::error!("the thread that opens batches for files panicked");
                }
            })
            .context("failed to start a thread")?;
        Ok((opening.orders, thread))
    }

    fn run(mut self) {
        let mut ticked = Instant::now();
        let mut forgot = Instant::now();
        loop {
            let tick = if self.closing.is_some() {
                CLOSING_TICK
            } else {
                TICK
            };
            // A file's end first: others may wait for it, and the next one's name does.
            select_biased! {
                recv(self.ended.1) -> ended => if let Ok(ended) = ended {
                    self.ended(ended);
                },
                recv(self.recovered) -> files => match files {
                    Ok(files) => self.recovered(files),
                    // It was said.
                    Err(_gone) => self.recovered = crossbeam_channel::never(),
                },
                recv(self.inbox) -> message => match message {
                    Ok(Message::Job(job, waiting, lines)) => self.take((job, waiting), Some(lines)),
                    Ok(Message::Close(until)) => {
                        self.closing = Some(until);
                        self.complete_all();
                    }
                    Err(_gone) => break,
                },
                default(tick) => {}
            }
            if ticked.elapsed() >= TICK || self.closing.is_some() {
                self.tick();
                ticked = Instant::now();
            }
            if forgot.elapsed() >= FORGET_EVERY {
                self.forget();
                self.forget_slow();
                forgot = Instant::now();
            }
            if let Some(until) = self.closing
                && (self.folders.is_empty() || Instant::now() >= until)
            {
                break;
            }
        }
        // What is not complete is settled by the next life. Whoever waits is told so by the drop; by then
        // nothing of this one is asked of the place any more.
        self.runtime.shutdown_timeout(END_LIMIT);
    }

    /// Takes a batch, and its lines where it is opened.
    fn take(&mut self, (job, waiting): (Job, Waiting), lines: Option<Lines>) {
        let id = job.batch.header.id();
        if let Some(found) = self.settled.take(id) {
            return self.note_settled(job, found.file, found.last);
        }
        if self.journal.memory().done.contains(self.no, id) {
            let place = self.place(&job.target, (0, 0));
            return job.done.tell(Ok(place));
        }
        let folder = self.folder_of(&job);
        let why = match self.closing {
            Some(_) => Some("this node is stopping".to_owned()),
            None => self.shared.gone().or_else(|| self.shared.trouble(&folder)),
        };
        if let Some(why) = why {
            return job.done.tell(Err(Failure::Unavailable(why)));
        }
        if let Some(chain) = self.folders.get_mut(&folder)
            && chain.must_wait()
        {
            return chain.behind.push_back((job, waiting));
        }
        self.append(job, lines, &folder);
    }

    /// The folder that a batch goes to: its target, or that of the slow topics.
    fn folder_of(&self, job: &Job) -> String {
        let Some(small) = &self.small else {
            return job.target.clone();
        };
        let mut elsewhere = lock(&self.shared.elsewhere);
        match small.folder(&job.batch.header, minute_of(&job.batch.header)) {
            Some(shared) => {
                if elsewhere.get(&job.target) != Some(&shared) {
                    elsewhere.insert(job.target.clone(), shared.clone());
                }
                shared
            }
            None => {
                elsewhere.remove(&job.target);
                job.target.clone()
            }
        }
    }

    /// A batch has come into a file: says when its topic joins the slow ones, or leaves them.
    fn count(&mut self, header: &BatchHeader) {
        let Some(small) = &mut self.small else { return };
        let (destination, topic) = (&self.name, header.topic.as_str());
        match small.add(header, Instant::now()) {
            Some(Turn::Joins) => {
                tracing::info!(%destination, topic, "the topic writes so little that it goes into files with other slow ones");
            }
            Some(Turn::Leaves) => {
                tracing::info!(%destination, topic, "the topic writes enough for files of its own again");
            }
            None => return,
        }
        *lock(&self.shared.merged) = small.shared();
    }

    fn forget_slow(&mut self) {
        if let Some(small) = &mut self.small {
            small.forget(Instant::now());
            *lock(&self.shared.merged) = small.shared();
            // The next batch of each target says it again.
            lock(&self.shared.elsewhere).clear();
        }
    }

    /// Adds a batch's lines to the file of a folder.
    fn append(&mut self, job: Job, lines: Option<Lines>, folder: &str) {
        let lines = match lines.unwrap_or_else(|| self.opener.lines(&job)) {
            Ok(lines) => lines,
            Err(failure) => return job.done.tell(Err(failure)),
        };
        if self.takes(folder).is_none()
            && let Err(why) = self.open(folder)
        {
            let until = Instant::now() + AGAIN.0;
            self.shared.set_trouble(folder, why.clone(), Some(until));
            return job.done.tell(Err(Failure::Unavailable(why)));
        }
        let Some(file) = self.folders.get_mut(folder).and_then(Chain::open) else {
            return;
        };
        let Some(open) = file.open() else { return };
        let added = open.encoder.add(&lines);
        self.opener.recycle(lines);
        let header = &job.batch.header;
        open.draft.add(header);
        let is_full = open.encoder.stored_bytes() >= self.config.roll.size
            || open.draft.batches() >= MAX_BATCHES;
        let sent = match added {
            Ok(None) => true,
            Ok(Some(piece)) => {
                let waiting = Waiting::new(&self.shared, piece.len());
                open.pieces.try_send(Piece::Bytes(piece, waiting)).is_ok()
            }
            Err(_compressor) => false,
        };
        let bytes = header.raw_bytes + u64::from(header.records);
        let first = file.raw_bytes;
        file.raw_bytes = first.saturating_add_unsigned(bytes);
        file.held.push(Held {
            id: header.id(),
            topic: header.topic.clone(),
            minutes: header.minutes.clone(),
            range: (first, file.raw_bytes),
            done: job.done,
        });
        self.count(&job.batch.header);
        match sent {
            true if is_full => self.complete(folder),
            true => {}
            // Its task has ended, or ends for want of the rest, and says why.
            false => {
                if let Some(file) = self.takes(folder) {
                    file.give_up();
                }
            }
        }
    }

    /// The file of a folder that takes batches.
    fn takes(&mut self, folder: &str) -> Option<&mut File> {
        self.folders.get_mut(folder).and_then(Chain::open)
    }

    /// Opens a file in a folder; the journal knows of it first.
    fn open(&mut self, folder: &str) -> Result<(), String> {
        if self.on_the_way() >= MAX_OPEN {
            let open = self.folders.iter();
            let open = open.filter_map(|(folder, chain)| Some((chain.since()?, folder)));
            if let Some(oldest) = open.min().map(|(_since, folder)| folder.clone()) {
                self.complete(&oldest);
            }
        }
        let encoder = Encoder::new(self.config.compression).map_err(|error| error.to_string())?;
        let names = Names::next(folder, &self.node, self.life, self.config.compression);
        let no = self
            .journal
            .memory()
            .target(self.no, &self.store.full(&names.path()));
        self.journal
            .commit_and_wait(vec![Record::Opened { target: no }])
            .map_err(|error| error.to_string())?;
        let (pieces, incoming) = mpsc::channel(MAX_PIECES);
        let (turn, its_turn) = oneshot::channel();
        let upload = self.upload(names.clone()).run(incoming, its_turn);
        self.spawn(folder, no, upload);
        let open = Open {
            since: Instant::now(),
            encoder,
            draft: Draft::default(),
            pieces,
        };
        let chain = self.folders.entry(folder.to_owned()).or_default();
        chain.push(File {
            no,
            names,
            stage: Stage::Open(Box::new(open)),
            turn: Some(turn),
            held: Vec::new(),
            raw_bytes: 0,
        });
        Ok(())
    }

    /// How many files are on their way.
    fn on_the_way(&self) -> usize {
        self.folders.values().map(Chain::len).sum()
    }

    /// Starts the task of a file.
    fn spawn(
        &mut self,
        folder: &str,
        no: u32,
        task: impl Future<Output = Ending> + Send + 'static,
    ) {
        let file = (folder.to_owned(), no);
        let (ended, (folder, no)) = (self.ended.0.clone(), file.clone());
        let task = async move {
            let ending = task.await;
            // A thread that is gone needs nothing.
            drop(ended.send(Ended { folder, no, ending }));
        };
        let task = self.tasks.spawn_on(task, self.runtime.handle());
        self.files.insert(task.id(), file);
    }

    fn upload(&self, names: Names) -> Upload {
        Upload {
            destination: self.name.clone(),
            store: Arc::clone(&self.store),
            shared: Arc::clone(&self.shared),
            names,
        }
    }

    /// A file takes nothing more, and goes to its end.
    fn complete(&mut self, folder: &str) {
        let Some(file) = self.folders.get_mut(folder).and_then(Chain::open) else {
            return;
        };
        let Stage::Open(open) = std::mem::replace(&mut file.stage, Stage::GivenUp) else {
            return;
        };
        // Without the last piece the task gives up by itself.
        let Ok((last, sum)) = open.encoder.finish() else {
            return;
        };
        let who = (&self.node, &self.name);
        let manifest = open.draft.finish(&file.names.file, sum, who);
        let waiting = Waiting::new(&self.shared, last.len());
        let pieces = [
            Piece::Bytes(last, waiting),
            Piece::Whole(manifest.to_bytes()),
        ];
        for piece in pieces {
            if open.pieces.try_send(piece).is_err() {
                return;
            }
        }
        file.stage = Stage::Whole;
    }

    fn complete_all(&mut self) {
        let folders: Vec<String> = self.folders.keys().cloned().collect();
        for folder in folders {
            self.complete(&folder);
        }
    }

    /// Looks which files are old enough and which have come to their end.
    fn tick(&mut self) {
        while let Some(ended) = self.tasks.try_join_next_with_id() {
            match ended {
                Ok((task, ())) => drop(self.files.remove(&task)),
                Err(error) => self.panicked(error.id()),
            }
        }
        let hurry = self.shared.hurry.swap(false, Ordering::Relaxed);
        let after = if hurry {
            Duration::from_secs(1)
        } else {
            self.config.roll.after
        };
        let old = self.folders.iter().filter(|(_folder, chain)| {
            let since = chain.since();
            since.is_some_and(|since| since.elapsed() >= after)
        });
        let old: Vec<String> = old.map(|(folder, _chain)| folder.clone()).collect();
        for folder in old {
            self.complete(&folder);
        }
        let open = self.on_the_way() as u64;
        self.shared.open.store(open, Ordering::Relaxed);
    }

    /// A task is gone without a word: what became of its file is to be found out.
    fn panicked(&mut self, task: Id) {
        tracing::error!(destination = %self.name, "the task of a file panicked");
        let Some((folder, no)) = self.files.remove(&task) else {
            return;
        };
        let chain = self.folders.get_mut(&folder);
        let Some(file) = chain.and_then(|chain| chain.get_mut(no)) else {
            return;
        };
        file.give_up();
        let names = file.names.clone();
        let upload = self.upload(names);
        let settle = async move {
            upload
                .settle("the task of the file panicked".to_owned())
                .await
        };
        self.spawn(&folder, no, settle);
    }

    /// A file has come to its end.
    fn ended(&mut self, Ended { folder, no, ending }: Ended) {
        let chain = self.folders.get_mut(&folder);
        let Some((before, file)) = chain.and_then(|chain| chain.take(no)) else {
            return;
        };
        let failure = match ending {
            Ending::Complete => self.completed(file).err(),
            Ending::Gone(why) => {
                self.close_target(no);
                metrics::counter!("tributary_bus_files_failed_total", "destination" => self.name.to_string()).increment(1);
                fail(file.held, &why);
                Some(why)
            }
        };
        let Some(chain) = self.folders.get_mut(&folder) else {
            return;
        };
        match failure {
            None => chain.go_on(),
            Some(why) => chain.fail(before, &why),
        }
        self.after_end(&folder);
    }

    /// What a folder is to do now that one of its files has come to its end.
    fn after_end(&mut self, folder: &str) {
        let Some(chain) = self.folders.get_mut(folder) else {
            return;
        };
        match chain.failure() {
            None => {
                if lock(&self.shared.troubles).remove(folder).is_some() {
                    tracing::info!(destination = %self.name, folder, "files can be written again");
                }
                self.again.remove(folder);
            }
            // The others are on their way to their end.
            Some(why) if !chain.is_empty() => {
                self.shared.set_trouble(folder, why.to_owned(), None);
            }
            Some(why) => {
                let again = self.again.entry(folder.to_owned()).or_insert(AGAIN.0);
                let until = Instant::now() + *again;
                *again = (*again * 2).min(AGAIN.1);
                self.shared.set_trouble(folder, why.to_owned(), Some(until));
            }
        }
        let behind = std::mem::take(&mut chain.behind);
        if chain.is_empty() {
            self.folders.remove(folder);
        }
        for (job, waiting) in behind {
            self.take((job, waiting), None);
        }
    }

    /// A file has its name: the journal is told, then whoever waits.
    ///
    /// # Errors
    /// Why the journal was not: the batches come again, and are recognised.
    fn completed(&mut self, file: File) -> Result<(), String> {
        let File {
            no, names, held, ..
        } = file;
        let at = now_minute();
        let mut records: Vec<Record> = held
            .iter()
            .map(|one| {
                Record::Delivered(Delivered {
                    target: no,
                    partition: 0,
                    first: one.range.0,
                    end: one.range.1,
                    batch: one.id,
                    topic: one.topic.clone(),
                    minutes: one.minutes.clone(),
                    at,
                })
            })
            .collect();
        records.push(Record::Closed { target: no });
        if let Err(error) = self.journal.commit_and_wait(records) {
            for one in &held {
                self.settled.add(one.id, no);
            }
            let why = format!("the journal cannot be written: {error}");
            fail(held, &why);
            return Err(why);
        }
        pass_in_thread(Point::Noted);
        self.shared.completed();
        metrics::counter!("tributary_bus_files_total", "destination" => self.name.to_string())
            .increment(1);
        tracing::debug!(destination = %self.name, file = names.path(), batches = held.len(), "a file is complete");
        let path = self.store.full(&names.path());
        for one in held {
            one.done.tell(Ok(self.place(&path, one.range)));
        }
        Ok(())
    }

    fn place(&self, path: &str, (first, end): (i64, i64)) -> Place {
        Place {
            destination: self.name.clone(),
            target: path.to_owned(),
            partition: 0,
            first,
            end,
        }
    }
}

fn fail(held: Vec<Held>, why: &str) {
    for one in held {
        one.done.tell(Err(Failure::Unavailable(why.to_owned())));
    }
}

mod chain;
mod earlier;
