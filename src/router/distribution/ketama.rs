//! The ketama ring as twemproxy and libmemcached build it.
//!
//! Source: twemproxy `src/hashkit/nc_ketama.c`; libmemcached
//! `src/libmemcached/hosts.cc`, `update_continuum` with `KETAMA_WEIGHTED`.

use std::io::Write as _;

use super::selector::Server;
use super::whole;
use crate::router::hash::{low32, md5_points};

/// Points that a server of average weight has.
const POINTS_PER_SERVER: f32 = 160.0;
/// Points made of one MD5 digest.
const POINTS_PER_DIGEST: u32 = 4;
/// twemproxy cuts the string it hashes for a point to this many bytes.
const POINT_NAME_BYTES_MAX: usize = 272;
/// Entries of the table of starts for each point. Rounded up to a power of two
/// this makes 2 to 4, and a search looks at one point or two. Measured on rings
/// of 640, 4 000 and 16 000 points: 3.0, 4.3 and 4.6 ns, where a binary search
/// takes 10, 12 and 18 ns and the Eytzinger layout 19, 12 and 17 ns; twice the
/// entries gain another nanosecond and cost the cache twice the room.
const STARTS_PER_POINT: usize = 2;

/// The ring: each server owns the hashes from behind the preceding point up to
/// and with its own point.
#[derive(Debug)]
pub(in crate::router) struct Ring {
    /// Sorted by value; never empty.
    points: Box<[Point]>,
    /// For each value of a hash's upper bits, the first point that is not
    /// below all such hashes: the search starts there and goes upwards.
    starts: Box<[u32]>,
    /// How far a hash is shifted to leave the upper bits.
    shift: u32,
}

#[derive(Clone, Copy, Debug)]
struct Point {
    value: u32,
    /// The listed place of its server.
    server: u32,
}

impl Ring {
    /// The ring of the live servers. The order they stand in decides between
    /// points of one value.
    pub(super) fn new(live: &[&Server]) -> Ring {
        let total = live.iter().map(|server| server.weight).sum();
        let mut points = Vec::new();
        for server in live {
            let digests = digests(whole(server.weight), whole(total), live.len());
            points.extend(values(&server.name, digests).map(|value| Point {
                value,
                server: server.listed,
            }));
        }
        // A stable sort, so that points of one value keep the servers' order.
        points.sort_by_key(|point| point.value);

        let entries = (points.len() * STARTS_PER_POINT).next_power_of_two();
        let shift = 32 - entries.trailing_zeros().clamp(1, 31);
        let starts = (0..=u32::MAX >> shift)
            .map(|upper| points.partition_point(|point| point.value < upper << shift))
            // Far from saturating: 2^16 servers make ten million points.
            .map(|start| u32::try_from(start).unwrap_or(u32::MAX))
            .collect();
        Ring {
            points: points.into(),
            starts,
            shift,
        }
    }

    /// The server of `hash`, of which the low 32 bits count.
    #[inline]
    pub(super) fn pick(&self, hash: u64) -> u32 {
        self.find(hash).map_or(0, |point| point.server)
    }

    /// The value of the point that `hash` belongs to.
    pub(super) fn point(&self, hash: u64) -> Option<u32> {
        self.find(hash).map(|point| point.value)
    }

    /// The server of the first point from `hash` on whose server `is_up`.
    pub(in crate::router) fn next(&self, hash: u64, is_up: impl Fn(u32) -> bool) -> Option<u32> {
        let (before, from) = self.points.split_at_checked(self.place(hash)?)?;
        let mut servers = from.iter().chain(before).map(|point| point.server);
        servers.find(|server| is_up(*server))
    }

    /// The first point at or above `hash`; past the last one, the first of all.
    #[inline]
    fn find(&self, hash: u64) -> Option<Point> {
        let place = self.place(hash)?;
        self.points.get(place).or(self.points.first()).copied()
    }

    /// The place of the first point at or above `hash`, or the end.
    #[inline]
    fn place(&self, hash: u64) -> Option<usize> {
        let hash = low32(hash);
        let mut place = *self.starts.get((hash >> self.shift) as usize)? as usize;
        loop {
            match self.points.get(place) {
                Some(point) if point.value < hash => place += 1,
                _ => return Some(place),
            }
        }
    }

    /// How many points each of `count` listed servers has.
    pub(super) fn points_by_server(&self, count: usize) -> Vec<u32> {
        let mut points = vec![0; count];
        for point in &self.points {
            if let Some(sum) = points.get_mut(point.server as usize) {
                *sum += 1;
            }
        }
        points
    }

