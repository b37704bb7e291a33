//! What the records of a checkpoint mean together.
//!
//! The same [`State::apply`] runs when a thing happens and when the file is read again, so both
//! always agree. A generation's offset moves with cuts only; the watermark is the beginning of its
//! oldest cut that has not ended.
//!
//! Not for: bytes and files (see [`super::record`], [`super::log`]). Pure.

use std::collections::{BTreeMap, BTreeSet};

use tributary_common::{
    ids::{BatchId, Epoch, GenerationId, StreamId, TaskId, Topic},
    report::{Loss, Lost},
};

use super::{
    ledger::Ledger,
    names::Names,
    record::{Cut, End, GenerationRecord, Joint, MadeBy, Record},
    stream::StreamState,
};
use crate::{frame::Carry, identify::Mark, recipe::Recipe};

/// Generations that were given up are remembered this long, in ms: a directory that was away for a
/// while does not come back as new files.
const REMEMBER_ENDED_MS: u64 = 24 * 3600 * 1000;
/// The most of them.
const MAX_ENDED: usize = 10_000;

/// A record that contradicts those before it: the file cannot be trusted from here on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a record contradicts those before it")]
pub(crate) struct Contradiction;

/// Everything that the checkpoint holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct State {
    /// The greatest life so far.
    pub(crate) epoch: Epoch,
    /// Tasks whose files were looked for.
    pub(crate) tasks: BTreeSet<TaskId>,
    /// Tasks that are not in the configuration any more, and since when, in ms since 1970.
    pub(crate) removed: BTreeMap<TaskId, u64>,
    /// What tasks are known by.
    pub(crate) names: Names,
    /// All streams, with their generations.
    pub(crate) streams: BTreeMap<StreamId, StreamState>,
    /// Recipes that cuts name, and those of today.
    pub(crate) recipes: BTreeMap<u32, Recipe>,
    /// Cuts that have not ended.
    pub(crate) cuts: BTreeMap<BatchId, Cut>,
    /// What some of them begin with of the files before their own. Few, for short.
    pub(crate) joints: BTreeMap<BatchId, Joint>,
    /// How far files were seen that are not read so far, in bytes. Few: most are read to their end.
    pub(crate) seen: BTreeMap<(StreamId, GenerationId), u64>,
    /// What is to be told.
    pub(crate) ledger: Ledger,
    /// Whether anybody is to be told.
    pub(crate) keep_accounts: bool,
}

impl State {
    /// Takes in a record.
    ///
    /// # Errors
    /// [`Contradiction`], only when read from a damaged file.
    pub(crate) fn apply(&mut self, record: Record) -> Result<(), Contradiction> {
        match record {
            Record::Life { epoch } => self.epoch = self.epoch.max(epoch),
            Record::Task { task } => {
                self.tasks.insert(task);
            }
            Record::Stream {
                stream,
                task,
                topic,
                path,
            } => {
                let begun = StreamState::new(task, topic, path);
                self.begin_stream(stream, begun);
            }
            Record::Generation(record) => self.set_generation(record)?,
            Record::Cut(cut) => self.cut(cut)?,
            Record::Ended { batch, end } => self.end(batch, end),
            Record::Skipped {
                stream,
                generation,
                mark,
                carry,
            } => self.skip((stream, generation), mark, carry)?,
            Record::Seen {
                stream,
                generation,
                size,
            } => self.see((stream, generation), size)?,
            Record::Lost(loss) => self.lost(None, loss),
            Record::LostBatch { batch, loss } => self.lost(Some(batch), loss),
            Record::Recipe { no, recipe } => drop(self.recipes.insert(no, recipe)),
            Record::Topic {
                stream,
                epoch,
                seq,
                topic,
            } => {
                let known = self.streams.get_mut(&stream).ok_or(Contradiction)?;
                known.change_topic((epoch, seq), topic);
            }
            Record::Removed { task, at_ms } => self.remove_task(task, at_ms),
            Record::Open(cut) => {
                self.known(cut.id.stream, cut.generation)?;
                self.known_recipe(&cut)?;
                self.cuts.insert(cut.id, cut);
            }
            Record::Joined { cut, joint } => self.join(cut, joint)?,
            Record::Joint { batch, joint } => {
                self.cuts.get(&batch).ok_or(Contradiction)?;
                self.joints.insert(batch, joint);
            }
            Record::Looks { task, looks } => self.names.look(task, looks),
            Record::Renamed { from, to } => self.rename(&from, &to),
            Record::Seed { task, seed } => self.names.number_by(task, seed),
            Record::Told(told) => self.ledger.told(&told),
            Record::LossesTold(count) => self.ledger.losses_told(count),
            Record::Accounts {
                stream,
                epoch,
                first_seq,
                read_before,
                accounts,
            } if self.keep_accounts => {
                self.ledger
                    .restore((stream, epoch), first_seq, read_before, accounts);
            }
            Record::Accounts { .. } | Record::SnapshotEnd => {}
        }
        Ok(())
    }

