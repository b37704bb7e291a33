//! Lives of a log whose records have several lines, and whose files change in the middle of them.
//!
//! Each record arrives whole, once and in order, whatever happens to files and agent: none is cut. A
//! file is rotated again only when the agent has seen it, or nobody could say what followed what.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use proptest::prelude::*;
use tokio::time::{Instant, sleep};
use tributary_agent::checkpoint::inspect;

use crate::{
    life::MANAGER,
    rig::{Agent, LIMIT, Manner, Place},
};

/// What is a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Groups of lines.
    Groups,
    /// Partial lines of a container, of two streams.
    Cri,
}

impl Kind {
    pub(crate) const ALL: [Self; 2] = [Self::Groups, Self::Cri];

    fn framing(self) -> &'static str {
        match self {
            // Nothing is ever sent because its time was over.
            Self::Groups => "framing = { kind = \"multiline\", start = '^\\[', timeout = \"1h\" }",
            Self::Cri => "framing = { kind = \"cri\" }",
        }
    }
}

/// What becomes of the log's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rotated {
    /// A name that nobody had.
    Renamed,
    /// Copied, and cut off.
    Copied,
}

/// What happens in a life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    /// So many records are written.
    Write(u8),
    /// One is begun, the file changes, and the rest goes to the next one; so many times.
    Rotate(Rotated, u8),
    /// The agent stops in order, and starts again later.
    Stop,
    /// It starts, if it does not run.
    Start,
    /// It is killed, in the middle of a write to its checkpoint if so.
    Kill(bool),
    /// The same, and it stays away.
    Die(bool),
    /// The bus answers in another way.
    Mood(u8),
    /// So many times 10 ms pass.
    Wait(u8),
}

pub(crate) fn act() -> impl Strategy<Value = Act> {
    let rotated = prop_oneof![2 => Just(Rotated::Renamed), 1 => Just(Rotated::Copied)];
    prop_oneof![
        4 => (1u8..40).prop_map(Act::Write),
        5 => (rotated, 1u8..4).prop_map(|(how, times)| Act::Rotate(how, times)),
        1 => Just(Act::Stop),
        2 => Just(Act::Start),
        3 => any::<bool>().prop_map(Act::Kill),
        1 => any::<bool>().prop_map(Act::Die),
        2 => (0u8..4).prop_map(Act::Mood),
        2 => (1u8..150).prop_map(Act::Wait),
    ]
}

/// A life that went wrong once: the agent came late to files that were renamed before it had opened
/// them, and did not wait for the end of one that it came to in time.
pub(crate) const KNOWN: &[Act] = &[
    Act::Rotate(Rotated::Renamed, 3),
    Act::Wait(128),
    Act::Mood(3),
    Act::Rotate(Rotated::Renamed, 3),
    Act::Rotate(Rotated::Renamed, 3),
    Act::Kill(true),
    Act::Rotate(Rotated::Copied, 2),
    Act::Rotate(Rotated::Renamed, 3),
    Act::Rotate(Rotated::Renamed, 3),
    Act::Write(18),
    Act::Kill(true),
    Act::Kill(true),
    Act::Rotate(Rotated::Renamed, 3),
    Act::Rotate(Rotated::Renamed, 3),
    Act::Write(24),
    Act::Rotate(Rotated::Renamed, 3),
    Act::Rotate(Rotated::Renamed, 3),
    Act::Mood(1),
    Act::Rotate(Rotated::Renamed, 2),
    Act::Wait(63),
    Act::Write(37),
    Act::Write(19),
    Act::Rotate(Rotated::Renamed, 2),
    Act::Mood(2),
];

/// A life so far.
struct Life {
    kind: Kind,
    place: Place,
    state: PathBuf,
    agent: Option<Agent>,
    /// What was written, record by record.
    records: Vec<String>,
    /// Files that the log was.
    files: usize,
}

impl Life {
    fn start(&mut self) {
        if self.agent.is_none() {
            let more = format!("{}\n{MANAGER}", self.kind.framing());
            let config = self.place.config_at(&self.state, "app.log", &more);
            self.agent = Some(Agent::start(&config));
        }
    }

    fn log(&self) -> PathBuf {
        self.place.log("app.log")
    }

    /// The lines of a record of so many parts.
    fn record(&mut self, parts: usize) -> Vec<String> {
        let number = self.records.len();
        let text = |at: usize| format!("part {at} of {number} {}", "x".repeat(number % 70));
        let texts: Vec<String> = (0..parts).map(text).collect();
        let last = parts - 1;
        match self.kind {
            Kind::Groups => {
                let lines = texts.iter().enumerate().map(|(at, text)| match at {
                    0 => format!("[{number}] {text}"),
                    _ => format!("\t{text}"),
                });
                let lines: Vec<String> = lines.collect();
                self.records.push(lines.join("\n"));
                lines
            }
            Kind::Cri => {
                self.records.push(texts.concat());
                let stream = if number.is_multiple_of(2) {
                    "stdout"
                } else {
                    "stderr"
                };
                let tag = |at| if at == last { "F" } else { "P" };
                let lines = texts.iter().enumerate().map(|(at, text)| {
                    format!("2026-11-21T04:30:01.5Z {stream} {} {text}", tag(at))
                });
                lines.collect()
            }
        }
    }

