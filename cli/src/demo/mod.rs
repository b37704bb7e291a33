//! `tributary demo`: everything in one process, with programs that write and rotate logs, a
//! destination that goes away for ten seconds and comes back, and a check of every line at the end.
//!
//! Not for: a person's own logs (that is `up`).

mod check;
mod writer;

use std::{
    fs,
    path::{Path, PathBuf},
    pin::pin,
    time::Duration,
};

use anyhow::{Context as _, bail};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tributary_common::tasks::Supervisor;

use self::writer::{Kind, Program, Rotation};
use crate::{
    out,
    table::{self, Counts, Screen, TopicCounts},
    up::{self, Configs, Places, Watch},
};

/// How often the programs write.
const TICK: Duration = Duration::from_millis(50);
/// Lines of each program per tick, so that together they write some 15,000 lines a second.
const LINES: [(&str, Kind, Rotation, u64); 3] = [
    ("web.access", Kind::Access, Rotation::Rename, 500),
    ("shop.orders", Kind::Json, Rotation::CopyTruncate, 200),
    ("pay.audit", Kind::Audit, Rotation::Rename, 50),
];
/// How long the counts may take to settle after the last line.
const SETTLE_WITHIN: Duration = Duration::from_secs(60);
/// Marks a folder as the demo's own, which it may empty.
const MARK: &str = "tributary-demo-folder";

/// What `demo` is asked for.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct DemoArgs {
    #[command(flatten)]
    pub(crate) places: Places,
    /// End after the check even on a terminal, instead of leaving the console up.
    #[arg(long)]
    pub(crate) exit: bool,
}

/// What happens when, in ms from the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Rotate,
    TakeAway,
    GiveBack,
    End,
}

const STORY: [(u64, Step); 7] = [
    (4_000, Step::Rotate),
    (8_000, Step::TakeAway),
    (12_000, Step::Rotate),
    (18_000, Step::GiveBack),
    (21_000, Step::Rotate),
    (24_000, Step::Rotate),
    (26_000, Step::End),
];

/// Runs the demo; without an error every line arrived exactly once and every count agrees.
///
/// # Errors
/// When a part fails, or a line is missing or doubled, or a count disagrees.
pub(crate) async fn run(args: DemoArgs, stop: CancellationToken) -> anyhow::Result<()> {
    let mut places = args.places;
    if places.data == Path::new("tributary-data") {
        places.data = PathBuf::from("tributary-demo");
    }
    let places = places.absolute()?;
    let logs = prepare(&places)?;
    let watches: Vec<Watch> = LINES
        .iter()
        .map(|&(topic, ..)| format!("{topic}={}/{topic}.log*", logs.display()).parse())
        .collect::<Result<_, String>>()
        .map_err(anyhow::Error::msg)?;
    let configs = Configs::new(&watches, &places, None);
    let parts = up::start(&configs, &places, &stop)?;
    let stay = out::is_terminal() && !args.exit;
    let mut joined = pin!(join(parts, &stop));
    let told = {
        let mut demo = Demo::new(places, &logs)?;
        tokio::select! {
            joined = &mut joined => return joined.and_then(|()| bail!("stopped before the end")),
            told = demo.tell(stay, &stop) => told,
        }
    };
    // The parts stop by themselves; dropped while they work they would be torn apart.
    stop.cancel();
    told.and(joined.await)
}

/// The parts must not end before the story does.
async fn join(parts: Supervisor, stop: &CancellationToken) -> anyhow::Result<()> {
    let joined = parts.join().await;
    if stop.is_cancelled() {
        joined
    } else {
        joined.and_then(|()| bail!("a part ended by itself"))
    }
}

