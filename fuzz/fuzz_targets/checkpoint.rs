//! Any bytes as a checkpoint file of the agent, as they are and with checksums that fit them: no
//! panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tributary_agent::checkpoint;

const HEADER_BYTES: usize = 16;
const FRAME_BYTES: usize = 8;

fuzz_target!(|data: &[u8]| {
    let _as_it_is = checkpoint::decode(data);
    let mut sealed = data.to_vec();
    seal(&mut sealed);
    let _with_sums = checkpoint::decode(&sealed);
});

/// Writes the right checksums into the header and every frame.
fn seal(file: &mut [u8]) {
    if file.len() < HEADER_BYTES {
        return;
    }
    let version = 1 + file[8] % 2;
    file[..8].copy_from_slice(b"TRIBCKPT");
    file[8..12].copy_from_slice(&[version, 0, 0, 0]);
    let sum = crc32c::crc32c(&file[..12]);
    file[12..HEADER_BYTES].copy_from_slice(&sum.to_le_bytes());
    let mut rest = &mut file[HEADER_BYTES..];
    while let Some((head, body)) = rest.split_first_chunk_mut::<FRAME_BYTES>() {
        let [a, b, c, d, ..] = *head;
        let len = u32::from_le_bytes([a, b, c, d]) as usize;
        let Some((record, after)) = body.split_at_mut_checked(len) else {
            return;
        };
        head[4..].copy_from_slice(&crc32c::crc32c(record).to_le_bytes());
        rest = after;
    }
}
