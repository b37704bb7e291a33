//! Where a test stops the node on a file's way, to kill it there, or to break the place meanwhile.
//!
//! Debug builds only: with `TRIBUTARY_STOP_AT=renamed` in the environment files that come to that point go
//! no further, and neither do their tasks or thread; with `TRIBUTARY_STOP_UNTIL=PATH` files go on
//! as soon as something is at that path. A release build has none of it.

use std::time::Duration;

use tokio::time::sleep;

/// How often a file that stands still looks whether it may go on.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The points, in the order in which a file passes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Point {
    /// The journal says that the file begins; the place knows nothing of it.
    Begun,
    /// The temporary file is there.
    Created,
    /// All its bytes are given away.
    Written,
    /// It is closed.
    Closed,
    /// Its manifest is there.
    Described,
    /// It has its final name; the journal does not say so.
    Renamed,
    /// The journal says that its batches are delivered; the spill does not.
    Noted,
}

impl Point {
    #[cfg(debug_assertions)]
    fn as_str(self) -> &'static str {
        match self {
            Self::Begun => "begun",
            Self::Created => "created",
            Self::Written => "written",
            Self::Closed => "closed",
            Self::Described => "described",
            Self::Renamed => "renamed",
            Self::Noted => "noted",
        }
    }
}

/// Whether the way ends here; says so.
#[cfg(debug_assertions)]
fn ends(point: Point) -> bool {
    let ends = std::env::var("TRIBUTARY_STOP_AT").is_ok_and(|name| name == point.as_str());
    if ends {
        tracing::warn!("stands still at the point {}", point.as_str());
    }
    ends
}

#[cfg(not(debug_assertions))]
fn ends(_point: Point) -> bool {
    false
}

/// Whether a file may go on from the point where it stands.
#[cfg(debug_assertions)]
fn goes_on() -> bool {
    std::env::var_os("TRIBUTARY_STOP_UNTIL")
        .is_some_and(|path| std::fs::exists(path).is_ok_and(|is| is))
}

#[cfg(not(debug_assertions))]
fn goes_on() -> bool {
    true
}

/// A task passes a point.
pub(super) async fn pass(point: Point) {
    if ends(point) {
        while !goes_on() {
            sleep(LOOK_EVERY).await;
        }
    }
}

/// A thread passes a point.
pub(super) fn pass_in_thread(point: Point) {
    while ends(point) {
        std::thread::park();
    }
}
