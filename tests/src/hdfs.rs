//! A real HDFS (3.4.2) as child processes: a NameNode and two DataNodes, with two replicas.
//!
//! Its jars come from `make setup`. [`shared`] is for all scenarios that do not break it; one that does
//! starts its own. What is in it is read back with Hadoop's own client.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use rustix::process::Signal;

use crate::{
    child::{Child, Plan},
    http,
    kafka::free_port,
    kerberos::{Kdc, REALM},
    oracle::Place,
    poll,
    rolled::{self, Whole},
    scratch,
};

/// Formatting and starting take 8 s; on a machine that also compiles it may take long.
const START_LIMIT: Duration = Duration::from_secs(120);
const DATANODES: usize = 2;
const NAMENODE: &str = "org.apache.hadoop.hdfs.server.namenode.NameNode";
const DATANODE: &str = "org.apache.hadoop.hdfs.server.datanode.DataNode";

/// A NameNode with its DataNodes, or a name service: two NameNodes, of which one is active.
#[derive(Debug)]
pub struct Hdfs {
    folder: PathBuf,
    /// Where each NameNode listens, and its pages.
    ports: Vec<(u16, u16)>,
    namenode: Child,
    standby: Option<Child>,
    datanodes: Vec<Datanode>,
    /// Of the tools that read back.
    environment: Vec<(&'static str, String)>,
}

/// A DataNode, with the ports that it has in each of its lives.
#[derive(Debug)]
struct Datanode {
    number: usize,
    ports: [u16; 3],
    process: Child,
}

/// The HDFS that all scenarios share which do not break it; started on first use, ended with the test
/// process.
///
/// # Errors
/// When it does not start; every caller gets the same error.
pub fn shared() -> Result<&'static Hdfs> {
    static SHARED: OnceLock<Result<Hdfs, String>> = OnceLock::new();
    let start = || {
        let folder = scratch::create("hdfs").map_err(|error| format!("{error:#}"))?;
        Hdfs::start(&folder).map_err(|error| format!("{error:#}"))
    };
    SHARED
        .get_or_init(start)
        .as_ref()
        .map_err(|text| anyhow!("no shared HDFS: {text}"))
}

impl Hdfs {
    /// Formats a file system below `folder` and starts it.
    ///
    /// # Errors
    /// When the jars are missing or it does not start, with the end of its log.
    pub fn start(folder: &Path) -> Result<Self> {
        let ports = [(free_port()?, free_port()?)];
        let mut hdfs = Self::start_first(folder, &ports)?;
        hdfs.until_ready(DATANODES)?;
        Ok(hdfs)
    }

    /// As [`Hdfs::start`], for who has a ticket of this realm; what goes to its DataNodes is hidden.
    ///
    /// # Errors
    /// As [`Hdfs::start`].
    pub fn start_with_kerberos(folder: &Path, kdc: &Kdc) -> Result<Self> {
        let ports = [(free_port()?, free_port()?)];
        fs::create_dir_all(folder)?;
        let secure = secure_site(kdc)?;
        fs::write(folder.join("flags"), flags(kdc))?;
        let mut hdfs = Self::start_site(folder, &ports, &secure)?;
        // The tools that read back have tickets of their own.
        let keytab = kdc.keytab("reader")?;
        let mut environment = kdc.environment(&folder.join("tickets"));
        let mut kinit = Plan::new("kinit").args(["-k", "-t"]);
        kinit = kinit.args([keytab.display().to_string(), "reader".to_owned()]);
        for (key, value) in &environment {
            kinit = kinit.env(key, value);
        }
        kinit.output()?;
        hdfs.environment.append(&mut environment);
        hdfs.until_ready(DATANODES)?;
        Ok(hdfs)
    }

