//! The ledger as a whole against plain sets: random batches through hops, told in pieces, again,
//! late, by an agent and two bus nodes, with a restart in between.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::rig::{Rig, agent, bus, minute, report};

/// Stream, epoch, sequence number.
type Id = (u64, u64, u64);

const HOPS: [&str; 4] = ["read", "sent", "received", "delivered"];
const TOPICS: [&str; 2] = ["web", "app"];

/// One run: hop, stream, epoch, first, length.
type Told = (usize, u64, u64, u64, u64);

#[derive(Debug, Clone)]
struct Plan {
    /// 0 is the agent, 1 and 2 are bus nodes.
    teller: usize,
    facts: Vec<Told>,
    /// Refused where the hop is odd, else in flight.
    held: Vec<Told>,
}

fn told() -> impl Strategy<Value = Told> {
    (0usize..4, 0u64..3, 1u64..3, 1u64..12, 1u64..5)
}

fn plan() -> impl Strategy<Value = Plan> {
    let held = prop::collection::vec(told(), 0..3);
    (0usize..3, prop::collection::vec(told(), 0..4), held).prop_map(|(teller, facts, held)| Plan {
        teller,
        facts,
        held,
    })
}

/// What a batch holds depends on its identity alone: minutes ago, records.
fn content((stream, epoch, seq): Id) -> Vec<(u64, u64)> {
    let first = (seq % 3, stream * 100 + epoch * 10 + seq);
    if seq % 2 == 0 {
        vec![first]
    } else {
        vec![first, (seq % 3 + 1, 1)]
    }
}

fn topic(stream: u64) -> &'static str {
    TOPICS[usize::try_from(stream % 2).unwrap()]
}

fn ids(&(_, stream, epoch, first, len): &Told) -> impl Iterator<Item = Id> {
    (first..first + len).map(move |seq| (stream, epoch, seq))
}

fn json_run(base: u64, told: &Told) -> Value {
    let batches: Vec<Value> = ids(told)
        .map(|id| {
            content(id)
                .iter()
                .map(|(ago, records)| json!({ "minute": base - ago, "records": records }))
                .collect()
        })
        .collect();
    let &(_, stream, epoch, first, _) = told;
    json!({ "topic": topic(stream), "stream": stream, "epoch": epoch, "first_seq": first, "batches": batches })
}

/// Everything as plain sets.
#[derive(Default)]
struct Model {
    hops: [BTreeSet<Id>; 4],
    by_bus: [BTreeSet<Id>; 3],
    held: BTreeMap<Id, bool>,
    newest: u64,
    doubled: Vec<Id>,
}

impl Model {
    fn take(&mut self, plan: &Plan, number: u64) {
        for told in &plan.facts {
            for id in ids(told) {
                self.hops[told.0].insert(id);
                if told.0 == 3 {
                    self.hops[2].insert(id);
                    if plan.teller > 0 && self.by_bus[plan.teller].insert(id) {
                        let other = 3 - plan.teller;
                        if self.by_bus[other].contains(&id) {
                            self.doubled.push(id);
                        }
                    }
                }
            }
        }
        if plan.teller == 0 && number > self.newest {
            self.newest = number;
            self.held.clear();
            for told in &plan.held {
                for id in ids(told) {
                    *self.held.entry(id).or_default() |= told.0 % 2 == 1;
                }
            }
        }
    }

    fn counts(&self, name: &str, ago: Option<u64>) -> Value {
        let sum = |of: &mut dyn Iterator<Item = &Id>| -> u64 {
            of.filter(|id| topic(id.0) == name)
                .flat_map(|&id| content(id))
                .filter(|&(minutes, _)| ago.is_none_or(|ago| ago == minutes))
                .map(|(_, records)| records)
                .sum()
        };
        let [read, sent, received, delivered] = &self.hops;
        // What a bus has, its agent has sent.
        let sent: BTreeSet<Id> = sent
            .iter()
            .chain(read.intersection(received))
            .copied()
            .collect();
        let open = || read.difference(delivered);
        let state = |wanted: Option<bool>| move |id: &&Id| self.held.get(id).copied() == wanted;
        json!({
            "read": sum(&mut read.iter()), "sent": sum(&mut sent.iter()),
            "received": sum(&mut received.iter()), "delivered": sum(&mut delivered.iter()),
            "in_flight": sum(&mut open().filter(state(Some(false)))),
            "refused": sum(&mut open().filter(state(Some(true)))),
            "unexplained": sum(&mut open().filter(state(None))),
            "ahead": sum(&mut delivered.difference(read)),
            "doubled": sum(&mut self.doubled.iter()),
            "duplicates_removed": 0, "dropped": 0, "spilled": 0, "dead": 0, "purged": 0, "replayed": 0,
        })
    }
}

async fn check(plans: Vec<Plan>, order: Vec<prop::sample::Index>, restart_at: usize) {
    let mut rig = Rig::start().await;
    let (base, mut model) = (minute() - 1, Model::default());
    let mut taken = BTreeSet::new();
    for (step, index) in order.iter().enumerate() {
        let at = index.index(plans.len());
        let (plan, number) = (&plans[at], at as u64 + 1);
        let reporter = if plan.teller == 0 {
            agent()
        } else {
            bus(&format!("b{}", plan.teller))
        };
        let mut told = report(&reporter, 1, number);
        let facts = plan.facts.iter().map(|fact| {
            let mut json = json_run(base, fact);
            json["hop"] = HOPS[fact.0].into();
            json
        });
        told["facts"] = facts.collect();
        if plan.teller == 0 {
            let held = plan.held.iter().map(|held| {
                let mut json = json_run(base, held);
                json["state"] = if held.0 % 2 == 1 {
                    "refused"
                } else {
                    "in_flight"
                }
                .into();
                json
            });
            told["held"] = held.collect();
        }
        rig.tell(&told).await;
        if taken.insert(at) {
            model.take(plan, number);
        }
        if step == restart_at {
            rig.restart().await;
        }
    }
    let list = rig.page("/api/v1/topics?range=1h").await;
    for topic in list["topics"].as_array().unwrap() {
        let name = topic["topic"].as_str().unwrap();
        assert_eq!(topic["counts"], model.counts(name, None), "{name}");
        let (from, to) = ((base - 3) * 60_000, (base + 1) * 60_000);
        let chart = rig
            .page(&format!("/api/v1/topics/{name}/counts?from={from}&to={to}"))
            .await;
        for (one, ago) in chart["minutes"]
            .as_array()
            .unwrap()
            .iter()
            .zip([3, 2, 1, 0])
        {
            assert_eq!(
                one["counts"],
                model.counts(name, Some(ago)),
                "{name}, {ago} minutes ago"
            );
        }
    }
    rig.stop().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn the_ledger_equals_plain_sets(
        plans in prop::collection::vec(plan(), 1..12),
        order in prop::collection::vec(any::<prop::sample::Index>(), 1..24),
        restart_at in 0usize..24,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(check(plans, order, restart_at));
    }
}
