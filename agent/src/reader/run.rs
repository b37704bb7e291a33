//! Bytes of files that follow each other, as one source of records.
//!
//! They are gathered once, when a record goes on in the next file, and again when a batch of them is
//! made anew: then all but the last file's come from the checkpoint.
//!
//! Not for: which files follow each other, and when (see [`super::join`]). Pure.

use std::ops::Range;

use tributary_common::{ids::GenerationId, span::Span};

use super::make::Seam;
use crate::{
    checkpoint::{FileEnd, Joint},
    frame::{Carry, Source, Tail as Unfinished},
    identify::{MARK_BYTES, Mark},
    recipe::Compiled,
};

/// Bytes of one file in a [`Run`].
#[derive(Debug)]
pub(super) struct Part {
    /// The place of its generation.
    pub(super) at: usize,
    pub(super) generation: GenerationId,
    /// Where its bytes begin in the run, and in the file.
    pub(super) seam: Seam,
    /// The byte order mark before them, that is left out.
    pub(super) skipped: usize,
    /// Bytes of the file before them, as many as a mark covers.
    pub(super) before: Vec<u8>,
}

/// Bytes of files that follow each other, from the beginning of a record on.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) carry: Carry,
    pub(super) parts: Vec<Part>,
    pub(super) bytes: Vec<u8>,
}

impl Part {
    /// The span of its bytes up to `to` in the run, and the mark at their end.
    pub(super) fn span(&self, bytes: &[u8], to: usize) -> (Span, Mark) {
        let read = bytes.get(self.seam.at..to).unwrap_or_default();
        let end = self.seam.offset + read.len() as u64;
        let covered = usize::try_from(MARK_BYTES).unwrap_or(0).min(read.len());
        let last = read.get(read.len() - covered..).unwrap_or_default();
        let span = Span {
            start: self.seam.offset - self.skipped as u64,
            end,
        };
        (span, Mark::at(end, &[&self.before, last].concat()))
    }
}

impl Run {
    pub(super) fn source(&self, tail: Unfinished) -> Source<'_> {
        Source {
            bytes: &self.bytes,
            at: self.parts.first().map_or(0, |part| part.seam.offset),
            carry: self.carry,
            tail,
        }
    }

    /// Where the bytes of the last file begin.
    pub(super) fn begin(&self) -> usize {
        self.parts.last().map_or(0, |part| part.seam.at)
    }

    /// Leaves out the last file.
    pub(super) fn shorten(&mut self) {
        if let Some(part) = self.parts.pop() {
            self.bytes.truncate(part.seam.at);
        }
    }

    pub(super) fn seams(&self) -> Vec<Seam> {
        self.parts.iter().map(|part| part.seam).collect()
    }

    /// What of all but the last file goes into the checkpoint.
    pub(super) fn joint(&self) -> Joint {
        let next = self.parts.iter().skip(1).map(|next| next.seam.at);
        let from = self.parts.iter().zip(next).map(|(part, to)| {
            let (span, mark) = part.span(&self.bytes, to);
            FileEnd {
                generation: part.generation,
                span,
                skipped: u8::try_from(part.skipped).unwrap_or(0),
                mark: mark.hash,
            }
        });
        Joint {
            from: from.collect(),
            bytes: self.bytes.get(..self.begin()).unwrap_or_default().to_vec(),
        }
    }

    /// Where a range of the run stands in the files.
    pub(super) fn places(&self, range: &Range<usize>) -> Vec<(GenerationId, Span)> {
        let ends = self.parts.iter().skip(1).map(|next| next.seam.at);
        let parts = self.parts.iter().zip(ends.chain([self.bytes.len()]));
        let within = parts.filter_map(|(part, end)| {
            let (from, to) = (range.start.max(part.seam.at), range.end.min(end));
            let offset = |at: usize| part.seam.offset + (at - part.seam.at) as u64;
            (from < to).then(|| {
                let (start, end) = (offset(from), offset(to));
                (part.generation, Span { start, end })
            })
        });
        within.collect()
    }
}

/// The source of a joined batch, when its own bytes were read again.
pub(super) struct Again {
    /// All bytes.
    pub(super) bytes: Vec<u8>,
    /// Offset of the first one in its file.
    pub(super) at: u64,
    /// Where each file begins.
    pub(super) seams: Vec<Seam>,
}

