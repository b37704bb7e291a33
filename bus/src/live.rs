//! Takes a new configuration while the node runs.
//!
//! SIGHUP's load of the file counts whole or not at all: with a fault, or where it changes what cannot
//! change while the node runs, it is refused with all its faults, and the old one goes on. Destinations
//! that are new start before the rules change; one with other settings ends and begins anew in between,
//! its spill with it, while its batches are answered `Busy`; one that is not there any more gets nothing
//! new and ends when it has nothing to finish. One whose spill holds batches cannot be taken away.
//!
//! What the manager says of where topics go is taken in the same way, over the file that counts, and kept (see
//! [`tributary_common::given`]); SIGHUP puts it over the new file.
//!
//! Not for: what new rules mean for what is on its way (see [`crate::routing`], [`crate::moving`]).
//! Started by [`crate::run_live`].

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tributary_common::{
    config::{Difference, Faults, Loaded, Origin, Over, differences},
    daemon::Reload,
    given::{self, Given, Kind, Part, ROUTES, Refused, Standing, Start, words},
    ids::Name,
};
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    config::{
        self, Config, DestinationConfig, DestinationKind, LIVE_KEYS, LIVE_LIST, RolledConfig,
        SCHEMA,
    },
    journal::now_ms,
    node::Node,
    routing::Routing,
    site::{Site, Workshop},
};

/// How often is looked whether a destination that leaves has finished.
const TIDY_EVERY: Duration = Duration::from_millis(250);

/// The loop's state.
#[derive(Debug)]
pub(crate) struct Live {
    config: Config,
    /// What it has of the manager.
    standing: Standing,
    node: Arc<Node>,
    workshop: Workshop,
}

impl Live {
    /// Goes on from what the node was started with.
    pub(crate) fn new(start: Start<Config>, node: Arc<Node>, workshop: Workshop) -> Self {
        let Start { config, standing } = start;
        let mut live = Self {
            config,
            standing,
            node,
            workshop,
        };
        live.counts();
        live.show();
        live
    }

    /// Applies what comes until `stop`.
    ///
    /// # Errors
    /// None: what cannot be applied is refused.
    pub(crate) async fn run(
        mut self,
        mut reload: Reload<Config>,
        mut offers: watch::Receiver<Option<Given>>,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let mut tick = interval(TIDY_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                document = reload.next() => self.consider(document).await,
                given = given::next(&mut offers) => {
                    if let Some(outcome) = given::offered(&mut self, given).await {
                        count(outcome);
                    }
                }
                _now = tick.tick() => tidy(&self.node).await?,
            }
        }
    }

    /// Applies a document, or says why not.
    async fn consider(&mut self, document: Result<Loaded<Config>, Faults>) {
        let outcome = match document {
            Err(faults) => Err(words(&faults)),
            Ok(loaded) => given::reload(self, loaded).await,
        };
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(faults) => {
                self.refuse(&faults);
                "refused"
            }
        };
        count(outcome);
    }

    /// Shows that the present configuration counts.
    fn counts(&self) {
        let version = format!("{:016x}", xxh3_64(self.config.effective.as_bytes()));
        self.show_config(|config| {
            config.version = version;
            config.applied_ms = now_ms();
            config.fault.clear();
            config.fault_ms = 0;
        });
    }

    /// Says that a document does not count.
    fn refuse(&self, faults: &[String]) {
        for fault in faults {
            tracing::error!("{fault}");
        }
        tracing::error!(
            faults = faults.len(),
            "the new configuration is refused as a whole; the old one goes on"
        );
        self.show_config(|config| {
            config.fault = faults.join("\n");
            config.fault_ms = now_ms();
        });
    }

    fn show_config(&self, change: impl FnOnce(&mut tributary_common::report::ConfigHealth)) {
        let mut config = self
            .node
            .config
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        change(&mut config);
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
        metrics::gauge!("tributary_bus_config_applied_seconds")
            .set((config.applied_ms / 1000) as f64);
        let good = config.fault.is_empty() && self.standing.health().fault.is_empty();
        let faulty = if good { 0.0 } else { 1.0 };
        metrics::gauge!("tributary_bus_config_faulty_count").set(faulty);
    }
}

impl Part for Live {
    type Config = Config;

