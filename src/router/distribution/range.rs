//! Ranges of keys: each server owns the keys from its start up to the next.
//!
//! Keys are compared byte by byte, as unsigned numbers, a key before its own
//! continuations: `a` < `a0` < `b`. The range of a server that is not live goes
//! to the one before it, so that no key of the others moves.

use super::selector::Server;

/// The ranges, ascending by their start.
#[derive(Debug)]
pub(in crate::router) struct Ranges {
    /// The first key of each range but the first, which starts at the empty key.
    starts: Box<[Box<[u8]>]>,
    /// The listed place of the server of each range.
    servers: Box<[u32]>,
}

impl Ranges {
    /// The ranges of the live servers. The first of them also owns the keys
    /// before its start, if the server that owned those is not live.
    pub(super) fn new(live: &[&Server]) -> Ranges {
        let mut sorted = live.to_vec();
        sorted.sort_by(|one, other| one.range_start.cmp(&other.range_start));
        Ranges {
            starts: sorted
                .iter()
                .skip(1)
                .map(|server| server.range_start.as_slice().into())
                .collect(),
            servers: super::selector::listed(sorted),
        }
    }

    /// The server of `part`, the part of a key that counts.
    #[inline]
    pub(super) fn pick(&self, part: &[u8]) -> u32 {
        let number = self.starts.partition_point(|start| start.as_ref() <= part);
        self.servers.get(number).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::distribution::selector::servers_for_tests;

    fn servers(starts: &[&str]) -> Vec<Server> {
        let mut servers = servers_for_tests(starts.iter().map(|_| ("", 1.0)));
        for (server, start) in servers.iter_mut().zip(starts) {
            server.range_start = start.as_bytes().to_vec();
        }
        servers
    }

    #[test]
    fn a_start_belongs_to_its_own_range() {
        let servers = servers(&["m", "", "t"]);
        let ranges = Ranges::new(&servers.iter().collect::<Vec<_>>());
        let keys: [&[u8]; 8] = [b"", b"a", b"lzz", b"m", b"m0", b"szz", b"t", b"\xff"];
        assert_eq!(keys.map(|key| ranges.pick(key)), [1, 1, 1, 0, 0, 0, 2, 2]);
    }

    #[test]
    fn the_range_of_a_dead_server_goes_to_the_one_before() {
        let servers = servers(&["m", "", "t"]);
        let without_first = Ranges::new(&[&servers[1], &servers[2]]);
        assert_eq!(
            [&b"a"[..], b"m", b"t"].map(|key| without_first.pick(key)),
            [1, 1, 2]
        );
        let without_lowest = Ranges::new(&[&servers[0], &servers[2]]);
        assert_eq!(
            [&b"a"[..], b"m", b"t"].map(|key| without_lowest.pick(key)),
            [0, 0, 2]
        );
    }
}
