//! Another list of tasks, between two batches.
//!
//! A task that changed goes on where it was, also under another name; its next batch is made in the new way. Of one that was
//! removed only the cuts of an earlier life are still made, then its files are closed: the checkpoint
//! keeps their offsets, and when the task comes back it goes on from there. A file that the patterns
//! of its task do not name any more is treated the same way, whether they changed while the agent ran
//! or while it did not.
//!
//! Not for: which documents are good (see [`crate::live`]).

use std::{collections::BTreeMap, sync::Arc};

use tokio::time::Instant;
use tributary_common::ids::{GenerationId, StreamId, TaskId, Topic};

use super::{BLOCK_BYTES, Channel, Ended, Next, Reader, files::stream_id};
use crate::{
    checkpoint::{Cut, Record, State},
    clock,
    config::{Limits, Task},
    handle, host,
    live::Plan,
    tail::{Place, Tail},
    turns::Turns,
};

impl Reader {
    /// Takes up what an earlier life left of all tasks.
    pub(super) fn restore(&mut self) {
        self.recover_spool();
        for channel in 0..self.channels.len() {
            self.restore_channel(channel, State::cuts_of);
            if self
                .channels
                .get(channel)
                .is_some_and(|known| known.removed)
            {
                self.leave_channel(channel);
            }
        }
        self.finish_unclaimed();
        self.note_tasks();
    }

    /// Takes up what the checkpoint knows of a task, with the `cuts` of each generation that have to
    /// be made again.
    fn restore_channel(
        &mut self,
        channel: usize,
        cuts: impl Fn(&State, StreamId, GenerationId) -> Vec<Cut>,
    ) {
        let now = Instant::now();
        let Some(task) = self
            .channels
            .get(channel)
            .map(|known| known.task.id.clone())
        else {
            return;
        };
        self.any_awaited = true;
        let checkpoint = Arc::clone(&self.wiring.checkpoint);
        checkpoint.read(|state| {
            let of_task = state.streams.iter().filter(|(_, known)| known.task == task);
            for (&id, known) in of_task {
                let stream = match self.by_id.get(&id) {
                    Some(&stream) => stream,
                    None => self.add_stream(id, channel, &known.path),
                };
                // Those that have not left yet stay.
                let mut leaving = self.take_tails(stream);
                for record in &known.generations {
                    let generation = record.generation;
                    let is_it = |tail: &Tail| tail.generation == generation;
                    let tail = if let Some(at) = leaving.iter().position(is_it) {
                        let mut tail = leaving.remove(at);
                        tail.leaving = false;
                        tail
                    } else {
                        let replay = cuts(state, id, generation);
                        if record.ended_ms.is_some() && replay.is_empty() {
                            let ended = Ended {
                                stream: id,
                                generation,
                                mtime_ns: record.mtime_ns,
                            };
                            self.ended.insert((channel, record.key), ended);
                            continue;
                        }
                        let mut tail = Tail::restored(record, replay, now);
                        if let Some(&size) = state.seen.get(&(id, generation)) {
                            tail.was_seen_to(size);
                        }
                        tail
                    };
                    let before = self
                        .by_key
                        .insert((channel, tail.key), (stream, generation));
                    self.push_tail(stream, tail);
                    self.claim_spool(stream, (id, generation));
                    if let Some((of, older)) = before
                        && older != generation
                        && let Some(at) = self.place_of(of, older)
                    {
                        self.was_left_cut_off(of, at, now);
                    }
                }
            }
        });
    }

    /// The checkpoint knows which tasks there are, and where their lines go from now on.
    fn note_tasks(&mut self) {
        let living = || self.channels.iter().filter(|channel| !channel.removed);
        let looks = living().map(|channel| (channel.task.id.clone(), channel.task.looks));
        let looks: BTreeMap<TaskId, u64> = looks.collect();
        let living = living().map(|channel| (channel.task.id.clone(), channel.task.topic.clone()));
        let living: BTreeMap<TaskId, Topic> = living.collect();
        let epoch = self.wiring.epoch;
        let records = self.wiring.checkpoint.read(|state| {
            let mut records = state.note_tasks(&looks, clock::now_ms());
            for (&stream, known) in &state.streams {
                let Some(topic) = living
                    .get(&known.task)
                    .filter(|topic| **topic != known.topic)
                else {
                    continue;
                };
                let at = self.by_id.get(&stream).and_then(|&at| self.streams.get(at));
                records.push(Record::Topic {
                    stream,
                    epoch,
                    seq: at.map_or(1, |known| known.seq),
                    topic: topic.clone(),
                });
            }
            records
        });
        if !records.is_empty() {
            self.wiring.checkpoint.write(records);
        }
    }

