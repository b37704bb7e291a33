//! What is known of a dead letter without reading it, and what is made of many.
//!
//! Pure. Not for: where letters are (see [`super::store`]).

use std::{cmp::Reverse, collections::HashMap, sync::Arc};

use tributary_common::{
    batch::{self, MAX_DECODED_BYTES, minute_of},
    header::BatchHeader,
    ids::{BatchId, Topic},
    report::DeadGroup,
};

use super::format::Letter;

/// The most groups that are told of a destination's letters.
const MAX_GROUPS: usize = 100;

/// What is known of a letter without reading it.
#[derive(Debug, Clone)]
pub(crate) struct Card {
    /// Its number.
    pub(crate) no: u64,
    /// Its topic.
    pub(crate) topic: Topic,
    /// What the destination answered last.
    pub(crate) status: u16,
    /// The first word of its reason.
    pub(crate) kind: Arc<str>,
    /// When it died first and last, in ms since 1970.
    pub(crate) first_ms: u64,
    pub(crate) last_ms: u64,
    /// How often it was refused.
    pub(crate) tries: u32,
    /// Its batch, and its place in it.
    pub(super) key: (BatchId, u32),
    /// Its event minute, as its batch's header counts it.
    pub(super) minute: u32,
    /// Where its frame begins in the file.
    pub(super) at: u64,
    /// Where it will be in the file that is being written.
    pub(super) moved: u64,
    /// The frame's bytes.
    pub(super) bytes: u32,
}

impl Card {
    /// The card of a letter whose frame lies there; none when its batch's header cannot be read.
    pub(super) fn new(letter: &Letter, kind: Arc<str>, (at, bytes): (u64, u32)) -> Option<Self> {
        let header = BatchHeader::decode(&letter.header).ok()?;
        Some(Self {
            no: letter.no,
            status: letter.status,
            kind,
            first_ms: letter.first_ms,
            last_ms: letter.first_ms,
            tries: 1,
            key: (header.id(), letter.at),
            minute: minute(&header, &letter.payload),
            at,
            moved: at,
            bytes,
            topic: header.topic,
        })
    }
}

/// Which letters are meant.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    pub(crate) topic: Option<String>,
    pub(crate) reason: Option<String>,
    pub(crate) no: Option<u64>,
}

impl Filter {
    pub(super) fn takes(&self, card: &Card) -> bool {
        self.topic
            .as_ref()
            .is_none_or(|topic| card.topic.as_str() == topic)
            && self.reason.as_ref().is_none_or(|kind| *card.kind == **kind)
            && self.no.is_none_or(|no| card.no == no)
    }
}

/// The first word of what a destination said.
pub(super) fn kind_of(reason: &str) -> &str {
    reason.split(':').next().unwrap_or_default()
}

/// Letters by topic and reason, the largest groups first.
pub(super) fn grouped<'a>(cards: impl Iterator<Item = &'a Card>) -> Vec<DeadGroup> {
    let mut groups: HashMap<(&Topic, &str), DeadGroup> = HashMap::new();
    for card in cards {
        let group = groups
            .entry((&card.topic, &card.kind))
            .or_insert_with(|| DeadGroup {
                topic: card.topic.clone(),
                reason: card.kind.to_string(),
                status: card.status,
                letters: 0,
                first_ms: u64::MAX,
                last_ms: 0,
            });
        group.letters += 1;
        group.first_ms = group.first_ms.min(card.first_ms);
        group.last_ms = group.last_ms.max(card.last_ms);
    }
    let mut groups: Vec<DeadGroup> = groups.into_values().collect();
    groups.sort_by(|a, b| {
        let order = |group: &DeadGroup| (Reverse(group.letters), group.topic.clone());
        order(a)
            .cmp(&order(b))
            .then_with(|| a.reason.cmp(&b.reason))
    });
    groups.truncate(MAX_GROUPS);
    groups
}

/// The minute in which a batch's header counts this record of it.
fn minute(header: &BatchHeader, payload: &[u8]) -> u32 {
    let decoded = batch::decode(payload, MAX_DECODED_BYTES).ok();
    let minute = decoded
        .and_then(|decoded| decoded.records().next().map(|one| one.timestamp_ms))
        .map_or(0, minute_of);
    let minutes = header.minutes.iter().map(|count| count.minute);
    let before = minutes.clone().take_while(|&counted| counted <= minute);
    before
        .last()
        .or_else(|| minutes.clone().next())
        .unwrap_or(minute)
}
