//! `tributary inspect PATH`: what is in a checkpoint, a spool, a bus's journal, spill or dead letters, or a file
//! of captured frames.
//!
//! Offline and read only: it never locks, repairs or writes. The kind of a file is told by its
//! magic, of a folder by what it holds. Not for: a running daemon (ask its `/status`).

mod files;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use serde::Serialize;
use tributary_common::{
    batch,
    config::Env,
    header::BatchHeader,
    wire::{self, Frame, PRELUDE_BYTES, Prelude},
};

use crate::out;

/// The largest file of captured frames that is read: it is held in memory.
const MAX_CAPTURE_BYTES: u64 = 1 << 30;
/// Bytes that a payload may have once decompressed.
const MAX_RAW_BYTES: usize = 64 << 20;

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// One JSON document.
    Json,
}

/// What is looked at by an agent's configuration.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum What {
    /// What each task of an agent matches here, who reads what, and how far.
    Files {
        /// One task only.
        task: Option<String>,
        /// The agent's configuration.
        #[arg(long, default_value = "/etc/tributary/agent.toml")]
        config: PathBuf,
        /// Print one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// The checkpoint of an agent.
    Checkpoint {
        /// The agent's configuration.
        #[arg(long, default_value = "/etc/tributary/agent.toml")]
        config: PathBuf,
        /// How to print.
        #[arg(short, long, value_enum, default_value = "text")]
        output: Format,
    },
    /// What a bus has on its disk for destinations that took nothing: destinations, segments, what is
    /// drained, what is damaged. Fails when something is.
    Spill {
        /// `<data_dir>/spill`, or the folder of one destination in it.
        dir: PathBuf,
        /// Read every payload as well.
        #[arg(long)]
        verify: bool,
        /// How to print.
        #[arg(short, long, value_enum, default_value = "text")]
        output: Format,
    },
    /// What a bus keeps of records that a destination refuses for good: by topic and reason, with times.
    /// Fails when the file is damaged.
    Dead {
        /// `<data_dir>/dead`, or the folder of one destination in it.
        dir: PathBuf,
        /// How to print.
        #[arg(short, long, value_enum, default_value = "text")]
        output: Format,
    },
}

impl What {
    /// Prints it.
    ///
    /// # Errors
    /// When the configuration or what it names cannot be read.
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let load = |path: &Path| tributary_agent::config::load(path, &Env::of_process());
        match self {
            Self::Files { task, config, json } => {
                let config = load(config)?.value;
                let survey = tributary_agent::survey::survey(&config, task.as_deref())?;
                if *json {
                    out::line(serde_json::to_string_pretty(&survey)?);
                } else {
                    files::print(&survey);
                }
                Ok(())
            }
            Self::Checkpoint { config, output } => run(&load(config)?.value.state_dir, *output),
            Self::Spill {
                dir,
                verify,
                output,
            } => spill(dir, *verify, *output),
            Self::Dead { dir, output } => dead(dir, *output),
        }
    }
}

/// Prints what is in `path`.
///
/// # Errors
/// When nothing is there, it cannot be read, or it is none of the known kinds.
pub(crate) fn run(path: &Path, format: Format) -> anyhow::Result<()> {
    let kind =
        fs::metadata(path).with_context(|| format!("failed to look at {}", path.display()))?;
    let value = if kind.is_dir() {
        folder(path)?
    } else if tributary_agent::checkpoint::is_checkpoint(path)? {
        serde_json::to_value(tributary_agent::checkpoint::inspect(path)?)?
    } else if tributary_bus::journal::is_journal(path)? {
        serde_json::to_value(tributary_bus::journal::inspect(path)?)?
    } else if tributary_agent::spool::is_spool(path)? {
        serde_json::to_value(tributary_agent::spool::inspect(path)?)?
    } else if tributary_agent::live::is_kept(path)? {
        serde_json::to_value(tributary_agent::live::inspect_kept(path)?)?
    } else {
        let capture = frames(path, kind.len())?;
        if format == Format::Text {
            capture.print();
            return Ok(());
        }
        serde_json::to_value(capture)?
    };
    match format {
        Format::Text => print_tree(&value, 0),
        Format::Json => out::line(serde_json::to_string_pretty(&value)?),
    }
    Ok(())
}

