//! Waiting for something to become true, with a deadline. The rig's only way to wait.

use std::{fmt::Debug, thread, time::Duration};

use anyhow::{Result, bail};
use tokio::time::Instant;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Looks until `look` gives something.
///
/// # Errors
/// When `limit` is over, with `what` was waited for; when `look` fails (a look that may fail for a
/// while gives `None`).
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            bail!("waited {} s in vain for: {what}", limit.as_secs_f32());
        }
        thread::sleep(PAUSE);
    }
}

/// Looks until `good` accepts what `look` sees; the error names the last thing seen.
///
/// # Errors
/// As [`until`].
pub fn until_seen<T: Debug>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<T>,
    good: impl Fn(&T) -> bool,
) -> Result<T> {
    let mut last = None;
    let found = until(what, limit, || {
        let seen = look()?;
        if good(&seen) {
            return Ok(Some(seen));
        }
        last = Some(seen);
        Ok(None)
    });
    found.map_err(|error| error.context(format!("last seen: {last:?}")))
}
