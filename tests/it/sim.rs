//! Whole lives of agents and bus nodes on one thread, in paused time, by seed: links that are blocked
//! and break, nodes and agents that are killed, power that fails, destinations that are away or lose
//! their answers, clocks that jump. Nothing is missing, each node keeps the order of a stream, and what
//! is doubled could not be known; when the trouble is over everything is delivered. The same seed gives
//! the same trace.
//!
//! The code is the real one: checkpoint, window and sender of the agent, the bus from its door to its
//! journal and spill. Made up are lines, network, clock and destinations (see `world`), and the moments
//! when a thread has its turn.

mod oracle;
mod world;

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use tributary_tests::{cluster::for_each_seed, say};

use self::world::World;

/// Seeds of a run; `make soak` takes more.
const SEEDS: u64 = 200;
/// Every so many seeds one lives twice.
const TWICE_EVERY: u64 = 4;

/// One life of everything. Gives its trace.
fn live(seed: u64, folder: &Path) -> Result<Vec<String>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()?;
    fastrand::seed(seed);
    runtime.block_on(async {
        let mut world = World::begin(seed, folder)?;
        let result = match world.trouble().await {
            Ok(()) => world.settle().await,
            broken => broken,
        };
        let trace = world.trace();
        result.with_context(|| {
            let last = trace.len().saturating_sub(60);
            let last = trace.get(last..).unwrap_or_default().join("\n");
            format!("it ended so:\n{last}")
        })?;
        Ok(trace)
    })
}

fn is_the_same(first: &[String], second: &[String]) -> Result<()> {
    let differs = first.iter().zip(second).position(|(one, two)| one != two);
    ensure!(
        first == second,
        "the same seed gave another trace at event {differs:?} of {} and {}:\n{:?}\n{:?}",
        first.len(),
        second.len(),
        differs.and_then(|at| first.get(at)),
        differs.and_then(|at| second.get(at)),
    );
    Ok(())
}

#[test]
fn whatever_happens_everything_arrives_and_a_seed_always_gives_the_same_trace() -> Result<()> {
    let mut events = 0;
    let seeds = for_each_seed("sim", SEEDS, |seed, folder| {
        // On a disk that is none where there is one: the files are many and short-lived.
        let memory = Path::new("/dev/shm");
        let name = format!("tributary-sim-{}-{seed}", std::process::id());
        let folder = match memory.is_dir() {
            true => memory.join(name),
            false => folder.to_owned(),
        };
        let [first, second] = ["first", "second"].map(|one| folder.join(one));
        if seed % TWICE_EVERY != 0 {
            events += live(seed, &first)?.len();
            std::fs::remove_dir_all(&folder)?;
            return Ok(());
        }
        // Two threads: what is different from thread to thread must not decide anything.
        let (first, second) = std::thread::scope(|scope| {
            let first = scope.spawn(|| live(seed, &first));
            let second = live(seed, &second);
            (first.join(), second)
        });
        std::fs::remove_dir_all(&folder)?;
        let first = first.map_err(|_panic| anyhow::anyhow!("it panicked"))??;
        is_the_same(&first, &second?)?;
        events += first.len();
        Ok(())
    })?;
    say(&format!("{seeds} seeds, {events} events"));
    Ok(())
}