/// Makes a fresh folder; an old one is emptied only when a demo made it.
fn prepare(places: &Places) -> anyhow::Result<PathBuf> {
    let data = &places.data;
    let mark = data.join(MARK);
    if data.try_exists()? {
        if !mark.try_exists()? {
            bail!(
                "{} exists and no demo made it; name another folder by --data, or remove it",
                data.display()
            );
        }
        fs::remove_dir_all(data).with_context(|| format!("failed to empty {}", data.display()))?;
    }
    let logs = data.join("logs");
    fs::create_dir_all(&logs).with_context(|| format!("failed to make {}", logs.display()))?;
    fs::write(
        &mark,
        "made by `tributary demo`; the next demo empties this folder\n",
    )
    .with_context(|| format!("failed to write {}", mark.display()))?;
    logs.canonicalize()
        .with_context(|| format!("failed to look at {}", logs.display()))
}

struct Demo {
    places: Places,
    programs: Vec<Program>,
    screen: Screen,
    headline: &'static str,
}

impl Demo {
    fn new(places: Places, logs: &Path) -> anyhow::Result<Self> {
        let programs = LINES
            .iter()
            .map(|&(topic, kind, rotation, _)| Program::start(logs, topic, kind, rotation))
            .collect::<Result<_, _>>()
            .with_context(|| format!("failed to begin the logs in {}", logs.display()))?;
        Ok(Self {
            places,
            programs,
            screen: Screen::default(),
            headline: "three programs write",
        })
    }

    async fn tell(&mut self, stay: bool, stop: &CancellationToken) -> anyhow::Result<()> {
        let url = self.places.console_url();
        up::wait_ready(&url).await?;
        out::line(format_args!("console on {url}"));
        self.write_and_break(&url).await?;
        let verdict = self.settle(&url).await;
        if stay {
            match &verdict {
                Ok(()) => out::line(format_args!("the console stays on {url} · Ctrl-C ends")),
                Err(error) => out::line(format_args!("{error:#}\nthe console stays on {url}")),
            }
            stop.cancelled().await;
        }
        verdict
    }

    /// The story: lines, rotations, an outage, and the table all along.
    async fn write_and_break(&mut self, url: &str) -> anyhow::Result<()> {
        let start = Instant::now();
        let mut steps = STORY.into_iter().peekable();
        let mut drawn = start;
        loop {
            sleep(TICK).await;
            for (program, (.., lines)) in self.programs.iter_mut().zip(LINES) {
                program.write(lines).context("failed to write a log")?;
            }
            let now = start.elapsed();
            while let Some(&(at, step)) = steps.peek() {
                if now < Duration::from_millis(at) {
                    break;
                }
                steps.next();
                if step == Step::End {
                    return Ok(());
                }
                self.act(step)?;
            }
            if drawn.elapsed() >= up::draw_every() {
                drawn = Instant::now();
                self.draw(url).await?;
            }
        }
    }

    fn act(&mut self, step: Step) -> anyhow::Result<()> {
        let (here, away) = (self.places.delivered(), self.places.data.join("taken-away"));
        match step {
            Step::Rotate => {
                for program in &mut self.programs {
                    program.rotate().context("failed to rotate a log")?;
                }
            }
            Step::TakeAway => {
                fs::rename(&here, &away).context("failed to take the destination away")?;
                self.say("the destination is gone: the bus keeps what comes on its disk");
            }
            Step::GiveBack => {
                fs::rename(&away, &here).context("failed to give the destination back")?;
                self.say("the destination is back: what waited is delivered");
            }
            Step::End => {}
        }
        Ok(())
    }

    fn say(&mut self, headline: &'static str) {
        self.headline = headline;
        if !out::is_terminal() {
            out::line(headline);
        }
    }

    async fn draw(&mut self, url: &str) -> anyhow::Result<Vec<TopicCounts>> {
        let topics = table::fetch(url).await?;
        self.screen.draw(self.headline, &topics);
        Ok(topics)
    }

