//! The rig: real servers, the real programs, real faults, and an oracle that knows what must arrive.
//!
//! A scenario in `it/` reads like a sentence: start Kafka, a manager, a bus and an agent; write
//! stamped lines; kill something; ask the oracle and the ledger. Everything blocks and polls with a
//! deadline; nothing sleeps to wait for something.
//!
//! | room | for |
//! |---|---|
//! | [`scratch`] | a folder per scenario, kept when it fails |
//! | [`child`] | processes: logs, signals, none left behind |
//! | [`kafka`] | a real Kafka, its tools, a stock consumer |
//! | [`hdfs`] | a real HDFS: a NameNode and two DataNodes, read back with Hadoop's own shell |
//! | [`product`] | our own programs with their configuration |
//! | [`cluster`] | manager, bus and agents wired together |
//! | [`delivered`] | what the file destination holds |
//! | [`writer`], [`oracle`] | stamped lines, and the verdict over what arrived |
//! | [`ledger`] | what the manager says of the same lines |
//! | [`certs`] | an authority that signs certificates |
//! | [`kerberos`] | a real key distribution centre |
//! | [`guard`] | a door with TLS and credentials before a server that has neither |
//! | [`proxy`] | a TCP hop that breaks on command |
//! | [`netns`] | sites in network namespaces, and links between them that are cut |
//! | [`nginx`] | a real web server under load, rotated by logrotate |
//! | [`java`] | a Java service that rolls its own log |
//! | [`packed`] | what compressed log files hold |
//! | [`pods`] | container logs as a kubelet lays them out and rotates them |
//!
//! Not for: the products; none of them depends on this package.

pub mod certs;
pub mod child;
pub mod cluster;
pub mod delivered;
pub mod far;
pub mod guard;
pub mod hdfs;
pub mod http;
pub mod java;
pub mod kafka;
pub mod kerberos;
pub mod ledger;
pub mod netns;
pub mod nginx;
pub mod opensearch;
pub mod oracle;
pub mod packed;
pub mod pods;
pub mod poll;
pub mod product;
pub mod proxy;
pub mod rolled;
pub mod scratch;
pub mod writer;

/// A line for the person who watches the run.
#[expect(
    clippy::print_stderr,
    reason = "the rig's one way to talk to the person who runs it"
)]
pub fn say(line: &str) {
    eprintln!("{line}");
}
