//! How a target is served, as pure transitions.
//!
//! Not for: single batches (see [`super`]).

/// How a target is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Live; nothing is on the disk.
    Direct,
    /// It takes nothing: everything goes to the disk.
    Spilling,
    /// It takes batches again: what is on the disk leaves, behind what comes live.
    Draining,
}

/// What moves a [`Mode`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// The destination takes nothing for the target.
    Down,
    /// It takes batches.
    Up,
    /// A batch of the target goes to the disk.
    Kept,
    /// Nothing of the target is on the disk any more.
    Empty,
}

impl Mode {
    /// The next mode.
    #[must_use]
    pub(crate) fn on(self, event: Event) -> Self {
        match (self, event) {
            (_, Event::Down) => Self::Spilling,
            (Self::Direct, Event::Up | Event::Empty) | (Self::Draining, Event::Empty) => {
                Self::Direct
            }
            // A batch failed while the target was up.
            (Self::Direct, Event::Kept)
            | (Self::Draining, Event::Up | Event::Kept)
            | (Self::Spilling, Event::Up) => Self::Draining,
            (Self::Spilling, Event::Kept | Event::Empty) => Self::Spilling,
        }
    }

    /// The word for people.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Spilling => "spilling",
            Self::Draining => "draining",
        }
    }
}
