//! A stream in the checkpoint, and which of its batches went to which topic.
//!
//! A batch goes to the topic that its task had when it was cut, also when it is sent again after the
//! task was given another one: identity and accounts stay with the topic that was told.
//!
//! Not for: other records (see [`super::state`]). Pure.

use tributary_common::ids::{Epoch, GenerationId, StreamId, TaskId, Topic};

use super::record::{GenerationRecord, Record};
use crate::path::LogPath;

/// A stream as the checkpoint knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StreamState {
    /// Its task.
    pub(crate) task: TaskId,
    /// Its topic now.
    pub(crate) topic: Topic,
    /// The topics before, oldest first.
    pub(super) earlier: Vec<Earlier>,
    /// The path that named it first.
    pub(crate) path: LogPath,
    /// Its generations, oldest first. One, as a rule.
    pub(crate) generations: Vec<GenerationRecord>,
}

/// The topic of the batches before this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Earlier {
    /// The life and number of the first batch that went to another topic.
    before: (Epoch, u64),
    topic: Topic,
}

impl StreamState {
    /// A stream without generations.
    pub(super) fn new(task: TaskId, topic: Topic, path: LogPath) -> Self {
        Self {
            task,
            topic,
            earlier: Vec::new(),
            path,
            generations: Vec::new(),
        }
    }

    /// One of its generations.
    pub(crate) fn generation(&self, generation: GenerationId) -> Option<&GenerationRecord> {
        self.generations
            .iter()
            .find(|known| known.generation == generation)
    }

    /// One of its generations, to be changed.
    pub(super) fn generation_mut(
        &mut self,
        generation: GenerationId,
    ) -> Option<&mut GenerationRecord> {
        self.generations
            .iter_mut()
            .find(|known| known.generation == generation)
    }

    /// A generation begins, or what is known of it changed.
    pub(super) fn set_generation(&mut self, mut record: GenerationRecord) {
        record.path.share(&self.path);
        match self.generation_mut(record.generation) {
            Some(known) => *known = record,
            None => {
                // There may be 100,000 streams, most with one.
                self.generations.reserve_exact(1);
                self.generations.push(record);
            }
        }
    }

    /// From this batch on lines go to another topic.
    pub(super) fn change_topic(&mut self, from: (Epoch, u64), topic: Topic) {
        if topic == self.topic {
            return;
        }
        let topic = std::mem::replace(&mut self.topic, topic);
        self.earlier.push(Earlier {
            before: from,
            topic,
        });
    }

    /// Which of its topics a batch goes to, as a number that is greater for later ones.
    pub(crate) fn part_at(&self, epoch: Epoch, seq: u64) -> usize {
        self.earlier
            .iter()
            .position(|earlier| (epoch, seq) < earlier.before)
            .unwrap_or(self.earlier.len())
    }

    /// The topic of that number.
    pub(crate) fn topic_of(&self, part: usize) -> &Topic {
        self.earlier
            .get(part)
            .map_or(&self.topic, |earlier| &earlier.topic)
    }

    /// Forgets topics whose batches all come before the `oldest` one that matters.
    pub(super) fn forget_topics(&mut self, oldest: Option<(Epoch, u64)>) {
        self.earlier
            .retain(|earlier| oldest.is_some_and(|oldest| oldest < earlier.before));
    }

    /// The records that make it anew, without its generations.
    pub(super) fn snapshot(&self, stream: StreamId, out: &mut dyn FnMut(&Record)) {
        out(&Record::Stream {
            stream,
            task: self.task.clone(),
            topic: self.topic_of(0).clone(),
            path: self.path.clone(),
        });
        for (part, earlier) in self.earlier.iter().enumerate() {
            out(&Record::Topic {
                stream,
                epoch: earlier.before.0,
                seq: earlier.before.1,
                topic: self.topic_of(part + 1).clone(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_keeps_the_topic_that_it_was_cut_for() {
        let topic = |name: &str| Topic::new(name).unwrap();
        let mut stream = StreamState {
            task: TaskId::new("t").unwrap(),
            topic: topic("a"),
            earlier: Vec::new(),
            path: LogPath::default(),
            generations: Vec::new(),
        };
        stream.change_topic((Epoch(1), 5), topic("b"));
        stream.change_topic((Epoch(2), 1), topic("b"));
        stream.change_topic((Epoch(2), 3), topic("a"));
        let at = |stream: &StreamState, epoch: u64, seq: u64| {
            let part = stream.part_at(Epoch(epoch), seq);
            stream.topic_of(part).as_str().to_owned()
        };
        let all = [
            (1, 4, "a"),
            (1, 5, "b"),
            (2, 2, "b"),
            (2, 3, "a"),
            (3, 1, "a"),
        ];
        for (epoch, seq, wanted) in all {
            assert_eq!(at(&stream, epoch, seq), wanted, "{epoch} {seq}");
        }
        let mut records = Vec::new();
        stream.snapshot(StreamId(1), &mut |record| records.push(record.clone()));
        assert_eq!(records.len(), 3, "{records:?}");
        stream.forget_topics(Some((Epoch(1), 7)));
        assert_eq!(at(&stream, 2, 2), "b");
        stream.forget_topics(None);
        assert_eq!(at(&stream, 2, 2), "a");
    }
}
