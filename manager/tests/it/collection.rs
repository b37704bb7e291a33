//! What agents collect: asked for a zone or for one agent, told in the answers to reports, kept over a restart, and
//! only by who may.

use serde_json::{Value, json};

use crate::rig::{Rig, agent, report};

const ZONE: &str = "/api/v1/zones/dc1/collection";
const AGENT: &str = "/api/v1/agents/a1/collection";
const TOML: &str = "content-type: application/toml\r\n";
const TASK: &str = "[[task]]\nid = 't'\ntopic = 'x'\npaths = ['/x']\n";

/// What an agent is told that took and refused these versions.
async fn told(rig: &Rig, number: u64, version: &str, refused: &str) -> Value {
    let mut report = report(&agent(), 1, number);
    report["health"]["collection"] =
        json!({ "from": "file", "version": version, "refused": refused, "fault": "it is bad" });
    let answer = rig.post(&report).await;
    assert_eq!(answer.status, 200);
    answer.json()["collection"].clone()
}

/// Asks for something; its version.
async fn ask(rig: &Rig, method: &str, path: &str, text: &str) -> String {
    let answer = rig.request(method, path, TOML, text.as_bytes()).await;
    assert_eq!(
        answer.status,
        200,
        "{}",
        String::from_utf8_lossy(&answer.body)
    );
    let version = answer.json()["asked"]["version"].clone();
    version.as_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_agent_is_told_what_its_zone_or_itself_was_given_also_after_a_restart() {
    let mut rig = Rig::start().await;
    assert_eq!(told(&rig, 1, "", "").await, Value::Null);
    let page = rig.page(ZONE).await;
    assert_eq!(
        (&page["asked"], &page["agents_by_it"]),
        (&Value::Null, &json!(1))
    );
    let zone = ask(&rig, "PUT", ZONE, TASK).await;
    rig.restart().await;
    let wanted = json!({ "version": zone, "text": TASK });
    assert_eq!(told(&rig, 2, "", "").await, wanted);
    // It refuses, and is named.
    assert_eq!(told(&rig, 3, "", &zone).await, Value::Null);
    let page = rig.page(ZONE).await;
    let counts = ["agents", "agents_by_it", "agents_refused"].map(|key| page[key].clone());
    assert_eq!(counts, [json!(1), json!(0), json!(1)]);
    assert_eq!(page["others"][0]["fault"], "it is bad");
    // Its own counts before the zone's, and the zone's once more when that is taken back.
    let own = ask(&rig, "PUT", AGENT, "[limits]\ncpu = '10%'\n").await;
    assert_eq!(told(&rig, 4, "", &zone).await["version"], own);
    assert_eq!(told(&rig, 5, &own, "").await, Value::Null);
    assert_eq!(rig.page(AGENT).await["agent"]["version"], own);
    ask(&rig, "DELETE", AGENT, "").await;
    assert_eq!(told(&rig, 6, &own, "").await, wanted);
    assert_eq!(told(&rig, 7, &zone, "").await, Value::Null);
    assert_eq!(rig.page(ZONE).await["agents_by_it"], 1);
    let back = ask(&rig, "DELETE", ZONE, "").await;
    let told = told(&rig, 8, &zone, "").await;
    assert_eq!(told, json!({ "version": back, "text": null }));
    rig.stop().await;
}

#[tokio::test]
async fn what_is_no_document_or_for_nobody_is_refused() {
    let mut rig = Rig::start().await;
    told(&rig, 1, "", "").await;
    let check = async |path: &str, body: &[u8], status: u16, says: &str| {
        let answer = rig.request("PUT", path, TOML, body).await;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(answer.status, status, "{text}");
        assert!(text.contains(says), "{text}");
    };
    check(ZONE, b"[[task]]\nid = ", 400, "collection:2").await;
    check(ZONE, b"state_dir = '/x'\n", 400, "task, bus, limits").await;
    check(AGENT, b"[[route]]\n", 400, "route").await;
    let (zone, agent) = (
        "/api/v1/zones/dc9/collection",
        "/api/v1/agents/a9/collection",
    );
    check(zone, TASK.as_bytes(), 404, "dc9").await;
    check(agent, TASK.as_bytes(), 404, "a9").await;
    assert_eq!(rig.page(ZONE).await["asked"], Value::Null);
    rig.stop().await;
}

#[tokio::test]
async fn where_there_is_a_token_changes_need_it_and_reading_does_not() {
    let mut rig = Rig::start_with(Some("s3cret")).await;
    let body = serde_json::to_vec(&report(&agent(), 1, 1)).unwrap();
    let head = "content-type: application/json\r\nauthorization: Bearer s3cret\r\n";
    let told = rig.request("POST", "/api/v1/reports", head, &body).await;
    assert_eq!(told.status, 200);
    let with = |token: &str| format!("{TOML}authorization: Bearer {token}\r\n");
    for (head, status) in [
        (TOML.to_owned(), 401),
        (with("other"), 401),
        (with("s3cret"), 200),
    ] {
        let answer = rig.request("PUT", ZONE, &head, TASK.as_bytes()).await;
        assert_eq!(answer.status, status);
        let answer = rig.request("DELETE", AGENT, &head, b"").await;
        assert_eq!(answer.status, status);
    }
    assert_eq!(rig.page(ZONE).await["asked"]["text"], TASK);
    rig.stop().await;
}
