//! One log under two names: its own and that of a link, as a kubelet makes them.
//!
//! A stream has the name under which its first file was seen. A file that is made anew between the looks at
//! its name and at the link is seen by one of the two only, and goes on with the stream that stands under the
//! other: a record over both files stays one. Not for: files that are the same (see [`super::files`]).

use std::{collections::HashMap, path::Path};

use super::{Reader, files::stream_id};
use crate::{
    far,
    handle::{self, FileInfo},
    path::LogPath,
};

/// Streams that stand under a link, by where it leads: one place for each, the last one.
#[derive(Debug, Default)]
pub(super) struct Links {
    streams: HashMap<(usize, LogPath), usize>,
    places: HashMap<usize, (usize, LogPath)>,
}

impl Links {
    fn put(&mut self, channel: usize, path: &LogPath, stream: usize) {
        let place = (channel, path.clone());
        let before = self.places.insert(stream, place.clone());
        if let Some(before) = before.filter(|before| *before != place) {
            self.streams.remove(&before);
        }
        self.streams.insert(place, stream);
    }

    /// The channel is removed.
    pub(super) fn forget(&mut self, channel: usize) {
        self.streams.retain(|(of, _path), _stream| *of != channel);
        self.places.retain(|_stream, (of, _path)| *of != channel);
    }
}

impl Reader {
    /// Of the names of a newcomer the one that has a stream.
    pub(super) fn name_with_stream(
        &self,
        channel: usize,
        path: LogPath,
        info: &FileInfo,
    ) -> LogPath {
        if self.has_stream(channel, &path) {
            return path;
        }
        if let Some(link) = self.link_with_stream(channel, &path) {
            return link;
        }
        let real = far::link_target(&path).map(LogPath::from);
        let real = real.filter(|real| self.has_stream(channel, real));
        let is_it = |real: &LogPath| handle::of_path(real).is_ok_and(|seen| seen.key == info.key);
        real.filter(is_it).unwrap_or(path)
    }

    fn has_stream(&self, channel: usize, path: &Path) -> bool {
        let seed = self.channels.get(channel).map(|known| &known.seed);
        let id = seed.map(|seed| stream_id(&self.wiring.agent, seed, path));
        id.is_some_and(|id| self.by_id.contains_key(&id))
    }

    /// The link to this path under which a stream stands.
    fn link_with_stream(&self, channel: usize, path: &LogPath) -> Option<LogPath> {
        let stream = *self.links.streams.get(&(channel, path.clone()))?;
        let link = &self.streams.get(stream)?.path;
        leads_to(link, path).then(|| link.clone())
    }

    /// A file of a stream has this name, too: where that of the stream is a link to it, the next file may be
    /// seen here first.
    pub(super) fn note_link(&mut self, channel: usize, path: &LogPath, stream: usize) {
        let link = self.streams.get(stream).map(|known| &known.path);
        if link.is_some_and(|link| link != path && leads_to(link, path)) {
            self.links.put(channel, path, stream);
        }
    }
}

fn leads_to(link: &Path, path: &Path) -> bool {
    far::link_target(link).is_some_and(|real| real == path)
}
