//! Where the bytes of a generation are: in its file, or in the spool.
//!
//! Not for: opening either (see [`crate::reader`]), or what the spool looks like on disk (see
//! [`crate::spool`]).

use std::io;

use crate::{far::LogFile, handle::Extent, spool::SpoolFile};

/// Bytes at offsets of their source.
#[derive(Debug)]
pub(crate) enum Content {
    /// The file itself.
    File(LogFile),
    /// What was saved of it.
    Spool(Box<SpoolFile>),
}

impl Content {
    /// Reads at an offset of the source; 0 bytes at its end.
    ///
    /// # Errors
    /// What the kernel says, or `InvalidData` when the spool is damaged there.
    pub(crate) fn read_at(&self, room: &mut [u8], offset: u64) -> io::Result<usize> {
        match self {
            Self::File(file) => file.read_at(room, offset),
            Self::Spool(spool) => spool.read_at(room, offset),
        }
    }

    /// How far it goes.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn extent(&self) -> io::Result<Extent> {
        match self {
            Self::File(file) => file.extent(),
            Self::Spool(spool) => Ok(spool.extent()),
        }
    }

    /// The file, when it is one.
    pub(crate) fn as_file(&self) -> Option<&LogFile> {
        match self {
            Self::File(file) => Some(file),
            Self::Spool(_) => None,
        }
    }

    /// Source bytes beyond its end that are to come: it is a window of a compressed file.
    pub(crate) fn beyond(&self) -> u64 {
        match self {
            Self::File(_) => 0,
            Self::Spool(spool) => spool.total() - spool.end,
        }
    }

    /// Whether it begins behind an offset of the source.
    pub(crate) fn begins_behind(&self, offset: u64) -> bool {
        match self {
            Self::File(_) => false,
            Self::Spool(spool) => spool.meta.start > offset,
        }
    }
}
