//! The agent's accounts: which batches are still to be told to the manager, and as what.
//!
//! Kept per stream and life as consecutive accounts, from the first one whose end was not told. A
//! fact leaves only when the manager has answered the report that told it. Without a manager nothing
//! is kept.
//!
//! # Bounds
//! At most [`MAX_ACCOUNTS`] batches; beyond it, while the manager is down for days, the oldest ended
//! ones are dropped and counted. The bus tells of their delivery as well.
//!
//! Not for: writing reports (see [`crate::report`]). Called by [`super::state`]. Pure.

use std::collections::{BTreeMap, VecDeque};

use tributary_common::{
    header::MinuteCount,
    ids::{BatchId, Epoch, StreamId},
    report::Lost,
};

use super::record::{Account, End, Record, Told};

/// The most accounts that are kept: about 40 MiB with all around them.
const MAX_ACCOUNTS: usize = 500_000;
/// The most losses that are kept until told.
const MAX_LOSSES: usize = 10_000;
/// Accounts in one record of a snapshot, and minutes in all of them: far below the longest record.
const PIECE: usize = 4096;
const PIECE_MINUTES: usize = 64 << 10;

/// Batches of one stream and life.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Series {
    /// Sequence number of the first account.
    pub(crate) first_seq: u64,
    /// Consecutive accounts.
    pub(crate) accounts: VecDeque<Account>,
    /// All batches before this number were told as read.
    pub(crate) read_before: u64,
}

/// All accounts, and the losses that are to be told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Ledger {
    /// By stream and life.
    pub(crate) series: BTreeMap<(StreamId, Epoch), Series>,
    /// Oldest first.
    pub(crate) losses: VecDeque<Lost>,
    count: usize,
    /// Facts that were dropped for want of room.
    pub(crate) dropped: u64,
}

impl Series {
    /// The account of a batch.
    fn account(&mut self, seq: u64) -> Option<&mut Account> {
        let at = usize::try_from(seq.checked_sub(self.first_seq)?).ok()?;
        self.accounts.get_mut(at)
    }

    /// Marks the accounts of ranges.
    fn mark(&mut self, ranges: &[(u64, u64)], mark: impl Fn(&mut Account)) {
        for &(first, after) in ranges {
            let known = self.first_seq.saturating_add(self.accounts.len() as u64);
            for seq in first.max(self.first_seq)..after.min(known) {
                if let Some(account) = self.account(seq) {
                    mark(account);
                }
            }
        }
    }

    /// Drops what is told from the front; how many accounts that were.
    fn settle(&mut self) -> usize {
        let mut settled = 0;
        while self
            .accounts
            .front()
            .is_some_and(|account| account.end_told)
            && self.first_seq < self.read_before
        {
            self.accounts.pop_front();
            self.first_seq += 1;
            settled += 1;
        }
        settled
    }
}

impl Ledger {
    /// A batch was read.
    pub(crate) fn read(&mut self, batch: BatchId, minutes: &[MinuteCount]) {
        let series = self.series.entry((batch.stream, batch.epoch)).or_default();
        if series.accounts.is_empty() {
            series.first_seq = batch.seq;
        }
        // Sequence numbers have no holes; a repeat says nothing new.
        if series.first_seq + series.accounts.len() as u64 != batch.seq {
            return;
        }
        let account = Account {
            minutes: minutes.to_vec(),
            end: None,
            end_told: false,
            sent: false,
            sent_told: false,
        };
        series.accounts.push_back(account);
        self.count += 1;
        if self.count > MAX_ACCOUNTS {
            self.drop_oldest();
        }
    }

    /// A batch ended.
    pub(crate) fn ended(&mut self, batch: BatchId, end: End) {
        if let Some(series) = self.series.get_mut(&(batch.stream, batch.epoch))
            && let Some(account) = series.account(batch.seq)
        {
            account.end.get_or_insert(end);
            account.sent |= end != End::Lost;
        }
    }

    /// A batch was given to a connection. Known in memory only: its end says it again.
    pub(crate) fn sent(&mut self, batch: BatchId) {
        if let Some(series) = self.series.get_mut(&(batch.stream, batch.epoch))
            && let Some(account) = series.account(batch.seq)
        {
            account.sent = true;
        }
    }

    /// Bytes were lost.
    pub(crate) fn lost(&mut self, loss: Lost) {
        if self.losses.len() == MAX_LOSSES {
            self.losses.pop_front();
            self.dropped += 1;
        }
        self.losses.push_back(loss);
    }

