//! A bulk request and what the server says of each document in it.
//!
//! # Constraints
//! Every document's result counts, and there must be one for each: an answer with another number of
//! results is none. What may come again is sent again, under the same id; the rest is a dead letter.
//!
//! Meaning of a result: 200 and 201 created; 409 it is there already; 429 and 5xx later; 403 with a block of
//! the index later, when somebody has lifted it; 401 and other 403 not for these credentials; all
//! else never.
//!
//! Pure. Not for: sending (see [`super::worker`]).

use bytes::Bytes;
use flate2::{Compress, Compression, FlushCompress, Status};
use serde::Deserialize;

/// What the server shall say: fewer bytes than the documents had.
pub(super) const FILTER: &str = "filter_path=errors,items.*.status,items.*.error.type,\
                                 items.*.error.reason,items.*.error.caused_by.reason";
/// The longest reason that is kept, in bytes.
const MAX_REASON: usize = 600;
/// 32 KiB, the largest that gzip has.
const WINDOW_BITS: u8 = 15;
/// So many times smaller documents are when they are packed, mostly.
const USUAL_RATIO: usize = 3;
/// The room that a packed body gets at least, in bytes.
const LEAST_PACKED: usize = 4096;
/// What the server says of a document that it has now.
const CREATED: &[u8] = br#"{"create":{"status":201}}"#;

/// Where a document stands in the text.
#[derive(Debug, Clone, Copy)]
pub(super) struct At {
    /// Its first byte.
    pub(super) start: usize,
    /// The byte after its last one.
    pub(super) end: usize,
    /// The number of its batch in the group.
    pub(super) job: usize,
    /// Its place in that batch.
    pub(super) place: u32,
}

/// The documents of a group of batches, while they are written.
#[derive(Debug, Default)]
pub(super) struct Pile {
    pub(super) text: Vec<u8>,
    pub(super) at: Vec<At>,
}

impl Pile {
    /// One more document, which `write` adds to the text.
    #[inline]
    pub(super) fn add(&mut self, (job, place): (usize, u32), write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.text.len();
        write(&mut self.text);
        let end = self.text.len();
        self.at.push(At {
            start,
            end,
            job,
            place,
        });
    }

    /// All of them, to be sent.
    pub(super) fn done(self) -> Docs {
        Docs {
            text: self.text.into(),
            at: self.at,
        }
    }
}

/// The documents of a group of batches, as text.
#[derive(Debug)]
pub(super) struct Docs {
    text: Bytes,
    pub(super) at: Vec<At>,
}

impl Docs {
    /// So many of `left` as fit into a request of `max_bytes`, at least one.
    pub(super) fn fitting(&self, left: &[usize], max_bytes: usize) -> usize {
        let all = left.len();
        if all == self.at.len() && all <= super::MAX_DOCUMENTS && self.text.len() <= max_bytes {
            return all;
        }
        let mut bytes = 0;
        let fits = left.iter().take_while(|no| {
            let long = self.at.get(**no).map_or(0, |at| at.end - at.start);
            bytes += long;
            bytes <= max_bytes
        });
        fits.count().clamp(1, super::MAX_DOCUMENTS).min(all)
    }

    /// The body of a request with these documents: without a copy where they stand in a row.
    pub(super) fn body(&self, which: &[usize]) -> Bytes {
        let place = |no: &usize| self.at.get(*no).map(|at| at.start..at.end);
        let whole = which
            .first()
            .and_then(place)
            .zip(which.last().and_then(place));
        if let Some((first, last)) = whole
            && which.is_sorted_by(|before, no| before + 1 == *no)
        {
            return self.text.slice(first.start..last.end);
        }
        let pieces = || which.iter().filter_map(place).map(|at| self.text.slice(at));
        let mut body = Vec::with_capacity(pieces().map(|piece| piece.len()).sum());
        pieces().for_each(|piece| body.extend_from_slice(&piece));
        body.into()
    }

    /// The memory of documents that are through, for others.
    pub(super) fn recycle(self) -> Pile {
        let Self { text, mut at } = self;
        // A request that was given up may still be with its connection.
        let mut text = match text.is_unique() {
            true => Vec::from(text),
            false => Vec::new(),
        };
        text.clear();
        at.clear();
        Pile { text, at }
    }
}

/// Packs bodies with gzip, as quickly as it can.
#[derive(Debug)]
pub(super) struct Packer(Compress);

impl Packer {
    pub(super) fn new() -> Self {
        Self(Compress::new_gzip(Compression::fast(), WINDOW_BITS))
    }

    /// A body, packed; `None` where that fails, of which no cause is known.
    pub(super) fn pack(&mut self, body: &[u8]) -> Option<Bytes> {
        self.0.reset();
        let mut packed = Vec::with_capacity(body.len() / USUAL_RATIO + LEAST_PACKED);
        let mut left = body;
        loop {
            let before = self.0.total_in();
            let status = self
                .0
                .compress_vec(left, &mut packed, FlushCompress::Finish)
                .ok()?;
            let taken = usize::try_from(self.0.total_in() - before).ok()?;
            left = left.get(taken..)?;
            match status {
                Status::StreamEnd => return Some(packed.into()),
                Status::Ok | Status::BufError => {
                    packed.reserve(left.len() / USUAL_RATIO + LEAST_PACKED);
                }
            }
        }
    }
}

