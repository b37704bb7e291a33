//! The world of a simulation: nodes, agents, destinations, and what befalls them.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use tokio::{
    sync::mpsc::Receiver,
    time::{Instant, sleep},
};
use tributary_agent::sim::{Agent, Source};
use tributary_bus::sim::{Bus, Given, Part, Size};
use tributary_common::{
    disk::faults::{Fault, Faults},
    ids::{BatchId, Class, Name, Topic},
    sim::{Entered, Net, Stream, set_wall},
};

use super::oracle::Oracle;

/// The trouble lasts so long.
const TROUBLE: Duration = Duration::from_secs(5);
/// When it is over, all is delivered within this.
const SETTLED_WITHIN: Duration = Duration::from_secs(20 * 60);
/// A clock is wrong by up to so much.
const DAYS_MS: u64 = 3 * 24 * 3600 * 1000;
/// The wall clock at the beginning.
const BEGIN_MS: u64 = 1_800_000_000_000;

/// A bus node, alive or not.
struct Node {
    name: String,
    dir: PathBuf,
    size: Size,
    accepted: Receiver<Stream>,
    life: Option<Life>,
    /// When a next life begins.
    again: Option<Instant>,
    /// It was asked to stop, and does at this time.
    parts: Option<Instant>,
}

/// One life of a node.
struct Life {
    bus: Bus,
    faults: Faults,
    /// What each destination has of this life: it finds out when that comes again.
    has: [BTreeSet<BatchId>; 2],
    /// What a destination has and the node does not know, or may forget when the power fails.
    unknown: BTreeSet<(usize, BatchId)>,
    unsynced: BTreeSet<(usize, BatchId)>,
    looked: Instant,
}

/// An agent, alive or not.
struct Writer {
    name: String,
    dir: PathBuf,
    sources: Vec<Source>,
    ways: Vec<(Name, Vec<String>)>,
    life: Option<Agent>,
    again: Option<Instant>,
    left: usize,
    _no_syncs: Faults,
}

/// How a destination is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weather {
    Good,
    Slow,
    /// It takes batches, and its answers are lost.
    LosesAnswers,
    Away,
}

/// All of it.
pub(super) struct World {
    rng: fastrand::Rng,
    net: Net,
    _entered: Entered,
    nodes: Vec<Node>,
    writers: Vec<Writer>,
    weather: [Weather; 2],
    oracle: Oracle,
    placed: i64,
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

impl World {
    /// What a seed has.
    pub(super) fn begin(seed: u64, folder: &Path) -> Result<Self> {
        let mut rng = fastrand::Rng::with_seed(seed);
        let net = Net::new(rng.u64(..));
        let entered = net.enter();
        set_wall(Some(BEGIN_MS));
        let size = Size {
            memory: 1 << rng.u32(17..24),
            spill: 1 << rng.u32(15..23),
            segment: 1 << rng.u32(10..15),
            standby: rng.bool(),
        };
        let mut nodes = Vec::new();
        for no in 0..rng.usize(1..=3) {
            let name = format!("b{no}");
            let dir = folder.join(&name);
            std::fs::create_dir_all(&dir)?;
            let mut node = Node {
                accepted: net.listen(&name),
                name,
                dir,
                size,
                life: None,
                again: None,
                parts: None,
            };
            node.start()?;
            nodes.push(node);
        }
        let home = rng.usize(1..=nodes.len());
        let mut writers = Vec::new();
        for no in 0..rng.usize(1..=3) {
            let writer = Writer::begin(no, folder, (nodes.len(), home), &mut rng)?;
            writers.push(writer);
        }
        Ok(Self {
            rng,
            net,
            _entered: entered,
            nodes,
            writers,
            weather: [Weather::Good; 2],
            oracle: Oracle::default(),
            placed: 0,
        })
    }

    /// What happened.
    pub(super) fn trace(&self) -> Vec<String> {
        self.net.trace()
    }

    /// Lets everything befall everybody.
    pub(super) async fn trouble(&mut self) -> Result<()> {
        let until = Instant::now() + TROUBLE;
        let mut next = Instant::now() + ms(self.rng.u64(0..2000));
        while Instant::now() < until {
            if Instant::now() >= next {
                self.disaster()?;
                next = Instant::now() + ms(self.rng.u64(50..2500));
            }
            self.cut()?;
            self.tick(60).await?;
        }
        Ok(())
    }

