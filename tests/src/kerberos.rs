//! A real Kerberos (MIT, of Debian): a key distribution centre with a realm of its own, and keytabs.
//!
//! Nothing of it is seen outside of its folder: who shall use it gets its configuration by
//! [`Kdc::environment`].

use std::{
    fs,
    net::TcpStream,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{
    child::{Child, Plan},
    kafka::free_port,
    poll,
};

/// The realm.
pub const REALM: &str = "TRIBUTARY.TEST";
const START_LIMIT: Duration = Duration::from_secs(30);

/// A running key distribution centre.
#[derive(Debug)]
pub struct Kdc {
    folder: PathBuf,
    _process: Child,
}

impl Kdc {
    /// Makes a realm below `folder` and serves it.
    ///
    /// # Errors
    /// When `krb5-kdc` or `krb5-admin-server` is missing, or it does not start.
    pub fn start(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let port = free_port()?;
        let at = folder.display();
        let client = format!(
            "[libdefaults]\ndefault_realm = {REALM}\ndns_lookup_kdc = false\n\
             dns_lookup_realm = false\ndns_canonicalize_hostname = false\nrdns = false\n\
             udp_preference_limit = 1\n[realms]\n{REALM} = {{\nkdc = 127.0.0.1:{port}\n}}\n\
             [domain_realm]\nlocalhost = {REALM}\n127.0.0.1 = {REALM}\n"
        );
        fs::write(folder.join("krb5.conf"), client)?;
        let server = format!(
            "[realms]\n{REALM} = {{\ndatabase_name = {at}/principal\nkey_stash_file = {at}/stash\n\
             acl_file = {at}/acl\nkdc_listen = 127.0.0.1:{port}\nkdc_tcp_listen = 127.0.0.1:{port}\n}}\n\
             [logging]\nkdc = STDERR\n"
        );
        fs::write(folder.join("kdc.conf"), server)?;
        let tool = |name: &str| {
            let plan = Plan::new(name).env("KRB5_CONFIG", format!("{at}/krb5.conf"));
            plan.env("KRB5_KDC_PROFILE", format!("{at}/kdc.conf"))
        };
        tool("/usr/sbin/kdb5_util")
            .args(["create", "-s", "-r", REALM, "-P", "master"])
            .output()
            .context("the realm cannot be made: is krb5-kdc installed?")?;
        let plan = tool("/usr/sbin/krb5kdc").args(["-n", "-r", REALM]);
        let mut process = Child::start("krb5kdc", &plan, &folder.join("kdc.log"))?;
        poll::until("the key distribution centre to answer", START_LIMIT, || {
            process.must_run()?;
            Ok(TcpStream::connect(("127.0.0.1", port)).ok())
        })?;
        Ok(Self {
            folder: folder.to_owned(),
            _process: process,
        })
    }

    /// Where the configuration of its clients is.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.folder.join("krb5.conf")
    }

    /// What a process needs to use it, with tickets that nobody else sees.
    #[must_use]
    pub fn environment(&self, tickets: &Path) -> Vec<(&'static str, String)> {
        vec![
            ("KRB5_CONFIG", self.config().display().to_string()),
            ("KRB5CCNAME", format!("FILE:{}", tickets.display())),
        ]
    }

    /// A new principal (`kafka/127.0.0.1`), and the file with its keys.
    ///
    /// # Errors
    /// When there is one of that name.
    pub fn keytab(&self, principal: &str) -> Result<PathBuf> {
        let file = self
            .folder
            .join(format!("{}.keytab", principal.replace('/', "-")));
        let profile = self.folder.join("kdc.conf");
        for query in [
            format!("addprinc -randkey {principal}"),
            format!("ktadd -k {} {principal}", file.display()),
        ] {
            Plan::new("/usr/sbin/kadmin.local")
                .env("KRB5_CONFIG", self.config().display().to_string())
                .env("KRB5_KDC_PROFILE", profile.display().to_string())
                .args(["-r", REALM, "-q", &query])
                .output()
                .context("kadmin.local failed: is krb5-admin-server installed?")?;
        }
        Ok(file)
    }
}
