//! The verdict: of what was written, what is missing, foreign, corrupt, doubled or out of order.
//!
//! It knows only what the writers say they wrote and what a consumer read. Pure.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
};

use anyhow::{Result, bail};

use crate::{
    kafka::Arrived,
    writer::{BadStamp, Stamp, Written},
};

/// At most so many examples of each kind are kept for the report.
const EXAMPLES: usize = 5;

/// Where a record lies: its partition (or file) and its place there.
pub type Place = (i32, i64);

/// What became of the written lines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Lines written.
    pub written: u64,
    /// Records read, doubles included.
    pub arrived: u64,
    /// Written lines that did not arrive.
    pub missing: u64,
    /// Records that nobody wrote.
    pub foreign: u64,
    /// Records that were changed on the way.
    pub corrupt: u64,
    /// Records that arrived more often than once: only the repeats count.
    pub doubled: u64,
    /// Lines that arrived before an earlier line of the same physical file, or in another partition.
    pub disordered: u64,
    /// Some of each, for people.
    pub examples: Vec<String>,
}

impl Verdict {
    /// Judges what a consumer read from Kafka.
    #[must_use]
    pub fn on_kafka(written: &[Written], arrived: &[Arrived]) -> Self {
        let records = arrived
            .iter()
            .map(|one| ((one.partition, one.offset), one.value.as_slice()));
        Self::on(written, records)
    }

    /// Judges records in the order of their places.
    pub fn on<'a>(
        written: &[Written],
        records: impl IntoIterator<Item = (Place, &'a [u8])>,
    ) -> Self {
        let mut verdict = Self {
            written: written.iter().map(Written::lines).sum(),
            ..Self::default()
        };
        let known: HashMap<u32, &Written> = written.iter().map(|one| (one.file, one)).collect();
        let mut seen: BTreeMap<Stamp, Place> = BTreeMap::new();
        let mut latest: HashMap<(u32, u32), (Stamp, Place)> = HashMap::new();
        for (place, value) in records {
            verdict.arrived += 1;
            let stamp = match Stamp::read(value) {
                Ok(stamp)
                    if known
                        .get(&stamp.file)
                        .is_some_and(|one| was_written(one, stamp)) =>
                {
                    stamp
                }
                Ok(_) | Err(BadStamp::Foreign) => {
                    verdict.foreign += 1;
                    verdict.show("foreign", place, value);
                    continue;
                }
                Err(BadStamp::Corrupt) => {
                    verdict.corrupt += 1;
                    verdict.show("corrupt", place, value);
                    continue;
                }
            };
            if let Some(first) = seen.get(&stamp) {
                verdict.doubled += 1;
                let first = *first;
                verdict.note(|| format!("doubled: {stamp:?} at {first:?} and {place:?}"));
                continue;
            }
            seen.insert(stamp, place);
            let before = latest.insert((stamp.file, stamp.generation), (stamp, place));
            if let Some((earlier, there)) = before
                && (earlier.seq > stamp.seq || there.0 != place.0)
            {
                verdict.disordered += 1;
                verdict.note(|| {
                    format!("disorder: {stamp:?} at {place:?} comes after {earlier:?} at {there:?}")
                });
            }
        }
        verdict.look_for_missing(written, &seen);
        verdict
    }

    fn look_for_missing(&mut self, written: &[Written], seen: &BTreeMap<Stamp, Place>) {
        for one in written {
            let mut seq = 0;
            for (generation, &lines) in (0..).zip(&one.generations) {
                let mut gap: Option<(u64, u64)> = None;
                for at in seq..seq + lines {
                    if !seen.contains_key(&Stamp {
                        file: one.file,
                        generation,
                        seq: at,
                    }) {
                        self.missing += 1;
                        gap = Some((gap.map_or(at, |(first, _)| first), at));
                    }
                }
                if let Some((first, last)) = gap {
                    let file = one.file;
                    self.note(|| {
                        format!("missing: file {file} generation {generation} (lines {seq} to {}): some of {first} to {last}", seq + lines)
                    });
                }
                seq += lines;
            }
        }
    }

