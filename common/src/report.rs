//! What agents and bus nodes tell the manager: facts with identity, what they hold, how they are.
//!
//! JSON over `POST /api/v1/reports`. A [`Report`] has a number; it is kept and sent again with the
//! same number until the manager has answered 200, and taking it twice changes nothing. Facts carry
//! the identity of their batch, so the manager counts sets, never sums: a loss and a duplicate can
//! not cancel (design section 12).
//!
//! Not for: what the manager shows to people (that is its API).

use serde::{Deserialize, Serialize};

use crate::{
    given::{Given, GivenHealth},
    header::MinuteCount,
    ids::{AgentId, BatchId, Epoch, GenerationId, Name, NodeId, StreamId, TaskId, Topic, Zone},
    span::Span,
};

/// Where reports go, under the manager's URL.
pub const REPORTS_PATH: &str = "/api/v1/reports";

/// A place where batches are counted, or their end. A batch is counted once per hop, however often it
/// is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hop {
    /// The agent cut it and wrote the cut to its checkpoint.
    Read,
    /// The agent gave it to a connection for the first time.
    Sent,
    /// A bus node took it in.
    Received,
    /// Every destination of its route has it.
    Delivered,
    /// It was given up: by its agent, when its source is gone and it had no acknowledgement; by a bus
    /// node that acknowledged it from its disk, when it is damaged there or made room for newer ones.
    /// It may have been delivered all the same, which then counts.
    Lost,
    /// A bus node has it on its disk, and delivers it when the destination takes it again. Told by
    /// whoever was acknowledged.
    Spilled,
}

impl Hop {
    /// All places where batches are counted; the last one is a stop on the way to the one before.
    pub const ALL: [Self; 5] = [
        Self::Read,
        Self::Sent,
        Self::Received,
        Self::Delivered,
        Self::Spilled,
    ];

    /// The hop as text, as in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Sent => "sent",
            Self::Received => "received",
            Self::Delivered => "delivered",
            Self::Lost => "lost",
            Self::Spilled => "spilled",
        }
    }
}

/// Consecutive batches of one stream and epoch, with the records per minute of each.
///
/// `batches[i]` is the batch with sequence number `first_seq + i`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The topic of the stream.
    pub topic: Topic,
    /// The stream.
    pub stream: StreamId,
    /// The agent's life that cut these batches first.
    pub epoch: Epoch,
    /// Sequence number of the first one.
    pub first_seq: u64,
    /// Per batch its records per event minute.
    pub batches: Vec<Vec<MinuteCount>>,
}

/// A run of batches that passed a hop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// Which hop.
    pub hop: Hop,
    /// Which batches.
    #[serde(flatten)]
    pub run: Run,
}

/// Repeats that a bus node recognised, acknowledged and did not forward. Events, not a set: the
/// same batch may be repeated more than once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Duplicates {
    /// The topic.
    pub topic: Topic,
    /// Removed records per event minute.
    pub minutes: Vec<MinuteCount>,
}

/// What became of a record that a destination refuses for good. It goes up, never down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LetterState {
    /// A bus node keeps it with its reason: it is not delivered.
    Dead,
    /// An operator gave it up: it is lost on purpose.
    Purged,
    /// The destination has taken it after all: it is delivered.
    Replayed,
}

/// Records of one event minute, by their places in their batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MinutePlaces {
    /// Minutes since 1970.
    pub minute: u32,
    /// Places as `(first, end)`, the first record of a batch being 0; ascending.
    pub places: Vec<(u32, u32)>,
}

/// Records of one batch that a destination refuses for good, and what became of them. By their places, so
/// that a record counts once, however often it is told and on however many nodes it died; where several
/// states of a record are told the highest one counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadRecords {
    /// Which destination.
    pub destination: Name,
    /// The batch's topic.
    pub topic: Topic,
    /// The batch.
    #[serde(flatten)]
    pub batch: BatchId,
    /// What became of them.
    pub state: LetterState,
    /// Which records.
    pub minutes: Vec<MinutePlaces>,
}

/// Why an agent still holds batches that it has cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeldState {
    /// Waiting to be sent or acknowledged.
    InFlight,
    /// The bus refused it; its stream stands still until an operator acts.
    Refused,
}

/// Batches that the agent holds at the moment of the report: a snapshot, replaced by the next one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Why.
    pub state: HeldState,
    /// Which batches.
    #[serde(flatten)]
    pub run: Run,
}

