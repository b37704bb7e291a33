//! A folder as another host serves it: mounted through FUSE by `far-server`, so that what is written
//! to it where it lies comes without events, late, and not at all while the server hangs.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Result;
use rustix::process::Signal;

use crate::{
    child::{Child, Plan},
    poll,
};

/// The number of FUSE in `statfs`.
const FUSE: i64 = 0x6573_5546;

/// A mounted folder; not mounted any more once it is dropped.
#[derive(Debug)]
pub struct Far {
    /// Where it lies: another host writes here.
    pub source: PathBuf,
    /// Where it is mounted.
    pub mount: PathBuf,
    program: PathBuf,
    server: Child,
}

impl Far {
    /// Mounts `folder/source` at `folder/far`; `program` is the server.
    ///
    /// # Errors
    /// When that does not come about; only root may.
    pub fn mount(program: &Path, folder: &Path) -> Result<Self> {
        let (source, mount) = (folder.join("source"), folder.join("far"));
        fs::create_dir_all(&source)?;
        fs::create_dir_all(&mount)?;
        let args = [&source, &mount].map(|at| at.display().to_string());
        let server = Child::start(
            "the server of files",
            &Plan::new(program).args(args),
            &folder.join("far.log"),
        )?;
        let far = Self {
            source,
            mount,
            program: program.to_owned(),
            server,
        };
        poll::until_seen(
            "the folder to be mounted",
            Duration::from_secs(20),
            || Ok(far.is_mounted()),
            |mounted| *mounted,
        )?;
        Ok(far)
    }

    fn is_mounted(&self) -> bool {
        rustix::fs::statfs(&self.mount).is_ok_and(|stat| stat.f_type == FUSE)
    }

    /// Takes it away and mounts it again: another device, other file handles.
    ///
    /// # Errors
    /// As [`Far::mount`].
    pub fn mount_again(self, away: Duration) -> Result<Self> {
        let folder = self.source.parent().map(Path::to_owned);
        let program = self.program.clone();
        drop(self);
        std::thread::sleep(away);
        Self::mount(&program, &folder.unwrap_or_default())
    }

    /// The server hangs: whoever asks for something waits.
    ///
    /// # Errors
    /// When it has ended.
    pub fn hang(&mut self) -> Result<()> {
        self.server.signal(Signal::STOP)
    }

    /// It answers again.
    ///
    /// # Errors
    /// When it has ended.
    pub fn answer(&mut self) -> Result<()> {
        self.server.signal(Signal::CONT)
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        // Who waits for a server that hangs waits until it is gone.
        drop(self.server.kill());
        let mount = self.mount.display().to_string();
        drop(Plan::new("umount").args(["-l", &mount]).output());
    }
}
