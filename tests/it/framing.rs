//! Records of several lines, from real files through all parts: counted as records, delivered whole.

use std::{
    fs::{self, File},
    io::Write as _,
};

use anyhow::{Result, ensure};
use tributary_tests::{
    cluster::{Layout, SETTLE_LIMIT},
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

/// The service rolls its log between two traces; the agent is killed while one is half written, and
/// is started again when its file has another name.
#[test]
fn stack_traces_are_whole_records_through_rotations_and_kills_of_the_agent() -> Result<()> {
    scratch::scenario("traces", |folder| {
        let logs = folder.join("logs");
        fs::create_dir_all(&logs)?;
        let framing = r#"framing = { kind = "multiline", start = '^\d{4}-', timeout = "1s" }"#;
        let layout = Layout::new(folder, "traces")
            .extra("", framing, "")
            .agent(&[format!("{}/app.log*", logs.display())]);
        let mut cluster = layout.start()?;
        let mut random = fastrand::Rng::with_seed(7);
        let mut written = Vec::new();
        for round in 0..ROUNDS {
            let mut log = File::options()
                .append(true)
                .create(true)
                .open(logs.join("app.log"))?;
            let new: Vec<String> = (0..TRACES).map(|at| trace(round * TRACES + at)).collect();
            let text = new.concat();
            // Within a line: it has seconds to go on.
            let mut middle = random.usize(1..text.len());
            while text.as_bytes().get(middle - 1) == Some(&b'\n') {
                middle += 1;
            }
            let (first, rest) = text.as_bytes().split_at(middle);
            log.write_all(first)?;
            cluster.agents[0].kill()?;
            log.write_all(rest)?;
            fs::rename(logs.join("app.log"), logs.join(format!("app.log.{round}")))?;
            cluster.agents[0].start()?;
            written.extend(new);
        }
        let records = u64::try_from(written.len())?;
        ledger::must_agree(cluster.manager.admin(), "traces", records, SETTLE_LIMIT)?;
        cluster.stop()?;
        let delivered = delivered::records(&layout.delivered())?;
        let mut traces: Vec<String> = Vec::new();
        for (_, line) in delivered {
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