    /// A batch ended.
    fn end(&mut self, batch: BatchId, end: End) {
        self.cuts.remove(&batch);
        self.joints.remove(&batch);
        if self.keep_accounts {
            self.ledger.ended(batch, end);
        }
    }

    /// Bytes were lost, which may have become a batch.
    fn lost(&mut self, batch: Option<BatchId>, loss: Loss) {
        if self.keep_accounts {
            self.ledger.lost(Lost { loss, batch });
        }
    }

    /// A task was removed, or came back.
    fn remove_task(&mut self, task: TaskId, at_ms: Option<u64>) {
        match at_ms {
            Some(at_ms) => self.removed.insert(task, at_ms),
            None => self.removed.remove(&task),
        };
    }

    /// A task has another name.
    pub(crate) fn rename(&mut self, from: &TaskId, to: &TaskId) {
        if self.tasks.remove(from) {
            self.tasks.insert(to.clone());
        }
        self.removed.remove(from);
        let of_task = self.streams.values_mut();
        for stream in of_task.filter(|stream| stream.task == *from) {
            stream.task = to.clone();
        }
        self.names.rename(from, to);
    }

    /// A stream begins, or what is known of it changed; its generations stay.
    fn begin_stream(&mut self, id: StreamId, mut begun: StreamState) {
        if let Some(known) = self.streams.remove(&id) {
            begun.generations = known.generations;
            begun.earlier = known.earlier;
        }
        self.streams.insert(id, begun);
    }

    fn known(
        &mut self,
        stream: StreamId,
        generation: GenerationId,
    ) -> Result<&mut GenerationRecord, Contradiction> {
        let stream = self.streams.get_mut(&stream).ok_or(Contradiction)?;
        stream.generation_mut(generation).ok_or(Contradiction)
    }

    /// Reading goes on at a mark without a batch.
    fn skip(
        &mut self,
        key: (StreamId, GenerationId),
        mark: Mark,
        carry: Carry,
    ) -> Result<(), Contradiction> {
        let known = self.known(key.0, key.1)?;
        known.mark = mark;
        known.carry = carry;
        self.read_to(key, mark.offset);
        Ok(())
    }

    /// A file was seen to be longer than what is read of it.
    fn see(&mut self, key: (StreamId, GenerationId), size: u64) -> Result<(), Contradiction> {
        self.known(key.0, key.1)?;
        self.seen.insert(key, size);
        Ok(())
    }

    /// A generation is read up to there: how far it was seen is worth no more.
    fn read_to(&mut self, key: (StreamId, GenerationId), offset: u64) {
        if self.seen.get(&key).is_some_and(|&size| size <= offset) {
            self.seen.remove(&key);
        }
    }

    fn set_generation(&mut self, record: GenerationRecord) -> Result<(), Contradiction> {
        let stream = self.streams.get_mut(&record.stream).ok_or(Contradiction)?;
        let known = stream.generation(record.generation);
        // A copy need not have all that its original had.
        if record.ended_ms.is_some() || known.is_some_and(|known| known.key != record.key) {
            self.seen.remove(&(record.stream, record.generation));
        }
        stream.set_generation(record);
        Ok(())
    }

    /// What is known of a generation.
    pub(crate) fn generation(
        &self,
        stream: StreamId,
        generation: GenerationId,
    ) -> Option<&GenerationRecord> {
        self.streams.get(&stream)?.generation(generation)
    }

