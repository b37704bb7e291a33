//! A disk that fails on demand, below one folder: for tests of what must survive.
//!
//! Every call of the door below the folder is counted; the one that a test names fails, and with
//! [`Fault::Kill`] nothing is done after it, as if the process had been killed there. What a power
//! cut would leave is kept as well: [`Faults::cut_power`] puts the folder back to what was synced,
//! and to as much of the rest as chance has it: bytes that were not synced may be there, or not, or
//! be zeros; names that were not synced may be the old or the new ones.
//!
//! Syncs below the folder do not reach the disk, so that thousands of lives take seconds. Files whose
//! names are made or removed beside the door are not known here.
//!
//! Not for: programs. Compiled only with the feature `faults`, which tests ask for.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::calls::Call;

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails with this error number and does nothing.
    Error(i32),
    /// This one and so many after it fail with this error number.
    Errors(i32, u64),
    /// Half of a write is done, then it fails as a full disk does; other calls fail.
    Short,
    /// It is not done, nor anything after it.
    Kill,
    /// Half of a write is done, other calls wholly; nothing after it.
    KillAfter,
    /// A sync fails, and what it was to sync is lost for good, though later syncs succeed; other
    /// calls fail. This is what Linux does.
    SyncLoses,
}

/// What a power cut would leave of a file.
#[derive(Debug, Clone, Default)]
struct Content {
    bytes: Vec<u8>,
    /// Bytes from here on were given up by a failed sync.
    lost_from: Option<usize>,
}

#[derive(Debug, Default)]
struct Plan {
    calls: u64,
    fault: Option<(u64, Fault)>,
    dead: bool,
    hit: Option<String>,
    /// Each file that ever was, by a number of its own.
    contents: Vec<Content>,
    /// The file that an inode number means now.
    current: HashMap<u64, usize>,
    /// The names that a power cut leaves.
    names: BTreeMap<PathBuf, usize>,
}

static PLANS: Mutex<Vec<(PathBuf, Arc<Mutex<Plan>>)>> = Mutex::new(Vec::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn plan_of(path: &Path) -> Option<Arc<Mutex<Plan>>> {
    lock(&PLANS)
        .iter()
        .find(|(dir, _)| path.starts_with(dir))
        .map(|(_, plan)| Arc::clone(plan))
}

fn gone() -> io::Error {
    io::Error::other("the process was killed")
}

/// The faults of one folder, until this is dropped.
#[derive(Debug)]
pub struct Faults {
    dir: PathBuf,
    plan: Arc<Mutex<Plan>>,
}

impl Faults {
    /// Watches over a folder; what is in it counts as durable.
    #[must_use]
    pub fn on(dir: &Path) -> Self {
        let plan = Arc::new(Mutex::new(Plan::default()));
        lock(&plan).take_stock(dir);
        lock(&PLANS).push((dir.to_owned(), Arc::clone(&plan)));
        Self {
            dir: dir.to_owned(),
            plan,
        }
    }

    /// From now on the `n`-th call (the first is 0) meets this fault.
    pub fn at(&self, n: u64, fault: Fault) {
        let mut plan = lock(&self.plan);
        plan.fault = Some((plan.calls + n, fault));
    }

    /// Calls so far.
    #[must_use]
    pub fn calls(&self) -> u64 {
        lock(&self.plan).calls
    }

    /// Whether the process counts as killed.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        lock(&self.plan).dead
    }

    /// The call that the fault met, in words.
    #[must_use]
    pub fn hit(&self) -> Option<String> {
        lock(&self.plan).hit.clone()
    }

    /// Leaves in the folder what a power cut leaves, as `seed` has it.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn cut_power(self, seed: u64) -> io::Result<()> {
        let mut rng = fastrand::Rng::with_seed(seed);
        let left = lock(&self.plan).left(&self.dir, &mut rng)?;
        for (path, _) in files_below(&self.dir)? {
            fs::remove_file(path)?;
        }
        for (path, bytes) in left {
            fs::write(path, bytes)?;
        }
        Ok(())
    }
}

impl Drop for Faults {
    fn drop(&mut self) {
        lock(&PLANS).retain(|(_, plan)| !Arc::ptr_eq(plan, &self.plan));
    }
}

/// All files below a folder, with their inode numbers.
fn files_below(dir: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let meta = fs::symlink_metadata(&path)?;
        if meta.is_dir() {
            files.extend(files_below(&path)?);
        } else {
            files.push((path, meta.ino()));
        }
    }
    Ok(files)
}

impl Plan {
    /// Everything below the folder is durable as it is.
    fn take_stock(&mut self, dir: &Path) {
        for (path, inode) in files_below(dir).unwrap_or_default() {
            let bytes = fs::read(&path).unwrap_or_default();
            let no = self.begin(inode);
            if let Some(content) = self.contents.get_mut(no) {
                content.bytes = bytes;
            }
            self.names.insert(path, no);
        }
    }

    /// A new file has this inode number.
    fn begin(&mut self, inode: u64) -> usize {
        self.contents.push(Content::default());
        self.current.insert(inode, self.contents.len() - 1);
        self.contents.len() - 1
    }

    /// Counts a call, and says what is to happen to it.
    fn next(&mut self, call: Call, path: &Path) -> Result<Option<Fault>, io::Error> {
        if self.dead {
            return Err(gone());
        }
        let n = self.calls;
        self.calls += 1;
        let Some((at, fault)) = self.fault else {
            return Ok(None);
        };
        let until = match fault {
            Fault::Errors(_, more) => at + more,
            Fault::Error(_) | Fault::Short | Fault::Kill | Fault::KillAfter | Fault::SyncLoses => {
                at
            }
        };
        if !(at..=until).contains(&n) {
            return Ok(None);
        }
        self.hit
            .get_or_insert_with(|| format!("call {n}, {call:?} {}", path.display()));
        Ok(Some(fault))
    }

