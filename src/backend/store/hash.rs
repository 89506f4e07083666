//! From a key to its shard, and to its tag in the shard's index.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Bits of a [`Tag`].
pub(super) const TAG_BITS: u32 = 34;

/// Lowest bit of a hash that belongs to the tag; those below pick the shard, so
/// that the two do not depend on each other.
const TAG_SHIFT: u32 = 64 - TAG_BITS;

/// Most shards that the bits below the tag can tell apart, with room to spare.
pub(super) const SHARDS_MAX: usize = 1 << 10;

/// The hash of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hash(u64);

impl Hash {
    /// Hashes `key`. The seed is a secret of the process, so that nobody can make
    /// keys that all fall into one place.
    #[inline]
    pub(super) fn new(key: &[u8], seed: u64) -> Self {
        Self(xxh3_64_with_seed(key, seed))
    }

    /// Which of `count` shards, a power of two.
    #[inline]
    pub(super) fn shard(self, count: usize) -> usize {
        low_usize(self.0) & (count - 1)
    }

    /// What the index of a shard knows the key by.
    #[inline]
    pub(super) fn tag(self) -> Tag {
        Tag(self.0 >> TAG_SHIFT)
    }
}

/// The part of a key's hash that an index keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag(u64);

impl Tag {
    /// As a number of [`TAG_BITS`] bits.
    #[inline]
    pub(super) fn bits(self) -> u64 {
        self.0
    }

    /// The tag that is this number.
    #[inline]
    pub(super) fn from_bits(bits: u64) -> Self {
        debug_assert!(bits >> TAG_BITS == 0);
        Self(bits)
    }

    /// Its `count` highest bits.
    #[inline]
    pub(super) fn high(self, count: u32) -> usize {
        low_usize(self.0 >> (TAG_BITS - count))
    }

    /// Its `count` lowest bits.
    #[inline]
    pub(super) fn low(self, count: u32) -> usize {
        low_usize(self.0 & ((1 << count) - 1))
    }
}

/// As many low bits as an address has.
#[expect(
    clippy::cast_possible_truncation,
    reason = "bits beyond those of an address are not wanted"
)]
#[inline]
fn low_usize(value: u64) -> usize {
    value as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_has_high_and_low_bits() {
        let tag = Tag::from_bits(0b11 << (TAG_BITS - 2) | 0b101);
        assert_eq!((tag.high(0), tag.high(1), tag.high(2)), (0, 1, 3));
        assert_eq!((tag.low(1), tag.low(3)), (1, 5));
    }

    #[test]
    fn keys_spread_over_shards_and_seeds_change_where() {
        let count = |seed| {
            let mut counts = [0; 8];
            for number in 0u32..8000 {
                counts[Hash::new(&number.to_le_bytes(), seed).shard(8)] += 1;
            }
            counts
        };
        assert!(count(1).iter().all(|&keys| (850..1150).contains(&keys)));
        assert_ne!(Hash::new(b"key", 1).tag(), Hash::new(b"key", 2).tag());
    }
}