    /// All generations, by their streams.
    pub(crate) fn generations(&self) -> impl Iterator<Item = &GenerationRecord> {
        self.streams.values().flat_map(|stream| &stream.generations)
    }

    fn known_recipe(&self, cut: &Cut) -> Result<(), Contradiction> {
        match cut.recipe {
            MadeBy::Recipe(no) if !self.recipes.contains_key(&no) => Err(Contradiction),
            MadeBy::Recipe(_) | MadeBy::Rule(_) => Ok(()),
        }
    }

    fn cut(&mut self, cut: Cut) -> Result<(), Contradiction> {
        self.known_recipe(&cut)?;
        let known = self.known(cut.id.stream, cut.generation)?;
        // A hole would be bytes that nobody sends.
        if cut.span.start > known.mark.offset || cut.span.end < cut.span.start {
            return Err(Contradiction);
        }
        known.mark = Mark {
            offset: cut.span.end,
            hash: cut.mark,
        };
        known.carry = cut.after;
        known.ended_ms = None;
        self.read_to((cut.id.stream, cut.generation), cut.span.end);
        if self.keep_accounts {
            self.ledger.read(cut.id, &cut.minutes);
        }
        self.cuts.insert(cut.id, cut);
        Ok(())
    }

    /// A batch was cut that begins with the ends of the files before its own.
    fn join(&mut self, cut: Cut, joint: Joint) -> Result<(), Contradiction> {
        let batch = cut.id;
        for end in &joint.from {
            let known = self.known(batch.stream, end.generation)?;
            // A hole would be bytes that nobody sends.
            if end.span.start > known.mark.offset || end.span.end < known.mark.offset {
                return Err(Contradiction);
            }
        }
        self.cut(cut)?;
        for end in &joint.from {
            let known = self.known(batch.stream, end.generation)?;
            known.mark = Mark {
                offset: end.span.end,
                hash: end.mark,
            };
            known.carry = known.carry.behind_joined();
            self.read_to((batch.stream, end.generation), end.span.end);
        }
        self.joints.insert(batch, joint);
        Ok(())
    }

    /// Bytes of files before their own that cuts hold.
    pub(crate) fn joint_bytes(&self) -> usize {
        self.joints.values().map(|joint| joint.bytes.len()).sum()
    }

    /// Forgets generations that ended long ago, and streams without any.
    pub(crate) fn forget_ended(&mut self, now_ms: u64) {
        let mut ended: Vec<(u64, (StreamId, GenerationId))> = self
            .generations()
            .filter_map(|known| Some((known.ended_ms?, (known.stream, known.generation))))
            .collect();
        ended.sort_unstable();
        let surplus = ended.len().saturating_sub(MAX_ENDED);
        let held: BTreeSet<(StreamId, GenerationId)> = self
            .cuts
            .values()
            .map(|cut| (cut.id.stream, cut.generation))
            .collect();
        for (place, (ended_ms, key)) in ended.into_iter().enumerate() {
            let old = ended_ms.saturating_add(REMEMBER_ENDED_MS) < now_ms;
            if (old || place < surplus)
                && !held.contains(&key)
                && let Some(stream) = self.streams.get_mut(&key.0)
            {
                stream.generations.retain(|known| known.generation != key.1);
                self.seen.remove(&key);
            }
        }
        let told: BTreeSet<StreamId> = self.ledger.series.keys().map(|key| key.0).collect();
        self.streams
            .retain(|id, stream| !stream.generations.is_empty() || told.contains(id));
        let mut oldest: BTreeMap<StreamId, (Epoch, u64)> = BTreeMap::new();
        let cuts = self.cuts.keys().map(|id| (id.stream, (id.epoch, id.seq)));
        let series = self.ledger.series.iter();
        let series = series.map(|(key, series)| (key.0, (key.1, series.first_seq)));
        for (stream, place) in cuts.chain(series) {
            let known = oldest.entry(stream).or_insert(place);
            *known = place.min(*known);
        }
        for (id, stream) in &mut self.streams {
            stream.forget_topics(oldest.get(id).copied());
        }
    }

