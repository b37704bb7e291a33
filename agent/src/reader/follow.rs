//! Records that begin in one generation and go on in the next: a rotation in the middle of a stack
//! trace, or between the pieces of a container's long line.
//!
//! The next generation waits a moment for the end of the one before. Then they are joined (see
//! [`super::join`]). What cannot be joined stays two records that say so: the first is `cut`, and what
//! goes on with it `continues`.
//!
//! Not for: framing (see [`crate::frame`]). Called by [`super::turn`].

use std::time::Duration;

use tokio::time::Instant;

use super::Reader;
use crate::{
    content::Content,
    frame::Carry,
    handle,
    tail::{Place, Tail},
};

/// A record that is not whole waits so long for more of its file when the next file is written to.
pub(super) const PATIENCE_WHEN_FOLLOWED: Duration = Duration::from_secs(1);
/// The next file waits so long at most, though the writer of the one before goes on in it.
const HOLD_NEXT: Duration = Duration::from_secs(5);

impl Reader {
    /// The generation behind this one, if nothing of it was read yet.
    fn next_unread(&mut self, stream: usize, at: usize) -> Option<&mut Tail> {
        let next = self.tail(stream, at + 1)?;
        let is_there = !matches!(next.place, Place::Awaited(_));
        (next.offset() == 0 && is_there).then_some(next)
    }

    /// Whether its writer went on to the next file.
    pub(super) fn is_followed(&mut self, stream: usize, at: usize) -> bool {
        self.next_unread(stream, at).is_some_and(|next| {
            let size = match next.file.as_ref().and_then(Content::as_file) {
                Some(file) => file.extent().map(|extent| extent.size),
                None => handle::glance(next.real_path()).map(|seen| seen.size),
            };
            size.is_ok_and(|size| size > 0)
        })
    }

    /// Whether the next generation waits until this one's last record has had its time.
    pub(super) fn holds_next(
        &mut self,
        stream: usize,
        at: usize,
        followed: bool,
        now: Instant,
    ) -> bool {
        let Some(next) = self.next_unread(stream, at) else {
            return false;
        };
        !followed || now < *next.stuck_since.get_or_insert(now) + HOLD_NEXT
    }

    /// The first bytes of a generation go on with what the one before left.
    pub(super) fn take_over(&mut self, stream: usize, at: usize) {
        let before = at
            .checked_sub(1)
            .and_then(|before| self.tail(stream, before));
        let left = before.map_or(Carry::default(), |before| {
            if before.unread() == 0 {
                before.carry.to_next_file()
            } else {
                Carry::default()
            }
        });
        if let Some(tail) = self.tail(stream, at)
            && tail.offset() == 0
        {
            tail.carry = left;
        }
    }
}
