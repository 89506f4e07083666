//! Paul Hsieh's `SuperFastHash` as libmemcached and twemproxy have it.

use super::widen_signed;

/// Differs from the published function twice: it starts from 0, not from the
/// length, and it reads the third of three trailing bytes as signed.
#[inline]
pub(super) fn hsieh(key: &[u8]) -> u32 {
    if key.is_empty() {
        return 0;
    }
    let (blocks, tail) = key.as_chunks::<4>();
    let mut hash = 0_u32;
    for [a, b, c, d] in blocks {
        hash = hash.wrapping_add(pair(*a, *b));
        let mixed = (pair(*c, *d) << 11) ^ hash;
        hash = (hash << 16) ^ mixed;
        hash = hash.wrapping_add(hash >> 11);
    }
    match tail {
        [a, b, c] => {
            hash = hash.wrapping_add(pair(*a, *b));
            hash ^= hash << 16;
            hash ^= widen_signed(*c) << 18;
            hash = hash.wrapping_add(hash >> 11);
        }
        [a, b] => {
            hash = hash.wrapping_add(pair(*a, *b));
            hash ^= hash << 11;
            hash = hash.wrapping_add(hash >> 17);
        }
        [a] => {
            hash = hash.wrapping_add(u32::from(*a));
            hash ^= hash << 10;
            hash = hash.wrapping_add(hash >> 1);
        }
        _ => {}
    }
    hash ^= hash << 3;
    hash = hash.wrapping_add(hash >> 5);
    hash ^= hash << 4;
    hash = hash.wrapping_add(hash >> 17);
    hash ^= hash << 25;
    hash.wrapping_add(hash >> 6)
}

/// Two bytes, little endian.
#[inline]
fn pair(low: u8, high: u8) -> u32 {
    u32::from(u16::from_le_bytes([low, high]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_third_trailing_byte_is_signed() {
        // twemproxy's values; one byte above 0x7f at each place of a block.
        assert_eq!(hsieh(b"\xe9"), 1_008_785_338);
        assert_eq!(hsieh(b"a\xe9"), 3_700_383_184);
        assert_eq!(hsieh(b"ab\xe9"), 307_729_637);
        assert_eq!(hsieh(b"abc\xe9"), 4_186_542_402);
    }

    #[test]
    fn the_empty_key_is_zero() {
        assert_eq!(hsieh(b""), 0);
    }
}
