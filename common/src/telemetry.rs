//! How the process logs: plain text for a person at a terminal, JSON lines for a collector.
//!
//! Everything goes to stderr. `error` means that somebody must act; contents of log lines and
//! secrets are never logged.
//!
//! Not for: figures (see [`crate::metrics`]). Called once by [`crate::daemon`] or the `tributary`
//! program; a second call in the same process changes nothing, so several parts can live in one.

use std::{
    io::{self, IsTerminal},
    sync::OnceLock,
};

use serde::{Deserialize, Serialize};
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::config::{Key, Kind, Schema};

/// The words for levels, most urgent first.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Text when stderr is a terminal, else JSON.
    #[default]
    Auto,
    /// One line of text an event.
    Text,
    /// One JSON object an event.
    Json,
}

/// The `[log]` table of every part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// How a line looks.
    pub format: Format,
    /// What is logged: a level, or `target=level` pairs with commas between.
    pub level: String,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            format: Format::Auto,
            level: "info".to_owned(),
        }
    }
}

/// The keys of the `[log]` table.
pub static LOG: Schema = Schema::new(
    "How the process logs, to stderr.",
    &[
        Key::default(
            "format",
            Kind::choice(&["auto", "text", "json"]),
            "auto",
            "How a line looks; auto is text on a terminal and JSON lines otherwise.",
        ),
        Key::default(
            "level",
            Kind::checked("log level", "info,tributary_bus=debug", check_level),
            "info",
            "What is logged: off, error, warn, info, debug or trace, also per module.",
        ),
    ],
);

/// Whether a text is a level or a list of `target=level`.
///
/// # Errors
/// Which piece is wrong, and what is allowed.
pub fn check_level(text: &str) -> Result<(), String> {
    for piece in text.split(',') {
        let level = piece
            .rsplit_once('=')
            .map_or(piece, |(_target, level)| level)
            .trim();
        if !LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level)) {
            return Err(format!(
                "{level:?} is no log level; allowed are {}, also as target=level with commas between",
                LEVELS.join(", ")
            ));
        }
    }
    EnvFilter::try_new(text)
        .map(drop)
        .map_err(|error| format!("{text:?}: {error}"))
}

/// A level at which libraries do not warn of each try of theirs: who uses them says what is wrong.
fn quiet(level: &str) -> String {
    const TALKATIVE: &str = "hdfs_native";
    match level.contains(TALKATIVE) {
        true => level.to_owned(),
        false => format!("{level},{TALKATIVE}=error"),
    }
}

/// Starts logging. `level` is as in [`Log::level`]; one that cannot be read counts as `info`, since
/// the config's check has refused it before. Does nothing when the process logs already.
pub fn init(format: Format, level: &str) {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        let filter = EnvFilter::try_new(quiet(level)).unwrap_or_else(|_| EnvFilter::new("info"));
        let registry = tracing_subscriber::registry().with(filter);
        let terminal = io::stderr().is_terminal();
        let text = match format {
            Format::Auto => terminal,
            Format::Text => true,
            Format::Json => false,
        };
        let set = if text {
            let layer = fmt::layer().with_ansi(terminal).with_target(false);
            registry.with(layer.with_writer(io::stderr)).try_init()
        } else {
            let layer = fmt::layer()
                .json()
                .flatten_event(true)
                .with_current_span(false);
            registry.with(layer.with_writer(io::stderr)).try_init()
        };
        // Fails only when a test harness set a subscriber of its own: then that one is meant.
        drop(set);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_targets_are_checked() {
        for good in [
            "info",
            "WARN",
            "off",
            "warn,tributary_bus=debug",
            "tributary_agent::send=trace",
        ] {
            assert_eq!(check_level(good), Ok(()), "{good}");
        }
        for bad in ["", "inf", "tributary_bus", "a=b", "info,"] {
            let error = check_level(bad).unwrap_err();
            assert!(
                error.contains("allowed are off, error, warn, info, debug, trace"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_second_start_changes_nothing() {
        init(Format::Json, "info");
        init(Format::Text, "debug");
        tracing::info!(bytes = 1, "logging works");
    }
}
