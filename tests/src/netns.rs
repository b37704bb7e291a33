//! Sites in network namespaces of their own: links that can be cut without anybody being told.
//!
//! A middle namespace, where the agents live, has a link to each site. A cut drops every packet of a
//! site: nobody gets a reset, as when a switch dies. Nothing outside these namespaces is touched; they
//! need root, as a continuous integration machine has it, and `ip` of iproute2.
//!
//! Not for: cutting single connections on the loopback interface (see [`crate::proxy`]).

use std::{
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Result};

use crate::{child::Plan, say};

/// A middle and its sites; removed when dropped.
#[derive(Debug)]
pub struct Sites {
    name: String,
    count: usize,
}

impl Sites {
    /// So many sites, numbered from 1, at most 200.
    ///
    /// # Errors
    /// Without root, or `ip`.
    pub fn new(count: usize) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tributary-{}-{number}", std::process::id());
        let sites = Self { name, count };
        sites.set_up().context(
            "network namespaces need root (or CAP_NET_ADMIN and CAP_SYS_ADMIN), and ip of iproute2",
        )?;
        Ok(sites)
    }

    fn set_up(&self) -> Result<()> {
        let middle = self.middle();
        ip(&["netns", "add", &middle])?;
        ip(&["-n", &middle, "link", "set", "lo", "up"])?;
        for site in 1..=self.count {
            let name = self.site(site);
            let (here, there) = (format!("to{site}"), "to0");
            ip(&["netns", "add", &name])?;
            let pair = ["type", "veth", "peer", "name", there, "netns", &name];
            let link = ["-n", &middle, "link", "add", &here];
            ip(&[&link[..], &pair].concat())?;
            let ends = [(&middle, &*here, 1), (&name, there, 2)];
            for (namespace, device, host) in ends {
                let address = format!("10.78.{site}.{host}/30");
                ip(&["-n", namespace, "addr", "add", &address, "dev", device])?;
                ip(&["-n", namespace, "link", "set", device, "up"])?;
                ip(&["-n", namespace, "link", "set", "lo", "up"])?;
            }
        }
        Ok(())
    }

    /// The namespace in the middle.
    #[must_use]
    pub fn middle(&self) -> String {
        self.site(0)
    }

    /// The namespace of a site.
    #[must_use]
    pub fn site(&self, site: usize) -> String {
        format!("{}-{site}", self.name)
    }

    /// The address of a site.
    #[must_use]
    pub fn address(&self, site: usize) -> String {
        format!("10.78.{site}.2")
    }

    /// From now on no packet leaves a site.
    ///
    /// # Errors
    /// When it is cut already.
    pub fn cut(&self, site: usize) -> Result<()> {
        self.blackhole("add", site)
    }

    /// Packets flow again.
    ///
    /// # Errors
    /// When it is not cut.
    pub fn mend(&self, site: usize) -> Result<()> {
        self.blackhole("del", site)
    }

    fn blackhole(&self, action: &str, site: usize) -> Result<()> {
        let middle = format!("10.78.{site}.1/32");
        ip(&[
            "-n",
            &self.site(site),
            "route",
            action,
            "blackhole",
            &middle,
        ])
    }
}

impl Drop for Sites {
    fn drop(&mut self) {
        for site in 0..=self.count {
            // What was not set up cannot be removed.
            if let Err(error) = ip(&["netns", "del", &self.site(site)]) {
                say(&format!("failed to remove a namespace: {error:#}"));
            }
        }
    }
}

/// How a program is started in a namespace.
#[must_use]
pub fn plan(namespace: &str, program: &Path) -> Plan {
    Plan::new("ip")
        .args(["netns", "exec", namespace])
        .args([program.display().to_string()])
}

fn ip(words: &[&str]) -> Result<()> {
    Plan::new("ip")
        .args(words.iter().copied())
        .output()
        .map(drop)
}
