//! The topics of a destination, open or being opened, and the ways to the threads that serve them.
//!
//! Plain state under one lock, which keeps the order of what is given. Not for: one topic (see
//! [`super::topic`]).

use std::{collections::HashMap, sync::Arc};

use crossbeam_channel::Sender;
use tributary_common::ids::{Class, StreamId};

use super::{
    super::Job,
    owner::{KEYED, Message, Work},
    topic::Topic,
    verbatim,
};

/// A topic as the destination knows it.
pub(super) enum Known {
    /// Being opened; jobs wait, in order. Bounded by the byte permits that they carry.
    Opening(Vec<Job>),
    /// Ready.
    Open(Arc<Topic>),
}

/// The way to the producer's threads. Bounded by the byte permits that the jobs carry.
pub(super) enum Producers {
    /// The threads that give librdkafka its records.
    Rdkafka(Vec<Sender<Message>>),
    /// Our own.
    Verbatim(verbatim::Handle),
    /// The destination is closed.
    Closed,
}

impl Producers {
    /// False when the batch was dropped, which answers it.
    pub(super) fn give(&self, work: Work) -> bool {
        match self {
            Self::Rdkafka(owners) => {
                let partition = work.partition.unsigned_abs() as usize;
                let owner = (work.topic.target as usize).wrapping_add(partition);
                let owner = owners.get(owner % owners.len().max(1));
                owner.is_some_and(|owner| owner.send(Message::Work(work)).is_ok())
            }
            Self::Verbatim(producer) => producer.take(work),
            Self::Closed => false,
        }
    }
}

/// The queue of a thread that opens topics, by the group that it is for.
pub(super) type ToOpen = (Option<Class>, Sender<Arc<str>>);

/// Topics, and the ways to the threads.
pub(super) struct Topics {
    pub(super) known: HashMap<Arc<str>, Known>,
    /// Those that were closed while something of them was on its way.
    pub(super) closed: Vec<Arc<Topic>>,
    /// Where streams of topics are that were closed, of which the journal does not know it yet.
    pub(super) pins: HashMap<Arc<str>, HashMap<StreamId, i32>>,
    pub(super) producers: Producers,
    /// Bounded by the byte permits that the jobs carry. One; or one for each group, by its class.
    pub(super) openers: Vec<ToOpen>,
}

impl Topics {
    pub(super) fn new(producers: Producers, openers: Vec<ToOpen>) -> Self {
        Self {
            known: HashMap::new(),
            closed: Vec::new(),
            pins: HashMap::new(),
            producers,
            openers,
        }
    }

    /// What the journal does not know yet of where a topic's streams are outlives its closing.
    pub(super) fn keep_pins(&mut self, topic: &Topic) {
        self.pins
            .insert(Arc::clone(&topic.name), topic.unnoted_pins());
    }

    /// Gives a batch to the owner of its partition, with its number (see [`super::stops`]). Called under the
    /// lock, which keeps the order.
    pub(super) fn give(&mut self, topic: &Arc<Topic>, job: Job, no: u64) {
        let header = Arc::clone(&job.batch.header);
        let partition = topic.entered(&header);
        let partition = if header.keyed { KEYED } else { partition };
        let work = Work {
            topic: Arc::clone(topic),
            partition,
            job,
            no,
        };
        if !self.producers.give(work) {
            // The destination is closed; the job was dropped, which answers it.
            topic.left(&header);
        }
    }
}
