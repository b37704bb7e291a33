//! The keys of `kind = "hdfs"` and `kind = "file"`, and what must hold of them.
//!
//! Called by the check of the whole. Not for: what Hadoop's own keys mean, which the destination finds
//! out when it starts.

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;
use tributary_common::{
    config::{Checker, Key, Kind, Schema, Variant},
    disk,
};

use super::{
    Compression, DestinationKind, Hdfs, Kerberos, Place, Raw, RawKind, Roll, RolledConfig,
    check_template,
};
use crate::template::Template;

static ROLL: Schema = Schema::new(
    "When a file is complete. Until then its batches are in the spill, which has to hold them.",
    &[
        Key::default(
            "size",
            Kind::size("64KiB", "64GiB"),
            "256MiB",
            "At so many bytes as they are stored.",
        ),
        Key::default(
            "after",
            Kind::duration("1s", "24h"),
            "10m",
            "So long after its first batch: a slow topic makes at most one file in that time.",
        ),
    ],
);

/// The folder of a batch.
const PATH: Key = Key::required(
    "path",
    Kind::checked(
        "path template",
        "/logs/{topic}/dt={date}/hour={hour}",
        check_template,
    ),
    "The folder of a batch; {topic}, {date} and {hour} (UTC) are filled in.",
);

static KEYS: &[Key] = &[
    Key::required(
        "url",
        Kind::Url(&["hdfs"]),
        "A NameNode, such as hdfs://nn1:8020, or a name service, whose NameNodes stand in options.",
    ),
    PATH,
    Key::table("roll", &ROLL),
    Key::default(
        "merge_below",
        Kind::size("0B", "1GiB"),
        "0B",
        "A topic that writes less than this in roll.after, before compression, goes into files with the other slow topics of its class, with slow-p0 to slow-p3 in the place of {topic}; each file's manifest says whose its lines are. 0B: never.",
    ),
    Key::default(
        "compression",
        Kind::choice(&["zstd", "gzip", "none"]),
        "zstd",
        "How files are compressed: .log.zst, .log.gz or .log.",
    ),
    Key::default(
        "user",
        Kind::Text,
        "tributary",
        "Whose the files are, where HDFS does not ask for Kerberos.",
    ),
    Key::optional_table("kerberos", &KERBEROS),
    Key::default(
        "options",
        Kind::Map(&Kind::Text),
        "{}",
        "Keys of Hadoop's client configuration, such as \"dfs.nameservices\", \"dfs.ha.namenodes.ns1\" and \"dfs.namenode.rpc-address.ns1.nn1\". \"dfs.client.socket-timeout\" (ms, 60000 when left out) is how long a call may take.",
    ),
];

/// The form of the table within it.
static KERBEROS: Schema = Schema::new(
    "Who writes, where HDFS asks for Kerberos. Where it asks DataNodes' clients, too, \"dfs.data.transfer.protection\" in options has to be as it is there. Without it, and with \"hadoop.security.authentication\" = \"kerberos\" in options, the process's own tickets are shown (KRB5CCNAME). MIT's libgssapi_krb5 has to be installed; KRB5_CONFIG names another krb5.conf.",
    &[
        Key::required(
            "principal",
            Kind::Text,
            "Such as \"tributary@EXAMPLE.COM\".",
        ),
        Key::required(
            "keytab",
            Kind::Path,
            "The file with its keys; tickets are got by them when they are needed.",
        ),
    ],
);

/// The form of a table with `kind = "hdfs"`.
pub(super) const HDFS: Variant = Variant::new(
    "hdfs",
    "Files in HDFS, each whole or not there. Everything for it goes over the spill, which must not be 0B.",
    KEYS,
);

static FILE_KEYS: &[Key] = &[
    PATH,
    Key::optional_table("roll", &ROLL),
    Key::optional(
        "compression",
        Kind::choice(&["zstd", "gzip", "none"]),
        "How files are compressed: .log.zst, .log.gz or .log. Absent: zstd where roll or merge_below stands.",
    ),
    Key::optional(
        "merge_below",
        Kind::size("0B", "1GiB"),
        "As with kind = \"hdfs\".",
    ),
];

/// The form of a table with `kind = "file"`.
pub(super) const FILE: Variant = Variant::new(
    "file",
    "Files on this machine. With path alone, lines are appended to one file of each node and folder, where they can be read at once. With any other key, files are as in HDFS: each whole or not there, compressed, with a manifest beside it; everything goes over the spill then, which must not be 0B.",
    FILE_KEYS,
);

/// A table with `kind = "file"` as it is written.
#[derive(Debug, Deserialize)]
pub(super) struct RawFile {
    pub(super) path: String,
    roll: Option<RawRoll>,
    compression: Option<Compression>,
    merge_below: Option<u64>,
}

impl RawFile {
    /// Whether files appear whole; otherwise lines are appended.
    fn is_rolled(&self) -> bool {
        self.roll.is_some() || self.compression.is_some() || self.merge_below.is_some()
    }

