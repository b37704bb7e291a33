//! Reads all files on one thread: whose turn it is, and the turn itself.
//!
//! Classes go by urgency with a floor each, tasks and streams in turns of one block ([`Turns`]). A
//! stream whose topic stands still, or for which there is no memory, waits without holding up the
//! others; that its file was cut off is still noticed. Encoding happens in the same turn, while the block is
//! in the cache: there is one block for the whole agent, and no queue of raw bytes.
//!
//! Not for: finding files (see [`crate::discover`]), sending (see [`crate::send`]). Started by
//! [`crate::run`].

mod apply;
mod between;
mod copies;
mod cut;
mod files;
mod follow;
mod holes;
mod hunt;
mod join;
mod links;
mod make;
mod near;
mod newcomers;
mod opened;
mod pace;
mod packed;
mod run;
mod spooling;
mod stop;
mod turn;
mod windows;

use std::{
    collections::{BTreeSet, HashMap},
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::Duration,
};

use tokio::{sync::mpsc, time::Instant};
use tributary_common::{
    batch::{Codec, Encoder, TARGET_BYTES},
    heap,
    ids::{AgentId, Class, Epoch, GenerationId, StreamId, Topic},
};

pub(crate) use self::spooling::SpoolWiring;
use self::{
    copies::Sought,
    files::{Ended, NotTailed},
    hunt::Folders,
    links::Links,
    make::{Made, Maker},
    newcomers::Undecided,
    opened::{OnClock, Opened},
    pace::Pace,
    spooling::Spooling,
};
use crate::{
    checkpoint::{Checkpoint, as_gauge},
    close::Closer,
    config::{Limits, Task},
    content::Content,
    discover::Event,
    flow::Flow,
    handle::FileKey,
    host,
    identify::{Mark, Prefix},
    limit::{Allowed, Brake, Bucket, Budget, Reason, Restraint, Share},
    path::LogPath,
    recipe::{Compiled, Recipe},
    send::Outgoing,
    status::{Bad, Counters, Rate, Status, TaskFigures, TaskView},
    tail::Tail,
    turns::{Pick, Turns},
};

/// Bytes read in one turn: what a batch is aimed at.
pub(crate) const BLOCK_BYTES: usize = TARGET_BYTES;
/// What a turn counts beside the bytes that it read.
const LOOK_BYTES: u64 = 512;
/// How often figures are published.
const FIGURES_EVERY: Duration = Duration::from_secs(1);
/// Freed memory is given back to the host when the start is over, and then this often at most.
const FIRST_TRIM_AFTER: Duration = Duration::from_secs(3);
const TRIM_EVERY: Duration = Duration::from_secs(10);
/// Counting files rests so many times what it took.
const COUNT_REST: u32 = 100;

/// What the reader needs from the rest.
#[derive(Debug)]
pub(crate) struct Wiring {
    /// Who this is.
    pub(crate) agent: AgentId,
    /// This life.
    pub(crate) epoch: Epoch,
    /// What happened and happens.
    pub(crate) checkpoint: Arc<Checkpoint>,
    /// Memory.
    pub(crate) budget: Arc<Budget>,
    /// What deleted files hold.
    pub(crate) spool: SpoolWiring,
    /// From discovery. A channel of the standard library: waiting at one of crossbeam yields its
    /// core up to eight times first, and on a busy host each time costs a turn of everybody else.
    pub(crate) events: Receiver<Event>,
    /// Who closes deleted files.
    pub(crate) closer: Closer,
    /// To the sender. Its bound is bytes, by the permits; the count never fills it.
    pub(crate) outgoing: mpsc::Sender<Vec<Outgoing>>,
    /// Files whose hints are not wanted.
    pub(crate) flow: Arc<Flow>,
    /// For people.
    pub(crate) status: Arc<Status>,
    /// What it may use.
    pub(crate) limits: Limits,
}

/// One task on this agent.
#[derive(Debug)]
pub(crate) struct Channel {
    /// Its settings.
    pub(crate) task: Task,
    /// What its streams are numbered by: its name, or the first one that it had.
    seed: Arc<str>,
    /// The number of its recipe in the checkpoint.
    recipe_no: u32,
    /// Its topic's part of the memory; none when it needs no more.
    pub(crate) share: Option<Arc<Share>>,
    /// Its ceiling.
    bucket: Option<Bucket>,
    /// Its files were never looked for before this life.
    fresh: bool,
    /// It is not in the list of tasks any more.
    removed: bool,
    /// Whole looks for its files so far, since they were looked for where they are now.
    looks: u64,
    /// Its rates.
    rate: Rate,
    /// What people see.
    figures: TaskFigures,
    /// What machines see.
    counters: Counters,
}

