//! The producer that forwards a batch as it came: never opened, its fixed fields stamped, its checksum
//! made anew.
//!
//! # Constraints
//! As of every producer here (see [`super`]): what is taken stays on its way until Kafka has it, in the
//! order of its partition, each batch once while the producer lives. Where that cannot be told, the
//! batch is given back as failed and its topic is looked through before anything more is produced. A record
//! that its topic will never take is among the dead letters before anything behind it is sent.
//! A batch without keys is checked by its checksum and number of records, not opened: what its header
//! says of its contents is the agent's word.
//!
//! # Operation
//! ```text
//! Topics::give -> engine thread: cargo -> cluster (who leads, what next) -> link -> broker
//!      '--keyed-> keys thread: open, spread --^                              '-> answer -> Flight
//! ```
//! One thread with a runtime of its own owns all state; connections are its tasks. librdkafka still
//! opens topics, looks what is in them and watches the cluster.
//!
//! Rooms: [`engine`], [`cargo`], [`apart`], [`keys`], [`cluster`], [`broker`], [`lane`], [`gather`],
//! [`meaning`], [`says`], [`proto`], [`frame`], [`link`], [`security`], [`sasl`], [`bearer`]; [`admin`].

pub(super) mod admin;
mod apart;
pub(super) mod bearer;
mod broker;
mod cargo;
mod cluster;
mod engine;
mod frame;
mod gather;
mod keys;
mod lane;
mod link;
pub(super) mod meaning;
#[cfg(test)]
mod model;
mod proto;
mod sasl;
mod says;
pub(crate) mod security;

use std::{collections::BTreeMap, sync::Arc, thread::JoinHandle};

use anyhow::Context as _;
use tokio::sync::mpsc;

pub(super) use self::gather::SMALL_BYTES;
use self::{
    engine::{Engine, Order},
    security::Security,
};
use super::{Shared, owner::Work};

/// The way to the producer's threads.
pub(super) struct Handle {
    /// Bounded by the byte permits that the batches carry; so is the other.
    orders: mpsc::UnboundedSender<Order>,
    keyed: crossbeam_channel::Sender<Work>,
}

impl Handle {
    /// Takes a batch; false when the producer is gone, and the batch was dropped.
    pub(super) fn take(&self, work: Work) -> bool {
        match work.job.batch.header.keyed {
            true => self.keyed.send(work).is_ok(),
            false => self.orders.send(Order::Work(work)).is_ok(),
        }
    }

    /// Everything that is on its way is given back, and the producer begins anew.
    pub(super) fn reset(&self) {
        // An engine that is gone has nothing on its way.
        drop(self.orders.send(Order::Reset));
    }
}

/// A producer that was not started yet.
pub(super) struct Unstarted {
    orders: mpsc::UnboundedReceiver<Order>,
    own: mpsc::UnboundedSender<Order>,
    keyed: crossbeam_channel::Receiver<Work>,
}

/// A producer and the way to it.
pub(super) fn new() -> (Handle, Unstarted) {
    #[expect(
        clippy::disallowed_methods,
        reason = "the byte permits that the batches carry are its bound; nobody may wait under the lock"
    )]
    let (orders, to_do) = mpsc::unbounded_channel();
    let (keyed, to_spread) = crossbeam_channel::unbounded();
    let unstarted = Unstarted {
        orders: to_do,
        own: orders.clone(),
        keyed: to_spread,
    };
    (Handle { orders, keyed }, unstarted)
}

impl Unstarted {
    /// Starts the threads. They end when the [`Handle`] is dropped; what is on its way then is
    /// given back.
    pub(super) fn start(
        self,
        shared: &Arc<Shared>,
        (bootstrap, options): (&[String], &BTreeMap<String, String>),
    ) -> anyhow::Result<Vec<JoinHandle<()>>> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("failed to start a runtime")?;
        let security = Arc::new(Security::of(options)?);
        let orders = (self.orders, self.own.downgrade());
        let engine = Engine::new(Arc::clone(shared), (bootstrap, security), orders);
        let (keys, parcels) = (Arc::clone(shared), self.own);
        let name = &shared.name;
        let thread = |role: &str| std::thread::Builder::new().name(format!("kafka-{role}-{name}"));
        let engine = thread("verbatim").spawn(move || runtime.block_on(engine.run()));
        let keys = thread("keys").spawn(move || keys::run(&keys, &self.keyed, &parcels));
        let threads = [engine, keys].into_iter().collect::<Result<_, _>>();
        threads.context("failed to start a thread")
    }
}
