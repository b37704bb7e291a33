//! Any bytes as a log file, framed in any way: no panic, and a span that is read again, as after a
//! kill, gives the same records.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tributary_agent::framed_twice;

fuzz_target!(|data: &[u8]| {
    if let Some([first, again]) = framed_twice(data) {
        assert_eq!(first, again);
    }
});
