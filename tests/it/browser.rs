//! The console in a real Chromium, on figures of a really running `tributary up`, of an agent
//! whose lines are of long ago, and of a bus cluster whose agents are all at one of its two nodes.
//!
//! What is looked at stands in `manager/console/e2e`; this starts what it looks at.

use std::{
    fs,
    path::Path,
    time::{Duration, UNIX_EPOCH},
};

use anyhow::{Result, anyhow, ensure};
use serde_json::json;
use tributary_tests::{
    child::{Child, Plan},
    http,
    kafka::free_port,
    ledger, poll,
    product::{self, Node, Part},
    scratch,
    writer::Writer,
};

const LIMIT: Duration = Duration::from_secs(120);
const WEB: u64 = 2_500;
const ORDERS: u64 = 700;
/// Lines of 2024, one a second.
const OLD: u64 = 450;
/// The cluster that is to be rebalanced.
const UNEVEN: &str = "dc3";
/// Records of a topic that a bus node elsewhere tells of; what is dead of them, and given up.
const REFUSED: [u64; 3] = [1_000, 40, 2];

#[test]
fn the_console_shows_the_real_counts_in_chromium() -> Result<()> {
    let console = scratch::repository().join("manager/console");
    ensure!(
        console.join("node_modules").is_dir(),
        "npm packages are missing: run 'make setup'"
    );
    ensure!(
        console.join("dist/index.html").is_file(),
        "no console: run 'make console'"
    );
    scratch::scenario("browser", |folder| {
        let address = format!("127.0.0.1:{}", free_port()?);
        let bus = format!("127.0.0.1:{}", free_port()?);
        let mut up = start(folder, &address, &bus)?;
        let mut web = Writer::new(&folder.join("web"), 1, 1)?;
        web.write(WEB)?;
        Writer::new(&folder.join("orders"), 2, 2)?.write(ORDERS)?;
        up.must_run()?;
        let mut old = archivist(folder, &address, &bus)?;
        old.start()?;
        ledger::must_agree(&address, "archive.old", OLD, LIMIT)?;
        ledger::must_agree(&address, "web.access", WEB, LIMIT)?;
        ledger::must_agree(&address, "shop.orders", ORDERS, LIMIT)?;
        tell_dead_letters(&address)?;
        let mut uneven = uneven(folder, &address)?;

        let shots = folder.join("shots");
        fs::create_dir_all(&shots)?;
        let expected = format!("{{\"web.access\":{WEB},\"shop.orders\":{ORDERS}}}");
        let [records, dead, purged] = REFUSED;
        let refused = json!({ "shop.refused": {
            "read": records, "delivered": records - dead - purged, "dead": dead, "purged": purged, "unexplained": 0,
        } });
        let said = Plan::new("npm")
            .args(["run", "--silent", "e2e"])
            .folder(&console)
            .env("TRIBUTARY_URL", format!("http://{address}"))
            .env("TRIBUTARY_EXPECT", expected)
            .env("TRIBUTARY_OLD", format!("{{\"archive.old\":{OLD}}}"))
            .env("TRIBUTARY_DEAD", refused.to_string())
            .env("TRIBUTARY_UNEVEN", UNEVEN)
            .env("TRIBUTARY_GROW", web.path().display().to_string())
            .env("TRIBUTARY_SHOTS", shots.display().to_string())
            .env("CHROMIUM", chromium())
            .output();
        up.must_run()?;
        said?;
        old.stop_cleanly()?;
        uneven.iter_mut().rev().try_for_each(Node::stop_cleanly)?;
        ensure!(
            up.terminate(product::STOP_LIMIT)?.success(),
            "{}",
            up.log_tail()
        );
        Ok(())
    })
}

/// Tells what an agent and a bus node would whose destination refuses some records for good.
fn tell_dead_letters(manager: &str) -> Result<()> {
    let [records, dead, purged] = REFUSED;
    let now_ms = u64::try_from(UNIX_EPOCH.elapsed()?.as_millis())?;
    let minute = now_ms / 60_000;
    let batch = json!({ "topic": "shop.refused", "stream": 1, "epoch": 1, "seq": 1, "destination": "es-main" });
    let letters = |state: &str, places: [u64; 2]| {
        let mut letters = batch.clone();
        letters["state"] = state.into();
        letters["minutes"] = json!([{ "minute": minute, "places": [places] }]);
        letters
    };
    let fact = |hop: &str| {
        json!({
            "hop": hop, "topic": "shop.refused", "stream": 1, "epoch": 1, "first_seq": 1,
            "batches": [[{ "minute": minute, "records": records }]],
        })
    };
    let group = json!({
        "topic": "shop.refused", "reason": "mapper_parsing_exception", "status": 400, "letters": dead,
        "first_ms": now_ms - 7_200_000, "last_ms": now_ms - 60_000,
    });
    let destination = json!({
        "name": "es-main", "kind": "elasticsearch", "state": "up", "detail": "40 dead letters",
        "dead": { "letters": dead, "bytes": 14_336, "max_bytes": 64 << 20, "groups": [group] },
    });
    let agent = json!({ "part": "agent", "id": "shop-9", "host": "shop-9", "zone": "dc2" });
    let bus = json!({ "part": "bus", "id": "bus-9", "cluster": "dc2", "zone": "dc2" });
    for (reporter, facts, letters, destinations) in [
        (
            agent,
            json!([fact("read"), fact("sent")]),
            json!([]),
            json!([]),
        ),
        (
            bus,
            json!([fact("delivered")]),
            json!([
                letters("dead", [0, dead + purged]),
                letters("purged", [dead, dead + purged])
            ]),
            json!([destination]),
        ),
    ] {
        let report = json!({
            "reporter": reporter, "epoch": 1, "number": 1, "sent_at_ms": now_ms, "facts": facts,
            "duplicates": [], "losses": [], "letters": letters, "held": [],
            "health": { "software": "test", "memory_bytes": 1, "destinations": destinations },
        });
        let kind = ["content-type: application/json"];
        let body = serde_json::to_vec(&report)?;
        let told = http::request(manager, "POST", "/api/v1/reports", &kind, &body)?;
        ensure!(told.status == 200, "{}", told.text());
    }
    Ok(())
}