    fn show(&mut self, kind: &str, place: Place, value: &[u8]) {
        self.note(|| {
            let start = &value[..value.len().min(120)];
            format!(
                "{kind}: at {place:?}, {} bytes: {}",
                value.len(),
                start.escape_ascii()
            )
        });
    }

    fn note(&mut self, text: impl FnOnce() -> String) {
        if self.examples.len() < EXAMPLES * 4 {
            self.examples.push(text());
        }
    }

    /// Everything arrived once, unchanged, in order.
    ///
    /// # Errors
    /// The whole verdict otherwise.
    pub fn must_be_perfect(&self) -> Result<()> {
        if self.doubled > 0 {
            bail!("{self}");
        }
        self.must_be_complete()
    }

    /// Everything arrived unchanged and in order; doubles are left to the caller.
    ///
    /// # Errors
    /// The whole verdict otherwise.
    pub fn must_be_complete(&self) -> Result<()> {
        if self.missing + self.foreign + self.corrupt + self.disordered > 0 {
            bail!("{self}");
        }
        Ok(())
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            written,
            arrived,
            missing,
            foreign,
            corrupt,
            doubled,
            disordered,
            examples,
        } = self;
        write!(
            f,
            "{written} lines written, {arrived} records arrived: missing {missing}, foreign {foreign}, \
             corrupt {corrupt}, doubled {doubled}, out of order {disordered}"
        )?;
        examples
            .iter()
            .try_for_each(|example| write!(f, "\n  {example}"))
    }
}

fn was_written(one: &Written, stamp: Stamp) -> bool {
    let before: u64 = one.generations.iter().take(stamp.generation as usize).sum();
    let lines = one.generations.get(stamp.generation as usize);
    lines.is_some_and(|&lines| (before..before + lines).contains(&stamp.seq))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::writer::{Rotation, Writer};

    /// Ten lines in two generations, changed by `change`, must give the counts.
    fn check(change: impl FnOnce(&mut Vec<(Place, Vec<u8>)>), expected: [u64; 5]) {
        let folder = crate::scratch::create("oracle").unwrap();
        let mut writer = Writer::new(&folder, 3, 9).unwrap();
        writer.write(6).unwrap();
        writer.rotate(Rotation::Rename).unwrap();
        writer.write(4).unwrap();
        let old = fs::read(writer.path().with_extension("log.1")).unwrap();
        let all = [old, fs::read(writer.path()).unwrap()].concat();
        let lines = all
            .split(|&byte| byte == b'\n')
            .filter(|line| !line.is_empty());
        let mut records: Vec<(Place, Vec<u8>)> = (0..)
            .zip(lines)
            .map(|(at, line)| ((0, at), line.to_vec()))
            .collect();
        change(&mut records);
        let records = records
            .iter()
            .map(|(place, line)| (*place, line.as_slice()));
        let verdict = Verdict::on(&[writer.written().clone()], records);
        let Verdict {
            missing,
            foreign,
            corrupt,
            doubled,
            disordered,
            ..
        } = verdict;
        assert_eq!(
            [missing, foreign, corrupt, doubled, disordered],
            expected,
            "{verdict}"
        );
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn each_kind_of_damage_is_counted_as_itself() {
        check(|_| {}, [0; 5]);
        check(|records| drop(records.remove(4)), [1, 0, 0, 0, 0]);
        check(
            |records| records.push(((0, 99), b"hello".to_vec())),
            [0, 1, 0, 0, 0],
        );
        check(|records| records[3].1[60] ^= 1, [1, 0, 1, 0, 0]);
        check(|records| records.push(records[2].clone()), [0, 0, 0, 1, 0]);
        check(|records| records.swap(2, 3), [0, 0, 0, 0, 1]);
        check(|records| records[8].0.0 = 1, [0, 0, 0, 0, 2]);
    }

    /// The generations are files of their own: between them no order is promised.
    #[test]
    fn a_later_file_may_come_first() {
        check(|records| records.rotate_left(6), [0; 5]);
    }
}
