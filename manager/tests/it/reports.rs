//! Reports: told twice, in pieces, late, across a restart, and bad ones.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::rig::{Rig, agent, bus, fact, held, loss, report, run};

/// The counts that are not 0.
async fn nonzero(rig: &Rig) -> Value {
    let counts = rig.counts("web").await;
    let counts = counts
        .as_object()
        .unwrap()
        .iter()
        .filter(|(_, value)| **value != json!(0));
    counts
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

async fn check(rig: &Rig, expected: Value) {
    assert_eq!(nonzero(rig).await, expected);
}

#[tokio::test]
async fn a_report_counts_once_however_often_it_is_sent() {
    let mut rig = Rig::start().await;
    let mut told = report(&agent(), 5, 1);
    told["facts"] = json!([
        fact("read", 1, &[10, 20, 3]),
        fact("sent", 1, &[10, 20]),
        fact("lost", 3, &[3]),
    ]);
    told["held"] = json!([held("in_flight", 1, &[10, 20])]);
    told["duplicates"] = json!([{ "topic": "web", "minutes": run(1, &[4])["batches"][0] }]);
    told["losses"] = json!([loss(Some(3))]);
    let expected = json!({
        "read": 33, "sent": 30, "in_flight": 30, "duplicates_removed": 4, "dropped": 3,
    });
    for _ in 0..3 {
        rig.tell(&told).await;
        check(&rig, expected.clone()).await;
    }
    rig.restart().await;
    rig.tell(&told).await;
    check(&rig, expected).await;
}

#[tokio::test]
async fn facts_told_again_under_another_number_count_once() {
    let rig = Rig::start().await;
    for (number, first) in [(1, 1), (2, 1), (3, 2)] {
        let mut told = report(&agent(), 5, number);
        told["facts"] = json!([fact("read", first, &[10, 10, 10])]);
        rig.tell(&told).await;
    }
    // A later life of the agent tells them once more.
    let mut told = report(&agent(), 6, 1);
    told["facts"] = json!([fact("read", 1, &[10, 10, 10, 10])]);
    rig.tell(&told).await;
    check(&rig, json!({ "read": 40, "unexplained": 40 })).await;
}

#[tokio::test]
async fn agent_and_bus_may_both_tell_the_delivery() {
    let rig = Rig::start().await;
    let mut of_bus = report(&bus("b1"), 1, 1);
    of_bus["facts"] = json!([fact("received", 1, &[10]), fact("delivered", 1, &[10])]);
    rig.tell(&of_bus).await;
    check(
        &rig,
        json!({ "received": 10, "delivered": 10, "ahead": 10 }),
    )
    .await;
    let mut of_agent = report(&agent(), 5, 1);
    of_agent["facts"] = json!([
        fact("read", 1, &[10]),
        fact("sent", 1, &[10]),
        fact("delivered", 1, &[10])
    ]);
    rig.tell(&of_agent).await;
    let whole = json!({ "read": 10, "sent": 10, "received": 10, "delivered": 10 });
    check(&rig, whole.clone()).await;
    // The bus tells again after a restart: no double.
    of_bus["epoch"] = 2.into();
    rig.tell(&of_bus).await;
    check(&rig, whole).await;
    // Another node has delivered the same batch: that is one.
    let mut other = report(&bus("b2"), 1, 1);
    other["facts"] = json!([fact("delivered", 1, &[10])]);
    rig.tell(&other).await;
    let page = rig.page("/api/v1/topics").await;
    assert_eq!(page["topics"][0]["counts"]["doubled"], 10);
    assert_eq!(page["topics"][0]["state"], "doubled");
}

#[tokio::test]
async fn what_the_agent_holds_is_in_flight_or_refused_until_it_is_delivered() {
    let rig = Rig::start().await;
    let mut told = report(&agent(), 5, 1);
    told["facts"] = json!([fact("read", 1, &[1, 2, 4])]);
    told["held"] = json!([held("in_flight", 1, &[1, 2]), held("refused", 3, &[4])]);
    rig.tell(&told).await;
    check(&rig, json!({ "read": 7, "in_flight": 3, "refused": 4 })).await;
    // The bus tells a delivery before the agent does.
    let mut of_bus = report(&bus("b1"), 1, 1);
    of_bus["facts"] = json!([fact("delivered", 1, &[1])]);
    rig.tell(&of_bus).await;
    let after = json!({ "read": 7, "sent": 1, "received": 1, "delivered": 1, "in_flight": 2, "refused": 4 });
    check(&rig, after.clone()).await;
    // An older report that comes late tells facts, but not what is held.
    let mut late = report(&agent(), 4, 9);
    late["held"] = json!([held("in_flight", 1, &[1, 2, 4])]);
    rig.tell(&late).await;
    check(&rig, after).await;
    // Held by nobody and not delivered: unexplained.
    rig.tell(&report(&agent(), 5, 2)).await;
    check(
        &rig,
        json!({ "read": 7, "sent": 1, "received": 1, "delivered": 1, "unexplained": 6 }),
    )
    .await;
    assert_eq!(
        rig.page("/api/v1/topics").await["topics"][0]["state"],
        "losing"
    );
}

#[tokio::test]
async fn a_loss_has_its_address_and_counts_once() {
    let rig = Rig::start().await;
    for (epoch, records) in [(5, Some(3)), (6, Some(3))] {
        let mut told = report(&agent(), epoch, 1);
        told["losses"] = json!([loss(records)]);
        rig.tell(&told).await;
    }
    let page = rig.page("/api/v1/losses?topic=web").await;
    assert_eq!(page["total"], 1);
    let one = &page["losses"][0];
    assert_eq!(one["generation"], "ffffffffffffffff");
    assert_eq!(
        (&one["start"], &one["end"], &one["records"]),
        (&json!(10), &json!(110), &json!(3))
    );
    assert_eq!(
        (&one["host"], &one["reason"]),
        (&json!("web-17"), &json!("truncated-unread"))
    );
    let topics = rig.page("/api/v1/topics?range=1h").await;
    let topic = &topics["topics"][0];
    assert_eq!(
        (&topic["losses"], &topic["lost_bytes"]),
        (&json!(1), &json!(100))
    );
    assert_eq!(topic["state"], "dropped");
    assert_eq!(rig.page("/api/v1/losses?topic=other").await["total"], 0);
}

#[tokio::test]
async fn a_lost_batch_that_was_delivered_after_all_is_no_loss() {
    for bus_first in [true, false] {
        let rig = Rig::start().await;
        let mut of_agent = report(&agent(), 5, 1);
        of_agent["facts"] = json!([fact("read", 1, &[10, 20]), fact("lost", 1, &[10, 20])]);
        let of_batch = |seq: u64| {
            let mut loss = loss(Some(10 * seq));
            loss["span"] = json!({ "start": seq, "end": seq + 1 });
            loss["batch"] = json!({ "stream": 1, "epoch": 9, "seq": seq });
            loss
        };
        of_agent["losses"] = json!([of_batch(1), of_batch(2)]);
        let mut of_bus = report(&bus("b1"), 1, 1);
        of_bus["facts"] = json!([fact("delivered", 1, &[10])]);
        let mut reports = [of_agent, of_bus];
        if bus_first {
            reports.reverse();
        }
        for told in &reports {
            rig.tell(told).await;
        }
        // Told again by a later life: the state of the manager comes from its database.
        reports.iter_mut().for_each(|told| told["epoch"] = 7.into());
        let mut rig = rig;
        rig.restart().await;
        for told in &reports {
            rig.tell(told).await;
        }
        let counts =
            json!({ "read": 30, "sent": 10, "received": 10, "delivered": 10, "dropped": 20 });
        check(&rig, counts).await;
        let page = rig.page("/api/v1/losses?topic=web").await;
        assert_eq!(
            (&page["total"], &page["losses"][0]["start"]),
            (&json!(1), &json!(2))
        );
    }
}

#[tokio::test]
async fn absurd_numbers_do_no_harm() {
    let rig = Rig::start().await;
    let mut told = report(&agent(), u64::MAX, u64::MAX - 1);
    told["sent_at_ms"] = u64::MAX.into();
    let mut huge = loss(Some(u64::MAX));
    huge["span"] = json!({ "start": 0, "end": u64::MAX });
    told["losses"] = json!([huge]);
    told["facts"] = json!([{
        "hop": "read", "topic": "web", "stream": u64::MAX, "epoch": u64::MAX,
        "first_seq": u64::MAX - 1, "batches": [[{ "minute": u32::MAX, "records": 1 }]],
    }]);
    rig.tell(&told).await;
    rig.tell(&told).await;
    let page = rig.page("/api/v1/topics?from=0&to=253402300799999").await;
    assert_eq!(page["topics"].as_array().unwrap().len(), 1);
    rig.page("/api/v1/nodes").await;
    rig.page("/api/v1/losses").await;
}

const JSON: &str = "content-type: application/json\r\n";

/// Sends a body that must be refused with this status and code, and a reason that has the word.
async fn check_refused(headers: &str, body: &[u8], status: u16, code: &str, word: &str) {
    let rig = Rig::start().await;
    let answer = rig.request("POST", "/api/v1/reports", headers, body).await;
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (status, code),
        "{text}"
    );
    assert!(text.contains(word), "{word:?} in {text}");
    assert_eq!(rig.page("/api/v1/topics").await["topics"], json!([]));
    assert_eq!(rig.page("/api/v1/nodes").await["nodes"], json!([]));
}

