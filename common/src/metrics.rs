//! Figures for machines: the recorder behind the `metrics` facade, and its Prometheus text.
//!
//! Code counts through the facade (`metrics::counter!("tributary_bus_…", …).increment(n)`); every
//! name stands in [`TABLE`] with its unit and meaning, from which `docs/metrics.md` is made. A name
//! that is not in the table is a bug: it would be shown without a meaning.
//!
//! Not for: the ledger (facts with identity, see [`crate::report`]). [`install`] is called by
//! [`crate::daemon`] and by the `tributary` program; [`render`] by every `/metrics`.

use std::{fmt::Write as _, sync::OnceLock, time::Duration};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;

mod process;
mod row;
mod table;

pub use process::resident_bytes;
pub use row::{Kind, Metric, Unit};
pub use table::TABLE;

/// How often histograms are folded, so that they stay small when nobody asks for them.
const UPKEEP: Duration = Duration::from_secs(5);
/// Bounds of every histogram of seconds: from a fast disk to a slow cluster.
const SECONDS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];
/// Bounds of every histogram of bytes: powers of four from 1 KiB to 16 MiB.
const BYTES: [f64; 8] = [
    1024.0,
    4096.0,
    16384.0,
    65536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
];

static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();

/// Starts counting, for all parts in this process; a second call changes nothing.
pub fn install() {
    HANDLE.get_or_init(|| {
        let recorder = builder().build_recorder();
        let handle = recorder.handle();
        // Fails only when somebody set a recorder of their own: then theirs is meant, and ours
        // has nothing to show.
        metrics::set_global_recorder(recorder).ok()?;
        table::describe();
        Some(handle)
    });
}

/// The recorder's settings.
fn builder() -> PrometheusBuilder {
    [("_seconds", &SECONDS[..]), ("_bytes", &BYTES[..])]
        .into_iter()
        .fold(PrometheusBuilder::new(), |builder, (suffix, bounds)| {
            builder
                .set_buckets_for_metric(Matcher::Suffix(suffix.to_owned()), bounds)
                .expect("the bounds are not empty")
        })
}

/// All figures as Prometheus text; empty before [`install`].
#[must_use]
pub fn render() -> String {
    match HANDLE.get() {
        Some(Some(handle)) => {
            process::update();
            handle.render()
        }
        Some(None) | None => String::new(),
    }
}

/// Keeps histograms small until `stop`. Run it once in each process that counts.
pub async fn upkeep(stop: CancellationToken) {
    let mut tick = tokio::time::interval(UPKEEP);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        if let Some(Some(handle)) = HANDLE.get() {
            handle.run_upkeep();
        }
    }
}

/// The text of `docs/metrics.md`.
#[must_use]
pub fn reference_markdown() -> String {
    let mut out = String::from(
        "# Metrics\n\nMade from `common/src/metrics/table.rs`; `UPDATE=1 cargo test -p \
         tributary-common metrics` writes it anew.\n\nPrometheus text at `/metrics` of each part \
         (bus 7401, agent 7402, manager 7500). Units are base units: bytes, seconds, records.\n",
    );
    let mut part = "";
    for metric in TABLE {
        if metric.part() != part {
            part = metric.part();
            let head = "| name | type | unit | labels | meaning |\n|---|---|---|---|---|";
            writeln!(out, "\n## {part}\n\n{head}").expect("a String takes all");
        }
        let labels = metric
            .labels
            .iter()
            .map(|label| format!("`{label}`"))
            .collect::<Vec<_>>();
        writeln!(
            out,
            "| `{}` | {} | {} | {} | {} |",
            metric.name,
            metric.kind.as_str(),
            metric.unit.as_str(),
            labels.join(", "),
            metric.meaning
        )
        .expect("a String takes all");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_equals_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
        let wanted = reference_markdown();
        if std::env::var_os("UPDATE").is_some() {
            crate::disk::replace(path.as_ref(), wanted.as_bytes()).unwrap();
        }
        let found = std::fs::read_to_string(path).unwrap_or_default();
        assert_eq!(
            found, wanted,
            "run UPDATE=1 cargo test -p tributary-common metrics"
        );
    }

    #[test]
    fn two_parts_share_one_recorder_and_every_figure_has_a_meaning() {
        install();
        install();
        metrics::counter!("tributary_process_test_total").increment(3);
        metrics::histogram!("tributary_process_test_seconds").record(0.02);
        let text = render();
        assert!(text.contains("tributary_process_test_total 3"), "{text}");
        assert!(
            text.contains("tributary_process_test_seconds_bucket{le=\"0.025\"} 1"),
            "{text}"
        );
        assert!(
            text.contains("# HELP process_resident_memory_bytes "),
            "{text}"
        );
        assert!(resident_bytes() > 1024 * 1024);
    }
}
