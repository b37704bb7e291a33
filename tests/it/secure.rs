//! TLS between the parts, with a stock client beside them: who is trusted comes in, who is not is told
//! why, and certificates are renewed while lines flow.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::Value;
use tributary_tests::{
    certs::Authority,
    child::Plan,
    cluster::{Layout, glob_of},
    kafka::{
        self, Kafka, free_port,
        secured::{PASSWORD, USER},
    },
    kerberos::{Kdc, REALM},
    ledger, poll,
    product::{Node, Part},
    scratch,
    writer::{Background, Schedule, Writer},
};

const HOST: &str = "127.0.0.1";
const LIMIT: Duration = Duration::from_secs(60);

/// What curl says of a URL, with extra arguments.
fn curl(args: &[&str], url: &str) -> Result<std::process::Output> {
    Plan::new("curl")
        .args(["--silent", "--show-error", "--max-time", "10"])
        .args(args.iter().copied())
        .args([url])
        .run()
}

/// How often a part has logged some words.
fn logged(node: &Node, words: &str) -> Result<usize> {
    Ok(node.log()?.matches(words).count())
}

#[test]
fn certificates_are_renewed_under_load_and_no_connection_drops() -> Result<()> {
    let name = "tls-renewed";
    scratch::scenario(name, |folder| {
        let kafka = kafka::shared()?;
        kafka.create_topic(name, 1)?;
        let (first, second) = (
            Authority::new(&folder.join("first"))?,
            Authority::new(&folder.join("second"))?,
        );
        let trusted = folder.join("trusted.pem");
        fs::copy(first.ca(), &trusted)?;
        let bus = first.identity("bus", HOST)?;
        let agent = first.identity("agent", "agent")?;
        let writer = Writer::new(&folder.join("logs"), 1, 1)?;
        let mut cluster = Layout::new(folder, name)
            .delivers_to(&kafka.bootstrap(), &[])
            .verbatim()
            .agent(&[glob_of(&writer)])
            .extra(
                &format!("tls = {{ ca = {trusted:?}, {agent} }}"),
                "",
                &format!("tls = {{ {bus}, client_ca = {trusted:?} }}"),
            )
            .start()?;
        let schedule = Schedule {
            lines: 20_000,
            per_second: 2_000,
            rotations: Vec::new(),
        };
        let background = Background::start(writer, schedule);
        poll::until("the agent to connect", LIMIT, || {
            Ok((logged(&cluster.agents[0], "connected to the bus")? == 1).then_some(()))
        })?;

        // Both authorities are trusted for a while; then the bus has a certificate of the second.
        let both = [fs::read(first.ca())?, fs::read(second.ca())?].concat();
        fs::write(&trusted, both)?;
        let files = folder.join("first");
        second.sign(HOST, &files.join("bus.pem"), &files.join("bus.key"))?;
        let url = format!("https://{}/healthz", cluster.listen);
        let (cert, key) = (files.join("agent.pem"), files.join("agent.key"));
        let ca = second.ca();
        let stock = [
            "--cacert",
            &ca.display().to_string(),
            "--cert",
            &cert.display().to_string(),
            "--key",
            &key.display().to_string(),
        ];
        poll::until("the renewed certificate to count", LIMIT, || {
            let answer = curl(&stock, &url)?;
            Ok((answer.stdout == b"ok\n").then_some(()))
        })?;
        ensure!(
            logged(&cluster.agents[0], "connected to the bus")? == 1,
            "the agent had to connect again"
        );
        // The next connection has it.
        cluster.bus.kill_and_start()?;
        let written = background.finish()?.written().clone();
        cluster.must_deliver(kafka, &[written])?;
        cluster.stop()
    })
}

/// A bus that takes nobody without a certificate, and an agent's word about it.
fn is_told(folder: &Path, bus: &str, tls: &str, why: &str) -> Result<()> {
    let admin = format!("{HOST}:{}", free_port()?);
    let state = folder.join("state");
    let config = format!(
        "state_dir = {state:?}\nadmin = {admin:?}\n{tls}\n[[bus]]\nname = \"dc1\"\n\
         nodes = [{bus:?}]\n[[task]]\nid = \"t\"\ntopic = \"t\"\npaths = [\"/nowhere/*\"]\n"
    );
    let mut agent = Node::new(Part::Agent, folder, &admin, &config)?;
    agent.start()?;
    let what = format!("the agent to say {why}");
    let look = || Ok(agent.status()?.to_string());
    poll::until_seen(&what, LIMIT, look, |status| status.contains(why))?;
    agent.stop_cleanly()
}

