//! Dead letters, tried once more over the lane of the batches that come.
//!
//! Not for: keeping them (see [`crate::dead`]).

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, atomic::Ordering},
};

use tributary_common::{batch::MAX_DECODED_BYTES, header::BatchHeader};

use super::{super::bulk::Pile, Sent, Worker};
use crate::{
    dead::{Dead, Gone},
    journal::now_ms,
};

/// Letters that are replayed together.
const AT_ONCE: usize = 500;

/// A letter that is to be sent.
struct Opened {
    no: u64,
    header: Arc<BatchHeader>,
    at: u32,
    payload: Vec<u8>,
}

impl Worker {
    /// Tries dead letters once more, those of one target together.
    pub(super) fn replay(&mut self) {
        let count = self.replays.len().min(AT_ONCE);
        let numbers: Vec<u64> = self.replays.drain(..count).collect();
        let mut by_target: BTreeMap<String, (Pile, Vec<Opened>)> = BTreeMap::new();
        for no in numbers {
            let Ok(letter) = self.shared.letters.read(no) else {
                // It is gone: replayed or purged.
                continue;
            };
            let header = BatchHeader::decode(&letter.header);
            let decoded = self.decoder.decode(&letter.payload, MAX_DECODED_BYTES);
            let (Ok(header), Ok(decoded)) = (header, decoded) else {
                tracing::error!(destination = %self.shared.name, letter = no, "a dead letter cannot be read");
                continue;
            };
            let header = Arc::new(header);
            let (pile, letters) = by_target.entry(letter.target.clone()).or_default();
            if let Some(record) = decoded.records().next() {
                self.writer.begin(&header, &letter.target);
                pile.add((letters.len(), letter.at), |text| {
                    self.writer.write(text, letter.at, &record);
                });
                letters.push(Opened {
                    no,
                    header,
                    at: letter.at,
                    payload: letter.payload,
                });
            }
            self.decoder.recycle(decoded);
        }
        self.try_again(by_target);
        self.shared.replaying.fetch_sub(count, Ordering::Relaxed);
    }

    fn try_again(&mut self, by_target: BTreeMap<String, (Pile, Vec<Opened>)>) {
        for (target, (pile, letters)) in by_target {
            let docs = pile.done();
            let sent = self.ready(&target).and_then(|()| self.send(&docs, &target));
            let told = sent.and_then(|sent| self.replayed(&target, &letters, &sent));
            if let Err(why) = told {
                tracing::warn!(destination = %self.shared.name, target, letters = letters.len(), "dead letters were not replayed: {why}");
            }
        }
    }

    fn replayed(&self, target: &str, letters: &[Opened], sent: &Sent) -> Result<(), String> {
        let refused: HashMap<usize, (u16, &str)> = sent
            .dead
            .iter()
            .map(|(no, status, why)| (*no, (*status, why.as_str())))
            .collect();
        let (mut gone, mut again) = (Vec::new(), Vec::new());
        for (at, letter) in letters.iter().enumerate() {
            match refused.get(&at) {
                None => gone.push(letter.no),
                Some(&(status, reason)) => again.push(Dead {
                    header: Arc::clone(&letter.header),
                    at: letter.at,
                    target: target.to_owned(),
                    payload: letter.payload.clone(),
                    status,
                    reason: reason.to_owned(),
                }),
            }
        }
        let letters = &self.shared.letters;
        let told = letters.keep(again, now_ms());
        told.and_then(|_new| letters.end(&gone, Gone::Replayed))
            .map_err(|error| format!("{error:#}"))?;
        let name = &self.shared.name;
        metrics::counter!("tributary_bus_dead_replayed_records_total", "destination" => name.to_string())
            .increment(gone.len() as u64);
        tracing::info!(destination = %name, target, replayed = gone.len(), refused = refused.len(), "dead letters were replayed");
        self.count(sent);
        Ok(())
    }
}
