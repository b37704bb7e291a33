//! The live events of the topics page, as server-sent events.
//!
//! `topics` carries what `GET /api/v1/topics` answers, at most once a second and only while
//! something changes; `heartbeat` comes every few seconds otherwise, so that a page can say when it
//! is stale.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::State,
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
};
use futures_util::{Stream, stream};
use serde::{Deserialize, Serialize};
use tokio::{sync::OwnedSemaphorePermit, time::Instant};

use crate::{
    api::{
        error::{ApiError, ErrorBody},
        extract::Params,
        topics,
    },
    app::App,
    service::{
        range::{MINUTE_MS, Minutes, Named, RangeError},
        states::SILENT_AFTER_MS,
    },
    store::StoreError,
};

/// Shortest time between two `topics` events.
const PERIOD: Duration = Duration::from_secs(1);
/// Longest silence.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// When nothing changes by itself any more: rates are 0 before that, silent nodes are silent.
const SETTLED_AFTER: Duration = Duration::from_millis(SILENT_AFTER_MS.unsigned_abs() + 2_000);

/// Which range the events are about.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct LiveQuery {
    /// A range that ends now: `1h`, `6h`, `24h` or `7d`; or `all` (default), every minute that is
    /// known.
    #[param(value_type = Option<Named>)]
    pub(crate) range: Option<String>,
}

/// The data of a `heartbeat` event.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct Heartbeat {
    /// The manager's clock, in ms since 1970.
    pub(crate) generated_at_ms: i64,
}

/// Live events: `topics` with the same JSON as `/api/v1/topics`, `heartbeat` otherwise.
#[utoipa::path(
    get, path = "/api/v1/live", operation_id = "streamTopics", tag = "topics", params(LiveQuery),
    responses(
        (status = 200, content_type = "text/event-stream", body = topics::TopicsPage,
         description = "Events `topics` (data: TopicsPage) and `heartbeat` (data: Heartbeat)."),
        (status = 400, body = ErrorBody, description = "The range is none."),
        (status = 503, body = ErrorBody, description = "Too many subscribers; see Retry-After."),
    )
)]
pub(crate) async fn events(
    State(app): State<App>,
    Params(query): Params<LiveQuery>,
) -> Result<Response, ApiError> {
    let name = query.range.as_deref().unwrap_or("all");
    let range = Named::parse(name).ok_or_else(|| RangeError::Name(name.to_owned()))?;
    let permit = Arc::clone(&app.live.subscribers)
        .try_acquire_owned()
        .or(Err(ApiError::Busy("live pages")))?;
    let (counted, now) = (Counted::new(permit), Instant::now());
    let feed = Feed {
        app,
        range,
        seen: None,
        last_sent: now,
        fresh_until: now,
        minute: 0,
        _counted: counted,
    };
    Ok(Sse::new(feed.into_stream()).into_response())
}

/// Counts a subscriber as long as it lives.
struct Counted {
    _permit: OwnedSemaphorePermit,
}

impl Counted {
    fn new(permit: OwnedSemaphorePermit) -> Self {
        metrics::gauge!("tributary_manager_live_pages_count").increment(1.0);
        Self { _permit: permit }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        metrics::gauge!("tributary_manager_live_pages_count").decrement(1.0);
    }
}

/// One subscriber.
struct Feed {
    app: App,
    range: Named,
    /// The change that was sent last; none before the first event.
    seen: Option<u64>,
    last_sent: Instant,
    /// Rates fall to 0 and nodes fall silent for a while after the last change, so events go on
    /// until then.
    fresh_until: Instant,
    /// The range's last minute when a page was sent last: a range moves without any change.
    minute: i64,
    _counted: Counted,
}

impl Feed {
    fn into_stream(self) -> impl Stream<Item = Result<Event, Infallible>> {
        stream::unfold(self, |mut feed| async move {
            let event = feed.next().await?;
            Some((Ok(event), feed))
        })
    }

    /// The next event; none when the manager stops.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if self.seen.is_some() {
                let next = self.last_sent + PERIOD;
                tokio::select! {
                    () = self.app.stop.cancelled() => return None,
                    () = tokio::time::sleep_until(next.max(Instant::now() + PERIOD / 4)) => {}
                }
            }
            let (now, change) = (Instant::now(), self.app.live.change());
            if self.seen != Some(change) {
                self.fresh_until = now + SETTLED_AFTER;
            }
            let minute = self.app.clock.now_ms() / MINUTE_MS;
            let event = if now < self.fresh_until || minute != self.minute {
                self.minute = minute;
                self.topics(change).await
            } else if now >= self.last_sent + HEARTBEAT {
                let beat = Heartbeat {
                    generated_at_ms: self.app.clock.now_ms(),
                };
                Event::default().event("heartbeat").json_data(beat).ok()
            } else {
                None
            };
            if let Some(event) = event {
                self.last_sent = now;
                return Some(event);
            }
        }
    }

    async fn topics(&mut self, change: u64) -> Option<Event> {
        self.seen = Some(change);
        let (app, range) = (&self.app, self.range);
        let made = app.live.page(range, || async {
            let now_ms = app.clock.now_ms();
            let page = topics::page(app, Minutes::named(range, now_ms), now_ms).await?;
            Ok::<_, ApiError>(serde_json::to_string(&page).map_err(StoreError::from)?)
        });
        match made.await {
            Ok(json) => Some(Event::default().event("topics").data(&*json)),
            Err(error) => {
                tracing::error!(%error, "failed to make a live event");
                None
            }
        }
    }
}