/// What curl gets of that bus: words without TLS, and what it came for with a certificate.
fn stock_clients_are_told(node: &Node, bus: &str, files: &Path) -> Result<()> {
    let answer = curl(&[], &format!("http://{bus}/healthz"))?;
    let text = String::from_utf8_lossy(&answer.stdout).into_owned();
    ensure!(text.contains("this port speaks TLS"), "{text}");
    ensure!(node.metric("tributary_bus_handshakes_failed_total")? >= 3.0);

    let file = |name: &str| files.join(name).display().to_string();
    let (ca, cert, key) = (file("ca.pem"), file("agent.pem"), file("agent.key"));
    let mut args = vec!["--cacert", &ca, "--cert", &cert, "--key", &key];
    args.extend(["--fail", "--data-binary", "a line"]);
    let posted = curl(&args, &format!("https://{bus}/v1/lines/t"))?;
    let text = String::from_utf8_lossy(&posted.stdout).into_owned();
    ensure!(text.contains("records"), "{text} {posted:?}");
    Ok(())
}

#[test]
fn who_is_not_trusted_is_told_why_and_stops_nothing() -> Result<()> {
    scratch::scenario("tls-refused", |folder| {
        let (ours, theirs) = (
            Authority::new(&folder.join("ours"))?,
            Authority::new(&folder.join("theirs"))?,
        );
        let (bus, admin) = (
            format!("{HOST}:{}", free_port()?),
            format!("{HOST}:{}", free_port()?),
        );
        let config = format!(
            "zone = \"dc1\"\ncluster = \"dc1\"\nlisten = {bus:?}\nadmin = {admin:?}\ndata_dir = {:?}\n\
             tls = {{ {}, client_ca = {:?} }}\n\
             [[destination]]\nname = \"local\"\nkind = \"file\"\npath = {:?}\n\
             [[route]]\ntopic = \"*\"\nto = [{{ destination = \"local\" }}]\n",
            folder.join("bus/data"),
            ours.identity("bus", HOST)?,
            ours.ca(),
            folder.join("out"),
        );
        let mut node = Node::new(Part::Bus, &folder.join("bus"), &admin, &config)?;
        node.start()?;

        let (ca, wrong_ca) = (ours.ca(), theirs.ca());
        let (good, foreign) = (ours.identity("agent", "a")?, theirs.identity("agent", "a")?);
        let cases = [
            ("plain", String::new(), "answers 400"),
            (
                "untrusted",
                format!("tls = {{ ca = {wrong_ca:?}, {good} }}"),
                "UnknownIssuer",
            ),
            (
                "bare",
                format!("tls = {{ ca = {ca:?} }}"),
                "CertificateRequired",
            ),
            (
                "foreign",
                format!("tls = {{ ca = {ca:?}, {foreign} }}"),
                "it ended TLS",
            ),
        ];
        for (name, tls, why) in cases {
            is_told(&folder.join(name), &bus, &tls, why).context(name)?;
        }

        stock_clients_are_told(&node, &bus, &folder.join("ours"))?;
        node.stop_cleanly()
    })
}

#[test]
fn agent_and_bus_report_to_a_manager_over_https() -> Result<()> {
    scratch::scenario("tls-manager", |folder| {
        let authority = Authority::new(&folder.join("ca"))?;
        let (manager, bus, bus_admin, admin) = (
            format!("{HOST}:{}", free_port()?),
            format!("{HOST}:{}", free_port()?),
            format!("{HOST}:{}", free_port()?),
            format!("{HOST}:{}", free_port()?),
        );
        let ca = authority.ca();
        let config = format!(
            "listen = {manager:?}\ndatabase = \"sqlite://{}\"\ntls = {{ {} }}\n",
            folder.join("manager/db.sqlite").display(),
            authority.identity("manager", HOST)?,
        );
        let mut parts = vec![Node::new(
            Part::Manager,
            &folder.join("manager"),
            &manager,
            &config,
        )?];
        let config = format!(
            "zone = \"dc1\"\ncluster = \"dc1\"\nlisten = {bus:?}\nadmin = {bus_admin:?}\ndata_dir = {:?}\n\
             tls = {{ {} }}\n[manager]\nurl = \"https://{manager}\"\nca = {ca:?}\n\
             [[destination]]\nname = \"local\"\nkind = \"file\"\npath = {:?}\n\
             [[route]]\ntopic = \"*\"\nto = [{{ destination = \"local\" }}]\n",
            folder.join("bus/data"),
            authority.identity("bus", HOST)?,
            folder.join("out/{topic}"),
        );
        parts.push(Node::new(
            Part::Bus,
            &folder.join("bus"),
            &bus_admin,
            &config,
        )?);
        let mut writer = Writer::new(&folder.join("logs"), 1, 1)?;
        writer.write(1_000)?;
        let config = format!(
            "state_dir = {:?}\nadmin = {admin:?}\ntls = {{ ca = {ca:?} }}\n\
             [manager]\nurl = \"https://{manager}\"\n[[bus]]\nname = \"dc1\"\nnodes = [{bus:?}]\n\
             [[task]]\nid = \"t\"\ntopic = \"secure\"\npaths = [{:?}]\n",
            folder.join("agent/state"),
            glob_of(&writer),
        );
        parts.push(Node::new(
            Part::Agent,
            &folder.join("agent"),
            &admin,
            &config,
        )?);
        for part in &mut parts {
            part.launch()?;
        }
        let ca = ca.display().to_string();
        let url = format!("https://{manager}/api/v1/topics");
        // The manager may not be up yet.
        let look = || {
            let answer = curl(&["--cacert", &ca], &url)?;
            Ok(String::from_utf8_lossy(&answer.stdout).into_owned())
        };
        let good = |text: &String| {
            ledger::in_answer(text, "secure").is_ok_and(|counts| counts.all_went_through(1_000))
        };
        let what = "the manager to count all lines at every hop";
        poll::until_seen(what, LIMIT, look, good)?;
        parts.iter_mut().rev().try_for_each(Node::stop_cleanly)
    })
}