    /// As [`Hdfs::start`], with a second NameNode that stands by.
    ///
    /// # Errors
    /// As [`Hdfs::start`].
    pub fn start_pair(folder: &Path) -> Result<Self> {
        let ports = [(free_port()?, free_port()?), (free_port()?, free_port()?)];
        let mut hdfs = Self::start_first(folder, &ports)?;
        let second = ["-D", "dfs.ha.namenode.id=nn2"];
        poll::until("the standby to be formatted", START_LIMIT, || {
            // As soon as the first one answers.
            let format = java(folder)?.args([NAMENODE]).args(second);
            Ok(format
                .args(["-bootstrapStandby", "-nonInteractive"])
                .output()
                .ok())
        })?;
        hdfs.standby = Some(launch_namenode(folder, &second)?);
        hdfs.haadmin(&["-transitionToActive", "nn1"])?;
        hdfs.until_ready(DATANODES)?;
        Ok(hdfs)
    }

    fn start_first(folder: &Path, ports: &[(u16, u16)]) -> Result<Self> {
        fs::create_dir_all(folder)?;
        fs::write(folder.join("flags"), "")?;
        Self::start_site(folder, ports, &[])
    }

    fn start_site(
        folder: &Path,
        ports: &[(u16, u16)],
        secure: &[(&'static str, String)],
    ) -> Result<Self> {
        fs::create_dir_all(folder.join("conf"))?;
        for page in ["hdfs", "datanode"] {
            fs::create_dir_all(folder.join("web/webapps").join(page))?;
        }
        fs::write(
            folder.join("conf/core-site.xml"),
            core_site(folder, ports, secure),
        )?;
        fs::write(
            folder.join("conf/hdfs-site.xml"),
            hdfs_site(folder, ports, secure),
        )?;
        fs::write(folder.join("conf/log4j.properties"), LOG4J)?;
        // They wait for the NameNode, and take as long to start as it takes to be formatted.
        let datanodes = (0..DATANODES).map(|number| Datanode::start(folder, number));
        let datanodes = datanodes.collect::<Result<Vec<_>>>()?;
        let first: &[&str] = match ports {
            [_alone] => &[],
            _pair => &["-D", "dfs.ha.namenode.id=nn1"],
        };
        let format = java(folder)?.args([NAMENODE]).args(first.iter().copied());
        format.args(["-format", "-nonInteractive"]).output()?;
        Ok(Self {
            folder: folder.to_owned(),
            ports: ports.to_vec(),
            namenode: launch_namenode(folder, first)?,
            standby: None,
            datanodes,
            environment: Vec::new(),
        })
    }

    /// The second NameNode takes over from the first, which was killed.
    ///
    /// # Errors
    /// When it does not.
    pub fn fail_over(&self) -> Result<()> {
        self.haadmin(&["-transitionToActive", "--forceactive", "nn2"])
    }

    fn haadmin(&self, args: &[&str]) -> Result<()> {
        poll::until("a NameNode to become active", START_LIMIT, || {
            let tool = "org.apache.hadoop.hdfs.tools.DFSHAAdmin";
            let change = java(&self.folder)?.args([tool, "-ns", SERVICE]);
            // It refuses while the NameNode starts.
            Ok(change.args(args.iter().copied()).output().ok())
        })
        .map(drop)
    }

    /// What a client connects to.
    #[must_use]
    pub fn url(&self) -> String {
        url(&self.ports)
    }

    /// What a client's configuration says of its NameNodes.
    #[must_use]
    pub fn options(&self) -> Vec<(String, String)> {
        service(&self.ports)
    }

    /// Waits until so many DataNodes are there and changes are taken.
    ///
    /// # Errors
    /// When that does not come, with the end of the NameNode's log.
    pub fn until_ready(&mut self, datanodes: usize) -> Result<()> {
        let web = self.ports.first().map_or(0, |&(_port, web)| web);
        let address = format!("127.0.0.1:{web}");
        let look = |bean: &str| -> Result<serde_json::Value> {
            let page = format!("/jmx?qry=Hadoop:service=NameNode,name={bean}");
            let found = http::get(&address, &page)?.json()?;
            Ok(found["beans"][0].clone())
        };
        let namenode = &mut self.namenode;
        poll::until("HDFS to take files", START_LIMIT, || {
            namenode.must_run()?;
            // It answers when it has started, which the limit is for.
            let Ok(state) = look("FSNamesystem") else {
                return Ok(None);
            };
            let live = state["NumLiveDataNodes"].as_u64().unwrap_or_default();
            let Ok(info) = look("NameNodeInfo") else {
                return Ok(None);
            };
            let ready = live >= datanodes as u64 && info["Safemode"] == "";
            Ok(ready.then_some(()))
        })
        .with_context(|| self.namenode.log_tail())
    }

    /// `kill -9` of a DataNode.
    ///
    /// # Errors
    /// When it is not running.
    pub fn kill_datanode(&mut self, number: usize) -> Result<()> {
        self.datanode(number)?.process.kill()
    }

    /// Starts a DataNode again.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_datanode(&mut self, number: usize) -> Result<()> {
        let folder = self.folder.clone();
        let datanode = self.datanode(number)?;
        datanode.process = launch_datanode(&folder, datanode.number, datanode.ports)?;
        Ok(())
    }

    fn datanode(&mut self, number: usize) -> Result<&mut Datanode> {
        let found = self.datanodes.get_mut(number);
        found.with_context(|| format!("there is no DataNode {number}"))
    }

    /// `kill -9` of the NameNode.
    ///
    /// # Errors
    /// When it is not running.
    pub fn kill_namenode(&mut self) -> Result<()> {
        self.namenode.kill()
    }

    /// The NameNode hangs: connections stand, no answers.
    ///
    /// # Errors
    /// When it is not running.
    pub fn pause_namenode(&mut self) -> Result<()> {
        self.namenode.signal(Signal::STOP)
    }

    /// The end of [`Hdfs::pause_namenode`].
    ///
    /// # Errors
    /// When it is not running.
    pub fn resume_namenode(&mut self) -> Result<()> {
        self.namenode.signal(Signal::CONT)
    }

    /// Starts the NameNode again on its data; it is not waited for.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_namenode(&mut self) -> Result<()> {
        self.namenode = launch_namenode(&self.folder, &[])?;
        Ok(())
    }

