//! The thread that writes the segments of one destination.
//!
//! # Operation
//! It takes all batches that are ready, appends them, syncs once, and tells of each where it lies:
//! the acknowledgement leaves after the sync. While it syncs, the next group gathers. When a write
//! or a sync fails, the segment is given up and the group is written once more to a new one, for
//! after a failed sync nobody knows what the disk has; when that fails too, the group is not taken.
//! Batches behind one that did not fit are not taken either.
//!
//! Not for: which batches (see [`super::queue`]).

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::Duration,
};

use tokio::time::Instant;
use tributary_common::{
    disk::{AppendFile, DiskError},
    ids::BatchId,
};

use super::{
    format::{self, drained_header, heads_header, segment_header},
    queue::Place,
    store::Store,
};
use crate::{config::WhenFull, destination::Accepted};

/// Bytes of a group at most: bounds how long its first batch waits for the disk.
const GROUP_BYTES: usize = 32 << 20;
/// Bytes that are gathered for one write.
const WRITE_BYTES: usize = 4 << 20;
/// How often drained records are noted and segments removed.
const TIDY_EVERY: Duration = Duration::from_secs(1);

/// A batch to write.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) order: u64,
    pub(super) target: Arc<str>,
    pub(super) batch: Arc<Accepted>,
}

/// What the thread is told. Bounded by the byte permits that the batches carry.
#[derive(Debug)]
pub(super) enum Command {
    /// A batch.
    Write(Write),
    /// The last word.
    Close,
}

/// What became of a batch.
pub(super) type Written = (BatchId, Result<Place, String>);

/// The segment that is being written.
struct Active {
    number: u64,
    file: AppendFile,
}

/// The thread's state.
pub(super) struct Writer {
    store: Arc<Store>,
    active: Option<Active>,
    /// Since when writing fails, said once.
    failing: bool,
}

impl Writer {
    pub(super) fn new(store: Arc<Store>) -> Self {
        Self {
            store,
            active: None,
            failing: false,
        }
    }