/// A producer, and the options that bring it to a door.
type Way = (&'static str, String, Vec<String>);

/// Every way into a secured Kafka.
fn ways(folder: &Path, doors: &kafka::secured::Doors, authority: &Authority) -> Result<Vec<Way>> {
    let (ca, cert, key) = (
        authority.ca(),
        folder.join("ca/bus.pem"),
        folder.join("ca/bus.key"),
    );
    authority.sign("bus", &cert, &key)?;
    let login = |protocol: &str, mechanism: &str| {
        vec![
            format!("\"security.protocol\" = {protocol:?}"),
            format!("\"sasl.mechanism\" = {mechanism:?}"),
            format!("\"sasl.username\" = {USER:?}"),
            format!("\"sasl.password\" = {PASSWORD:?}"),
        ]
    };
    let trust = format!("\"ssl.ca.location\" = {ca:?}");
    let mut plain = login("SASL_SSL", "PLAIN");
    plain.push(trust.clone());
    let tls = vec![
        "\"security.protocol\" = \"SSL\"".to_owned(),
        trust,
        format!("\"ssl.certificate.location\" = {cert:?}"),
        format!("\"ssl.key.location\" = {key:?}"),
    ];
    Ok(vec![
        (
            "scram256",
            doors.scram.clone(),
            login("SASL_PLAINTEXT", "SCRAM-SHA-256"),
        ),
        (
            "scram512",
            doors.scram.clone(),
            login("SASL_PLAINTEXT", "SCRAM-SHA-512"),
        ),
        ("plain", doors.plain.clone(), plain),
        ("tls", doors.tls.clone(), tls),
    ])
}

/// Lines come into a topic of their own; with the wrong password first, if there is one.
fn comes_in(kafka: &Kafka, folder: &Path, way: &Way, verbatim: bool) -> Result<()> {
    let (name, door, options) = way;
    let topic = format!("{name}-{}", if verbatim { "verbatim" } else { "rdkafka" });
    let folder = folder.join(&topic);
    kafka.create_topic(&topic, 2)?;
    let mut writer = Writer::new(&folder.join("logs"), 1, 1)?;
    writer.write(2_000)?;
    let layout = |options: &[String]| {
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let layout = Layout::new(&folder, &topic)
            .delivers_to(door, &options)
            .agent(&[glob_of(&writer)]);
        if verbatim { layout.verbatim() } else { layout }
    };
    let wrong: Vec<String> = options
        .iter()
        .map(|option| option.replace(PASSWORD, "hunter2"))
        .collect();
    // One of each kind is enough.
    if wrong != *options && verbatim != (*name == "plain") {
        let mut cluster = layout(&wrong).start()?;
        let why = "the bus to say that it is not let in";
        let look = || Ok(cluster.bus.status()?.to_string().to_lowercase());
        let good = |status: &String| {
            let words = ["authentication", "\"state\":\"refused\""];
            words.iter().all(|word| status.contains(word)) && !status.contains("hunter2")
        };
        poll::until_seen(why, LIMIT, look, good)?;
        cluster.stop()?;
    }
    let mut cluster = layout(options).start()?;
    cluster.must_deliver(kafka, &[writer.written().clone()])?;
    cluster.stop()
}

/// Lines flow while their sender has to log in again and again, with a token that is renewed; one that is
/// too old is said, and is no longer said once there is a fresh one.
fn comes_by_token(kafka: &Kafka, folder: &Path, door: &str, verbatim: bool) -> Result<()> {
    let topic = format!("token-{}", if verbatim { "verbatim" } else { "rdkafka" });
    let folder = folder.join(&topic);
    fs::create_dir_all(&folder)?;
    kafka.create_topic(&topic, 2)?;
    let file = folder.join("token");
    let old = kafka::secured::token(-60)?;
    fs::write(&file, &old)?;
    let options = [
        "\"security.protocol\" = \"SASL_PLAINTEXT\"".to_owned(),
        "\"sasl.mechanism\" = \"OAUTHBEARER\"".to_owned(),
        format!("\"sasl.oauthbearer.token.file\" = {file:?}"),
    ];
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let writer = Writer::new(&folder.join("logs"), 1, 1)?;
    let layout = Layout::new(&folder, &topic)
        .delivers_to(door, &options)
        .agent(&[glob_of(&writer)]);
    let layout = if verbatim { layout.verbatim() } else { layout };
    let mut cluster = layout.start()?;
    let relogins = u64::from(kafka::secured::RELOGIN_MS) * 3 / 1_000;
    let schedule = Schedule {
        lines: 1_000 * relogins,
        per_second: 1_000,
        rotations: Vec::new(),
    };
    let background = Background::start(writer, schedule);
    let state = || Ok(cluster.bus.status()?["destinations"][0].clone());
    let down = |seen: &Value| seen["state"] != "up" && !seen.to_string().contains(&old);
    poll::until_seen("the bus to say that it is not let in", LIMIT, state, down)?;
    fs::write(&file, kafka::secured::token(3_600)?)?;
    let written = [background.finish()?.written().clone()];
    cluster.must_deliver(kafka, &written)?;
    let log = cluster.bus.log()?;
    ensure!(!log.contains(&old), "the token stands in the log");
    cluster.stop()
}

#[test]
fn lines_come_into_a_secured_kafka_by_every_way_and_a_wrong_password_is_said() -> Result<()> {
    scratch::scenario("secured", |folder| {
        let authority = Authority::new(&folder.join("ca"))?;
        let (kafka, doors) = Kafka::start_secured(&folder.join("kafka"), &authority)?;
        let ways = ways(folder, &doors, &authority)?;
        let (kafka, both) = (&kafka, [true, false]);
        std::thread::scope(|scope| {
            let door = &doors.bearer;
            let tokens = both.map(|verbatim| {
                let run = scope.spawn(move || comes_by_token(kafka, folder, door, verbatim));
                (run, "token", verbatim)
            });
            let runs = ways
                .iter()
                .flat_map(|way| both.map(|verbatim| (way, verbatim)));
            let runs: Vec<_> = runs
                .map(|(way, verbatim)| {
                    let run = scope.spawn(move || comes_in(kafka, folder, way, verbatim));
                    (run, way.0, verbatim)
                })
                .collect();
            runs.into_iter()
                .chain(tokens)
                .try_for_each(|(run, name, verbatim)| {
                    let ended = run.join().map_err(|_panic| anyhow!("panicked"));
                    ended
                        .flatten()
                        .with_context(|| format!("{name} verbatim={verbatim}"))
                })
        })?;
        Ok(())
    })
}

/// By librdkafka, which gets its tickets with the keys of a file: somebody else's first.
#[test]
fn lines_come_into_a_kafka_behind_kerberos_and_who_has_no_ticket_is_said() -> Result<()> {
    let topic = "kerberos";
    scratch::scenario(topic, |folder| {
        let kdc = Kdc::start(&folder.join("kdc"))?;
        let (kafka, door) = Kafka::start_with_kerberos(&folder.join("kafka"), &kdc)?;
        kafka.create_topic(topic, 2)?;
        let (keys, others) = (kdc.keytab("bus")?, kdc.keytab("somebody")?);
        let mut writer = Writer::new(&folder.join("logs"), 1, 1)?;
        writer.write(2_000)?;
        let layout = |keys: &Path| {
            let options = [
                "\"security.protocol\" = \"SASL_PLAINTEXT\"".to_owned(),
                "\"sasl.mechanism\" = \"GSSAPI\"".to_owned(),
                "\"sasl.kerberos.service.name\" = \"kafka\"".to_owned(),
                format!("\"sasl.kerberos.principal\" = \"bus@{REALM}\""),
                format!("\"sasl.kerberos.keytab\" = {keys:?}"),
            ];
            let options: Vec<&str> = options.iter().map(String::as_str).collect();
            Layout::new(folder, topic)
                .delivers_to(&door, &options)
                .bus_environment(kdc.environment(&folder.join("tickets")))
                .agent(&[glob_of(&writer)])
        };
        let mut cluster = layout(&others).start()?;
        let state = || Ok(cluster.bus.status()?["destinations"][0].clone());
        let down = |seen: &Value| seen["state"] != "up" && seen.to_string().contains("ticket");
        poll::until_seen("the bus to say that it has no ticket", LIMIT, state, down)?;
        cluster.stop()?;
        let mut cluster = layout(&keys).start()?;
        cluster.must_deliver(&kafka, &[writer.written().clone()])?;
        cluster.stop()
    })
}