/// Prints a spill.
///
/// # Errors
/// When it cannot be read, or is damaged.
fn spill(dir: &Path, verify: bool, format: Format) -> anyhow::Result<()> {
    if !tributary_bus::spill::inspect::is_spill(dir)? {
        bail!(
            "{} is no spill; name a bus's <data_dir>/spill, or a folder in it",
            dir.display()
        );
    }
    let found = tributary_bus::spill::inspect::inspect(dir, verify)?;
    print(
        dir,
        &serde_json::to_value(&found)?,
        found.is_sound(),
        format,
    )
}

/// Prints dead letters.
///
/// # Errors
/// When they cannot be read, or are damaged.
fn dead(dir: &Path, format: Format) -> anyhow::Result<()> {
    if !tributary_bus::dead::inspect::is_dead(dir)? {
        bail!(
            "{} has no dead letters; name a bus's <data_dir>/dead, or a folder in it",
            dir.display()
        );
    }
    let found = tributary_bus::dead::inspect::inspect(dir)?;
    print(
        dir,
        &serde_json::to_value(&found)?,
        found.is_sound(),
        format,
    )
}

/// Prints what is in a folder, and fails when it is damaged.
fn print(
    dir: &Path,
    value: &serde_json::Value,
    is_sound: bool,
    format: Format,
) -> anyhow::Result<()> {
    match format {
        Format::Text => print_tree(value, 0),
        Format::Json => out::line(serde_json::to_string_pretty(value)?),
    }
    match is_sound {
        true => Ok(()),
        false => bail!("{} is damaged, see above", dir.display()),
    }
}

/// A state folder of an agent, a data folder of a bus, or one of their parts.
fn folder(path: &Path) -> anyhow::Result<serde_json::Value> {
    let inside = |name: &str| -> Option<PathBuf> { Some(path.join(name)).filter(|p| p.is_dir()) };
    let checkpoint = inside("checkpoint").unwrap_or_else(|| path.to_owned());
    if tributary_agent::checkpoint::is_checkpoint(&checkpoint)? {
        return Ok(serde_json::to_value(tributary_agent::checkpoint::inspect(
            &checkpoint,
        )?)?);
    }
    let journal = inside("dedupe").unwrap_or_else(|| path.to_owned());
    if tributary_bus::journal::is_journal(&journal)? {
        return Ok(serde_json::to_value(tributary_bus::journal::inspect(
            &journal,
        )?)?);
    }
    if tributary_agent::spool::is_spool(path)? {
        return Ok(serde_json::to_value(tributary_agent::spool::inspect(
            path,
        )?)?);
    }
    if tributary_bus::spill::inspect::is_spill(path)? {
        let found = tributary_bus::spill::inspect::inspect(path, false)?;
        return Ok(serde_json::to_value(found)?);
    }
    if tributary_bus::dead::inspect::is_dead(path)? {
        let found = tributary_bus::dead::inspect::inspect(path)?;
        return Ok(serde_json::to_value(found)?);
    }
    bail!(
        "{} holds no agent's checkpoint or spool and no bus's journal, spill or dead letters; name a state_dir, a data_dir, \
         or a folder or file in one of them",
        path.display()
    )
}

/// One frame of a capture.
#[derive(Debug, Serialize)]
struct Seen {
    /// Where its prelude begins, in bytes from the start of the file.
    offset: usize,
    /// Its kind in words.
    kind: &'static str,
    /// Bytes of header and payload.
    bytes: usize,
    /// What it says, in words.
    says: String,
    /// A batch's header.
    #[serde(skip_serializing_if = "Option::is_none")]
    header: Option<BatchHeader>,
    /// Whether a batch's payload is sound: `ok`, or what is wrong with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<String>,
}

/// All frames of a capture, up to the first that does not parse.
#[derive(Debug, Serialize)]
struct Capture {
    /// Bytes of HTTP before the first frame.
    http_bytes: usize,
    frames: Vec<Seen>,
    /// Why reading ended before the end of the file, with the offset.
    stopped: Option<String>,
}