    /// What of the folder a power cut leaves.
    fn left(&self, dir: &Path, rng: &mut fastrand::Rng) -> io::Result<BTreeMap<PathBuf, Vec<u8>>> {
        let now = files_below(dir)?;
        let number = |inode: &u64| self.current.get(inode).copied();
        let mut volatile: HashMap<usize, Vec<u8>> = HashMap::new();
        for (path, inode) in &now {
            if let Some(no) = number(inode) {
                volatile.insert(no, fs::read(path)?);
            }
        }
        let names: BTreeMap<PathBuf, usize> = if rng.bool() {
            self.names.clone()
        } else {
            now.iter()
                .filter_map(|(path, inode)| Some((path.clone(), number(inode)?)))
                .collect()
        };
        let mut left = BTreeMap::new();
        for (path, no) in names {
            let content = self.contents.get(no).cloned().unwrap_or_default();
            let bytes = survivor(content, volatile.get(&no), rng);
            left.insert(path, bytes);
        }
        Ok(left)
    }
}

/// The bytes of a file after a power cut.
fn survivor(content: Content, now: Option<&Vec<u8>>, rng: &mut fastrand::Rng) -> Vec<u8> {
    let Content { bytes, lost_from } = content;
    let Some(now) = now.filter(|now| now.len() > bytes.len() && now.starts_with(&bytes)) else {
        return bytes;
    };
    let most = lost_from.unwrap_or(now.len()).clamp(bytes.len(), now.len());
    let kept = match rng.u8(0..4) {
        0 => bytes.len(),
        1 => most,
        _some => rng.usize(bytes.len()..=most),
    };
    let mut left = now.get(..kept).unwrap_or_default().to_vec();
    if rng.u8(0..3) == 0 {
        // Its length was written, the last sector of its bytes was not.
        let zeros = rng.usize(0..=(kept - bytes.len()).min(512));
        left.truncate(kept - zeros);
        left.resize(kept, 0);
    }
    left
}

/// A call other than a write is about to be made.
pub(super) fn before(call: Call, path: &Path) -> io::Result<()> {
    let Some(plan) = plan_of(path) else {
        return Ok(());
    };
    let mut plan = lock(&plan);
    match plan.next(call, path)? {
        None => Ok(()),
        Some(Fault::Error(number) | Fault::Errors(number, _)) => {
            Err(io::Error::from_raw_os_error(number))
        }
        Some(Fault::Short) => Err(io::ErrorKind::StorageFull.into()),
        Some(Fault::Kill) => {
            plan.dead = true;
            Err(gone())
        }
        Some(Fault::KillAfter) => {
            plan.dead = true;
            Ok(())
        }
        Some(Fault::SyncLoses) => {
            if call == Call::Sync {
                plan.give_up(path);
            }
            Err(io::Error::from_raw_os_error(libc::EIO))
        }
    }
}

/// A write is about to be made. With a number, only so many bytes of it are done, and it fails.
pub(super) fn before_write(path: &Path, len: usize) -> io::Result<Option<usize>> {
    let Some(plan) = plan_of(path) else {
        return Ok(None);
    };
    let mut plan = lock(&plan);
    match plan.next(Call::Write, path)? {
        None => Ok(None),
        Some(Fault::Error(number) | Fault::Errors(number, _)) => {
            Err(io::Error::from_raw_os_error(number))
        }
        Some(Fault::SyncLoses) => Err(io::Error::from_raw_os_error(libc::EIO)),
        Some(Fault::Short) => Ok(Some(len / 2)),
        Some(Fault::Kill) => {
            plan.dead = true;
            Err(gone())
        }
        Some(Fault::KillAfter) => {
            plan.dead = true;
            Ok(Some(len / 2))
        }
    }
}

impl Plan {
    fn give_up(&mut self, path: &Path) {
        let no = fs::metadata(path)
            .ok()
            .and_then(|meta| self.current.get(&meta.ino()).copied());
        if let Some(content) = no.and_then(|no| self.contents.get_mut(no)) {
            let synced = content.bytes.len();
            content.lost_from.get_or_insert(synced);
        }
    }
}

/// A file was made, or emptied.
pub(super) fn made(path: &Path, file: &File) {
    let (Some(plan), Ok(meta)) = (plan_of(path), file.metadata()) else {
        return;
    };
    lock(&plan).begin(meta.ino());
}

/// Takes note of a sync; whether it stands for the real one.
pub(super) fn syncs_for(path: &Path, file: &File) -> bool {
    let Some(plan) = plan_of(path) else {
        return false;
    };
    let mut plan = lock(&plan);
    let inode = file.metadata().map(|meta| meta.ino()).ok();
    let no = inode.and_then(|inode| plan.current.get(&inode).copied());
    if let Some(content) = no.and_then(|no| plan.contents.get_mut(no)) {
        let mut bytes = fs::read(path).unwrap_or_default();
        bytes.truncate(content.lost_from.unwrap_or(bytes.len()));
        content.bytes = bytes;
    }
    true
}

/// Takes note of a folder's sync; whether it stands for the real one.
pub(super) fn syncs_dir_for(dir: &Path) -> bool {
    let Some(plan) = plan_of(dir) else {
        return false;
    };
    let mut plan = lock(&plan);
    plan.names.retain(|path, _| path.parent() != Some(dir));
    for (path, inode) in files_below(dir).unwrap_or_default() {
        if path.parent() == Some(dir)
            && let Some(&no) = plan.current.get(&inode)
        {
            plan.names.insert(path, no);
        }
    }
    true
}