    fn kind(&self) -> &'static Kind {
        &ROUTES
    }

    fn data_dir(&self) -> PathBuf {
        self.config.data_dir.clone()
    }

    fn file(&self) -> Arc<Origin> {
        Arc::clone(&self.config.origin)
    }

    fn load(&self, file: &Arc<Origin>, over: Option<Over<'_>>) -> Result<Loaded<Config>, Faults> {
        config::load_over(file, over)
    }

    async fn apply(&mut self, loaded: Loaded<Config>) -> Result<&'static str, Refused> {
        for warning in loaded.warnings() {
            tracing::warn!("{warning}");
        }
        let new = &loaded.value;
        let found = differences(&SCHEMA, &self.config.effective, &new.effective);
        let mut faults: Refused = found
            .iter()
            .filter_map(fixed_key)
            .map(|key| {
                let why = "cannot change while the bus runs; restart it to change it";
                loaded.fault(key, why).to_string()
            })
            .collect();
        if self.config.spill.is_some() != new.spill.is_some() {
            let why = "cannot change from or to 0B while the bus runs; restart it to change it";
            faults.push(loaded.fault("spill.max", why).to_string());
        }
        let routing = self.node.routing();
        let stuck = stuck(&routing, &self.config, new).into_iter();
        faults.extend(stuck.map(|(key, why)| loaded.fault(&key, why).to_string()));
        if !faults.is_empty() {
            return Err(faults);
        }
        // Secrets are no part of what is compared above.
        if found.is_empty() && self.config.destinations == new.destinations {
            tracing::info!("the configuration is the one that counts already");
            self.show_config(|config| config.fault.clear());
            // What the manager's document hides may be another.
            self.config.origin = loaded.value.origin;
            return Ok("unchanged");
        }
        let (node, workshop) = (Arc::clone(&self.node), self.workshop.clone());
        let (old, next) = (self.config.clone(), new.clone());
        let changing = spawn_blocking(move || change(&node, &workshop, &old, &next));
        let changed = changing.await.context("the change failed");
        let changed = changed.map_err(|error| vec![error]).flatten();
        if let Err(failed) = changed {
            let told = |error| {
                loaded
                    .fault("destination", format!("{error:#}"))
                    .to_string()
            };
            return Err(failed.into_iter().map(told).collect());
        }
        if let (Some(usage), Some(limits)) = (self.workshop.usage(), new.spill) {
            usage.limit(limits);
        }
        self.config = loaded.value;
        let changes: Vec<String> = found.iter().map(ToString::to_string).collect();
        self.counts();
        tracing::info!(
            version = self.node.config_health().version,
            destinations = self.config.destinations.len(),
            changes = changes.join("; "),
            "the new configuration counts"
        );
        Ok("applied")
    }

    fn standing(&mut self) -> &mut Standing {
        &mut self.standing
    }

    fn show(&mut self) {
        let health = self.standing.health().clone();
        self.node.show_routes(health);
        self.show_config(|_config| {});
    }
}

/// Counts a document.
fn count(outcome: &'static str) {
    metrics::counter!("tributary_bus_config_loads_total", "outcome" => outcome).increment(1);
}

/// The key of a difference that needs a restart.
fn fixed_key(difference: &Difference) -> Option<&str> {
    match difference {
        Difference::Key(key) => Some(key.as_str()).filter(|key| !LIVE_KEYS.contains(key)),
        Difference::Added { list, .. }
        | Difference::Removed { list, .. }
        | Difference::Changed { list, .. }
        | Difference::Order { list } => Some(list.as_str()).filter(|list| *list != LIVE_LIST),
    }
}

/// Destinations that cannot go, or become another thing, since what their disk holds waits for them.
fn stuck(routing: &Routing, old: &Config, new: &Config) -> Vec<(String, String)> {
    let before = old.destinations.iter();
    let stuck = before.filter_map(|one| {
        let after = new.destinations.iter().enumerate();
        let mut after = after.filter(|(_at, other)| other.name == one.name);
        let (key, what) = match after.next() {
            None => ("destination".to_owned(), "it cannot be removed: it"),
            Some((at, other)) if !goes_on(&one.kind, &other.kind) => (
                format!("destination[{at}]"),
                "it cannot lie elsewhere now: it",
            ),
            Some(_same) => return None,
        };
        let site = routing.site(routing.place_of(&one.name)?)?;
        Some((
            key,
            format!("{:?}: {what} {}", one.name.as_str(), site.holds()?),
        ))
    });
    stuck.collect()
}

