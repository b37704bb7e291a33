//! A spill without threads: what its threads do, one turn at a time.
//!
//! Not for: programs. A simulation calls it (see [`crate::sim`]).

use std::sync::{Arc, mpsc::Receiver};

use super::{
    drain::Drain,
    lane::{Spill, once},
    writer::{Command, Writer},
};
use crate::node::Node;

/// What the threads of a spill would own.
pub(crate) struct ByHand {
    spill: Arc<Spill>,
    writer: Writer,
    to_write: Receiver<Command>,
    drain: Drain,
}

impl Spill {
    /// [`Spill::start`] without threads.
    ///
    /// # Errors
    /// When it was started before.
    pub(crate) fn start_by_hand(self: &Arc<Self>, node: &Arc<Node>) -> anyhow::Result<ByHand> {
        drop(self.node.set(Arc::downgrade(node)));
        self.tell_what_opening_found();
        Ok(ByHand {
            spill: Arc::clone(self),
            writer: Writer::new(Arc::clone(&self.store)),
            to_write: once(&self.to_write)?,
            drain: Drain::new(Arc::clone(self), once(&self.woken)?),
        })
    }
}

impl ByHand {
    /// One turn of the writer; `tidy` does what it does once a second, too.
    pub(crate) fn spill(&mut self, tidy: bool) {
        let first = self.to_write.try_recv().ok();
        let spill = &self.spill;
        let told = |written| spill.written(written);
        let more = (first, &self.to_write);
        self.writer.turn(more, told, || spill.drop_oldest());
        if tidy {
            self.writer.tidy(false);
        }
    }

    /// One turn of the drain.
    pub(crate) fn drain(&mut self) {
        self.drain.turn();
    }
}
