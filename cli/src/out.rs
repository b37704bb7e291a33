//! What the program says to a person: standard output, nothing else.
//!
//! Not for: logs (they go to stderr through `common::telemetry`). Every command calls it.

use std::{
    fmt::Display,
    io::{self, IsTerminal as _, Write as _},
};

/// Whether a person looks at the output now.
pub(crate) fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Says one line. A reader that went away (`| head`) is no failure of ours.
pub(crate) fn line(text: impl Display) {
    write(format_args!("{text}\n"));
}

/// Says something without a newline.
pub(crate) fn write(text: impl Display) {
    let mut stdout = io::stdout().lock();
    if let Err(_reader_is_gone) = write!(stdout, "{text}").and_then(|()| stdout.flush()) {
        // Nobody listens: the work goes on, its result is on disk and in the exit code.
    }
}

/// A count with thousands separators: `1,234,567`.
pub(crate) fn count(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3 + 1);
    if number < 0 {
        text.push('-');
    }
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_grouped_by_thousands() {
        let check = |number, text: &str| assert_eq!(count(number), text);
        check(0, "0");
        check(999, "999");
        check(1_000, "1,000");
        check(-1_234_567, "-1,234,567");
        check(100_000, "100,000");
    }
}
