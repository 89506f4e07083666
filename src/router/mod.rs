//! From a key to the server that holds it.
//!
//! Pure: bytes and settings in, an index out. Knows nothing of sockets, time
//! or the protocol.
//!
//! Placement is a contract: the same settings give the same server for a key
//! for ever and on every machine, and a rule named after a peer's is that
//! peer's bit for bit. `tests/golden` holds what the originals answered.
//!
//! Three steps make a server of a key: a rule cuts out the part that counts
//! (`rule.rs`), a [`enum@Hash`] makes a number of it, a [`Distribution`] makes a
//! server of the number. [`Placement`] joins them.

mod check;
mod distribution;
mod error;
mod hash;
mod rule;
mod settings;
mod stand_in;
mod warning;

use std::cmp::Ordering;
use std::sync::Arc;

use check::Checked;
use distribution::{Hasher, Selector, Server};
use rule::Rule;

pub use distribution::Distribution;
pub use error::Error;
pub use hash::Hash;
pub use rule::HASH_STOP_BYTES_MAX;
pub use settings::{Member, ServerOrder, Settings};
pub use warning::Warning;

/// Where the keys of one pool go. Built once, asked for every key.
pub struct Placement {
    rule: Rule,
    hasher: Hasher,
    selector: Selector,
    /// Only one server is configured: keys need no hashing. Decided by the
    /// servers there are, not by those that live, as twemproxy does.
    single: bool,
    distribution: Distribution,
    /// The servers in the order they are counted; shared with every placement
    /// rebuilt from this one.
    servers: Arc<[Server]>,
}

/// How a key came to its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Explanation<'key> {
    /// The part of the key that counts.
    pub hashed: &'key [u8],
    /// Its hash; `None` where the distribution hashes no keys, or where there
    /// is only one server.
    pub hash: Option<u64>,
    /// The point of the ring that the hash belongs to; ketama only.
    pub point: Option<u32>,
    /// The server's place in the list, the first being 0.
    pub server: usize,
}

/// What one server has of the whole.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share {
    /// The server's place in the list, the first being 0.
    pub server: usize,
    /// Its points on the ring; ketama only.
    pub points: Option<u32>,
    /// Its part of the key space in per cent, if the hash spreads keys evenly.
    /// `None` under the range distribution, where the keys themselves decide.
    pub percent: Option<f64>,
}

impl Placement {
    /// Builds the placement of keys on `members`, all of them live.
    ///
    /// The warnings say what is odd about a configuration that can be had.
    ///
    /// # Errors
    ///
    /// [`Error`] for a configuration that cannot be what the operator meant.
    pub fn new(
        settings: &Settings,
        members: &[Member],
    ) -> Result<(Placement, Vec<Warning>), Error> {
        let rule = Rule::new(settings)?;
        let Checked {
            hasher,
            servers,
            mut warnings,
        } = check::check(settings, members)?;
        let distribution = settings.distribution;
        let placement = Placement {
            rule,
            hasher,
            selector: Selector::new(distribution, &servers, &vec![true; members.len()]),
            single: servers.len() == 1,
            distribution,
            servers: servers.into(),
        };
        placement.warn_of_points(&mut warnings);
        Ok((placement, warnings))
    }

    /// The place in the list, the first being 0, of the server that holds
    /// `key`, which may be any bytes. Does not allocate for keys of up to 256
    /// bytes, more than the protocol has.
    #[inline]
    #[must_use]
    pub fn pick(&self, key: &[u8]) -> usize {
        if self.single {
            return 0;
        }
        self.selector.pick(self.hasher, self.rule.part(key)) as usize
    }

