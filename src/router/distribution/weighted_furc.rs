//! mcrouter's `WeightedCh3`: furc, whose choice a server of weight below 1 turns
//! down in proportion, upon which the key draws again under another name.
//!
//! Lowering a weight moves keys of that server only.
//!
//! Source: mcrouter `mcrouter/lib/WeightedCh3HashFunc.cpp`.

use super::detour::Detour;
use super::furc::furc;
use super::selector::{Server, is_alive, listed};
use crate::router::hash::{MURMUR64A_SEED, murmur64a, spooky32};

/// Draws after which the last choice stands, whatever its weight.
const DRAWS_MAX: usize = 32;
/// The seed of the hash that decides whether a server takes the key.
const ACCEPT_SEED: u32 = 0xface_2014;
/// Keys of up to this many bytes are drawn again without allocating; the
/// protocol has none longer than 250.
const STACK_KEY_BYTES_MAX: usize = 256;
/// The longest suffix: a number below [`DRAWS_MAX`].
const SUFFIX_BYTES_MAX: usize = 2;

/// The servers in the order they are counted.
#[derive(Debug)]
pub(in crate::router) struct WeightedFurc {
    /// The listed places of all servers, live or not.
    servers: Box<[u32]>,
    /// By number, the hash below which a server takes a key: its weight scaled
    /// to 32 bits, and 0 for one that is not live.
    limits: Box<[u32]>,
    /// Which servers are live, if not all.
    detour: Option<Detour>,
}

impl WeightedFurc {
    pub(super) fn new(servers: &[Server], alive: &[bool]) -> WeightedFurc {
        WeightedFurc {
            servers: listed(servers),
            limits: servers
                .iter()
                .map(|server| {
                    if is_alive(server, alive) {
                        limit(server.weight)
                    } else {
                        0
                    }
                })
                .collect(),
            detour: Detour::new(servers, alive),
        }
    }

    /// The server of `part`, the hashed part of a key.
    #[inline]
    pub(super) fn pick(&self, part: &[u8]) -> u32 {
        let (number, accepted) = self.draw(part);
        let number = if accepted {
            number
        } else {
            self.draw_again(part, number)
        };
        self.servers.get(number as usize).copied().unwrap_or(0)
    }

    /// The number that `key` draws, and whether that server takes it.
    #[inline]
    fn draw(&self, key: &[u8]) -> (u32, bool) {
        // At most 2^23 servers.
        let count = u32::try_from(self.limits.len()).unwrap_or(u32::MAX);
        let number = furc(murmur64a(key, MURMUR64A_SEED), count);
        let limit = self.limits.get(number as usize).copied().unwrap_or(0);
        (number, spooky32(key, ACCEPT_SEED) < limit)
    }

    /// The number of a key that its first server, `first`, turned down.
    #[inline(never)]
    fn draw_again(&self, part: &[u8], first: u32) -> u32 {
        let room = part.len() + SUFFIX_BYTES_MAX;
        let mut stack = [0; STACK_KEY_BYTES_MAX + SUFFIX_BYTES_MAX];
        let mut heap = Vec::new();
        let key = match stack.get_mut(..room) {
            Some(key) => key,
            None => {
                heap.resize(room, 0);
                heap.as_mut_slice()
            }
        };
        for (place, byte) in key.iter_mut().zip(part) {
            *place = *byte;
        }
        let mut number = first;
        for again in 0..DRAWS_MAX - 1 {
            let length = part.len() + suffix(again, key.get_mut(part.len()..));
            let drawn = self.draw(key.get(..length).unwrap_or(part));
            number = drawn.0;
            if drawn.1 {
                return number;
            }
        }
        match &self.detour {
            // mcrouter lets the last choice stand, but knows no dead servers.
            Some(detour) if !detour.is_alive(number) => detour.any(u64::from(number)),
            _ => number,
        }
    }

    /// Each draw is taken to be independent of the others.
    pub(super) fn shares(&self, add: &mut impl FnMut(u32, f64)) {
        let count = self.limits.len() as f64;
        let accepts = |limit: &u32| f64::from(*limit) / f64::from(u32::MAX);
        let turned_down = 1.0 - self.limits.iter().map(accepts).sum::<f64>() / count;
        // How many draws a key makes on average, and how likely it makes the last.
        let (mut draws, mut last) = (0.0, 1.0);
        for _ in 1..DRAWS_MAX {
            draws += last;
            last *= turned_down;
        }
        draws += last;

        let live = self
            .detour
            .as_ref()
            .map_or(count, |detour| detour.live().len() as f64);
        let from_dead = (count - live) / count * last / live;
        for (number, (server, limit)) in (0..).zip(self.servers.iter().zip(&self.limits)) {
            if self
                .detour
                .as_ref()
                .is_none_or(|detour| detour.is_alive(number))
            {
                let accepts = accepts(limit);
                let own = accepts / count * draws + (1.0 - accepts) / count * last;
                add(*server, own + from_dead);
            }
        }
    }
}

/// A weight from 0 to 1 as the hash below which its server takes a key.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "cut as in the original; a weight is checked to be 0 to 1"
)]
fn limit(weight: f64) -> u32 {
    (weight * f64::from(u32::MAX)) as u32
}