    /// Waits until every written line is delivered by the ledger, then compares all three: what was
    /// written, what the ledger says, what the files hold.
    async fn settle(&mut self, url: &str) -> anyhow::Result<()> {
        self.say("the programs stopped: the last lines arrive");
        let written: Vec<(&'static str, u64)> = self
            .programs
            .iter()
            .map(|program| (program.topic, program.written()))
            .collect();
        let deadline = Instant::now() + SETTLE_WITHIN;
        let topics = loop {
            let topics = self.draw(url).await?;
            if disagreements(&written, &topics).is_empty() || Instant::now() >= deadline {
                break topics;
            }
            sleep(Duration::from_millis(500)).await;
        };
        let mut faults = disagreements(&written, &topics);
        let delivered = self.places.delivered();
        let counted = written.clone();
        let found =
            tokio::task::spawn_blocking(move || check::read_back(&delivered, &counted)).await??;
        out::line(format_args!(
            "\n{:<12}{:>13}{:>13}{:>13}{:>10}{:>10}",
            "topic", "written", "delivered", "in files", "missing", "doubled"
        ));
        for &(topic, lines) in &written {
            let file = found[topic];
            let ledger = counts_of(&topics, topic);
            out::line(format_args!(
                "{topic:<12}{:>13}{:>13}{:>13}{:>10}{:>10}",
                count(lines),
                out::count(ledger.delivered),
                count(file.lines),
                count(file.missing),
                count(file.doubled),
            ));
            if file.missing + file.doubled + file.foreign > 0 || file.lines != lines {
                faults.push(format!("{topic}: the files hold {file:?} of {lines} lines"));
            }
        }
        if !faults.is_empty() {
            bail!("the counts do not agree: {}", faults.join("; "));
        }
        let total: u64 = written.iter().map(|(_, lines)| lines).sum();
        out::line(format_args!(
            "the counts agree: {} lines written, read, sent and delivered, each once; nothing lost, nothing doubled",
            count(total)
        ));
        Ok(())
    }
}

fn count(number: u64) -> String {
    out::count(i64::try_from(number).unwrap_or(i64::MAX))
}

fn counts_of(topics: &[TopicCounts], topic: &str) -> Counts {
    topics
        .iter()
        .find(|row| row.topic == topic)
        .map(|row| row.counts)
        .unwrap_or_default()
}

/// Where the ledger says something else than that each written line passed each hop once.
fn disagreements(written: &[(&'static str, u64)], topics: &[TopicCounts]) -> Vec<String> {
    let mut faults = Vec::new();
    for &(topic, lines) in written {
        let counts = counts_of(topics, topic);
        let lines = i64::try_from(lines).unwrap_or(i64::MAX);
        let whole = Counts {
            read: lines,
            sent: lines,
            received: lines,
            delivered: lines,
            // A repeat that was removed is no fault.
            duplicates_removed: counts.duplicates_removed,
            ..Counts::default()
        };
        if counts != whole {
            faults.push(format!(
                "{topic}: {lines} lines written, the ledger says {counts:?}"
            ));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_count_that_differs_is_named() {
        let row = |counts| {
            vec![TopicCounts {
                topic: "t".into(),
                counts,
            }]
        };
        let whole = Counts {
            read: 5,
            sent: 5,
            received: 5,
            delivered: 5,
            ..Counts::default()
        };
        let check = |counts, faults: usize| {
            assert_eq!(
                disagreements(&[("t", 5)], &row(counts)).len(),
                faults,
                "{counts:?}"
            );
        };
        check(whole, 0);
        check(
            Counts {
                duplicates_removed: 3,
                ..whole
            },
            0,
        );
        check(
            Counts {
                delivered: 4,
                in_flight: 1,
                ..whole
            },
            1,
        );
        check(
            Counts {
                doubled: 1,
                ..whole
            },
            1,
        );
        assert_eq!(disagreements(&[("t", 5)], &[]).len(), 1);
    }

    #[test]
    fn a_folder_of_somebody_else_is_never_emptied() {
        let folder = tempfile::tempdir().unwrap();
        let places = Places {
            data: folder.path().to_owned(),
            console: String::new(),
            bus: String::new(),
            bus_admin: String::new(),
            agent_admin: String::new(),
        };
        fs::write(folder.path().join("precious"), "x").unwrap();
        assert!(
            prepare(&places)
                .unwrap_err()
                .to_string()
                .contains("no demo made it")
        );
        fs::write(folder.path().join(MARK), "").unwrap();
        prepare(&places).unwrap();
        assert!(!folder.path().join("precious").try_exists().unwrap());
    }
}
