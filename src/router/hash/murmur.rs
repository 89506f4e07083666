//! `MurmurHash2` as libmemcached seeds it, and MurmurHash64A.

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
