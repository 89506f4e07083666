//! Who takes the keys of a server that is away.
//!
//! Only keys of that server move, and each to a server of its own choice, which
//! stays the same for as long as that one is there. Under ketama it is the owner
//! of the next point of the ring; with equal weights that is where the key goes
//! with twemproxy's `auto_eject_hosts`. Under the other distributions the servers
//! bid for the key as under rendezvous, so that the keys of one server are spread
//! over all others.

use super::Placement;
use super::distribution::Selector;
use super::hash::{MURMUR64A_SEED, hash_pair, murmur64a};

/// The seed of the hash of a key that is bid for: not that of rendezvous, under
/// which the other servers' bids for the keys of one are as good as any.
const KEY_SEED: u32 = 0x5eed_0001;

impl Placement {
    /// The place in the list of the server that takes `key` while its own is away:
    /// one of those that `is_up` names, if there are any.
    #[must_use]
    pub fn stand_in(&self, key: &[u8], is_up: impl Fn(usize) -> bool) -> Option<usize> {
        let part = self.rule.part(key);
        if let Selector::Ketama(ring) = &self.selector {
            let hash = self.hasher.hash.hash_seeded(part, self.hasher.seed);
            let server = ring.next(hash, |server| is_up(server as usize));
            return server.map(|server| server as usize);
        }
        let hash = murmur64a(part, KEY_SEED);
        let servers = self.servers.iter();
        let up = servers.filter(|server| is_up(server.listed as usize));
        let best = up.max_by_key(|server| {
            let name = murmur64a(server.name.as_bytes(), MURMUR64A_SEED);
            (hash_pair(name, hash), server.listed)
        });
        best.map(|server| server.listed as usize)
    }
}

#[cfg(test)]
mod tests {
    use crate::router::{Distribution, Member, Placement, Settings};

    const SERVERS: usize = 5;

    fn placement(distribution: Distribution) -> Placement {
        let members: Vec<_> = (0..SERVERS)
            .map(|number| {
                let mut member = Member::new(format!("10.0.0.{number}"), Some(11211));
                if distribution == Distribution::Range && number > 0 {
                    member.range_start = Some(vec![b'0' + u8::try_from(2 * number).unwrap()]);
                }
                member
            })
            .collect();
        let settings = Settings {
            distribution,
            ..Settings::default()
        };
        Placement::new(&settings, &members).unwrap().0
    }

    fn keys() -> impl Iterator<Item = String> {
        (0..5000).map(|number| format!("{}:key", number * 7919 % 10_007))
    }

    #[test]
    fn keys_of_a_server_that_is_away_are_spread_over_the_others() {
        for distribution in Distribution::ALL {
            let placement = placement(distribution);
            let mut counts = [0; SERVERS];
            for key in keys().filter(|key| placement.pick(key.as_bytes()) == 2) {
                let taker = placement.stand_in(key.as_bytes(), |server| server != 2);
                counts[taker.unwrap()] += 1;
            }
            assert_eq!(counts[2], 0);
            let all: usize = counts.iter().sum();
            let least = all / (SERVERS - 1) / 3;
            assert!(
                (0..SERVERS).all(|server| server == 2 || counts[server] > least),
                "{distribution}: {counts:?}"
            );
        }
    }

    #[test]
    fn a_key_stays_with_its_stand_in_for_as_long_as_that_is_there() {
        for distribution in Distribution::ALL {
            let placement = placement(distribution);
            for key in keys() {
                let key = key.as_bytes();
                let taker = placement.stand_in(key, |server| server != 2).unwrap();
                let also_away = (taker + 1) % SERVERS;
                if also_away != 2 {
                    let still = placement.stand_in(key, |at| at != 2 && at != also_away);
                    assert_eq!(still, Some(taker), "{distribution}");
                }
                assert_eq!(placement.stand_in(key, |at| at == 4), Some(4));
                assert_eq!(placement.stand_in(key, |_| false), None);
            }
        }
    }

    #[test]
    fn under_ketama_keys_go_where_twemproxy_sends_them() {
        let placement = placement(Distribution::Ketama);
        let alive: Vec<_> = (0..SERVERS).map(|server| server != 2).collect();
        let ejected = placement.rebuild(&alive).unwrap();
        for key in keys().filter(|key| placement.pick(key.as_bytes()) == 2) {
            let taker = placement.stand_in(key.as_bytes(), |server| server != 2);
            assert_eq!(taker, Some(ejected.pick(key.as_bytes())));
        }
    }
}