    /// How `key` comes to its server: what [`Placement::pick`] answers, and why.
    /// Under the random distribution this is one draw of many.
    #[must_use]
    pub fn explain<'key>(&self, key: &'key [u8]) -> Explanation<'key> {
        let hashed = self.rule.part(key);
        let hash = if self.single {
            None
        } else {
            self.selector.hash(self.hasher, hashed)
        };
        Explanation {
            hashed,
            hash,
            point: hash.and_then(|hash| self.selector.point(hash)),
            server: self.pick(key),
        }
    }

    /// What each server has of the whole, in the order of the list.
    #[must_use]
    pub fn shares(&self) -> Vec<Share> {
        let count = self.servers.len();
        let points = self.selector.points(count);
        let shares = self.selector.shares(count, self.hasher.hash);
        (0..count)
            .map(|server| Share {
                server,
                points: points
                    .as_ref()
                    .and_then(|points| points.get(server).copied()),
                percent: shares
                    .as_ref()
                    .and_then(|shares| shares.get(server))
                    .map(|s| s * 100.0),
            })
            .collect()
    }

    /// The placement that leaves out the servers that are not live. `alive` has
    /// one entry for each server, in the order of the list; the places that the
    /// new placement answers are those of the same list.
    ///
    /// Ketama, modula and random are built anew for the live servers, as
    /// twemproxy's `auto_eject_hosts` does. On a ketama ring of equal weights
    /// only keys of the missing servers move; with different weights, or where
    /// the number of servers comes to one at which a server has 156 points
    /// instead of 160, some others do. Under modula nearly all keys move.
    ///
    /// No peer has rules for the others. Jump, furc and rendezvous move only
    /// keys of the missing servers, spread over the live ones; a missing range
    /// goes to the live server before it.
    ///
    /// # Errors
    ///
    /// [`Error::AliveLength`] if `alive` is not as long as the list,
    /// [`Error::NoneAlive`] if no server is live.
    pub fn rebuild(&self, alive: &[bool]) -> Result<Placement, Error> {
        if alive.len() != self.servers.len() {
            return Err(Error::AliveLength {
                got: alive.len(),
                expected: self.servers.len(),
            });
        }
        if !alive.contains(&true) {
            return Err(Error::NoneAlive);
        }
        Ok(Placement {
            rule: self.rule.clone(),
            hasher: self.hasher,
            selector: Selector::new(self.distribution, &self.servers, alive),
            single: self.single,
            distribution: self.distribution,
            servers: Arc::clone(&self.servers),
        })
    }

    /// Adds the warnings that only the finished ring can give.
    fn warn_of_points(&self, warnings: &mut Vec<Warning>) {
        let Some(points) = self.selector.points(self.servers.len()) else {
            return;
        };
        let total = self.servers.iter().map(|server| server.weight).sum();
        for server in self.servers.iter() {
            let points = points.get(server.listed as usize).copied().unwrap_or(0);
            if points == 0 {
                warnings.push(Warning::ZeroPoints {
                    server: server.name.clone(),
                    weight: distribution::whole(server.weight),
                    total: distribution::whole(total),
                });
            }
            if distribution::is_truncated(&server.name, points) {
                warnings.push(Warning::NameTruncated {
                    server: server.name.clone(),
                });
            }
        }
        if self.hasher.hash.max() < u64::from(u32::MAX) && !self.single {
            warnings.extend(self.narrow_hash());
        }
    }

    /// Which server takes most of the keys, for a hash that is too narrow.
    fn narrow_hash(&self) -> Option<Warning> {
        let shares = self.selector.shares(self.servers.len(), self.hasher.hash)?;
        let share = |server: &Server| shares.get(server.listed as usize).copied();
        let most = self.servers.iter().max_by(|one, other| {
            share(one)
                .partial_cmp(&share(other))
                .unwrap_or(Ordering::Equal)
        })?;
        Some(Warning::NarrowHash {
            hash: self.hasher.hash,
            server: most.name.clone(),
            percent: share(most)? * 100.0,
        })
    }
}

impl std::fmt::Debug for Placement {
    /// Leaves out the ring, which has thousands of points.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Placement")
            .field("distribution", &self.distribution)
            .field("hasher", &self.hasher)
            .field("rule", &self.rule)
            .field("servers", &self.servers)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn members(count: usize) -> Vec<Member> {
        (0..count)
            .map(|i| Member::new(format!("10.0.0.{i}"), Some(11211)))
            .collect()
    }

