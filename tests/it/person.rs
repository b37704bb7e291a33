//! What a person types at `tributary`: the demo, `check`, and `inspect` on real files.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use tributary_tests::{
    child::{Child, Plan},
    cluster::{Layout, SETTLE_LIMIT, glob_of, topic_name},
    kafka::free_port,
    ledger, product, scratch,
    writer::Writer,
};

/// The demo's story takes 26 s; the rest is for a busy machine.
const DEMO_LIMIT: Duration = Duration::from_secs(150);

#[test]
fn the_demo_survives_its_outage_and_its_counts_agree() -> Result<()> {
    scratch::scenario("demo", |folder| {
        let mut args = vec!["demo".to_owned(), "--exit".to_owned()];
        for flag in ["--console", "--bus", "--bus-admin", "--agent-admin"] {
            args.extend([flag.to_owned(), format!("127.0.0.1:{}", free_port()?)]);
        }
        let plan = Plan::new(product::program("tributary")?)
            .args(args)
            .folder(folder);
        let mut demo = Child::start("demo", &plan, &folder.join("demo.log"))?;
        let status = demo.wait(DEMO_LIMIT)?;
        let said = demo.log_since(0)?;
        ensure!(status.success(), "the demo ended with {status}:\n{said}");
        for part in [
            "the destination is gone",
            "the destination is back",
            "the counts agree",
        ] {
            ensure!(said.contains(part), "the demo never said '{part}':\n{said}");
        }
        ensure!(!said.contains("panicked"), "a part did not stop:\n{said}");
        Ok(())
    })
}

#[test]
fn check_names_every_fault_of_a_file_and_takes_the_samples() -> Result<()> {
    scratch::scenario("check", |folder| {
        for sample in ["agent", "bus", "manager"] {
            let path = scratch::repository().join(format!("deploy/{sample}.toml"));
            let path = path.display().to_string();
            let output = product::run("tributary", &["check", &path], folder)?;
            ensure!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stdout)
            );
        }
        let bad = "zone = 7\nstate_dirr = \"/x\"\n[[bus]]\nname = \"a b\"\nnodes = [\"h\"]\n\
                   [[task]]\nid = \"t\"\ntopic = \"x\"\nclass = \"P7\"\npaths = []\n";
        std::fs::write(folder.join("agent.toml"), bad)?;
        let output = product::run("tributary", &["check", "agent.toml"], folder)?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.code() == Some(2),
            "exit {}: {said}",
            output.status
        );
        for part in [
            "agent.toml:1:",
            "zone",
            "state_dirr",
            "state_dir",
            "a b",
            "P7",
            "P0, P1",
        ] {
            ensure!(said.contains(part), "no {part:?} in:\n{said}");
        }
        let odd = "zone = \"a\"\ncluster = \"a\"\ndata_dir = \"d\"\n[[destination]]\nname = \"lake\"\nkind = \"hdfs\"\n\
                   url = \"hdfs://nn1:8020\"\npath = \"/logs/{date}\"\nmerge_below = \"1MiB\"\n\
                   [[route]]\ntopic = \"*\"\nto = [{ destination = \"lake\" }]\n";
        std::fs::write(folder.join("odd.toml"), odd)?;
        let output = product::run("tributary", &["check", "odd.toml"], folder)?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let warned = "warning: odd.toml:9:15: destination[0].merge_below: does nothing";
        ensure!(
            output.status.success() && said.contains(warned) && said.ends_with("odd.toml: good\n"),
            "{said}"
        );
        std::fs::write(folder.join("bus.toml"), b"zone = 'dc1'\nnode = '\xff'\n")?;
        std::fs::write(folder.join("x.toml"), "zone = 'dc1'\n")?;
        let output = product::run("tributary", &["check", "bus.toml"], folder)?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.code() == Some(2), "exit {}", output.status);
        ensure!(
            said.contains("bus.toml:2:9: holds bytes that are no UTF-8"),
            "{said}"
        );
        for (args, part) in [
            (vec!["check", "x.toml"], "say --part agent, bus or manager"),
            (vec!["check", "missing.toml"], "failed to read missing.toml"),
            (
                vec!["ctl", "tasks", "list", "-o", "json"],
                "ctl tasks is not in this version",
            ),
        ] {
            let output = product::run("tributary", &args, folder)?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(output.status.code() == Some(2), "exit {}", output.status);
            ensure!(said.contains(part), "no {part:?} in:\n{said}");
        }
        Ok(())
    })
}

