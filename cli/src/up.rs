//! `tributary up`: agent, bus and manager in one process, on embedded stores.
//!
//! The three parts are the same libraries that the daemons run, given configs written here as TOML
//! text: `--print-config` shows them, so that growing out of one process is copying three files.
//! Not for: what the parts do.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;
use tributary_common::{config::Env, disk, http, ids::Topic, tasks::Supervisor};

use crate::{
    out,
    table::{self, Screen},
};

/// How often the table is drawn on a terminal, and said elsewhere.
const DRAW_EVERY: Duration = Duration::from_secs(1);
const SAY_EVERY: Duration = Duration::from_secs(5);
/// How long the parts may take to stop: longer than any one part's own deadline.
const STOP_GRACE: Duration = Duration::from_secs(30);
/// How long the parts may take to come up.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// One set of files to collect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Watch {
    /// Where its lines go.
    pub(crate) topic: Topic,
    /// Which files.
    pub(crate) glob: String,
}

impl std::str::FromStr for Watch {
    type Err = String;

    /// `GLOB`, or `TOPIC=GLOB`. Without a topic the lines go to `logs`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (topic, glob) = match text.split_once('=') {
            Some((topic, glob)) if !topic.contains('/') => (topic, glob),
            _ => ("logs", text),
        };
        if glob.is_empty() {
            return Err("the glob is empty; give one such as '/var/log/nginx/*.log'".to_owned());
        }
        let topic = topic.parse::<Topic>().map_err(|error| error.to_string())?;
        Ok(Self {
            topic,
            glob: glob.to_owned(),
        })
    }
}

/// What `up` is asked for.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct UpArgs {
    /// Files to collect: a glob such as '/var/log/nginx/*.log', or topic=glob. May be repeated.
    #[arg(long, value_name = "[TOPIC=]GLOB", required = true)]
    pub(crate) watch: Vec<Watch>,
    #[command(flatten)]
    pub(crate) places: Places,
    /// Send to this Kafka (host:port, comma separated) instead of files in the data folder.
    #[arg(long, value_name = "BOOTSTRAP")]
    pub(crate) kafka: Option<String>,
    /// Print the three configs and exit.
    #[arg(long)]
    pub(crate) print_config: bool,
}

/// Where the one process keeps its data and listens.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Places {
    /// Folder for everything that is kept.
    #[arg(long, value_name = "DIR", default_value = "tributary-data")]
    pub(crate) data: PathBuf,
    /// Address of the console and the API.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7500")]
    pub(crate) console: String,
    /// Address of the bus.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7400")]
    pub(crate) bus: String,
    /// Address of the bus's /status and /metrics.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7401")]
    pub(crate) bus_admin: String,
    /// Address of the agent's /status and /metrics.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7402")]
    pub(crate) agent_admin: String,
}

impl Places {
    /// The same places with an absolute data folder: the parts do not care where they were started.
    ///
    /// # Errors
    /// When the working folder is gone.
    pub(crate) fn absolute(&self) -> anyhow::Result<Self> {
        let data = std::path::absolute(&self.data)
            .with_context(|| format!("failed to find {}", self.data.display()))?;
        Ok(Self {
            data,
            ..self.clone()
        })
    }

    pub(crate) fn console_url(&self) -> String {
        format!("http://{}", self.console)
    }

    /// Where the embedded file destination writes.
    pub(crate) fn delivered(&self) -> PathBuf {
        self.data.join("delivered")
    }
}

/// The three configs, as a person would write them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Configs {
    pub(crate) agent: String,
    pub(crate) bus: String,
    pub(crate) manager: String,
}

/// A TOML string: JSON's escapes are TOML's, too.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn quoted_path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

impl Configs {
    pub(crate) fn new(watches: &[Watch], places: &Places, kafka: Option<&str>) -> Self {
        Self {
            agent: agent_toml(watches, places),
            bus: bus_toml(places, kafka),
            manager: format!(
                "listen = {}\ndatabase = {}\n",
                quoted(&places.console),
                quoted(&format!(
                    "sqlite://{}",
                    places.data.join("manager.db").display()
                )),
            ),
        }
    }

