//! What is left of a batch that its topic does not take as it is, and the dead letters of the rest.
//!
//! Where the broker names the records that are the reason, they are left out. Where it does not, the batch is
//! cut in two, until the guilty record is alone; a merged one first comes apart into the batches that it was made
//! of. Not for: the order of the pieces (see [`super::lane`]), what is final (see [`super::meaning`]).

use std::sync::Arc;

use tributary_common::batch::{Decoder, MAX_DECODED_BYTES, Merger};

use super::{
    super::{super::Failure, produced::Flight},
    cargo::{Cargo, Inside, corrupt, encode, together},
    lane::Parcel,
    meaning::kind,
    says::Against,
};
use crate::dead::{Dead, alone};

type Pieces = Vec<Parcel<Arc<Cargo>>>;

/// A batch that was taken apart.
pub(super) enum Apart {
    /// All of its records are in the pieces.
    Halves(Pieces),
    /// Some are not: they become dead letters before the pieces are sent.
    Without(Rest),
}

/// What is left of a batch, and what is not.
#[derive(Default)]
pub(super) struct Rest {
    pub(super) pieces: Pieces,
    pub(super) dead: Vec<Dead>,
    /// Of which batches so many are dead.
    pub(super) of: Vec<(Arc<Flight>, u32)>,
}

/// Records that are left out: place in the batch, words.
type Unfit = [(u32, String)];

/// Takes a batch apart.
///
/// # Errors
/// When it cannot be opened.
pub(super) fn apart(
    cargo: &Cargo,
    against: &Against,
    (decoder, merger): (&mut Decoder, &mut Merger),
) -> Result<Apart, Failure> {
    let records = cargo.sealed.records();
    let mut named = match () {
        () if records == 1 => vec![(0, against.why.clone())],
        () if against.size => Vec::new(),
        () => against.records.clone(),
    };
    named.retain(|(place, _words)| *place < records);
    named.sort_by_key(|(place, _words)| *place);
    named.dedup_by_key(|(place, _words)| *place);
    let mut rest = Rest::default();
    if !named.is_empty() {
        match leave_out(cargo, (against, &named), (decoder, merger), &mut rest) {
            Ok(()) => return Ok(Apart::Without(rest)),
            Err(failure) if matches!(cargo.inside, Inside::One(..)) => return Err(failure),
            // One of many cannot be opened: it shall not spoil the others.
            Err(_of_one) => {}
        }
    }
    halves(cargo, decoder, merger).map(Apart::Halves)
}

/// The two halves of a batch, or of merged ones.
///
/// # Errors
/// When it cannot be opened.
pub(super) fn halves(
    cargo: &Cargo,
    decoder: &mut Decoder,
    merger: &mut Merger,
) -> Result<Pieces, Failure> {
    let (flight, places) = match &cargo.inside {
        Inside::One(flight, places) => (flight, places.as_deref()),
        Inside::Merged(parts) => {
            let (first, second) = parts.split_at(parts.len() / 2);
            let halves = [first, second].into_iter();
            return Ok(halves.flat_map(|half| together(half, merger)).collect());
        }
    };
    let records = cargo.sealed.records();
    let decoded = decoder
        .decode(&cargo.payload, MAX_DECODED_BYTES)
        .map_err(corrupt)?;
    let half = records.div_ceil(2);
    let mut pieces = Vec::new();
    for (skip, take) in [(0, half), (half, records - half)] {
        let records = (0..).zip(decoded.records());
        let records = records.skip(skip as usize).take(take as usize);
        let placed = records.map(|(at, record)| (place(places, at), record));
        let piece = encode(decoded.codec(), flight.id(), placed)?;
        pieces.push(Cargo::parcel(flight, &cargo.topic, cargo.partition, piece));
    }
    decoder.recycle(decoded);
    Ok(pieces)
}

/// The place in its batch of the record at `at` of a cargo.
fn place(places: Option<&[u32]>, at: u32) -> u32 {
    let known = places.and_then(|places| places.get(at as usize));
    known.copied().unwrap_or(at)
}

/// Takes records out of a batch.
fn leave_out(
    cargo: &Cargo,
    (against, unfit): (&Against, &Unfit),
    (decoder, merger): (&mut Decoder, &mut Merger),
    rest: &mut Rest,
) -> Result<(), Failure> {
    let (flight, places) = match &cargo.inside {
        Inside::One(flight, places) => (flight, places.as_deref()),
        Inside::Merged(parts) => {
            let (mut left, mut begin) = (Rest::default(), 0);
            for part in parts {
                let end = begin + part.records;
                let here = unfit
                    .iter()
                    .filter(|(at, _words)| (begin..end).contains(at));
                let here: Vec<_> = here
                    .map(|(at, words)| (at - begin, words.clone()))
                    .collect();
                begin = end;
                if here.is_empty() {
                    left.pieces.push(part.clone());
                    continue;
                }
                leave_out(&part.cargo, (against, &here), (decoder, merger), &mut left)?;
            }
            rest.pieces.extend(together(&left.pieces, merger));
            rest.dead.append(&mut left.dead);
            rest.of.append(&mut left.of);
            return Ok(());
        }
    };
    let decoded = decoder
        .decode(&cargo.payload, MAX_DECODED_BYTES)
        .map_err(corrupt)?;
    let words = |at: u32| {
        let found = unfit.binary_search_by_key(&at, |(at, _words)| *at).ok()?;
        unfit.get(found).map(|(_at, words)| words)
    };
    let header = flight.header();
    for (at, record) in (0..).zip(decoded.records()) {
        let Some(words) = words(at) else { continue };
        rest.dead.push(Dead {
            header: Arc::clone(header),
            at: place(places, at),
            target: cargo.topic.name.to_string(),
            payload: alone(header, &record).map_err(corrupt)?,
            status: against.code.unsigned_abs(),
            reason: reason(against, words),
        });
    }
    rest.of.push((
        Arc::clone(flight),
        u32::try_from(unfit.len()).unwrap_or(u32::MAX),
    ));
    if unfit.len() < decoded.len() as usize {
        let left = (0..)
            .zip(decoded.records())
            .filter(|(at, _record)| words(*at).is_none());
        let left = left.map(|(at, record)| (place(places, at), record));
        let piece = encode(decoded.codec(), flight.id(), left)?;
        let piece = Cargo::parcel(flight, &cargo.topic, cargo.partition, piece);
        rest.pieces.push(piece);
    }
    decoder.recycle(decoded);
    Ok(())
}

/// What a letter says: the error's name, then the words on the record, or on all of them.
fn reason(against: &Against, words: &str) -> String {
    let words = if words.is_empty() {
        &against.why
    } else {
        words
    };
    format!("{}: {words}", kind(against.code))
}