/// Source bytes that will never be sent, with their address and reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// The topic.
    pub topic: Topic,
    /// The task.
    pub task: TaskId,
    /// The file's last known path.
    pub file: String,
    /// Which physical file.
    pub generation: GenerationId,
    /// Which bytes of it; where the end is not known, as far as the file was seen.
    pub span: Span,
    /// Why, in words of the field: `truncated-unread`, `deleted-unread`, `line-truncated` …
    pub reason: String,
    /// Lost records where they can be counted.
    pub records: Option<u64>,
    /// The minute in which the loss was seen.
    pub minute: u32,
}

/// A loss as it is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// Which bytes.
    #[serde(flatten)]
    pub loss: Loss,
    /// The batch that they had become, told as [`Hop::Lost`] as well; none for bytes that became no
    /// batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<BatchId>,
}

/// Who reports.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "part", rename_all = "snake_case")]
pub enum Reporter {
    /// An agent.
    Agent {
        /// Its id.
        id: AgentId,
        /// Its host's name, for people.
        host: String,
        /// Its zone.
        zone: Zone,
    },
    /// A bus node.
    Bus {
        /// Its id.
        id: NodeId,
        /// Its cluster.
        cluster: Name,
        /// Its zone.
        zone: Zone,
    },
}

/// One task as its agent sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskHealth {
    /// The task.
    pub task: TaskId,
    /// Its topic.
    pub topic: Topic,
    /// Files that match now.
    pub files: u64,
    /// Bytes of those files that are not acknowledged.
    pub bytes_behind: u64,
    /// Age of the oldest byte that is not acknowledged, in ms; 0 when there is none.
    pub oldest_unacked_ms: u64,
    /// The last error in words; empty when there was none.
    pub last_error: String,
}

/// The configuration that a part goes by.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ConfigHealth {
    /// The name of its content: the same for the same settings.
    pub version: String,
    /// Since when it counts, in ms since 1970.
    pub applied_ms: u64,
    /// Why the last document was refused, a fault a line; empty when it was applied.
    pub fault: String,
    /// When that was, in ms since 1970; 0 for never.
    pub fault_ms: u64,
}

/// A destination as a bus node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DestinationHealth {
    /// Its configured name.
    pub name: Name,
    /// `kafka`, `file` or `elasticsearch`.
    pub kind: String,
    /// `up` or `down`.
    pub state: String,
    /// Why, in words; empty when up.
    pub detail: String,
    /// What it keeps of records that the destination refuses for good; none where it refuses none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead: Option<DeadHealth>,
}

/// The dead letters of one destination on one bus node, now.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DeadHealth {
    /// How many.
    pub letters: u64,
    /// Their bytes on the disk.
    pub bytes: u64,
    /// The most bytes that there may be.
    pub max_bytes: u64,
    /// By topic and reason; only the largest groups where there are many.
    pub groups: Vec<DeadGroup>,
}

/// Dead letters of one topic and reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadGroup {
    /// The topic.
    pub topic: Topic,
    /// The first word of what the destination said.
    pub reason: String,
    /// What it answered, as a status of HTTP.
    pub status: u16,
    /// How many.
    pub letters: u64,
    /// When the first of them died, in ms since 1970 by the node's clock.
    pub first_ms: u64,
    /// When one of them was refused last.
    pub last_ms: u64,
}

/// How the reporter is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Health {
    /// Software and version.
    pub software: String,
    /// Resident memory, in bytes.
    pub memory_bytes: u64,
    /// Agent only: its tasks.
    #[serde(default)]
    pub tasks: Vec<TaskHealth>,
    /// Agent and bus: its configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<ConfigHealth>,
    /// Bus only: open agent connections.
    #[serde(default)]
    pub connections: u64,
    /// Bus only: why it takes no agents; empty while it does.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub not_ready: String,
    /// Bus only: how the last window goes that the manager has opened, or went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rebalance: Option<RebalanceHealth>,
    /// Bus only: what it has from the manager of where topics go; none of a node that takes nothing of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routes: Option<GivenHealth>,
    /// Agent only: what it has from the manager of what it is to collect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collection: Option<GivenHealth>,
    /// Bus only: its destinations.
    #[serde(default)]
    pub destinations: Vec<DestinationHealth>,
}

/// New batches of some topics go to another destination of their route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switched {
    /// The pattern of the topics.
    pub topic: String,
    /// Since when, in ms since 1970 by the node's clock.
    pub at_ms: u64,
    /// The destination that they went to before.
    pub from: Name,
    /// Since when they had.
    pub used_from_ms: u64,
    /// The one that they go to now.
    pub to: Name,
    /// Why, in words.
    pub why: String,
}