    fn print(&self) {
        for (name, text) in [
            ("agent.toml", &self.agent),
            ("bus.toml", &self.bus),
            ("manager.toml", &self.manager),
        ] {
            out::line(format_args!("# --- {name}\n{text}"));
        }
    }
}

/// What a person names counts from where they are; agents know absolute paths only.
fn absolute(glob: &str) -> PathBuf {
    // Fails for an empty text only, which the agent refuses.
    std::path::absolute(glob).unwrap_or_else(|_| glob.into())
}

fn agent_toml(watches: &[Watch], places: &Places) -> String {
    let mut text = format!(
        "zone = \"local\"\nstate_dir = {}\nadmin = {}\n\n[manager]\nurl = {}\n\n[[bus]]\nname = \"local\"\nnodes = [{}]\n",
        quoted_path(&places.data.join("agent")),
        quoted(&places.agent_admin),
        quoted(&places.console_url()),
        quoted(&places.bus),
    );
    for (number, watch) in watches.iter().enumerate() {
        // Writing into a String cannot fail.
        write!(
            text,
            "\n[[task]]\nid = \"task-{}\"\ntopic = {}\npaths = [{}]\n",
            number + 1,
            quoted(watch.topic.as_str()),
            quoted_path(&absolute(&watch.glob)),
        )
        .unwrap_or_default();
    }
    text
}

/// A person's own machine is often fuller than a server may be: what is left alone is little.
fn bus_toml(places: &Places, kafka: Option<&str>) -> String {
    let destination = match kafka {
        Some(bootstrap) => {
            let servers: Vec<String> = bootstrap.split(',').map(|s| quoted(s.trim())).collect();
            format!("kind = \"kafka\"\nbootstrap = [{}]\n", servers.join(", "))
        }
        None => format!(
            "kind = \"file\"\npath = {}\n",
            quoted(&format!(
                "{}/{{topic}}/dt={{date}}/hour={{hour}}",
                places.delivered().display()
            )),
        ),
    };
    format!(
        "zone = \"local\"\ncluster = \"local\"\nnode = \"local\"\nlisten = {}\nadmin = {}\ndata_dir = {}\n\n\
         [manager]\nurl = {}\n\n[spill]\nmin_free = \"1%\"\n\n\
         [[destination]]\nname = \"main\"\n{destination}\n\
         [[route]]\ntopic = \"*\"\nto = [{{ destination = \"main\" }}]\n",
        quoted(&places.bus),
        quoted(&places.bus_admin),
        quoted_path(&places.data.join("bus")),
        quoted(&places.console_url()),
    )
}

/// Starts manager, bus and agent under one supervisor. They stop when `stop` is cancelled, the
/// agent first.
///
/// # Errors
/// When a folder cannot be made or a config is refused (all its faults are in the text).
pub(crate) fn start(
    configs: &Configs,
    places: &Places,
    stop: &CancellationToken,
) -> anyhow::Result<Supervisor> {
    disk::create_dir_all(&places.data)?;
    let agent = tributary_agent::config::parse(&configs.agent, "agent.toml")?.value;
    let bus = tributary_bus::config::parse(&configs.bus, "bus.toml")?.value;
    let manager =
        tributary_manager::config::parse(&configs.manager, "manager.toml", &Env::none())?.value;
    // The agent stops first, so that the bus can still take what it has cut; then the bus, so that
    // the manager still hears its last facts.
    let (stop_bus, stop_manager) = (CancellationToken::new(), CancellationToken::new());
    let mut parts = Supervisor::new(stop.clone(), STOP_GRACE);
    let (agent_stop, url) = (stop.clone(), places.console_url());
    parts.spawn("agent", {
        let stop_bus = stop_bus.clone();
        async move {
            // Only so that the first reports find somebody: lines need no manager.
            let ready = agent_stop.run_until_cancelled(wait_ready(&url)).await;
            let done = match ready.transpose() {
                Ok(_) => tributary_agent::run(agent, agent_stop).await,
                Err(error) => Err(error),
            };
            stop_bus.cancel();
            done
        }
    });
    parts.spawn("bus", {
        let stop_manager = stop_manager.clone();
        async move {
            let done = tributary_bus::run(bus, stop_bus).await;
            stop_manager.cancel();
            done
        }
    });
    parts.spawn("manager", async move {
        tributary_manager::run(manager, stop_manager).await
    });
    Ok(parts)
}