/// Writes what a key is followed by when it draws again, the first time being 0:
/// the decimal digits, the last one first. Returns how many there are.
fn suffix(again: usize, place: Option<&mut [u8]>) -> usize {
    let digits = [again % 10, again / 10].map(|digit| b'0' + u8::try_from(digit).unwrap_or(0));
    let length = if again < 10 { 1 } else { SUFFIX_BYTES_MAX };
    for (place, digit) in place.into_iter().flatten().zip(digits) {
        *place = digit;
    }
    length
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::distribution::furc::Furc;
    use crate::router::distribution::selector::servers_for_tests;
    use proptest::prelude::*;

    fn servers(weights: &[f64]) -> Vec<Server> {
        servers_for_tests(weights.iter().map(|weight| ("", *weight)))
    }

    fn weighted(weights: &[f64]) -> WeightedFurc {
        WeightedFurc::new(&servers(weights), &vec![true; weights.len()])
    }

    /// How often each server is picked for the decimal numbers below `keys`.
    fn counts(weights: &[f64], keys: u32) -> Vec<u32> {
        let furc = weighted(weights);
        let mut counts = vec![0; weights.len()];
        for key in 0..keys {
            counts[furc.pick(key.to_string().as_bytes()) as usize] += 1;
        }
        counts
    }

    /// The checksum that mcrouter's unit tests take over many picks.
    fn checksum(weights: &[f64], keys: impl Iterator<Item = String>) -> u32 {
        let furc = weighted(weights);
        keys.fold(0, |sum: u32, key| {
            sum.wrapping_mul(31).wrapping_add(furc.pick(key.as_bytes()))
        })
    }

    #[test]
    fn mcrouters_own_vectors_are_met() {
        let full = weighted(&[1.0; 100]);
        assert_eq!((full.pick(b"sample"), full.pick(b"")), (97, 72));
        let none = weighted(&[0.0; 100]);
        assert_eq!((none.pick(b"sample"), none.pick(b"")), (59, 45));
        assert_eq!(counts(&[1.0, 1.0, 0.7], 1_000), [341, 371, 288]);
        let mixed = [
            0.429, 0.541, 0.117, 0.998, 0.283, 0.065, 0.109, 0.042, 0.676, 0.943,
        ];
        let expected = [1016, 1252, 288, 2354, 661, 195, 247, 122, 1668, 2197];
        assert_eq!(counts(&mixed, 10_000), expected);
    }

    #[test]
    fn mcrouters_checksums_over_many_keys_are_met() {
        let short = || (0..10_000).map(|key| format!("k{key}"));
        let half = [
            (2, 2_395_690_262),
            (100, 2_951_198_297),
            (10_000, 3_378_951_161),
        ];
        for (count, expected) in half {
            assert_eq!(
                checksum(&vec![0.5; count], short()),
                expected,
                "{count} at a half"
            );
        }
        let zero = [
            (2, 3_431_444_300),
            (100, 2_604_325_093),
            (1_000, 337_394_182),
        ];
        for (count, expected) in zero {
            assert_eq!(
                checksum(&vec![0.0; count], short()),
                expected,
                "{count} at zero"
            );
        }
        let mixed = (0..10_000).map(|key| format!("d{key}"));
        assert_eq!(checksum(&[1.0, 0.5, 0.0, 0.75, 1.0], mixed), 2_309_057_571);
    }

    #[test]
    fn mcrouters_checksums_over_long_keys_are_met() {
        let base: String = ('A'..='Z').cycle().take(128).collect();
        let long = || (0..10_000).map(|key| format!("{base}{key}"));
        for (count, expected) in [(2, 3_784_301_429), (1_000, 954_106_693)] {
            assert_eq!(
                checksum(&vec![0.5; count], long()),
                expected,
                "{count} at a half"
            );
        }
        for (count, expected) in [(2, 2_171_781_178), (100, 532_711_027)] {
            assert_eq!(
                checksum(&vec![0.0; count], long()),
                expected,
                "{count} at zero"
            );
        }
    }

    #[test]
    fn a_suffix_is_the_number_with_its_digits_reversed() {
        let written = |again| {
            let mut place = [b'-'; SUFFIX_BYTES_MAX];
            let length = suffix(again, Some(&mut place));
            place[..length].to_vec()
        };
        assert_eq!([0, 9, 10, 23].map(written), [&b"0"[..], b"9", b"01", b"32"]);
    }

    #[test]
    fn shares_are_those_that_keys_have() {
        let weights = [1.0, 0.5, 0.0, 0.25];
        for alive in [[true; 4], [true, false, true, true]] {
            let furc = WeightedFurc::new(&servers(&weights), &alive);
            let mut shares = [0.0; 4];
            furc.shares(&mut |server, share| shares[server as usize] += share);
            let mut counts = [0.0; 4];
            for key in 0..100_000 {
                counts[furc.pick(key.to_string().as_bytes()) as usize] += 1e-5;
            }
            assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-9);
            for (share, count) in shares.iter().zip(counts) {
                assert!((share - count).abs() < 0.01, "{shares:?} and {counts:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn full_weights_are_furc(key in prop::collection::vec(any::<u8>(), 0..300), count in 1_usize..50) {
            let servers = servers(&vec![1.0; count]);
            let alive = vec![true; count];
            let plain = Furc::new(&servers, &alive);
            prop_assert_eq!(WeightedFurc::new(&servers, &alive).pick(&key), plain.pick(&key));
        }

        #[test]
        fn lowering_a_weight_moves_keys_of_that_server_only(
            key in prop::collection::vec(any::<u8>(), 0..300), lowered in 0_usize..10,
        ) {
            let mut weights = [1.0; 10];
            let before = weighted(&weights).pick(&key);
            weights[lowered] = 0.3;
            let after = weighted(&weights).pick(&key);
            prop_assert!(after == before || before as usize == lowered);
        }

        #[test]
        fn a_dead_server_gets_nothing(key: [u8; 8], alive: [bool; 5]) {
            prop_assume!(alive.contains(&true));
            let furc = WeightedFurc::new(&servers(&[1.0, 0.5, 0.0, 0.1, 1.0]), &alive);
            prop_assert!(alive[furc.pick(&key) as usize]);
        }
    }
}