/// A cluster of two nodes, and two agents that are both at the first.
fn uneven(folder: &Path, manager: &str) -> Result<Vec<Node>> {
    let (mut buses, mut listens) = (Vec::new(), Vec::new());
    for name in ["left", "right"] {
        let folder = folder.join(name);
        let [listen, admin] = [free_port()?, free_port()?].map(|port| format!("127.0.0.1:{port}"));
        let config = format!(
            "zone = \"dc3\"\ncluster = \"{UNEVEN}\"\nnode = \"{name}\"\nlisten = \"{listen}\"\n\
             admin = \"{admin}\"\ndata_dir = \"{0}/data\"\n[manager]\nurl = \"http://{manager}\"\n\
             [[destination]]\nname = \"files\"\nkind = \"file\"\npath = \"{0}/out/{{topic}}\"\n\
             [[route]]\ntopic = \"*\"\nto = [{{ destination = \"files\" }}]\n",
            folder.display()
        );
        buses.push(Node::new(Part::Bus, &folder, &admin, &config)?);
        listens.push(listen);
    }
    let [mut left, mut right] =
        <[Node; 2]>::try_from(buses).map_err(|_all| anyhow!("two nodes"))?;
    left.start()?;
    let mut agents = Vec::new();
    for name in ["agent-1", "agent-2"] {
        let folder = folder.join(name);
        let admin = format!("127.0.0.1:{}", free_port()?);
        let config = format!(
            "zone = \"dc3\"\nstate_dir = \"{0}/state\"\nadmin = \"{admin}\"\n\
             [[bus]]\nname = \"dc3\"\nnodes = {listens:?}\n\
             [[task]]\nid = \"none\"\ntopic = \"none\"\npaths = [\"{0}/none.log\"]\n",
            folder.display()
        );
        let mut agent = Node::new(Part::Agent, &folder, &admin, &config)?;
        agent.start()?;
        agents.push(agent);
    }
    poll::until_seen(
        "both agents at the first node",
        LIMIT,
        || Ok(left.status()?["connections"].clone()),
        |connections| *connections == 2,
    )?;
    right.start()?;
    agents.extend([left, right]);
    // Agents stop first.
    agents.reverse();
    Ok(agents)
}

/// An agent that collects a file of long ago, with the times of its lines.
fn archivist(folder: &Path, manager: &str, bus: &str) -> Result<Node> {
    let folder = folder.join("archivist");
    fs::create_dir_all(&folder)?;
    let lines = (0..OLD).map(|n| format!("2024-03-01T10:{:02}:{:02}Z {n}\n", n / 60, n % 60));
    fs::write(folder.join("old.log"), lines.collect::<String>())?;
    let admin = format!("127.0.0.1:{}", free_port()?);
    let config = format!(
        "zone = \"dc1\"\nstate_dir = \"{0}/state\"\nadmin = \"{admin}\"\n\
         [manager]\nurl = \"http://{manager}\"\n\
         [[bus]]\nname = \"dc1\"\nnodes = [\"{bus}\"]\n\
         [[task]]\nid = \"old\"\ntopic = \"archive.old\"\npaths = [\"{0}/old.log\"]\n\
         time = {{ from = \"line\", pattern = \"%Y-%m-%dT%H:%M:%S%z\" }}\n",
        folder.display()
    );
    Node::new(Part::Agent, &folder, &admin, &config)
}

fn start(folder: &Path, console: &str, bus: &str) -> Result<Child> {
    let mut args = vec!["up".to_owned(), "--console".to_owned(), console.to_owned()];
    args.extend(["--bus".to_owned(), bus.to_owned()]);
    for port in ["--bus-admin", "--agent-admin"] {
        args.extend([port.to_owned(), format!("127.0.0.1:{}", free_port()?)]);
    }
    args.extend([
        "--data".to_owned(),
        folder.join("data").display().to_string(),
    ]);
    for (topic, below) in [("web.access", "web"), ("shop.orders", "orders")] {
        args.extend([
            "--watch".to_owned(),
            format!("{topic}={}/{below}/*.log", folder.display()),
        ]);
    }
    let plan = Plan::new(product::program("tributary")?)
        .args(args)
        .folder(folder);
    Child::start("tributary up", &plan, &folder.join("up.log"))
}

fn chromium() -> String {
    let known = ["/usr/bin/chromium", "/usr/bin/google-chrome"];
    let found = known.iter().find(|path| Path::new(path).is_file());
    (*found.unwrap_or(&"chromium")).to_owned()
}