/// How often the table is shown.
pub(crate) fn draw_every() -> Duration {
    if out::is_terminal() {
        DRAW_EVERY
    } else {
        SAY_EVERY
    }
}

/// Waits until the manager answers.
///
/// # Errors
/// When it does not within half a minute.
pub(crate) async fn wait_ready(url: &str) -> anyhow::Result<()> {
    let healthz = format!("{url}/healthz");
    let deadline = tokio::time::Instant::now() + READY_WITHIN;
    loop {
        match http::get(&healthz, None, DRAW_EVERY).await {
            Ok((status, _body)) if status.is_success() => return Ok(()),
            Ok(_) | Err(_) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Ok((status, _body)) => anyhow::bail!("the manager answers {status} to {healthz}"),
            Err(error) => return Err(error).context("the manager did not come up in 30 s"),
        }
    }
}

/// Runs until `stop`.
///
/// # Errors
/// What stopped a part that should have gone on.
pub(crate) async fn run(args: &UpArgs, stop: CancellationToken) -> anyhow::Result<()> {
    let args = &UpArgs {
        places: args.places.absolute()?,
        ..args.clone()
    };
    let configs = Configs::new(&args.watch, &args.places, args.kafka.as_deref());
    if args.print_config {
        configs.print();
        return Ok(());
    }
    let parts = start(&configs, &args.places, &stop)?;
    let url = args.places.console_url();
    let shown = tokio::select! {
        joined = parts.join() => return joined,
        shown = show(&url, args, &stop) => shown,
    };
    shown
}

async fn show(url: &str, args: &UpArgs, stop: &CancellationToken) -> anyhow::Result<()> {
    wait_ready(url).await?;
    let to = args.kafka.as_deref().map_or_else(
        || format!("files under {}", args.places.delivered().display()),
        |bootstrap| format!("Kafka {bootstrap}"),
    );
    out::line(format_args!(
        "console on {url} · delivering to {to} · Ctrl-C stops"
    ));
    let mut screen = Screen::default();
    while stop
        .run_until_cancelled(tokio::time::sleep(draw_every()))
        .await
        .is_some()
    {
        match table::fetch(url).await {
            Ok(topics) if topics.is_empty() => {
                screen.draw("no line yet: does a file match?", &topics);
            }
            Ok(topics) => screen.draw("collecting", &topics),
            Err(error) => out::line(format_args!("{error:#}")),
        }
    }
    // The parts are still stopping; the select in `run` must not end before them.
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_names_its_topic_or_goes_to_logs() {
        let check = |text: &str, topic: &str, glob: &str| {
            let watch = text.parse::<Watch>().unwrap();
            assert_eq!((watch.topic.as_str(), watch.glob.as_str()), (topic, glob));
        };
        check("/var/log/*.log", "logs", "/var/log/*.log");
        check("web=/var/log/*.log", "web", "/var/log/*.log");
        check("/data/dt=1/*.log", "logs", "/data/dt=1/*.log");
        assert!("web=".parse::<Watch>().unwrap_err().contains("empty"));
        assert!(
            "b c=/x"
                .parse::<Watch>()
                .unwrap_err()
                .contains("allowed are")
        );
    }

    #[test]
    fn the_configs_are_ones_that_the_daemons_take() {
        let places = Places {
            data: "/tmp/x \"y\"".into(),
            console: "127.0.0.1:1".into(),
            bus: "127.0.0.1:2".into(),
            bus_admin: "127.0.0.1:3".into(),
            agent_admin: "127.0.0.1:4".into(),
        };
        for kafka in [None, Some("k1:9092, k2:9092")] {
            let configs = Configs::new(&["web=/a/*.log".parse().unwrap()], &places, kafka);
            tributary_agent::config::parse(&configs.agent, "agent.toml").unwrap();
            tributary_bus::config::parse(&configs.bus, "bus.toml").unwrap();
            tributary_manager::config::parse(&configs.manager, "manager.toml", &Env::none())
                .unwrap();
        }
    }
}
