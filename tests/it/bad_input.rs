//! Bad input of every kind: one clear message or status, counted where data is concerned, and
//! nothing else stops.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{FileExt as _, PermissionsExt as _},
    },
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use tributary_tests::{
    child::Plan,
    cluster::{Cluster, Layout, SETTLE_LIMIT},
    delivered, http, ledger, poll, product,
    product::Part,
    scratch,
};

const TOPIC: &str = "bad";

/// An agent and a bus with the file destination, in a folder of their own.
struct Line<'a> {
    folder: &'a Path,
    layout: Layout,
    cluster: Cluster,
}

impl<'a> Line<'a> {
    fn start(folder: &'a Path, globs: &[&str]) -> Result<Self> {
        fs::create_dir_all(folder.join("logs"))?;
        let globs: Vec<String> = globs
            .iter()
            .map(|glob| folder.join(glob).display().to_string())
            .collect();
        let layout = Layout::new(folder, TOPIC).agent(&globs);
        Ok(Self {
            folder,
            cluster: layout.start()?,
            layout,
        })
    }

    /// A healthy line still gets through: the proof that nothing else stopped.
    fn must_still_deliver(&self, mark: &str) -> Result<()> {
        fs::write(
            self.folder.join(format!("logs/{mark}.log")),
            format!("{mark}\n"),
        )?;
        self.must_hold(mark.as_bytes())
    }

    /// Waits until the destination holds a line once.
    fn must_hold(&self, line: &[u8]) -> Result<()> {
        poll::until_seen(
            &format!("one line {}", line[..line.len().min(80)].escape_ascii()),
            SETTLE_LIMIT,
            || {
                let all = delivered::lines(&self.layout.delivered())?;
                Ok(all.iter().filter(|(_, value)| value == line).count())
            },
            |&count| count == 1,
        )
        .map(drop)
    }
}

