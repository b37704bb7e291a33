//! What every handler shares.

use std::{sync::Arc, time::SystemTime};

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{
    service::{documents::Documents, intake::Intake, live::Live, rates::Rates, windows::Windows},
    store::Store,
};

/// The manager's clock: wall time, for stamps that people read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock;

impl Clock {
    /// Now, in ms since 1970 UTC; 0 before that.
    #[expect(
        clippy::unused_self,
        reason = "asked through the state, so that tests may set it"
    )]
    pub(crate) fn now_ms(self) -> i64 {
        let since = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }
}

/// The shared state; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct App {
    /// The database, for questions.
    pub(crate) store: Store,
    /// The way in for reports.
    pub(crate) intake: Intake,
    /// Records per second now.
    pub(crate) rates: Arc<Rates>,
    /// The live subscribers.
    pub(crate) live: Arc<Live>,
    /// Windows in which bus clusters hand over connections.
    pub(crate) windows: Arc<Windows>,
    /// What parts are to go by over their files.
    pub(crate) documents: Arc<Documents>,
    /// Bytes of reports in memory.
    pub(crate) report_bytes: Arc<Semaphore>,
    /// The token that reports must bring, if any.
    pub(crate) report_token: Option<Arc<str>>,
    /// The token that changes must bring, if any.
    pub(crate) admin_token: Option<Arc<str>>,
    /// Wall time.
    pub(crate) clock: Clock,
    /// Cancelled when the manager stops.
    pub(crate) stop: CancellationToken,
}
