//! The table of `tributary inspect files`.
//!
//! Not for: what stands in it (see `tributary_agent::survey`).

use tributary_agent::survey::{FileRow, Survey};

use crate::out;

/// The titles.
const TITLES: [&str; 7] = ["PATH", "TASK", "IS", "SIZE", "READ TO", "SAFE TO", "NOTE"];

/// Prints a table, and what it does not show.
pub(super) fn print(survey: &Survey) {
    let rows: Vec<[String; 7]> = survey.files.iter().map(cells).collect();
    let titles = TITLES.map(str::to_owned);
    let mut widths = [0; 7];
    for row in std::iter::once(&titles).chain(&rows) {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    for row in std::iter::once(&titles).chain(&rows) {
        out::line(line(row, &widths));
    }
    for task in &survey.without_files {
        out::line(format_args!("task {task} matches nothing here"));
    }
    if !survey.has_checkpoint {
        out::line("there is no checkpoint: the agent has not run on this state_dir");
    }
}

fn cells(row: &FileRow) -> [String; 7] {
    let number = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |v| v.to_string());
    let mut note = row.why.clone();
    if !row.also_in.is_empty() {
        let also = format!("also in {}", row.also_in.join(", "));
        note = if note.is_empty() {
            also
        } else {
            format!("{note}; {also}")
        };
    }
    [
        row.path.clone(),
        row.task.clone(),
        row.standing.as_str().to_owned(),
        number(row.size),
        number(row.read_to),
        number(row.acknowledged_to),
        note,
    ]
}

/// Figures stand to the right, words to the left.
fn line(row: &[String; 7], widths: &[usize; 7]) -> String {
    let cells = row.iter().zip(widths).enumerate();
    let cells = cells.map(|(at, (cell, &width))| match at {
        3..=5 => format!("{cell:>width$}"),
        _ => format!("{cell:<width$}"),
    });
    let line: Vec<String> = cells.collect();
    line.join("  ").trim_end().to_owned()
}
