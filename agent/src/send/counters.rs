//! What the sender counts for each batch.

use metrics::{Counter, counter};

/// What is counted for each batch: looked up once.
pub(super) struct Counters {
    pub(super) sent_bytes: Counter,
    pub(super) resent_batches: Counter,
    pub(super) acknowledged_batches: Counter,
    pub(super) acknowledged_records: Counter,
}

impl Counters {
    /// All of them.
    pub(super) fn new() -> Self {
        Self {
            sent_bytes: counter!("tributary_agent_sent_bytes_total"),
            resent_batches: counter!("tributary_agent_resent_batches_total"),
            acknowledged_batches: counter!("tributary_agent_acknowledged_batches_total"),
            acknowledged_records: counter!("tributary_agent_acknowledged_records_total"),
        }
    }
}

impl std::fmt::Debug for Counters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Counters").finish_non_exhaustive()
    }
}