    /// Adds up the lengths of the servers' arcs, as far as hashes up to `max`
    /// reach.
    pub(super) fn shares(&self, max: u64, add: &mut impl FnMut(u32, f64)) {
        let hashes = max.min(u64::from(u32::MAX)) + 1;
        let mut from = 0;
        for point in &self.points {
            let to = (u64::from(point.value) + 1).min(hashes);
            add(point.server, (to - from) as f64 / hashes as f64);
            from = to;
        }
        if let Some(first) = self.points.first() {
            add(first.server, (hashes - from) as f64 / hashes as f64);
        }
    }
}

/// The number of digests, of four points each, that a server of `weight` gets
/// among `live` servers whose weights add up to `total`.
///
/// Computed in single precision, one rounding after another, as the originals
/// do: equal weights give 40 digests, but 39 where the product is rounded to
/// just below 40, as for 25 and 47 servers.
fn digests(weight: u32, total: u32, live: usize) -> u32 {
    let part = weight as f32 / total as f32;
    let exact = part * POINTS_PER_SERVER / POINTS_PER_DIGEST as f32 * live as f32;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "C rounds the sum back to single precision too; the result is not negative and \
                  at most 40 times the number of servers"
    )]
    let digests = ((f64::from(exact) + 1e-10) as f32).floor() as u32;
    digests
}

/// The values of the points of the server called `name`: of each string
/// `name-0`, `name-1` and so on the MD5 digest, four numbers in order.
fn values(name: &str, digests: u32) -> impl Iterator<Item = u32> {
    let mut text = Vec::with_capacity(name.len() + 11);
    (0..digests).flat_map(move |number| {
        text.clear();
        text.extend_from_slice(name.as_bytes());
        // Writing to a vector does not fail.
        let _ = write!(text, "-{number}");
        text.truncate(POINT_NAME_BYTES_MAX);
        md5_points(&text)
    })
}

