//! The manager's settings: every key with its unit, default and reason.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::Deserialize;
use tributary_common::{
    config::{self, Checker, Env, Faults, Key, Kind, Loaded, Schema},
    disk,
    telemetry::{LOG, Log},
    tls,
};

/// What stands in front of the path of a SQLite database.
const SQLITE: &str = "sqlite://";

/// The manager's settings, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the API and the console listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The SQLite file. It and its folder are made when they are missing.
    pub database: PathBuf,
    /// How the process logs.
    pub log: Log,
    /// The token that reports must bring; none: reports are taken from everybody who can connect.
    pub report_token: Option<String>,
    /// The token of who may change what agents and bus nodes do; none: whoever is on this host may.
    pub admin_token: Option<String>,
    /// How long facts are kept after they were last touched.
    pub keep_facts: Duration,
    /// The port speaks TLS.
    pub tls: Option<Arc<tls::Acceptor>>,
}

impl Config {
    /// The settings of a manager on one machine, for `tributary up` and tests: defaults, with this
    /// address and database file.
    #[must_use]
    pub fn local(listen: SocketAddr, database: PathBuf) -> Self {
        Self {
            listen,
            database,
            log: Log::default(),
            report_token: None,
            admin_token: None,
            keep_facts: Duration::from_secs(7 * 24 * 3600),
            tls: None,
        }
    }
}

static AUTH: Schema = Schema::new(
    "Who may do what. Reading needs no login in this version: listen on a private address.",
    &[
        Key::optional(
            "report_token_file",
            Kind::Path,
            "A file with the token that agents and bus nodes must send with their reports (their \
             manager.token_file); without it every report is taken.",
        ),
        Key::optional(
            "admin_token_file",
            Kind::Path,
            "A file with the token that a request must bring that changes what agents collect or where topics go; \
             without it such requests are taken from this host alone, behind a proxy from everybody.",
        ),
        Key::optional("users", Kind::Any, "Local users.")
            .not_yet("listen on a private address instead"),
        Key::optional("oidc", Kind::Any, "Single sign-on.")
            .not_yet("listen on a private address instead"),
    ],
);

static RETENTION: Schema = Schema::new(
    "How long the manager remembers.",
    &[Key::default(
        "facts",
        Kind::duration("1h", "3650d"),
        "7d",
        "How long counts, losses and nodes are kept after the last report that touched them.",
    )],
);

