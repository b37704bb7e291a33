//! One life: the acts are done to the folder, the agent and the bus, then all is compared.

use std::{path::PathBuf, time::Duration};

use tokio::time::{Instant, sleep};

use crate::{
    Act, Names,
    check::{Wrong, check},
    rig::{Agent, Manner, Place},
    world::{Fate, LINK, World},
};

/// What arrives late on a busy machine is waited for so long.
const PATIENCE: Duration = Duration::from_secs(45);
/// Facts are kept for a manager; nobody listens there, so all of them are in the checkpoint.
pub(crate) const MANAGER: &str = "[manager]\nurl = \"http://127.0.0.1:9\"";

struct Life {
    place: Place,
    world: World,
    elsewhere: PathBuf,
    names: Names,
    state: PathBuf,
    agent: Option<Agent>,
}

/// Lives a life on a runtime of its own.
pub(crate) fn live(acts: &[Act], names: Names) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let result = runtime.block_on(async {
        let mut life = Life::begin(names).await;
        for &act in acts {
            life.act(act).await?;
        }
        life.end().await
    });
    runtime.shutdown_timeout(Duration::from_secs(5));
    result
}

impl Life {
    async fn begin(names: Names) -> Self {
        let place = Place::new().await;
        let elsewhere = place.dir.path().join("elsewhere");
        let world = World::new(&place.log(""), &elsewhere);
        let mut life = Self {
            world,
            elsewhere,
            names,
            state: place.state(),
            place,
            agent: None,
        };
        life.start();
        life
    }

    fn start(&mut self) {
        if self.agent.is_none() {
            let (paths, exclude) = match self.names {
                Names::Log => ("*.log", "**/*.tmp"),
                Names::Renamed => ("*.log*", "**/*.{gz,tmp}"),
                Names::All => ("*.log*", "**/*.tmp"),
            };
            let more = format!("exclude = [{exclude:?}]\n{MANAGER}");
            let config = self.place.config_at(&self.state, paths, &more);
            self.agent = Some(Agent::start(&config));
        }
    }

    fn arrived_bytes(&self, content: usize) -> usize {
        let needle = format!(" of {content} ");
        let lines = self.place.bus.lines();
        let of_it = lines.iter().filter(|line| line.contains(&needle));
        of_it.map(String::len).sum()
    }

    async fn until(&self, what: &str, done: impl Fn() -> bool) -> Result<(), String> {
        let until = Instant::now() + PATIENCE;
        while !done() {
            if Instant::now() > until {
                return Err(format!("waited for {what} in vain"));
            }
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Whether the agent knows the log's file. What nobody has seen under its name cannot be followed,
    /// so that is waited for while the agent runs.
    async fn is_known(&self, log: usize) -> Result<bool, String> {
        let Some(content) = self.world.current(log) else {
            return Ok(false);
        };
        if self.agent.is_none() {
            return Ok(self.arrived_bytes(content) > 0);
        }
        self.place.bus.manner(Manner::Take);
        let seen = || self.arrived_bytes(content) > 0;
        self.until("the agent to see a log", seen).await?;
        Ok(true)
    }

    /// What becomes of the log's file when no name is left: a running agent that has it open reads it
    /// to its end.
    async fn fate_without_name(&mut self, log: usize) -> Result<Option<Fate>, String> {
        let Some(content) = self.world.current(log) else {
            return Ok(None);
        };
        if self.agent.is_none() {
            // Without the file that was cut off, nothing but content ties a copy to it: that is no
            // proof, so the copy may be read as a file of its own, or not at all.
            return Ok((!self.world.was_copied(log)).then_some(Fate::MayEnd));
        }
        self.place.bus.manner(Manner::Take);
        // A line that arrives in this life proves that it is open.
        let before = self.place.bus.arrived().len();
        self.world.write(log, 1, false);
        let needle = format!(" of {content} ");
        let open = || {
            let arrived = self.place.bus.arrived();
            let new = arrived.iter().skip(before).flat_map(|batch| &batch.lines);
            new.into_iter().any(|line| line.contains(&needle))
        };
        self.until("the agent to open a log", open).await?;
        self.world.write(log, 40, false);
        Ok(Some(Fate::Arrives))
    }

    async fn act(&mut self, act: Act) -> Result<(), String> {
        match act {
            Act::Write { log, lines, torn } => {
                self.world.write(log, lines, torn);
                self.world.write(LINK, 1 + lines / 10, false);
            }
            Act::Late { log } => self.world.late(log),
            Act::Rename { log } if self.is_known(log).await? => self.world.rename(log),
            Act::Chain { log } if self.is_known(log).await? => self.world.chain(log),
            Act::CopyTruncate { log } if self.is_known(log).await? => {
                self.world.copy_truncate(log);
            }
            Act::Truncate { log, to_zero } if self.is_known(log).await? => {
                self.world.truncate(log, to_zero);
            }
            Act::Rewrite { log, lines } if self.is_known(log).await? => {
                self.world.rewrite(log, lines);
            }
            Act::Gzip { log } => self.world.gzip(log),
            Act::Rename { .. }
            | Act::Chain { .. }
            | Act::CopyTruncate { .. }
            | Act::Truncate { .. }
            | Act::Rewrite { .. } => {}
            Act::Delete { log } => {
                if let Some(fate) = self.fate_without_name(log).await? {
                    self.world.delete(log, fate);
                }
            }
            Act::Swap => {
                if let Some(fate) = self.fate_without_name(LINK).await? {
                    self.world.swap(&self.elsewhere, fate);
                }
            }
            Act::Jump { log, forward } => self.world.jump(log, forward),
            Act::Stop => {
                if let Some(agent) = self.agent.take() {
                    self.place.bus.end_silence();
                    agent.stop().await;
                    self.world.agent_ends();
                }
            }
            Act::Start => self.start(),
            Act::Kill { torn } | Act::Die { torn } => {
                if let Some(agent) = self.agent.take() {
                    self.state = agent.kill(&self.place.bus, &self.state, torn).await;
                    self.world.agent_ends();
                    if matches!(act, Act::Kill { .. }) {
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
            Act::Wait(ms) => sleep(Duration::from_millis(ms.into())).await,
        }
        Ok(())
    }

    async fn end(mut self) -> Result<(), String> {
        self.world.finish();
        self.place.bus.manner(Manner::Take);
        self.start();
        let until = Instant::now() + PATIENCE;
        while let Err(wrong) = check(&self.place.bus.arrived(), None, &self.world.contents) {
            if matches!(wrong, Wrong::Never(_)) || Instant::now() > until {
                return Err(wrong.why());
            }
            sleep(Duration::from_millis(50)).await;
        }
        if let Some(agent) = self.agent.take() {
            agent.stop().await;
        }
        let known = tributary_agent::checkpoint::inspect(&self.state).unwrap();
        check(
            &self.place.bus.arrived(),
            Some(&known.losses),
            &self.world.contents,
        )
        .map_err(Wrong::why)
    }
}
