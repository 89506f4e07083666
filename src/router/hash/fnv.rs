//! The four FNV hashes as twemproxy and libmemcached compute them on x86.
//!
//! Both read the key as `char`, so a byte of 0x80 or above is extended with
//! ones before it is mixed in. Real FNV is unsigned and differs there.

use super::{low32, widen_signed};

const INIT_32: u32 = 0x811c_9dc5;
const PRIME_32: u32 = 0x0100_0193;
const INIT_64: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME_64: u64 = 0x0100_0000_01b3;

/// FNV-1 of 64 bits, cut to its low 32 at the end.
///
/// The low half of a product depends on the low halves of its factors alone,
/// so all of it is computed in 32 bits.
#[inline]
pub(super) fn fnv1_64(key: &[u8]) -> u32 {
    key.iter().fold(low32(INIT_64), |hash, byte| {
        hash.wrapping_mul(low32(PRIME_64)) ^ widen_signed(*byte)
    })
}

/// FNV-1a with the constants of 64 bits cut to 32.
#[inline]
pub(super) fn fnv1a_64(key: &[u8]) -> u32 {
    key.iter().fold(low32(INIT_64), |hash, byte| {
        (hash ^ widen_signed(*byte)).wrapping_mul(low32(PRIME_64))
    })
}

/// FNV-1 of 32 bits.
#[inline]
pub(super) fn fnv1_32(key: &[u8]) -> u32 {
    key.iter().fold(INIT_32, |hash, byte| {
        hash.wrapping_mul(PRIME_32) ^ widen_signed(*byte)
    })
}

/// FNV-1a of 32 bits.
#[inline]
pub(super) fn fnv1a_32(key: &[u8]) -> u32 {
    key.iter().fold(INIT_32, |hash, byte| {
        (hash ^ widen_signed(*byte)).wrapping_mul(PRIME_32)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn fnv1_64_in_32_bits_is_the_low_half_of_64(key in prop::collection::vec(any::<u8>(), 0..64)) {
            let long = key.iter().fold(INIT_64, |hash, byte| {
                hash.wrapping_mul(PRIME_64) ^ i64::from(byte.cast_signed()).cast_unsigned()
            });
            prop_assert_eq!(fnv1_64(&key), low32(long));
        }

        #[test]
        fn fnv1a_64_of_ascii_is_the_low_half_of_the_real_one(key in "[ -~]{0,64}") {
            let real = key.bytes().fold(INIT_64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(PRIME_64)
            });
            prop_assert_eq!(fnv1a_64(key.as_bytes()), low32(real));
        }
    }
}
