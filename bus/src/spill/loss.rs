//! What the spill has acknowledged and will not deliver: damaged on the disk, or dropped because it was
//! full. Each batch is told to the manager by its identity, by a next life too, until it has heard.
//!
//! Not for: how damage is found (see [`super::segment`], [`super::store`]).

use std::sync::{PoisonError, Weak, atomic::Ordering};

use tributary_common::{header::BatchHeader, ids::BatchId};

use super::{
    format::Head,
    lane::Spill,
    queue::{Entry, Place},
    store::{Lost, Why},
};

impl Spill {
    /// Tells what the opening found to be lost.
    pub(super) fn tell_what_opening_found(&self) {
        let lost = std::mem::take(&mut *self.lost.lock().unwrap_or_else(PoisonError::into_inner));
        for Lost {
            segment,
            header,
            why,
        } in lost
        {
            if !self.tell_lost(&header, segment, why) {
                self.store.loss_told(header.id());
            }
        }
    }

    /// A batch on the disk cannot be read any more.
    pub(super) fn lost(&self, id: BatchId, place: Place, header: Option<BatchHeader>) {
        self.lock().remove(id);
        let header = header.or_else(|| Some(self.store.noted_head(place)?.header));
        let untold = match &header {
            Some(header) => self.tell_lost(header, place.segment, Why::Damaged),
            None => {
                self.passed.lost_batches.fetch_add(1, Ordering::Relaxed);
                tracing::error!(
                    destination = %self.name,
                    batch.id = %id,
                    segment = format!("{:016x}", place.segment),
                    "a spilled batch is damaged, its head too, and lost"
                );
                false
            }
        };
        self.store.damaged(place, untold.then_some(id));
    }

    /// Says that a batch is lost. Whether the manager is to be told.
    fn tell_lost(&self, header: &BatchHeader, segment: u64, why: Why) -> bool {
        self.passed.lost_batches.fetch_add(1, Ordering::Relaxed);
        tracing::error!(
            destination = %self.name,
            batch.id = %header.id(),
            batch.topic = %header.topic,
            batch.agent = %header.agent,
            batch.file = header.file,
            batch.span_start_bytes = header.span.start,
            batch.span_end_bytes = header.span.end,
            segment = format!("{segment:016x}"),
            reason = why.as_str(),
            "a spilled batch is lost"
        );
        metrics::counter!("tributary_bus_spill_lost_records_total", "destination" => self.name.to_string(), "reason" => why.as_str())
            .increment(u64::from(header.records));
        let node = self.node.get().and_then(Weak::upgrade);
        node.is_some_and(|node| node.spill_lost(header, why.as_str()))
    }

    /// Gives the oldest segment up of which nothing is on its way. Whether there was one.
    pub(super) fn drop_oldest(&self) -> bool {
        let sealed = self.store.sealed();
        sealed.into_iter().any(|number| match self.drop_segment(number) {
            Ok(dropped) => dropped,
            Err(error) => {
                tracing::error!(destination = %self.name, error = format!("{error:#}"), "a full spill cannot give up a segment");
                false
            }
        })
    }

    fn drop_segment(&self, number: u64) -> anyhow::Result<bool> {
        let mut held = self.store.held(number)?;
        {
            let mut queue = self.lock();
            held.retain(|(place, head)| queue.place_of(head.header.id()) == Some(*place));
            let is_flying = |(_place, head): &(Place, Head)| {
                let entry = queue.entry(head.header.id());
                entry.is_some_and(Entry::is_flying)
            };
            if held.iter().any(is_flying) {
                return Ok(false);
            }
            // From here on nothing of it is given to the destination.
            for (_place, head) in &held {
                queue.remove(head.header.id());
            }
        }
        let told = |head: &Head| self.tell_lost(&head.header, number, Why::Dropped);
        if let Err(error) = self.store.give_up(number, &held, told) {
            let mut queue = self.lock();
            for (place, head) in held {
                let (id, class) = (head.header.id(), head.header.class);
                let target = head.target.as_str().into();
                queue.recovered(id, &target, (class, head.order), place);
            }
            return Err(error.into());
        }
        Ok(true)
    }

    /// The manager knows of a batch that was lost: its segment may go.
    pub(crate) fn loss_told(&self, batch: BatchId) {
        self.store.loss_told(batch);
    }
}