    fn weighted(weights: &[f64]) -> Vec<Member> {
        let mut members = members(weights.len());
        for (member, weight) in members.iter_mut().zip(weights) {
            member.weight = *weight;
        }
        members
    }

    /// Servers of equal weight that every distribution takes.
    fn members_for(distribution: Distribution, count: usize) -> Vec<Member> {
        let mut members = members(count);
        if distribution == Distribution::Range {
            for (place, member) in members.iter_mut().enumerate() {
                let start = 255 * place / count;
                member.range_start = (place > 0).then(|| vec![u8::try_from(start).unwrap()]);
            }
        }
        members
    }

    fn under(distribution: Distribution) -> Settings {
        Settings {
            distribution,
            ..Settings::default()
        }
    }

    fn place(settings: &Settings, members: &[Member]) -> Placement {
        Placement::new(settings, members).unwrap().0
    }

    /// Keys without a pattern, which the weaker hashes would show.
    fn scattered_keys(count: u64) -> impl Iterator<Item = [u8; 8]> {
        (0..count).map(|number| Hash::Xxh3_64.hash(&number.to_le_bytes()).to_le_bytes())
    }

    /// The keys that go elsewhere in `after` than in `before`, as a fraction,
    /// not counting keys of the server `gone`.
    fn moved(before: &Placement, after: &Placement, gone: usize) -> f64 {
        let count = 20_000;
        let moved = scattered_keys(count).filter(|key| {
            let was = before.pick(key);
            was != gone && after.pick(key) != was
        });
        moved.count() as f64 / count as f64
    }

    #[test]
    fn unnamed_servers_are_placed_as_the_reference_says() {
        let members: Vec<Member> = [11211, 11212, 11213]
            .map(|port| Member::new("127.0.0.1", Some(port)))
            .into();
        let placement = place(&Settings::default(), &members);
        let port = |key: &str| 11211 + placement.pick(key.as_bytes());
        let keys = ["apple", "carrot", "eggplant", "flower", "key-1"];
        assert_eq!(keys.map(port), [11212, 11211, 11213, 11211, 11212]);
        assert_eq!(placement.selector.point(0), Some(15_946_801));
        assert_eq!(placement.selector.point(4_292_932_786), Some(4_292_932_786));
        assert_eq!(placement.selector.point(4_292_932_787), Some(15_946_801));
    }

    #[test]
    fn libmemcacheds_weighted_fixture_is_met() {
        let weights = [600.0, 300.0, 200.0, 350.0, 1000.0, 800.0, 950.0, 100.0];
        let mut members = weighted(&weights);
        for (member, last) in members.iter_mut().zip(1..) {
            member.host = format!("10.0.1.{last}");
        }
        let settings = Settings {
            hash: Some(Hash::Md5),
            server_order: Some(ServerOrder::Listed),
            ..Settings::default()
        };
        let placement = place(&settings, &members);
        let points = placement
            .shares()
            .iter()
            .filter_map(|share| share.points)
            .sum::<u32>();
        assert_eq!(points, 1264);
        let explanation = placement.explain(b"VDEAAAAA");
        assert_eq!(explanation.hash, Some(4_294_758_837));
        assert_eq!(explanation.point, Some(2_148_620));
    }

    #[test]
    fn one_server_takes_every_key_without_hashing() {
        for distribution in Distribution::ALL {
            let placement = place(&under(distribution), &members(1));
            assert_eq!(placement.pick(b"key"), 0);
            assert_eq!(placement.explain(b"key").hash, None);
            assert_eq!(
                placement.shares()[0].percent.unwrap_or(100.0),
                100.0,
                "{distribution}"
            );
        }
    }

    #[test]
    fn a_tag_keeps_keys_together() {
        let settings = Settings {
            hash_tag: Some("{}".to_owned()),
            ..Settings::default()
        };
        let placement = place(&settings, &members(25));
        let explanation = placement.explain(b"user:{42}:name");
        assert_eq!(explanation.hashed, b"42");
        assert_eq!(explanation.server, placement.pick(b"42"));
        assert_eq!(explanation.server, placement.pick(b"{42}:age"));
    }