/// Puts the bytes of a joint before those that were read of a batch's own file.
pub(super) fn again(joint: &Joint, own: &[u8], before: Carry, recipe: &Compiled) -> Again {
    let mut seams = Vec::new();
    let mut at = 0;
    for end in &joint.from {
        let skipped = u64::from(end.skipped);
        seams.push(Seam {
            at,
            offset: end.span.start + skipped,
        });
        let bytes = end.span.bytes().saturating_sub(skipped);
        at += usize::try_from(bytes).unwrap_or(0);
    }
    let skipped = recipe.framer.mark_bytes(before, own);
    seams.push(Seam {
        at: joint.bytes.len(),
        offset: skipped as u64,
    });
    let own = own.get(skipped..).unwrap_or_default();
    Again {
        bytes: [&joint.bytes, own].concat(),
        at: seams.first().map_or(0, |seam| seam.offset),
        seams,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::recipe::{Framing, Recipe, tests::of_lines};

    fn part(at: usize, seam: usize, offset: u64, before: &[u8], skipped: usize) -> Part {
        Part {
            at,
            generation: GenerationId(at as u64),
            seam: Seam { at: seam, offset },
            skipped,
            before: before.to_vec(),
        }
    }

    fn groups(encoding: &str) -> std::sync::Arc<Compiled> {
        let framing = Framing::Multiline {
            start: Some("^\\[".to_owned()),
            goes_on: None,
            end: None,
            timeout: 1000,
            max_lines: 100,
            max_bytes: None,
        };
        let recipe = Recipe {
            framing,
            encoding: encoding.to_owned(),
            ..of_lines(1000)
        };
        recipe.compile().unwrap()
    }

    /// Three files: `[0]\n[1] a\n`, the same with a byte order mark and ` b\n`, and ` c\n[2]\n`.
    fn run() -> Run {
        Run {
            carry: Carry::default(),
            parts: vec![
                part(0, 0, 4, b"[0]\n", 0),
                part(1, 6, 3, b"\xef\xbb\xbf", 3),
                part(2, 9, 0, b"", 0),
            ],
            bytes: b"[1] a\n b\n c\n[2]\n".to_vec(),
        }
    }

    #[test]
    fn spans_and_marks_of_the_files_are_their_own() {
        let run = run();
        let files: [&[u8]; 3] = [b"[0]\n[1] a\n", b"\xef\xbb\xbf b\n", b" c\n[2]\n"];
        let ends = [6, 9, 12];
        let wanted = [(4, 10), (0, 6), (0, 3)];
        for ((part, file), (to, wanted)) in run
            .parts
            .iter()
            .zip(files)
            .zip(ends.into_iter().zip(wanted))
        {
            let (span, mark) = part.span(&run.bytes, to);
            assert_eq!((span.start, span.end), wanted);
            let read = &file[..usize::try_from(span.end).unwrap()];
            assert_eq!(mark, Mark::at(span.end, read));
        }
        let places: Vec<_> = run
            .places(&(4..11))
            .iter()
            .map(|(of, span)| (of.0, span.start, span.end))
            .collect();
        assert_eq!(places, [(0, 8, 10), (1, 3, 6), (2, 0, 2)]);
    }

    #[test]
    fn what_is_gathered_again_is_what_was() {
        let (run, recipe) = (run(), groups("utf-8"));
        let joint = run.joint();
        assert_eq!(joint.bytes, b"[1] a\n b\n");
        let own = &run.bytes[run.begin()..];
        let again = again(&joint, own, run.carry, &recipe);
        assert_eq!((&again.bytes, again.at), (&run.bytes, 4));
        assert_eq!(again.seams, run.seams());
        // The file's own byte order mark is left out again.
        let marked = [b"\xef\xbb\xbf", own].concat();
        let again = super::again(&joint, &marked, run.carry, &recipe);
        assert_eq!(again.bytes, run.bytes);
        assert_eq!(again.seams[2], Seam { at: 9, offset: 3 });
    }

    #[test]
    fn a_line_that_begins_a_record_shows_that_the_one_before_is_whole() {
        let check = |encoding: &str, old: &str, new: &str, wanted: bool| {
            let recipe = groups(encoding);
            let to_bytes = |text: &str| match encoding {
                "utf-8" => text.as_bytes().to_vec(),
                _ => text.encode_utf16().flat_map(u16::to_le_bytes).collect(),
            };
            let at = to_bytes(old).len();
            let bytes = to_bytes(&format!("{old}{new}"));
            let source = Source {
                bytes: &bytes,
                at: 0,
                carry: Carry::default(),
                tail: Unfinished::Leave,
            };
            let is_whole = recipe.framer.is_whole_at(source, at);
            assert_eq!(is_whole, wanted, "{encoding}: {old:?} {new:?}");
        };
        for encoding in ["utf-8", "utf-16le"] {
            check(encoding, "[1] a\n b\n", "[2]\n c\n", true);
            check(encoding, "[1] a\n b\n", " c\n[2]\n", false);
            check(encoding, "[1] a\n b\n", "[2]", false);
            check(encoding, "[1] a\n b\n", "", false);
        }
        assert_eq!(
            groups("utf-8").framer.patience(false),
            Duration::from_secs(1)
        );
    }
}