    /// Mends everything, and waits until all is delivered.
    pub(super) async fn settle(&mut self) -> Result<()> {
        self.net.note("mended");
        self.net.heal("");
        self.weather = [Weather::Good; 2];
        for node in &mut self.nodes {
            if let Some(life) = &mut node.life {
                life.faults.at(u64::MAX / 2, Fault::Error(5));
            }
        }
        let begun = Instant::now();
        while !self.is_settled() {
            ensure!(
                begun.elapsed() < SETTLED_WITHIN,
                "it does not settle: {}",
                self.stands()
            );
            self.tick(100).await?;
        }
        self.net
            .note(&format!("settled, {} doubled", self.oracle.doubled));
        for writer in &self.writers {
            let agent = writer.life.as_ref().context("it is settled")?;
            for (stream, cut) in agent.cut_so_far() {
                self.oracle.must_have(stream, cut)?;
            }
        }
        for node in &self.nodes {
            let used = node.life.as_ref().map_or(0, |life| life.bus.memory_used());
            ensure!(
                used == 0,
                "{} has {used} bytes of memory for nothing",
                node.name
            );
        }
        Ok(())
    }

    fn is_settled(&self) -> bool {
        let nodes = self.nodes.iter().all(|node| {
            node.parts.is_none()
                && node.life.as_ref().is_some_and(|life| {
                    life.bus.backlog() == 0 && (0..2).all(|no| life.bus.given(no) == 0)
                })
        });
        let writers = self.writers.iter().all(|writer| {
            let agent = writer.life.as_ref();
            agent.is_some_and(|agent| agent.left() == 0)
        });
        nodes && writers
    }

    /// How it stands, in words.
    fn stands(&self) -> String {
        let nodes = self.nodes.iter().map(|node| match &node.life {
            Some(Life { bus, .. }) => format!(
                "{}: {} on the disk, {} and {} given",
                node.name,
                bus.backlog(),
                bus.given(0),
                bus.given(1)
            ),
            None => format!("{}: dead", node.name),
        });
        let writers = self.writers.iter().map(|writer| match &writer.life {
            Some(agent) => format!("{}: {:?}", writer.name, agent.unacknowledged()),
            None => format!("{}: dead", writer.name),
        });
        nodes.chain(writers).collect::<Vec<_>>().join("; ")
    }

    /// Some time passes, up to so many ms; everybody who has threads has a turn or not.
    async fn tick(&mut self, most_ms: u64) -> Result<()> {
        sleep(ms(self.rng.u64(1..most_ms))).await;
        for no in 0..self.nodes.len() {
            self.node(no)?;
        }
        for writer in &mut self.writers {
            writer.turn(&self.net, &mut self.rng)?;
        }
        Ok(())
    }

    /// Agents cut batches.
    fn cut(&mut self) -> Result<()> {
        for writer in &mut self.writers {
            let Some(agent) = &mut writer.life else {
                continue;
            };
            for source in 0..writer.sources.len() {
                if self.rng.u8(0..3) == 0 {
                    agent.cut(source, self.rng.u64(1..6))?;
                }
            }
        }
        Ok(())
    }

    /// Something goes wrong, or is mended.
    fn disaster(&mut self) -> Result<()> {
        let no = self.rng.usize(0..self.nodes.len());
        let name = self.nodes[no].name.clone();
        let who = self.rng.usize(0..self.writers.len());
        let way = format!("{name}.{}:1", self.writers[who].name);
        let what = self.rng.u8(0..16);
        self.net.note(&format!("disaster {what} {way}"));
        match what {
            0 => self.net.block(&name),
            1 => self.net.block(&way),
            2 => self.net.reset(&name),
            3 => self.net.reset(&way),
            4 | 5 => self.net.heal(""),
            6 => self.kill(no)?,
            7 | 12 => self.cut_power()?,
            8 => {
                let n = self.rng.u64(0..30);
                let fault = match self.rng.bool() {
                    true => Fault::Kill,
                    false => Fault::KillAfter,
                };
                if let Some(life) = &mut self.nodes[no].life {
                    life.faults.at(n, fault);
                }
            }
            9 => {
                if let Some(life) = &self.nodes[no].life {
                    life.bus.part();
                    self.nodes[no].parts = Some(Instant::now() + ms(self.rng.u64(100..4000)));
                }
            }
            10 => {
                let writer = &mut self.writers[who];
                writer.kill(Instant::now() + ms(self.rng.u64(10..3000)));
            }
            11 => {
                let wall = BEGIN_MS - DAYS_MS + self.rng.u64(0..2 * DAYS_MS);
                set_wall(Some(wall));
            }
            _ => {
                use Weather::{Away, Good, LosesAnswers, Slow};
                let weather = [Good, Good, Slow, LosesAnswers, Away, Away];
                let destination = usize::from(self.rng.u8(0..3) == 0);
                self.weather[destination] = weather[self.rng.usize(0..weather.len())];
                self.net
                    .note(&format!("{destination} is {:?}", self.weather[destination]));
            }
        }
        Ok(())
    }

