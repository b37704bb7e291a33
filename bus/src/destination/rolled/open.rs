//! The thread that opens batches: it makes of each the lines that go into a file.
//!
//! So that the destination's thread, which compresses, has them ready: opening is a quarter of the work. It is
//! a few batches ahead, so little is held open. Not for: which file they go into (see [`super::worker`]).

use std::thread::JoinHandle;

use anyhow::Context as _;
use crossbeam_channel::{Receiver, Sender, bounded};
use tokio::time::Instant;
use tributary_common::{batch::Decoder, ids::Name};

use super::Waiting;
use crate::destination::{Failure, Job};

/// Opened batches that wait for the destination's thread.
const AHEAD: usize = 2;
/// Memory of lines that is kept for the next ones: of those that wait, of one in each thread.
const SPARES: usize = AHEAD + 2;

/// What the destination is told.
#[derive(Debug)]
pub(super) enum Order {
    /// A batch.
    Job(Job, Waiting),
    /// Complete what is open until then, and stop: nothing behind it is taken.
    Close(Instant),
}

/// What its thread hears.
#[derive(Debug)]
pub(super) enum Message {
    /// A batch and its lines, each with a newline, or why it cannot be opened.
    Job(Job, Waiting, Result<Vec<u8>, Failure>),
    /// See [`Order::Close`].
    Close(Instant),
}

/// What opens batches, and the memory that it uses again.
pub(super) struct Opener {
    decoder: Decoder,
    give: Sender<Vec<u8>>,
    take: Receiver<Vec<u8>>,
}

impl Opener {
    /// The lines of a batch, each with a newline.
    ///
    /// # Errors
    /// It cannot be opened.
    pub(super) fn lines(&mut self, job: &Job) -> Result<Vec<u8>, Failure> {
        let decoded = job.batch.open(&mut self.decoder)?;
        let mut lines = self.take.try_recv().unwrap_or_default();
        lines.clear();
        for record in decoded.records() {
            lines.extend_from_slice(record.value);
            lines.push(b'\n');
        }
        self.decoder.recycle(decoded);
        Ok(lines)
    }

    /// Takes memory back.
    pub(super) fn recycle(&self, lines: Vec<u8>) {
        // There may be enough of it.
        drop(self.give.try_send(lines));
    }

    fn with((give, take): (Sender<Vec<u8>>, Receiver<Vec<u8>>)) -> Self {
        Self {
            decoder: Decoder::new(),
            give,
            take,
        }
    }

    /// Opens what comes until the destination closes, or its thread is gone.
    fn run(mut self, orders: &Receiver<Order>, opened: &Sender<Message>) {
        for order in orders {
            let message = match order {
                Order::Job(job, waiting) => {
                    let lines = self.lines(&job);
                    Message::Job(job, waiting, lines)
                }
                Order::Close(until) => {
                    drop(opened.send(Message::Close(until)));
                    return;
                }
            };
            if opened.send(message).is_err() {
                return;
            }
        }
    }
}

/// The thread of a destination, once it is started.
pub(super) struct Started {
    /// To tell it what comes.
    pub(super) orders: Sender<Order>,
    /// What it says.
    pub(super) inbox: Receiver<Message>,
    /// One more, which uses the same memory.
    pub(super) opener: Opener,
    pub(super) thread: JoinHandle<()>,
}

/// Starts the thread of a destination.
///
/// # Errors
/// No threads left.
pub(super) fn start(name: &Name) -> anyhow::Result<Started> {
    // Bounded by the byte permits that the jobs carry.
    let (orders, incoming) = crossbeam_channel::unbounded();
    let (opened, inbox) = bounded(AHEAD);
    let spares = bounded(SPARES);
    let (own, opener) = (Opener::with(spares.clone()), Opener::with(spares));
    let thread = std::thread::Builder::new()
        .name(format!("files-open-{name}"))
        .spawn(move || own.run(&incoming, &opened))
        .context("failed to start a thread")?;
    Ok(Started {
        orders,
        inbox,
        opener,
        thread,
    })
}