#[tokio::test]
async fn what_is_no_report_is_refused_with_the_reason() {
    let good = serde_json::to_vec(&report(&agent(), 5, 1)).unwrap();
    for (body, word) in [
        (&b"{"[..], "line 1"),
        (b"[1]", "invalid"),
        (b"", "EOF"),
        (b"\xff\xfe", "line 1"),
        (&good[..good.len() - 1], "EOF"),
    ] {
        check_refused(JSON, body, 400, "bad_report", word).await;
    }
    check_refused("", &good, 415, "not_json", "application/json").await;
    check_refused(
        "content-type: text/plain\r\n",
        &good,
        415,
        "not_json",
        "text/plain",
    )
    .await;
}

#[tokio::test]
async fn a_report_that_contradicts_itself_is_refused_with_the_reason() {
    for (pointer, value, word) in [
        ("/number", json!(0), "number is 0"),
        ("/number", json!(u64::MAX), "number is 18446744073709551615"),
        ("/number", json!(-1), "-1"),
        ("/reporter/id", json!("a/b"), "allowed are"),
        ("/facts/0/topic", json!("ä"), "allowed are"),
        ("/facts/0/first_seq", json!(0), "begin at 1"),
        ("/facts/0/first_seq", json!(u64::MAX), "below 2^64"),
        ("/facts/0/hop", json!("gone"), "gone"),
        (
            "/facts/0/batches/0/0/records",
            json!(1u32 << 30),
            "a batch has at most",
        ),
        ("/losses/0/span/end", json!(1), "before its start"),
    ] {
        let mut told = report(&agent(), 5, 1);
        told["facts"] = json!([fact("read", 1, &[1])]);
        told["losses"] = json!([loss(None)]);
        *told.pointer_mut(pointer).unwrap() = value;
        let body = serde_json::to_vec(&told).unwrap();
        check_refused(JSON, &body, 400, "bad_report", word).await;
    }
    let mut told = report(&bus("b1"), 5, 1);
    told["held"] = json!([held("in_flight", 1, &[1])]);
    let body = serde_json::to_vec(&told).unwrap();
    check_refused(JSON, &body, 400, "bad_report", "only agents hold").await;
}