    /// Runs Hadoop's `dfsadmin`.
    ///
    /// # Errors
    /// When it fails, with what it says.
    pub fn admin(&self, args: &[&str]) -> Result<String> {
        java(&self.folder)?
            .args(["org.apache.hadoop.hdfs.tools.DFSAdmin"])
            .args(args.iter().copied())
            .output()
    }

    /// Takes the lease of a file away from whoever writes it.
    ///
    /// # Errors
    /// When it fails, with what it says.
    pub fn recover_lease(&self, path: &str) -> Result<String> {
        java(&self.folder)?
            .args(["org.apache.hadoop.hdfs.tools.DebugAdmin", "recoverLease"])
            .args(["-path", path, "-retries", "10"])
            .output()
    }

    /// Runs Hadoop's `fs`.
    ///
    /// # Errors
    /// When it fails, with what it says.
    pub fn shell(&self, args: &[&str]) -> Result<String> {
        let plan = self.environment.iter();
        let plan = plan.fold(java(&self.folder)?, |plan, (key, value)| {
            plan.env(key, value)
        });
        plan.args(["org.apache.hadoop.fs.FsShell"])
            .args(args.iter().copied())
            .output()
    }

    /// All records below a folder, read with Hadoop's own shell: in the order of their files' names, as
    /// if they were one. Each file has to be whole, and as its manifest says; nothing else may be there.
    ///
    /// # Errors
    /// When something is not so.
    pub fn records(&self, path: &str) -> Result<Vec<(Place, Vec<u8>)>> {
        Ok(rolled::records(self.files(path)?))
    }

    /// The paths of all files below a folder, whole or not.
    ///
    /// # Errors
    /// When Hadoop's shell does not list them.
    pub fn files_named(&self, path: &str) -> Result<Vec<String>> {
        let listed = self.shell(&["-ls", "-R", path])?;
        let files = listed.lines().filter(|line| line.starts_with('-'));
        let names = files.filter_map(|line| line.split_whitespace().last());
        Ok(names.map(str::to_owned).collect())
    }