impl Channel {
    /// A channel for a task that was `fresh`, never looked for before; `seed` numbers its streams.
    pub(crate) fn new(task: Task, share: Arc<Share>, fresh: bool, seed: Arc<str>) -> Self {
        let bucket = task.rate.map(|rate| Bucket::new(rate, Instant::now()));
        let counters = Counters::of_topic(&task.topic);
        Self {
            task,
            seed,
            recipe_no: 0,
            share: Some(share),
            bucket,
            fresh,
            removed: false,
            looks: 0,
            rate: Rate::default(),
            figures: TaskFigures::default(),
            counters,
        }
    }
}

impl Channel {
    /// A channel of a task that is not in the list any more, and left batches to be sent again.
    pub(crate) fn left(task: Task, share: Arc<Share>, seed: Arc<str>) -> Self {
        Self {
            removed: true,
            ..Self::new(task, share, false, seed)
        }
    }

    /// Goes on with other settings of the same task, which may have another name.
    fn change(&mut self, task: Task, share: Arc<Share>) {
        if task.rate != self.task.rate {
            self.bucket = task.rate.map(|rate| Bucket::new(rate, Instant::now()));
        }
        if task.topic != self.task.topic {
            self.counters.behind(0);
            self.counters = Counters::of_topic(&task.topic);
        }
        self.share = Some(share);
        self.task = task;
    }

    /// Takes note of what was read.
    fn count_read(&mut self, bytes: u64, made: &Made) {
        let framed = &made.framed;
        self.figures.read_bytes += bytes;
        self.figures.read_records += u64::from(framed.records);
        self.counters.read(bytes, framed.records);
        self.figures.odd.add(made.odd);
        self.counters.odd(made.odd);
        for (bad, times) in made.odd.bad() {
            self.count_bad(bad, times);
        }
    }

    /// Takes note of what a writer should not have done.
    fn count_bad(&mut self, bad: Bad, times: u64) {
        if times > 0 {
            *self.figures.mishaps.bad.entry(bad).or_default() += times;
            self.counters.bad(bad, times);
        }
    }
}

/// When a stream is served next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// When something happens to it.
    Idle,
    /// In its turn.
    Ready,
    /// At this time.
    At(Instant),
    /// When memory comes back.
    Blocked,
}

/// One log file of one channel, with its generations.
#[derive(Debug)]
struct Stream {
    id: StreamId,
    /// The path that named it first.
    path: LogPath,
    channel: usize,
    /// Oldest first.
    tails: Vec<Tail>,
    /// Of the next batch.
    seq: u64,
    next: Next,
    on_clock: OnClock,
    pace: Pace,
}

/// A generation that was cut off a moment ago: a copy of it may turn up.
#[derive(Debug)]
struct CutOff {
    channel: usize,
    stream: usize,
    generation: GenerationId,
    prefix: Prefix,
    /// Ascending.
    marks: Vec<Mark>,
    since: Instant,
}

/// When figures are published next.
#[derive(Debug)]
struct NextFigures {
    at: Instant,
    /// Something happened since the last time.
    stirred: bool,
    /// Something happened since memory was given back; when that may be done again.
    untrimmed: bool,
    trim_at: Instant,
}

