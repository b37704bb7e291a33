//! Looks a few times a second how the destinations are, and lets the routes use those that are well.
//!
//! The loop around [`crate::breaker`] and [`crate::switch`]. Not for: where one batch goes
//! (see [`crate::node`]).

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::node::Node;

/// How often is looked.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Looks until the node stops.
///
/// # Errors
/// None.
pub(crate) async fn run(node: Arc<Node>) -> anyhow::Result<()> {
    let mut tick = interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while node.stop.run_until_cancelled(tick.tick()).await.is_some() {
        look(&node, Instant::now());
    }
    Ok(())
}

/// One look.
pub(crate) fn look(node: &Node, now: Instant) {
    node.forget_pins(now);
    let routing = node.routing();
    for (site, _leaving) in routing.sites() {
        site.look(now);
    }
    for branch in routing.table().with_standby() {
        let site = |no: usize| routing.site(branch.nth(no).0);
        let all = 0..=branch.standby.len();
        let closed = all.map(|no| site(no).is_some_and(|site| site.is_used()));
        let closed: Vec<bool> = closed.collect();
        let how = |no: usize| {
            let health = site(no).map(|site| site.destination.health());
            let detail = health.map(|health| health.detail).unwrap_or_default();
            match detail.is_empty() {
                true => "it is on trial after an outage".to_owned(),
                false => detail,
            }
        };
        branch.switch.decide(&closed, how);
    }
}

#[cfg(test)]
mod tests;