impl Capture {
    fn print(&self) {
        if self.http_bytes > 0 {
            out::line(format_args!(
                "{:>10}  http      {} bytes",
                0, self.http_bytes
            ));
        }
        for frame in &self.frames {
            let payload = frame
                .payload
                .as_deref()
                .map_or(String::new(), |p| format!(" · payload {p}"));
            out::line(format_args!(
                "{:>10}  {:<8}  {} bytes · {}{payload}",
                frame.offset, frame.kind, frame.bytes, frame.says
            ));
        }
        let end = self
            .stopped
            .as_ref()
            .map_or(String::new(), |why| format!("; stopped: {why}"));
        out::line(format_args!("{} frames{end}", self.frames.len()));
    }
}

fn frames(path: &Path, len: u64) -> anyhow::Result<Capture> {
    if len > MAX_CAPTURE_BYTES {
        bail!(
            "{} has {len} bytes; a capture may have {MAX_CAPTURE_BYTES}",
            path.display()
        );
    }
    let bytes = fs::read(path).with_context(|| format!("failed to read {}", path.display()))?;
    let capture = read_frames(&Bytes::from(bytes));
    if capture.frames.is_empty() && capture.stopped.is_some() {
        bail!(
            "{} is no checkpoint, journal or capture of frames of {}: {}",
            path.display(),
            wire::PROTOCOL,
            capture.stopped.unwrap_or_default()
        );
    }
    Ok(capture)
}

/// A capture may begin with the HTTP request or answer of the upgrade.
fn http_bytes(bytes: &[u8]) -> usize {
    if !bytes.starts_with(b"GET ") && !bytes.starts_with(b"HTTP/1.1 ") {
        return 0;
    }
    bytes
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .map_or(bytes.len(), |at| at + 4)
}

fn read_frames(bytes: &Bytes) -> Capture {
    let http_bytes = http_bytes(bytes);
    let mut capture = Capture {
        http_bytes,
        frames: Vec::new(),
        stopped: None,
    };
    let mut at = http_bytes;
    while at < bytes.len() {
        match next_frame(bytes, at) {
            Ok((seen, end)) => {
                capture.frames.push(seen);
                at = end;
            }
            Err(why) => {
                capture.stopped = Some(format!("at byte {at}: {why}"));
                break;
            }
        }
    }
    capture
}

fn next_frame(bytes: &Bytes, at: usize) -> Result<(Seen, usize), String> {
    let left = bytes.len() - at;
    let body = at + PRELUDE_BYTES;
    let prelude: [u8; PRELUDE_BYTES] = bytes
        .get(at..body)
        .and_then(|prelude| prelude.try_into().ok())
        .ok_or_else(|| format!("{left} bytes are no prelude"))?;
    let prelude = Prelude::decode(prelude).map_err(|error| error.to_string())?;
    let end = body + prelude.frame_bytes();
    if end > bytes.len() {
        return Err(format!(
            "the frame has {} bytes, the file only {left} more",
            end - at
        ));
    }
    let frame = wire::decode(prelude, bytes.slice(body..end)).map_err(|error| error.to_string())?;
    Ok((describe(at, prelude, frame), end))
}