    /// The turns of a node.
    fn node(&mut self, no: usize) -> Result<()> {
        let node = &mut self.nodes[no];
        let now = Instant::now();
        if node.again.is_some_and(|at| at <= now) {
            node.again = None;
            node.start()?;
            self.net.heal(&node.name);
            self.net.note(&format!("{} begins a life", node.name));
        }
        let Some(life) = &mut node.life else {
            // Nobody accepts: the kernel refuses.
            while node.accepted.try_recv().is_ok() {}
            return Ok(());
        };
        while let Ok(stream) = node.accepted.try_recv() {
            life.bus.enter(stream);
        }
        for part in life.parts(&mut self.rng) {
            life.bus.turn(part);
            if life.faults.is_dead() {
                self.net
                    .note(&format!("{} died within {part:?}", node.name));
                // What this turn learned is in no file.
                return self.bury(no, false);
            }
            life.learn(part);
        }
        if node.parts.is_some_and(|at| at <= now) {
            return self.stop(no);
        }
        for destination in 0..2 {
            self.deliver(no, destination)?;
        }
        Ok(())
    }

    /// A destination does something about what a node gave it.
    fn deliver(&mut self, no: usize, destination: usize) -> Result<()> {
        let Some(life) = &mut self.nodes[no].life else {
            return Ok(());
        };
        let weather = self.weather[destination];
        // It takes a moment to find out.
        if self.rng.u8(0..4) == 0 {
            life.bus.set_down(destination, weather == Weather::Away);
        }
        let answers = match weather {
            Weather::Good => self.rng.usize(0..12),
            Weather::LosesAnswers => self.rng.usize(0..6),
            Weather::Slow => usize::from(self.rng.u8(0..4) == 0),
            Weather::Away => usize::from(self.rng.u8(0..8) == 0),
        };
        for _answer in 0..answers.min(life.bus.given(destination)) {
            let nth = self.rng.usize(0..life.bus.given(destination).max(1));
            let Some(given) = life.bus.take(destination, nth) else {
                break;
            };
            let batch = given.batch();
            let fails = match weather {
                Weather::Good | Weather::Slow => self.rng.u8(0..50) == 0,
                Weather::LosesAnswers => self.rng.u8(0..3) == 0,
                Weather::Away => true,
            };
            let takes = !fails || (weather != Weather::Away && self.rng.bool());
            if takes && life.has[destination].insert(batch) {
                self.placed += 1;
                self.net
                    .note(&format!("{no} to {destination}: {batch}, fails {fails}"));
                life.unknown.insert((destination, batch));
                self.oracle.came((no, destination), &given)?;
            }
            match fails {
                false => life.bus.delivered(destination, given, self.placed),
                true => {
                    // All of its stream that were given behind it fail with it, or all that there is.
                    let mut all = vec![given];
                    let everything = self.rng.bool();
                    while let Some(next) = match everything {
                        true => life.bus.take(destination, 0),
                        false => life.bus.take_of(destination, batch.stream),
                    } {
                        all.push(next);
                    }
                    all.into_iter().for_each(Given::fails);
                }
            }
        }
        Ok(())
    }

    /// The node is killed.
    fn kill(&mut self, no: usize) -> Result<()> {
        self.bury(no, false)
    }

    /// The node's host has no power: what was not synced may be gone, and nobody is told.
    fn cut_power(&mut self) -> Result<()> {
        // Where most is at stake.
        let backlog = |no: &usize| {
            let life = self.nodes.get(*no).and_then(|node| node.life.as_ref());
            life.map(|life| life.bus.backlog())
        };
        let Some(no) = (0..self.nodes.len()).max_by_key(backlog) else {
            return Ok(());
        };
        self.net.block(&self.nodes[no].name);
        self.bury(no, true)
    }

    /// What was on its way to a destination may have come there, and what nobody wrote down is forgotten.
    fn bury(&mut self, no: usize, power: bool) -> Result<()> {
        let node = &mut self.nodes[no];
        let Some(mut life) = node.life.take() else {
            return Ok(());
        };
        self.net.note(&format!("{} is dead", node.name));
        for destination in 0..2 {
            let mut came = self.rng.usize(0..4);
            while self.weather[destination] != Weather::Away && came > 0 {
                came -= 1;
                let Some(given) = life.bus.take(destination, 0) else {
                    break;
                };
                if life.has[destination].insert(given.batch()) {
                    life.unknown.insert((destination, given.batch()));
                    self.oracle.came((no, destination), &given)?;
                }
            }
        }
        for &(_destination, batch) in &life.unknown {
            self.oracle.forgive(no, batch);
        }
        let Life {
            bus,
            faults,
            unsynced,
            ..
        } = life;
        if power {
            for (_destination, batch) in unsynced {
                self.oracle.forgive(no, batch);
            }
        }
        drop(bus);
        if power {
            faults.cut_power(self.rng.u64(..))?;
        }
        node.parts = None;
        node.again = Some(Instant::now() + ms(self.rng.u64(10..4000)));
        Ok(())
    }