/// The thread's state.
#[derive(Debug)]
pub(crate) struct Reader {
    wiring: Wiring,
    channels: Vec<Channel>,
    /// Recipes of cuts of earlier lives, by number; `None` for one that this build cannot follow.
    recipes: HashMap<u32, Option<Arc<Compiled>>>,
    streams: Vec<Stream>,
    by_id: HashMap<StreamId, usize>,
    /// Which generation each path of each channel names.
    by_path: HashMap<LogPath, Vec<(usize, usize, GenerationId)>>,
    links: Links,
    /// Which generation a physical file is, per channel.
    by_key: HashMap<(usize, FileKey), (usize, GenerationId)>,
    /// Generations that were given up, should they come back.
    ended: HashMap<(usize, FileKey), Ended>,
    /// Streams that had a file in a folder, by what rotation keeps of its name.
    by_folder: HashMap<(usize, PathBuf), HashMap<Vec<u8>, BTreeSet<usize>>>,
    /// Generations whose file turned up shorter than what was read of it.
    shorter: Vec<(usize, GenerationId)>,
    /// What is in folders where a file is looked for, while a look is worked on.
    folders: Folders,
    cut_off: Vec<CutOff>,
    /// Generations whose copy may be where nobody can look.
    sought: Vec<Sought>,
    undecided: Vec<Undecided>,
    /// Compressed files that nobody knows.
    packed: Vec<packed::Unknown>,
    spooling: Spooling,
    not_tailed: HashMap<(usize, PathBuf), NotTailed>,
    /// Streams that are ready, by their channels.
    ready: Turns<usize, usize>,
    /// The CPU limit.
    cpu: Arc<Brake>,
    /// Source bytes that the turn read so far.
    turn_bytes: u64,
    timers: BTreeSet<(Instant, usize)>,
    blocked: Vec<usize>,
    /// Since when something of a class waits for memory.
    blocked_since: [Option<Instant>; 4],
    /// Batches that go to the sender together: it wakes once for them.
    handing: Vec<Outgoing>,
    /// Bytes of their payloads.
    handing_bytes: usize,
    /// The block: the bytes that a mark covers, then new ones.
    block: Vec<u8>,
    maker: Maker,
    opened: Opened,
    stopping: bool,
    /// When it began: streams that flow are looked at so many lingers after that.
    began: Instant,
    /// Some file may be awaited.
    any_awaited: bool,
    /// Files were looked for, or some are known from earlier: newcomers may be copies of any of them.
    any_known: bool,
    next_figures: NextFigures,
}

impl Reader {
    /// A reader that goes on where the checkpoint says.
    pub(crate) fn new(wiring: Wiring, channels: Vec<Channel>) -> Self {
        let opened = Opened::new(host::open_files(wiring.limits.open_files));
        let cpu = Brake::new(wiring.limits.cpu);
        let mut reader = Self {
            wiring,
            channels,
            recipes: HashMap::new(),
            streams: Vec::new(),
            by_id: HashMap::new(),
            by_path: HashMap::new(),
            links: Links::default(),
            by_key: HashMap::new(),
            ended: HashMap::new(),
            by_folder: HashMap::new(),
            shorter: Vec::new(),
            folders: Folders::default(),
            cut_off: Vec::new(),
            sought: Vec::new(),
            undecided: Vec::new(),
            packed: Vec::new(),
            spooling: Spooling::default(),
            not_tailed: HashMap::new(),
            ready: Turns::new(BLOCK_BYTES as u64),
            cpu,
            turn_bytes: 0,
            timers: BTreeSet::new(),
            blocked: Vec::new(),
            blocked_since: [None; 4],
            handing: Vec::new(),
            handing_bytes: 0,
            block: vec![0; BLOCK_BYTES + 512],
            maker: Maker::new(Encoder::new(Codec::Zstd)),
            opened,
            stopping: false,
            began: Instant::now(),
            any_awaited: true,
            any_known: false,
            next_figures: NextFigures {
                at: Instant::now(),
                stirred: true,
                untrimmed: true,
                trim_at: Instant::now() + FIRST_TRIM_AFTER,
            },
        };
        reader.number_recipes();
        reader.restore();
        reader
    }

    /// Makes the recipes of all channels known to the checkpoint.
    fn number_recipes(&mut self) {
        let today: Vec<&Recipe> = self
            .channels
            .iter()
            .map(|channel| &channel.task.recipe.recipe)
            .collect();
        let numbers = self.wiring.checkpoint.adopt_recipes(&today);
        // A number that was forgotten may be another recipe's now.
        self.recipes.clear();
        for (channel, no) in self.channels.iter_mut().zip(numbers) {
            channel.recipe_no = no;
        }
    }

    /// Reads until it is told to stop, or nobody takes its batches any more.
    ///
    /// # Errors
    /// None at present: what cannot be read is told and tried again.
    pub(crate) fn run(mut self) -> anyhow::Result<()> {
        while !self.stopping && !self.wiring.outgoing.is_closed() {
            while let Ok(event) = self.wiring.events.try_recv() {
                self.on_event(event);
            }
            let now = Instant::now();
            self.start_due(now);
            if now >= self.next_figures.at {
                self.publish(now);
            }
            let allowed = self.cpu.allows(now);
            match self.ready.pick(|class, owed| allowed.lets(class, owed)) {
                Some(pick) => self.serve(pick),
                None => {
                    self.hand_over();
                    self.wait(now, allowed);
                }
            }
        }
        self.cpu.end();
        self.last_turns();
        self.hand_over();
        self.publish(Instant::now());
        Ok(())
    }

