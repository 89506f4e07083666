//! Rendezvous hashing: every server bids for the key, the highest bid wins.
//!
//! The order of the servers makes no difference, and one that goes takes only
//! its own keys with it. The price is a look at every server for every key.
//!
//! Source: mcrouter `mcrouter/lib/RendezvousHashFunc.cpp`,
//! `mcrouter/lib/WeightedRendezvousHashFunc.cpp`.

use super::selector::Server;
use crate::router::hash::{MURMUR64A_SEED, hash_pair, murmur64a};

/// The seed of the key's hash; the servers' names have furc's.
const KEY_SEED: u32 = 2_718_281_828;

/// Numbers of 64 bits that are further apart are different doubles.
const DOUBLE_STEP_MAX: u64 = 1 << 11;

/// The hash of the hashed part of a key.
#[inline]
pub(super) fn key_hash(part: &[u8]) -> u64 {
    murmur64a(part, KEY_SEED)
}

/// Live servers of equal weight.
#[derive(Debug)]
pub(in crate::router) struct Rendezvous {
    bidders: Box<[Bidder]>,
}

#[derive(Debug)]
struct Bidder {
    /// The hash of the server's name.
    name: u64,
    /// Its listed place.
    server: u32,
}

impl Rendezvous {
    pub(super) fn new(live: &[&Server]) -> Rendezvous {
        Rendezvous {
            bidders: live.iter().map(|server| bidder(server)).collect(),
        }
    }

    /// The server of `part`, the hashed part of a key.
    #[inline]
    pub(super) fn pick(&self, part: &[u8]) -> u32 {
        let key = key_hash(part);
        let (mut best, mut near_best, mut winner) = (-1.0, 0, 0);
        for bidder in &self.bidders {
            let bid = hash_pair(bidder.name, key);
            // Compared as doubles, which makes ties of bids that are close
            // together; the one further on in the list wins them. Most bids are
            // far below and need no conversion, which takes a third off.
            if bid >= near_best && bid as f64 >= best {
                (best, winner) = (bid as f64, bidder.server);
                near_best = bid.saturating_sub(DOUBLE_STEP_MAX);
            }
        }
        winner
    }

    pub(super) fn shares(&self, add: &mut impl FnMut(u32, f64)) {
        for bidder in &self.bidders {
            add(bidder.server, 1.0 / self.bidders.len() as f64);
        }
    }
}

/// Live servers whose bids count by weight.
#[derive(Debug)]
pub(in crate::router) struct WeightedRendezvous {
    bidders: Box<[(Bidder, f64)]>,
}

impl WeightedRendezvous {
    pub(super) fn new(live: &[&Server]) -> WeightedRendezvous {
        WeightedRendezvous {
            bidders: live
                .iter()
                .map(|server| (bidder(server), server.weight))
                .collect(),
        }
    }

    /// The server of `part`, the hashed part of a key. If all weights are 0 it
    /// is the first.
    ///
    /// A bid is the weight over `-ln(u)`, `u` being the low 53 bits of the mixed
    /// hashes as a fraction of 1. The logarithm is the platform's: one that
    /// rounds differently in the last bit moves a key in some 10^14.
    #[inline]
    pub(super) fn pick(&self, part: &[u8]) -> u32 {
        let key = key_hash(part);
        let mut best = 0.0;
        let mut winner = self.bidders.first().map_or(0, |(bidder, _)| bidder.server);
        for (bidder, weight) in &self.bidders {
            let mixed = hash_pair(bidder.name, key) & ((1 << 53) - 1);
            let fraction = mixed as f64 / (1_u64 << 53) as f64;
            // As `-ln(u)` is at least `1 - u`, this one cannot win, however the
            // logarithm is rounded. It spares nearly all of the logarithms.
            if (1.0 - fraction) * best > weight * (1.0 + 1e-9) {
                continue;
            }
            let bid = weight * (1.0 / -fraction.ln());
            if bid > best {
                (best, winner) = (bid, bidder.server);
            }
        }
        winner
    }

    pub(super) fn shares(&self, add: &mut impl FnMut(u32, f64)) {
        let total: f64 = self.bidders.iter().map(|(_, weight)| weight).sum();
        for (place, (bidder, weight)) in self.bidders.iter().enumerate() {
            if total > 0.0 {
                add(bidder.server, weight / total);
            } else if place == 0 {
                add(bidder.server, 1.0);
            }
        }
    }
}