#[tokio::test]
async fn a_report_that_is_too_long_is_refused_before_it_is_read() {
    let rig = Rig::start().await;
    let answer = rig
        .raw(
            b"POST /api/v1/reports HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
              content-type: application/json\r\ncontent-length: 16777217\r\n\r\n{",
        )
        .await;
    assert_eq!((answer.status, answer.code().as_str()), (413, "too_large"));
    // A large one below the limit is parsed.
    let mut told = report(&agent(), 5, 1);
    let batches: Vec<Value> = (0..100_000)
        .map(|_| run(1, &[1])["batches"][0].clone())
        .collect();
    let mut one = fact("read", 1, &[]);
    one["batches"] = batches.into();
    told["facts"] = json!([one]);
    rig.tell(&told).await;
    assert_eq!(rig.counts("web").await["read"], 100_000);
}

#[tokio::test]
async fn only_who_knows_the_token_may_report() {
    let rig = Rig::start_with(Some("s3cret")).await;
    let body = serde_json::to_vec(&report(&agent(), 5, 1)).unwrap();
    let json = "content-type: application/json\r\n";
    for (auth, status) in [
        ("", 401),
        ("authorization: Bearer wrong!\r\n", 401),
        ("authorization: Bearer s3cret\r\n", 200),
    ] {
        let answer = rig
            .request("POST", "/api/v1/reports", &format!("{json}{auth}"), &body)
            .await;
        assert_eq!(answer.status, status, "{auth}");
        assert!(!String::from_utf8_lossy(&answer.body).contains("s3cret"));
    }
}

#[tokio::test]
async fn reports_beyond_the_memory_for_them_are_told_to_wait() {
    let rig = Rig::start().await;
    let mut stalled = Vec::new();
    for _ in 0..4 {
        let mut stream = rig.connect().await;
        let head = format!("POST /api/v1/reports HTTP/1.1\r\nhost: x\r\n{JSON}");
        let head = format!("{head}content-length: 16777216\r\nexpect: 100-continue\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        // `100 Continue` comes when the manager begins to read the body, behind its permit.
        let mut line = [0; 12];
        stream.read_exact(&mut line).await.unwrap();
        assert_eq!(&line, b"HTTP/1.1 100");
        stalled.push(stream);
    }
    let answer = rig.post(&report(&agent(), 5, 1)).await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "busy"));
    assert!(answer.head.contains("retry-after: 1"));
    assert_eq!(rig.get("/healthz").await.status, 200);
    drop(stalled);
    while rig.post(&report(&agent(), 5, 1)).await.status != 200 {}
}

#[tokio::test]
async fn reports_that_come_at_once_are_all_taken() {
    let rig = Rig::start().await;
    let reports: Vec<Value> = (0..40u64)
        .map(|n| {
            let mut told = report(&bus(&format!("b{}", n % 3)), 1 + n % 2, 1 + n / 6);
            told["facts"] = json!([fact("received", 1 + n, &[10])]);
            told
        })
        .collect();
    // Everything twice, at once.
    let all = reports.iter().chain(&reports).map(|told| rig.tell(told));
    futures_util::future::join_all(all).await;
    check(&rig, json!({ "received": 400 })).await;
    let mut rig = rig;
    rig.restart().await;
    for told in &reports {
        rig.tell(told).await;
    }
    check(&rig, json!({ "received": 400 })).await;
    assert_eq!(
        rig.page("/api/v1/nodes").await["nodes"]
            .as_array()
            .unwrap()
            .len(),
        3
    );
}
