//! The hash modulo a number: twemproxy's `modula`, which counts a server as
//! often as it weighs, and libmemcached's, which ignores weights.
//!
//! Source: twemproxy `src/hashkit/nc_modula.c`; libmemcached
//! `src/libmemcached/hash.cc`, `dispatch_host`.

use super::selector::{Server, listed};
use super::whole;
use crate::router::hash::low32;

/// A row of servers, each as wide as it weighs.
#[derive(Debug)]
pub(in crate::router) struct Modula {
    /// The listed places of the live servers, in the order they are counted.
    servers: Box<[u32]>,
    /// Where each server's width ends. Empty if all are one wide, which is the
    /// usual case and needs no search.
    ends: Box<[u32]>,
    /// The width of the row; at least 1.
    total: u64,
}

impl Modula {
    /// The row in which each live server is as wide as its weight.
    pub(super) fn weighted(live: &[&Server]) -> Modula {
        let mut end = 0_u32;
        let ends: Box<[u32]> = live
            .iter()
            .map(|server| {
                // The sum of all weights is checked to fit.
                end = end.saturating_add(whole(server.weight));
                end
            })
            .collect();
        let all_one_wide = end as usize == live.len();
        Modula {
            servers: listed(live.iter().copied()),
            ends: if all_one_wide { Box::default() } else { ends },
            total: u64::from(end.max(1)),
        }
    }

    /// The row in which each live server is one wide.
    pub(super) fn unweighted(live: &[&Server]) -> Modula {
        Modula {
            servers: listed(live.iter().copied()),
            ends: Box::default(),
            total: (live.len() as u64).max(1),
        }
    }

    /// The server of `hash`.
    #[inline]
    pub(super) fn pick(&self, hash: u64) -> u32 {
        let place = low32(hash % self.total);
        let number = if self.ends.is_empty() {
            place as usize
        } else {
            self.ends.partition_point(|end| *end <= place)
        };
        self.servers.get(number).copied().unwrap_or(0)
    }

    /// Counts for each server the hashes up to `max` that are its own.
    pub(super) fn shares(&self, max: u64, add: &mut impl FnMut(u32, f64)) {
        let hashes = u128::from(max) + 1;
        let total = u128::from(self.total);
        let (rows, rest) = (hashes / total, hashes % total);
        let mut from = 0;
        for (number, server) in self.servers.iter().enumerate() {
            let to = match self.ends.get(number) {
                Some(end) => u128::from(*end),
                None => from + 1,
            };
            let own = rows * (to - from) + (rest.clamp(from, to) - from);
            add(*server, own as f64 / hashes as f64);
            from = to;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::distribution::selector::servers_for_tests;
    use proptest::prelude::*;

    fn servers(weights: &[u32]) -> Vec<Server> {
        servers_for_tests(weights.iter().map(|weight| ("", f64::from(*weight))))
    }

    fn weighted(weights: &[u32]) -> Modula {
        Modula::weighted(&servers(weights).iter().collect::<Vec<_>>())
    }

    #[test]
    fn a_server_is_counted_as_often_as_it_weighs() {
        let modula = weighted(&[1, 2, 5]);
        let picked: Vec<u32> = (0..9).map(|hash| modula.pick(hash)).collect();
        assert_eq!(picked, [0, 1, 1, 2, 2, 2, 2, 2, 0]);
    }

    #[test]
    fn unweighted_counts_each_server_once() {
        let servers = servers(&[1, 2, 5]);
        let modula = Modula::unweighted(&servers.iter().collect::<Vec<_>>());
        let picked: Vec<u32> = (0..5).map(|hash| modula.pick(hash)).collect();
        assert_eq!(picked, [0, 1, 2, 0, 1]);
    }

    #[test]
    fn all_64_bits_of_a_hash_count() {
        assert_eq!(weighted(&[1, 1, 1]).pick((1 << 32) + 1), 2);
    }

    proptest! {
        #[test]
        fn picks_as_from_the_list_written_out(
            weights in prop::collection::vec(1_u32..20, 1..20), hash: u32,
        ) {
            let list: Vec<u32> = (0_u32..)
                .zip(&weights)
                .flat_map(|(server, weight)| std::iter::repeat_n(server, *weight as usize))
                .collect();
            let expected = list[hash as usize % list.len()];
            prop_assert_eq!(weighted(&weights).pick(u64::from(hash)), expected);
        }

        #[test]
        fn shares_count_every_hash(weights in prop::collection::vec(1_u32..9, 1..9), max in 0_u64..300) {
            let modula = weighted(&weights);
            let mut expected = vec![0.0; weights.len()];
            for hash in 0..=max {
                expected[modula.pick(hash) as usize] += 1.0 / (max + 1) as f64;
            }
            let mut shares = vec![0.0; weights.len()];
            modula.shares(max, &mut |server, share| shares[server as usize] += share);
            for (share, expected) in shares.iter().zip(expected) {
                prop_assert!((share - expected).abs() < 1e-9);
            }
        }
    }
}
