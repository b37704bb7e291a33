//! LZ4 frames around the blocks of `lz4_flex`, so that tables and buffers are reused and nothing
//! is taken in beyond the limit.
//!
//! # Constraints
//! Kafka's Java reader takes only independent blocks, checks the descriptor's checksum, and has
//! no dictionaries; what it would refuse is refused here.
//!
//! # Layout
//! <https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md>. Written: blocks of 64 KiB, no
//! content size, no checksums beside the descriptor's, for the batch has its CRC-32C.
//!
//! Not for: anything but batches.

use lz4_flex::block::{
    CompressError, CompressTable, DecompressError, compress_into_with_table, decompress_into,
    get_maximum_output_size,
};
use xxhash_rust::xxh32::xxh32;

use super::{BatchError, Codec, compress::grow};

const MAGIC: [u8; 4] = 0x184d_2204_u32.to_le_bytes();
/// Version 1 in the two highest bits of FLG.
const VERSION: u8 = 0b0100_0000;
const VERSION_MASK: u8 = 0b1100_0000;
const INDEPENDENT: u8 = 1 << 5;
const BLOCK_CHECKSUM: u8 = 1 << 4;
const CONTENT_SIZE: u8 = 1 << 3;
const CONTENT_CHECKSUM: u8 = 1 << 2;
const RESERVED: u8 = 1 << 1;
const DICTIONARY: u8 = 1;
/// BD for blocks of at most 64 KiB.
const BD_64_KIB: u8 = 4 << 4;
/// As far as a match reaches back: a larger block is 2 % smaller, and costs a twelfth more CPU, since the
/// table then looks at what is out of reach.
const BLOCK_BYTES: usize = 64 << 10;
/// Set in a block's size when its bytes are stored as they are.
const STORED: u32 = 1 << 31;
const WORD: usize = 4;
const HEADER_BYTES: usize = MAGIC.len() + 3;
const END_MARK: [u8; WORD] = [0; WORD];

/// The most bytes that the frame of `raw` bytes takes.
pub(super) fn max_frame_bytes(raw: usize) -> usize {
    let blocks = raw.div_ceil(BLOCK_BYTES);
    // A compressor needs room for its worst case even where the block is stored in the end.
    let slack = get_maximum_output_size(BLOCK_BYTES) - BLOCK_BYTES;
    HEADER_BYTES + raw + blocks * (WORD + slack) + WORD
}

/// Writes `raw` as one frame to `out`, which has [`max_frame_bytes`], and returns its length.
pub(super) fn compress(
    table: &mut CompressTable,
    raw: &[u8],
    out: &mut [u8],
) -> Result<usize, CompressError> {
    let descriptor = [VERSION | INDEPENDENT, BD_64_KIB];
    out[..WORD].copy_from_slice(&MAGIC);
    out[WORD..WORD + 2].copy_from_slice(&descriptor);
    out[WORD + 2] = descriptor_checksum(&descriptor);
    let mut at = HEADER_BYTES;
    for block in raw.chunks(BLOCK_BYTES) {
        let data = at + WORD;
        let packed = compress_into_with_table(block, &mut out[data..], table)?;
        let (len, flag) = if packed < block.len() {
            (packed, 0)
        } else {
            out[data..data + block.len()].copy_from_slice(block);
            (block.len(), STORED)
        };
        let size = u32::try_from(len).expect("a block has at most 64 KiB") | flag;
        out[at..data].copy_from_slice(&size.to_le_bytes());
        at = data + len;
    }
    out[at..at + WORD].copy_from_slice(&END_MARK);
    Ok(at + WORD)
}