    fn take_tails(&mut self, stream: usize) -> Vec<Tail> {
        let known = self.streams.get_mut(stream);
        known.map_or_else(Vec::new, |known| std::mem::take(&mut known.tails))
    }

    /// Takes over a plan.
    pub(super) fn apply(&mut self, plan: Plan) {
        let Plan {
            limits,
            tasks,
            moved,
            renamed,
            applied,
        } = plan;
        self.wiring.checkpoint.rename(renamed);
        let stays = |place: usize| tasks.iter().any(|(of, _)| *of == place);
        let removed = (0..self.channels.len()).filter(|&place| !stays(place));
        for place in removed.collect::<Vec<_>>() {
            self.remove_channel(place);
        }
        for (place, task) in tasks {
            self.take_task(place, task, moved.contains(&place));
        }
        self.keep_to(limits);
        self.note_tasks();
        self.number_recipes();
        self.sort_ready();
        // Figures of the new list are there when the plan counts.
        self.publish(Instant::now());
        // Nobody waits any more when all is ending.
        let _ending = applied.send(());
    }

    /// Other ceilings, from now on.
    fn keep_to(&mut self, limits: Limits) {
        if limits.cpu != self.wiring.limits.cpu {
            self.cpu.keep_to(limits.cpu);
        }
        // Also when it is the same: who waits is woken once more, and waits on.
        self.wiring.budget.keep_to(limits.memory);
        if limits.open_files != self.wiring.limits.open_files {
            self.open_at_most(host::open_files(limits.open_files), Instant::now());
        }
        self.wiring.limits = limits;
    }

    /// A task of the list: new, back again, or as before.
    fn take_task(&mut self, place: usize, task: Task, moved: bool) {
        let share = self.wiring.budget.share(&task.topic, task.class);
        match self.channels.get_mut(place) {
            Some(channel) if !channel.removed => {
                channel.change(task, share);
                if moved {
                    self.find_anew(place);
                }
            }
            Some(_) | None => {
                let fresh = !self.wiring.checkpoint.knows_task(&task.id);
                let seed = self.wiring.checkpoint.seed_of(&task.id);
                let channel = Channel::new(task, share, fresh, seed);
                match self.channels.get_mut(place) {
                    Some(known) => *known = channel,
                    // Places are given in the order of the list: a new one is the next.
                    None => self.channels.push(channel),
                }
                // What was cut of it is in the sender's hands, or with a file that has not left yet.
                self.restore_channel(place, |_, _, _| Vec::new());
            }
        }
    }

    /// Streams that are ready stand in the queues of their classes, which may be others now.
    fn sort_ready(&mut self) {
        self.ready = Turns::new(BLOCK_BYTES as u64);
        for stream in 0..self.streams.len() {
            if let Some(known) = self.streams.get_mut(stream)
                && known.next == Next::Ready
            {
                known.next = Next::Idle;
                self.make_ready(stream);
            }
        }
    }

    /// A task is not in the list any more.
    fn remove_channel(&mut self, place: usize) {
        let Some(channel) = self.channels.get_mut(place) else {
            return;
        };
        if std::mem::replace(&mut channel.removed, true) {
            return;
        }
        channel.counters.behind(0);
        self.undecided.retain(|waiting| waiting.channel != place);
        self.packed.retain(|waiting| !waiting.is_of(place));
        self.cut_off.retain(|cut| cut.channel != place);
        self.ended.retain(|(of, _), _| *of != place);
        self.not_tailed.retain(|(of, _), _| *of != place);
        self.by_folder.retain(|(of, _), _| *of != place);
        self.links.forget(place);
        self.by_path.retain(|_, names| {
            names.retain(|&(of, _, _)| of != place);
            !names.is_empty()
        });
        self.leave_channel(place);
    }