fn check(name: &str, globs: &[&str], play: impl FnOnce(&mut Line<'_>) -> Result<()>) -> Result<()> {
    scratch::scenario(name, |folder| {
        let mut line = Line::start(folder, globs)?;
        play(&mut line)?;
        line.must_still_deliver("the-last-word")?;
        line.cluster.stop()
    })
}

#[test]
fn a_config_with_several_faults_lists_them_all_and_exits_2() -> Result<()> {
    let cases = [
        (
            Part::Agent,
            "zone = 7\nstate_dirr = \"/x\"\n[limits]\nmemory = \"much\"\n[[task]]\nid = \"a b\"\n\
             topic = \"t\"\npaths = [\"/x/*.log\"]\nclass = \"P9\"\n",
            ["zone", "state_dirr", "state_dir", "memory", "a b", "P9"].as_slice(),
        ),
        (
            Part::Bus,
            "zone = \"dc1\"\nlisten = \"nowhere\"\n[[destination]]\nname = \"k\"\nkind = \"kafkaa\"\n\
             [[route]]\ntopic = \"*\"\nto = [{ destination = \"gone\" }]\n",
            ["nowhere", "kafkaa", "cluster"].as_slice(),
        ),
        (
            Part::Bus,
            "zone = \"z\"\ncluster = \"c\"\n[[destination]]\nname = \"k\"\nkind = \"file\"\npath = \"/x/{topic}\"\n\
             [[route]]\ntopic = \"a\"\nto = [{ destination = \"gone\" }]\n\
             [[route]]\ntopic = \"b\"\nto = [{ destination = \"away\" }]\n",
            ["gone", "away"].as_slice(),
        ),
        (
            Part::Manager,
            "listen = 3\ndatabase = \"mysql://x\"\n",
            ["listen", "mysql"].as_slice(),
        ),
    ];
    for (part, text, words) in cases {
        scratch::scenario("faulty-config", |folder| {
            fs::write(folder.join("c.toml"), text)?;
            for args in [
                &["--config", "c.toml", "--check"][..],
                &["--config", "c.toml"][..],
            ] {
                let output = product::run(part.program(), args, folder)?;
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                ensure!(
                    output.status.code() == Some(2),
                    "{part} exits {}: {said}",
                    output.status
                );
                for word in words {
                    ensure!(said.contains(word), "{part} does not name {word}:\n{said}");
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_second_agent_on_the_same_state_exits_3() -> Result<()> {
    check("held-state", &["logs/*.log"], |line| {
        let agent = line.cluster.agents[0].folder();
        let output = product::run("tributary-agent", &["--config", "config.toml"], agent)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            output.status.code() == Some(3),
            "it exits {}: {said}",
            output.status
        );
        ensure!(
            said.contains("state"),
            "it does not name the folder: {said}"
        );
        Ok(())
    })
}

#[test]
fn a_port_in_use_is_named_and_exits_1() -> Result<()> {
    check("port-in-use", &["logs/*.log"], |line| {
        let taken = TcpListener::bind("127.0.0.1:0")?;
        let address = taken.local_addr()?.to_string();
        let bus = line.cluster.bus.folder().to_owned();
        let config = fs::read_to_string(bus.join("config.toml"))?;
        let config = config
            .replace(&line.cluster.listen, &address)
            .replace("bus/data", "bus/other-data")
            .replace(line.cluster.bus.admin(), "127.0.0.1:0");
        fs::write(bus.join("second.toml"), config)?;
        let output = product::run("tributary-bus", &["--config", "second.toml"], &bus)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            output.status.code() == Some(1),
            "it exits {}: {said}",
            output.status
        );
        ensure!(
            said.contains(&address),
            "it does not name {address}: {said}"
        );
        ensure!(said.contains("in use"), "it does not say why: {said}");
        Ok(())
    })
}

#[test]
fn a_wrong_bus_address_is_reported_and_lines_wait() -> Result<()> {
    scratch::scenario("wrong-bus", |folder| {
        fs::create_dir_all(folder.join("logs"))?;
        fs::write(folder.join("logs/a.log"), "waiting\n")?;
        let layout = Layout::new(folder, TOPIC)
            .agent(&[format!("{}/logs/*.log", folder.display())])
            .agents_connect_to("127.0.0.1:1".to_owned());
        let cluster = layout.start()?;
        poll::until_seen(
            "the line to be in flight",
            Duration::from_secs(30),
            || ledger::topic(cluster.manager.admin(), TOPIC),
            |counts| counts.read == 1 && counts.in_flight == 1 && counts.unexplained == 0,
        )?;
        let log = cluster.agents[0].log()?;
        ensure!(
            log.contains("127.0.0.1:1"),
            "the log does not name the address:\n{log}"
        );
        let complaints = log
            .lines()
            .filter(|line| line.contains("127.0.0.1:1"))
            .count();
        ensure!(
            complaints < 20,
            "{complaints} lines about one wrong address"
        );
        ensure!(
            http::get(cluster.agents[0].admin(), "/readyz")?.status == 503,
            "it calls itself ready"
        );
        Ok(())
    })
}

#[test]
fn unreadable_missing_and_odd_files_stop_nothing() -> Result<()> {
    let globs = [
        "logs/*.log",
        "missing/*.log",
        "logs/folder.log",
        "logs/loop.log",
    ];
    scratch::scenario("odd-files", |folder| {
        let mut line = Line::start(folder, &globs)?;
        line.cluster.agents[0].stop_cleanly()?;
        let logs = folder.join("logs");
        let secret = logs.join("secret.log");
        fs::write(&secret, "secret\n")?;
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o000))?;
        fs::create_dir(logs.join("folder.log"))?;
        std::os::unix::fs::symlink("loop.log", logs.join("loop.log"))?;
        std::os::unix::fs::symlink("/nowhere/at/all", logs.join("dangling.log"))?;
        Plan::new("mkfifo")
            .args([logs.join("pipe.log").display().to_string()])
            .output()?;
        line.cluster.agents[0].obey_permissions();
        line.cluster.agents[0].start()?;
        line.must_still_deliver("beside-odd-files")?;
        let log = line.cluster.agents[0].log()?;
        ensure!(
            log.contains("secret.log"),
            "the log does not name the unreadable file:\n{log}"
        );
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600))?;
        line.must_hold(b"secret")?;
        line.cluster.stop()
    })
}

/// The copy of a file that was cut off may not be opened for a while: that is no reason to take what it
/// holds for lost.
#[test]
fn a_copy_that_cannot_be_opened_when_its_file_is_cut_off_is_read_when_it_can() -> Result<()> {
    locked_copy("locked-copy", "logs/*.log", 500)
}

/// The same where the task wants such files, too: it is no file of its own, of which each line would come again.
#[test]
fn a_copy_in_the_glob_that_cannot_be_opened_is_no_file_of_its_own() -> Result<()> {
    locked_copy("locked-copy-inside", "logs/*", 500)?;
    locked_copy("locked-copy-read", "logs/*", 0)
}

/// A copy that holds so many unread lines is locked for some seconds.
fn locked_copy(name: &str, pattern: &str, unread: usize) -> Result<()> {
    scratch::scenario(name, |folder| {
        let mut line = Line::start(folder, &[pattern])?;
        let (log, copy) = (folder.join("logs/a.log"), folder.join("logs/a.log.1"));
        line.cluster.agents[0].stop_cleanly()?;
        line.cluster.agents[0].obey_permissions();
        line.cluster.agents[0].start()?;
        let lines = |name: &str, count: usize| -> String {
            let lines = (0..count).map(|at| format!("{name} {at}\n"));
            lines.collect()
        };
        fs::write(&log, lines("read", 500))?;
        line.must_hold(b"read 499")?;
        line.cluster.agents[0].pause()?;
        let mut file = fs::File::options().append(true).open(&log)?;
        file.write_all(lines("unread", unread).as_bytes())?;
        fs::copy(&log, &copy)?;
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o000))?;
        file.set_len(0)?;
        file.write_all(lines("new", 500).as_bytes())?;
        line.cluster.agents[0].resume()?;
        let agent = &line.cluster.agents[0];
        poll::until_seen(
            "the status to name the copy",
            SETTLE_LIMIT,
            || Ok(agent.status()?["tasks"][0]["unreadable"].to_string()),
            |unreadable| unreadable.contains("a.log.1"),
        )?;
        // The log itself is held up by it for seconds only.
        line.must_hold(b"new 499")?;
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o600))?;
        for at in (0..unread).step_by(100) {
            line.must_hold(format!("unread {at}").as_bytes())?;
        }
        let agent = &line.cluster.agents[0];
        let none = serde_json::json!({});
        poll::until_seen(
            "the status to say that it can be read",
            SETTLE_LIMIT,
            || Ok(agent.status()?["tasks"][0].clone()),
            |task| task["unreadable"] == none && task["lost_bytes"] == none,
        )?;
        let all = 1_000 + u64::try_from(unread)?;
        ledger::must_agree(line.cluster.manager.admin(), TOPIC, all, SETTLE_LIMIT)?;
        line.cluster.stop()
    })
}

