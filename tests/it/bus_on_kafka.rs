//! The bus's own tests of its Kafka destination, given a real broker.
//!
//! They look inside (places, the journal, what is read back after a kill), so they live in the bus.

use anyhow::{Context as _, Result, ensure};
use tributary_tests::{child::Plan, kafka, scratch};

/// How many of them there are: one that is not run any more must be noticed.
const TESTS: usize = 7;

#[test]
fn the_bus_finds_its_batches_in_a_real_kafka() -> Result<()> {
    let kafka = kafka::shared()?;
    let said = Plan::new(test_binary()?)
        .args(["--ignored", "--test-threads=1", "destination::kafka"])
        .env("TRIBUTARY_TEST_KAFKA", kafka.bootstrap())
        .output()?;
    ensure!(said.contains(&format!("ok. {TESTS} passed")), "{said}");
    Ok(())
}

/// The bus's unit tests as cargo built them for the whole workspace; built now where they were not.
fn test_binary() -> Result<String> {
    let told = Plan::new(env!("CARGO"))
        .folder(scratch::repository())
        .args([
            "test",
            "--workspace",
            "--lib",
            "--no-run",
            "--locked",
            "--quiet",
        ])
        .args(["--message-format=json"])
        .output()?;
    told.lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .find_map(|message| {
            let of_the_bus = message["target"]["name"] == "tributary_bus";
            let executable = message["executable"].as_str()?;
            of_the_bus.then(|| executable.to_owned())
        })
        .context("cargo names no test binary of the bus")
}