    /// Removed tasks of which nothing is left to read leave their memory to the others.
    pub(super) fn release_shares(&mut self) {
        for (place, channel) in self.channels.iter_mut().enumerate() {
            if !channel.removed || channel.share.is_none() {
                continue;
            }
            let mut of_task = self.streams.iter().filter(|known| known.channel == place);
            if of_task.all(|known| known.tails.is_empty()) {
                channel.share = None;
            }
        }
    }

    /// Nothing new is read of a task.
    fn leave_channel(&mut self, place: usize) {
        for stream in 0..self.streams.len() {
            let of = self.streams.get(stream).map(|known| known.channel);
            if of != Some(place) {
                continue;
            }
            let mut at = 0;
            while self.tail(stream, at).is_some() {
                if !self.leave(stream, at) {
                    at += 1;
                }
            }
        }
    }

    /// The patterns of a task are others: what they do not find in the next look leaves.
    fn find_anew(&mut self, place: usize) {
        let now = Instant::now();
        self.by_path.retain(|_, names| {
            names.retain(|&(of, _, _)| of != place);
            !names.is_empty()
        });
        let of_task = self.streams.iter_mut();
        let of_task = of_task.filter(|stream| stream.channel == place);
        for tail in of_task.flat_map(|stream| &mut stream.tails) {
            tail.names = 0;
            if tail.place == Place::Named {
                tail.place = Place::Awaited(now);
            }
        }
        self.any_awaited = true;
        if let Some(channel) = self.channels.get_mut(place) {
            channel.looks = 0;
        }
    }

    /// A file that no path of the task names, though it is where it was when its stream began: the
    /// patterns leave it out. One that was renamed since is read to its end.
    pub(super) fn is_left_out(&self, stream: usize, at: usize) -> bool {
        let Some(known) = self.streams.get(stream) else {
            return false;
        };
        let (Some(tail), Some(channel)) = (known.tails.get(at), self.channels.get(known.channel))
        else {
            return false;
        };
        // A file that was cut off belongs to a younger generation.
        let key = (known.channel, tail.key);
        let is_its_own = self.by_key.get(&key) == Some(&(stream, tail.generation));
        is_its_own
            && stream_id(&self.wiring.agent, &channel.seed, &tail.path) == known.id
            && handle::of_path(&tail.path).is_ok_and(|info| info.key == tail.key)
    }

    /// Nothing new is read of a generation: only what an earlier life had cut is still made of it.
    /// True when it has left.
    pub(super) fn leave(&mut self, stream: usize, at: usize) -> bool {
        let Some(tail) = self.tail(stream, at) else {
            return true;
        };
        tail.leaving = true;
        if tail.replay.is_empty() {
            self.forget(stream, at);
            return true;
        }
        let is_open = tail.file.is_some();
        tail.place = Place::Hidden(Instant::now());
        if !is_open {
            self.hunt(stream, at);
        }
        self.make_ready(stream);
        false
    }

    /// Drops a generation of which nothing is wanted. The checkpoint keeps its place.
    pub(super) fn forget(&mut self, stream: usize, at: usize) {
        self.keep_spool(stream, at);
        self.close(stream, at);
        let Some(known) = self.streams.get_mut(stream) else {
            return;
        };
        if at >= known.tails.len() {
            return;
        }
        let (id, channel) = (known.id, known.channel);
        let tail: Tail = known.tails.remove(at);
        let named = (channel, stream, tail.generation);
        if let Some(names) = self.by_path.get_mut(&tail.path) {
            names.retain(|name| *name != named);
            if names.is_empty() {
                self.by_path.remove(&tail.path);
            }
        }
        let key = (channel, tail.key);
        if self.by_key.get(&key) == Some(&(stream, tail.generation)) {
            self.by_key.remove(&key);
            let removed = self.channels.get(channel).is_none_or(|known| known.removed);
            // Should the patterns name it again, it goes on.
            if !removed {
                let ended = Ended {
                    stream: id,
                    generation: tail.generation,
                    mtime_ns: tail.mtime_ns,
                };
                self.ended.insert(key, ended);
            }
        }
        self.make_ready(stream);
    }
}