/// What the server did with a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It has it now.
    Created,
    /// It had it before.
    Known,
    /// Not now.
    Later(String),
    /// Not before somebody lifts a block.
    Blocked(String),
    /// Not with these credentials.
    Denied(String),
    /// Never as it is.
    Dead(u16, String),
}

#[derive(Debug, Deserialize)]
struct Answer {
    #[serde(default)]
    items: Vec<Item>,
}

#[derive(Debug, Deserialize)]
struct Item {
    create: Ended,
}

#[derive(Debug, Deserialize)]
struct Ended {
    status: u16,
    #[serde(default)]
    error: Option<Fault>,
}

/// An error as the server says it.
#[derive(Debug, Default, Deserialize)]
struct Fault {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    caused_by: Option<Box<Fault>>,
}

impl Fault {
    fn text(&self) -> String {
        let mut parts = vec![self.kind.as_str()];
        let mut next = Some(self);
        while let Some(fault) = next {
            // A cause often says what its effect said.
            let reason = fault.reason.as_deref();
            parts.extend(reason.filter(|reason| !parts.contains(reason)));
            next = fault.caused_by.as_deref();
        }
        shortened(&parts.join(": "))
    }
}

/// The first bytes of a text.
fn shortened(text: &str) -> String {
    text.get(..text.floor_char_boundary(MAX_REASON))
        .unwrap_or_default()
        .to_owned()
}

