//! furc, mcrouter's `Ch3`: a walk down a binary tree, led by bits made from the
//! key.
//!
//! A server added at the end of the list takes its part of the keys from all
//! others and moves no other key; removed from the middle it moves nearly all.
//!
//! Source: mcrouter `mcrouter/lib/fbi/hash.c`, `mcrouter/lib/Ch3HashFunc.h`.

use super::detour::{Detour, even_shares};
use super::selector::{Server, listed};
use crate::router::hash::{MURMUR64A_SEED, murmur64a, rehash};

/// Numbers above the count that are drawn before the answer is 0.
const TRIES_MAX: u32 = 32;
/// How far apart the bits of a number are in the stream, which is also the
/// binary logarithm of the most servers there may be.
const STRIDE: u32 = 23;

/// The servers in the order they are counted.
#[derive(Debug)]
pub(in crate::router) struct Furc {
    /// The listed places of all servers, live or not.
    servers: Box<[u32]>,
    /// How many there are.
    count: u32,
    /// Where keys of dead servers go.
    detour: Option<Detour>,
}

impl Furc {
    pub(super) fn new(servers: &[Server], alive: &[bool]) -> Furc {
        Furc {
            servers: listed(servers),
            // At most 2^23.
            count: u32::try_from(servers.len()).unwrap_or(u32::MAX),
            detour: Detour::new(servers, alive),
        }
    }

    /// The server of `part`, the hashed part of a key.
    #[inline]
    pub(super) fn pick(&self, part: &[u8]) -> u32 {
        let hash = murmur64a(part, MURMUR64A_SEED);
        let mut number = furc(hash, self.count);
        if let Some(detour) = &self.detour {
            number = detour.around(number, hash, |hash| furc(hash, self.count));
        }
        self.servers.get(number as usize).copied().unwrap_or(0)
    }

    pub(super) fn shares(&self, add: &mut impl FnMut(u32, f64)) {
        even_shares(&self.servers, self.detour.as_ref(), add);
    }
}

/// A number below `count`, at most 2^23, for a key whose [`murmur64a`] with the
/// seed [`MURMUR64A_SEED`] is `hash`.
///
/// A first walk looks for the length of the number: while the bit at the cursor
/// is 0, the number is one bit shorter, and the cursor stands at its length. A
/// 1 is the number's first bit; the further ones are read [`STRIDE`] apart. A
/// number too large starts another try from where the cursor stands.
pub(super) fn furc(hash: u64, count: u32) -> u32 {
    if count <= 1 {
        return 0;
    }
    let mut bits = Bits::new(hash);
    let mut length = 32 - (count - 1).leading_zeros();
    let mut cursor = length;
    for _ in 0..TRIES_MAX {
        while !bits.is_set(cursor) {
            length -= 1;
            if length == 0 {
                return 0;
            }
            cursor = length;
        }
        cursor += STRIDE;
        let mut number = 1;
        for _ in 1..length {
            number = number << 1 | u32::from(bits.is_set(cursor));
            cursor += STRIDE;
        }
        if number < count {
            return number;
        }
    }
    0
}

/// An endless stream of bits: the first 64 are a hash of the key, each further
/// 64 a hash of the 64 before.
struct Bits {
    first: u64,
    /// The word last used, and which one it is.
    word: u64,
    number: u32,
}

impl Bits {
    fn new(first: u64) -> Bits {
        Bits {
            first,
            word: first,
            number: 0,
        }
    }

    #[inline]
    fn is_set(&mut self, bit: u32) -> bool {
        let number = bit / 64;
        // The cursor goes back only to the number's length, in the first word.
        if number < self.number {
            (self.word, self.number) = (self.first, 0);
        }
        while self.number < number {
            self.word = rehash(self.word);
            self.number += 1;
        }
        self.word >> (bit % 64) & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn place(key: &[u8], count: u32) -> u32 {
        furc(murmur64a(key, MURMUR64A_SEED), count)
    }

    #[test]
    fn keys_go_where_the_reference_says() {
        let counts = [2, 3, 5, 8, 10, 16, 100, 1000];
        let vectors = [
            ("key1", [0, 2, 2, 2, 2, 2, 2, 808]),
            ("foo", [1, 1, 1, 1, 1, 1, 1, 478]),
            ("bar", [0, 0, 0, 0, 0, 0, 46, 410]),
            ("user:1000", [1, 2, 2, 2, 2, 2, 54, 54]),
            ("a", [1, 1, 4, 4, 4, 13, 34, 900]),
            ("hello_world", [0, 0, 0, 7, 7, 15, 24, 757]),
            ("session:abcdef0123456789", [0, 2, 4, 7, 7, 7, 60, 789]),
        ];
        for (key, expected) in vectors {
            assert_eq!(
                counts.map(|count| place(key.as_bytes(), count)),
                expected,
                "{key}"
            );
        }
    }

    #[test]
    fn mcrouters_own_vectors_are_met() {
        assert_eq!(place(b"sample", 100), 97);
        assert_eq!(place(b"", 100), 72);
        assert_eq!(place(b"", 1 << 23), 6_173_600);
        assert_eq!(place(b"sample", 1 << 23), 5_167_780);
        assert_eq!(place(b"sample", 1), 0);
        let rising: Vec<u8> = (-128..=127_i8).map(i8::cast_unsigned).collect();
        let falling: Vec<u8> = rising.iter().rev().copied().collect();
        assert_eq!(place(&rising, 99_999), 31_015);
        assert_eq!(place(&falling, 99_999), 67_101);
        let mut counts = [0; 10];
        for key in 0..10_000 {
            counts[place(key.to_string().as_bytes(), 10) as usize] += 1;
        }
        assert_eq!(
            counts,
            [995, 955, 1046, 968, 1032, 972, 1016, 1038, 1010, 968]
        );
    }

    #[test]
    fn mcrouters_checksums_over_many_keys_are_met() {
        let vectors = [
            (2, 1_346_413_954),
            (3, 914_505_363),
            (7, 4_252_552_508),
            (10, 2_894_016_351),
            (100, 2_289_223_413),
            (1_000, 2_251_851_331),
            (100_000, 1_053_928_120),
            (1 << 23, 2_328_588_562),
        ];
        for (count, expected) in vectors {
            let checksum = (0..100_000).fold(0_u32, |sum, key| {
                let place = place(format!("k{key}").as_bytes(), count);
                sum.wrapping_mul(31).wrapping_add(place)
            });
            assert_eq!(checksum, expected, "{count} servers");
        }
    }

    proptest! {
        #[test]
        fn a_server_more_takes_keys_and_moves_no_other(hash: u64, count in 1_u32..5_000) {
            let (before, after) = (furc(hash, count), furc(hash, count + 1));
            prop_assert!(after == before || after == count);
        }

        #[test]
        fn the_number_is_below_the_count(hash: u64, count in 1_u32..=1 << 23) {
            prop_assert!(furc(hash, count) < count);
        }
    }
}
