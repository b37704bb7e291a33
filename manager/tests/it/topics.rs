//! Questions: topics, charts, nodes, bad ones.

use serde_json::{Value, json};

use crate::rig::{Rig, agent, bus, fact, held, minute, report};

async fn told() -> Rig {
    let rig = Rig::start().await;
    let mut told = report(&agent(), 5, 1);
    told["facts"] = json!([fact("read", 1, &[10, 20]), fact("delivered", 1, &[10])]);
    told["held"] = json!([held("in_flight", 2, &[20])]);
    told["health"]["tasks"] = json!([
        { "task": "nginx", "topic": "web", "files": 2, "bytes_behind": 100,
          "oldest_unacked_ms": 7, "last_error": "permission denied" },
        { "task": "app", "topic": "quiet", "files": 1, "bytes_behind": 0,
          "oldest_unacked_ms": 0, "last_error": "" },
    ]);
    rig.tell(&told).await;
    rig
}

#[tokio::test]
async fn a_topic_is_listed_with_counts_rates_and_hosts() {
    let rig = told().await;
    let page = rig.page("/api/v1/topics").await;
    let names: Vec<&Value> = page["topics"]
        .as_array()
        .unwrap()
        .iter()
        .map(|topic| &topic["topic"])
        .collect();
    assert_eq!(names, [&json!("quiet"), &json!("web")]);
    assert_eq!(page["topics"][0]["state"], "idle");
    let web = &page["topics"][1];
    assert_eq!(
        (&web["state"], &web["agents"]),
        (&json!("in_flight"), &json!(1))
    );
    // They are of the last 10 s: on a slow machine already of less.
    let rates = &web["rates"];
    assert_eq!(rates["window_s"], 10);
    assert!(
        [0.0, 3.0].contains(&rates["read_per_s"].as_f64().unwrap()),
        "{rates}"
    );
    assert!(
        [0.0, 1.0].contains(&rates["delivered_per_s"].as_f64().unwrap()),
        "{rates}"
    );
    let detail = rig.page("/api/v1/topics/web?range=1h").await;
    assert_eq!(detail["summary"]["counts"], web["counts"]);
    let host = &detail["hosts"][0];
    assert_eq!(
        (
            &host["host"],
            &host["state"],
            &host["bytes_behind"],
            &host["last_error"]
        ),
        (
            &json!("web-17"),
            &json!("live"),
            &json!(100),
            &json!("permission denied")
        )
    );
}

#[tokio::test]
async fn a_chart_has_every_minute() {
    let rig = told().await;
    let chart = rig.page("/api/v1/topics/web/counts").await;
    let minutes = chart["minutes"].as_array().unwrap();
    assert_eq!(minutes.len(), 60);
    for (index, one) in minutes.iter().enumerate() {
        let expected = chart["from_ms"].as_i64().unwrap() + i64::try_from(index).unwrap() * 60_000;
        assert_eq!(one["minute_ms"], expected);
    }
    let read: i64 = minutes
        .iter()
        .map(|one| one["counts"]["read"].as_i64().unwrap())
        .sum();
    assert_eq!((read, &chart["totals"]["read"]), (30, &json!(30)));
    let from = (minute() - 2) * 60_000;
    let part = rig
        .page(&format!(
            "/api/v1/topics/web/counts?from={from}&to={}",
            from + 1
        ))
        .await;
    assert_eq!(part["minutes"].as_array().unwrap().len(), 1);
    assert_eq!(part["totals"]["read"], 0);
    let ever = rig
        .page("/api/v1/topics/web/counts?from=0&to=4102444800000")
        .await;
    assert_eq!(ever["minutes"].as_array().unwrap().len(), 1);
    assert_eq!(ever["totals"]["read"], 30);
    assert_eq!(ever["from_ms"], ever["minutes"][0]["minute_ms"]);
}

#[tokio::test]
async fn long_and_short_ranges_agree() {
    let rig = told().await;
    for range in ["1h", "6h", "24h", "7d", "all"] {
        let page = rig.page(&format!("/api/v1/topics?range={range}")).await;
        assert_eq!(page["topics"][1]["counts"]["read"], 30, "{range}");
    }
    let page = rig.page("/api/v1/topics?from=0&to=60000").await;
    assert_eq!(page["topics"][1]["counts"]["read"], 0);
    assert_eq!(page["topics"][1]["state"], "idle");
}

/// Tells that batches with these (minute, records) of topic `old` were read, and the first one
/// delivered.
async fn told_of(rig: &Rig, batches: &[(u64, u32)]) {
    let run = |hop: &str, of: &[(u64, u32)]| {
        let batches: Vec<Value> = of
            .iter()
            .map(|&(minute, records)| json!([{ "minute": minute, "records": records }]))
            .collect();
        json!({ "hop": hop, "topic": "old", "stream": 1, "epoch": 9, "first_seq": 1, "batches": batches })
    };
    let mut told = report(&agent(), 5, 1);
    told["facts"] = json!([run("read", batches), run("delivered", &batches[..1])]);
    rig.tell(&told).await;
}

