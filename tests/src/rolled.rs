//! Files that a bus writes whole, in HDFS or on a disk, read back as a person would: each with its manifest.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use crate::{child::Plan, oracle::Place, packed};

/// What the manifest beside a file says.
#[derive(Debug, Deserialize)]
struct Manifest {
    file: String,
    records: u64,
    raw_bytes: u64,
    stored_bytes: u64,
    sha256: String,
    topics: Vec<String>,
    #[serde(default)]
    parts: Vec<Part>,
}

/// Whose records are where in a file.
#[derive(Debug, Deserialize)]
struct Part {
    topic: String,
    records: u64,
    bytes: (u64, u64),
}

/// A file that is as its manifest says.
#[derive(Debug)]
pub struct Whole {
    /// The folder that it lies in, below what was asked for.
    pub folder: PathBuf,
    /// Topic and bytes of each line.
    pub lines: Vec<(String, Vec<u8>)>,
}

/// All whole files below a folder, each as its manifest says; nothing else is there.
///
/// # Errors
/// When something is left over, or a file is not what its manifest says.
pub fn files(below: &Path) -> Result<Vec<Whole>> {
    let mut folders = BTreeMap::new();
    collect(below, &mut folders)?;
    let mut whole_files = Vec::new();
    for (folder, files) in folders {
        let (manifests, data): (Vec<PathBuf>, Vec<PathBuf>) = files
            .into_iter()
            .partition(|path| name(path).starts_with('_'));
        ensure!(
            manifests.len() == data.len(),
            "{data:?} have the manifests {manifests:?}"
        );
        for path in data {
            whole_files.push(Whole {
                folder: folder.strip_prefix(below)?.to_owned(),
                lines: whole(&path)?,
            });
        }
    }
    Ok(whole_files)
}

/// The records of files, in the order of their names.
#[must_use]
pub fn records(files: Vec<Whole>) -> Vec<(Place, Vec<u8>)> {
    let lines = files.into_iter().flat_map(|file| file.lines);
    let numbered = (0..).zip(lines);
    numbered
        .map(|(at, (_topic, line))| ((0, at), line))
        .collect()
}

fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// All files of each folder, by name, but for the one that says which HDFS it is.
fn collect(folder: &Path, folders: &mut BTreeMap<PathBuf, Vec<PathBuf>>) -> Result<()> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        match path.is_dir() {
            true => collect(&path, folders)?,
            false if name(&path) == MARK => {}
            false => files.push(path),
        }
    }
    files.sort();
    folders.insert(folder.to_owned(), files);
    Ok(())
}

/// The lines of a file that has to be as its manifest says.
fn whole(path: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let name = name(path);
    ensure!(!name.starts_with('.'), "{name} was left over");
    let manifest = fs::read(path.with_file_name(format!("_{name}.json")))
        .with_context(|| format!("{name} has no manifest"))?;
    let manifest: Manifest = serde_json::from_slice(&manifest)?;
    let sum = Plan::new("sha256sum")
        .args([path.display().to_string()])
        .output()?;
    let text = packed::read(path)?;
    let lines: Vec<Vec<u8>> = text
        .split_inclusive(|&byte| byte == b'\n')
        .map(|line| line.strip_suffix(b"\n").map(<[u8]>::to_vec))
        .collect::<Option<_>>()
        .with_context(|| format!("{name} ends within a line"))?;
    let stored = fs::metadata(path)?.len();
    let is = (name.as_str(), lines.len() as u64, text.len() as u64, stored);
    let said = (
        manifest.file.as_str(),
        manifest.records,
        manifest.raw_bytes,
        manifest.stored_bytes,
    );
    if is != said || !sum.starts_with(&manifest.sha256) {
        bail!("a file is {is:?}, sum {sum}; its manifest says {manifest:?}");
    }
    let topics = topics(&manifest, &lines)?;
    Ok(topics.into_iter().zip(lines).collect())
}

/// The topic of each line.
fn topics(manifest: &Manifest, lines: &[Vec<u8>]) -> Result<Vec<String>> {
    if let ([topic], []) = (manifest.topics.as_slice(), manifest.parts.as_slice()) {
        return Ok(vec![topic.clone(); lines.len()]);
    }
    let (mut topics, mut at, mut rest) = (Vec::new(), 0, lines);
    for part in &manifest.parts {
        let records = usize::try_from(part.records)?;
        let (own, others) = rest
            .split_at_checked(records)
            .with_context(|| format!("fewer lines than {manifest:?} says"))?;
        let end = at + own.iter().map(|line| line.len() as u64 + 1).sum::<u64>();
        ensure!(part.bytes == (at, end), "{part:?} lies at {at} to {end}");
        topics.extend(std::iter::repeat_n(part.topic.clone(), records));
        (at, rest) = (end, others);
    }
    ensure!(rest.is_empty(), "{} lines are nobody's", rest.len());
    Ok(topics)
}

/// Where a bus leaves the id of an HDFS, or of a disk.
pub const MARK: &str = ".tributary-cluster";
