//! Names and numbers that identify things, as types: parsed at the door, never passed as `String`.
//!
//! Not for: byte positions (see [`crate::span`]). Everybody calls it.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Longest accepted name, in bytes. Kafka's limit for topics (249) rounds to this.
pub const MAX_NAME_BYTES: usize = 249;

/// A name outside the allowed form. The text says what was given and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The name has no characters.
    #[error("{what} is empty; allowed are 1 to {MAX_NAME_BYTES} of a-z A-Z 0-9 . _ -")]
    Empty {
        /// The kind of name, for the message.
        what: &'static str,
    },
    /// The name is longer than [`MAX_NAME_BYTES`].
    #[error("{what} has {len} bytes; allowed are 1 to {MAX_NAME_BYTES}")]
    TooLong {
        /// The kind of name, for the message.
        what: &'static str,
        /// Its length in bytes.
        len: usize,
    },
    /// The name holds a character outside `a-z A-Z 0-9 . _ -`, or is `.` or `..`.
    #[error(
        "{what} {name:?} is not a name; allowed are 1 to {MAX_NAME_BYTES} of a-z A-Z 0-9 . _ - (not . or ..)"
    )]
    BadCharacter {
        /// The kind of name, for the message.
        what: &'static str,
        /// The name as given.
        name: String,
    },
    /// A class that is none of P0, P1, P2, P3.
    #[error("class {0:?} is unknown; allowed are P0, P1, P2, P3")]
    Class(String),
}

/// Kafka's own rule for topic names, used for every name: it keeps names safe in paths and labels.
fn check_name(what: &'static str, name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty { what });
    }
    if name.len() > MAX_NAME_BYTES {
        return Err(NameError::TooLong {
            what,
            len: name.len(),
        });
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if name == "." || name == ".." || !name.bytes().all(allowed) {
        return Err(NameError::BadCharacter {
            what,
            name: name.to_owned(),
        });
    }
    Ok(())
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            /// Parses a name.
            ///
            /// # Errors
            /// [`NameError`] when the name is empty, too long, or holds other characters than
            /// `a-z A-Z 0-9 . _ -`.
            pub fn new(name: &str) -> Result<Self, NameError> {
                check_name($what, name)?;
                Ok(Self(name.into()))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(name: &str) -> Result<Self, NameError> {
                Self::new(name)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(name: String) -> Result<Self, NameError> {
                Self::new(&name)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }
    };
}

name_type!(
    /// A logical topic; obeys Kafka's rule for topic names.
    Topic, "topic"
);
name_type!(
    /// An ingestion task.
    TaskId, "task id"
);
name_type!(
    /// One agent for ever: made once, kept in its state directory.
    AgentId, "agent id"
);
name_type!(
    /// One bus node.
    NodeId, "node"
);
name_type!(
    /// A data centre.
    Zone, "zone"
);
name_type!(
    /// A group of bus nodes, or the name of a destination.
    Name, "name"
);

/// Priority of a channel. The order of the variants is the order of service.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
pub enum Class {
    /// Critical.
    P0,
    /// Important.
    P1,
    /// Normal, the default.
    #[default]
    P2,
    /// Bulk.
    P3,
}

impl Class {
    /// All classes, most urgent first.
    pub const ALL: [Self; 4] = [Self::P0, Self::P1, Self::P2, Self::P3];

    /// The class as text, `P0` to `P3`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::P0 => "P0",
            Self::P1 => "P1",
            Self::P2 => "P2",
            Self::P3 => "P3",
        }
    }

    /// How long a batch may wait for more records before it is cut, in ms (design section 5).
    #[must_use]
    pub fn linger_ms(self) -> u64 {
        match self {
            Self::P0 => 20,
            Self::P1 | Self::P2 | Self::P3 => 200,
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Class {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::ALL
            .into_iter()
            .find(|class| class.as_str() == text)
            .ok_or_else(|| NameError::Class(text.to_owned()))
    }
}

macro_rules! number_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
        )]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:016x}", self.0)
            }
        }
    };
}

number_type!(
    /// The ordered generations of one log file of one channel on one host. A hash of agent id,
    /// task id and path, so it is the same after a restart and differs between hosts.
    StreamId
);
number_type!(
    /// One physical file. A hash of its file handle (inode and inode generation) and of how often
    /// it was truncated, so it is never used for two contents.
    GenerationId
);
number_type!(
    /// One life of a process, from the clock (ms since 1970) at its start, made greater than the
    /// life before.
    Epoch
);

/// The identity of a batch. Two batches with the same identity hold the same records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BatchId {
    /// The stream it belongs to.
    pub stream: StreamId,
    /// The life of the agent that first cut it.
    pub epoch: Epoch,
    /// Its place in the stream: 1, 2, 3 … within an epoch, without holes.
    pub seq: u64,
}

impl BatchId {
    /// Length of [`BatchId::to_bytes`].
    pub const BYTES: usize = 24;

    /// The id as it stands in the `tributary` record header: three big-endian `u64`.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[..8].copy_from_slice(&self.stream.0.to_be_bytes());
        out[8..16].copy_from_slice(&self.epoch.0.to_be_bytes());
        out[16..].copy_from_slice(&self.seq.to_be_bytes());
        out
    }

    /// Reads what [`BatchId::to_bytes`] wrote; `None` when the length is another.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        if bytes.len() != Self::BYTES {
            return None;
        }
        Some(Self {
            stream: StreamId(word(0)?),
            epoch: Epoch(word(8)?),
            seq: word(16)?,
        })
    }
}

impl fmt::Display for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.stream, self.epoch, self.seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_kafkas_rule() {
        for good in ["web.access", "a", "A-b_c.9", &"x".repeat(249)] {
            assert_eq!(Topic::new(good).unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", "a b", "ä", "a/b", "a\n", &"x".repeat(250)] {
            let error = Topic::new(bad).unwrap_err().to_string();
            assert!(error.contains("allowed are 1 to 249"), "{error}");
        }
    }

    #[test]
    fn a_class_reads_back_what_it_shows() {
        for class in Class::ALL {
            assert_eq!(class.as_str().parse::<Class>().unwrap(), class);
        }
        assert_eq!(
            "p5".parse::<Class>().unwrap_err().to_string(),
            "class \"p5\" is unknown; allowed are P0, P1, P2, P3"
        );
    }

    #[test]
    fn a_batch_id_survives_its_bytes() {
        let id = BatchId {
            stream: StreamId(7),
            epoch: Epoch(u64::MAX),
            seq: 3,
        };
        assert_eq!(BatchId::from_bytes(&id.to_bytes()), Some(id));
        assert_eq!(BatchId::from_bytes(&id.to_bytes()[1..]), None);
        assert_eq!(BatchId::from_bytes(&[0; 25]), None);
    }
}
