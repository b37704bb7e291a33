//! Any bytes as a batch header: no panic, and a header that was read is written back to one that
//! reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tributary_common::header::{BatchHeader, MAX_BYTES};

fuzz_target!(|data: &[u8]| {
    let data = &data[..data.len().min(MAX_BYTES)];
    if let Ok(header) = BatchHeader::decode(data) {
        let written = header.encode().expect("what was read fits");
        assert_eq!(BatchHeader::decode(&written), Ok(header));
    }
});
