//! The Murmur family: `MurmurHash2` as libmemcached seeds it, MurmurHash64A and
//! the mixer of two numbers that mcrouter's rendezvous uses.

use super::len32;

/// The seed of MurmurHash64A in mcrouter's furc and for the names of servers
/// in its rendezvous.
pub(in crate::router) const MURMUR64A_SEED: u32 = 4_193_360_111;

const M32: u32 = 0x5bd1_e995;
const M64: u64 = 0xc6a4_a793_5bd1_e995;

/// MurmurHash2, 32 bits, with the seed `0xdeadbeef * length`.
#[inline]
pub(super) fn murmur2(key: &[u8]) -> u32 {
    let length = len32(key);
    let seed = 0xdead_beef_u32.wrapping_mul(length);
    let (words, tail) = key.as_chunks::<4>();
    let mut hash = words.iter().fold(seed ^ length, |hash, word| {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M32);
        k ^= k >> 24;
        hash.wrapping_mul(M32) ^ k.wrapping_mul(M32)
    });
    if !tail.is_empty() {
        let last = tail
            .iter()
            .rev()
            .fold(0, |word, byte| word << 8 | u32::from(*byte));
        hash = (hash ^ last).wrapping_mul(M32);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M32);
    hash ^ (hash >> 15)
}

/// MurmurHash64A, little endian.
#[inline]
pub(in crate::router) fn murmur64a(key: &[u8], seed: u32) -> u64 {
    let start = u64::from(seed) ^ (key.len() as u64).wrapping_mul(M64);
    let (words, tail) = key.as_chunks::<8>();
    let mut hash = words
        .iter()
        .fold(start, |hash, word| absorb(hash, u64::from_le_bytes(*word)));
    if !tail.is_empty() {
        let last = tail
            .iter()
            .rev()
            .fold(0, |word, byte| word << 8 | u64::from(*byte));
        hash = (hash ^ last).wrapping_mul(M64);
    }
    finish(hash)
}

/// MurmurHash64A of the eight bytes of `word`, with furc's seed: how furc makes
/// the next 64 bits of its stream from the last.
#[inline]
pub(in crate::router) fn rehash(word: u64) -> u64 {
    let start = u64::from(MURMUR64A_SEED) ^ M64.wrapping_mul(8);
    finish(absorb(start, word))
}

#[inline]
fn absorb(hash: u64, word: u64) -> u64 {
    let mut k = word.wrapping_mul(M64);
    k ^= k >> 47;
    (hash ^ k.wrapping_mul(M64)).wrapping_mul(M64)
}

#[inline]
fn finish(mut hash: u64) -> u64 {
    hash ^= hash >> 47;
    hash = hash.wrapping_mul(M64);
    hash ^ (hash >> 47)
}

/// Two numbers mixed into one: `CityHash`'s `Hash128to64`, written after Murmur.
#[inline]
pub(in crate::router) fn hash_pair(upper: u64, lower: u64) -> u64 {
    const MUL: u64 = 0x9ddf_ea08_eb38_2d69;
    let mut a = (lower ^ upper).wrapping_mul(MUL);
    a ^= a >> 47;
    let mut b = (upper ^ a).wrapping_mul(MUL);
    b ^= b >> 47;
    b.wrapping_mul(MUL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rehash_is_murmur64a_of_the_bytes(word: u64) {
            prop_assert_eq!(rehash(word), murmur64a(&word.to_le_bytes(), MURMUR64A_SEED));
        }
    }
}
