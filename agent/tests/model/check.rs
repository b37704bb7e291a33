//! What arrived against what was written.

use std::collections::BTreeMap;

use tributary_common::{
    ids::{BatchId, GenerationId, StreamId},
    report::{Loss, Lost},
};

use crate::{
    rig::Arrived,
    world::{Content, Fate},
};

/// What is wrong.
#[derive(Debug)]
pub(crate) enum Wrong {
    /// It may still become right.
    NotYet(String),
    /// Nothing makes it right any more.
    Never(String),
}

impl Wrong {
    /// In words.
    pub(crate) fn why(self) -> String {
        match self {
            Self::NotYet(why) | Self::Never(why) => why,
        }
    }
}

/// The batches of one generation, by the beginning of their spans.
type Pieces = BTreeMap<u64, Vec<u8>>;

/// The source bytes of a batch: its records with their newlines, as far as its span goes.
fn bytes_of(batch: &Arrived) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    for line in &batch.lines {
        bytes.extend(line.bytes());
        bytes.push(b'\n');
    }
    let len = usize::try_from(batch.header.span.bytes()).unwrap();
    if len == bytes.len() + 1 {
        // It begins with the newline of a line whose beginning was a batch before.
        bytes.insert(0, b'\n');
    } else if len + 1 == bytes.len() {
        bytes.pop();
    }
    if len != bytes.len() {
        let (id, lines) = (batch.header.id(), batch.lines.len());
        return Err(format!("{id:?}: a span of {len} bytes has {lines} lines"));
    }
    Ok(bytes)
}

/// All batches, each once; a repeat must be the same.
fn pieces(arrived: &[Arrived]) -> Result<BTreeMap<(StreamId, GenerationId), Pieces>, String> {
    let mut known: BTreeMap<BatchId, &Arrived> = BTreeMap::new();
    let mut all: BTreeMap<_, Pieces> = BTreeMap::new();
    for batch in arrived {
        let id = batch.header.id();
        if let Some(first) = known.insert(id, batch) {
            let is_same = first.lines == batch.lines
                && first.times == batch.times
                && first.header.span == batch.header.span
                && first.header.generation == batch.header.generation
                && first.header.content_sum == batch.header.content_sum;
            if !is_same || batch.header.resends == 0 {
                return Err(format!("{id:?} came again as another batch"));
            }
            continue;
        }
        let pieces = all.entry((id.stream, batch.header.generation)).or_default();
        if pieces
            .insert(batch.header.span.start, bytes_of(batch)?)
            .is_some()
        {
            return Err(format!("{id:?} doubles another batch"));
        }
    }
    Ok(all)
}

/// Whether all pieces stand in the content where they say; and how far they reach without a hole.
fn fits(pieces: &Pieces, content: &[u8]) -> Result<usize, String> {
    let mut reached = 0;
    for (&start, bytes) in pieces {
        let start = usize::try_from(start).unwrap();
        if content.get(start..start + bytes.len()) != Some(bytes) {
            return Err(format!("at {start} are other bytes"));
        }
        // A newline after an unfinished record is in no batch.
        if start == reached + 1 && content[reached] == b'\n' {
            reached = start;
        }
        if start < reached {
            return Err(format!("bytes from {start} on came twice"));
        }
        if start > reached {
            return Err(format!("bytes {reached} to {start} are missing"));
        }
        reached = start + bytes.len();
    }
    if reached + 1 == content.len() && content[reached] == b'\n' {
        reached += 1;
    }
    Ok(reached)
}

/// What is told as lost of a generation: without a hole from `reached` on, within the content.
fn told(losses: &[&Loss], reached: usize, content: &Content) -> Result<usize, String> {
    let mut spans: Vec<_> = losses.iter().map(|loss| loss.span).collect();
    spans.sort_unstable_by_key(|span| (span.start, span.end));
    let mut end = reached as u64;
    for span in spans {
        if span.start > end {
            return Err(format!("a loss begins at {}, not at {end}", span.start));
        }
        end = end.max(span.end);
    }
    if end > content.bytes.len() as u64 {
        return Err(format!("a loss ends at {end}, behind what was written"));
    }
    Ok(usize::try_from(end).unwrap())
}