    /// [`Self::records`], file by file, with the topics that the manifests say.
    ///
    /// # Errors
    /// As there.
    pub fn files(&self, path: &str) -> Result<Vec<Whole>> {
        let copy = scratch::create("hdfs-copy")?;
        self.shell(&["-get", path, &copy.join("got").display().to_string()])?;
        let files = rolled::files(&copy.join("got"))?;
        fs::remove_dir_all(copy)?;
        Ok(files)
    }
}

fn java(folder: &Path) -> Result<Plan> {
    let jars = scratch::repository().join(".tools/hdfs/lib");
    ensure!(
        jars.join("hadoop-hdfs-3.4.2.jar").is_file(),
        "HDFS is missing: run 'make setup'"
    );
    let path = format!("conf:web:{}/*", jars.display());
    let flags = [
        "-Xmx128m",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-XX:-UsePerfData",
    ];
    // Its web servers leave folders behind.
    let temporary = format!("-Djava.io.tmpdir={}", folder.display());
    let plan = Plan::new("java").args(flags).args([
        temporary,
        "@flags".to_owned(),
        "-cp".to_owned(),
        path,
    ]);
    Ok(plan.env("HADOOP_USER_NAME", "tributary").folder(folder))
}

fn launch_namenode(folder: &Path, args: &[&str]) -> Result<Child> {
    let plan = java(folder)?.args([NAMENODE]).args(args.iter().copied());
    let log = match args.iter().any(|arg| arg.ends_with("nn2")) {
        true => "standby.log",
        false => "namenode.log",
    };
    Child::start("NameNode", &plan, &folder.join(log))
}

impl Datanode {
    fn start(folder: &Path, number: usize) -> Result<Self> {
        let ports = [free_port()?, free_port()?, free_port()?];
        Ok(Self {
            number,
            ports,
            process: launch_datanode(folder, number, ports)?,
        })
    }
}

fn launch_datanode(folder: &Path, number: usize, ports: [u16; 3]) -> Result<Child> {
    let data = folder.join(format!("data-{number}"));
    let mut settings = vec![format!("dfs.datanode.data.dir=file://{}", data.display())];
    for (key, port) in ["address", "http.address", "ipc.address"].iter().zip(ports) {
        settings.push(format!("dfs.datanode.{key}=127.0.0.1:{port}"));
    }
    let args = settings.into_iter().flat_map(|one| ["-D".to_owned(), one]);
    let plan = java(folder)?.args([DATANODE]).args(args);
    let log = folder.join(format!("datanode-{number}.log"));
    Child::start("DataNode", &plan, &log)
}

fn site<K: std::fmt::Display>(pairs: &[(K, String)]) -> String {
    let properties = pairs.iter().map(|(key, value)| {
        format!("<property><name>{key}</name><value>{value}</value></property>\n")
    });
    format!(
        "<configuration>\n{}</configuration>\n",
        properties.collect::<String>()
    )
}

/// The name service of two NameNodes.
const SERVICE: &str = "ns";

fn url(ports: &[(u16, u16)]) -> String {
    match ports {
        [(port, _web)] => format!("hdfs://127.0.0.1:{port}"),
        _pair => format!("hdfs://{SERVICE}"),
    }
}

/// What a client has to know of a name service; nothing of a NameNode alone.
fn service(ports: &[(u16, u16)]) -> Vec<(String, String)> {
    if ports.len() < 2 {
        return Vec::new();
    }
    let mut keys = vec![
        ("dfs.nameservices".to_owned(), SERVICE.to_owned()),
        (format!("dfs.ha.namenodes.{SERVICE}"), "nn1,nn2".to_owned()),
    ];
    for (number, (port, web)) in (1..).zip(ports) {
        for (key, port) in [("rpc", port), ("http", web)] {
            let key = format!("dfs.namenode.{key}-address.{SERVICE}.nn{number}");
            keys.push((key, format!("127.0.0.1:{port}")));
        }
    }
    keys
}

/// The flags of a Java machine that knows a realm.
fn flags(kdc: &Kdc) -> String {
    format!("-Djava.security.krb5.conf={}\n", kdc.config().display())
}