#[test]
fn inspect_reads_a_checkpoint_a_journal_and_captured_frames() -> Result<()> {
    scratch::scenario("inspect", |folder| {
        let topic = topic_name("inspect", 0);
        let mut writer = Writer::new(&folder.join("logs"), 1, 1)?;
        let capture = folder.join("capture");
        let bus_port = free_port()?;
        let relay = capture_to(&capture, bus_port)?;
        let mut cluster = Layout::new(folder, &topic)
            .agent(&[glob_of(&writer)])
            .agents_connect_to(relay)
            .start_at(bus_port)?;
        writer.write(500)?;
        ledger::must_agree(cluster.manager.admin(), &topic, 500, SETTLE_LIMIT)?;
        let state = cluster.agents[0].folder().join("state");
        let data = cluster.bus.folder().join("data");
        cluster.stop()?;
        check(
            folder,
            &capture,
            &["hello", "batch", "records of", "payload ok"],
        )?;
        check(
            folder,
            &state,
            &["streams", &topic, "watermark", "unacknowledged_batches: 0"],
        )?;
        check(folder, &data, &["destinations", "main", "torn_bytes: 0"])?;
        let nothing = folder.join("logs");
        let output = inspect(folder, &nothing)?;
        ensure!(
            output.status.code() == Some(1),
            "a folder of logs was inspected"
        );
        Ok(())
    })
}

fn inspect(folder: &Path, path: &Path) -> Result<std::process::Output> {
    product::run(
        "tributary",
        &["inspect", &path.display().to_string()],
        folder,
    )
}

fn check(folder: &Path, path: &Path, parts: &[&str]) -> Result<()> {
    let output = inspect(folder, path)?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "inspect {} failed: {}",
        path.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    for part in parts {
        ensure!(
            said.contains(part),
            "no '{part}' in what inspect {} says:\n{said}",
            path.display()
        );
    }
    Ok(())
}

/// Listens, passes connections on to the bus, and keeps what the first one sends.
fn capture_to(file: &Path, bus_port: u16) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    let mut kept = Some(File::create(file).context("failed to begin the capture")?);
    thread::spawn(move || {
        for agent in listener.incoming().map_while(Result::ok) {
            // An agent that comes before the bus tries again.
            if let Ok(bus) = TcpStream::connect(("127.0.0.1", bus_port)) {
                pass_on(&agent, &bus, kept.take());
            }
        }
    });
    Ok(address)
}

fn pass_on(agent: &TcpStream, bus: &TcpStream, kept: Option<File>) {
    let pair = |stream: &TcpStream| stream.try_clone().expect("a descriptor can be doubled");
    let (mut from_agent, mut to_bus, mut from_bus, mut to_agent) =
        (pair(agent), pair(bus), pair(bus), pair(agent));
    thread::spawn(move || {
        let mut kept = kept;
        let mut bytes = [0; 16 << 10];
        while let Ok(read @ 1..) = from_agent.read(&mut bytes) {
            if let Some(file) = &mut kept {
                file.write_all(&bytes[..read])
                    .expect("the capture can be written");
            }
            if to_bus.write_all(&bytes[..read]).is_err() {
                break;
            }
        }
        drop(to_bus.shutdown(std::net::Shutdown::Write));
    });
    thread::spawn(move || {
        // Ends with either side; the test asks the ledger, not the copy.
        drop(io::copy(&mut from_bus, &mut to_agent));
        drop(to_agent.shutdown(std::net::Shutdown::Write));
    });
}
