//! Any bytes as the stream of one connection: no panic, and a frame that was read is written
//! back to a frame that reads the same.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tributary_common::wire::{self, PRELUDE_BYTES, Prelude};

fuzz_target!(|data: &[u8]| {
    let mut rest = data;
    while let Some((prelude, after)) = rest.split_first_chunk::<PRELUDE_BYTES>() {
        let Ok(prelude) = Prelude::decode(*prelude) else {
            return;
        };
        let Some((frame, after)) = after.split_at_checked(prelude.frame_bytes()) else {
            return;
        };
        rest = after;
        let Ok(read) = wire::decode(prelude, Bytes::copy_from_slice(frame)) else {
            return;
        };
        let written = Bytes::from(wire::encode(&read).expect("what was read fits a frame"));
        let prelude = written
            .first_chunk()
            .expect("a frame begins with its prelude");
        let prelude = Prelude::decode(*prelude).expect("our own prelude is sound");
        let again = wire::decode(prelude, written.slice(PRELUDE_BYTES..));
        assert_eq!(again, Ok(read));
    }
});