    /// Forgets what is known of tasks that were removed before `before_ms` and have no batch under
    /// way: should they come back, they are new.
    pub(crate) fn forget_removed(&mut self, before_ms: u64) {
        let under_way: BTreeSet<StreamId> = self.cuts.keys().map(|id| id.stream).collect();
        let busy = |task: &TaskId| {
            let mut streams = self.streams.iter().filter(|(_, of)| &of.task == task);
            streams.any(|(id, _)| under_way.contains(id))
        };
        let old: Vec<TaskId> = self
            .removed
            .iter()
            .filter(|&(task, &at_ms)| at_ms < before_ms && !busy(task))
            .map(|(task, _)| task.clone())
            .collect();
        for task in old {
            self.removed.remove(&task);
            self.tasks.remove(&task);
            self.names.forget(&task);
            for (&id, stream) in self.streams.iter_mut().filter(|(_, of)| of.task == task) {
                stream.generations = Vec::new();
                self.seen.retain(|(stream, _), _| *stream != id);
            }
        }
    }

    /// Tasks of which something is known.
    fn known_tasks(&self) -> BTreeSet<&TaskId> {
        let of_streams = self.streams.values().map(|stream| &stream.task);
        of_streams.chain(&self.tasks).collect()
    }

    /// The tasks of a list that only have another name than before, old name first: the new one is not
    /// known, and looks where one that is gone with this very list looked, and no other of both.
    pub(crate) fn renamed(&self, list: &BTreeMap<TaskId, u64>) -> Vec<(TaskId, TaskId)> {
        let known = self.known_tasks();
        let gone = known.iter().filter(|task| !list.contains_key(**task));
        let gone = gone.filter(|task| !self.removed.contains_key(**task));
        let gone = gone.filter_map(|task| Some((*task, self.names.looks_of(task)?)));
        let new = list.iter().filter(|(task, _)| !known.contains(task));
        let (gone, new) = (
            only_ones(gone),
            only_ones(new.map(|(task, &looks)| (task, looks))),
        );
        let pairs = gone
            .iter()
            .filter_map(|(looks, from)| Some((*from, *new.get(looks)?)));
        pairs.map(|(from, to)| (from.clone(), to.clone())).collect()
    }

    /// What is to be written when these are the tasks from now on, each with where it looks.
    pub(crate) fn note_tasks(&self, tasks: &BTreeMap<TaskId, u64>, now_ms: u64) -> Vec<Record> {
        let gone = self.known_tasks().into_iter();
        let gone = gone.filter(|task| !tasks.contains_key(task));
        let gone = gone.filter(|task| !self.removed.contains_key(task));
        let back = self.removed.keys().filter(|task| tasks.contains_key(task));
        let record = |task: &TaskId, at_ms| Record::Removed {
            task: task.clone(),
            at_ms,
        };
        let gone = gone.map(|task| record(task, Some(now_ms)));
        let elsewhere = tasks.iter();
        let elsewhere =
            elsewhere.filter(|&(task, &looks)| self.names.looks_of(task) != Some(looks));
        let elsewhere = elsewhere.map(|(task, &looks)| Record::Looks {
            task: task.clone(),
            looks,
        });
        gone.chain(back.map(|task| record(task, None)))
            .chain(elsewhere)
            .collect()
    }

    /// Tasks of which batches have not ended, with their topics.
    pub(crate) fn owing(&self) -> BTreeMap<TaskId, Topic> {
        let streams = self
            .cuts
            .keys()
            .filter_map(|id| self.streams.get(&id.stream));
        let owing = streams.map(|stream| (stream.task.clone(), stream.topic.clone()));
        owing.collect()
    }

    /// The topic of a batch.
    pub(crate) fn topic_of(&self, batch: BatchId) -> Option<&Topic> {
        let stream = self.streams.get(&batch.stream)?;
        Some(stream.topic_of(stream.part_at(batch.epoch, batch.seq)))
    }