/// The keys of `manager.toml`.
pub static SCHEMA: Schema = Schema::new(
    "The manager: takes the reports of agents and bus nodes, answers per topic, minute and hop, \
     and serves the console.",
    &[
        Key::default(
            "listen",
            Kind::Socket,
            "127.0.0.1:7500",
            "Where the API and the console listen.",
        ),
        Key::default(
            "database",
            Kind::checked(
                "database",
                "sqlite:///var/lib/tributary/manager.db",
                check_database,
            ),
            "sqlite:///var/lib/tributary/manager.db",
            "The database file, made with its folder when it is missing.",
        ),
        Key::table("log", &LOG),
        Key::table("auth", &AUTH),
        Key::table("retention", &RETENTION),
        Key::optional_table("tls", &tls::ACCEPTOR),
        Key::optional("alerts", Kind::Any, "Whom to tell.")
            .not_yet("watch /metrics and /api/v1/topics instead"),
    ],
);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    listen: SocketAddr,
    database: String,
    log: Log,
    auth: RawAuth,
    retention: RawRetention,
    tls: Option<tls::AcceptorSettings>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAuth {
    report_token_file: Option<PathBuf>,
    admin_token_file: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRetention {
    /// In ms.
    facts: u64,
}

fn check_database(text: &str) -> Result<(), String> {
    if text.starts_with("postgres://") || text.starts_with("postgresql://") {
        return Err(format!(
            "{text:?}: PostgreSQL is not in this version; allowed is sqlite:///path/to/file.db"
        ));
    }
    match text.strip_prefix(SQLITE) {
        Some(path) if path.starts_with('/') && !path.ends_with('/') => Ok(()),
        Some(_) | None => Err(format!(
            "{text:?} is no database; allowed is sqlite:// and an absolute path, such as \
             sqlite:///var/lib/tributary/manager.db"
        )),
    }
}

fn check(raw: Raw, checker: &mut Checker) -> Option<Config> {
    let mut token = |key: &str, path: Option<&PathBuf>| match path {
        Some(path) => checker.take(key, disk::read_secret(path)).map(Some),
        None => Some(None),
    };
    let report_token = token(
        "auth.report_token_file",
        raw.auth.report_token_file.as_ref(),
    );
    let admin_token = token("auth.admin_token_file", raw.auth.admin_token_file.as_ref());
    let (report_token, admin_token) = (report_token?, admin_token?);
    if report_token.is_none() && !raw.listen.ip().is_loopback() {
        checker.warn(
            "listen",
            "other hosts can reach the manager, and without auth.report_token_file it takes \
             reports from all of them",
        );
    }
    let tls = match raw.tls {
        Some(tls) => Some(tls.check(checker)?),
        None => None,
    };
    Some(Config {
        listen: raw.listen,
        database: raw.database.trim_start_matches(SQLITE).into(),
        log: raw.log,
        report_token,
        admin_token,
        keep_facts: Duration::from_millis(raw.retention.facts),
        tls,
    })
}

/// Loads the settings from a file.
///
/// # Errors
/// All faults at once.
pub fn load(path: &Path, env: &Env) -> Result<Loaded<Config>, Faults> {
    config::load("manager", &SCHEMA, path, env, check)
}

/// Loads the settings from text. `name` stands in faults where a file's name would.
///
/// # Errors
/// All faults at once.
pub fn parse(text: &str, name: &str, env: &Env) -> Result<Loaded<Config>, Faults> {
    config::parse("manager", &SCHEMA, text, name, env, check)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn good(text: &str) -> Loaded<Config> {
        parse(text, "manager.toml", &Env::none()).unwrap_or_else(|faults| panic!("{faults}"))
    }

    /// The text must be refused, and the faults must have all these words.
    fn check_refused(text: &str, words: &[&str]) {
        let faults = parse(text, "manager.toml", &Env::none())
            .unwrap_err()
            .to_string();
        for word in words {
            assert!(faults.contains(word), "{word:?} in {faults}");
        }
    }

    #[test]
    fn nothing_given_means_the_defaults() {
        let config = good("").value;
        assert_eq!(config.listen.to_string(), "127.0.0.1:7500");
        assert_eq!(config.database, Path::new("/var/lib/tributary/manager.db"));
        assert_eq!(config.keep_facts, Duration::from_secs(7 * 24 * 3600));
        assert_eq!(config.report_token, None);
        let local = Config::local(config.listen, config.database.clone());
        assert_eq!(
            (local.keep_facts, local.report_token),
            (config.keep_facts, None)
        );
    }

    #[test]
    fn given_keys_count() {
        let folder = TempDir::new().unwrap();
        let token = folder.path().join("token");
        std::fs::write(&token, "s3cret\n").unwrap();
        let loaded = good(&format!(
            "listen = \"0.0.0.0:80\"\ndatabase = \"sqlite:///data/m.db\"\n\
             [auth]\nreport_token_file = {token:?}\nadmin_token_file = {token:?}\n[retention]\nfacts = \"30d\"\n\
             [log]\nlevel = \"debug\"\n"
        ));
        assert!(loaded.warnings().is_empty(), "{:?}", loaded.warnings());
        assert!(!loaded.effective().contains("s3cret"));
        let config = loaded.value;
        assert_eq!(config.database, Path::new("/data/m.db"));
        assert_eq!(config.report_token.as_deref(), Some("s3cret"));
        assert_eq!(config.admin_token.as_deref(), Some("s3cret"));
        assert_eq!(config.keep_facts, Duration::from_secs(30 * 24 * 3600));
        assert_eq!(config.log.level, "debug");
    }

    #[test]
    fn an_open_manager_is_warned_of() {
        let warnings = good("listen = \"0.0.0.0:7500\"").warnings().to_vec();
        assert!(
            warnings[0].to_string().contains("auth.report_token_file"),
            "{warnings:?}"
        );
    }

    #[test]
    fn all_faults_are_told_at_once() {
        check_refused(
            "listn = \"127.0.0.1:1\"\ndatabase = \"mysql://x\"\n[retention]\nfacts = \"1s\"\n",
            &["listn", "listen", "mysql://x", "sqlite:///", "facts"],
        );
        check_refused(
            "database = \"postgres://h/db\"",
            &["PostgreSQL is not in this version"],
        );
        check_refused("database = \"sqlite://relative.db\"", &["absolute path"]);
        check_refused("[tls]\ncert = \"a\"\n", &["tls.key"]);
        check_refused(
            "[auth]\nreport_token_file = \"/nowhere/token\"\nadmin_token_file = \"/nowhere/else\"\n",
            &["/nowhere/token", "/nowhere/else"],
        );
    }
}
