//! What a person asks first, and whether the node can do its work.
//!
//! Called by the admin port and, for readiness, by the agents' port. Quick, never blocks.

use serde_json::{Value, json};
use tokio::{
    runtime::{Handle, RuntimeFlavor},
    task::block_in_place,
    time::Instant,
};
use tributary_common::{given::GivenHealth, report::ConfigHealth};

use crate::{
    destination::{kafka::groups::grouped::Grouped, rolled::RolledSink},
    node::Node,
    outgoing::outgoing,
    routing::Routing,
};

/// Whether the node can do its work now.
///
/// # Errors
/// Why not.
pub(crate) fn ready(node: &Node) -> Result<(), String> {
    if node.stop.is_cancelled() {
        return Err("this node is stopping".to_owned());
    }
    let routing = node.routing();
    let sites = || routing.sites().map(|(site, _leaving)| site);
    let down: Vec<_> = sites().map(|site| site.destination.health()).collect();
    // With room on the disk it takes batches although every destination is down.
    let mut spills = sites().filter_map(|site| site.spill.as_ref());
    let spills = spills.any(|spill| spill.room().is_ok());
    if !down.is_empty() && !spills && down.iter().all(|health| health.state == "down") {
        let names: Vec<_> = down
            .iter()
            .map(|health| format!("{}: {}", health.name, health.detail))
            .collect();
        return Err(format!("every destination is down ({})", names.join("; ")));
    }
    if node.journal.failing() {
        return Err("the journal cannot be written".to_owned());
    }
    Ok(())
}

/// The status page.
pub(crate) fn status(node: &Node) -> Value {
    // A node that stops has closed its door: what came in cannot be told from what leads out.
    let connections_out = (!node.stop.is_cancelled()).then(|| aside(outgoing));
    // Before what it decides: who reads that a configuration counts sees below what it brought.
    let config = config(&node.config_health(), &node.routes_health());
    let topics: serde_json::Map<String, Value> = node
        .counts()
        .into_iter()
        .map(|(topic, counts)| {
            let counts = json!({
                "received_records": counts.received,
                "delivered_records": counts.delivered,
                "spilled_records": counts.spilled,
                "duplicate_records": counts.duplicate,
                "refused_records": counts.refused,
            });
            (topic.to_string(), counts)
        })
        .collect();
    let routing = node.routing();
    let share = node.share(&routing);
    let destinations: Vec<Value> = routing
        .sites()
        .map(|(site, leaving)| {
            let health = site.destination.health();
            let (condition, how) = site.condition(Instant::now());
            let breaker = site.breaker();
            json!({
                "name": health.name,
                "kind": health.kind,
                "state": condition.as_str(),
                "detail": how.unwrap_or(health.detail),
                "leaving": leaving,
                "memory": { "held_bytes": site.held().bytes(), "share_bytes": share },
                "dead_letters": site.letters.as_ref().map(|letters| letters.size().0),
                "breaker": breaker.as_str(),
                "trial_s": breaker.trial().as_secs(),
                "groups": site.destination.grouped().map(Grouped::status),
                "files": site.destination.late().map(RolledSink::files),
            })
        })
        .collect();
    json!({
        "node": node.identity.node,
        "cluster": node.identity.cluster,
        "zone": node.identity.zone,
        "epoch": node.identity.epoch,
        "version": env!("CARGO_PKG_VERSION"),
        "ready": ready(node).err().map_or_else(|| "yes".to_owned(), |why| format!("no: {why}")),
        "connections": node.open_connections(),
        "connections_out": connections_out,
        "rebalance": node.balance.shown(Instant::now()),
        "memory": { "used_bytes": node.budget.used(), "limit_bytes": node.budget.limit() },
        "held_back": node.quotas.shown(Instant::now()),
        "in_flight_batches": node.in_flight(),
        "journal": {
            "failing": node.journal.failing(),
            "streams": node.journal.memory().done.streams(),
        },
        "spill": spill(&routing),
        "destinations": destinations,
        "routes_with_standby": routing
            .table()
            .with_standby()
            .map(|branch| branch.switch.status())
            .collect::<Vec<_>>(),
        "config": config,
        "topics": topics,
    })
}

/// Does what takes a while without holding up what else this thread has to do.
fn aside<T>(work: impl FnOnce() -> T) -> T {
    let runtime = Handle::try_current().map(|runtime| runtime.runtime_flavor());
    match runtime {
        Ok(RuntimeFlavor::MultiThread) => block_in_place(work),
        Ok(_) | Err(_) => work(),
    }
}

/// The spill: how much of the disk it has, and per destination what waits and how it leaves.
fn spill(routing: &Routing) -> Value {
    let spills = || routing.sites().filter_map(|(site, _)| site.spill.as_ref());
    let Some(first) = spills().next() else {
        return json!({ "enabled": false });
    };
    let (used, max) = first.disk_bytes();
    let lanes: Vec<Value> = spills().map(|spill| spill.status()).collect();
    json!({
        "enabled": true,
        "used_bytes": used,
        "max_bytes": max,
        "full": first.room().err(),
        "destinations": lanes,
    })
}

/// Which configuration counts, and why the last one does not; the same of what the manager says.
fn config(config: &ConfigHealth, routes: &GivenHealth) -> Value {
    json!({
        "version": config.version,
        "applied_ms": config.applied_ms,
        "fault": config.fault,
        "fault_ms": (config.fault_ms > 0).then_some(config.fault_ms),
        "routes_from": routes.from,
        "routes_version": routes.version,
        "routes_refused": routes.refused,
        "routes_fault": routes.fault,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        budget,
        dedupe::Waiter,
        destination::{Accepted, memory::Script},
        testing::{batch, rig, until},
    };

    #[tokio::test(flavor = "multi_thread")]
    async fn a_destination_that_takes_long_to_answer_is_slow() {
        let rig = rig();
        let state = || status(&rig.node)["destinations"][0]["state"].clone();
        assert_eq!(state(), "up");
        rig.sink.script([Script::Hold]);
        let (header, payload) = batch("web", 1, 1, &["x"]);
        let cost = budget::cost(&header, payload.len());
        let permit = rig.node.budget.take(cost).await;
        let accepted = Accepted::new(header, payload, permit);
        let (told, answer) = tokio::sync::oneshot::channel();
        rig.node.take(accepted, Waiter::Lines(told));
        until("the batch to be there", || rig.sink.held() == 1).await;
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        assert_eq!(state(), "up", "it has not answered");
        rig.sink.release();
        drop(answer.await.unwrap());
        assert_eq!(state(), "slow");
        let detail = status(&rig.node)["destinations"][0]["detail"].clone();
        assert!(
            detail.as_str().unwrap().starts_with("1 of its last 1"),
            "{detail}"
        );
    }
}