/// Whether an answer says of each of `count` documents that it was created: what it mostly does, so that it
/// is found out without a parse. An answer that says so in other words is left to [`verdicts`].
pub(super) fn all_created(body: &[u8], count: usize) -> bool {
    let items = body
        .strip_prefix(br#"{"errors":false,"items":["#)
        .and_then(|rest| rest.strip_suffix(b"]}"));
    let Some(items) = items else { return false };
    let (each, last) = (CREATED.len() + 1, items.len().saturating_sub(CREATED.len()));
    let (but_last, last) = items.split_at(last);
    count.checked_sub(1).map(|others| others * each) == Some(but_last.len())
        && last == CREATED
        && but_last
            .chunks_exact(each)
            .all(|item| item.strip_suffix(b",") == Some(CREATED))
}

/// What an answer says of `count` documents; `None` when it is no answer to them.
pub(super) fn verdicts(body: &[u8], count: usize) -> Option<Vec<Verdict>> {
    let answer: Answer = serde_json::from_slice(body).ok()?;
    if answer.items.len() != count {
        return None;
    }
    Some(
        answer
            .items
            .into_iter()
            .map(|item| verdict(item.create))
            .collect(),
    )
}

fn verdict(ended: Ended) -> Verdict {
    let fault = ended.error.unwrap_or_default();
    let why = || match fault.kind.is_empty() {
        true => format!("status {}", ended.status),
        false => fault.text(),
    };
    match ended.status {
        200 | 201 => Verdict::Created,
        409 => Verdict::Known,
        429 | 500..=599 => match fault.kind.as_str() {
            // A disk that is nearly full.
            "cluster_block_exception" => Verdict::Blocked(why()),
            _other => Verdict::Later(why()),
        },
        403 if fault.kind == "cluster_block_exception" => Verdict::Blocked(why()),
        401 | 403 => Verdict::Denied(why()),
        status => Verdict::Dead(status, why()),
    }
}

/// What the server says where it refuses a whole request.
pub(super) fn fault_of(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Whole {
        error: Fault,
    }
    match serde_json::from_slice::<Whole>(body) {
        Ok(whole) => whole.error.text(),
        Err(_other_words) => shortened(&String::from_utf8_lossy(body)).trim().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;
    use proptest::prelude::*;

    use super::*;

    /// Documents of so many bytes, each of its number.
    fn docs(sizes: &[usize]) -> Docs {
        let mut pile = Pile::default();
        for (no, size) in sizes.iter().enumerate() {
            let byte = u8::try_from(no).unwrap();
            pile.add((0, 0), |text| text.extend(std::iter::repeat_n(byte, *size)));
        }
        pile.done()
    }

    #[test]
    fn memory_comes_back_unless_a_request_still_has_it() {
        let made = docs(&[100; 100]);
        let body = made.body(&[0]);
        assert_eq!(made.recycle().text.capacity(), 0);
        drop(body);
        assert!(docs(&[100; 100]).recycle().text.capacity() >= 10_000);
    }

    #[test]
    fn what_does_not_get_smaller_is_packed_too() {
        let mut random = fastrand::Rng::with_seed(1);
        let body: Vec<u8> = std::iter::repeat_with(|| random.u8(..))
            .take(100_000)
            .collect();
        for body in [&body[..], b""] {
            let packed = Packer::new().pack(body).unwrap();
            let mut read = Vec::new();
            GzDecoder::new(&packed[..]).read_to_end(&mut read).unwrap();
            assert_eq!(read, body);
        }
    }

    #[test]
    fn every_result_has_its_meaning() {
        let check = |status: u16, kind: &str, want: Verdict| {
            let error = match kind {
                "" => String::new(),
                kind => format!(
                    r#","error":{{"type":"{kind}","reason":"r","caused_by":{{"type":"x","reason":"c"}}}}"#
                ),
            };
            let body =
                format!(r#"{{"errors":true,"items":[{{"create":{{"status":{status}{error}}}}}]}}"#);
            assert_eq!(verdicts(body.as_bytes(), 1), Some(vec![want]), "{body}");
        };
        let why = |kind: &str| format!("{kind}: r: c");
        check(201, "", Verdict::Created);
        let conflict = "version_conflict_engine_exception";
        check(409, conflict, Verdict::Known);
        let rejected = "rejected_execution_exception";
        check(429, rejected, Verdict::Later(why(rejected)));
        check(503, "", Verdict::Later("status 503".into()));
        check(500, "i_o_exception", Verdict::Later(why("i_o_exception")));
        let block = "cluster_block_exception";
        check(403, block, Verdict::Blocked(why(block)));
        check(429, block, Verdict::Blocked(why(block)));
        let security = "security_exception";
        check(403, security, Verdict::Denied(why(security)));
        let parsing = "mapper_parsing_exception";
        check(400, parsing, Verdict::Dead(400, why(parsing)));
        let missing = "index_not_found_exception";
        check(404, missing, Verdict::Dead(404, why(missing)));
    }

    #[test]
    fn an_answer_to_other_documents_is_none() {
        let one = br#"{"errors":false,"items":[{"create":{"status":201}}]}"#;
        assert_eq!(verdicts(one, 1), Some(vec![Verdict::Created]));
        assert_eq!(verdicts(one, 2), None);
        assert!(all_created(one, 1) && !all_created(one, 2) && !all_created(one, 0));
        assert!(!all_created(br#"{"errors":false,"items":[]}"#, 0));
        assert_eq!(verdicts(b"{}", 1), None);
        assert_eq!(verdicts(b"<html>", 1), None);
        assert_eq!(fault_of(b"<html>\n"), "<html>");
        let whole = br#"{"error":{"type":"t","reason":"r"},"status":429}"#;
        assert_eq!(fault_of(whole), "t: r");
    }

    proptest! {
        /// Whatever is said, no answer panics.
        #[test]
        fn any_bytes_are_read(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = verdicts(&body, 1);
            let _ = fault_of(&body);
        }

        /// Requests one after the other hold each document once, in order, and keep to the limit.
        #[test]
        fn requests_hold_every_document_once(sizes in proptest::collection::vec(1_usize..40, 1..50), max in 1_usize..100, packed in any::<bool>()) {
            let docs = docs(&sizes);
            let all: Vec<usize> = (0..sizes.len()).collect();
            let (mut left, mut read) = (&all[..], Vec::new());
            let mut packer = Packer::new();
            while !left.is_empty() {
                let (now, rest) = left.split_at(docs.fitting(left, max));
                let body = docs.body(now);
                prop_assert!(now.len() == 1 || body.len() <= max);
                match packed {
                    true => { GzDecoder::new(&packer.pack(&body).unwrap()[..]).read_to_end(&mut read).unwrap(); }
                    false => read.extend_from_slice(&body),
                }
                left = rest;
            }
            prop_assert_eq!(read, &docs.text[..]);
        }

        /// Also those that are sent once more, which no longer stand in a row.
        #[test]
        fn a_request_holds_the_documents_that_it_is_asked_for(which in proptest::collection::vec(0_usize..6, 0..8)) {
            let docs = docs(&[1, 2, 3, 4, 5, 6]);
            let mut want = Vec::new();
            for no in &which {
                want.extend(std::iter::repeat_n(u8::try_from(*no).unwrap(), no + 1));
            }
            prop_assert_eq!(&docs.body(&which)[..], &want);
        }

        /// What needs no parse says the same as what is parsed.
        #[test]
        fn all_are_created_when_each_is(statuses in proptest::collection::vec(prop_oneof![9 => Just(201), 1 => Just(409)], 1..20), count in 1_usize..20) {
            let items: Vec<_> = statuses.iter().map(|status| format!(r#"{{"create":{{"status":{status}}}}}"#)).collect();
            let body = format!(r#"{{"errors":false,"items":[{}]}}"#, items.join(","));
            let parsed = verdicts(body.as_bytes(), count);
            let all = parsed.is_some_and(|each| each.iter().all(|one| *one == Verdict::Created));
            prop_assert_eq!(all_created(body.as_bytes(), count), all);
        }
    }
}
