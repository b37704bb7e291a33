//! Windows in which bus clusters hand over connections: opened by people, told in the answers to reports.

use serde_json::{Value, json};

use crate::rig::{Answer, PATIENCE, Rig, bus, report};

const PATH: &str = "/api/v1/clusters/main/rebalance";

/// A report of a node that has so many connections and knows of that window, or of none.
fn told(id: &str, number: u64, connections: u64, window: Option<i64>) -> Value {
    let mut told = report(&bus(id), 1, number);
    told["health"]["connections"] = connections.into();
    if let Some(window) = window {
        told["health"]["rebalance"] =
            json!({ "window": window, "hands_over": 15, "handed_over": 15, "turned_away": 1 });
    }
    told
}

/// What the answer to a report asks for.
async fn asked(rig: &Rig, report: &Value) -> Value {
    let answer = rig.post(report).await;
    assert_eq!(
        answer.status,
        200,
        "{}",
        String::from_utf8_lossy(&answer.body)
    );
    answer.json()["rebalance"].clone()
}

async fn open(rig: &Rig, path: &str, body: &Value) -> Answer {
    let body = serde_json::to_vec(body).unwrap();
    let json = "content-type: application/json\r\n";
    rig.request("POST", path, json, &body).await
}

fn both() -> Value {
    json!({ "within_s": 60, "nodes": ["b1", "b2"] })
}

/// The newest record, once its window is as it should be.
async fn recorded(rig: &Rig, state: &str) -> Value {
    let wait = async {
        loop {
            let record = rig.page("/api/v1/audit").await["records"][0].clone();
            if record["window"]["state"] == state {
                return record;
            }
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, wait).await;
    waited.unwrap_or_else(|_over| panic!("no window is {state}"))
}

#[tokio::test]
async fn a_window_travels_in_the_answers_to_reports_and_is_recorded() {
    let mut rig = Rig::start().await;
    assert_eq!(asked(&rig, &told("b1", 1, 30, None)).await, Value::Null);
    assert_eq!(asked(&rig, &told("b2", 1, 0, None)).await, Value::Null);
    let page = rig.page("/api/v1/clusters").await;
    let one = &page["clusters"][0];
    let seen = ["share", "spread_percent", "connections", "uneven", "window"];
    let seen = seen.map(|name| one[name].clone());
    assert_eq!(
        seen,
        [json!(15), json!(200), json!(30), json!(true), Value::Null]
    );
    assert_eq!(one["nodes"][0]["hands_over"], 15);
    let opened = open(&rig, PATH, &both()).await;
    assert_eq!(opened.status, 200);
    let number = opened.json()["number"].as_i64().unwrap();
    assert_eq!(asked(&rig, &told("b1", 2, 30, None)).await, Value::Null);
    let ask = asked(&rig, &told("b2", 2, 0, None)).await;
    assert_eq!(
        (&ask["connections"], &ask["window"]),
        (&json!(15), &json!(number))
    );
    let knows = Some(number);
    assert_eq!(asked(&rig, &told("b2", 3, 0, knows)).await, Value::Null);
    let ask = asked(&rig, &told("b1", 3, 30, None)).await;
    assert_eq!(ask["within_s"].as_u64().unwrap().div_ceil(10), 6);
    let running = recorded(&rig, "open").await;
    assert_eq!(running["ended_ms"], Value::Null);
    asked(&rig, &told("b2", 4, 15, knows)).await;
    asked(&rig, &told("b1", 4, 15, knows)).await;
    let over = recorded(&rig, "even").await;
    assert_eq!(
        [&over["act"], &over["subject"], &over["who"]],
        ["rebalance", "main", "127.0.0.1"]
    );
    assert_eq!(over["window"]["nodes"][0]["handed_over"], 15);
    rig.restart().await;
    let after = recorded(&rig, "even").await;
    assert_eq!(after["ended_ms"], over["ended_ms"]);
    assert!(after["ended_ms"].is_i64());
    rig.stop().await;
}

/// What is asked for must be refused with this status and code, in words with this part.
async fn refused(rig: &Rig, (path, body): (&str, &Value), (status, code): (u16, &str), part: &str) {
    let answer = open(rig, path, body).await;
    let said = answer.json()["error"]["message"].to_string();
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (status, code),
        "{said}"
    );
    assert!(said.contains(part), "{part:?} in {said}");
}

#[tokio::test]
async fn what_cannot_be_opened_is_said_in_words() {
    let mut rig = Rig::start().await;
    rig.tell(&told("b1", 1, 30, None)).await;
    rig.tell(&told("b2", 1, 0, None)).await;
    let mut full = told("b3", 1, 0, None);
    full["health"]["not_ready"] = json!("every destination is down (kafka: nobody is there)");
    rig.tell(&full).await;
    let of = |nodes: &[&str]| json!({ "within_s": 60, "nodes": nodes });
    let elsewhere = "/api/v1/clusters/other/rebalance";
    refused(
        &rig,
        (elsewhere, &both()),
        (404, "unknown_cluster"),
        "other",
    )
    .await;
    let away = "node_away";
    refused(
        &rig,
        (PATH, &of(&["b1", "b9"])),
        (409, away),
        "its nodes are b1, b2, b3",
    )
    .await;
    refused(
        &rig,
        (PATH, &of(&["b1", "b3"])),
        (409, away),
        "every destination is down",
    )
    .await;
    refused(
        &rig,
        (PATH, &of(&["b1"])),
        (400, "bad_body"),
        "fewer than two",
    )
    .await;
    refused(
        &rig,
        (PATH, &of(&["b1", "b1", "b2"])),
        (400, "bad_body"),
        "twice",
    )
    .await;
    let long = json!({ "within_s": 3601, "nodes": ["b1", "b2"] });
    refused(&rig, (PATH, &long), (400, "bad_body"), "1 to 3600").await;
    refused(
        &rig,
        (PATH, &json!({ "nodes": [] })),
        (400, "bad_body"),
        "within_s",
    )
    .await;
    let plain = rig.request("POST", PATH, "", b"{}").await;
    assert_eq!((plain.status, plain.code().as_str()), (415, "not_json"));
    assert_eq!(rig.get(PATH).await.status, 405);
    assert_eq!(rig.page("/api/v1/audit").await["records"], json!([]));
    assert_eq!(open(&rig, PATH, &both()).await.status, 200);
    refused(
        &rig,
        (PATH, &both()),
        (409, "window_open"),
        "wait until it is over",
    )
    .await;
    asked(&rig, &told("b2", 2, 30, None)).await;
    rig.restart().await;
    refused(&rig, (PATH, &both()), (409, "even"), "nothing to do").await;
    recorded(&rig, "unknown").await;
    rig.stop().await;
}
