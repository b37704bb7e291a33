//! A Java service that logs through Logback or Log4j, rolls its log by size and by time, and
//! compresses what it rolled.
//!
//! Its jars come from `make setup`; the program is run from its source.
//!
//! Not for: writers that the rig drives line by line (see [`crate::writer`]).

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Result, ensure};

use crate::{
    child::{Child, Plan},
    packed, scratch,
};

/// Starting Java and compiling one file take two seconds on a quiet machine.
const SPARE_TIME: Duration = Duration::from_secs(90);
/// Rolled by size about every second, and at every change of the clock's second.
const ROLL_BYTES: u64 = 300_000;
const LINES_PER_SECOND: u64 = 1_200;

/// Which library writes the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Library {
    /// Logback 1.5: renames to a temporary name and compresses that in the background.
    Logback,
    /// Log4j 2: renames to the rolled name and compresses that in the background.
    Log4j,
}

impl fmt::Display for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Logback => "logback",
            Self::Log4j => "log4j",
        })
    }
}

/// What becomes of a rolled file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rolled {
    /// It stays as it is under its new name.
    Plain,
    /// It becomes `….gz`.
    Gzip,
}

/// A running service; its log is `app.log` in its folder.
#[derive(Debug)]
pub struct Service {
    logs: PathBuf,
    lines: u64,
    process: Child,
}

impl Service {
    /// Starts one that writes so many lines into `folder/logs` and then ends.
    ///
    /// # Errors
    /// When the jars are missing or Java does not start.
    pub fn start(folder: &Path, library: Library, rolled: Rolled, lines: u64) -> Result<Self> {
        let jars = scratch::repository().join(".tools/java-logging/lib");
        ensure!(
            jars.is_dir(),
            "Logback and Log4j are missing: run 'make setup'"
        );
        let logs = folder.join("logs");
        fs::create_dir_all(&logs)?;
        let (config, text) = match library {
            Library::Logback => (folder.join("logback.xml"), logback(&logs, rolled)),
            Library::Log4j => (folder.join("log4j2.xml"), log4j(&logs, rolled)),
        };
        fs::write(&config, text)?;
        let source = scratch::repository().join("tests/servers/java-logging/Write.java");
        let plan = Plan::new("java")
            .args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx128m"])
            .args(["-cp".to_owned(), format!("{}/*", jars.display())])
            .args([source.display().to_string(), library.to_string()])
            .args([config.display().to_string(), lines.to_string()])
            .args([LINES_PER_SECOND.to_string()])
            .folder(folder);
        Ok(Self {
            logs,
            lines,
            process: Child::start("java", &plan, &folder.join("java.log"))?,
        })
    }

    /// The folder of its log.
    #[must_use]
    pub fn logs(&self) -> &Path {
        &self.logs
    }

    /// Waits until it has written everything, and gives every physical file's lines, live and
    /// rolled, without newlines.
    ///
    /// # Errors
    /// When it fails, or its own files do not hold what it wrote.
    pub fn finish(mut self) -> Result<Vec<Vec<Vec<u8>>>> {
        let limit = Duration::from_secs(self.lines / LINES_PER_SECOND) + SPARE_TIME;
        let status = self.process.wait(limit)?;
        ensure!(status.success(), "{}", self.process.log_tail());
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.logs)? {
            let path = entry?.path();
            let text = packed::read(&path)?;
            let whole = text.split(|&byte| byte == b'\n');
            files.push(
                whole
                    .filter(|l| !l.is_empty())
                    .map(<[u8]>::to_vec)
                    .collect(),
            );
        }
        let kept: usize = files.iter().map(Vec::len).sum();
        ensure!(
            kept as u64 == self.lines && files.len() >= 3,
            "{} lines were written, {kept} are kept in {} files",
            self.lines,
            files.len()
        );
        Ok(files)
    }
}

/// How a rolled file's name ends.
fn ending(rolled: Rolled) -> &'static str {
    match rolled {
        Rolled::Plain => "log",
        Rolled::Gzip => "log.gz",
    }
}

fn logback(logs: &Path, rolled: Rolled) -> String {
    let (logs, ending) = (logs.display(), ending(rolled));
    format!(
        r#"<configuration>
  <appender name="file" class="ch.qos.logback.core.rolling.RollingFileAppender">
    <file>{logs}/app.log</file>
    <rollingPolicy class="ch.qos.logback.core.rolling.SizeAndTimeBasedRollingPolicy">
      <fileNamePattern>{logs}/app.%d{{yyyy-MM-dd_HH-mm-ss}}.%i.{ending}</fileNamePattern>
      <maxFileSize>{ROLL_BYTES}</maxFileSize>
    </rollingPolicy>
    <encoder><pattern>%m%n</pattern></encoder>
  </appender>
  <root level="info"><appender-ref ref="file"/></root>
</configuration>
"#
    )
}

fn log4j(logs: &Path, rolled: Rolled) -> String {
    let (logs, ending) = (logs.display(), ending(rolled));
    format!(
        r#"<Configuration status="warn">
  <Appenders>
    <RollingFile name="file" fileName="{logs}/app.log"
                 filePattern="{logs}/app-%d{{yyyy-MM-dd_HH-mm-ss}}-%i.{ending}">
      <PatternLayout pattern="%m%n"/>
      <Policies><TimeBasedTriggeringPolicy/><SizeBasedTriggeringPolicy size="{ROLL_BYTES}"/></Policies>
      <DefaultRolloverStrategy max="1000"/>
    </RollingFile>
  </Appenders>
  <Loggers><Root level="info"><AppenderRef ref="file"/></Root></Loggers>
</Configuration>
"#
    )
}
