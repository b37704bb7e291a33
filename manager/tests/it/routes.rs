//! Routes of a bus cluster and switches between its destinations: asked for by people, told in reports and their
//! answers, kept over a restart.

use serde_json::{Value, json};

use crate::rig::{Rig, bus, report};

const PATH: &str = "/api/v1/clusters/main/routes";
const TOML: &str = "content-type: application/toml\r\n";
const TEXT: &str = "[[route]]\ntopic = 'x'\nto = [{ destination = 'a' }]\n";

/// What a node is told that took and refused these versions.
async fn told(rig: &Rig, number: u64, version: &str, refused: &str) -> Value {
    let mut report = report(&bus("b1"), 1, number);
    report["health"]["routes"] =
        json!({ "from": "file", "version": version, "refused": refused, "fault": "" });
    let answer = rig.post(&report).await;
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    assert_eq!(answer.status, 200, "{text}");
    answer.json()["routes"].clone()
}

#[tokio::test]
async fn routes_travel_in_the_answers_to_reports_until_a_node_has_them_also_after_a_restart() {
    let mut rig = Rig::start().await;
    assert_eq!(told(&rig, 1, "", "").await, Value::Null);
    let page = rig.page(PATH).await;
    assert_eq!(page["asked"], Value::Null);
    assert_eq!(page["nodes"][0]["takes"], true);
    let put = rig.request("PUT", PATH, TOML, TEXT.as_bytes()).await;
    assert_eq!(put.status, 200);
    let version = put.json()["asked"]["version"].clone();
    rig.restart().await;
    let offered = told(&rig, 2, "", "").await;
    assert_eq!(offered, json!({ "version": version, "text": TEXT }));
    let version = version.as_str().unwrap();
    assert_eq!(told(&rig, 3, version, "").await, Value::Null);
    assert_eq!(told(&rig, 4, "", version).await, Value::Null);
    assert_eq!(rig.page(PATH).await["nodes"][0]["refused"], version);
    let back = rig.request("DELETE", PATH, "", b"").await;
    assert_eq!(back.status, 200);
    assert_eq!(told(&rig, 5, version, "").await["text"], Value::Null);
    assert_ne!(told(&rig, 6, version, "").await["version"], version);
    rig.stop().await;
}

#[tokio::test]
async fn a_document_that_is_none_is_refused_with_its_place_and_nothing_counts() {
    let mut rig = Rig::start().await;
    told(&rig, 1, "", "").await;
    let check = async |path: &str, head: &str, body: &[u8], status: u16, says: &str| {
        let answer = rig.request("PUT", path, head, body).await;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(answer.status, status, "{text}");
        assert!(text.contains(says), "{text}");
    };
    check(PATH, TOML, b"[[route]]\ntopic = ", 400, "routes:2").await;
    check(PATH, TOML, b"zone = 'a'\n", 400, "zone").await;
    check(PATH, TOML, b"", 400, "destination").await;
    check(PATH, TOML, b"\xff", 400, "UTF-8").await;
    let json = "content-type: application/json\r\n";
    check(PATH, json, b"{}", 415, "application/toml").await;
    let nobody = "/api/v1/clusters/nobody/routes";
    check(nobody, TOML, TEXT.as_bytes(), 404, "nobody").await;
    let long = vec![b'#'; (1 << 20) + 1];
    check(PATH, TOML, &long, 413, "1048576 bytes").await;
    assert_eq!(rig.page(PATH).await["asked"], Value::Null);
    assert_eq!(told(&rig, 2, "", "").await, Value::Null);
    rig.stop().await;
}

#[tokio::test]
async fn switches_are_kept_once_and_told_by_cluster() {
    let mut rig = Rig::start().await;
    let mut told = report(&bus("b1"), 1, 1);
    let switch = |at_ms: u64, from: &str, to: &str| {
        json!({ "topic": "web.*", "at_ms": at_ms, "from": from, "used_from_ms": at_ms - 5, "to": to,
                "why": "it is down" })
    };
    told["switches"] = json!([switch(1_000, "a", "b"), switch(2_000, "b", "a")]);
    rig.tell(&told).await;
    // A new life that tells one of them again.
    let mut again = report(&bus("b1"), 2, 1);
    again["switches"] = json!([switch(2_000, "b", "a")]);
    rig.tell(&again).await;
    rig.restart().await;
    let seen = rig.page("/api/v1/switches?cluster=main").await["switches"].clone();
    let one = |at_ms: u64, from: &str, to: &str| {
        let mut one = switch(at_ms, from, to);
        (one["node"], one["cluster"]) = ("b1".into(), "main".into());
        one
    };
    assert_eq!(seen, json!([one(2_000, "b", "a"), one(1_000, "a", "b")]));
    let newest = rig.page("/api/v1/switches?limit=1").await["switches"].clone();
    assert_eq!(newest, json!([one(2_000, "b", "a")]));
    let other = rig.page("/api/v1/switches?cluster=other").await["switches"].clone();
    assert_eq!(other, json!([]));
    rig.stop().await;
}
