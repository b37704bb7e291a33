//! The small-file guard: which topics are so slow that their lines go into files with others'.
//!
//! A NameNode keeps every file in memory, and a topic that writes a few KiB in ten minutes makes as many files
//! as one that writes a GiB. So a topic that wrote less than a bound in as long as a file stays open goes to
//! the folder of the slow topics of its class, which stand in the place of its name: `slow-p2`. It leaves it with the
//! batch that makes it more than the bound. What a topic writes is not known before it was seen for so long;
//! until then it has files of its own.
//!
//! Not for: which lines of a shared file are whose, which its manifest says. Pure: time is an argument.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use tokio::time::Instant;
use tributary_common::{
    header::BatchHeader,
    ids::{Class, Topic},
};

use super::RolledConfig;
use crate::template::Template;

/// A topic that gave nothing for so many times as long as a file stays open is forgotten.
const FORGOTTEN_AFTER: u32 = 24;

/// What is known of a topic.
#[derive(Debug)]
struct Seen {
    /// The bytes are counted since then.
    since: Instant,
    bytes: u64,
    class: Class,
    is_slow: bool,
}

/// What a batch changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// The topic's next lines go to the shared folder.
    Joins,
    /// They go to a folder of their own.
    Leaves,
}

/// The guard of a destination.
#[derive(Debug)]
pub(super) struct Small {
    path: Template,
    /// In bytes before compression.
    below: u64,
    over: Duration,
    topics: HashMap<Topic, Seen>,
}

impl Small {
    /// `None` where every topic has files of its own.
    pub(super) fn new(config: &RolledConfig) -> Option<Self> {
        (config.merge_below > 0).then(|| Self {
            path: config.path.clone(),
            below: config.merge_below,
            over: config.roll.after,
            topics: HashMap::new(),
        })
    }

    /// The shared folder that a batch goes to, at the minute of its first event; `None`: its own.
    pub(super) fn folder(&self, header: &BatchHeader, minute: u32) -> Option<String> {
        let seen = self.topics.get(&header.topic)?;
        let name = || shared_name(header.class);
        seen.is_slow
            .then(|| self.path.render_named(&name(), minute))
    }

    /// A batch has come into a file.
    pub(super) fn add(&mut self, header: &BatchHeader, now: Instant) -> Option<Turn> {
        let seen = self.topics.entry(header.topic.clone()).or_insert(Seen {
            since: now,
            bytes: 0,
            class: header.class,
            is_slow: false,
        });
        let before = seen.is_slow;
        if now.saturating_duration_since(seen.since) >= self.over {
            seen.is_slow = seen.bytes < self.below;
            (seen.since, seen.bytes) = (now, 0);
        }
        seen.bytes = seen.bytes.saturating_add(header.raw_bytes);
        seen.class = header.class;
        if seen.bytes >= self.below {
            seen.is_slow = false;
        }
        match (before, seen.is_slow) {
            (false, true) => Some(Turn::Joins),
            (true, false) => Some(Turn::Leaves),
            _same => None,
        }
    }

    /// Forgets topics that give nothing any more.
    pub(super) fn forget(&mut self, now: Instant) {
        let limit = self.over.saturating_mul(FORGOTTEN_AFTER);
        self.topics
            .retain(|_topic, seen| now.saturating_duration_since(seen.since) < limit);
    }

    /// How many topics share files, by what stands in the place of their name.
    pub(super) fn shared(&self) -> BTreeMap<String, u64> {
        let mut shared = BTreeMap::new();
        for seen in self.topics.values().filter(|seen| seen.is_slow) {
            *shared.entry(shared_name(seen.class)).or_default() += 1;
        }
        shared
    }
}

/// What stands in the place of a slow topic's name.
fn shared_name(class: Class) -> String {
    format!("slow-{}", class.to_string().to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Compression, Place, Roll},
        *,
    };
    use crate::testing;

    const OVER: Duration = Duration::from_secs(600);

    fn guard(below: u64) -> Option<Small> {
        Small::new(&RolledConfig {
            place: Place::Local,
            path: Template::parse("/logs/{topic}/dt={date}").unwrap(),
            roll: Roll {
                size: 1 << 20,
                after: OVER,
            },
            merge_below: below,
            compression: Compression::None,
        })
    }

    fn header(topic: &str, raw_bytes: u64) -> BatchHeader {
        let mut header = testing::batch(topic, 1, 1, &["x"]).0;
        header.raw_bytes = raw_bytes;
        header
    }

    #[test]
    fn a_topic_joins_the_slow_ones_when_it_was_seen_and_leaves_with_what_is_too_much() {
        let start = Instant::now();
        let mut small = guard(1000).unwrap();
        let little = header("web", 400);
        let shared = Some("/logs/slow-p2/dt=1970-01-01".to_owned());
        assert_eq!(small.add(&little, start), None);
        assert_eq!(small.folder(&little, 0), None, "nothing is known of it");
        assert_eq!(small.add(&little, start + OVER / 2), None);
        assert_eq!(small.add(&little, start + OVER), Some(Turn::Joins));
        assert_eq!(small.folder(&little, 0), shared);
        assert_eq!(small.folder(&header("other", 1), 0), None);
        assert_eq!(small.shared(), BTreeMap::from([("slow-p2".to_owned(), 1)]));
        assert_eq!(small.add(&little, start + OVER), None);
        assert_eq!(small.add(&little, start + OVER), Some(Turn::Leaves));
        assert_eq!(small.folder(&little, 0), None);
        assert_eq!(small.shared(), BTreeMap::new());
        // What it wrote too much counts for the next time as well.
        assert_eq!(small.add(&little, start + OVER * 2), None);
        assert_eq!(small.add(&little, start + OVER * 3), Some(Turn::Joins));
        small.forget(start + OVER * 30);
        assert_eq!(small.folder(&little, 0), None);
    }

    #[test]
    fn without_a_bound_every_topic_has_files_of_its_own() {
        assert!(guard(0).is_none());
    }
}