    /// The manager has answered.
    pub(crate) fn told(&mut self, told: &Told) {
        let key = (told.stream, told.epoch);
        let Some(series) = self.series.get_mut(&key) else {
            return;
        };
        series.read_before = series.read_before.max(told.read_before);
        series.mark(&told.ends, |account| account.end_told = true);
        series.mark(&told.sent, |account| account.sent_told = true);
        self.count -= series.settle();
        if series.accounts.is_empty() {
            self.series.remove(&key);
        }
    }

    /// The oldest losses were told.
    pub(crate) fn losses_told(&mut self, count: u64) {
        let count = usize::try_from(count)
            .unwrap_or(usize::MAX)
            .min(self.losses.len());
        self.losses.drain(..count);
    }

    /// Takes in a piece of a snapshot.
    pub(crate) fn restore(
        &mut self,
        (stream, epoch): (StreamId, Epoch),
        first_seq: u64,
        read_before: u64,
        accounts: Vec<Account>,
    ) {
        let series = self.series.entry((stream, epoch)).or_default();
        if series.accounts.is_empty() {
            series.first_seq = first_seq;
        }
        if Some(first_seq) == series.first_seq.checked_add(series.accounts.len() as u64) {
            self.count += accounts.len();
            series.accounts.extend(accounts);
            series.read_before = read_before;
        }
    }

    /// The records of a snapshot.
    pub(crate) fn snapshot(&self, out: &mut dyn FnMut(&Record)) {
        for (&(stream, epoch), series) in &self.series {
            let mut first_seq = series.first_seq;
            let mut left = series.accounts.iter().cloned().peekable();
            while left.peek().is_some() {
                let mut minutes = 0;
                let mut fits = |account: &Account| {
                    minutes += account.minutes.len();
                    minutes <= PIECE_MINUTES
                };
                // One account never has as many minutes.
                let accounts: Vec<Account> = std::iter::from_fn(|| left.next_if(&mut fits))
                    .take(PIECE)
                    .collect();
                let len = accounts.len() as u64;
                let read_before = series.read_before;
                out(&Record::Accounts {
                    stream,
                    epoch,
                    first_seq,
                    read_before,
                    accounts,
                });
                first_seq += len;
            }
        }
        for Lost { loss, batch } in self.losses.iter().cloned() {
            out(&match batch {
                Some(batch) => Record::LostBatch { batch, loss },
                None => Record::Lost(loss),
            });
        }
    }

    /// Makes room: the longest series gives the oldest of its ended accounts.
    fn drop_oldest(&mut self) {
        let longest = self
            .series
            .values_mut()
            .max_by_key(|series| series.accounts.len());
        if let Some(series) = longest
            && series
                .accounts
                .front()
                .is_some_and(|account| account.end.is_some())
        {
            series.accounts.pop_front();
            series.first_seq += 1;
            series.read_before = series.read_before.max(series.first_seq);
            self.count -= 1;
            self.dropped += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(seq: u64) -> BatchId {
        BatchId {
            stream: StreamId(1),
            epoch: Epoch(2),
            seq,
        }
    }

    fn told(read_before: u64, ends: &[(u64, u64)]) -> Told {
        Told {
            stream: StreamId(1),
            epoch: Epoch(2),
            read_before,
            ends: ends.to_vec(),
            sent: Vec::new(),
        }
    }

    #[test]
    fn an_account_leaves_when_its_reading_and_its_end_were_told() {
        let mut ledger = Ledger::default();
        for seq in 1..=4 {
            ledger.read(
                id(seq),
                &[MinuteCount {
                    minute: 1,
                    records: 9,
                }],
            );
        }
        ledger.ended(id(1), End::Delivered);
        ledger.ended(id(3), End::Delivered);
        ledger.told(&told(5, &[(1, 2), (3, 4)]));
        let series = &ledger.series[&(StreamId(1), Epoch(2))];
        assert_eq!((series.first_seq, series.accounts.len()), (2, 3));
        ledger.ended(id(2), End::Duplicate);
        ledger.ended(id(4), End::Lost);
        ledger.told(&told(5, &[(2, 3), (4, 5)]));
        assert_eq!((ledger.series.len(), ledger.count), (0, 0));
        // Told twice changes nothing.
        ledger.told(&told(5, &[(1, u64::MAX)]));
    }
}