#[tokio::test]
async fn what_happened_long_ago_is_counted_too() {
    let rig = Rig::start().await;
    let then = 28_500_000;
    told_of(&rig, &[(then, 10), (then + 61, 20)]).await;
    let list = rig.page("/api/v1/topics").await;
    let old = &list["topics"][0];
    assert_eq!(
        (
            &old["counts"]["read"],
            &old["counts"]["unexplained"],
            &old["state"]
        ),
        (&json!(30), &json!(20), &json!("losing"))
    );
    let [first, last] = [then, then + 61].map(|minute| minute * 60_000);
    assert_eq!(
        (&list["from_ms"], &list["to_ms"]),
        (&json!(first), &json!(last + 60_000))
    );
    let hour = rig.page("/api/v1/topics?range=1h").await;
    let old = &hour["topics"][0];
    assert_eq!(
        (&old["counts"]["read"], &old["state"]),
        (&json!(0), &json!("idle"))
    );
    assert_eq!(
        (&old["total"]["read"], &old["total"]["delivered"]),
        (&json!(30), &json!(10))
    );
    assert_eq!(
        (&old["first_minute_ms"], &old["last_minute_ms"]),
        (&json!(first), &json!(last))
    );
    // Without a range a chart shows the hour up to the last record; `all` shows every minute.
    let chart = rig.page("/api/v1/topics/old/counts").await;
    assert_eq!(
        (&chart["to_ms"], &chart["totals"]["read"]),
        (&json!(last + 60_000), &json!(20))
    );
    assert_eq!(chart["minutes"].as_array().unwrap().len(), 60);
    let chart = rig.page("/api/v1/topics/old/counts?range=all").await;
    assert_eq!(
        (&chart["from_ms"], &chart["totals"]["read"]),
        (&json!(first), &json!(30))
    );
    assert_eq!(chart["minutes"].as_array().unwrap().len(), 62);
    let detail = rig.page("/api/v1/topics/old?range=1h").await;
    assert_eq!(detail["summary"]["total"], list["topics"][0]["counts"]);
}

#[tokio::test]
async fn records_of_years_are_charted_by_hours_or_days() {
    let day = 24 * 60;
    for (last, step, points) in [
        (7 * day - 1, 1, 7 * day),
        (7 * day, 60, 7 * 24 + 1),
        (420 * day, 1440, 421),
    ] {
        let rig = Rig::start().await;
        let first = 20_000 * day;
        told_of(&rig, &[(first, 10), (first + last, 20)]).await;
        let chart = rig.page("/api/v1/topics/old/counts?range=all").await;
        assert_eq!(chart["step_minutes"], step);
        let minutes = chart["minutes"].as_array().unwrap();
        assert_eq!(minutes.len() as u64, points);
        let [one, other] = [0, minutes.len() - 1].map(|at| &minutes[at]["counts"]["read"]);
        assert_eq!((one, other), (&json!(10), &json!(20)));
        assert_eq!(minutes[0]["minute_ms"], first * 60_000);
        assert_eq!(chart["totals"]["read"], 30);
        let list = rig.page("/api/v1/topics").await;
        assert_eq!(list["topics"][0]["counts"], chart["totals"]);
    }
}

#[tokio::test]
async fn a_database_without_days_gets_them() {
    let mut rig = Rig::start().await;
    told_of(&rig, &[(28_500_000, 10), (28_600_000, 20)]).await;
    let before = rig.page("/api/v1/topics").await["topics"][0]["counts"].clone();
    // As the version before left it.
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(rig.database());
    let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
    for statement in [
        "DELETE FROM tallies WHERE grain = 1440",
        "DELETE FROM _sqlx_migrations WHERE version = 2",
    ] {
        sqlx::query(statement).execute(&pool).await.unwrap();
    }
    pool.close().await;
    rig.restart().await;
    let after = rig.page("/api/v1/topics").await["topics"][0]["counts"].clone();
    assert_eq!(after, before);
    assert_eq!(after["read"], 30);
}

