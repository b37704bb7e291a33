//! A model of a file system against the real tailer: random writes, every way in which logs are
//! rotated, deleted, cut off and copied, an agent that stops, starts and is killed, a bus that has
//! moods, files whose times jump.
//!
//! What arrives equals what was written, byte for byte. A batch comes again only as the same batch.
//! Bytes are missing only where nature loses them, and then a loss says exactly which.
//!
//! `PROPTEST_CASES` sets how many lives are lived (48 without it); a life that failed is kept in
//! `main.proptest-regressions` beside this file and lived again first. Compressed files are not in it.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on says so"
)]

mod check;
mod life;
#[path = "../rig/mod.rs"]
#[expect(dead_code, reason = "the rig serves other tests as well")]
mod rig;
mod world;

use proptest::{
    prelude::*,
    test_runner::{
        Config, FileFailurePersistence, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner,
    },
};

/// Lives that are lived when nobody says otherwise.
const CASES: u32 = 48;
/// Lives at a time: they mostly wait.
const AT_ONCE: u32 = 6;
/// A failed life takes long: it is made shorter so many times only.
const SHRINKS: u32 = 24;

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
        3 => log().prop_map(|log| Act::CopyTruncate { log }),
        1 => (log(), any::<bool>()).prop_map(|(log, to_zero)| Act::Truncate { log, to_zero }),
        1 => (log(), 1u16..300).prop_map(|(log, lines)| Act::Rewrite { log, lines }),
        2 => log().prop_map(|log| Act::Delete { log }),
        1 => Just(Act::Swap),
        1 => (log(), any::<bool>()).prop_map(|(log, forward)| Act::Jump { log, forward }),
        2 => Just(Act::Stop),
        3 => Just(Act::Start),
        3 => any::<bool>().prop_map(|torn| Act::Kill { torn }),
        2 => (0u8..4).prop_map(Act::Mood),
        3 => (1u8..150).prop_map(Act::Wait),
    ]
}

/// Lives `cases` lives of one seed, and says which one failed.
fn live(seed: u8, inside: bool, cases: u32) -> Result<(), String> {
    let persistence = FileFailurePersistence::WithSource("proptest-regressions");
    let usual = Config::default();
    let config = Config {
        cases,
        max_shrink_iters: usual.max_shrink_iters.min(SHRINKS),
        failure_persistence: Some(Box::new(persistence)),
        source_file: Some(file!()),
        ..usual
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let lives = proptest::collection::vec(act(), 4..26);
    let result = runner.run(&lives, |acts| {
        life::live(&acts, inside).map_err(|why| {
            // Said before the life is made shorter: that takes long.
            println!("seed {seed}, copies in the pattern: {inside}: {why}\n{acts:?}");
            TestCaseError::fail(why)
        })
    });
    match result {
        Ok(()) => Ok(()),
        Err(TestError::Fail(why, acts)) => Err(format!(
            "seed {seed}, copies in the pattern: {inside}: {why}\n{acts:#?}"
        )),
        Err(TestError::Abort(why)) => Err(why.to_string()),
    }
}

#[test]
fn what_arrives_is_what_was_written_whatever_happens_to_the_files() {
    let cases = std::env::var("PROPTEST_CASES").map_or(CASES, |text| text.parse().unwrap());
    let failed: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_ONCE)
            .map(|at| {
                let mine = cases.div_ceil(AT_ONCE);
                scope.spawn(move || live(u8::try_from(at).unwrap(), at % 2 == 0, mine))
            })
            .collect();
        let results = threads.into_iter().map(|thread| thread.join().unwrap());
        results.filter_map(Result::err).collect()
    });
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
