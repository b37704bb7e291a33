//! How much a report costs: printed, with a bound that only a mistake of kind breaks.

use serde_json::{Value, json};

use crate::rig::{Rig, agent, report};

/// CPU seconds of this process so far.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace();
    let ticks: Vec<f64> = fields
        .skip(11)
        .take(2)
        .map(|ticks| ticks.parse().unwrap())
        .collect();
    ticks.iter().sum::<f64>() / 100.0
}

/// Report `number` of an agent with 100 streams: each went one batch further through all hops.
fn step(number: u64) -> Value {
    let minute = crate::rig::minute();
    let facts: Vec<Value> = (0..100u64)
        .map(|n| {
            let (stream, hop) = (
                n / 4,
                ["read", "sent", "received", "delivered"][(n % 4) as usize],
            );
            json!({
                "hop": hop, "topic": format!("topic-{}", stream % 5), "stream": stream, "epoch": 1,
                "first_seq": number, "batches": [[{ "minute": minute, "records": 700 }]],
            })
        })
        .collect();
    let mut told = report(&agent(), 1, number);
    told["facts"] = facts.into();
    told
}

/// Sends reports of one more agent, with streams of its own, one after the other.
async fn one_agent(address: &str, agent: u64, reports: u32) {
    let mut client = tributary_common::http::Client::new(address, None, None).unwrap();
    for number in 1..=u64::from(reports) {
        let mut told = step(number);
        told["reporter"]["id"] = format!("agent-{agent}").into();
        for fact in told["facts"].as_array_mut().unwrap() {
            let stream = fact["stream"].as_u64().unwrap() + 1_000 * (agent + 1);
            fact["stream"] = stream.into();
        }
        let body = serde_json::to_vec(&told).unwrap();
        let answer = client
            .post_json("/api/v1/reports", body, crate::rig::PATIENCE)
            .await;
        assert!(answer.unwrap().0.is_success());
    }
}

#[tokio::test]
async fn a_report_of_a_hundred_runs_is_cheap() {
    const REPORTS: u32 = 200;
    let rig = Rig::start().await;
    let address = format!("http://{}", rig.address);
    let mut client = tributary_common::http::Client::new(&address, None, None).unwrap();
    let bodies: Vec<Vec<u8>> = (1..=REPORTS)
        .map(|n| serde_json::to_vec(&step(n.into())).unwrap())
        .collect();
    let (cpu, clock) = (cpu_seconds(), tokio::time::Instant::now());
    for body in bodies {
        let (status, answer) = client
            .post_json("/api/v1/reports", body, crate::rig::PATIENCE)
            .await
            .unwrap();
        assert!(status.is_success(), "{answer:?}");
    }
    let each_ms = (cpu_seconds() - cpu) * 1_000.0 / f64::from(REPORTS);
    let wall_ms = clock.elapsed().as_secs_f64() * 1_000.0 / f64::from(REPORTS);
    println!("a report of 100 runs: {each_ms:.2} ms CPU (client included), {wall_ms:.2} ms");
    let many = (0..32u64).map(|agent| one_agent(&address, agent, REPORTS / 10));
    let (cpu, clock) = (cpu_seconds(), tokio::time::Instant::now());
    futures_util::future::join_all(many).await;
    let reports = f64::from(32 * (REPORTS / 10));
    let many_ms = (cpu_seconds() - cpu) * 1_000.0 / reports;
    let wall_ms = clock.elapsed().as_secs_f64() * 1_000.0 / reports;
    println!("the same of 32 agents at once: {many_ms:.2} ms CPU, {wall_ms:.2} ms");
    // Unoptimised and on a busy machine; optimised it is a small part of this.
    assert!(each_ms < 100.0, "{each_ms} ms");
}
