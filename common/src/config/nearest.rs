//! The known word that a person most likely meant.
//!
//! Not for: parsing. Called when a key, a choice or a variable is unknown.

/// A beginning of a known word counts as near from this many letters on.
const BEGINNING: usize = 3;

/// The nearest of `known`, if any is near enough to be meant: a third of its letters may differ,
/// or its end may be missing.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let near = |candidate: &'a str| {
        let (word, known) = (word.to_lowercase(), candidate.to_lowercase());
        if word.len() >= BEGINNING && known.starts_with(&word) {
            return Some((1, candidate));
        }
        let distance = distance(&word, &known);
        let allowed = (candidate.chars().count() / 3).clamp(1, 4);
        (distance <= allowed).then_some((distance, candidate))
    };
    known
        .into_iter()
        .filter_map(near)
        .min()
        .map(|(_, candidate)| candidate)
}

/// How many letters must be put in, taken out, changed or swapped with their neighbour (optimal
/// string alignment).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    let mut previous = None;
    for (i, x) in a.chars().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let change = last[j] + usize::from(x != *y);
            let mut least = change.min(last[j + 1] + 1).min(row[j] + 1);
            if j > 0 && previous == Some(*y) && b[j - 1] == x {
                least = least.min(before[j - 1] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut last, row);
        previous = Some(x);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_single_slips() {
        for (a, b, wanted) in [
            ("zone", "zone", 0),
            ("zoen", "zone", 1),
            ("zon", "zone", 1),
            ("zones", "zone", 1),
            ("xone", "zone", 1),
            ("", "zone", 4),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(a, b), wanted, "{a} {b}");
            assert_eq!(distance(b, a), wanted, "{b} {a}");
        }
    }

    #[test]
    fn only_a_near_word_is_offered() {
        let known = ["zone", "state_dir", "admin", "max_line"];
        assert_eq!(nearest("Zoen", known), Some("zone"));
        assert_eq!(nearest("statedir", known), Some("state_dir"));
        assert_eq!(nearest("max-line", known), Some("max_line"));
        assert_eq!(nearest("max", known), Some("max_line"));
        assert_eq!(nearest("listen", known), None);
        assert_eq!(nearest("", known), None);
    }
}