#[test]
fn binary_junk_arrives_byte_by_byte() -> Result<()> {
    check("junk", &["logs/*.log"], |line| {
        let mut random = fastrand::Rng::with_seed(5);
        let mut junk: Vec<u8> = std::iter::repeat_with(|| random.u8(..))
            .take(300_000)
            .collect();
        junk.extend(b"\n\r\n\0\n\xff\xfe\n");
        fs::write(line.folder.join("logs/junk.log"), &junk)?;
        let mut expected: Vec<&[u8]> = junk.split(|&byte| byte == b'\n').collect();
        expected.pop();
        let records = expected.len() as u64;
        ledger::must_agree(line.cluster.manager.admin(), TOPIC, records, SETTLE_LIMIT)?;
        let arrived = delivered::lines(&line.layout.delivered())?;
        let mut arrived: Vec<&[u8]> = arrived.iter().map(|(_, value)| value.as_slice()).collect();
        arrived.sort_unstable();
        expected.sort_unstable();
        ensure!(
            arrived == expected,
            "{} lines arrived, {records} were written",
            arrived.len()
        );
        Ok(())
    })
}

/// A writer that does what it should not to its files, beside one that writes a log.
#[test]
fn a_hostile_writer_slows_only_its_own_files_and_the_status_says_what_it_did() -> Result<()> {
    check("hostile", &["logs/*.log"], |line| {
        let logs = line.folder.join("logs");
        let pipe = logs.join("pipe.log").display().to_string();
        Plan::new("mkfifo").args([pipe]).output()?;
        std::os::unix::fs::symlink("/dev/zero", logs.join("device.log"))?;
        for name in [&b"two\nlines.log"[..], b"no\xff\xfetext.log"] {
            let name = std::ffi::OsStr::from_bytes(name);
            fs::write(
                logs.join(name),
                [&b"of "[..], name.as_bytes(), b"!"].concat(),
            )?;
        }
        fs::write(
            logs.join("returns.log"),
            b"one\rline\r\n\xc3\x28\na \0 in it\n",
        )?;
        let socket = std::os::unix::net::UnixListener::bind(logs.join("socket.log"))?;
        // A hole without a line before it, then a line longer than a record may be.
        let hole = fs::File::create(logs.join("hole.log"))?;
        hole.write_all_at(b"behind the hole\n", 64 << 20)?;
        let mut long = vec![b'l'; 3 << 20];
        long.push(b'\n');
        fs::write(logs.join("long.log"), long)?;
        // A file that shrinks again and again while it is read.
        let shrinks = fs::File::create(logs.join("shrinks.log"))?;
        for round in 0..6_u64 {
            shrinks.write_all_at(&b"gone in a moment\n".repeat(20_000), 0)?;
            line.must_still_deliver(&format!("beside-{round}"))?;
            shrinks.set_len(round)?;
        }
        line.must_hold(b"behind the hole")?;
        // A line without an end is a record, a carriage return alone is none's end.
        for wanted in [
            &b"of no\xff\xfetext.log!"[..],
            b"one\rline\r",
            b"\xc3\x28",
            b"a \0 in it",
        ] {
            line.must_hold(wanted)?;
        }
        line.must_hold(b"lines.log!")?;
        let agent = &line.cluster.agents[0];
        poll::until_seen(
            "the status to say what it did",
            SETTLE_LIMIT,
            || Ok(agent.status()?["tasks"][0].clone()),
            |task| {
                let count = |name: &str| task[name].as_u64().unwrap_or_default();
                let left_out = task["left_out"].as_array().map_or(0, Vec::len);
                let bad = |reason: &str| task["bad_input"][reason].as_u64().unwrap_or_default();
                let once = [
                    "nul",
                    "lone-carriage-return",
                    "hole",
                    "long-line",
                    "control-character-in-name",
                    "name-not-utf-8",
                    "pipe",
                    "socket",
                    "device",
                ];
                left_out == 3
                    && count("hole_bytes") >= 60 << 20
                    && count("truncations") >= 1
                    && count("split_records") >= 3
                    && once.iter().all(|reason| bad(reason) == 1)
                    // The file with such a name has it in a line, too.
                    && bad("not-utf-8") == 2
                    && bad("shrunk") + bad("rewritten") == count("truncations")
            },
        )?;
        let counted = agent.metric("tributary_agent_bad_input_total")?;
        ensure!(counted >= 12.0, "the metrics count {counted}");
        // What is good afterwards takes nothing of it back.
        drop(socket);
        line.must_still_deliver("something-good")?;
        let task = line.cluster.agents[0].status()?["tasks"][0].clone();
        ensure!(task["bad_input"]["not-utf-8"] == 2, "{task}");
        Ok(())
    })
}

