//! Counted records of one topic, minute or range: the columns of the ledger, added up.
//!
//! Pure. [`super::ledger`] makes differences of it, the store sums it, the API shows it.

/// Records by what became of them. As a difference the numbers may be negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tally {
    /// Read by an agent.
    pub(crate) read: i64,
    /// Given to a connection.
    pub(crate) sent: i64,
    /// Taken in by a bus node.
    pub(crate) received: i64,
    /// In every destination, without what died at one of them.
    pub(crate) delivered: i64,
    /// Read, not delivered, held by the agent or on a bus node's disk.
    pub(crate) in_flight: i64,
    /// Read, not delivered, refused by the bus and held by the agent.
    pub(crate) refused: i64,
    /// Read, not delivered, and held by nobody.
    pub(crate) missing: i64,
    /// Delivered, but no agent has told the reading (yet).
    pub(crate) ahead: i64,
    /// Repeats that a bus node removed.
    pub(crate) duplicates: i64,
    /// Delivered more than once.
    pub(crate) doubled: i64,
    /// Lost with a known address and reason.
    pub(crate) dropped: i64,
    /// Of those in flight: acknowledged, on a bus node's disk.
    pub(crate) spilled: i64,
    /// Of a batch that is through, but in the dead letters of a destination.
    pub(crate) dead: i64,
    /// Given up there by an operator.
    pub(crate) purged: i64,
    /// Of those delivered: they had died, and a replay brought them.
    pub(crate) replayed: i64,
}

impl Tally {
    /// The columns in the order of the table.
    pub(crate) const COLUMNS: usize = 15;

    /// The numbers in the order of the table's columns.
    pub(crate) fn columns(&self) -> [i64; Self::COLUMNS] {
        [
            self.read,
            self.sent,
            self.received,
            self.delivered,
            self.in_flight,
            self.refused,
            self.missing,
            self.ahead,
            self.duplicates,
            self.doubled,
            self.dropped,
            self.spilled,
            self.dead,
            self.purged,
            self.replayed,
        ]
    }

    /// The tally with these columns.
    pub(crate) fn from_columns(columns: [i64; Self::COLUMNS]) -> Self {
        let [
            read,
            sent,
            received,
            delivered,
            in_flight,
            refused,
            missing,
            ahead,
            duplicates,
            doubled,
            dropped,
            spilled,
            dead,
            purged,
            replayed,
        ] = columns;
        Self {
            read,
            sent,
            received,
            delivered,
            in_flight,
            refused,
            missing,
            ahead,
            duplicates,
            doubled,
            dropped,
            spilled,
            dead,
            purged,
            replayed,
        }
    }

    /// Adds the other's numbers.
    pub(crate) fn add(&mut self, other: &Self) {
        let mut columns = self.columns();
        for (mine, theirs) in columns.iter_mut().zip(other.columns()) {
            *mine = mine.saturating_add(theirs);
        }
        *self = Self::from_columns(columns);
    }

    /// Whether every number is 0.
    pub(crate) fn is_zero(&self) -> bool {
        self.columns() == [0; Self::COLUMNS]
    }

    /// Records that were read and that nothing explains: neither delivered, nor held, nor told as
    /// lost. By identity, so a surplus elsewhere can not hide them.
    pub(crate) fn unexplained(&self) -> i64 {
        self.missing
    }
}
