//! Work on a timer: idempotent ticks without input.
//!
//! Only the retention so far.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::app::App;

/// Time between two ticks of the retention.
const RETENTION_PERIOD: Duration = Duration::from_secs(600);
/// Pause between two steps of one tick, so that reports come through.
const STEP_PAUSE: Duration = Duration::from_millis(50);

/// Deletes what was not touched for `keep`, until `stop`.
pub(crate) async fn retention(
    app: App,
    keep: Duration,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let keep_ms = i64::try_from(keep.as_millis()).unwrap_or(i64::MAX);
    let mut ticks = tokio::time::interval(RETENTION_PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = ticks.tick() => {}
        }
        let cutoff_ms = app.clock.now_ms().saturating_sub(keep_ms);
        let rows = forget(&app, cutoff_ms, &stop).await;
        if rows > 0 {
            tracing::info!(rows, "the retention deleted rows of the ledger");
        }
    }
}

/// One tick: steps until nothing is left. A failure is logged; the next tick tries again.
async fn forget(app: &App, cutoff_ms: i64, stop: &CancellationToken) -> u64 {
    let mut rows = 0;
    while !stop.is_cancelled() {
        match app.intake.forget(cutoff_ms).await {
            Ok(0) => break,
            Ok(gone) => rows += gone,
            Err(error) => {
                tracing::error!(%error, "failed to delete old rows; the next tick tries again");
                break;
            }
        }
        tokio::time::sleep(STEP_PAUSE).await;
    }
    rows
}
