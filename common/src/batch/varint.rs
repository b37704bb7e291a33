//! Kafka's signed varints: zigzag, seven bits a byte, the lowest first.
//!
//! Source: <https://protobuf.dev/programming-guides/encoding/#signed-ints>, which Kafka follows.
//! Not for: the unsigned varints of headers, which postcard writes.

/// The most bytes that a 32-bit varint takes.
pub(super) const MAX_INT_BYTES: usize = 5;
/// The most bytes that a 64-bit varint takes.
pub(super) const MAX_LONG_BYTES: usize = 10;

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -(value & 1).cast_signed()
}

/// Bytes that `value` takes, 1 to [`MAX_LONG_BYTES`].
pub(super) fn len(value: i64) -> usize {
    let bits = 64 - (zigzag(value) | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// Writes `value` at `at` and returns the place after it.
///
/// # Panics
/// When `out` ends before the varint does.
#[inline]
pub(super) fn write(out: &mut [u8], mut at: usize, value: i64) -> usize {
    let mut rest = zigzag(value);
    while rest >= 0x80 {
        out[at] = low_bits(rest) | 0x80;
        at += 1;
        rest >>= 7;
    }
    out[at] = low_bits(rest);
    at + 1
}

fn low_bits(value: u64) -> u8 {
    (value & 0x7f) as u8
}

/// Reads a 64-bit varint and returns it with the place after it; `None` when the bytes end before
/// it does, or when it has more than 64 bits.
#[inline]
pub(super) fn read_long(bytes: &[u8], at: usize) -> Option<(i64, usize)> {
    read(bytes, at, MAX_LONG_BYTES, u64::MAX)
}

/// Reads a 32-bit varint and returns it with the place after it; `None` when the bytes end before
/// it does, or when it has more than 32 bits.
#[inline]
pub(super) fn read_int(bytes: &[u8], at: usize) -> Option<(i32, usize)> {
    let (value, end) = read(bytes, at, MAX_INT_BYTES, u64::from(u32::MAX))?;
    Some((i32::try_from(value).ok()?, end))
}

#[inline]
fn read(bytes: &[u8], at: usize, max_bytes: usize, max: u64) -> Option<(i64, usize)> {
    let first = *bytes.get(at)?;
    if first < 0x80 {
        return Some((unzigzag(u64::from(first)), at + 1));
    }
    let second = *bytes.get(at + 1)?;
    let mut value = u64::from(first & 0x7f) | (u64::from(second & 0x7f) << 7);
    if second < 0x80 {
        return Some((unzigzag(value), at + 2));
    }
    for index in 2..max_bytes {
        let byte = *bytes.get(at + index)?;
        let shift = 7 * index;
        let bits = u64::from(byte & 0x7f);
        if bits > max >> shift {
            return None;
        }
        value |= bits << shift;
        if byte < 0x80 {
            return Some((unzigzag(value), at + index + 1));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(value: i64) -> Vec<u8> {
        let mut out = [0; MAX_LONG_BYTES];
        let end = write(&mut out, 0, value);
        out[..end].to_vec()
    }

    #[test]
    fn known_values_have_protobufs_bytes() {
        let check = |value: i64, bytes: &[u8]| {
            assert_eq!(written(value), bytes, "{value}");
            assert_eq!(read_long(bytes, 0), Some((value, bytes.len())));
        };
        check(0, &[0]);
        check(-1, &[1]);
        check(1, &[2]);
        check(63, &[0x7e]);
        check(-64, &[0x7f]);
        check(64, &[0x80, 0x01]);
        check(i64::from(i32::MAX), &[0xfe, 0xff, 0xff, 0xff, 0x0f]);
        check(
            i64::MIN,
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
        );
    }

    #[test]
    fn too_many_bits_are_refused() {
        assert_eq!(
            read_int(&[0xff, 0xff, 0xff, 0xff, 0x0f], 0),
            Some((i32::MIN, 5))
        );
        assert_eq!(read_int(&[0xff, 0xff, 0xff, 0xff, 0x1f], 0), None);
        assert_eq!(read_int(&[0x80, 0x80, 0x80, 0x80, 0x80, 0], 0), None);
        assert_eq!(read_long(&[0xff; 10], 0), None);
        assert_eq!(read_long(&[0xff, 0xff], 0), None);
        assert_eq!(read_long(&[], 0), None);
        assert_eq!(read_long(&[0], 7), None);
    }

    proptest! {
        #[test]
        fn a_varint_survives_its_bytes(value: i64, shift in 0u32..64) {
            let value = value >> shift;
            let bytes = written(value);
            prop_assert_eq!(bytes.len(), len(value));
            prop_assert_eq!(read_long(&bytes, 0), Some((value, bytes.len())));
            prop_assert_eq!(
                read_int(&bytes, 0),
                i32::try_from(value).ok().map(|value| (value, bytes.len()))
            );
        }
    }
}
