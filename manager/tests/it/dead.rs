//! Dead letters: told by place, in any order, twice, before and after their batch; and what is kept where.

use serde_json::{Value, json};

use crate::rig::{Rig, agent, bus, fact, minute, report};

/// What became of places of batch `seq` of topic `web`, stream 1, epoch 9, in the current minute.
fn letters(destination: &str, state: &str, seq: u64, places: &[(u32, u32)]) -> Value {
    json!({
        "destination": destination, "topic": "web", "stream": 1, "epoch": 9, "seq": seq,
        "state": state, "minutes": [{ "minute": minute(), "places": places }],
    })
}

/// Counts of the topic: delivered, dead, purged, replayed; nothing is unexplained.
async fn ends(rig: &Rig) -> [i64; 4] {
    let counts = rig.counts("web").await;
    assert_eq!(counts["unexplained"], 0, "{counts}");
    ["delivered", "dead", "purged", "replayed"].map(|name| counts[name].as_i64().unwrap())
}

async fn state(rig: &Rig) -> Value {
    rig.page("/api/v1/topics?range=1h").await["topics"][0]["state"].clone()
}

#[tokio::test]
async fn a_record_that_dies_is_not_delivered_until_it_is_replayed() {
    let mut rig = Rig::start().await;
    let mut told = report(&agent(), 1, 1);
    told["facts"] = json!([fact("read", 1, &[10, 10]), fact("delivered", 1, &[10, 10])]);
    rig.tell(&told).await;
    let mut number = 0;
    let mut tell = async |rig: &Rig, node: &str, all: &[Value]| {
        number += 1;
        let mut told = report(&bus(node), 1, number);
        told["letters"] = all.into();
        rig.tell(&told).await;
    };
    let died = letters("es", "dead", 1, &[(0, 2), (9, 10)]);
    tell(&rig, "b1", std::slice::from_ref(&died)).await;
    assert_eq!(ends(&rig).await, [17, 3, 0, 0]);
    assert_eq!(state(&rig).await, "dead_letters");
    // After a restart it is told again; another node has them, too, and more at another destination.
    rig.restart().await;
    let elsewhere = letters("other", "dead", 1, &[(1, 4)]);
    tell(&rig, "b1", std::slice::from_ref(&died)).await;
    tell(&rig, "b2", &[died.clone(), elsewhere]).await;
    assert_eq!(ends(&rig).await, [15, 5, 0, 0]);
    tell(&rig, "b2", &[letters("es", "replayed", 1, &[(0, 2)])]).await;
    assert_eq!(ends(&rig).await, [16, 4, 0, 1]);
    tell(
        &rig,
        "b1",
        &[died, letters("other", "purged", 1, &[(1, 4)])],
    )
    .await;
    assert_eq!(ends(&rig).await, [16, 1, 3, 1]);
    tell(&rig, "b1", &[letters("es", "purged", 1, &[(9, 10)])]).await;
    assert_eq!(ends(&rig).await, [16, 0, 4, 1]);
    assert_eq!(state(&rig).await, "whole");
    rig.stop().await;
}

#[tokio::test]
async fn an_end_may_come_before_the_letter_and_both_before_the_batch() {
    let mut rig = Rig::start().await;
    let mut told = report(&bus("b1"), 1, 1);
    told["letters"] = json!([
        letters("es", "replayed", 1, &[(0, 1)]),
        letters("es", "dead", 1, &[(0, 3)]),
    ]);
    rig.tell(&told).await;
    let mut told = report(&agent(), 1, 1);
    told["facts"] = json!([fact("read", 1, &[10]), fact("spilled", 1, &[10])]);
    rig.tell(&told).await;
    // It is on its way to another destination.
    assert_eq!(ends(&rig).await, [0, 0, 0, 0]);
    rig.restart().await;
    let mut told = report(&bus("b1"), 1, 2);
    told["facts"] = json!([fact("delivered", 1, &[10])]);
    rig.tell(&told).await;
    assert_eq!(ends(&rig).await, [8, 2, 0, 1]);
    rig.tell(&told).await;
    assert_eq!(ends(&rig).await, [8, 2, 0, 1]);
    rig.stop().await;
}

#[tokio::test]
async fn who_keeps_dead_letters_and_why_is_listed() {
    let mut rig = Rig::start().await;
    let mut told = report(&bus("b1"), 1, 1);
    let group = |topic: &str, letters: u64| {
        json!({
            "topic": topic, "reason": "mapper_parsing_exception", "status": 400, "letters": letters,
            "first_ms": 5, "last_ms": 9,
        })
    };
    told["health"]["destinations"] = json!([
        { "name": "k", "kind": "kafka", "state": "up", "detail": "" },
        { "name": "es", "kind": "elasticsearch", "state": "up", "detail": "", "dead": {
            "letters": 7, "bytes": 700, "max_bytes": 1000, "groups": [group("web", 4), group("app", 3)],
        } },
    ]);
    rig.tell(&told).await;
    let page = rig.page("/api/v1/dead").await;
    let one = &page["destinations"][0];
    assert_eq!(page["destinations"].as_array().unwrap().len(), 1);
    assert_eq!(
        (
            &one["destination"],
            &one["node"],
            &one["letters"],
            &one["max_bytes"]
        ),
        (&json!("es"), &json!("b1"), &json!(7), &json!(1000))
    );
    assert_eq!(one["reasons"], json!([group("web", 4), group("app", 3)]));
    let page = rig.page("/api/v1/dead?topic=app").await;
    assert_eq!(page["destinations"][0]["reasons"], json!([group("app", 3)]));
    let page = rig.page("/api/v1/dead?topic=none").await;
    assert_eq!(page["destinations"], json!([]));
    rig.stop().await;
}

#[tokio::test]
async fn dead_letters_that_cannot_be_are_refused() {
    let mut rig = Rig::start().await;
    let check = async |reporter: Value, places: (u32, u32), status: u16| {
        let mut told = report(&reporter, 1, 1);
        told["letters"] = json!([letters("es", "dead", 1, &[places])]);
        assert_eq!(rig.post(&told).await.status, status, "{places:?}");
    };
    check(agent(), (0, 1), 400).await;
    check(bus("b1"), (3, 3), 400).await;
    check(bus("b1"), (0, u32::MAX), 400).await;
    check(bus("b1"), (0, 1), 200).await;
    rig.stop().await;
}
