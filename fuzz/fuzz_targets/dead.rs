//! Any bytes as a file of dead letters, and sound files that any bytes spoil: no panic, no entry that is not
//! as it was written, and what was not touched is found.
//!
//! The reader is taken from the bus by its file, without the bus: librdkafka would be built with the
//! sanitizer, for nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;

use self::format::{
    Entry, FILE_HEADER_BYTES, FormatError, Letter, Scanned, encode, file_header, frame, scan,
};

#[path = "../../bus/src/dead/format.rs"]
mod format;

/// Letters of a sound file; behind each is an entry of another kind.
const LETTERS: u64 = 4;

fuzz_target!(|data: &[u8]| {
    if let Ok(scanned) = scan(data) {
        is_consistent(&scanned, data);
    }
    // A newer version and a bad beginning hide what is behind them.
    let with_header = [&file_header(), data].concat();
    let scanned = scan(&with_header).expect("our own version");
    is_consistent(&scanned, &with_header);
    spoiled(data);
});

/// Entries lie behind one another within the file, what is between them is damage, and each is what is there.
fn is_consistent(scanned: &Scanned, bytes: &[u8]) {
    assert!(scanned.end <= bytes.len() && scanned.damaged <= scanned.end);
    let mut at = FILE_HEADER_BYTES.min(scanned.end);
    let mut between = 0;
    for (entry, from, long) in &scanned.entries {
        let (from, long) = (*from as usize, *long as usize);
        assert!(at <= from, "an entry at {from} begins before {at}");
        between += from - at;
        at = from + long;
        assert_eq!(
            frame(&bytes[from..at]).as_ref(),
            Some(&(entry.clone(), long))
        );
    }
    assert_eq!((at, between), (scanned.end, scanned.damaged));
}

/// Some entries; the bytes say which byte becomes what, and where the file ends.
fn spoiled(data: &[u8]) {
    let Some((&cut, changes)) = data.split_first() else {
        return;
    };
    let (mut file, mut places) = (file_header().to_vec(), Vec::new());
    for entry in (1..=LETTERS).flat_map(entries) {
        let at = file.len();
        encode(&entry, &mut file);
        places.push((at, file.len(), entry));
    }
    let mut touched = vec![false; file.len()];
    for change in changes.chunks_exact(3) {
        let at = usize::from(u16::from_be_bytes([change[0], change[1]])) % file.len();
        touched[at] |= file[at] != change[2];
        file[at] = change[2];
    }
    // Half of the inputs are not cut.
    let left = match cut.checked_sub(128) {
        Some(cut) => file.len() * usize::from(cut) / 128,
        None => file.len(),
    };
    file.truncate(left);
    let found = match scan(&file) {
        Ok(found) => found,
        Err(FormatError::Version(_) | FormatError::Magic(_)) => {
            let head = left.min(FILE_HEADER_BYTES);
            assert!(touched[..head].contains(&true), "a sound file is refused");
            return;
        }
    };
    is_consistent(&found, &file);
    for (from, to, entry) in places {
        let whole = to <= left && !touched[from..to].contains(&true);
        let is_there = found
            .entries
            .iter()
            .any(|(seen, at, _long)| *at == from as u64 && *seen == entry);
        assert!(
            is_there || !whole,
            "{entry:?} at {from} was not touched, and is not found"
        );
    }
}

/// A letter, and what became of it.
fn entries(no: u64) -> [Entry; 2] {
    let letter = Entry::Letter(Letter {
        no,
        header: vec![1; 30],
        at: 7,
        target: "logs".to_owned(),
        payload: vec![9; 20 * usize::try_from(no).expect("a few")],
        status: 400,
        reason: "mapper_parsing_exception: no number".to_owned(),
        first_ms: 1_700_000_000_000,
    });
    let then = match no % 3 {
        0 => Entry::Replayed { no },
        1 => Entry::Purged { no },
        _other => Entry::Again {
            no,
            status: 403,
            reason: "index_closed_exception".to_owned(),
            at_ms: 1_700_000_000_001,
        },
    };
    [letter, then]
}
