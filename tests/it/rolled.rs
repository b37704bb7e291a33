//! Into files of this machine that appear whole, as those in HDFS: every line in exactly one of them, whoever is
//! killed at which step and whatever the disk does.

use std::{fs, path::Path};

use anyhow::{Result, ensure};
use tributary_tests::{
    child::Plan,
    cluster::{Cluster, Layout, glob_of},
    rolled, scratch,
    writer::{Background, Rotation, Schedule, Writer, Written},
};

use super::hdfs::{killed_at_any_step, must_hold, until_files, until_refused, until_state};

fn start(folder: &Path, topic: &str, writer: &Writer) -> Result<Cluster> {
    let layout = Layout::new(folder, topic).rolls();
    layout.agent(&[glob_of(writer)]).start()
}

fn must_deliver(cluster: &Cluster, written: &Written) -> Result<()> {
    let folder = cluster.bus.folder().with_file_name("delivered");
    must_hold(cluster, written, |topic| {
        Ok(rolled::records(rolled::files(&folder.join(topic))?))
    })
}

#[test]
fn every_line_is_in_one_whole_file_of_this_machine() -> Result<()> {
    scratch::scenario("whole", |folder| {
        let writer = Writer::new(&folder.join("logs"), 1, 1)?;
        let mut cluster = start(folder, "whole", &writer)?;
        let mut random = fastrand::Rng::with_seed(3);
        let ways = [Rotation::Rename];
        let schedule = Schedule::random(20_000, 8_000, 2, &ways, &mut random);
        let writer = Background::start(writer, schedule);
        until_files(&cluster, 2)?;
        let writer = writer.finish()?;
        must_deliver(&cluster, writer.written())?;
        cluster.stop()
    })
}

#[test]
fn a_bus_killed_at_any_step_of_a_local_file_loses_and_doubles_nothing() -> Result<()> {
    killed_at_any_step("whole-steps", start, must_deliver)
}

/// A disk that is not mounted, a full one, and one that may only be read: each is said, and none costs a line.
#[test]
fn a_disk_that_is_away_full_or_read_only_is_said_and_costs_nothing() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        tributary_tests::say("not run: only root can mount a small disk");
        return Ok(());
    }
    scratch::scenario("whole-disk", |folder| {
        let disk = folder.join("delivered");
        fs::create_dir_all(&disk)?;
        let path = disk.display().to_string();
        Plan::new("mount")
            .args(["-t", "tmpfs", "-o", "size=8m", "tmpfs", &path])
            .output()?;
        let told = on_a_small_disk(folder, &disk);
        Plan::new("umount").args(["-l", &path]).output()?;
        told
    })
}

fn on_a_small_disk(folder: &Path, disk: &Path) -> Result<()> {
    let mut writer = Writer::new(&folder.join("logs"), 1, 1)?;
    let mut cluster = start(folder, "whole-disk", &writer)?;
    writer.write(2_000)?;
    until_files(&cluster, 1)?;

    // As when it is not mounted: a folder of that name is there, and empty.
    let mark = disk.join(rolled::MARK);
    let id = fs::read_to_string(&mark)?;
    fs::rename(&mark, disk.join("away"))?;
    writer.write(500)?;
    until_refused(&cluster, "is it mounted?")?;
    fs::rename(disk.join("away"), &mark)?;
    until_state(&cluster, "up")?;
    ensure!(id == fs::read_to_string(&mark)?, "the disk has another id");

    let remount = |option: &str| {
        let path = disk.display().to_string();
        let options = format!("remount,{option}");
        Plan::new("mount").args(["-o", &options, &path]).output()
    };
    let ballast = disk.join("ballast");
    ensure!(
        fs::write(&ballast, vec![0; 16 << 20]).is_err(),
        "the small disk took everything"
    );
    writer.write(2_000)?;
    let why = until_state(&cluster, "half-dead")?;
    ensure!(why.contains("No space left"), "{why}");
    fs::remove_file(&ballast)?;
    until_state(&cluster, "up")?;

    remount("ro")?;
    writer.write(2_000)?;
    let why = until_state(&cluster, "half-dead")?;
    ensure!(why.contains("Read-only"), "{why}");
    remount("rw")?;
    until_state(&cluster, "up")?;
    must_deliver(&cluster, writer.written())?;
    cluster.stop()
}
