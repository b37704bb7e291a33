//! What the disk door promises, on a real disk.

use super::*;

fn folder_of(test: &str) -> tempfile::TempDir {
    tempfile::Builder::new().prefix(test).tempdir().unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_replaced_file_is_whole_and_leaves_nothing_beside_it() {
    let dir = folder_of("replace");
    let path = dir.path().join("state");
    for bytes in [&b"long old content"[..], b"new", b""] {
        replace(&path, bytes).unwrap();
        assert_eq!(read(&path).unwrap().unwrap(), bytes);
    }
    assert_eq!(names(dir.path()), ["state"]);
}

#[test]
fn what_is_private_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = folder_of("private");
    let path = dir.path().join("state");
    replace(&path, b"open").unwrap();
    replace_private(&path, b"secret").unwrap();
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_failed_replace_keeps_the_old_file_and_names_it() {
    let dir = folder_of("replace-fails");
    let path = dir.path().join("state");
    // A folder cannot be replaced by a file.
    fs::create_dir(&path).unwrap();
    fs::write(path.join("x"), "kept").unwrap();
    let error = replace(&path, b"new").unwrap_err().to_string();
    assert!(error.contains("state"), "{error}");
    assert_eq!(names(dir.path()), ["state"]);
    let error = replace(&dir.path().join("no/such"), b"x").unwrap_err();
    assert!(error.is_missing() && !error.is_full(), "{error}");
    assert!(
        error.to_string().starts_with("failed to create /"),
        "{error}"
    );
}

#[test]
fn appends_go_to_the_end_also_after_opening_again() {
    let dir = folder_of("append");
    let path = dir.path().join("log");
    let mut file = AppendFile::open(&path).unwrap();
    assert!(file.is_empty());
    assert_eq!(file.append(b"one").unwrap(), 0);
    assert_eq!(file.append(b"two").unwrap(), 3);
    file.sync().unwrap();
    let mut file = AppendFile::open(&path).unwrap();
    assert_eq!((file.len(), file.append(b"three").unwrap()), (6, 6));
    file.truncate(4).unwrap();
    assert_eq!(file.append(b"!").unwrap(), 4);
    assert_eq!(read(&path).unwrap().unwrap(), b"onet!");
    let error = AppendFile::create(&path).unwrap_err().to_string();
    assert!(error.contains("exists"), "{error}");
}

#[test]
fn another_thread_can_sync_while_this_one_appends() {
    let dir = folder_of("syncer");
    let mut file = AppendFile::create(&dir.path().join("log")).unwrap();
    let syncer = file.syncer().unwrap();
    let thread = std::thread::spawn(move || (0..20).try_for_each(|_| syncer.sync()));
    for _ in 0..1000 {
        file.append(&[7; 100]).unwrap();
    }
    thread.join().unwrap().unwrap();
    assert_eq!(file.file().metadata().unwrap().len(), 100_000);
}

#[test]
fn a_full_disk_is_told_apart() {
    let full = Path::new("/dev/full");
    let file = OpenOptions::new().append(true).open(full).unwrap();
    let mut file = AppendFile::from_file(file, full).unwrap();
    let error = file.append(b"x").unwrap_err();
    assert!(error.is_full(), "{error}");
    assert!(
        error
            .to_string()
            .starts_with("failed to append to /dev/full: "),
        "{error}"
    );
    assert_eq!(file.len(), 0);
}

#[test]
fn a_lock_is_held_once_and_given_back() {
    let dir = folder_of("lock");
    let state = dir.path().join("a/b");
    let lock = Lock::acquire(&state).unwrap();
    let error = Lock::acquire(&state).unwrap_err();
    assert!(
        matches!(&error, LockError::Held(held) if held.path == state),
        "{error}"
    );
    assert!(
        error.to_string().contains("is held by another process"),
        "{error}"
    );
    drop(lock);
    Lock::acquire(&state).unwrap();
}

#[test]
fn removing_what_is_not_there_is_no_error() {
    let dir = folder_of("remove");
    let path = dir.path().join("x");
    assert!(!remove(&path).unwrap());
    replace(&path, b"x").unwrap();
    truncate(&path, 0).unwrap();
    assert_eq!(read(&path).unwrap().unwrap(), b"");
    assert!(remove(&path).unwrap());
    assert_eq!(read(&path).unwrap(), None);
    let deep = dir.path().join("a/b/c");
    create_dir_all(&deep).unwrap();
    create_dir_all(&deep).unwrap();
    assert!(remove_dir_all(&dir.path().join("a")).unwrap());
    assert!(!remove_dir_all(&dir.path().join("a")).unwrap());
}

#[test]
fn a_secret_comes_without_its_newline() {
    let dir = folder_of("secret");
    let path = dir.path().join("token");
    replace(&path, b" abc\n").unwrap();
    assert_eq!(read_secret(&path).unwrap(), "abc");
    replace(&path, b"\n").unwrap();
    let error = read_secret(&path).unwrap_err().to_string();
    assert!(error.ends_with("token: the file is empty"), "{error}");
}

#[test]
fn free_space_is_a_part_of_the_whole() {
    let space = free_space(Path::new("/tmp")).unwrap();
    assert!(space.total > 0 && space.free <= space.total, "{space:?}");
    assert!(free_space(Path::new("/no/such")).is_err());
}
