//! Work on a timer: idempotent ticks without input.
//!
//! The retention, and the ends of windows in which connections are handed over.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::{app::App, store::audit::AuditWrite};

/// Time between two ticks of the retention.
const RETENTION_PERIOD: Duration = Duration::from_secs(600);
/// Time between two looks at open windows.
const WINDOWS_PERIOD: Duration = Duration::from_secs(1);
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

/// Records how windows ended, until `stop`.
pub(crate) async fn windows(app: App, stop: CancellationToken) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(WINDOWS_PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        record_ends(&app).await?;
    }
    Ok(())
}

/// Records the ends of windows that are over.
pub(crate) async fn record_ends(app: &App) -> anyhow::Result<()> {
    for window in app.windows.ended(app.clock.now_ms()) {
        let record = AuditWrite::Ended {
            id: window.number,
            ended_ms: window.ended_ms.unwrap_or_default(),
            details: serde_json::to_string(&window)?,
        };
        // One that fails is in the log, and is tried again.
        if app.intake.audit(record).await.is_ok() {
            app.windows.recorded(&window);
        }
    }
    Ok(())
}
