//! What the producer's state machine says and hears: commands for connections and flights, answers of
//! brokers. Plain values (see [`super::cluster`]).

use std::sync::Arc;

use super::{
    cluster::{BrokerNo, LaneNo, LinkNo},
    lane::{CutNo, Parcel, RequestNo, Shipment},
    meaning::{Meaning, words},
};

/// What is to be done.
#[derive(Debug)]
pub(super) enum Command<T> {
    /// Connect.
    Dial { link: LinkNo, addr: String },
    /// End a connection; nothing more is heard of it.
    Hangup { link: LinkNo },
    /// Send batches.
    Produce {
        link: LinkNo,
        no: RequestNo,
        parts: Vec<Part<T>>,
    },
    /// Ask who leads.
    AskLeaders {
        link: LinkNo,
        no: RequestNo,
        topics: Vec<Arc<str>>,
    },
    /// Ask for a producer id.
    AskProducer { link: LinkNo, no: RequestNo },
    /// A batch is in the log from this offset.
    Taken { parcel: Parcel<T>, offset: i64 },
    /// A batch will never be.
    Refused {
        parcel: Parcel<T>,
        meaning: Meaning,
        why: String,
    },
    /// A batch is to be taken apart; [`super::cluster::Cluster::cut`] takes what is left of it.
    Cut {
        lane: LaneNo,
        cut: CutNo,
        against: Against,
    },
    /// Batches of which nobody knows whether they are there.
    GiveBack {
        parcels: Vec<Parcel<T>>,
        why: String,
    },
    /// The cluster is not as it should be.
    Trouble(String),
}

/// What a broker has against a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Against {
    /// The error's code.
    pub(super) code: i16,
    /// It is about the bytes, which one record less may mend.
    pub(super) size: bool,
    /// Its words on the whole.
    pub(super) why: String,
    /// The records that are meant, where the broker says so, in order: place in the batch, words.
    pub(super) records: Vec<(u32, String)>,
}

/// A batch in a request.
#[derive(Debug)]
pub(super) struct Part<T> {
    pub(super) topic: Arc<str>,
    pub(super) partition: i32,
    pub(super) shipment: Shipment<T>,
}

/// What a broker says of a batch.
#[derive(Debug, Clone)]
pub(super) struct PartAnswer {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) code: i16,
    pub(super) offset: i64,
    pub(super) message: String,
    /// The records that are the reason, where the broker says so: place in the batch, words.
    pub(super) records: Vec<(u32, String)>,
}

/// What a broker says of the cluster.
#[derive(Debug, Clone, Default)]
pub(super) struct Leaders {
    /// Number and address of each broker.
    pub(super) brokers: Vec<(BrokerNo, String)>,
    pub(super) topics: Vec<TopicLeaders>,
}

/// The partitions of a topic.
#[derive(Debug, Clone)]
pub(super) struct TopicLeaders {
    pub(super) topic: String,
    pub(super) code: i16,
    /// Partition and its leader, where it has one.
    pub(super) partitions: Vec<(i32, Option<BrokerNo>)>,
}

impl PartAnswer {
    /// The error in words.
    pub(super) fn why(&self) -> String {
        let words = words(self.code);
        match self.message.is_empty() {
            true => words,
            false => format!("{words} ({})", self.message),
        }
    }
}
