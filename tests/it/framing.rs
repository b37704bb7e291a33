//! Records of several lines, from real files through all parts: counted as records, delivered whole.

use std::{
    fs::{self, File},
    io::Write as _,
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};
use tributary_tests::{
    cluster::{Cluster, Layout, SETTLE_LIMIT},
    delivered, ledger, scratch,
};

/// Stack traces between rotations.
const TRACES: usize = 400;
const ROUNDS: usize = 4;

/// A stack trace as Java writes it, of one to nine lines.
fn trace(number: usize) -> String {
    let mut text = format!("2026-11-21 08:00:00,000 ERROR [{number}] request failed");
    for at in 0..number % 9 {
        text += &format!("\n\tat com.example.Shop.call{at}(Shop.java:{number})");
    }
    text + "\n"
}

/// Where a text is cut between two lines of a trace, near its end.
fn between_lines(traces: &[String]) -> usize {
    let mut at = traces.iter().map(String::len).sum();
    for (left, trace) in traces.iter().enumerate().rev() {
        at -= trace.len();
        if left < TRACES - 9
            && trace.lines().count() > 2
            && let Some(first) = trace.find('\n')
        {
            return at + first + 1;
        }
    }
    at
}

/// The service rolls its log in the middle of a trace; the agent is killed before that, while a line
/// is half written, or a moment later. Nothing is sent because its time was over: so the ledger
/// counts exactly the traces that are whole, and one more would be a trace in two records.
#[test]
fn stack_traces_are_whole_records_through_rotations_and_kills_of_the_agent() -> Result<()> {
    scratch::scenario("traces", |folder| {
        let logs = folder.join("logs");
        fs::create_dir_all(&logs)?;
        let framing = r#"framing = { kind = "multiline", start = '^\d{4}-', timeout = "1h" }"#;
        let layout = Layout::new(folder, "traces")
            .extra("", framing, "")
            .agent(&[format!("{}/app.log*", logs.display())]);
        let mut cluster = layout.start()?;
        let mut random = fastrand::Rng::with_seed(7);
        let mut written = Vec::new();
        let open = || {
            let mut options = File::options();
            let options = options.append(true).create(true);
            options.open(logs.join("app.log"))
        };
        // What nobody has seen under its name is another log to the agent.
        let agree = |cluster: &Cluster, written: &[String]| {
            // The last one waits for what begins the next one.
            let whole = u64::try_from(written.len() - 1)?;
            ledger::must_agree(cluster.manager.admin(), "traces", whole, SETTLE_LIMIT)
        };
        written.extend([0, 1].map(trace));
        open()?.write_all(written.concat().as_bytes())?;
        agree(&cluster, &written)?;
        for round in 1..=ROUNDS {
            let new: Vec<String> = (0..TRACES).map(|at| trace(round * TRACES + at)).collect();
            let text = new.concat();
            let (old, next) = text.as_bytes().split_at(between_lines(&new));
            ensure!(next.starts_with(b"\t"), "a trace is in both files");
            let (first, rest) = old.split_at(random.usize(1..old.len()));
            open()?.write_all(first)?;
            let is_killed_before = round % 2 == 0;
            if is_killed_before {
                cluster.agents[0].kill()?;
            }
            open()?.write_all(rest)?;
            fs::rename(logs.join("app.log"), logs.join(format!("app.log.{round}")))?;
            open()?.write_all(next)?;
            if !is_killed_before {
                thread::sleep(Duration::from_millis(random.u64(0..1500)));
                cluster.agents[0].kill()?;
            }
            cluster.agents[0].start()?;
            written.extend(new);
            agree(&cluster, &written)?;
        }
        cluster.stop()?;
        written.pop();
        let delivered = delivered::records(&layout.delivered())?;
        let lines = delivered.into_iter().map(|(_, line)| line);
        // An hour may end during the run: within each file the order is kept.
        let mut traces: Vec<String> = Vec::new();
        for line in lines {
            let line = String::from_utf8(line)? + "\n";
            match traces.last_mut() {
                Some(last) if line.starts_with('\t') => *last += &line,
                Some(_) | None => traces.push(line),
            }
        }
        traces.sort_unstable();
        written.sort_unstable();
        let wrong = traces
            .iter()
            .zip(&written)
            .find(|(got, wanted)| got != wanted);
        ensure!(
            traces.len() == written.len() && wrong.is_none(),
            "{} of {} traces came; the first that is wrong, and what it should be: {wrong:?}",
            traces.len(),
            written.len()
        );
        Ok(())
    })
}