#[tokio::test]
async fn nodes_tell_lives_health_and_skew() {
    let rig = told().await;
    let mut of_bus = report(&bus("b1"), 1, 1);
    of_bus["health"]["destinations"] =
        json!([{ "name": "local", "kind": "file", "state": "down", "detail": "disk full" }]);
    rig.tell(&of_bus).await;
    of_bus["epoch"] = 2.into();
    of_bus["sent_at_ms"] = (minute() * 60_000 + 3_600_000).into();
    rig.tell(&of_bus).await;
    let page = rig.page("/api/v1/nodes").await;
    let nodes = page["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 2);
    assert_eq!(
        (&nodes[0]["part"], &nodes[0]["restarts"]),
        (&json!("agent"), &json!(0))
    );
    assert_eq!(
        (&nodes[1]["part"], &nodes[1]["restarts"]),
        (&json!("bus"), &json!(1))
    );
    assert!(nodes[1]["skew_ms"].as_i64().unwrap() > 3_000_000);
    assert_eq!(nodes[1]["destinations"][0]["detail"], "disk full");
    assert_eq!(nodes[0]["tasks"][0]["bytes_behind"], 100);
}

#[tokio::test]
async fn a_bad_question_says_what_is_allowed() {
    let rig = told().await;
    for (path, status, code, word) in [
        (
            "/api/v1/topics?range=2h",
            400,
            "bad_range",
            "1h, 6h, 24h, 7d",
        ),
        ("/api/v1/topics?from=1", 400, "bad_range", "0 <= from < to"),
        ("/api/v1/topics?from=x&to=2", 400, "bad_query", "from"),
        (
            "/api/v1/topics/none",
            404,
            "unknown_topic",
            "/api/v1/topics",
        ),
        ("/api/v1/topics/none/counts", 404, "unknown_topic", "none"),
        ("/api/v1/topics/%ff", 400, "bad_query", "UTF-8"),
        ("/api/v1/losses?limit=0", 400, "bad_query", "1 to 1000"),
        (
            "/api/v1/live?range=now",
            400,
            "bad_range",
            "1h, 6h, 24h, 7d",
        ),
        ("/api/v1/nothing", 404, "unknown_path", "/api/openapi.json"),
        ("/api/", 404, "unknown_path", "/api/openapi.json"),
        ("/api", 404, "unknown_path", "/api/openapi.json"),
        ("/api/v1/reports", 405, "method_not_allowed", "GET"),
    ] {
        let answer = rig.get(path).await;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (status, code),
            "{path}: {text}"
        );
        assert!(text.contains(word), "{path}: {word:?} in {text}");
    }
    let answer = rig.request("DELETE", "/api/v1/topics", "", b"").await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (405, "method_not_allowed")
    );
    let answer = rig.request("POST", "/api/v1/none", "", b"").await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (404, "unknown_path")
    );
}

#[tokio::test]
async fn health_metrics_and_description_are_served() {
    let rig = told().await;
    assert_eq!(rig.get("/healthz").await.status, 200);
    assert_eq!(rig.get("/readyz").await.status, 200);
    let metrics = rig.get("/metrics").await;
    let text = String::from_utf8(metrics.body).unwrap();
    assert!(text.contains("tributary_manager_reports_total"), "{text}");
    let description = rig.page("/api/openapi.json").await;
    assert_eq!(description["openapi"], "3.1.0");
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused_by_name() {
    let mut rig = told().await;
    rig.stop().await;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(rig.database());
    let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (99, 'later', 1, x'00', 0)",
    )
    .execute(&pool)
    .await
    .unwrap();
    pool.close().await;
    let config = tributary_manager::Config::local(([127, 0, 0, 1], 0).into(), rig.database());
    let error = tributary_manager::run(config, tokio_util::sync::CancellationToken::new()).await;
    let error = format!("{:#}", error.unwrap_err());
    assert!(
        error.contains("newer version of the manager (migration 99)"),
        "{error}"
    );
}

#[tokio::test]
async fn a_database_that_can_not_be_made_is_named() {
    let folder = tempfile::TempDir::new().unwrap();
    std::fs::write(folder.path().join("file"), b"no folder").unwrap();
    for path in ["file/manager.db", "file"] {
        let path = folder.path().join(path);
        let config = tributary_manager::Config::local(([127, 0, 0, 1], 0).into(), path.clone());
        let end = tributary_manager::run(config, tokio_util::sync::CancellationToken::new()).await;
        let error = format!("{:#}", end.unwrap_err());
        assert!(error.contains("failed to open the database"), "{error}");
        assert!(error.contains(path.to_str().unwrap()), "{error}");
    }
}

#[tokio::test]
async fn a_database_has_one_manager() {
    let mut rig = told().await;
    let config = tributary_manager::Config::local(([127, 0, 0, 1], 0).into(), rig.database());
    let stop = tokio_util::sync::CancellationToken::new();
    let error = tributary_manager::run(config, stop).await.unwrap_err();
    let held = error
        .chain()
        .any(|cause| cause.is::<tributary_common::disk::LockError>());
    assert!(
        held && format!("{error:#}").contains("held by another process"),
        "{error:#}"
    );
    // It ends with its holder.
    rig.restart().await;
}
