//! A bus by a host's name: unknown at first, then somewhere, then elsewhere, while the agent runs.

use std::{fs, path::Path, time::Duration};

use anyhow::{Result, ensure};
use tributary_tests::{
    child::{Child, Plan},
    cluster::glob_of,
    delivered, http,
    kafka::free_port,
    oracle::Verdict,
    poll,
    product::program,
    scratch,
    writer::Writer,
};

const LIMIT: Duration = Duration::from_secs(60);
const NAME: &str = "bus.tributary.test";

/// A bus that writes files, at an address of its own.
fn bus(address: &str, folder: &Path) -> Result<Child> {
    fs::create_dir_all(folder)?;
    let config = format!(
        "zone = \"z\"\ncluster = \"dc1\"\nnode = \"bus\"\nlisten = {address:?}\nadmin = \"127.0.0.1:0\"\ndata_dir = {:?}\n\
         [[destination]]\nname = \"files\"\nkind = \"file\"\npath = {:?}\n\
         [[route]]\ntopic = \"*\"\nto = [{{ destination = \"files\" }}]\n",
        folder.join("data"),
        folder.join("delivered/{topic}"),
    );
    fs::write(folder.join("bus.toml"), config)?;
    let plan = Plan::new(program("tributary-bus")?)
        .args(["--config", "bus.toml"])
        .folder(folder);
    Child::start("tributary-bus", &plan, &folder.join("log"))
}

/// An agent that knows hosts by `folder/hosts` alone and has no name server.
fn agent(folder: &Path) -> Result<Child> {
    let (hosts, servers) = (folder.join("hosts"), folder.join("resolv.conf"));
    fs::write(&servers, "")?;
    let bind = "mount --bind \"$0\" /etc/hosts && mount --bind \"$1\" /etc/resolv.conf && shift && exec \"$@\"";
    let plan = Plan::new("unshare")
        .args(["--mount", "sh", "-c", bind])
        .args([&hosts, &servers, &program("tributary-agent")?].map(|at| at.display().to_string()))
        .args(["--config", "agent.toml"])
        .folder(folder);
    Child::start("tributary-agent", &plan, &folder.join("agent.log"))
}

/// Writes until a bus has more lines than it had.
fn more_at(writer: &mut Writer, bus: &Path) -> Result<()> {
    let seen = || Ok::<usize, anyhow::Error>(delivered::lines(&bus.join("delivered"))?.len());
    let before = seen()?;
    poll::until(&format!("more lines in {}", bus.display()), LIMIT, || {
        writer.write(20)?;
        Ok((seen()? > before).then_some(()))
    })
}

#[test]
fn a_bus_is_found_by_its_name_wherever_that_leads_now() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        tributary_tests::say("not run: only root can give a process hosts of its own");
        return Ok(());
    }
    scratch::scenario("names", |folder| {
        let (port, admin) = (free_port()?, format!("127.0.0.1:{}", free_port()?));
        let mut writer = Writer::new(&folder.join("logs"), 1, 1)?;
        let config = format!(
            "state_dir = {:?}\nadmin = {admin:?}\n[[bus]]\nname = \"dc1\"\n\
             nodes = [\"{NAME}:{port}\"]\n[[task]]\nid = \"t\"\ntopic = \"x\"\nclass = \"P0\"\npaths = [{:?}]\n",
            folder.join("state"),
            glob_of(&writer),
        );
        fs::write(folder.join("agent.toml"), config)?;
        let hosts = folder.join("hosts");
        fs::write(&hosts, "127.0.0.1 localhost\n")?;
        let mut agent = agent(folder)?;
        writer.write(20)?;
        let look = || {
            Ok(http::get(&admin, "/status")
                .map(|answer| answer.text())
                .unwrap_or_default())
        };
        poll::until_seen("the unknown name to be said", LIMIT, look, |status| {
            status.contains(&format!("failed to resolve {NAME}:{port}"))
        })?;
        let places = ["127.0.0.2", "127.0.0.3"].map(|host| (host, folder.join(host)));
        for (host, at) in &places {
            let mut bus = bus(&format!("{host}:{port}"), at)?;
            // In place, for it is this file that the agent has.
            fs::write(&hosts, format!("127.0.0.1 localhost\n{host} {NAME}\n"))?;
            more_at(&mut writer, at)?;
            agent.must_run()?;
            bus.kill()?;
        }
        // One of its addresses takes no connections.
        let [_, (host, at)] = &places;
        let _bus = bus(&format!("{host}:{port}"), at)?;
        fs::write(&hosts, format!("127.0.0.9 {NAME}\n{host} {NAME}\n"))?;
        more_at(&mut writer, at)?;
        let written = [writer.written().clone()];
        let verdict = poll::until_seen(
            "all lines",
            LIMIT,
            || {
                let mut all = Vec::new();
                for (_, at) in &places {
                    all.extend(delivered::lines(&at.join("delivered"))?);
                }
                Ok(Verdict::on(
                    &written,
                    all.iter().map(|(place, line)| (*place, line.as_slice())),
                ))
            },
            |verdict| verdict.missing == 0,
        )?;
        ensure!(verdict.foreign + verdict.corrupt == 0, "{verdict}");
        agent.must_run()
    })
}
