//! The keys of `kind = "hdfs"`, and what must hold of them.
//!
//! Called by the check of the whole. Not for: what Hadoop's own keys mean, which the destination finds
//! out when it starts.

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;
use tributary_common::{
    config::{Checker, Key, Kind, Schema, Variant},
    disk,
};

use super::{Compression, HdfsConfig, Kerberos, Raw, RawKind, Roll, check_template};
use crate::template::Template;

static ROLL: Schema = Schema::new(
    "When a file is complete. Until then its batches are in the spill, which has to hold them.",
    &[
        Key::default(
            "size",
            Kind::size("64KiB", "64GiB"),
            "256MiB",
            "At so many bytes in HDFS.",
        ),
        Key::default(
            "after",
            Kind::duration("1s", "24h"),
            "10m",
            "So long after its first batch: a slow topic makes at most one file in that time.",
        ),
    ],
);

static KEYS: &[Key] = &[
    Key::required(
        "url",
        Kind::Url(&["hdfs"]),
        "A NameNode, such as hdfs://nn1:8020, or a name service, whose NameNodes stand in options.",
    ),
    Key::required(
        "path",
        Kind::checked(
            "path template",
            "/logs/{topic}/dt={date}/hour={hour}",
            check_template,
        ),
        "The folder of a batch; {topic}, {date} and {hour} (UTC) are filled in.",
    ),
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

/// The form of the table.
pub(super) const VARIANT: Variant = Variant::new(
    "hdfs",
    "Files in HDFS, each whole or not there. Everything for it goes over the spill, which must not be 0B.",
    KEYS,
);

/// The table as it is written.
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

#[derive(Debug, Deserialize)]
struct RawRoll {
    size: u64,
    after: u64,
}

impl RawHdfs {
    /// Checks what the schema cannot.
    pub(super) fn check(self, at: usize, checker: &mut Checker) -> Option<HdfsConfig> {
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
        let climbs = self.path.split('/').any(|part| matches!(part, "." | ".."));
        if !self.path.starts_with('/') || climbs {
            let why = format!(
                "{:?} is no folder below the root; it begins with / and holds neither . nor ..",
                self.path
            );
            checker.fault(&key("path"), why);
        }
        let path = checker.take(
            &key("path"),
            Template::parse(self.path.trim_end_matches('/')),
        )?;
        if self.merge_below > 0 && !self.path.contains("{topic}") {
            let why = "does nothing, for path has no {topic}: topics share their files as it is";
            checker.warn(&key("merge_below"), why);
        }
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
        Some(HdfsConfig {
            url: self.url,
            path,
            roll: Roll {
                size: self.roll.size,
                after: Duration::from_millis(self.roll.after),
            },
            merge_below: self.merge_below,
            compression: self.compression,
            user: self.user,
            kerberos: self.kerberos,
            options: self.options,
        })
    }
}

/// What is on its way to HDFS is nowhere but in the spill.
pub(super) fn needs_a_spill(raw: &Raw, checker: &mut Checker) {
    let mut destinations = raw.destination.iter();
    let hdfs = destinations.any(|one| matches!(one.kind, RawKind::Hdfs(_)));
    if hdfs && raw.spill.limits().is_none() {
        let why = "is 0B; a destination of kind hdfs needs a spill: it holds each batch until the batch's file is complete";
        checker.fault("spill.max", why);
    }
}
