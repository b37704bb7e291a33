//! What a span must know of the bytes before it, and what is special about a record.
//!
//! Both are sets of bits. A [`Carry`] stands in the checkpoint with each cut: bits keep their places.
//!
//! Not for: the framings themselves. All of [`super`] uses it.

use serde::{Deserialize, Serialize};

/// What is carried from one span to the next. Few bits: all else is in the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Carry(u16);

impl Carry {
    /// The rest of a record is to be dropped: up to the newline, or the end of its group.
    pub(crate) const DROPPING: Self = Self(1);
    /// The last group of lines was not whole: what follows may go on with it.
    pub(crate) const REST: Self = Self(2);
    /// The same for the streams of a container: stdout, stderr, others.
    pub(crate) const REST_OF: [Self; 3] = [Self(4), Self(8), Self(16)];
    /// What follows of these streams is to be dropped, up to the end of the record.
    pub(crate) const DROPPING_OF: [Self; 3] = [Self(32), Self(64), Self(128)];
    /// The first line is the rest of one that began before.
    pub(crate) const MID_LINE: Self = Self(256);
    /// The lines of a container are not joined, for the batch has no room to join them.
    pub(crate) const SINGLE: Self = Self(512);
    /// The last record is a piece of a line that is none of the container runtime's.
    pub(crate) const RAW: Self = Self(1024);
    /// UTF-16 is big-endian.
    pub(crate) const BIG: Self = Self(2048);
    /// What follows begins a line, whatever stands before it.
    pub(crate) const LINE_BEGINS: Self = Self(8192);
    /// The last record of groups is a piece of a line that is too long.
    pub(crate) const PIECE: Self = Self(4096);

    /// Whether it has a bit.
    pub(crate) fn has(self, bit: Self) -> bool {
        self.0 & bit.0 != 0
    }

    /// With a bit set or not.
    #[must_use]
    pub(crate) fn with(self, bit: Self, set: bool) -> Self {
        if set {
            Self(self.0 | bit.0)
        } else {
            Self(self.0 & !bit.0)
        }
    }

    /// What the next file takes over: which records were not whole at the end of this one.
    #[must_use]
    pub(crate) fn to_next_file(self) -> Self {
        let [out, err, other] = Self::REST_OF;
        Self(self.0 & (Self::REST.0 | out.0 | err.0 | other.0))
    }

    /// What is carried on where the last record of a file went on in the next one.
    #[must_use]
    pub(crate) fn behind_joined(self) -> Self {
        Self(self.0 & Self::BIG.0)
    }

    /// Whether the rest of a record is to be dropped before anything else.
    pub(crate) fn is_dropping(self) -> bool {
        self.has(Self::DROPPING)
    }

    /// With the rest to be dropped or not.
    #[must_use]
    pub(crate) fn dropping(self, dropping: bool) -> Self {
        self.with(Self::DROPPING, dropping)
    }
}

/// What is special about a record; nothing, as a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Flags(u8);

impl Flags {
    /// It goes on with the record before it.
    pub(crate) const CONTINUES: Self = Self(1);
    /// It was cut: the next record may go on with it.
    pub(crate) const CUT: Self = Self(2);
    /// Its rest was dropped.
    pub(crate) const TRUNCATED: Self = Self(4);
    /// It is a line as it stands, for it is none of the container runtime's.
    pub(crate) const MALFORMED: Self = Self(8);
    /// Bytes of it are no text in its encoding.
    pub(crate) const UNDECODABLE: Self = Self(16);

    /// All of them, with their names, for people.
    const NAMES: [(Self, &'static str); 5] = [
        (Self::CONTINUES, "continues"),
        (Self::CUT, "cut"),
        (Self::TRUNCATED, "truncated"),
        (Self::MALFORMED, "malformed"),
        (Self::UNDECODABLE, "undecodable"),
    ];

    /// Whether it has a flag.
    pub(crate) fn has(self, flag: Self) -> bool {
        self.0 & flag.0 != 0
    }

    /// With a flag where `set`.
    #[must_use]
    pub(crate) fn with(self, flag: Self, set: bool) -> Self {
        if set { Self(self.0 | flag.0) } else { self }
    }

    /// Whether the record is not whole.
    pub(crate) fn is_partial(self) -> bool {
        self.0 & (Self::CUT.0 | Self::TRUNCATED.0) != 0
    }

    /// Whether nothing is special.
    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The names of its flags.
    pub(crate) fn names(self) -> impl Iterator<Item = &'static str> {
        let named = Self::NAMES.into_iter();
        named.filter_map(move |(flag, name)| self.has(flag).then_some(name))
    }
}