    fn write(&mut self, records: u8) {
        for _ in 0..records {
            let lines = self.record(1 + self.records.len() % 5);
            append(&self.log(), &lines);
        }
    }

    /// Whether the agent has seen all files of the log, and read of the last one where that is to be
    /// copied: nothing else ties a copy to it.
    fn may_rotate(&self, rotated: Rotated) -> bool {
        inspect(&self.state).is_ok_and(|known| {
            let files = known.streams.iter().flat_map(|of| &of.generations);
            let files: Vec<_> = files.collect();
            let is_read = files.last().is_some_and(|last| last.read_to > 0);
            files.len() >= self.files && (rotated == Rotated::Renamed || is_read)
        })
    }

    /// Begins a record, and goes on with it in the next file, and the next.
    async fn rotate(&mut self, rotated: Rotated, times: u8) -> Result<(), String> {
        // The time of a container's record is fixed: nothing is waited for within one.
        let is_once = rotated == Rotated::Copied || self.kind == Kind::Cri;
        let times = if is_once { 1 } else { usize::from(times) };
        if rotated == Rotated::Copied {
            self.write(2);
        }
        let lines = self.record(2 + times);
        for (at, line) in lines.iter().enumerate() {
            let changes = (1..=times).contains(&at);
            let waits = if is_once { at == 0 } else { changes };
            if waits && self.agent.is_some() {
                self.place.bus.end_silence();
                self.until_it_may_rotate(rotated).await?;
            }
            if changes && self.may_rotate(rotated) {
                self.next_file(rotated);
            }
            append(&self.log(), std::slice::from_ref(line));
        }
        Ok(())
    }

    async fn until_it_may_rotate(&self, rotated: Rotated) -> Result<(), String> {
        let until = Instant::now() + LIMIT;
        while !self.may_rotate(rotated) {
            if Instant::now() > until {
                return Err("the agent does not see a file".to_owned());
            }
            sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    fn next_file(&mut self, rotated: Rotated) {
        let to = self.place.log(&format!("old.{}", self.files));
        if rotated == Rotated::Renamed {
            fs::rename(self.log(), to).unwrap();
        } else {
            // A copy keeps the name that the log begins with, as logrotate makes it.
            let to = self.place.log(&format!("app.log.{}", self.files));
            fs::copy(self.log(), to).unwrap();
            let log = OpenOptions::new().write(true).open(self.log()).unwrap();
            log.set_len(0).unwrap();
        }
        self.files += 1;
    }

    async fn act(&mut self, act: Act) -> Result<(), String> {
        match act {
            Act::Write(records) => self.write(records),
            Act::Rotate(rotated, times) => self.rotate(rotated, times).await?,
            Act::Stop => {
                if let Some(agent) = self.agent.take() {
                    self.place.bus.end_silence();
                    agent.stop().await;
                }
            }
            Act::Start => self.start(),
            Act::Kill(torn) | Act::Die(torn) => {
                if let Some(agent) = self.agent.take() {
                    self.state = agent.kill(&self.place.bus, &self.state, torn).await;
                    if matches!(act, Act::Kill(_)) {
                        self.start();
                    }
                }
            }
            Act::Mood(mood) => self.place.bus.manner(match mood {
                0 => Manner::Take,
                1 => Manner::Mute,
                2 => Manner::SometimesBusy,
                _ => Manner::SometimesDrop,
            }),
            Act::Wait(times) => sleep(Duration::from_millis(10 * u64::from(times))).await,
        }
        Ok(())
    }

    async fn end(mut self) -> Result<(), String> {
        self.place.bus.manner(Manner::Take);
        self.start();
        let wanted = self.records.clone();
        // What follows shows that the last record is whole.
        self.write(1);
        self.place
            .bus
            .wait(|lines| lines.len() >= wanted.len())
            .await;
        if let Some(agent) = self.agent.take() {
            agent.stop().await;
        }
        let mut got = self.place.bus.lines();
        got.truncate(self.records.len());
        let same = got.iter().zip(&self.records).take_while(|(a, b)| a == b);
        let same = same.count();
        if got.len() < wanted.len() || same < got.len() {
            return Err(format!(
                "{} of {} records came; at {same} is {:?}, wanted is {:?}",
                got.len(),
                wanted.len(),
                got.get(same),
                wanted.get(same)
            ));
        }
        let flags = self.place.bus.flags();
        if let Some(flag) = flags.iter().find(|flag| !flag.is_empty()) {
            return Err(format!("a record is flagged {flag:?}"));
        }
        let known = inspect(&self.state).map_err(|error| error.to_string())?;
        if !known.losses.is_empty() {
            return Err(format!("losses are told: {:?}", known.losses));
        }
        Ok(())
    }
}

/// Lives a life.
pub(crate) fn live(acts: &[Act], kind: Kind) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let place = Place::new().await;
        let mut life = Life {
            kind,
            state: place.state(),
            place,
            agent: None,
            records: Vec::new(),
            files: 1,
        };
        life.start();
        life.write(3);
        for &act in acts {
            life.act(act).await?;
        }
        life.end().await
    })
}

fn append(path: &Path, lines: &[String]) {
    let mut options = OpenOptions::new();
    let mut file = options.append(true).create(true).open(path).unwrap();
    file.write_all((lines.join("\n") + "\n").as_bytes())
        .unwrap();
}