    /// What work for a class on the other thread keeps to.
    fn restraint_of(&self, class: Class) -> Restraint {
        Restraint {
            brake: Arc::clone(&self.cpu),
            class,
            status: Arc::clone(&self.wiring.status),
        }
    }

    /// Waits for an event or a timer, or for CPU when something is ready.
    fn wait(&mut self, now: Instant, allowed: Allowed) {
        let timer = self.timers.first().map(|&(at, _)| at);
        let decision = self.undecided.iter().map(|waiting| waiting.decide_at).min();
        let first = [timer, decision].into_iter().flatten().min();
        let mut until = first.map_or(self.next_figures.at, |first| {
            first.min(self.next_figures.at)
        });
        for class in Class::ALL {
            if let Some(more) = allowed.until()
                && self.ready.waiting(class) > 0
            {
                let throttled = self.wiring.status.throttled();
                throttled.note(class, Reason::Cpu, now, more);
                until = until.min(more);
            }
        }
        match self
            .wiring
            .events
            .recv_timeout(until.saturating_duration_since(now))
        {
            Ok(event) => self.on_event(event),
            Err(RecvTimeoutError::Timeout) => {}
            // Discovery ends only when everything does.
            Err(RecvTimeoutError::Disconnected) => self.stopping = true,
        }
    }

    fn on_event(&mut self, event: Event) {
        self.next_figures.stirred = true;
        match event {
            Event::Look(look) => self.on_look(look),
            Event::Touched(paths) => paths.iter().for_each(|path| self.on_touched(path)),
            Event::Wake => {
                self.note_memory();
                for stream in std::mem::take(&mut self.blocked) {
                    if self
                        .streams
                        .get(stream)
                        .is_some_and(|s| s.next == Next::Blocked)
                    {
                        self.make_ready(stream);
                    }
                }
            }
            Event::Apply(plan) => self.apply(plan),
            Event::Spool(done) => self.on_spool(done),
            Event::Stop => self.stopping = true,
        }
    }

    /// Notes how long classes have waited for memory.
    fn note_memory(&mut self) {
        let now = Instant::now();
        for (class, since) in Class::ALL.into_iter().zip(&mut self.blocked_since) {
            if let Some(since) = since.take() {
                let throttled = self.wiring.status.throttled();
                throttled.note(class, Reason::Memory, since, now);
            }
        }
    }

    fn class_of(&self, stream: usize) -> Class {
        let channel = self
            .streams
            .get(stream)
            .and_then(|stream| self.channels.get(stream.channel));
        channel.map_or(Class::P3, |channel| channel.task.class)
    }

    /// Whether a stream waits for more lines anyway, for a moment: a hint brings its turn no nearer.
    fn waits_for_more(&self, stream: usize, now: Instant) -> bool {
        let linger = Duration::from_millis(self.class_of(stream).linger_ms());
        self.streams
            .get(stream)
            .is_some_and(|known| match known.next {
                Next::At(at) => at <= now + linger,
                Next::Idle | Next::Ready | Next::Blocked => false,
            })
    }

    /// The stream is to be served in its turn.
    fn make_ready(&mut self, stream: usize) {
        let class = self.class_of(stream);
        let Some(known) = self.streams.get_mut(stream) else {
            return;
        };
        match known.next {
            Next::Ready => return,
            Next::At(at) => {
                self.timers.remove(&(at, stream));
            }
            Next::Idle | Next::Blocked => {}
        }
        known.next = Next::Ready;
        self.ready.add(class, known.channel, stream);
    }

    /// Streams whose time has come.
    fn start_due(&mut self, now: Instant) {
        while let Some(&(at, stream)) = self.timers.first()
            && at <= now
        {
            self.make_ready(stream);
            self.timers.remove(&(at, stream));
        }
        if self
            .undecided
            .iter()
            .any(|waiting| waiting.decide_at <= now)
        {
            self.decide(now);
        }
    }