    /// Checks what the schema cannot.
    pub(super) fn check(self, at: usize, checker: &mut Checker) -> Option<DestinationKind> {
        if self.is_rolled() {
            let files = RolledConfig {
                place: Place::Local,
                path: check_path(&self.path, at, checker)?,
                roll: self.roll.unwrap_or(UNSAID).into(),
                merge_below: self.merge_below.unwrap_or_default(),
                compression: self.compression.unwrap_or(Compression::Zstd),
            };
            check_merging(&self.path, files.merge_below, at, checker);
            return Some(DestinationKind::Rolled(files));
        }
        check_time(&self.path, at, checker);
        let (path, key) = (self.path, format!("destination[{at}].path"));
        if path.split('/').any(|part| part == "..") {
            let why = format!("{path:?} climbs out of its folders; say where it leads without ..");
            checker.fault(&key, why);
        }
        let path = checker.take(&key, Template::parse(&path))?;
        Some(DestinationKind::File { path })
    }
}

/// A folder below the root.
fn check_path(path: &str, at: usize, checker: &mut Checker) -> Option<Template> {
    let key = format!("destination[{at}].path");
    let climbs = path.split('/').any(|part| matches!(part, "." | ".."));
    if !path.starts_with('/') || climbs {
        let why = format!(
            "{path:?} is no folder below the root; it begins with / and holds neither . nor .."
        );
        checker.fault(&key, why);
    }
    check_time(path, at, checker);
    checker.take(&key, Template::parse(path.trim_end_matches('/')))
}

fn check_time(path: &str, at: usize, checker: &mut Checker) {
    if path.contains("{hour}") && !path.contains("{date}") {
        let why = "has {hour} and no {date}: what came in this hour of any day lies together";
        checker.warn(&format!("destination[{at}].path"), why);
    }
}

fn check_merging(path: &str, merge_below: u64, at: usize, checker: &mut Checker) {
    if merge_below > 0 && !path.contains("{topic}") {
        let why = "does nothing, for path has no {topic}: topics share their files as it is";
        checker.warn(&format!("destination[{at}].merge_below"), why);
    }
}

/// A table with `kind = "hdfs"` as it is written.
#[derive(Debug, Deserialize)]
pub(super) struct RawHdfs {
    url: String,
    pub(super) path: String,
    roll: RawRoll,
    merge_below: u64,
    compression: Compression,
    user: String,
    kerberos: Option<Kerberos>,
    options: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
struct RawRoll {
    size: u64,
    after: u64,
}

/// As the schema has it where nothing is said.
const UNSAID: RawRoll = RawRoll {
    size: 256 << 20,
    after: 600_000,
};

impl From<RawRoll> for Roll {
    fn from(raw: RawRoll) -> Self {
        Self {
            size: raw.size,
            after: Duration::from_millis(raw.after),
        }
    }
}

impl RawHdfs {
    /// Checks what the schema cannot.
    pub(super) fn check(self, at: usize, checker: &mut Checker) -> Option<RolledConfig> {
        let key = |name: &str| format!("destination[{at}].{name}");
        let address = self.url.trim_start_matches("hdfs://");
        let (host, rest) = address.split_once('/').unwrap_or((address, ""));
        if host.is_empty() || !rest.is_empty() {
            let why = format!(
                "{:?} is no address; it is like hdfs://nn1:8020 or hdfs://nameservice1, and folders belong into path",
                self.url
            );
            checker.fault(&key("url"), why);
        }
        let nodes = format!("dfs.ha.namenodes.{host}");
        if !host.contains(':') && !self.options.contains_key(&nodes) {
            let why = format!(
                "has no port, so {host:?} is a name service; its NameNodes are taken from HADOOP_CONF_DIR, for options has no {nodes:?}"
            );
            checker.warn(&key("url"), &why);
        }
        let path = check_path(&self.path, at, checker)?;
        check_merging(&self.path, self.merge_below, at, checker);
        let limit = self.options.get("dfs.client.socket-timeout");
        if let Some(limit) = limit.filter(|ms| !ms.parse::<u64>().is_ok_and(|ms| ms > 0)) {
            let why =
                format!("\"dfs.client.socket-timeout\" is {limit:?}; it is a number of ms above 0");
            checker.fault(&key("options"), why);
        }
        if let Some(Kerberos { principal, keytab }) = &self.kerberos {
            if principal.is_empty() || principal.ends_with('@') || principal.starts_with('@') {
                let why =
                    format!("{principal:?} is no principal; one is like tributary@EXAMPLE.COM");
                checker.fault(&key("kerberos.principal"), why);
            }
            if let Err(error) = disk::open_read(keytab) {
                checker.fault(&key("kerberos.keytab"), error);
            }
        }
        let place = Place::Hdfs(Hdfs {
            url: self.url,
            user: self.user,
            kerberos: self.kerberos,
            options: self.options,
        });
        Some(RolledConfig {
            place,
            path,
            roll: self.roll.into(),
            merge_below: self.merge_below,
            compression: self.compression,
        })
    }
}

/// What is on its way to a file that is not complete is nowhere but in the spill.
pub(super) fn needs_a_spill(raw: &Raw, checker: &mut Checker) {
    let needs = |kind: &RawKind| match kind {
        RawKind::Hdfs(_) => Some("a destination of kind hdfs"),
        RawKind::File(file) if file.is_rolled() => {
            Some("a destination of kind file with roll, compression or merge_below")
        }
        _ => None,
    };
    let who = raw.destination.iter().find_map(|one| needs(&one.kind));
    if let Some(who) = who.filter(|_who| raw.spill.limits().is_none()) {
        let why = format!(
            "is 0B; {who} needs a spill: it holds each batch until the batch's file is complete"
        );
        checker.fault("spill.max", why);
    }
}
