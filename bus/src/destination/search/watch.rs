//! Looks whether a cluster that was down is back, and whether one that is up hangs.
//!
//! Not for: single indices, which are tried again by what comes for them (see [`super::worker`]).

use std::{sync::Arc, time::Duration};

use hyper::Method;
use tokio::time::Instant;
use tributary_common::{backoff::Backoff, http::Content};

use super::{HANGS_AFTER, Shared, link::Links};
use crate::destination::Condition;

/// How often is looked.
const EVERY: Duration = Duration::from_millis(250);
/// How long a look may take.
const LOOK_WITHIN: Duration = Duration::from_secs(5);
/// After bad credentials, at the soonest.
const REFUSED_FOR: Duration = Duration::from_secs(5);

pub(super) struct Watcher {
    shared: Arc<Shared>,
    links: Links,
    backoff: Backoff,
    rng: fastrand::Rng,
    again: Instant,
}

impl Watcher {
    pub(super) fn new(shared: Arc<Shared>) -> anyhow::Result<Self> {
        let links = Links::new(shared.stop.clone())?;
        Ok(Self {
            shared,
            links,
            backoff: Backoff::new(EVERY, Duration::from_secs(5)),
            rng: fastrand::Rng::new(),
            again: Instant::now(),
        })
    }

    pub(super) fn run(mut self) {
        while !self.shared.stop.is_cancelled() {
            std::thread::sleep(EVERY);
            let down = {
                let mut health = self.shared.health();
                let quiet = health.asked.values().map(Instant::elapsed).min();
                let hangs = quiet.is_some_and(|quiet| quiet >= HANGS_AFTER);
                if hangs && !health.hanging {
                    tracing::error!(destination = %self.shared.name, "the destination hangs: {}", super::hangs());
                }
                health.hanging = hangs;
                let down = health.down.as_ref();
                down.map(|(word, _why, since)| (*word, *since))
            };
            let up = down.is_none() && !self.shared.health().hanging;
            metrics::gauge!("tributary_bus_destination_up_count", "destination" => self.shared.name.to_string())
                .set(if up { 1.0 } else { 0.0 });
            let waits = |(word, since): (Condition, Instant)| {
                word == Condition::Refused && since.elapsed() < REFUSED_FOR
            };
            match down {
                None => self.backoff.reset(),
                Some(down) if waits(down) || Instant::now() < self.again => {}
                Some(_down) => {
                    self.look();
                    self.again = Instant::now() + self.backoff.next(&mut self.rng);
                }
            }
        }
    }

    /// Asks all nodes; the first that answers well is enough.
    fn look(&mut self) {
        let count = self.shared.nodes().len();
        for no in 0..count {
            let Some(url) = self.shared.nodes().url(no).map(str::to_owned) else {
                continue;
            };
            let call = (Method::GET, "/", Content::default());
            let told = self
                .links
                .ask(&self.shared.access, (no, &url), call, LOOK_WITHIN);
            match told {
                Ok((status, _body)) if status.is_success() => {
                    self.shared.nodes().well(no);
                    self.shared.health().down = None;
                    tracing::info!(destination = %self.shared.name, "the destination is up again");
                }
                Ok((status, _body)) if matches!(status.as_u16(), 401 | 403) => {
                    let why = format!("{url} answers {status}: look at the credentials");
                    self.shared.go_down(Condition::Refused, &why);
                }
                Ok(_) | Err(_) => continue,
            }
            return;
        }
    }
}
