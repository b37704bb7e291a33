//! Looks whether a cluster that was down is back, and whether one that is up hangs.
//!
//! Not for: single indices, which are tried again by what comes for them (see [`super::worker`]).

use std::{sync::Arc, time::Duration};

use hyper::StatusCode;
use tokio::time::Instant;
use tributary_common::backoff::Backoff;

use super::{
    HANGS_AFTER, Shared,
    link::{Links, NoAnswer},
};
use crate::destination::Condition;

/// How often is looked.
const EVERY: Duration = Duration::from_millis(250);
/// How long a look may take.
const LOOK_WITHIN: Duration = Duration::from_secs(5);
/// How long the look at the start may take, for each node.
const FIRST_LOOK_WITHIN: Duration = Duration::from_secs(1);
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
        // A wrong address or credentials that are refused are told before the first batch comes.
        self.look(FIRST_LOOK_WITHIN);
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
                    self.look(LOOK_WITHIN);
                    self.again = Instant::now() + self.backoff.next(&mut self.rng);
                }
            }
        }
    }

    /// Asks all nodes; the first that answers well is enough, unless one of them refused this node: that must be
    /// none any more.
    fn look(&mut self, limit: Duration) {
        let refused = matches!(self.shared.health().down, Some((Condition::Refused, ..)));
        let mut up = false;
        let count = self.shared.nodes().len();
        for no in 0..count {
            let Some(url) = self.shared.nodes().url(no).map(str::to_owned) else {
                continue;
            };
            match self.links.look(&self.shared, (no, &url), limit) {
                Ok(None) => {
                    self.shared.nodes().well(no);
                    up = true;
                    if !refused {
                        break;
                    }
                }
                Ok(Some(StatusCode::UNAUTHORIZED)) => {
                    let why = format!(
                        "{url} answers {}: look at the credentials",
                        StatusCode::UNAUTHORIZED
                    );
                    return self.shared.go_down(Condition::Refused, &why);
                }
                // It is told where it was found.
                Err(NoAnswer::Wrong(_why)) => return,
                Ok(Some(_)) | Err(_) => {}
            }
        }
        if up && self.shared.health().down.take().is_some() {
            tracing::info!(destination = %self.shared.name, "the destination is up again");
        }
    }
}