    #[test]
    fn a_seed_places_keys_anew() {
        let seeded = |seed: Option<&str>| {
            let settings = Settings {
                seed: seed.map(str::to_owned),
                ..under(Distribution::Jump)
            };
            place(&settings, &members(10))
        };
        let moved = moved(&seeded(None), &seeded(Some("gutter")), usize::MAX);
        assert!((0.88..0.92).contains(&moved), "{moved}");
    }

    #[test]
    fn narrow_hashes_and_weights_without_points_are_warned_of() {
        let settings = Settings {
            hash: Some(Hash::Crc32),
            ..Settings::default()
        };
        let (placement, warnings) =
            Placement::new(&settings, &weighted(&[100_000.0, 1.0])).unwrap();
        assert_eq!(placement.shares()[1].points, Some(0));
        assert_eq!(
            warnings,
            [
                Warning::ZeroPoints {
                    server: "10.0.0.1".to_owned(),
                    weight: 1,
                    total: 100_001,
                },
                Warning::NarrowHash {
                    hash: Hash::Crc32,
                    server: "10.0.0.0".to_owned(),
                    percent: 100.0,
                },
            ]
        );
        let keys = (0..1000).map(|key| placement.pick(format!("key:{key}").as_bytes()));
        assert!(keys.into_iter().all(|server| server == 0));
    }

    #[test]
    fn a_name_too_long_for_the_ring_is_warned_of() {
        let mut members = members(2);
        members[0].name = Some("x".repeat(300));
        let (_, warnings) = Placement::new(&Settings::default(), &members).unwrap();
        assert!(
            matches!(&warnings[..], [Warning::NameTruncated { server }] if server.len() == 300)
        );
    }

    #[test]
    fn ejection_moves_what_it_moves_in_twemproxy() {
        // The shares of all keys that move between servers that stay.
        let eject = |members: &[Member], gone: usize| {
            let before = place(&Settings::default(), members);
            let mut alive = vec![true; members.len()];
            alive[gone] = false;
            moved(&before, &before.rebuild(&alive).unwrap(), gone)
        };
        assert_eq!(eject(&members(10), 3), 0.0);
        let weighted = eject(&weighted(&[1.0, 1.0, 2.0]), 0);
        assert!((0.03..0.08).contains(&weighted), "{weighted}");
        // At 25 servers each loses one digest of 40, and the next points get it.
        let rounded = eject(&members(26), 3);
        assert!((0.02..0.03).contains(&rounded), "{rounded}");
    }

    #[test]
    fn rebuilding_wants_one_entry_for_each_server_and_one_that_lives() {
        let placement = place(&Settings::default(), &members(3));
        let expected = Error::AliveLength {
            got: 2,
            expected: 3,
        };
        assert_eq!(placement.rebuild(&[true, true]).unwrap_err(), expected);
        assert_eq!(
            placement.rebuild(&[false; 3]).unwrap_err(),
            Error::NoneAlive
        );
        assert!(placement.rebuild(&[true; 3]).is_ok());
    }

    #[test]
    fn shares_are_those_that_keys_have() {
        for distribution in Distribution::ALL {
            let placement = place(&under(distribution), &members_for(distribution, 7));
            let placement = placement
                .rebuild(&[true, true, false, true, true, true, true])
                .unwrap();
            let mut counts = [0.0; 7];
            for key in scattered_keys(100_000) {
                counts[placement.pick(&key)] += 1e-3;
            }
            for (share, count) in placement.shares().iter().zip(counts) {
                let percent = share.percent.unwrap_or(count);
                assert!(
                    (percent - count).abs() < 1.0,
                    "{distribution}: {share:?} {count}"
                );
            }
        }
    }

    fn any_distribution() -> impl Strategy<Value = Distribution> {
        prop::sample::select(&Distribution::ALL[..])
    }