fn bidder(server: &Server) -> Bidder {
    Bidder {
        name: murmur64a(server.name.as_bytes(), MURMUR64A_SEED),
        server: server.listed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::distribution::selector::servers_for_tests;
    use proptest::prelude::*;

    /// Servers named as in mcrouter's unit tests.
    fn endpoints(weights: &[f64]) -> Vec<Server> {
        let names: Vec<String> = (0..weights.len()).map(|i| format!("xxx.{i}.yy")).collect();
        servers_for_tests(
            names
                .iter()
                .map(String::as_str)
                .zip(weights.iter().copied()),
        )
    }

    fn plain(servers: &[Server]) -> Rendezvous {
        Rendezvous::new(&servers.iter().collect::<Vec<_>>())
    }

    fn weighted(servers: &[Server]) -> WeightedRendezvous {
        WeightedRendezvous::new(&servers.iter().collect::<Vec<_>>())
    }

    fn counts(servers: usize, keys: u32, pick: impl Fn(&[u8]) -> u32) -> Vec<u32> {
        let mut counts = vec![0; servers];
        for key in 0..keys {
            counts[pick(format!("mykey:{key}").as_bytes()) as usize] += 1;
        }
        counts
    }

    fn every_byte() -> Vec<u8> {
        (-128..=127_i8).map(i8::cast_unsigned).collect()
    }

    #[test]
    fn keys_go_where_the_reference_says() {
        let five = plain(&servers_for_tests(
            ["s1", "s2", "s3", "s4", "s5"].map(|name| (name, 1.0)),
        ));
        let keys: [&[u8]; 5] = [b"key1", b"foo", b"bar", b"user:1000", b"sample"];
        assert_eq!(keys.map(|key| five.pick(key)), [4, 4, 2, 1, 1]);
    }

    #[test]
    fn mcrouters_own_vectors_are_met() {
        let every_byte = every_byte();
        let keys: [&[u8]; 4] = [&every_byte, b"sample", b"", b"mykey"];
        let three = plain(&endpoints(&[1.0; 3]));
        assert_eq!(keys.map(|key| three.pick(key)), [1, 1, 1, 1]);
        let many = plain(&endpoints(&[1.0; 343]));
        assert_eq!(keys.map(|key| many.pick(key)), [183, 45, 291, 132]);
        assert_eq!(counts(3, 1_000, |key| three.pick(key)), [337, 353, 310]);
        let ten = plain(&endpoints(&[1.0; 10]));
        let expected = [947, 1026, 1028, 981, 1016, 970, 1013, 939, 1023, 1057];
        assert_eq!(counts(10, 10_000, |key| ten.pick(key)), expected);
    }

    #[test]
    fn mcrouters_own_weighted_vectors_are_met() {
        let every_byte = every_byte();
        let keys: [&[u8]; 4] = [&every_byte, b"sample", b"", b"mykey"];
        let three = weighted(&endpoints(&[1.0; 3]));
        assert_eq!(keys.map(|key| three.pick(key)), [1, 0, 2, 1]);
        let many = weighted(&endpoints(&[1.0; 343]));
        assert_eq!(keys.map(|key| many.pick(key)), [142, 115, 279, 302]);
        let cases = [
            ([1.0, 1.0, 1.0], [3409, 3360, 3231]),
            ([1.0, 0.5, 0.1], [6292, 3118, 590]),
            ([1.0, 0.0, 0.5], [6737, 0, 3263]),
        ];
        for (weights, expected) in cases {
            let three = weighted(&endpoints(&weights));
            assert_eq!(
                counts(3, 10_000, |key| three.pick(key)),
                expected,
                "{weights:?}"
            );
        }
        let weights = [1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.5];
        let ten = weighted(&endpoints(&weights));
        let expected = [1381, 1299, 1283, 1359, 1296, 667, 669, 665, 672, 709];
        assert_eq!(counts(10, 10_000, |key| ten.pick(key)), expected);
    }

    #[test]
    fn without_any_weight_the_first_server_takes_all() {
        let none = weighted(&endpoints(&[0.0; 3]));
        assert_eq!(none.pick(b"key"), 0);
        let mut shares = [0.0; 3];
        none.shares(&mut |server, share| shares[server as usize] += share);
        assert_eq!(shares, [1.0, 0.0, 0.0]);
    }

    proptest! {
        #[test]
        fn bids_that_are_not_computed_would_not_win(
            key in prop::collection::vec(any::<u8>(), 0..64), weights in prop::collection::vec(0_u8..9, 1..60),
        ) {
            let weights: Vec<f64> = weights.into_iter().map(f64::from).collect();
            let servers = endpoints(&weights);
            let hash = key_hash(&key);
            let mixed = |server: &Server| hash_pair(bidder(server).name, hash);
            let (mut best, mut winner) = (-1.0, 0);
            let (mut best_weighted, mut winner_weighted) = (0.0, 0);
            for server in &servers {
                let bid = mixed(server) as f64;
                if bid >= best {
                    (best, winner) = (bid, server.listed);
                }
                let fraction = (mixed(server) & ((1 << 53) - 1)) as f64 / (1_u64 << 53) as f64;
                let bid = server.weight * (1.0 / -fraction.ln());
                if bid > best_weighted {
                    (best_weighted, winner_weighted) = (bid, server.listed);
                }
            }
            prop_assert_eq!(plain(&servers).pick(&key), winner);
            prop_assert_eq!(weighted(&servers).pick(&key), winner_weighted);
        }

        #[test]
        fn a_server_that_goes_takes_only_its_own_keys(
            key in prop::collection::vec(any::<u8>(), 0..64), gone in 0_usize..10, weights: [u8; 10],
        ) {
            let servers = endpoints(&weights.map(|weight| f64::from(weight) + 1.0));
            let rest: Vec<&Server> = servers.iter().enumerate()
                .filter_map(|(place, server)| (place != gone).then_some(server))
                .collect();
            let (before, after) = (plain(&servers).pick(&key), Rendezvous::new(&rest).pick(&key));
            prop_assert!(after == before || before as usize == gone);
            let after = WeightedRendezvous::new(&rest).pick(&key);
            let before = weighted(&servers).pick(&key);
            prop_assert!(after == before || before as usize == gone);
        }
    }
}
