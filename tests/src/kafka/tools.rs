//! Kafka's own command line tools: the judges that know nothing of us.

use std::path::Path;

use anyhow::{Result, ensure};

use super::{Kafka, class_path};
use crate::child::Plan;

/// A Java machine for a short or small job.
pub(super) fn java(folder: &Path) -> Result<Plan> {
    let flags = [
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-XX:-UsePerfData",
        "-cp",
    ];
    Ok(Plan::new("java")
        .args(flags)
        .args([class_path()?])
        .folder(folder))
}

pub(super) fn run(folder: &Path, main: &str, args: &[&str]) -> Result<String> {
    java(folder)?
        .args(["-Dlog4j2.configurationFile=quiet.properties", main])
        .args(args.iter().copied())
        .output()
}

impl Kafka {
    /// Bounds what every client may produce, in bytes a second of each broker; `None` lifts it.
    ///
    /// # Errors
    /// When the tool fails.
    pub fn set_quota(&self, bytes_per_second: Option<u32>) -> Result<()> {
        let (act, what) = match bytes_per_second {
            Some(bytes) => ("--add-config", format!("producer_byte_rate={bytes}")),
            None => ("--delete-config", "producer_byte_rate".to_owned()),
        };
        let bootstrap = self.bootstrap();
        let all = ["--entity-type", "clients", "--entity-default"];
        let mut args = vec!["--bootstrap-server", &bootstrap, "--alter", act, &what];
        args.extend(all);
        run(&self.folder, "kafka.admin.ConfigCommand", &args).map(drop)
    }

    /// What Kafka's `DumpLogSegments --deep-iteration` says of all segments of a partition. It
    /// opens every batch and every record in it.
    ///
    /// # Errors
    /// When there is no segment or the tool fails.
    pub fn dump_log(&self, topic: &str, partition: i32) -> Result<String> {
        let folder = self.folder.join(format!("data/{topic}-{partition}"));
        let mut segments = Vec::new();
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "log") {
                segments.push(path.display().to_string());
            }
        }
        ensure!(!segments.is_empty(), "no segments in {}", folder.display());
        segments.sort();
        let files = segments.join(",");
        run(
            &self.folder,
            "org.apache.kafka.tools.DumpLogSegments",
            &["--deep-iteration", "--files", &files],
        )
    }

    /// What Kafka's own Java `ConsoleConsumer` reads from the beginning of a topic: the values, a
    /// line each. It stops after `records`.
    ///
    /// # Errors
    /// When the tool fails or reads less within 30 s.
    pub fn java_consume(&self, topic: &str, records: usize) -> Result<Vec<String>> {
        let wanted = records.to_string();
        let said = run(
            &self.folder,
            "org.apache.kafka.tools.consumer.ConsoleConsumer",
            &[
                "--bootstrap-server",
                &self.bootstrap(),
                "--topic",
                topic,
                "--from-beginning",
                "--max-messages",
                &wanted,
                "--timeout-ms",
                "30000",
            ],
        )?;
        let values: Vec<String> = said.lines().map(str::to_owned).collect();
        ensure!(
            values.len() == records,
            "read {} of {records} records",
            values.len()
        );
        Ok(values)
    }
}
