//! The thread that opens batches with keys and makes a batch for each partition of them.
//!
//! One thread, so that what has one key keeps its order. Not for: which partition (see
//! [`super::super::keyed`]).

use std::sync::Arc;

use crossbeam_channel::Receiver;
use tokio::sync::mpsc::UnboundedSender;
use tributary_common::batch::Decoder;

use super::{
    super::{
        super::Failure,
        Shared,
        keyed::Spread,
        owner::{KEYED, Work},
        produced::Flight,
    },
    cargo::{self, Cargo},
    engine::Order,
};

/// Works until the destination closes.
pub(super) fn run(
    shared: &Arc<Shared>,
    incoming: &Receiver<Work>,
    engine: &UnboundedSender<Order>,
) {
    let mut decoder = Decoder::new();
    while let Ok(work) = incoming.recv() {
        if work.topic.is_closed() || shared.is_closing() || shared.holds(&work) {
            let why = "the topic is being looked at".to_owned();
            shared.give_back(work, Failure::Unavailable(why));
            continue;
        }
        if let Some(work) = shared.unless_ended(work) {
            spread(shared, work, &mut decoder, engine);
        }
    }
}

fn spread(
    shared: &Arc<Shared>,
    work: Work,
    decoder: &mut Decoder,
    engine: &UnboundedSender<Order>,
) {
    let decoded = match work.job.batch.open(decoder) {
        Ok(decoded) => decoded,
        Err(failure) => return shared.give_back(work, failure),
    };
    let header = &work.job.batch.header;
    let (id, stream) = (header.id(), header.stream);
    let (alive, found) = (shared.alive(&work.job, &decoded), shared.found(&work));
    let mut spread = Spread::new(&work.topic, stream, &alive, &found);
    let left = alive.len() - spread.records_there();
    let places: Vec<_> = spread.places().collect();
    let records = alive.records().filter_map(|(place, record)| {
        let share = spread.next(&record);
        (!share.is_there).then_some((place, record, share.partition))
    });
    let parts = match cargo::spread(decoded.codec(), id, records) {
        Ok(parts) => parts,
        Err(failure) => return shared.give_back(work, failure),
    };
    decoder.recycle(decoded);
    let Work { topic, job, no, .. } = work;
    let flight = Flight::new(
        (shared, &topic),
        (KEYED, None),
        left,
        places.into_iter(),
        (job, no),
    );
    topic.convoy.join(&flight);
    if left == 0 {
        return flight.count(0);
    }
    for (partition, packed) in parts {
        let parcel = Cargo::parcel(&flight, &topic, partition, packed);
        if let Err(gone) = engine.send(Order::Parcel(parcel))
            && let Order::Parcel(parcel) = gone.0
        {
            let why = "the producer is gone".to_owned();
            parcel.cargo.failed(&Failure::Unavailable(why));
        }
    }
}