fn describe(offset: usize, prelude: Prelude, frame: Frame) -> Seen {
    let bytes = prelude.frame_bytes();
    let plain = |kind, says| Seen {
        offset,
        kind,
        bytes,
        says,
        header: None,
        payload: None,
    };
    match frame {
        Frame::Hello(hello) => plain(
            "hello",
            format!(
                "agent {} on {} in {}, {}",
                hello.agent, hello.host, hello.zone, hello.software
            ),
        ),
        Frame::Welcome(welcome) => plain(
            "welcome",
            format!(
                "node {} of {}, window {} batches, {} bytes",
                welcome.node, welcome.cluster, welcome.window_batches, welcome.window_bytes
            ),
        ),
        Frame::Batch(header, payload) => {
            let says = batch_in_words(&header);
            let payload = Some(check_payload(&header, &payload));
            Seen {
                payload,
                header: Some(*header),
                ..plain("batch", says)
            }
        }
        Frame::Receipts(receipts) => {
            let ids: Vec<String> = receipts.iter().map(|r| r.batch.to_string()).collect();
            plain(
                "receipts",
                format!("{}: {}", receipts.len(), ids.join(", ")),
            )
        }
        Frame::Busy(busy) => plain(
            "busy",
            format!(
                "{} again in {} ms: {}",
                busy.batch, busy.retry_after_ms, busy.reason
            ),
        ),
        Frame::Refuse(refusal) => plain(
            "refuse",
            format!(
                "{} {}: {}",
                refusal.batch,
                refusal.reason.as_str(),
                refusal.detail
            ),
        ),
        Frame::GoAway {
            reconnect_within_ms,
        } => plain(
            "goaway",
            format!("reconnect within {reconnect_within_ms} ms"),
        ),
        Frame::Error(text) => plain("error", text),
        Frame::Ping(number) => plain("ping", number.to_string()),
        Frame::Pong(number) => plain("pong", number.to_string()),
    }
}

fn batch_in_words(header: &BatchHeader) -> String {
    let (id, span) = (header.id(), header.span);
    format!(
        "{id} to {}, {} records of {} bytes [{}, {})",
        header.topic, header.records, header.file, span.start, span.end
    )
}

fn check_payload(header: &BatchHeader, payload: &[u8]) -> String {
    match batch::decode(payload, MAX_RAW_BYTES) {
        Ok(decoded) if decoded.len() != header.records => {
            format!(
                "has {} records, its header says {}",
                decoded.len(),
                header.records
            )
        }
        Ok(decoded) if decoded.content_sum() != header.content_sum => {
            "has another content sum than its header says".to_owned()
        }
        Ok(_sound) => "ok".to_owned(),
        Err(error) => error.to_string(),
    }
}

/// A JSON value as indented text: keys, then values.
fn print_tree(value: &serde_json::Value, depth: usize) {
    let pad = "  ".repeat(depth);
    let nested = |value: &serde_json::Value| value.is_object() || value.is_array();
    match value {
        serde_json::Value::Object(map) => {
            for (key, value) in map {
                if nested(value) {
                    out::line(format_args!("{pad}{key}:"));
                    print_tree(value, depth + 1);
                } else {
                    out::line(format_args!("{pad}{key}: {}", scalar(value)));
                }
            }
        }
        serde_json::Value::Array(items) => {
            for item in items {
                if nested(item) {
                    out::line(format_args!("{pad}-"));
                    print_tree(item, depth + 1);
                } else {
                    out::line(format_args!("{pad}- {}", scalar(item)));
                }
            }
        }
        scalar_value => out::line(format_args!("{pad}{}", scalar(scalar_value))),
    }
}

fn scalar(value: &serde_json::Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ping_bytes() -> Vec<u8> {
        wire::encode(&Frame::Ping(7)).unwrap()
    }

    #[test]
    fn a_capture_is_read_behind_its_http_head() {
        let mut bytes = b"GET /v1/stream HTTP/1.1\r\nupgrade: tributary/1\r\n\r\n".to_vec();
        let head = bytes.len();
        bytes.extend(ping_bytes());
        let capture = read_frames(&Bytes::from(bytes));
        assert_eq!((capture.http_bytes, capture.stopped), (head, None));
        assert_eq!(
            (capture.frames[0].offset, capture.frames[0].kind),
            (head, "ping")
        );
    }

    #[test]
    fn reading_stops_at_the_first_bad_frame_and_says_where() {
        let mut bytes = ping_bytes();
        let bad = bytes.len();
        bytes.extend([0xff; 20]);
        let capture = read_frames(&Bytes::from(bytes));
        assert_eq!(capture.frames.len(), 1);
        let why = capture.stopped.unwrap();
        assert!(
            why.starts_with(&format!("at byte {bad}: frame announces 4294967295")),
            "{why}"
        );
    }

    #[test]
    fn a_torn_frame_is_named() {
        let mut bytes = ping_bytes();
        bytes.pop();
        let why = read_frames(&Bytes::from(bytes)).stopped.unwrap();
        assert!(why.contains("the file only"), "{why}");
    }
}
