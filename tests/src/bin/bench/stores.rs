//! What the bus costs in front of an OpenSearch and of an HDFS, beside the least that could be done.
//!
//! Batches come from senders that made them before (see [`crate::sender`]). Beside OpenSearch a thread sends
//! as many documents in bodies that are ready; beside HDFS Hadoop's own client puts the very bytes
//! that the bus stored. Not for: Kafka (see [`crate::line`] and [`crate::counting`]).

use std::{
    fmt::Write as _,
    fs,
    io::Write as _,
    ops::Range,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use flate2::{Compression, write::GzEncoder};
use serde_json::json;
use tokio::{
    runtime::{Builder, Runtime},
    time::Instant,
};
use tributary_common::{batch::Codec, ids::Class};
use tributary_tests::{hdfs::Hdfs, http, opensearch::OpenSearch, poll, say};

use crate::{
    as_float,
    cpu::{Usage, usage, usage_of_thread},
    front::Front,
    load,
    sender::{FULL_LINES, Kind, Sender, Sent, make, send},
};

const STREAMS: u64 = 8;
/// Batches of each stream: so many are 300,000 documents.
const DOCUMENT_BATCHES: u64 = 50;
/// … and so many full ones 6 GB of lines: the last file waits until it is old enough, which is to be a small part.
const FILE_BATCHES: u64 = 980;
/// Documents of a request of the plain loop: about 1 MB.
const REQUEST_DOCUMENTS: u64 = 2_000;
/// What the server may use, in MiB.
const HEAP_MIB: u32 = 1024;
/// By then a server that had too much takes more.
const TAKES_WITHIN: Duration = Duration::from_secs(60);
/// How often Hadoop's client is asked; the quickest counts.
const RUNS: usize = 3;

const KIND: Kind = Kind {
    topic: "store",
    class: Class::P2,
    codec: Codec::Zstd,
    lines: 750,
};
/// Full batches, as agents send them.
const FULL: Kind = Kind {
    lines: FULL_LINES,
    ..KIND
};

/// The table of OpenSearch.
///
/// # Errors
/// When the server or the bus does not come up, or a document is lost.
pub(crate) fn search(folder: &Path) -> Result<String> {
    let mut table = "| into OpenSearch | | |\n|---|---|---|\n".to_owned();
    fs::create_dir_all(folder)?;
    say("stores: OpenSearch");
    let server = OpenSearch::start_with(&folder.join("server"), &[], HEAP_MIB)?;
    let url = server.address();
    for (remark, gzip) in [("", true), (", without gzip", false)] {
        let destination =
            format!("kind = \"elasticsearch\"\nurls = [\"http://{url}\"]\ngzip = {gzip}\n");
        let seqs = if gzip {
            1..DOCUMENT_BATCHES + 1
        } else {
            DOCUMENT_BATCHES + 1..DOCUMENT_BATCHES * 2 + 1
        };
        let folder = folder.join(format!("bus-{gzip}"));
        let (bus, sent, wall) = bus(
            &folder,
            &destination,
            ", index = \"logs-{topic}\"",
            (KIND, seqs),
        )?;
        let loop_cpu = plain_loop(&server, sent.records, gzip)?;
        let million = |cpu: f64| cpu * 1e6 / as_float(sent.records);
        writeln!(
            table,
            "| OpenSearch: CPU of the bus{remark} | {:.2} s per million documents, {:.1} of the plain loop | bar 3 of it |\n\
             | … of a loop whose bodies are ready, packed ones included | {:.2} s per million documents | |\n\
             | … documents a second | {:.0} | |",
            million(bus.cpu_s()),
            bus.cpu_s() / loop_cpu,
            million(loop_cpu),
            as_float(sent.records) / wall.as_secs_f64(),
        )?;
    }
    let documents = server.count("logs-store")?;
    let sent = 2 * STREAMS * DOCUMENT_BATCHES * KIND.lines as u64;
    ensure!(documents == sent, "{documents} documents of {sent} arrived");
    Ok(table)
}

/// CPU seconds of a thread that sends so many documents as the bus writes them, in bodies that are
/// ready.
fn plain_loop(server: &OpenSearch, documents: u64, gzip: bool) -> Result<f64> {
    let mut random = fastrand::Rng::with_seed(5);
    let mut bodies = Vec::new();
    for first in (0..documents).step_by(usize::try_from(REQUEST_DOCUMENTS)?) {
        let mut body = String::new();
        for number in first..documents.min(first + REQUEST_DOCUMENTS) {
            let mut line = String::new();
            load::push_line(&mut line, &mut random, load::now_us());
            let document = json!({
                "@timestamp": "1970-01-01T00:01:00.000Z", "message": line.trim_end(), "host": "agent-1",
                "file": "/var/log/shop/access.log", "offset": number * 350, "topic": "store",
            });
            writeln!(
                body,
                "{{\"create\":{{\"_id\":\"{number:032x}-{gzip}\"}}}}\n{document}"
            )?;
        }
        bodies.push(match gzip {
            true => {
                let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
                packed.write_all(body.as_bytes())?;
                packed.finish()?
            }
            false => body.into_bytes(),
        });
    }
    let kind = "content-type: application/x-ndjson";
    let headers = if gzip {
        vec![kind, "content-encoding: gzip"]
    } else {
        vec![kind]
    };
    let before = usage_of_thread()?;
    for body in bodies {
        let path = "/plain/_bulk?filter_path=errors";
        let answer = poll::until("a server that takes more", TAKES_WITHIN, || {
            let answer = http::request(&server.address(), "POST", path, &headers, &body)?;
            Ok((answer.status != 429).then_some(answer))
        })?;
        ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
        ensure!(answer.json()?["errors"] == false, "{}", answer.text());
    }
    Ok(usage_of_thread()?.since(before).cpu_s())
}

/// The table of HDFS. `z_per_gb` is the unit, in CPU seconds.
///
/// # Errors
/// When a server or the bus does not come up.
pub(crate) fn files(folder: &Path, z_per_gb: f64) -> Result<String> {
    let mut table = "| into HDFS | | |\n|---|---|---|\n".to_owned();
    fs::create_dir_all(folder)?;
    say("stores: HDFS");
    let hdfs = Hdfs::start(&folder.join("server"))?;
    let destination = format!(
        "kind = \"hdfs\"\nurl = {:?}\npath = \"/logs/{{topic}}\"\nroll = {{ size = \"64MiB\", after = \"2s\" }}\n",
        hdfs.url()
    );
    let (bus, sent, wall) = bus(
        &folder.join("bus"),
        &destination,
        "",
        (FULL, 1..FILE_BATCHES + 1),
    )?;
    let got = folder.join("got");
    hdfs.shell(&["-get", "/logs/store", &got.display().to_string()])?;
    let files = stored(&got)?;
    let bytes = files.iter().map(|file| Ok(fs::metadata(file)?.len()));
    let bytes: u64 = bytes.sum::<Result<u64>>()?;
    let (mut put, mut start) = (Duration::MAX, Duration::MAX);
    for run in 0..RUNS {
        let to = format!("/put-{run}");
        hdfs.shell(&["-mkdir", &to])?;
        let names: Vec<String> = files
            .iter()
            .map(|file| file.display().to_string())
            .collect();
        let mut args = vec!["-put"];
        args.extend(names.iter().map(String::as_str));
        args.push(&to);
        put = put.min(timed(|| hdfs.shell(&args))?);
        start = start.min(timed(|| hdfs.shell(&["-ls", "/"]))?);
    }
    let rate = |took: Duration| as_float(sent.raw_bytes) / 1e6 / took.as_secs_f64();
    let cpu_per_gb = bus.cpu_s() * 1e9 / as_float(sent.raw_bytes);
    writeln!(
        table,
        "| HDFS: first batch sent to last file named | {:.0} MB/s of lines, {:.2} of `-put` | bar 0.8 of it |\n\
         | … Hadoop's own `-put` of the same {} files, {:.0} MB | {:.0} MB/s of lines; {:.0} without the {:.1} s that it takes to start | |\n\
         | … CPU of the bus | {cpu_per_gb:.2} s per GB of lines, {:.2} z | |",
        rate(wall),
        put.as_secs_f64() / wall.as_secs_f64(),
        files.len(),
        as_float(bytes) / 1e6,
        rate(put),
        rate(put.saturating_sub(start)),
        start.as_secs_f64(),
        cpu_per_gb / z_per_gb,
    )?;
    Ok(table)
}

fn timed(work: impl FnOnce() -> Result<String>) -> Result<Duration> {
    let begun = Instant::now();
    work()?;
    Ok(begun.elapsed())
}

/// The files with lines below a folder; those that describe them are none.
fn stored(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files.append(&mut stored(&path)?);
        } else if !path
            .file_name()
            .context("a name")?
            .to_string_lossy()
            .starts_with('_')
        {
            files.push(path);
        }
    }
    Ok(files)
}

/// Sends all batches over a fresh bus: what it used, what was sent, how long until the destination had it.
fn bus(
    folder: &Path,
    destination: &str,
    branch: &str,
    (kind, seqs): (Kind, Range<u64>),
) -> Result<(Usage, Sent, Duration)> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let front = Front::start_before(folder, destination, branch, false)?;
    let made = make(kind, 0..STREAMS, &seqs)?;
    let mut senders = connect(&runtime, &front)?;
    let before = usage(front.bus.pid())?;
    let begun = Instant::now();
    let sent = runtime.block_on(send(&mut senders, made))?;
    front.drained()?;
    let wall = begun.elapsed();
    Ok((usage(front.bus.pid())?.since(before), sent, wall))
}

fn connect(runtime: &Runtime, front: &Front) -> Result<Vec<Sender>> {
    let numbers = 0..u32::try_from(STREAMS)?;
    numbers
        .map(|number| runtime.block_on(Sender::connect(&front.door, number)))
        .collect()
}