    /// The node ends in order.
    fn stop(&mut self, no: usize) -> Result<()> {
        self.net.note(&format!("{} stops", self.nodes[no].name));
        if let Some(life) = &mut self.nodes[no].life {
            life.bus.end();
            life.learn(Part::Journal(true));
        }
        self.bury(no, false)
    }
}

impl Node {
    /// Begins a life.
    fn start(&mut self) -> Result<()> {
        let faults = Faults::on(&self.dir);
        let bus = Bus::start(&self.name, &self.dir, self.size)
            .with_context(|| format!("{} does not start", self.name))?;
        self.life = Some(Life {
            bus,
            faults,
            has: Default::default(),
            unknown: BTreeSet::new(),
            unsynced: BTreeSet::new(),
            looked: Instant::now(),
        });
        Ok(())
    }
}

impl Life {
    /// Who has a turn now.
    fn parts(&mut self, rng: &mut fastrand::Rng) -> Vec<Part> {
        let mut parts = Vec::new();
        if rng.bool() {
            parts.push(Part::Journal(rng.u8(0..16) == 0));
        }
        for no in 0..2 {
            if rng.bool() {
                parts.push(Part::Write(no, rng.u8(0..16) == 0));
            }
            if rng.bool() {
                parts.push(Part::Drain(no));
            }
        }
        if self.looked.elapsed() >= ms(250) {
            self.looked = Instant::now();
            parts.push(Part::Look);
        }
        rng.shuffle(&mut parts);
        parts
    }

    /// What the node knows after a turn.
    fn learn(&mut self, part: Part) {
        let bus = &self.bus;
        let known = self.unknown.iter();
        let known: Vec<_> = known
            .filter(|(destination, batch)| bus.knows(*destination, *batch))
            .copied()
            .collect();
        for one in known {
            self.unknown.remove(&one);
            self.unsynced.insert(one);
        }
        if part == Part::Journal(true) {
            self.unsynced.clear();
        }
    }
}

impl Writer {
    fn begin(
        no: usize,
        folder: &Path,
        (nodes, home): (usize, usize),
        rng: &mut fastrand::Rng,
    ) -> Result<Self> {
        let name = format!("a{no}");
        let dir = folder.join(&name);
        std::fs::create_dir_all(&dir)?;
        let mut sources = Vec::new();
        for source in 0..rng.u64(1..=3) {
            let topic = ["web.a", "web.b", "web.c"][rng.usize(0..3)];
            sources.push(Source {
                stream: no as u64 * 10 + source,
                topic: Topic::new(topic)?,
                class: Class::ALL[rng.usize(0..4)],
            });
        }
        let ways = |range: std::ops::Range<usize>| -> Vec<String> {
            range.map(|node| format!("b{node}.{name}:1")).collect()
        };
        let mut clusters = vec![(Name::new("home")?, ways(0..home))];
        if home < nodes {
            clusters.push((Name::new("away")?, ways(home..nodes)));
        }
        let mut writer = Self {
            _no_syncs: Faults::on(&dir),
            name,
            dir,
            sources,
            ways: clusters,
            life: None,
            again: None,
            left: 0,
        };
        writer.start()?;
        Ok(writer)
    }

    fn start(&mut self) -> Result<()> {
        let agent = Agent::start(&self.name, &self.dir, &self.ways, &self.sources)?;
        self.life = Some(agent);
        Ok(())
    }

    fn kill(&mut self, again: Instant) {
        if self.life.take().is_some() {
            self.again = Some(again);
        }
    }

    fn turn(&mut self, net: &Net, rng: &mut fastrand::Rng) -> Result<()> {
        if self.again.is_some_and(|at| at <= Instant::now()) {
            self.again = None;
            self.start()?;
        }
        if let Some(agent) = &self.life {
            if rng.u8(0..8) == 0 {
                agent.keep();
            }
            let left = agent.left();
            if left != self.left {
                net.note(&format!("{}: {left} are not acknowledged", self.name));
                self.left = left;
            }
        }
        Ok(())
    }
}
