//! What becomes of batches once their lane has judged an answer, and of those that are taken apart.
//!
//! Not for: which answer belongs to which batch (see [`super`]), what it means for the order (see
//! [`super::super::lane`]).

use tokio::time::Instant;

use super::{
    super::{
        lane::{CutNo, Parcel, Verdict},
        meaning::Meaning,
        says::Command,
    },
    Cluster, LaneNo,
};

impl<T: Clone> Cluster<T> {
    /// Says what follows from what a lane makes of an answer.
    pub(super) fn judge(&mut self, verdict: Verdict<T>, meaning: Meaning, why: &str) {
        let why = why.to_owned();
        let command = match verdict {
            Verdict::Again if why.is_empty() => return,
            // Only an answer cuts.
            Verdict::Again | Verdict::Cut(_) => Command::Trouble(why),
            Verdict::Taken(parcel, offset) => Command::Taken { parcel, offset },
            Verdict::Refused(parcels) => {
                let refused = parcels.into_iter().map(|parcel| Command::Refused {
                    parcel,
                    meaning,
                    why: why.clone(),
                });
                return self.commands.extend(refused);
            }
            Verdict::Broken(parcels) => {
                // The next ones begin with an id that the broker has never seen.
                self.producer = None;
                Command::GiveBack { parcels, why }
            }
        };
        self.commands.push_back(command);
    }

    /// The batch of a partition that is taken apart.
    pub(in super::super) fn cutting(&self, lane: LaneNo, cut: CutNo) -> Option<&Parcel<T>> {
        self.slots.get(lane)?.lane.cutting(cut)
    }

    /// What is left of a batch that was taken apart; where that is nothing it is given back.
    pub(in super::super) fn cut(
        &mut self,
        (lane, cut): (LaneNo, CutNo),
        pieces: Vec<Parcel<T>>,
        now: Instant,
    ) -> Option<Parcel<T>> {
        let out = self.slots.get_mut(lane)?.lane.cut(cut, pieces);
        self.touch(lane, now);
        out
    }

    /// Leaves out the batch of a partition that is taken apart, and what is behind it of its streams.
    pub(in super::super) fn refuse(
        &mut self,
        (lane, cut): (LaneNo, CutNo),
        now: Instant,
    ) -> Vec<Parcel<T>> {
        let Some(slot) = self.slots.get_mut(lane) else {
            return Vec::new();
        };
        let out = slot.lane.refuse_cut(cut);
        let rest = slot.lane.settle();
        self.judge(rest, Meaning::Broken, "");
        self.touch(lane, now);
        out
    }
}