    /// Works until it is told to close; `told` hears what became of each batch, `drop_oldest` makes
    /// room where that is allowed, and says whether it did.
    pub(super) fn run(
        mut self,
        incoming: &Receiver<Command>,
        told: impl Fn(Vec<Written>),
        drop_oldest: impl Fn() -> bool,
    ) {
        let mut tidied = Instant::now();
        let mut closed = false;
        while !closed {
            let first = match incoming.recv_timeout(TIDY_EVERY) {
                Ok(first) => Some(first),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            closed = self.turn((first, incoming), &told, &drop_oldest);
            if tidied.elapsed() >= TIDY_EVERY {
                self.tidy(false);
                tidied = Instant::now();
            }
        }
        self.tidy(true);
    }

    /// Writes what is there; whether it was told to close.
    pub(super) fn turn(
        &mut self,
        (first, more): (Option<Command>, &Receiver<Command>),
        told: impl Fn(Vec<Written>),
        drop_oldest: impl Fn() -> bool,
    ) -> bool {
        let (mut group, mut bytes, mut closed) = (Vec::new(), 0, false);
        let mut next = first;
        while let Some(command) = next {
            match command {
                Command::Write(write) => {
                    bytes += write.batch.payload.len();
                    group.push(write);
                }
                Command::Close => closed = true,
            }
            next = match bytes < GROUP_BYTES && !closed {
                true => more.try_recv().ok(),
                false => None,
            };
        }
        if !group.is_empty() {
            if self.store.usage().when_full() == WhenFull::DropOldest {
                self.make_room(&group, &drop_oldest);
            }
            let written = self.write(&group);
            let heads = self.heads(&group, &written);
            told(written);
            self.note_heads(heads);
        }
        closed
    }

    /// What is to be said of the written batches beside their segments.
    fn heads(&self, group: &[Write], written: &[Written]) -> BTreeMap<u64, Vec<u8>> {
        let mut heads = BTreeMap::<u64, Vec<u8>>::new();
        for (write, (_id, result)) in group.iter().zip(written) {
            if let Ok(place) = result {
                let out = heads.entry(place.segment).or_default();
                let (at, header) = ((place.at, place.bytes), &write.batch.header);
                format::encode_head(at, write.order, &write.target, header, out);
            }
        }
        heads
    }

    /// Writes it, behind the acknowledgements and without a sync: only damage needs it.
    fn note_heads(&self, heads: BTreeMap<u64, Vec<u8>>) {
        for (number, bytes) in heads {
            let header = heads_header();
            if let Err(error) = note(&self.store.heads_path(number), &header, &bytes) {
                tracing::warn!(%error, "what was spilled cannot be noted beside its segment");
            }
            self.store.grown(number, bytes.len() as u64);
        }
    }

    /// Writes a group and syncs it.
    fn write(&mut self, group: &[Write]) -> Vec<Written> {
        let (fits, why) = self.fits(group);
        let (taken, late) = group.split_at(fits);
        let mut written = match self.attempt(taken) {
            Ok(places) => {
                if std::mem::take(&mut self.failing) {
                    tracing::info!("the spill can be written again");
                }
                Self::kept(&self.store, taken, places)
            }
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::error!(%error, "the spill cannot be written; batches are answered Busy");
                }
                let why = error.to_string();
                let failed = taken.iter().map(|write| (id_of(write), Err(why.clone())));
                failed.collect()
            }
        };
        if !late.is_empty() {
            self.store.usage().was_full(&why);
        }
        let refused = late.iter().map(|write| (id_of(write), Err(why.clone())));
        written.extend(refused);
        written
    }

    fn kept(store: &Store, taken: &[Write], places: Vec<Place>) -> Vec<Written> {
        let kept = taken.iter().zip(places).map(|(write, place)| {
            store.kept(place.segment);
            (id_of(write), Ok(place))
        });
        kept.collect()
    }

    /// Gives up the oldest segments until the group fits, or there are none.
    fn make_room(&mut self, group: &[Write], drop_oldest: &impl Fn() -> bool) {
        while self.fits(group).0 < group.len() {
            if !drop_oldest() {
                // The one that is being written may be all there is.
                if self.active.is_none() {
                    return;
                }
                self.give_up_segment();
            }
        }
    }

    /// How many batches from the first there is room for, and why not for more.
    fn fits(&self, group: &[Write]) -> (usize, String) {
        let usage = self.store.usage();
        // What comes behind one that did not fit is not taken either: its stream's order.
        let room = match usage.admits().and_then(|()| usage.room()) {
            Ok(room) => room,
            Err(why) => return (0, why),
        };
        let mut bytes = 0;
        let fit = group.iter().take_while(|write| {
            bytes += record_bytes(write);
            bytes <= room
        });
        let (used, max) = (usage.used(), usage.max());
        let why = match max.saturating_sub(used) > room {
            true => format!("the spill is full: its disk has room for {room} more bytes"),
            false => format!("the spill is full: {used} of {max} bytes"),
        };
        (fit.count(), why)
    }

    /// Writes and syncs; a second time, to another segment, when the first fails.
    fn attempt(&mut self, group: &[Write]) -> Result<Vec<Place>, DiskError> {
        match self.append_and_sync(group) {
            Ok(places) => Ok(places),
            Err(error) => {
                self.give_up_segment();
                if error.is_full() {
                    return Err(error);
                }
                tracing::warn!(%error, "a segment is given up; its last batches are written again");
                self.append_and_sync(group)
                    .inspect_err(|_error| self.give_up_segment())
            }
        }
    }

    fn give_up_segment(&mut self) {
        if let Some(active) = self.active.take() {
            self.store.seal(active.number);
        }
    }

    fn append_and_sync(&mut self, group: &[Write]) -> Result<Vec<Place>, DiskError> {
        let mut places = Vec::with_capacity(group.len());
        let mut buffer = Vec::new();
        for write in group {
            let active = match self.active.take() {
                Some(active) => self.active.insert(active),
                None => self.active.insert(begin(&self.store)?),
            };
            let at = active.file.len() + buffer.len() as u64;
            let header = &write.batch.header;
            let payload = &write.batch.payload;
            let bytes = format::encode(write.order, &write.target, header, payload, &mut buffer);
            let Some(bytes) = bytes else {
                return Err(DiskError {
                    doing: "append to",
                    path: active.file.path().to_owned(),
                    source: std::io::Error::other("a batch's header is too long"),
                });
            };
            places.push(Place {
                segment: active.number,
                at,
                bytes,
            });
            let end = at + u64::from(bytes);
            let full = end >= self.store.usage().segment_bytes;
            if full || buffer.len() >= WRITE_BYTES {
                flush(&self.store, active, &mut buffer)?;
            }
            if full {
                active.file.sync()?;
                let number = active.number;
                self.active = None;
                self.store.seal(number);
            }
        }
        if let Some(active) = &mut self.active {
            flush(&self.store, active, &mut buffer)?;
            active.file.sync()?;
        }
        Ok(places)
    }

    /// Notes what is drained, gives up a segment with nothing in it, removes what is drained.
    pub(super) fn tidy(&mut self, last: bool) {
        if let Some(active) = &self.active
            && (last || self.store.is_idle(active.number))
        {
            self.store.seal(active.number);
            self.active = None;
        }
        for (path, offsets) in self.store.take_unnoted() {
            let entries: Vec<u8> = offsets.into_iter().flat_map(format::drained).collect();
            if let Err(error) = note(&path, &drained_header(), &entries) {
                // The journal knows what is delivered; the notes outlive its memory.
                tracing::warn!(%error, "what is drained cannot be noted");
            }
        }
        self.store.tidy(false);
    }
}

fn id_of(write: &Write) -> BatchId {
    write.batch.header.id()
}

/// What a batch takes on the disk, about.
fn record_bytes(write: &Write) -> u64 {
    const HEADER_BYTES: u64 = 512;
    write.batch.payload.len() as u64 + HEADER_BYTES
}

fn begin(store: &Store) -> Result<Active, DiskError> {
    let (number, path) = store.begin();
    let begun = AppendFile::create(&path).and_then(|mut file| {
        file.append(&segment_header())?;
        Ok(file)
    });
    match begun {
        Ok(file) => {
            store.grown(number, file.len());
            Ok(Active { number, file })
        }
        Err(error) => {
            store.seal(number);
            Err(error)
        }
    }
}

fn flush(store: &Store, active: &mut Active, buffer: &mut Vec<u8>) -> Result<(), DiskError> {
    if !buffer.is_empty() {
        active.file.append(buffer)?;
        store.grown(active.number, buffer.len() as u64);
        buffer.clear();
    }
    Ok(())
}

fn note(path: &Path, header: &[u8], entries: &[u8]) -> Result<(), DiskError> {
    let mut file = AppendFile::open(path)?;
    if file.is_empty() {
        file.append(&[header, entries].concat()).map(drop)
    } else {
        file.append(entries).map(drop)
    }
}