/// It would read what it says about reading it, for ever.
#[test]
fn an_agent_collects_neither_its_own_log_nor_its_state() -> Result<()> {
    let globs = ["logs/*.log", "agent-0/log", "agent-0/state/**"];
    check("own-files", &globs, |line| {
        let own = line.folder.join("agent-0/log");
        ensure!(own.try_exists()?, "the agent's log is elsewhere");
        for mark in ["first", "second", "third"] {
            line.must_still_deliver(mark)?;
        }
        let lines = delivered::lines(&line.layout.delivered())?;
        ensure!(lines.len() == 3, "{} lines arrived", lines.len());
        Ok(())
    })
}

/// A hole of 1 GiB without a newline: it is cut into records of 1 MiB, counted, and stops nothing.
#[test]
fn one_line_of_a_gibibyte_is_cut_and_stops_nothing() -> Result<()> {
    const GIB: u64 = 1 << 30;
    check("long-line", &["logs/*.log"], |line| {
        let file = fs::File::create(line.folder.join("logs/long.log"))?;
        // Without a beginning it would be a hole.
        file.write_all_at(b"x", 0)?;
        file.write_all_at(b"\n", GIB)?;
        line.must_still_deliver("beside-a-long-line")?;
        poll::until_seen(
            "the long line to be delivered in pieces",
            SETTLE_LIMIT * 2,
            || ledger::topic(line.cluster.manager.admin(), TOPIC),
            |counts| counts.delivered >= 1_024 && counts.in_flight == 0,
        )?;
        let bytes: usize = delivered::lines(&line.layout.delivered())?
            .iter()
            .map(|(_, value)| value.len())
            .sum();
        let expected = usize::try_from(GIB)? + "beside-a-long-line".len();
        ensure!(
            bytes == expected,
            "{bytes} bytes arrived instead of {expected}"
        );
        Ok(())
    })
}