    /// The numbers of the recipes of today, and the records that make them known where they are new.
    pub(crate) fn number_recipes(&self, today: &[&Recipe]) -> (Vec<u32>, Vec<Record>) {
        let (mut numbers, mut new): (Vec<u32>, BTreeMap<u32, &Recipe>) = Default::default();
        for &recipe in today {
            let known = self.recipes.iter().map(|(no, recipe)| (*no, recipe));
            let same = |(_, known): &(u32, &Recipe)| *known == recipe;
            let found = known.chain(new.iter().map(|(no, recipe)| (*no, *recipe)));
            let no = found.into_iter().find(same).map(|(no, _)| no);
            let no = no.unwrap_or_else(|| {
                let last = new.keys().chain(self.recipes.keys()).max();
                let next = last.map_or(1, |last| last.saturating_add(1));
                new.insert(next, recipe);
                next
            });
            numbers.push(no);
        }
        let record = |(no, recipe): (u32, &Recipe)| Record::Recipe {
            no,
            recipe: recipe.clone(),
        };
        (numbers, new.into_iter().map(record).collect())
    }

    /// Forgets recipes that no cut names and that are not of today.
    pub(crate) fn forget_recipes(&mut self, today: &[u32]) {
        let named: BTreeSet<u32> = self
            .cuts
            .values()
            .filter_map(|cut| match cut.recipe {
                MadeBy::Recipe(no) => Some(no),
                MadeBy::Rule(_) => None,
            })
            .collect();
        self.recipes
            .retain(|no, _| named.contains(no) || today.contains(no));
    }

    /// The records that make this state anew, ending with [`Record::SnapshotEnd`].
    pub(crate) fn snapshot(&self, out: &mut dyn FnMut(&Record)) {
        out(&Record::Life { epoch: self.epoch });
        self.tasks
            .iter()
            .for_each(|task| out(&Record::Task { task: task.clone() }));
        for (task, &at_ms) in &self.removed {
            out(&Record::Removed {
                task: task.clone(),
                at_ms: Some(at_ms),
            });
        }
        self.names.snapshot(out);
        for (&id, stream) in &self.streams {
            stream.snapshot(id, out);
            for known in &stream.generations {
                out(&Record::Generation(known.clone()));
            }
        }
        for (&(stream, generation), &size) in &self.seen {
            out(&Record::Seen {
                stream,
                generation,
                size,
            });
        }
        for (&no, recipe) in &self.recipes {
            let recipe = recipe.clone();
            out(&Record::Recipe { no, recipe });
        }
        for (&batch, cut) in &self.cuts {
            out(&Record::Open(cut.clone()));
            if let Some(joint) = self.joints.get(&batch).cloned() {
                out(&Record::Joint { batch, joint });
            }
        }
        self.ledger.snapshot(out);
        out(&Record::SnapshotEnd);
    }

    /// The cuts of a generation that have not ended, in the order in which they were cut.
    pub(crate) fn cuts_of(&self, stream: StreamId, generation: GenerationId) -> Vec<Cut> {
        let of_stream = BatchId {
            stream,
            epoch: Epoch(0),
            seq: 0,
        }..;
        self.cuts
            .range(of_stream)
            .take_while(|(id, _)| id.stream == stream)
            .map(|(_, cut)| cut)
            .filter(|cut| cut.generation == generation)
            .cloned()
            .collect()
    }
}

/// Those that look somewhere where no other one of them does, by that.
fn only_ones<'a>(tasks: impl Iterator<Item = (&'a TaskId, u64)>) -> BTreeMap<u64, &'a TaskId> {
    let mut by_looks: BTreeMap<u64, Vec<&TaskId>> = BTreeMap::new();
    for (task, looks) in tasks {
        by_looks.entry(looks).or_default().push(task);
    }
    let only = by_looks
        .into_iter()
        .filter_map(|(looks, tasks)| match tasks[..] {
            [task] => Some((looks, task)),
            _ => None,
        });
    only.collect()
}

#[cfg(test)]
mod tests {
    use tributary_common::ids::Topic;

    use super::*;
    use crate::path::LogPath;

    fn with_task(name: &str) -> State {
        let (task, topic) = (TaskId::new(name).unwrap(), Topic::new("x").unwrap());
        let mut state = State::default();
        let begin = Record::Stream {
            stream: StreamId(1),
            task: task.clone(),
            topic,
            path: LogPath::of_bytes(b"/x"),
        };
        state.apply(Record::Task { task }).unwrap();
        state.apply(begin).unwrap();
        state
    }

