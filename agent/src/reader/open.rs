//! Opens log files, so that nobody is kept waiting and nothing is left behind.
//!
//! Not for: whether there is room for one more (see [`super::opened`]). The reader's rooms and the
//! spool's thread call it.

use std::{fs::File, io, path::Path};

/// Opens a file to read, without waiting for anybody (a pipe in its place would), and without noting
/// the time of access where that is allowed: it would be written to the disk for each batch.
pub(crate) fn open_file(path: &Path) -> io::Result<File> {
    match open_with(path, libc::O_NOATIME) {
        // Only the owner of a file and root may ask for that.
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => open_with(path, 0),
        opened => opened,
    }
}

fn open_with(path: &Path, more: i32) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC | more;
    std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)
}

#[cfg(test)]
mod tests {
    use std::{
        fs::FileTimes,
        io::Read as _,
        time::{Duration, SystemTime},
    };

    use super::*;

    #[test]
    fn reading_leaves_the_time_of_access_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        std::fs::write(&path, "a line\n").unwrap();
        // Before the change of its content: the first reader would be noted.
        let before = SystemTime::now() - Duration::from_secs(1_000_000);
        let file = File::options().write(true).open(&path).unwrap();
        file.set_times(FileTimes::new().set_accessed(before))
            .unwrap();
        let accessed = || std::fs::metadata(&path).unwrap().accessed().unwrap();
        let told = accessed();
        let mut text = String::new();
        open_file(&path).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), accessed()), ("a line\n", told));
    }
}
