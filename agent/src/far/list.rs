//! The mounts of this process, and which of them are far.
//!
//! Source: `/proc/self/mountinfo` in proc(5). Reading it asks no file system anything; the kernel says
//! through `poll` when it has changed. Not for: asking (see [`super::mount`]).

use std::{
    collections::HashMap,
    ffi::OsString,
    fs::File,
    io::{self, Read as _, Seek as _},
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, atomic::Ordering},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{ANY, TABLE, mount::Mount};
use crate::shown::shown;

const LIST: &str = "/proc/self/mountinfo";
/// File systems that others serve, by their names; those of FUSE begin with its name.
const FAR: [&str; 12] = [
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "virtiofs", "ceph", "lustre", "afs", "gfs2",
    "ocfs2",
];

fn is_far(kind: &str) -> bool {
    FAR.contains(&kind) || kind.starts_with("fuse")
}

/// A line of the list.
#[derive(Debug, PartialEq, Eq)]
struct Mounted {
    id: u64,
    point: PathBuf,
    far: bool,
}

/// The list that is read again when it has changed.
#[derive(Debug)]
pub(crate) struct Mounts {
    file: Option<File>,
}

impl Mounts {
    /// Reads it for the first time.
    pub(crate) fn new() -> Self {
        let file = File::open(LIST).inspect_err(|error| {
            tracing::warn!(
                error = error.to_string(),
                "the mounts of this host cannot be read: a file system that hangs holds up all files"
            );
        });
        let mut mounts = Self { file: file.ok() };
        mounts.read();
        mounts
    }

    /// Looks whether anything was mounted or unmounted.
    pub(crate) fn look(&mut self) {
        let Some(file) = &self.file else { return };
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let mut fds = [PollFd::new(file, PollFlags::PRI)];
        if poll(&mut fds, Some(&at_once)).is_ok_and(|ready| ready > 0) {
            self.read();
        }
    }

    fn read(&mut self) {
        let Some(file) = &mut self.file else { return };
        let mut text = Vec::new();
        let read = file.rewind().and_then(|()| file.read_to_end(&mut text));
        if let Err(error) = read {
            tracing::warn!(
                error = error.to_string(),
                "the list of mounts cannot be read"
            );
            return;
        }
        let listed = text.split(|byte| *byte == b'\n').filter_map(mounted);
        let mut table = TABLE.write().unwrap_or_else(PoisonError::into_inner);
        table.take(&listed.collect::<Vec<_>>(), Mount::start);
        ANY.store(!table.mounts.is_empty(), Ordering::Relaxed);
    }
}

/// Reads a line.
fn mounted(line: &[u8]) -> Option<Mounted> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let point = unescaped(fields.nth(3)?);
    // Optional fields end with a dash.
    let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
    Some(Mounted {
        id,
        point,
        far: is_far(std::str::from_utf8(kind).ok()?),
    })
}

/// A path of the list: space, tab, newline and backslash are written as three octal digits.
fn unescaped(text: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, behind)) = rest.split_first() {
        let digits = behind.get(..3).filter(|_digits| first == b'\\');
        let octal = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = octal.and_then(|octal| u8::from_str_radix(octal, 8).ok());
        bytes.push(byte.unwrap_or(first));
        rest = match byte {
            Some(_) => behind.get(3..).unwrap_or_default(),
            None => behind,
        };
    }
    OsString::from_vec(bytes).into()
}

/// What is far.
#[derive(Debug)]
pub(super) struct Table {
    /// Far mounts, and near ones below them, as the kernel lists them: of two in one place the later counts.
    mounts: Vec<(PathBuf, Option<Arc<Mount>>)>,
    /// Links that lead to a far one.
    links: Option<HashMap<PathBuf, Arc<Mount>>>,
}

impl Table {
    pub(super) const fn new() -> Self {
        Self {
            mounts: Vec::new(),
            links: None,
        }
    }

    /// What the kernel would have listed so.
    #[cfg(test)]
    pub(super) fn listed(text: &str) -> Self {
        let lines = text.split('\n').filter_map(|line| mounted(line.as_bytes()));
        let mut table = Self::new();
        table.take(&lines.collect::<Vec<_>>(), Mount::start);
        table
    }

    /// The far file system on which a path lies.
    pub(super) fn of(&self, path: &Path) -> Option<Arc<Mount>> {
        let above = self.mounts.iter();
        let above = above.filter(|(point, _mount)| path.starts_with(point));
        let nearest = above.max_by_key(|(point, _mount)| point.as_os_str().len());
        if let Some((_point, Some(mount))) = nearest {
            return Some(Arc::clone(mount));
        }
        let links = self.links.as_ref()?;
        path.ancestors().find_map(|path| links.get(path)).cloned()
    }

    /// Where those are mounted that do not answer.
    pub(super) fn silent(&self) -> Vec<String> {
        let mounts = self
            .mounts
            .iter()
            .filter_map(|(_point, mount)| mount.as_ref());
        let silent = mounts.filter(|mount| mount.is_silent());
        let mut silent: Vec<String> = silent.map(|mount| shown(mount.point())).collect();
        silent.sort();
        silent
    }