/// What every part has to know where tickets are asked for.
fn secure_site(kdc: &Kdc) -> Result<Vec<(&'static str, String)>> {
    let server = "hdfs/127.0.0.1";
    let principal = format!("{server}@{REALM}");
    let (keys, pages) = (kdc.keytab(server)?, kdc.keytab("HTTP/127.0.0.1")?);
    let (keys, pages) = (keys.display().to_string(), pages.display().to_string());
    Ok(vec![
        ("hadoop.security.authentication", "kerberos".to_owned()),
        ("hadoop.security.token.service.use_ip", "true".to_owned()),
        ("dfs.block.access.token.enable", "true".to_owned()),
        ("dfs.data.transfer.protection", "privacy".to_owned()),
        ("dfs.namenode.kerberos.principal", principal.clone()),
        ("dfs.namenode.keytab.file", keys.clone()),
        ("dfs.datanode.kerberos.principal", principal),
        ("dfs.datanode.keytab.file", keys),
        (
            "dfs.web.authentication.kerberos.principal",
            format!("HTTP/127.0.0.1@{REALM}"),
        ),
        ("dfs.web.authentication.kerberos.keytab", pages),
        // Their ports are above 1023, and their pages are without TLS.
        ("ignore.secure.ports.for.testing", "true".to_owned()),
    ])
}

fn core_site(folder: &Path, ports: &[(u16, u16)], secure: &[(&'static str, String)]) -> String {
    let mut keys = vec![
        ("fs.defaultFS", url(ports)),
        ("hadoop.tmp.dir", folder.join("tmp").display().to_string()),
        // A DataNode that waits for its NameNode asks more often.
        ("ipc.client.connect.retry.interval", "200".to_owned()),
        ("ipc.client.connect.max.retries", "600".to_owned()),
    ];
    keys.extend_from_slice(secure);
    site(&keys)
}

fn hdfs_site(folder: &Path, ports: &[(u16, u16)], secure: &[(&str, String)]) -> String {
    let local = |name: &str| format!("file://{}", folder.join(name).display());
    let mut keys = service(ports);
    let mut set = |key: &str, value: String| keys.push((key.to_owned(), value));
    match ports {
        [(port, web)] => {
            set("dfs.namenode.name.dir", local("names"));
            set("dfs.namenode.rpc-address", format!("127.0.0.1:{port}"));
            set("dfs.namenode.http-address", format!("127.0.0.1:{web}"));
        }
        _pair => {
            for node in ["nn1", "nn2"] {
                let key = format!("dfs.namenode.name.dir.{SERVICE}.{node}");
                set(&key, local(&format!("names-{node}")));
            }
            set("dfs.namenode.shared.edits.dir", local("shared"));
            set("dfs.ha.fencing.methods", "shell(/bin/true)".to_owned());
            let provider = "ha.ConfiguredFailoverProxyProvider";
            let provider = format!("org.apache.hadoop.hdfs.server.namenode.{provider}");
            let key = format!("dfs.client.failover.proxy.provider.{SERVICE}");
            set(&key, provider);
        }
    }
    let rest = [
        ("dfs.replication", "2"),
        ("dfs.permissions.enabled", "false"),
        ("dfs.heartbeat.interval", "1"),
        // A dead DataNode is noticed after 14 s in the place of ten minutes.
        ("dfs.namenode.heartbeat.recheck-interval", "2000"),
        ("dfs.namenode.safemode.extension", "0"),
        // Closing a file does not wait for the DataNodes' next report.
        ("dfs.namenode.file.close.num-committed-allowed", "1"),
    ];
    for (key, value) in rest {
        set(key, value.to_owned());
    }
    // Here as well: what is said by default for HDFS goes before what stands in the other file.
    for (key, value) in secure {
        set(key, value.clone());
    }
    site(&keys)
}

/// What it prints must not stand in the output of its tools.
const LOG4J: &str = "\
log4j.rootLogger=INFO,console
log4j.appender.console=org.apache.log4j.ConsoleAppender
log4j.appender.console.target=System.err
log4j.appender.console.layout=org.apache.log4j.PatternLayout
log4j.appender.console.layout.ConversionPattern=%d{ISO8601} %p %c{2}: %m%n
";
