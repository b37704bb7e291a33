//! The files of one folder that are on their way: at most two, so that a file is written while the one
//! before it is closed, described and renamed.
//!
//! They get their names in their order. One that fails takes those behind it along: the batches of all of
//! them come again, so that the lines of a stream stand in the order of the files' names. Not for: what
//! is asked of HDFS (see [`super::super::upload`]), and the journal (see [`super`]).

use std::collections::VecDeque;

use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tributary_common::{
    header::MinuteCount,
    ids::{BatchId, Topic},
};

use super::super::{Waiting, encode::Encoder, manifest::Draft, names::Names, upload::Piece};
use crate::destination::{Done, Job};

/// The most files of a folder on their way. One is written while one comes to its end, which takes a
/// tenth of a second; a third would only hide an HDFS that is slower than what comes.
const MAX_FILES: usize = 2;

/// A batch whose lines are in a file.
pub(super) struct Held {
    pub(super) id: BatchId,
    pub(super) topic: Topic,
    pub(super) minutes: Vec<MinuteCount>,
    pub(super) range: (i64, i64),
    pub(super) done: Done,
}

/// What is kept of a file that takes batches.
pub(super) struct Open {
    pub(super) since: Instant,
    pub(super) encoder: Encoder,
    pub(super) draft: Draft,
    pub(super) pieces: mpsc::Sender<Piece>,
}

/// How far a file is.
pub(super) enum Stage {
    /// It takes batches.
    Open(Box<Open>),
    /// It has all of them, and is on its way to its end.
    Whole,
    /// It is given up; its task takes away what is there of it.
    GivenUp,
}

/// A file on its way.
pub(super) struct File {
    /// Its number in the journal.
    pub(super) no: u32,
    pub(super) names: Names,
    pub(super) stage: Stage,
    /// Told when the file before it has its name and the journal says so; dropped, it is given up.
    pub(super) turn: Option<oneshot::Sender<()>>,
    pub(super) held: Vec<Held>,
    pub(super) raw_bytes: i64,
}

impl File {
    pub(super) fn open(&mut self) -> Option<&mut Open> {
        match &mut self.stage {
            Stage::Open(open) => Some(open),
            Stage::Whole | Stage::GivenUp => None,
        }
    }

    /// Since when it takes batches.
    pub(super) fn since(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Open(open) => Some(open.since),
            Stage::Whole | Stage::GivenUp => None,
        }
    }

    /// Its task is told to give up, and that it never gets its turn.
    pub(super) fn give_up(&mut self) {
        self.stage = Stage::GivenUp;
        self.turn = None;
    }

    /// Nothing is before it.
    fn is_first(&mut self) {
        if let Some(turn) = self.turn.take() {
            // A task that has ended meanwhile says so by itself.
            turn.send(()).unwrap_or_default();
        }
    }
}

/// The files of a folder, oldest first. Only the last takes batches.
#[derive(Default)]
pub(super) struct Chain {
    files: VecDeque<File>,
    /// Batches that came when no file could take them: for the next one.
    pub(super) behind: VecDeque<(Job, Waiting)>,
    /// Why one of the files failed; those that are left only end.
    failed: Option<String>,
}

impl Chain {
    pub(super) fn len(&self) -> usize {
        self.files.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Whether a batch has to wait until a file has come to its end.
    pub(super) fn must_wait(&self) -> bool {
        match self.files.back().map(|file| &file.stage) {
            None | Some(Stage::Open(_)) => false,
            Some(Stage::Whole) => self.files.len() >= MAX_FILES || self.failed.is_some(),
            Some(Stage::GivenUp) => true,
        }
    }

    /// The file that takes batches.
    pub(super) fn open(&mut self) -> Option<&mut File> {
        let last = self.files.back_mut()?;
        last.since().is_some().then_some(last)
    }

    /// Since when a file takes batches.
    pub(super) fn since(&self) -> Option<Instant> {
        self.files.back().and_then(File::since)
    }

    /// Adds a file that takes batches.
    pub(super) fn push(&mut self, mut file: File) {
        if self.files.is_empty() {
            file.is_first();
        }
        self.files.push_back(file);
    }

    pub(super) fn get_mut(&mut self, no: u32) -> Option<&mut File> {
        self.files.iter_mut().find(|file| file.no == no)
    }

    /// A file has come to its end, and leaves; also how many are before it.
    pub(super) fn take(&mut self, no: u32) -> Option<(usize, File)> {
        let at = self.files.iter().position(|file| file.no == no)?;
        Some((at, self.files.remove(at)?))
    }

    /// The file before the first one is complete: that one may get its name.
    pub(super) fn go_on(&mut self) {
        if let Some(first) = self.files.front_mut() {
            first.is_first();
        }
    }

    /// A file failed, which has left: those behind it are given up. One before it, which is on its way to
    /// its end, may still be complete.
    pub(super) fn fail(&mut self, before: usize, why: &str) {
        self.failed.get_or_insert_with(|| why.to_owned());
        for file in self.files.iter_mut().skip(before) {
            file.give_up();
        }
    }

    /// Why one of the files failed.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failed.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot::{Receiver, error::TryRecvError};
    use tributary_common::ids::{Epoch, NodeId};

    use super::{super::super::Compression, *};

    /// A folder with two whole files, numbered 1 and 2, and what their tasks hear.
    fn two() -> (Chain, Receiver<()>, Receiver<()>) {
        let mut chain = Chain::default();
        let mut push = |no: u32| {
            assert!(!chain.must_wait(), "file {no} may begin");
            let (turn, its_turn) = oneshot::channel();
            let node = NodeId::new("bus1").unwrap();
            chain.push(File {
                no,
                names: Names::next("/logs", &node, Epoch(1), Compression::Zstd),
                stage: Stage::Whole,
                turn: Some(turn),
                held: Vec::new(),
                raw_bytes: 0,
            });
            its_turn
        };
        let (first, second) = (push(1), push(2));
        (chain, first, second)
    }

    #[test]
    fn files_get_their_turn_in_their_order() {
        let (mut chain, mut first, mut second) = two();
        assert!(chain.must_wait(), "two are enough");
        assert_eq!(first.try_recv(), Ok(()));
        assert_eq!(second.try_recv(), Err(TryRecvError::Empty));
        let (before, _file) = chain.take(1).unwrap();
        assert_eq!(before, 0);
        chain.go_on();
        assert_eq!(second.try_recv(), Ok(()));
        assert!(!chain.must_wait());
    }

    #[test]
    fn a_file_that_fails_takes_those_behind_it_along_and_none_before_it() {
        let (mut chain, _first, mut second) = two();
        let (before, _file) = chain.take(1).unwrap();
        chain.fail(before, "a reason");
        assert_eq!(second.try_recv(), Err(TryRecvError::Closed));
        assert!(chain.must_wait(), "the second one is still to end");

        let (mut chain, mut first, _second) = two();
        let (before, _file) = chain.take(2).unwrap();
        chain.fail(before, "a reason");
        assert_eq!(first.try_recv(), Ok(()));
        assert!(chain.must_wait(), "the first one is still to end");
        assert_eq!(chain.failure(), Some("a reason"));
    }
}