/// Whether what was spilled for a destination can still go there: a file's folder stands in it.
fn goes_on(old: &DestinationKind, new: &DestinationKind) -> bool {
    match (old, new) {
        (DestinationKind::Kafka(_), DestinationKind::Kafka(_))
        | (DestinationKind::Search(_), DestinationKind::Search(_))
        | (DestinationKind::Discard, DestinationKind::Discard) => true,
        (DestinationKind::File { path: old }, DestinationKind::File { path: new }) => old == new,
        (DestinationKind::Rolled(old), DestinationKind::Rolled(new)) => {
            let place = |files: &RolledConfig| files.place.address().map(str::to_owned);
            (place(old), &old.path) == (place(new), &new.path)
        }
        (DestinationKind::Kafka(_), _)
        | (DestinationKind::File { .. }, _)
        | (DestinationKind::Rolled(_), _)
        | (DestinationKind::Search(_), _)
        | (DestinationKind::Discard, _) => false,
    }
}

/// Closes the destinations that were leaving and have finished.
async fn tidy(node: &Arc<Node>) -> anyhow::Result<()> {
    if !node.routing().is_untidy() {
        return Ok(());
    }
    let gone = node.put(Routing::tidy);
    let closing = spawn_blocking(move || {
        for site in gone {
            site.close();
            tracing::info!(destination = %site.name, "a destination that was taken out of the configuration has ended");
        }
    });
    closing.await.context("failed to close a destination")
}

/// Brings the node from one configuration to the next. Blocks.
///
/// # Errors
/// A destination that does not start; everything is as before.
fn change(
    node: &Arc<Node>,
    workshop: &Workshop,
    old: &Config,
    new: &Config,
) -> Result<(), Vec<anyhow::Error>> {
    let routing = node.routing();
    let configured = |name: &Name| old.destinations.iter().find(|one| one.name == *name);
    let mut fresh = Vec::new();
    let mut others = Vec::new();
    for one in &new.destinations {
        match (routing.place_of(&one.name), configured(&one.name)) {
            (None, _) => fresh.push(one),
            (Some(_place), Some(before)) if before == one => {}
            // It has other settings; or it comes back while it is leaving.
            (Some(_place), before) => others.push((before.unwrap_or(one), one)),
        }
    }
    let mut opened: Vec<Arc<Site>> = Vec::new();
    let mut exchanged = Vec::new();
    let mut failed = Vec::new();
    for one in fresh {
        match open(node, workshop, one) {
            Ok(site) => opened.push(site),
            Err(error) => failed.push(error),
        }
    }
    // Those that run are interrupted: not for a document that is refused anyway.
    if failed.is_empty() {
        for (before, one) in others {
            match exchange(node, workshop, before, one) {
                Ok(()) => exchanged.push((before, one)),
                Err(error) => failed.push(error),
            }
        }
    }
    if !failed.is_empty() {
        for site in opened {
            site.close();
        }
        for (before, one) in exchanged {
            if let Err(error) = exchange(node, workshop, one, before) {
                tracing::error!(destination = %one.name, error = format!("{error:#}"), "a destination does not start again; restart the bus");
            }
        }
        return Err(failed);
    }
    node.reroute(|routing| {
        for site in opened {
            routing.seat(site);
        }
        let places = new.destinations.iter();
        let places = places.filter_map(|one| routing.place_of(&one.name));
        let places: Vec<usize> = places.collect();
        for one in &old.destinations {
            if !new.destinations.iter().any(|other| other.name == one.name) {
                routing.leave(&one.name);
            }
        }
        routing.route_by(new.routes.clone().moved_to(&places));
    });
    Ok(())
}

/// Starts a destination, with what its spill holds of an earlier life.
fn open(
    node: &Arc<Node>,
    workshop: &Workshop,
    config: &DestinationConfig,
) -> anyhow::Result<Arc<Site>> {
    let (site, found) = workshop.open(config)?;
    node.found(found);
    if let Err(error) = site.start(node) {
        site.close();
        return Err(error);
    }
    Ok(Arc::new(site))
}

/// Ends a destination and starts it with other settings.
fn exchange(
    node: &Arc<Node>,
    workshop: &Workshop,
    from: &DestinationConfig,
    to: &DestinationConfig,
) -> anyhow::Result<()> {
    let routing = node.routing();
    let site = routing.place_of(&from.name).and_then(|at| routing.site(at));
    let site = site.context("the destination is gone")?;
    site.close();
    let (next, failed) = match open(node, workshop, to) {
        Ok(next) => (next, None),
        Err(error) => (open(node, workshop, from)?, Some(error)),
    };
    next.go_on_from(site);
    node.put(|routing| routing.seat(next));
    failed.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests;
