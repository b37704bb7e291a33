//! The dictionary of Tributary: what agent, bus and manager agree on, and the doors they share.
//!
//! A thing enters this crate when two parts need it. Agent, bus and manager never depend on each
//! other; they meet in [`wire`] (agent and bus), [`report`] (both and the manager) and in the
//! doors [`disk`] and [`net`].
//!
//! # Glossary
//!
//! One word, one meaning. Units stand in names at edges (`timeout_ms`, `max_bytes`).
//!
//! | word | meaning | room |
//! |---|---|---|
//! | zone | a data centre; agents, bus nodes and clusters each live in one | [`ids`] |
//! | task | an ingestion task: which files on which hosts, read how, to which topic, at which class | [`ids::TaskId`] |
//! | topic | a logical name, bound to physical topics, indices or paths by its route | [`ids::Topic`] |
//! | class | priority of a channel: P0 (critical) to P3 (bulk) | [`ids::Class`] |
//! | channel | everything of one task on one agent: its files, queue, window, limits | |
//! | stream | the ordered generations of one log file of one channel on one host | [`ids::StreamId`] |
//! | generation | one physical file, told apart for ever from any other, even with the same inode number | [`ids::GenerationId`] |
//! | epoch | one life of an agent process; numbers the batches that it cuts first | [`ids::Epoch`] |
//! | span | a byte range `[start, end)` of a generation | [`span::Span`] |
//! | batch | contiguous records of one stream; the unit of sending, acknowledging, spilling, counting | [`batch`], [`header`] |
//! | window | the batches in flight of one connection | [`wire::Welcome`] |
//! | watermark | the end of the longest acknowledged prefix of a generation, in bytes | [`span::AckedSpans`] |
//! | checkpoint | the agent's durable record of cuts, acks and watermarks | |
//! | lane | one route's way through a bus node: deliver, spill, drain | |
//! | spill, drain | write to the bus node's disk because the destination takes nothing; deliver that later, behind live traffic | |
//! | dead letter | a record that a destination refuses for good, kept by a bus node until it is replayed or purged | [`report::DeadRecords`] |
//! | receipt | what became of a batch at the bus: delivered (where), duplicate, spilled, refused (why) | [`wire::Receipt`] |
//! | fact | what one hop did with one batch, with the batch's identity; stating it twice changes nothing | [`report::Fact`] |
//! | ledger | the accounts: per topic, event minute and hop, what came in, went out, was lost, doubled | |
//! | hop | a place where batches are counted: read, sent, received, spilled, delivered | [`report::Hop`] |

pub mod admin;
pub mod backoff;
pub mod batch;
pub mod config;
pub mod crc;
pub mod daemon;
pub mod disk;
pub mod even;
pub mod given;
pub mod header;
pub mod heap;
pub mod http;
pub mod ids;
pub mod metrics;
pub mod net;
pub mod report;
#[cfg(feature = "sim")]
pub mod sim;
pub mod span;
pub mod tasks;
pub mod telemetry;
pub mod tls;
pub mod wall;
pub mod wire;