    #[test]
    fn a_removed_task_is_forgotten_after_its_time_unless_it_comes_back() {
        let mut state = with_task("a");
        let (none, id) = (BTreeMap::new(), TaskId::new("a").unwrap());
        for record in state.note_tasks(&none, 1000) {
            state.apply(record).unwrap();
        }
        assert_eq!(state.removed.get(&id), Some(&1000));
        assert!(state.note_tasks(&none, 2000).is_empty(), "it is known");
        // Back again.
        let mut back = state.clone();
        for record in back.note_tasks(&[(id.clone(), 7)].into(), 2000) {
            back.apply(record).unwrap();
        }
        back.forget_removed(5000);
        assert!(back.tasks.contains(&id) && back.removed.is_empty());
        // Gone for longer than it is kept.
        state.forget_removed(1000);
        assert!(state.tasks.contains(&id), "not yet");
        state.forget_removed(1001);
        assert!(!state.tasks.contains(&id) && state.removed.is_empty());
    }
    fn id(name: &str) -> TaskId {
        TaskId::new(name).unwrap()
    }

    /// Takes a list of tasks over; who was only renamed.
    fn take(state: &mut State, list: &[(&str, u64)]) -> Vec<(String, String)> {
        let list = list
            .iter()
            .map(|&(name, looks)| (id(name), looks))
            .collect();
        let renamed = state.renamed(&list);
        for (from, to) in renamed.clone() {
            state.apply(Record::Renamed { from, to }).unwrap();
        }
        for record in state.note_tasks(&list, 1000) {
            state.apply(record).unwrap();
        }
        for (task, _) in list {
            if let Some(seed) = state.names.free_seed(&task) {
                state.names.number_by(task.clone(), seed);
            }
            state.tasks.insert(task);
        }
        let text = |(from, to): (TaskId, TaskId)| (from.to_string(), to.to_string());
        renamed.into_iter().map(text).collect()
    }

    fn pair(from: &str, to: &str) -> Vec<(String, String)> {
        vec![(from.to_owned(), to.to_owned())]
    }

    #[test]
    fn a_task_with_another_name_keeps_its_streams_also_in_a_snapshot() {
        let mut state = with_task("a");
        assert!(take(&mut state, &[("a", 1), ("other", 2)]).is_empty());
        assert_eq!(take(&mut state, &[("b", 1), ("other", 2)]), pair("a", "b"));
        assert_eq!(state.streams[&StreamId(1)].task, id("b"));
        assert!(state.tasks.contains(&id("b")) && !state.tasks.contains(&id("a")));
        assert!(state.removed.is_empty());
        assert_eq!(state.names.seed_of(&id("b")), "a");
        // The old name is free, but what it numbered is not.
        assert!(take(&mut state, &[("a", 1), ("b", 1), ("other", 2)]).is_empty());
        assert_ne!(state.names.seed_of(&id("a")), "a");
        let mut again = State::default();
        state.snapshot(&mut |record| again.apply(record.clone()).unwrap());
        assert_eq!(again, state);
        assert_eq!(
            take(&mut again, &[("c", 1), ("a", 1), ("other", 2)]),
            pair("b", "c")
        );
        assert_eq!(again.names.seed_of(&id("c")), "a");
    }

    #[test]
    fn what_may_be_another_task_is_none_with_another_name() {
        let known = |list: &[(&str, u64)]| {
            let mut state = with_task("a");
            take(&mut state, list);
            state
        };
        // Elsewhere; two that it may be; two that may be it; the old one stays.
        assert!(take(&mut known(&[("a", 1)]), &[("b", 2)]).is_empty());
        assert!(take(&mut known(&[("a", 1)]), &[("b", 1), ("c", 1)]).is_empty());
        assert!(take(&mut known(&[("a", 1), ("b", 1)]), &[("c", 1)]).is_empty());
        assert!(take(&mut known(&[("a", 1)]), &[("a", 1), ("b", 1)]).is_empty());
        // One was removed with an earlier list; one is back.
        let mut state = known(&[("a", 1)]);
        take(&mut state, &[]);
        assert!(take(&mut state, &[("b", 1)]).is_empty());
        assert!(take(&mut state, &[("a", 1)]).is_empty());
        assert!(state.removed.contains_key(&id("b")));
    }
}
