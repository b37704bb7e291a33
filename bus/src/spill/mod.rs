//! What a destination does not take now: kept on this node's disk, delivered later, in order.
//!
//! # Constraints
//! A batch is acknowledged as spilled when it is on the disk and synced, so a Kafka that is away for
//! hours costs the agents nothing. A stream keeps its order: behind a spilled batch of it every new
//! one spills, until the disk has nothing more of the stream; all other streams go on live. A batch is
//! delivered once, also when the node is killed at any moment: what was drained stands in the journal
//! before it leaves the disk, and what was on its way is found in the destination (ADR 0003).
//!
//! # Operation
//! ```text
//! node -> Spill::take --live--> destination --answer--> queue --> landing
//!             |                      ^                    |
//!             '--> writer (segments, fdatasync) --stored--+--> landing: spilled
//!                                    '------ drain <------'
//! ```
//! Batches that are on their way to a destination that stands still are written to the disk as
//! copies and acknowledged; when the destination answers them after all, the copy is dropped.
//!
//! | room | what for |
//! |---|---|
//! | `queue` | which batch goes where, and when: pure |
//! | `format`, `segment` | the bytes of a segment, and reading them back |
//! | `store`, `writer` | the files of one destination: what is in them, and who writes them |
//! | `usage` | whether there is room |
//! | `loss` | what will not be delivered |
//! | `lane` | the way of a batch through the rooms |
//! | `drain`, `pace`, `beside` | delivers what is stored, as fast as the destination and urgent live batches can spare |
//! | `shown` | a spill in words, while it works |
//! | [`inspect`] | a spill in words, offline |
//!
//! Not for: repeats (see `dedupe`), what a destination has (see [`crate::journal`]).

mod beside;
#[cfg(feature = "sim")]
mod by_hand;
mod drain;
mod format;
pub mod inspect;
mod lane;
mod loss;
mod pace;
mod queue;
mod segment;
mod shown;
mod store;
#[cfg(test)]
mod tests;
mod usage;
mod writer;

#[cfg(feature = "sim")]
pub(crate) use self::by_hand::ByHand;
pub(crate) use self::{
    lane::{Landing, Settled, Spill},
    usage::Usage,
};