/// Gives each generation the content that it must be, if all fit.
fn assign(generations: &[Pieces], contents: &[Content]) -> Result<Vec<usize>, String> {
    let candidates: Vec<Vec<usize>> = generations
        .iter()
        .map(|pieces| {
            let fit = |&at: &usize| fits(pieces, &contents[at].bytes).is_ok();
            (0..contents.len()).filter(fit).collect()
        })
        .collect();
    let mut owner: Vec<Option<usize>> = vec![None; contents.len()];
    for (generation, pieces) in generations.iter().enumerate() {
        let mut seen = vec![false; contents.len()];
        if !place(generation, &candidates, &mut owner, &mut seen) {
            return Err(explain(pieces, contents));
        }
    }
    let mut of = vec![0; generations.len()];
    for (content, owner) in owner.iter().enumerate() {
        if let Some(generation) = *owner {
            of[generation] = content;
        }
    }
    Ok(of)
}

fn place(
    generation: usize,
    candidates: &[Vec<usize>],
    owner: &mut [Option<usize>],
    seen: &mut [bool],
) -> bool {
    for &content in &candidates[generation] {
        if std::mem::replace(&mut seen[content], true) {
            continue;
        }
        if owner[content].is_none_or(|other| place(other, candidates, owner, seen)) {
            owner[content] = Some(generation);
            return true;
        }
    }
    false
}

/// Why a generation is no content: what is wrong with the one that it resembles most.
fn explain(pieces: &Pieces, contents: &[Content]) -> String {
    let (start, first) = pieces.first_key_value().unwrap();
    let shown = String::from_utf8_lossy(&first[..first.len().min(90)]).into_owned();
    let why: Vec<String> = contents
        .iter()
        .filter_map(|content| {
            let why = fits(pieces, &content.bytes).err()?;
            (!why.contains("other bytes")).then(|| format!("{}: {why}", content.name))
        })
        .collect();
    let spans: Vec<_> = pieces
        .iter()
        .map(|(start, bytes)| (*start, start + bytes.len() as u64))
        .collect();
    format!(
        "a generation with spans {spans:?}, {shown:?} at {start}, is nothing that was written, or is it twice: {why:?}"
    )
}

/// Whether everything is as it must be. `losses` are known at the end only.
pub(crate) fn check(
    arrived: &[Arrived],
    losses: Option<&[Lost]>,
    contents: &[Content],
) -> Result<(), Wrong> {
    let pieces = pieces(arrived).map_err(Wrong::Never)?;
    let (names, generations): (Vec<_>, Vec<_>) = pieces.into_iter().unzip();
    let of = assign(&generations, contents).map_err(Wrong::Never)?;
    for (at, content) in contents.iter().enumerate() {
        let generation = of.iter().position(|&content| content == at);
        let reached = match generation {
            Some(generation) => {
                fits(&generations[generation], &content.bytes).map_err(Wrong::Never)?
            }
            None => 0,
        };
        let len = content.bytes.len();
        if content.fate == Fate::Arrives && reached < len {
            return Err(Wrong::NotYet(format!(
                "{}: {reached} of {len} bytes arrived",
                content.name
            )));
        }
        if let (Some(losses), Some(generation)) = (losses, generation) {
            let name = names[generation].1;
            let of_it: Vec<_> = losses
                .iter()
                .map(|lost| &lost.loss)
                .filter(|loss| loss.generation == name)
                .collect();
            if content.fate == Fate::Arrives && !of_it.is_empty() {
                let why = format!("{}: losses are told: {of_it:?}", content.name);
                return Err(Wrong::Never(why));
            }
            told(&of_it, reached, content)
                .map_err(|why| Wrong::Never(format!("{}: {why}", content.name)))?;
        }
    }
    Ok(())
}
