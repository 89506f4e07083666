//! Jump consistent hash, the default of memcached's own proxy.
//!
//! The number of servers alone decides, so that a server added at the end of
//! the list takes its part of the keys from all others and moves no other key;
//! removed from the middle it moves nearly all.
//!
//! Source: Lamping and Veach, "A Fast, Minimal Memory, Consistent Hash
//! Algorithm"; memcached `proxy_jump_hash.c`.

use std::hash::Hasher;

use jumphash::CustomJumpHasher;

use super::detour::{Detour, even_shares};
use super::selector::{Server, listed};

/// The servers in the order they are counted.
#[derive(Debug)]
pub(in crate::router) struct Jump {
    /// The listed places of all servers, live or not.
    servers: Box<[u32]>,
    /// How many there are.
    count: u32,
    /// Where keys of dead servers go.
    detour: Option<Detour>,
}

impl Jump {
    pub(super) fn new(servers: &[Server], alive: &[bool]) -> Jump {
        Jump {
            servers: listed(servers),
            // At most 2^23, and the crate wants one at least.
            count: u32::try_from(servers.len()).unwrap_or(u32::MAX).max(1),
            detour: Detour::new(servers, alive),
        }
    }

    /// The server of `hash`, all 64 bits of which count.
    #[inline]
    pub(super) fn pick(&self, hash: u64) -> u32 {
        let mut number = jump(hash, self.count);
        if let Some(detour) = &self.detour {
            number = detour.around(number, hash, |hash| jump(hash, self.count));
        }
        self.servers.get(number as usize).copied().unwrap_or(0)
    }

    pub(super) fn shares(&self, add: &mut impl FnMut(u32, f64)) {
        even_shares(&self.servers, self.detour.as_ref(), add);
    }
}

/// The bucket of `hash` among `count`.
#[inline]
fn jump(hash: u64, count: u32) -> u32 {
    CustomJumpHasher::new(PassThrough(0)).slot(&hash, count)
}

/// Hands the key's hash to the crate as it is: the crate hashes what it is
/// given, and ours is a hash already.
#[derive(Clone, Copy)]
struct PassThrough(u64);

impl Hasher for PassThrough {
    #[inline]
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn write(&mut self, bytes: &[u8]) {
        debug_assert!(bytes.is_empty(), "a hash is written as one u64");
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_buckets_are_those_of_other_implementations() {
        // The vectors that implementations in other languages share.
        let vectors = [
            (1, 1, 0),
            (42, 57, 43),
            (0xdead_10cc, 1, 0),
            (0xdead_10cc, 666, 361),
            (256, 1024, 520),
        ];
        for (hash, count, bucket) in vectors {
            assert_eq!(jump(hash, count), bucket, "{hash} among {count}");
        }
    }

    proptest! {
        #[test]
        fn a_server_more_takes_keys_and_moves_no_other(hash: u64, count in 1_u32..2_000) {
            let (before, after) = (jump(hash, count), jump(hash, count + 1));
            prop_assert!(after == before || after == count);
        }
    }
}