    /// Serves a stream, and notes when it is served next.
    fn serve(&mut self, pick: Pick<usize, usize>) {
        let stream = pick.key;
        self.next_figures.stirred = true;
        if let Some(known) = self.streams.get_mut(stream) {
            known.next = Next::Idle;
        }
        self.turn_bytes = 0;
        let next = self.turn(stream);
        // Looking costs something as well.
        let cost = self.turn_bytes + LOOK_BYTES;
        let next = self.at_its_pace(stream, next, Instant::now());
        let Some(known) = self.streams.get_mut(stream) else {
            return self.ready.done(pick, cost, false);
        };
        // The turn itself may have put the stream back.
        if known.next == Next::Ready {
            return self.ready.done(pick, cost, false);
        }
        known.next = next;
        match next {
            Next::Idle | Next::Ready => {}
            Next::At(at) => {
                self.timers.insert((at, stream));
            }
            Next::Blocked => {
                // What it waits for may be the memory of a batch that was not handed over yet.
                self.hand_over();
                if let Some(since) = self.blocked_since.get_mut(pick.class as usize) {
                    since.get_or_insert_with(Instant::now);
                }
                self.blocked.push(stream);
            }
        }
        self.ready.done(pick, cost, next == Next::Ready);
    }

    /// In a quiet moment, memory that was needed for a while is given back.
    fn give_back_memory(&mut self, now: Instant) {
        let figures = &mut self.next_figures;
        if figures.untrimmed && now >= figures.trim_at {
            (figures.untrimmed, figures.trim_at) = (false, now + TRIM_EVERY);
            heap::give_back();
        }
    }

    /// Counts the files of each task, and what of them is not read. With 100,000 files that takes a
    /// while, so it rests when nothing happens, and otherwise takes a hundredth of a core at most.
    fn count_files(&mut self) {
        let began = Instant::now();
        self.spooling.any_held = false;
        for channel in &mut self.channels {
            channel.figures.files = 0;
            channel.figures.unread_bytes = 0;
            channel.figures.oldest_unread = None;
        }
        for stream in &self.streams {
            let Some(channel) = self.channels.get_mut(stream.channel) else {
                continue;
            };
            let figures = &mut channel.figures;
            for tail in &stream.tails {
                self.spooling.any_held |= spooling::is_held(tail);
                figures.files += u64::from(tail.place == crate::tail::Place::Named);
                figures.unread_bytes += tail.unread();
                figures.unread_bytes += tail.file.as_ref().map_or(0, Content::beyond);
                let oldest = [figures.oldest_unread, tail.unread_since];
                figures.oldest_unread = oldest.into_iter().flatten().min();
            }
        }
        let rest = began.elapsed() * COUNT_REST;
        self.next_figures.at = self.next_figures.at.max(began + rest);
    }

    /// Shows people how it goes.
    fn publish(&mut self, now: Instant) {
        self.next_figures.at = now + FIGURES_EVERY;
        self.tend_packed(now);
        self.release_shares();
        if std::mem::take(&mut self.next_figures.stirred) {
            self.next_figures.untrimmed = true;
            self.count_files();
        } else {
            self.give_back_memory(now);
        }
        self.tend_spool(now);
        let mut behind: HashMap<Topic, u64> = HashMap::new();
        for channel in self.channels.iter_mut().filter(|known| !known.removed) {
            let figures = &mut channel.figures;
            let (bytes, records) = (figures.read_bytes, figures.read_records);
            figures.rates = channel.rate.note(bytes, records, now);
            *behind.entry(channel.task.topic.clone()).or_default() += figures.unread_bytes;
        }
        let known = self.channels.iter().enumerate();
        let known = known.filter(|(_, channel)| !channel.removed);
        for (_, channel) in known.clone() {
            // Tasks of one topic share its gauge.
            let of_topic = behind.get(&channel.task.topic).copied();
            channel.counters.behind(of_topic.unwrap_or(0));
        }
        self.wiring.status.show_classes(&self.wiring.budget);
        let used = as_gauge(self.wiring.budget.used());
        metrics::gauge!("tributary_agent_memory_bytes").set(used);
        self.opened.show(&self.wiring.status);
        let views = known.map(|(place, channel)| TaskView {
            place,
            task: channel.task.id.clone(),
            topic: channel.task.topic.clone(),
            class: channel.task.class,
            figures: channel.figures.clone(),
        });
        self.wiring.status.publish(views.collect());
    }
}