/// Whether points of a server called `name` lose digits of their number.
pub(in crate::router) fn is_truncated(name: &str, points: u32) -> bool {
    let last = (points / POINTS_PER_DIGEST).saturating_sub(1);
    let digits = last.checked_ilog10().map_or(1, |log| log as usize + 1);
    name.len() + 1 + digits > POINT_NAME_BYTES_MAX
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::distribution::selector::servers_for_tests;
    use crate::router::hash::Hash;
    use proptest::prelude::*;

    fn servers(named: &[(&str, u32)]) -> Vec<Server> {
        servers_for_tests(
            named
                .iter()
                .map(|(name, weight)| (*name, f64::from(*weight))),
        )
    }

    fn ring(named: &[(&str, u32)]) -> Ring {
        Ring::new(&servers(named).iter().collect::<Vec<_>>())
    }

    fn equal(count: usize) -> Vec<u32> {
        let names: Vec<String> = (0..count).map(|i| format!("server{i}")).collect();
        let named: Vec<(&str, u32)> = names.iter().map(|name| (name.as_str(), 1)).collect();
        ring(&named).points_by_server(count)
    }

    #[test]
    fn four_servers_have_the_reference_ring() {
        let ring = ring(&[
            ("server1", 1),
            ("server2", 1),
            ("server3", 1),
            ("server4", 1),
        ]);
        assert_eq!(ring.points.len(), 640);
        let (first, last) = (ring.points[0], ring.points[639]);
        assert_eq!((first.value, first.server), (9_796_559, 2));
        assert_eq!((last.value, last.server), (4_290_847_573, 3));
    }

    #[test]
    fn keys_go_where_the_reference_says() {
        let ring = ring(&[
            ("server1", 1),
            ("server2", 1),
            ("server3", 1),
            ("server4", 1),
        ]);
        let vectors = [
            ("apple", [1, 1, 4]),
            ("beat", [1, 2, 2]),
            ("carrot", [1, 2, 3]),
            ("daikon", [4, 2, 2]),
            ("eggplant", [2, 1, 2]),
            ("flower", [4, 1, 4]),
            ("green", [4, 3, 4]),
            ("hide", [3, 1, 1]),
            ("foo", [1, 2, 1]),
            ("key-1", [3, 3, 1]),
        ];
        for (key, expected) in vectors {
            let picked = [Hash::Fnv1a64, Hash::Md5, Hash::Crc32a]
                .map(|hash| ring.pick(hash.hash(key.as_bytes())) + 1);
            assert_eq!(picked, expected, "{key}");
        }
    }

    #[test]
    fn weights_give_points_in_proportion() {
        let points = |named: &[(&str, u32)]| ring(named).points_by_server(named.len());
        assert_eq!(points(&[("a", 1), ("b", 2), ("c", 5)]), [60, 120, 300]);
        assert_eq!(points(&[("a", 100_000), ("b", 1)]), [316, 0]);
    }

    #[test]
    fn rounding_takes_a_digest_from_pools_of_some_sizes() {
        // The first ten of the sizes at which single precision falls short.
        let short: Vec<usize> = (1..=110)
            .filter(|n| digests(1, u32::try_from(*n).unwrap(), *n) == 39)
            .collect();
        assert_eq!(short, [25, 47, 50, 55, 61, 71, 94, 100, 107, 109, 110]);
        let all = (1..=1000).filter(|n| digests(1, u32::try_from(*n).unwrap(), *n) == 39);
        assert_eq!(all.count(), 103);
        assert_eq!(equal(25), [156; 25]);
        assert_eq!(equal(26), [160; 26]);
    }

    #[test]
    fn a_hash_above_the_last_point_belongs_to_the_first() {
        let ring = ring(&[("server1", 1), ("server2", 1)]);
        let (first, last) = (ring.points[0], ring.points[ring.points.len() - 1]);
        assert_eq!(ring.point(u64::from(last.value)), Some(last.value));
        assert_eq!(ring.point(u64::from(last.value) + 1), Some(first.value));
        assert_eq!(ring.point(u64::from(u32::MAX)), Some(first.value));
        assert_eq!(ring.point(0), Some(first.value));
    }

    #[test]
    fn equal_points_belong_to_the_server_that_stands_first() {
        // Beyond 272 bytes a name loses its number, and all its digests are
        // one; two names of one beginning then have the same points.
        let long = "x".repeat(POINT_NAME_BYTES_MAX);
        let (one, two) = (format!("{long}1"), format!("{long}2"));
        let servers = servers(&[(&one, 1), (&two, 1)]);
        let forwards = Ring::new(&[&servers[0], &servers[1]]);
        let backwards = Ring::new(&[&servers[1], &servers[0]]);
        for hash in (0..=u64::from(u32::MAX)).step_by(1 << 24) {
            assert_eq!((forwards.pick(hash), backwards.pick(hash)), (0, 1));
        }
    }

    #[test]
    fn a_name_is_cut_where_twemproxy_cuts_it() {
        assert!(!is_truncated(&"x".repeat(269), 160));
        assert!(is_truncated(&"x".repeat(270), 160));
        assert!(!is_truncated(&"x".repeat(270), 40));
        assert!(is_truncated(&"x".repeat(271), 4));
        assert!(!is_truncated(&"x".repeat(270), 0));
    }

    #[test]
    fn shares_add_up_and_narrow_hashes_reach_one_server() {
        let ring = ring(&[
            ("server1", 1),
            ("server2", 1),
            ("server3", 1),
            ("server4", 1),
        ]);
        let shares = |max: u64| {
            let mut shares = [0.0; 4];
            ring.shares(max, &mut |server, share| shares[server as usize] += share);
            shares
        };
        let wide = shares(u64::MAX);
        assert!((wide.iter().sum::<f64>() - 1.0).abs() < 1e-9);
        assert!(
            wide.iter().all(|share| (0.20..0.30).contains(share)),
            "{wide:?}"
        );
        assert_eq!(shares(Hash::Crc32.max()), [0.0, 0.0, 1.0, 0.0]);
    }

    proptest! {
        #[test]
        fn the_table_finds_what_a_search_of_all_points_finds(
            weights in prop::collection::vec(1_u32..50, 1..40), hashes: [u32; 32],
        ) {
            let names: Vec<String> = (0..weights.len()).map(|i| format!("s{i}")).collect();
            let named: Vec<(&str, u32)> = names.iter().map(String::as_str).zip(weights).collect();
            let ring = ring(&named);
            let beside = ring.points.iter().flat_map(|p| [p.value.wrapping_sub(1), p.value, p.value.wrapping_add(1)]);
            for hash in hashes.into_iter().chain(beside) {
                let place = ring.points.partition_point(|point| point.value < hash);
                let point = ring.points.get(place).unwrap_or(&ring.points[0]);
                prop_assert_eq!(ring.point(u64::from(hash)), Some(point.value));
                prop_assert_eq!(ring.pick(u64::from(hash)), point.server);
            }
        }
    }
}