/// How a window goes in which a bus node hands over connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebalanceHealth {
    /// Which window: the number that the manager gave it.
    pub window: u64,
    /// Agents that are to be asked to go to another node.
    pub hands_over: u64,
    /// Those that were asked.
    pub handed_over: u64,
    /// Agents that came, have another node to try, and were sent there.
    pub turned_away: u64,
}

/// One report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Who.
    pub reporter: Reporter,
    /// The reporter's life.
    pub epoch: Epoch,
    /// 1, 2, 3 … within the epoch.
    pub number: u64,
    /// The reporter's clock, in ms since 1970; tells the manager the skew.
    pub sent_at_ms: u64,
    /// What happened since the last report. Facts of earlier lives are told again under this
    /// epoch; their runs carry their own epoch.
    pub facts: Vec<Fact>,
    /// Removed repeats since the last report.
    pub duplicates: Vec<Duplicates>,
    /// Losses since the last report.
    pub losses: Vec<Lost>,
    /// Bus only: what became of records that destinations refuse for good, since the last report; after a
    /// restart once more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub letters: Vec<DeadRecords>,
    /// Bus only: where batches went to another destination of their route, since the last report.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub switches: Vec<Switched>,
    /// Agent only: everything that it holds now, consistent with `facts`: each batch with a Read
    /// fact up to this report is either here or has a Delivered fact up to this report.
    pub held: Vec<Held>,
    /// How it is.
    pub health: Health,
}

/// The manager's answer to a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportAnswer {
    /// The number that was taken (or had been taken before).
    pub number: u64,
    /// For a bus node: a window that it is to open. Said again until the node's health tells of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rebalance: Option<Rebalance>,
    /// For a bus node: where topics are to go. Said again until the node's health says that it took or refused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routes: Option<Given>,
    /// For an agent: what it is to collect, said again in the same way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collection: Option<Given>,
}

/// A window in which a bus node hands over what it has above its share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rebalance {
    /// Its number: a window is opened once.
    pub window: u64,
    /// Connections that the node is to have.
    pub connections: u64,
    /// How long it is open, in seconds.
    pub within_s: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fact_is_flat_json() {
        let fact = Fact {
            hop: Hop::Read,
            run: Run {
                topic: Topic::new("web").unwrap(),
                stream: StreamId(1),
                epoch: Epoch(2),
                first_seq: 3,
                batches: vec![vec![MinuteCount {
                    minute: 4,
                    records: 5,
                }]],
            },
        };
        let json = serde_json::to_string(&fact).unwrap();
        assert_eq!(
            json,
            r#"{"hop":"read","topic":"web","stream":1,"epoch":2,"first_seq":3,"batches":[[{"minute":4,"records":5}]]}"#
        );
        assert_eq!(serde_json::from_str::<Fact>(&json).unwrap(), fact);
    }

    #[test]
    fn what_an_older_part_does_not_say_is_nothing() {
        let answer: ReportAnswer = serde_json::from_str(r#"{"number":3}"#).unwrap();
        assert_eq!(answer.rebalance, None);
        assert_eq!(serde_json::to_string(&answer).unwrap(), r#"{"number":3}"#);
        let health: Health =
            serde_json::from_str(r#"{"software":"s","memory_bytes":1,"connections":2}"#).unwrap();
        assert_eq!((health.not_ready.as_str(), health.rebalance), ("", None));
        assert_eq!((answer.routes, health.routes), (None, None));
    }

    #[test]
    fn letters_are_flat_json() {
        let letters = DeadRecords {
            destination: Name::new("es").unwrap(),
            topic: Topic::new("web").unwrap(),
            batch: BatchId {
                stream: StreamId(u64::MAX),
                epoch: Epoch(2),
                seq: 3,
            },
            state: LetterState::Dead,
            minutes: vec![MinutePlaces {
                minute: 4,
                places: vec![(0, 1), (5, 7)],
            }],
        };
        let json = serde_json::to_string(&letters).unwrap();
        assert_eq!(
            json,
            r#"{"destination":"es","topic":"web","stream":18446744073709551615,"epoch":2,"seq":3,"state":"dead","minutes":[{"minute":4,"places":[[0,1],[5,7]]}]}"#
        );
        assert_eq!(serde_json::from_str::<DeadRecords>(&json).unwrap(), letters);
    }
}