#[test]
fn a_full_state_disk_is_said_and_does_not_stop_the_lines() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        tributary_tests::say("not run: only root can mount a small disk");
        return Ok(());
    }
    scratch::scenario("full-disk", |folder| {
        let state = folder.join("agent-0/state");
        fs::create_dir_all(&state)?;
        let disk = state.display().to_string();
        Plan::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs", &disk])
            .output()?;
        let told = on_a_full_disk(folder, &state);
        Plan::new("umount").args(["-l", &disk]).output()?;
        told
    })
}

fn on_a_full_disk(folder: &Path, state: &Path) -> Result<()> {
    let line = Line::start(folder, &["logs/*.log"])?;
    line.must_still_deliver("before")?;
    let mut ballast = fs::File::create(state.join("ballast"))?;
    let full = ballast.write_all(&vec![0; 2 << 20]).is_err();
    ensure!(full, "the small disk took everything");
    // The last page of the checkpoint still has room: a hundred cuts do not fit.
    for number in 0..100 {
        fs::write(
            folder.join(format!("logs/full-{number}.log")),
            format!("full {number}\n"),
        )?;
    }
    for number in 0..100 {
        line.must_hold(format!("full {number}").as_bytes())?;
    }
    poll::until_seen(
        "the agent to say that its disk is full",
        Duration::from_secs(30),
        || line.cluster.agents[0].log(),
        |log| log.to_lowercase().contains("no space"),
    )?;
    drop(ballast);
    fs::remove_file(state.join("ballast"))?;
    line.must_still_deliver("after")
}

/// What the bus does with a connection that was upgraded and then says `bytes`: it must close it.
fn must_be_closed(line: &Line<'_>, bytes: &[u8]) -> Result<()> {
    let (answer, mut stream) = http::upgrade(&line.cluster.listen, "/v1/stream", "tributary/1")?;
    ensure!(
        answer.status == 101,
        "the upgrade is answered by {}",
        answer.status
    );
    // It may close before it has taken all.
    let sent = stream.write_all(bytes);
    let mut said = Vec::new();
    match stream.read_to_end(&mut said) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(()),
        Err(error) => Err(error).context(format!("the bus did not close ({sent:?}, {said:?})")),
    }
}

#[test]
fn frames_of_random_bytes_and_absurd_lengths_end_only_their_connection() -> Result<()> {
    check("bad-frames", &["logs/*.log"], |line| {
        let mut random = fastrand::Rng::with_seed(3);
        for length in [6, 100, 5_000, 300_000] {
            let mut junk: Vec<u8> = std::iter::repeat_with(|| random.u8(..))
                .take(length)
                .collect();
            junk[0] |= 0x80; // surely no length
            must_be_closed(line, &junk)?;
        }
        must_be_closed(line, &[0xff; 6])?;
        must_be_closed(line, &[0x7f, 0xff, 0xff, 0xff, 0, 10, 3, 1])?;
        must_be_closed(line, &[0, 0, 0, 9, 0, 0, 1, 2, 3])?;
        must_be_closed(line, &[0, 0, 0, 1, 0, 1, 77])?;
        let log = line.cluster.bus.log()?;
        ensure!(
            log.contains("4294967295"),
            "the log does not name the absurd length:\n{log}"
        );
        Ok(())
    })
}

#[test]
fn an_unknown_protocol_version_is_refused_by_name() -> Result<()> {
    check("bad-version", &["logs/*.log"], |line| {
        let (answer, mut stream) =
            http::upgrade(&line.cluster.listen, "/v1/stream", "tributary/99")?;
        ensure!(
            (400..500).contains(&answer.status),
            "it answers {}",
            answer.status
        );
        let mut body = [0; 512];
        let read = stream.read(&mut body)?;
        let said = format!("{}{}", answer.head, String::from_utf8_lossy(&body[..read]));
        ensure!(
            said.contains("tributary/1"),
            "it does not name its own version: {said}"
        );
        Ok(())
    })
}