/// Reads one frame, which must be all of `frame`, to `out` and returns how many bytes it gave.
/// `out` grows as needed, never over `limit` bytes.
///
/// # Errors
/// [`BatchError::TooLarge`] or [`BatchError::Decompress`].
pub(super) fn decompress(
    frame: &[u8],
    out: &mut Vec<u8>,
    limit: usize,
) -> Result<usize, BatchError> {
    let mut input = Input { rest: frame };
    let form = Form::read(&mut input)?;
    let mut at = 0;
    loop {
        let size = input.word()?;
        if size == 0 {
            break;
        }
        let len = (size & !STORED) as usize;
        if len > form.block_bytes {
            return Err(bad(format!(
                "block of {len} bytes; the limit is {}",
                form.block_bytes
            )));
        }
        let block = input.take(len)?;
        if form.block_checksum && input.word()? != xxh32(block, 0) {
            return Err(bad("checksum of a block is wrong".to_owned()));
        }
        let room = form.block_bytes.min(limit - at);
        let too_large = || {
            if room < form.block_bytes {
                BatchError::TooLarge {
                    bytes: limit + 1,
                    limit,
                }
            } else {
                bad(format!("block gives more than its {room} bytes"))
            }
        };
        if size & STORED == 0 {
            grow(out, at + room);
            at += match decompress_into(block, &mut out[at..at + room]) {
                Ok(given) => given,
                Err(DecompressError::OutputTooSmall { .. }) => return Err(too_large()),
                Err(error) => return Err(bad(error.to_string())),
            };
        } else {
            if len > room {
                return Err(too_large());
            }
            grow(out, at + len);
            out[at..at + len].copy_from_slice(block);
            at += len;
        }
    }
    if form.content_size.is_some_and(|size| size != at as u64) {
        return Err(bad(format!("frame gives {at} bytes and announces others")));
    }
    if form.content_checksum && input.word()? != xxh32(&out[..at], 0) {
        return Err(bad("checksum of the content is wrong".to_owned()));
    }
    if !input.rest.is_empty() {
        return Err(bad(format!("{} bytes after the frame", input.rest.len())));
    }
    Ok(at)
}

/// What a frame's descriptor says.
struct Form {
    block_bytes: usize,
    block_checksum: bool,
    content_size: Option<u64>,
    content_checksum: bool,
}

impl Form {
    fn read(input: &mut Input<'_>) -> Result<Self, BatchError> {
        if input.take(MAGIC.len())? != MAGIC {
            return Err(bad("no LZ4 frame".to_owned()));
        }
        let descriptor = input.rest;
        let &[flags, block] = input.array::<2>()?;
        if flags & VERSION_MASK != VERSION || flags & (RESERVED | DICTIONARY) != 0 {
            return Err(bad(format!(
                "frame flags {flags:#04x} are not those of version 1"
            )));
        }
        if flags & INDEPENDENT == 0 {
            return Err(bad(
                "blocks depend on each other, which Kafka refuses".to_owned()
            ));
        }
        let block_bytes = match block {
            0x40 => 64 << 10,
            0x50 => 256 << 10,
            0x60 => 1 << 20,
            0x70 => 4 << 20,
            _ => return Err(bad(format!("block size {block:#04x} is unknown"))),
        };
        let content_size = if flags & CONTENT_SIZE == 0 {
            None
        } else {
            Some(u64::from_le_bytes(*input.array::<8>()?))
        };
        let described = &descriptor[..descriptor.len() - input.rest.len()];
        let &[checksum] = input.array::<1>()?;
        if checksum != descriptor_checksum(described) {
            return Err(bad("checksum of the descriptor is wrong".to_owned()));
        }
        Ok(Self {
            block_bytes,
            block_checksum: flags & BLOCK_CHECKSUM != 0,
            content_size,
            content_checksum: flags & CONTENT_CHECKSUM != 0,
        })
    }
}

/// The frame's bytes that are not yet read.
struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], BatchError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or_else(|| self.short(len))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<&'a [u8; N], BatchError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or_else(|| self.short(N))?;
        self.rest = rest;
        Ok(taken)
    }

    fn word(&mut self) -> Result<u32, BatchError> {
        Ok(u32::from_le_bytes(*self.array()?))
    }

    fn short(&self, wanted: usize) -> BatchError {
        bad(format!(
            "frame ends {} bytes too early",
            wanted - self.rest.len()
        ))
    }
}

/// The second byte of the descriptor's xxh32.
fn descriptor_checksum(descriptor: &[u8]) -> u8 {
    xxh32(descriptor, 0).to_le_bytes()[1]
}

fn bad(why: String) -> BatchError {
    BatchError::Decompress {
        codec: Codec::Lz4,
        why,
    }
}
