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

use std::io::Write as _;

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use serde::Deserialize;

/// What the server shall say: fewer bytes than the documents had.
pub(super) const FILTER: &str = "filter_path=errors,items.*.status,items.*.error.type,\
                                 items.*.error.reason,items.*.error.caused_by.reason";
/// The longest reason that is kept, in bytes.
const MAX_REASON: usize = 600;

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

/// The documents of a group of batches, as text.
#[derive(Debug, Default)]
pub(super) struct Docs {
    pub(super) text: Vec<u8>,
    pub(super) at: Vec<At>,
}

impl Docs {
    /// So many of `left` as fit into a request of `max_bytes`, at least one.
    pub(super) fn fitting(&self, left: &[usize], max_bytes: usize) -> usize {
        let mut bytes = 0;
        let fits = left.iter().take_while(|no| {
            let long = self.at.get(**no).map_or(0, |at| at.end - at.start);
            bytes += long;
            bytes <= max_bytes
        });
        fits.count().clamp(1, super::MAX_DOCUMENTS).min(left.len())
    }

    /// The body of a request with these documents.
    pub(super) fn body(&self, which: &[usize], gzip: bool) -> Bytes {
        let pieces = || {
            which.iter().filter_map(|no| {
                let at = self.at.get(*no)?;
                self.text.get(at.start..at.end)
            })
        };
        if !gzip {
            let mut body = Vec::with_capacity(pieces().map(<[u8]>::len).sum());
            pieces().for_each(|piece| body.extend_from_slice(piece));
            return body.into();
        }
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        for piece in pieces() {
            // Writing into memory cannot fail.
            packed.write_all(piece).unwrap_or_default();
        }
        packed.finish().unwrap_or_default().into()
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

    use proptest::prelude::*;

    use super::*;

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
        fn requests_hold_every_document_once(sizes in proptest::collection::vec(1_usize..40, 1..50), max in 1_usize..100, gzip in any::<bool>()) {
            let mut docs = Docs::default();
            for (no, size) in sizes.iter().enumerate() {
                let start = docs.text.len();
                docs.text.extend(std::iter::repeat_n(u8::try_from(no).unwrap(), *size));
                docs.at.push(At { start, end: docs.text.len(), job: 0, place: 0 });
            }
            let all: Vec<usize> = (0..sizes.len()).collect();
            let (mut left, mut read) = (&all[..], Vec::new());
            while !left.is_empty() {
                let (now, rest) = left.split_at(docs.fitting(left, max));
                let body = docs.body(now, gzip);
                let before = read.len();
                match gzip {
                    true => { flate2::read::GzDecoder::new(&body[..]).read_to_end(&mut read).unwrap(); }
                    false => read.extend_from_slice(&body),
                }
                prop_assert!(now.len() == 1 || read.len() - before <= max);
                left = rest;
            }
            prop_assert_eq!(read, docs.text);
        }
    }
}
