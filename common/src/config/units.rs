//! Sizes, rates, durations and percentages: text to number, number to text.
//!
//! Not for: ranges (see `walk`). Called by the schema's check and print.

/// Units of size, in bytes, largest first; what is shown uses the first that divides evenly.
const SIZES: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1_000),
    ("B", 1),
];

/// Units of time, in ms, largest first.
const DURATIONS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// A number with at most nine decimals and a unit, exactly: `1.5` GiB is a whole number of bytes. Zero
/// is the same in all units, and needs none.
fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    if text == "0" {
        return Some(0);
    }
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at_checked(split)?;
    let unit = unit.trim_start_matches(' ');
    let (_, scale) = units.iter().find(|(name, _)| *name == unit)?;
    let (whole, decimals) = number.split_once('.').unwrap_or((number, ""));
    if decimals.len() > 9 || (number.contains('.') && decimals.is_empty()) {
        return None;
    }
    let mut value = u128::from(whole.parse::<u64>().ok()?) * u128::from(*scale);
    if !decimals.is_empty() {
        let part = u128::from(decimals.parse::<u64>().ok()?) * u128::from(*scale);
        let of = 10_u128.pow(u32::try_from(decimals.len()).ok()?);
        if part % of != 0 {
            return None;
        }
        value += part / of;
    }
    u64::try_from(value).ok()
}

/// A number in the largest unit that divides it.
fn shown(value: u64, units: &[(&str, u64)]) -> String {
    let fits = |(_, scale): &&(&str, u64)| value != 0 && value.is_multiple_of(*scale);
    let (name, scale) = units.iter().find(fits).unwrap_or(&units[units.len() - 1]);
    format!("{}{name}", value / scale)
}

/// Bytes of a text such as `64MiB` or `1.5GB`.
pub(super) fn size(text: &str) -> Option<u64> {
    scaled(text, &SIZES)
}

/// A size as text.
pub(super) fn show_size(bytes: u64) -> String {
    shown(bytes, &SIZES)
}

/// Bytes per second of a text such as `20MB/s`.
pub(super) fn rate(text: &str) -> Option<u64> {
    size(text.strip_suffix("/s").or((text == "0").then_some(text))?)
}

/// A rate as text.
pub(super) fn show_rate(bytes_per_s: u64) -> String {
    format!("{}/s", show_size(bytes_per_s))
}

/// Milliseconds of a text such as `200ms` or `7d`.
pub(super) fn duration(text: &str) -> Option<u64> {
    scaled(text, &DURATIONS)
}

/// A duration as text.
pub(super) fn show_duration(ms: u64) -> String {
    if ms == 0 {
        "0s".to_owned()
    } else {
        shown(ms, &DURATIONS)
    }
}

/// The number of a text such as `5%`.
pub(super) fn percent(text: &str) -> Option<f64> {
    let number = text.strip_suffix('%')?.trim_end_matches(' ');
    let plain = |b: u8| b.is_ascii_digit() || b == b'.';
    number.bytes().all(plain).then(|| number.parse().ok())?
}

/// A percentage as text.
pub(super) fn show_percent(percent: f64) -> String {
    format!("{percent}%")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts_with_units_are_exact_numbers() {
        assert_eq!(size("64MiB"), Some(64 << 20));
        assert_eq!(size("1.5 GB"), Some(1_500_000_000));
        assert_eq!(size("0B"), Some(0));
        assert_eq!(
            (size("0"), rate("0"), duration("0")),
            (Some(0), Some(0), Some(0))
        );
        assert_eq!(rate("20MB/s"), Some(20_000_000));
        assert_eq!(duration("200ms"), Some(200));
        assert_eq!(duration("1.5s"), Some(1_500));
        assert_eq!(duration("7d"), Some(604_800_000));
        assert_eq!(percent("5%"), Some(5.0));
        assert_eq!(percent("0.5 %"), Some(0.5));
    }

    #[test]
    fn other_texts_are_none() {
        for text in [
            "",
            "64",
            "00",
            "64mb",
            "MiB",
            "-1B",
            "1.B",
            "0.3B",
            "1e3B",
            "99999999999TiB",
            "1 2B",
        ] {
            assert_eq!(size(text), None, "{text}");
        }
        for text in ["5", "5min", "s", "0.1ms", "１s", "ü"] {
            assert_eq!(duration(text), None, "{text}");
        }
        for text in ["%", "5", "-5%", "inf%", "1e2%", "5%%"] {
            assert_eq!(percent(text), None, "{text}");
        }
        assert_eq!(rate("20MB"), None);
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(value: u64, ten in 0_u32..19) {
            for value in [value, value / 10_u64.pow(ten) * 10_u64.pow(ten), value >> ten << ten] {
                prop_assert_eq!(size(&show_size(value)), Some(value));
                prop_assert_eq!(rate(&show_rate(value)), Some(value));
                prop_assert_eq!(duration(&show_duration(value)), Some(value));
            }
        }

        #[test]
        fn no_text_makes_a_panic(text: String) {
            let _ = (size(&text), rate(&text), duration(&text), percent(&text));
        }
    }
}
