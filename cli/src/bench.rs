//! `tributary bench z FILE`: the unit of all speed figures of this project.
//!
//! z = the CPU seconds that a bare loop needs to read a file and compress it with zstd level 1 in
//! blocks of 256 KiB, in the same run as what is compared with it. Machines differ, z does not.

use std::{
    fs::File,
    io::{ErrorKind, Read as _},
    path::Path,
};

use anyhow::Context as _;

use crate::out;

const BLOCK_BYTES: usize = 256 << 10;
const ZSTD_LEVEL: i32 = 1;

/// What can be measured.
#[derive(Debug, Clone, clap::Subcommand)]
pub(crate) enum Bench {
    /// Read FILE and compress it with zstd-1 in 256 KiB blocks: prints bytes in and out.
    Z {
        /// The file.
        file: std::path::PathBuf,
    },
}

/// Runs a measurement. The CPU seconds are the whole process's.
///
/// # Errors
/// When the file cannot be read.
pub(crate) fn run(bench: &Bench) -> anyhow::Result<()> {
    match bench {
        Bench::Z { file } => {
            let (read, written) = bare_loop(file)?;
            let cpu_s = own_cpu_seconds()?;
            out::line(format_args!(
                "{read} bytes in, {written} bytes out, {cpu_s:.2} CPU s, {:.2} CPU s per GB",
                cpu_s * 1e9 / as_float(read.max(1)),
            ));
            Ok(())
        }
    }
}

/// User and system seconds of this process so far, by the kernel's accounting (10 ms steps).
fn own_cpu_seconds() -> anyhow::Result<f64> {
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat =
        std::fs::read_to_string("/proc/self/stat").context("failed to read /proc/self/stat")?;
    // After the name in parentheses: fields 3 …; user and system time are fields 14 and 15.
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let ticks = |field: usize| {
        fields
            .get(field - 3)
            .and_then(|text| text.parse::<u64>().ok())
    };
    let ticks = ticks(14)
        .zip(ticks(15))
        .context("/proc/self/stat has no CPU times")?;
    Ok(as_float(ticks.0 + ticks.1) / TICKS_PER_SECOND)
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn as_float(number: u64) -> f64 {
    number as f64
}

fn bare_loop(path: &Path) -> anyhow::Result<(u64, u64)> {
    let failed = || format!("failed to read {}", path.display());
    let mut file = File::open(path).with_context(failed)?;
    let mut block = vec![0; BLOCK_BYTES];
    let mut packed = Vec::with_capacity(zstd::zstd_safe::compress_bound(BLOCK_BYTES));
    let mut compressor = zstd::bulk::Compressor::new(ZSTD_LEVEL)?;
    let (mut read, mut written) = (0, 0);
    loop {
        let mut filled = 0;
        while filled < BLOCK_BYTES {
            match file.read(&mut block[filled..]) {
                Ok(0) => break,
                Ok(bytes) => filled += bytes,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).with_context(failed),
            }
        }
        if filled == 0 {
            return Ok((read, written));
        }
        packed.clear();
        compressor.compress_to_buffer(&block[..filled], &mut packed)?;
        read += filled as u64;
        written += packed.len() as u64;
    }
}
