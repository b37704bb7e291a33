//! The path of a log file, shared by all who name it: discovery, the reader and the checkpoint hold
//! one text together, not one each. An agent may know 100,000 of them.
//!
//! Not for: folders and programs' own files; those are plain paths.

use std::{
    borrow::Borrow,
    ffi::OsStr,
    fmt,
    ops::Deref,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, SeqAccess, Visitor},
};

/// A path. A clone costs nothing. In files it stands as its bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LogPath(Arc<Path>);

impl LogPath {
    /// The path that these bytes of the file system are.
    pub(crate) fn of_bytes(bytes: &[u8]) -> Self {
        Self(Path::new(OsStr::from_bytes(bytes)).into())
    }

    /// Its bytes in the file system.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_os_str().as_bytes()
    }

    /// Goes over to the text of `other` where both are the same byte for byte, so that one of them is
    /// freed.
    pub(crate) fn share(&mut self, other: &Self) {
        if self.as_bytes() == other.as_bytes() {
            *self = other.clone();
        }
    }
}

/// No path.
impl Default for LogPath {
    fn default() -> Self {
        Self::of_bytes(b"")
    }
}

impl Deref for LogPath {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

/// Maps by it are asked with any path.
impl Borrow<Path> for LogPath {
    fn borrow(&self) -> &Path {
        &self.0
    }
}

impl AsRef<Path> for LogPath {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

impl From<PathBuf> for LogPath {
    fn from(path: PathBuf) -> Self {
        Self(path.into())
    }
}

impl From<&Path> for LogPath {
    fn from(path: &Path) -> Self {
        Self(path.into())
    }
}

impl fmt::Debug for LogPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for LogPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.as_bytes())
    }
}

impl<'de> Deserialize<'de> for LogPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl<'de> Visitor<'de> for Bytes {
            type Value = LogPath;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the bytes of a path")
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<LogPath, E> {
                Ok(LogPath::of_bytes(bytes))
            }

            // Formats without bytes have lists of numbers.
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<LogPath, A::Error> {
                let mut bytes = Vec::new();
                while let Some(byte) = list.next_element()? {
                    bytes.push(byte);
                }
                Ok(LogPath::of_bytes(&bytes))
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stands_in_files_as_a_list_of_bytes_did() {
        for bytes in [&b"/var/log/a.log"[..], b"", b"/\xff\n"] {
            let old = postcard::to_allocvec(&bytes.to_vec()).unwrap();
            let path = LogPath::of_bytes(bytes);
            assert_eq!(postcard::to_allocvec(&path).unwrap(), old);
            assert_eq!(postcard::from_bytes::<LogPath>(&old).unwrap(), path);
            assert_eq!(path.as_bytes(), bytes);
        }
    }

    #[test]
    fn equal_paths_share_their_text() {
        let one = LogPath::of_bytes(b"/a/b");
        let mut other = LogPath::of_bytes(b"/a/b");
        other.share(&one);
        assert!(Arc::ptr_eq(&one.0, &other.0));
        // Equal for a file system, but another text.
        let mut other = LogPath::of_bytes(b"/a//b");
        other.share(&one);
        assert_eq!(other.as_bytes(), b"/a//b");
    }
}
