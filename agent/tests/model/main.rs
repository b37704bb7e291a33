//! A model of a file system against the real tailer: random writes, every way in which logs are
//! rotated, deleted, cut off and copied, an agent that stops, starts and is killed, a bus that has
//! moods, files whose times jump.
//!
//! What arrives equals what was written, byte for byte. A batch comes again only as the same batch.
//! Bytes are missing only where nature loses them, and then a loss says exactly which.
//!
//! A second model has records of several lines, and files that change in the middle of them.
//!
//! `PROPTEST_CASES` sets how many random lives are lived (48 and 24 without it), `MODEL_SEED` which. Those
//! that failed once stand in `known` and are lived first, on every run: put a new one there.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on says so"
)]

mod check;
mod framed;
mod known;
mod life;
#[path = "../rig/mod.rs"]
#[expect(dead_code, reason = "the rig serves other tests as well")]
mod rig;
mod world;

use proptest::{
    prelude::*,
    test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner},
};

/// Lives that are lived when nobody says otherwise.
const CASES: u32 = 48;
/// The same of a log whose records have several lines.
const FRAMED_CASES: u32 = 24;
/// Lives at a time: they mostly wait.
const AT_ONCE: usize = 6;
/// A failed life takes long: it is made shorter so many times only.
const SHRINKS: u32 = 24;

/// What the task names of a log and of what rotation makes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Names {
    /// The log only.
    Log,
    /// Renamed files and copies, too.
    Renamed,
    /// Compressed files as well.
    All,
}

impl Names {
    const ALL: [Self; 3] = [Self::Log, Self::Renamed, Self::All];
}

/// What happens in a life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    /// The writer writes so many lines; `torn` leaves the last one unfinished for a moment.
    Write { log: usize, lines: u16, torn: bool },
    /// The writer writes on in the file that it had before the last rename.
    Late { log: usize },
    /// Renamed to a name that nobody had.
    Rename { log: usize },
    /// `.2` to `.3`, `.1` to `.2`, the log to `.1`.
    Chain { log: usize },
    /// The file that was renamed last is compressed.
    Gzip { log: usize },
    /// Copied, then cut to zero.
    CopyTruncate { log: usize },
    /// Cut to zero, or to a part.
    Truncate { log: usize, to_zero: bool },
    /// Written anew in place, with other content.
    Rewrite { log: usize, lines: u16 },
    /// Deleted.
    Delete { log: usize },
    /// A link in place of the log means another file now.
    Swap,
    /// The clock jumps: the file's time with it.
    Jump { log: usize, forward: bool },
    /// The agent stops in order.
    Stop,
    /// The agent starts, if it does not run.
    Start,
    /// The agent is killed, in the middle of a write to its checkpoint if `torn`.
    Kill { torn: bool },
    /// The same, and it stays away.
    Die { torn: bool },
    /// The bus answers in another way.
    Mood(u8),
    /// So many ms pass.
    Wait(u8),
}

fn act() -> impl Strategy<Value = Act> {
    let log = || 0..world::LOGS;
    prop_oneof![
        9 => (log(), 1u16..300, any::<bool>())
            .prop_map(|(log, lines, torn)| Act::Write { log, lines, torn }),
        2 => log().prop_map(|log| Act::Late { log }),
        2 => log().prop_map(|log| Act::Rename { log }),
        2 => log().prop_map(|log| Act::Chain { log }),
        2 => log().prop_map(|log| Act::Gzip { log }),
        3 => log().prop_map(|log| Act::CopyTruncate { log }),
        1 => (log(), any::<bool>()).prop_map(|(log, to_zero)| Act::Truncate { log, to_zero }),
        1 => (log(), 1u16..300).prop_map(|(log, lines)| Act::Rewrite { log, lines }),
        2 => log().prop_map(|log| Act::Delete { log }),
        1 => Just(Act::Swap),
        1 => (log(), any::<bool>()).prop_map(|(log, forward)| Act::Jump { log, forward }),
        2 => Just(Act::Stop),
        3 => Just(Act::Start),
        3 => any::<bool>().prop_map(|torn| Act::Kill { torn }),
        1 => any::<bool>().prop_map(|torn| Act::Die { torn }),
        2 => (0u8..4).prop_map(Act::Mood),
        3 => (1u8..150).prop_map(Act::Wait),
    ]
}

/// Lives `cases` lives of one seed that are made of `acts`, and says which one failed.
fn live<A: std::fmt::Debug + Clone>(
    (seed, cases): (u64, u32),
    act: impl Strategy<Value = A>,
    kind: impl std::fmt::Debug,
    live: impl Fn(&[A]) -> Result<(), String>,
) -> Result<(), String> {
    let usual = Config::default();
    let config = Config {
        cases,
        max_shrink_iters: usual.max_shrink_iters.min(SHRINKS),
        failure_persistence: None,
        ..usual
    };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let lives = proptest::collection::vec(act, 4..26);
    let result = runner.run(&lives, |acts| {
        live(&acts).map_err(|why| {
            // Said before the life is made shorter: that takes long.
            println!("seed {seed}, {kind:?}: {why}\n{acts:?}");
            TestCaseError::fail(why)
        })
    });
    match result {
        Ok(()) => Ok(()),
        Err(TestError::Fail(why, acts)) => Err(format!("seed {seed}, {kind:?}: {why}\n{acts:#?}")),
        Err(TestError::Abort(why)) => Err(why.to_string()),
    }
}

/// Lives the lives that went wrong once.
fn live_known() -> Vec<String> {
    std::thread::scope(|scope| {
        let lives = known::KNOWN.iter();
        let threads: Vec<_> = lives
            .map(|&(names, acts)| {
                let told = move |why| format!("{names:?}: {why}\n{acts:#?}");
                scope.spawn(move || life::live(acts, names).map_err(told))
            })
            .collect();
        let results = threads.into_iter().map(|thread| thread.join().unwrap());
        results.filter_map(Result::err).collect()
    })
}

#[test]
fn what_arrives_is_what_was_written_whatever_happens_to_the_files() {
    let failed = live_known();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    must_live(CASES, &Names::ALL, |names, seed| {
        live(seed, act(), names, |acts| life::live(acts, names))
    });
}

#[test]
fn records_that_go_on_in_the_next_file_are_whole_whatever_happens_meanwhile() {
    std::thread::scope(|scope| {
        scope.spawn(|| framed::live(framed::KNOWN, framed::Kind::Groups).unwrap());
        must_live(FRAMED_CASES, &framed::Kind::ALL, |kind, seed| {
            live(seed, framed::act(), kind, |acts| framed::live(acts, kind))
        });
    });
}

/// Lives so many lives, several at a time.
fn must_live<K: Copy + Send>(
    cases: u32,
    kinds: &[K],
    live: impl Fn(K, (u64, u32)) -> Result<(), String> + Copy + Send,
) {
    let cases = std::env::var("PROPTEST_CASES").map_or(cases, |text| text.parse().unwrap());
    let first: u64 = std::env::var("MODEL_SEED").map_or(0, |text| text.parse().unwrap());
    let mine = cases.div_ceil(u32::try_from(AT_ONCE).unwrap());
    let failed: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (first..)
            .zip(kinds.iter().copied().cycle().take(AT_ONCE))
            .map(|(seed, kind)| scope.spawn(move || live(kind, (seed, mine))))
            .collect();
        let results = threads.into_iter().map(|thread| thread.join().unwrap());
        results.filter_map(Result::err).collect()
    });
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