    fn any_key() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(any::<u8>(), 0..300)
    }

    proptest! {
        #[test]
        fn every_key_has_a_server(
            distribution in any_distribution(), count in 1_usize..40, key in any_key(),
        ) {
            let placement = place(&under(distribution), &members_for(distribution, count));
            prop_assert!(placement.pick(&key) < count);
        }

        #[test]
        fn every_hash_that_is_taken_gives_a_server(
            hash in prop::sample::select(&Hash::ALL[..]), distribution in any_distribution(), key in any_key(),
        ) {
            let settings = Settings { hash: Some(hash), ..under(distribution) };
            match Placement::new(&settings, &members_for(distribution, 9)) {
                Ok((placement, _)) => prop_assert!(placement.pick(&key) < 9),
                Err(error) => {
                    let refused = matches!(error, Error::HashNotApplicable { .. });
                    prop_assert!(refused && !distribution.takes_any_hash());
                }
            }
        }

        #[test]
        fn an_explanation_ends_at_the_server_that_is_picked(
            distribution in any_distribution(), key in any_key(), stop in prop::option::of("[a-c]{1,3}"),
        ) {
            prop_assume!(distribution != Distribution::Random);
            let settings = Settings { hash_stop: stop, ..under(distribution) };
            let placement = place(&settings, &members_for(distribution, 9));
            let explanation = placement.explain(&key);
            prop_assert_eq!(explanation.server, placement.pick(&key));
            prop_assert!(key.starts_with(explanation.hashed));
            prop_assert_eq!(explanation.point.is_some(), distribution == Distribution::Ketama);
        }

        #[test]
        fn by_name_the_order_of_the_list_makes_no_difference(
            distribution in any_distribution(), key in any_key(), order in Just((0..9).collect::<Vec<usize>>()).prop_shuffle(),
        ) {
            prop_assume!(distribution != Distribution::Random);
            let settings = Settings { server_order: Some(ServerOrder::ByName), ..under(distribution) };
            let listed = members_for(distribution, 9);
            let shuffled: Vec<Member> = order.iter().map(|place| listed[*place].clone()).collect();
            let server = &listed[place(&settings, &listed).pick(&key)];
            prop_assert_eq!(server, &shuffled[place(&settings, &shuffled).pick(&key)]);
        }

        #[test]
        fn a_dead_server_gets_no_key(
            distribution in any_distribution(), key in any_key(), alive: [bool; 9],
        ) {
            prop_assume!(alive.contains(&true));
            let placement = place(&under(distribution), &members_for(distribution, 9));
            prop_assert!(alive[placement.rebuild(&alive).unwrap().pick(&key)]);
        }

        #[test]
        fn only_keys_of_dead_servers_move(
            distribution in any_distribution(), key in any_key(), alive: [bool; 9],
        ) {
            let all_move = [Distribution::Modula, Distribution::ModulaUnweighted, Distribution::Random];
            prop_assume!(alive.contains(&true) && !all_move.contains(&distribution));
            let before = place(&under(distribution), &members_for(distribution, 9));
            let after = before.rebuild(&alive).unwrap();
            let server = before.pick(&key);
            prop_assert!(!alive[server] || after.pick(&key) == server);
        }

        #[test]
        fn a_ring_or_a_row_is_rebuilt_as_if_dead_servers_were_not_listed(
            weights in prop::collection::vec(1_u8..9, 2..12), key in any_key(), gone: prop::sample::Index,
        ) {
            let listed = weighted(&weights.iter().map(|weight| f64::from(*weight)).collect::<Vec<_>>());
            let gone = gone.index(listed.len());
            let alive: Vec<bool> = (0..listed.len()).map(|place| place != gone).collect();
            let mut without = listed.clone();
            without.remove(gone);
            for distribution in [Distribution::Ketama, Distribution::Modula, Distribution::ModulaUnweighted] {
                let rebuilt = place(&under(distribution), &listed).rebuild(&alive).unwrap();
                let fresh = place(&under(distribution), &without);
                prop_assert_eq!(&listed[rebuilt.pick(&key)], &without[fresh.pick(&key)]);
            }
        }
    }
}