    /// A path leads to a far one.
    pub(super) fn link(&mut self, path: PathBuf, mount: Arc<Mount>) {
        self.links.get_or_insert_default().insert(path, mount);
    }

    /// A link leads elsewhere.
    pub(super) fn unlink(&mut self, path: &Path) {
        if let Some(links) = &mut self.links {
            links.remove(path);
        }
    }

    /// Takes a new list over. What is still mounted keeps its threads; `start` starts those of others.
    fn take(&mut self, listed: &[Mounted], start: impl Fn(u64, &Path) -> io::Result<Mount>) {
        let is_below_far = |one: &Mounted| {
            let mut far = listed.iter().filter(|other| other.far);
            far.any(|far| one.point.starts_with(&far.point))
        };
        let before = std::mem::take(&mut self.mounts);
        let known = |one: &Mounted| {
            let mut before = before.iter().filter_map(|(_point, mount)| mount.as_ref());
            before.find(|mount| mount.id == one.id && mount.point() == one.point)
        };
        for one in listed.iter().filter(|one| is_below_far(one)) {
            let mount = match (one.far, known(one)) {
                (false, _) => None,
                (true, Some(mount)) => Some(Arc::clone(mount)),
                (true, None) => match start(one.id, &one.point) {
                    Ok(mount) => Some(Arc::new(mount)),
                    Err(error) => {
                        tracing::warn!(
                            path = %one.point.display(),
                            error = error.to_string(),
                            "a file system gets no thread of its own: when it hangs it holds up all files"
                        );
                        None
                    }
                },
            };
            self.mounts.push((one.point.clone(), mount));
        }
        let mounts = &self.mounts;
        let lives = |mount: &Arc<Mount>| {
            let mut all = mounts.iter().filter_map(|(_point, mount)| mount.as_ref());
            all.any(|one| Arc::ptr_eq(one, mount))
        };
        if let Some(links) = &mut self.links {
            links.retain(|_link, mount| lives(mount));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTED: &str = "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw
40 22 0:35 / /mnt/a\\040b rw,nosuid shared:7 master:2 - nfs4 10.0.0.1:/x rw,hard
41 40 0:36 / /mnt/a\\040b/near rw - tmpfs tmpfs rw
42 22 0:37 / /mnt/c rw - fuse.bindfs x rw
43 22 0:38 / /mnt/cc rw - tmpfs tmpfs rw
bad line
";

    fn listed(text: &str) -> Vec<Mounted> {
        text.split('\n')
            .filter_map(|line| mounted(line.as_bytes()))
            .collect()
    }

    fn point(table: &Table, path: &str) -> Option<PathBuf> {
        let mount = table.of(Path::new(path))?;
        Some(mount.point().to_owned())
    }

    #[test]
    fn a_path_is_on_the_mount_that_is_nearest_above_it() {
        let mut table = Table::new();
        table.take(&listed(LISTED), Mount::start);
        let check = |path: &str, wanted: Option<&str>| {
            assert_eq!(point(&table, path), wanted.map(PathBuf::from), "{path}");
        };
        check("/mnt/a b/x.log", Some("/mnt/a b"));
        check("/mnt/a b", Some("/mnt/a b"));
        check("/mnt/a b/near/x.log", None);
        check("/mnt/c/d/e", Some("/mnt/c"));
        check("/mnt/cc/d", None);
        check("/var/log/x.log", None);
    }

    #[test]
    fn what_stays_mounted_keeps_its_threads_and_links_to_what_is_gone_are_forgotten() {
        let mut table = Table::new();
        table.take(&listed(LISTED), Mount::start);
        let nfs = table.of(Path::new("/mnt/a b/x")).unwrap();
        let fuse = table.of(Path::new("/mnt/c")).unwrap();
        table.link("/logs".into(), Arc::clone(&fuse));
        table.link("/other".into(), Arc::clone(&nfs));
        assert_eq!(point(&table, "/logs/x.log"), Some("/mnt/c".into()));
        let without = LISTED.replace("fuse.bindfs", "xfs");
        table.take(&listed(&without), |id, _point| panic!("{id} is known"));
        assert!(Arc::ptr_eq(&table.of(Path::new("/mnt/a b")).unwrap(), &nfs));
        assert_eq!(point(&table, "/mnt/c/x"), None);
        assert_eq!(point(&table, "/logs/x.log"), None);
        assert!(table.of(Path::new("/other/x.log")).is_some());
        // Mounted anew in the same place: another one.
        let anew = LISTED.replace("40 22", "50 22");
        table.take(&listed(&anew), Mount::start);
        assert!(!Arc::ptr_eq(
            &table.of(Path::new("/mnt/a b")).unwrap(),
            &nfs
        ));
    }

    #[test]
    fn the_kernels_own_list_is_read() {
        let own = std::fs::read(LIST).unwrap();
        let lines = own
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty());
        let (lines, read) = (lines.clone().count(), lines.filter_map(mounted).count());
        assert!(lines > 0 && lines == read, "{read} of {lines}");
    }
}
