//! A daemon from outside: arguments, signals, exit codes. The daemon is this test program, started
//! again with the one test [`the_daemon_itself`].

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

use super::*;
use crate::{
    config::{Key, Kind, Schema},
    disk,
    telemetry::LOG,
};

/// Tells the child its arguments, with newlines between.
const ARGS: &str = "DAEMON_TEST_ARGS";

static SCHEMA: Schema = Schema::new(
    "A daemon for tests.",
    &[
        Key::default("act", Kind::choice(ACTS), "wait", "What it does."),
        Key::default("dir", Kind::Path, "/tmp", "Where it works."),
        Key::optional("token", Kind::Text, "What it knows.").secret(),
        Key::table("log", &LOG),
    ],
);

const ACTS: &[&str] = &["wait", "deaf", "fail", "panic", "lock", "reload", "block"];

#[derive(Debug, Clone, serde::Deserialize)]
struct Config {
    act: String,
    dir: PathBuf,
    log: Log,
}

fn part() -> Part<Config> {
    Part {
        name: "test",
        about: "A daemon for tests",
        version: "1.2.3",
        workers: 1,
        load: |path, env| crate::config::load("test", &SCHEMA, path, env, |raw, _| Some(raw)),
        log: |config| &config.log,
    }
}

async fn run(config: Config, signals: Signals<Config>) -> anyhow::Result<()> {
    let Signals { stop, reload } = signals;
    // Only one act reloads; the others say that they cannot, before they are up.
    let reload = (config.act == "reload").then_some(reload);
    tracing::info!("up");
    match config.act.as_str() {
        "wait" => stop.cancelled().await,
        "deaf" => std::future::pending().await,
        "block" => std::thread::sleep(Duration::from_secs(600)),
        "panic" => panic!("on purpose"),
        "lock" => drop(disk::Lock::acquire(&config.dir)?),
        "reload" => {
            let again = reload.unwrap().next().await;
            assert_eq!(again.unwrap().value.act, "reload");
        }
        _fail => anyhow::bail!("on purpose"),
    }
    Ok(())
}

/// The child of the other tests; for them alone.
#[test]
fn the_daemon_itself() {
    let Ok(args) = std::env::var(ARGS) else {
        return;
    };
    // A daemon that outlives its test would hold the test's pipes for ever.
    std::thread::spawn(|| {
        std::thread::sleep(Duration::from_secs(60));
        end(99)
    });
    let args =
        std::iter::once("tributary-test").chain(args.split('\n').filter(|arg| !arg.is_empty()));
    let code = with_args(&part(), args.map(OsString::from), run);
    let code = [EXIT_FAILURE, EXIT_CONFIG, EXIT_HELD]
        .into_iter()
        .find(|known| ExitCode::from(*known) == code)
        .unwrap_or(0);
    end(code)
}

#[expect(
    clippy::disallowed_methods,
    clippy::exit,
    reason = "the child's exit code is tested"
)]
fn end(code: u8) -> ! {
    std::process::exit(code.into())
}

/// A running child with its configuration.
struct Daemon {
    child: Child,
    log: BufReader<std::process::ChildStderr>,
    _dir: tempfile::TempDir,
}

impl Daemon {
    /// Starts a child with this configuration, further arguments and variables.
    fn start(config: &str, args: &[&str], env: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.toml");
        disk::replace(&path, config.as_bytes()).unwrap();
        let args = format!("--config\n{}\n{}", path.display(), args.join("\n"));
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "daemon::tests::the_daemon_itself", "--nocapture"])
            .env(ARGS, args)
            .env("RUST_BACKTRACE", "0")
            .envs(env.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        Self {
            child,
            log,
            _dir: dir,
        }
    }

    /// Reads the log up to a line with this text.
    fn wait_for(&mut self, text: &str) {
        let mut line = String::new();
        while !line.contains(text) {
            line.clear();
            assert_ne!(
                self.log.read_line(&mut line).unwrap(),
                0,
                "the log ends before {text:?}"
            );
        }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// The exit code, stdout and the rest of stderr.
    fn end(mut self) -> (i32, String, String) {
        let (mut out, mut log) = (String::new(), String::new());
        self.log.read_to_string(&mut log).unwrap();
        self.child
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut out)
            .unwrap();
        (self.child.wait().unwrap().code().unwrap(), out, log)
    }
}

