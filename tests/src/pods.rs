//! A host's container logs as a kubelet lays them out and rotates them:
//! `pods/<namespace>_<pod>_<uid>/<container>/<restart>.log`, with a link of another name to each in
//! `containers/`, every line in the form of the CRI, long ones in pieces.
//!
//! Rotation as in the kubelet's container log manager: the live file becomes `0.log.<time>`, the
//! runtime goes on in a new one, rotated files but the newest become `….gz`, the oldest go.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use flate2::{Compression, write::GzEncoder};

use crate::writer::{Stamp, Written, filler};

/// One container with its log.
#[derive(Debug)]
pub struct Container {
    folder: PathBuf,
    restart: u32,
    out: File,
    link: PathBuf,
    written: Written,
    rotated: Vec<PathBuf>,
    piece: usize,
    random: fastrand::Rng,
    clock: u64,
}

impl Container {
    /// A new container in the tree at `root`; `number` is the stamp's file number. Its runtime
    /// writes lines that are longer than `piece` bytes in pieces (16 KiB in real life).
    ///
    /// # Errors
    /// When the tree cannot be written.
    pub fn start(root: &Path, number: u32, piece: usize) -> Result<Self> {
        let pod = format!("shop_cart-{number}_{:036x}", u64::from(number) + 7);
        let folder = root.join("pods").join(pod).join("app");
        let links = root.join("containers");
        fs::create_dir_all(&folder)?;
        fs::create_dir_all(&links)?;
        let link = links.join(format!("cart-{number}_shop_app-{number:064x}.log"));
        let out = open(&folder.join("0.log"))?;
        symlink(folder.join("0.log"), &link)?;
        Ok(Self {
            folder,
            restart: 0,
            out,
            link,
            written: Written {
                file: number,
                generations: vec![0],
            },
            rotated: Vec::new(),
            piece,
            random: fastrand::Rng::with_seed(u64::from(number)),
            clock: 0,
        })
    }

    /// What it has written so far.
    #[must_use]
    pub fn written(&self) -> &Written {
        &self.written
    }

    /// Appends lines of the program in it, as its runtime writes them: some to each of its two
    /// streams, and now and then one goes by while a longer one of the other stream is half written.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&mut self, lines: u64) -> Result<()> {
        let mut left = lines;
        while left > 0 {
            let mut pieces = self.line("stdout")?;
            if left > 1 && self.random.bool() {
                left -= 1;
                // The second one ends last; its last piece may be all of it.
                let mut second = self.line("stderr")?;
                let last = second.split_off(second.len() - 1);
                pieces = [second, pieces, last].concat();
            }
            left -= 1;
            self.out.write_all(pieces.concat().as_bytes())?;
        }
        Ok(())
    }

    /// The next line of the program, as `<time> <stream> <P|F> <text>`, several where it is long.
    fn line(&mut self, stream: &str) -> Result<Vec<String>> {
        let stamp = Stamp {
            file: self.written.file,
            generation: u32::try_from(self.written.generations.len() - 1)?,
            seq: self.written.lines(),
        };
        if let Some(current) = self.written.generations.last_mut() {
            *current += 1;
        }
        let line = stamp.line(&filler(&mut self.random));
        let (mut pieces, mut rest) = (Vec::new(), line.as_str());
        loop {
            self.clock += 1;
            let mut cut = rest.len().min(self.piece);
            while !rest.is_char_boundary(cut) {
                cut -= 1;
            }
            let (piece, after) = rest.split_at(cut);
            let tag = if after.is_empty() { "F" } else { "P" };
            let nanos = self.clock;
            pieces.push(format!(
                "2026-01-31T08:00:00.{nanos:09}Z {stream} {tag} {piece}\n"
            ));
            if after.is_empty() {
                return Ok(pieces);
            }
            rest = after;
        }
    }

    /// The kubelet's rotation; `keep` rotated files stay.
    ///
    /// # Errors
    /// When a file cannot be moved or compressed.
    pub fn rotate(&mut self, keep: usize) -> Result<()> {
        self.clock += 1;
        let live = self.live();
        let rotated = PathBuf::from(format!("{}.20260131-{:06}", live.display(), self.clock));
        fs::rename(&live, &rotated)?;
        // The runtime goes on in the renamed file until it is told to open the new one.
        self.write(3)?;
        // It may be told so between two pieces of a line: of each stream, here.
        let halves = ["stdout", "stderr"].map(|stream| self.line(stream));
        let mut rests = Vec::new();
        for pieces in halves {
            let mut pieces = pieces?;
            rests.extend(pieces.split_off(pieces.len() / 2));
            self.out.write_all(pieces.concat().as_bytes())?;
        }
        self.out = open(&live)?;
        self.out.write_all(rests.concat().as_bytes())?;
        self.written.generations.push(0);
        if let Some(previous) = self.rotated.last_mut() {
            *previous = compress(previous)?;
        }
        self.rotated.push(rotated);
        while self.rotated.len() > keep {
            fs::remove_file(self.rotated.remove(0))?;
        }
        Ok(())
    }

    /// The container is started again: a new log, and the link shows it.
    ///
    /// # Errors
    /// When the tree cannot be written.
    pub fn restart(&mut self) -> Result<()> {
        self.restart += 1;
        let live = self.live();
        self.out = open(&live)?;
        let new = self.link.with_extension("new");
        symlink(&live, &new)?;
        fs::rename(&new, &self.link)?;
        self.written.generations.push(0);
        Ok(())
    }

    /// The pod is removed, with all its logs.
    ///
    /// # Errors
    /// When that fails.
    pub fn remove(self) -> Result<()> {
        fs::remove_file(&self.link)?;
        let pod = self.folder.parent().unwrap_or(&self.folder);
        Ok(fs::remove_dir_all(pod)?)
    }

    fn live(&self) -> PathBuf {
        self.folder.join(format!("{}.log", self.restart))
    }
}

/// As the kubelet does: into a temporary file beside it, renamed when done; then the plain one goes.
fn compress(path: &Path) -> Result<PathBuf> {
    let name = |ending: &str| PathBuf::from(format!("{}.{ending}", path.display()));
    let mut packed = GzEncoder::new(File::create(name("tmp"))?, Compression::fast());
    packed.write_all(&fs::read(path)?)?;
    packed.finish()?;
    fs::rename(name("tmp"), name("gz"))?;
    fs::remove_file(path)?;
    Ok(name("gz"))
}

fn open(path: &Path) -> Result<File> {
    let mut options = File::options();
    let file = options.append(true).create(true).open(path);
    file.with_context(|| format!("failed to open {}", path.display()))
}