/// Runs a child to its end and compares exit code, a piece of stdout, a piece of stderr.
#[track_caller]
fn check(config: &str, args: &[&str], wanted: (i32, &str, &str)) {
    let (code, out, log) = Daemon::start(config, args, &[]).end();
    assert_eq!(code, wanted.0, "{out}\n{log}");
    assert!(out.contains(wanted.1), "{out}");
    assert!(log.contains(wanted.2), "{log}");
}

#[test]
fn questions_are_answered_without_a_start() {
    check("", &["--version"], (0, "tributary-test 1.2.3", ""));
    check("", &["--help"], (0, "TRIBUTARY_TEST_<KEY>", ""));
    check("", &["--check"], (0, "t.toml is good", ""));
    check(
        "token = 'x'",
        &["--print-config"],
        (0, "token = \"<redacted>\"\n\n[log]\n", ""),
    );
    // Checked and printed: what a pipe takes is the configuration alone.
    let both = ["--check", "--print-config"];
    check(
        "token = 'x'",
        &both,
        (0, "token = \"<redacted>\"\n\n[log]\n", "t.toml is good"),
    );
    check("dir = 2", &both, (2, "", "t.toml:1:7: dir: 2 is no text"));
}

#[test]
fn bad_arguments_and_bad_configurations_give_2() {
    check("", &["--wat"], (2, "", "unexpected argument '--wat'"));
    check(
        "acct = 1\ndir = 2",
        &["--check"],
        (2, "", "t.toml:2:7: dir: 2 is no text"),
    );
    check(
        "acct = 1\ndir = 2",
        &[],
        (2, "", "t.toml:1:1: acct: is unknown; did you mean \"act\"?"),
    );
    check(
        "",
        &["--config", "/no/such"],
        (2, "", "cannot be used multiple times"),
    );
}

#[test]
fn a_failure_or_a_panic_gives_1() {
    check("act = 'fail'", &[], (1, "", "\"error\":\"on purpose\""));
    check("act = 'panic'", &[], (1, "", "on purpose"));
}

#[test]
fn a_held_folder_gives_3() {
    let dir = tempfile::tempdir().unwrap();
    let _lock = disk::Lock::acquire(dir.path()).unwrap();
    let config = format!("act = 'lock'\ndir = '{}'", dir.path().display());
    check(&config, &[], (3, "", "is held by another process"));
}

#[test]
fn the_environment_is_heard() {
    let (code, out, log) = Daemon::start("", &[], &[("TRIBUTARY_TEST_ACT", "fail")]).end();
    assert_eq!(code, 1, "{out}\n{log}");
    let (code, _, log) = Daemon::start("", &["--check"], &[("TRIBUTARY_TEST_ATC", "x")]).end();
    assert_eq!(code, 2);
    assert!(
        log.contains("TRIBUTARY_TEST_ATC: gives no key; did you mean TRIBUTARY_TEST_ACT?"),
        "{log}"
    );
}

#[test]
fn sigterm_and_sigint_stop_it_in_order() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut daemon = Daemon::start("", &[], &[]);
        daemon.wait_for("\"up\"");
        daemon.signal(signal);
        let (code, _, log) = daemon.end();
        assert_eq!(code, 0, "{log}");
        assert!(log.contains("test has stopped"), "{log}");
    }
}

#[test]
fn a_second_signal_aborts_it_even_when_a_thread_is_blocked() {
    for act in ["deaf", "block"] {
        let mut daemon = Daemon::start(&format!("act = '{act}'"), &[], &[]);
        daemon.wait_for("\"up\"");
        daemon.signal(Signal::TERM);
        daemon.wait_for("test stops");
        daemon.signal(Signal::TERM);
        let (code, _, log) = daemon.end();
        assert_eq!(code, 1, "{log}");
        assert!(log.contains("aborted by a second signal"), "{log}");
    }
}

#[test]
fn sighup_reloads_or_says_that_it_cannot() {
    let mut daemon = Daemon::start("act = 'reload'", &[], &[]);
    daemon.wait_for("\"up\"");
    daemon.signal(Signal::HUP);
    assert_eq!(daemon.end().0, 0);

    let mut daemon = Daemon::start("", &[], &[]);
    daemon.wait_for("\"up\"");
    daemon.signal(Signal::HUP);
    daemon.wait_for("cannot reload its configuration; restart it instead");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.end().0, 0);
}
