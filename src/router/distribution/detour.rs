//! Where keys go whose server is not live, under rules that count servers.
//!
//! To count only the live servers would move nearly every key. The peers whose
//! rules these are leave the keys of a dead server alone, so this is ours: such
//! a key draws again, over all servers, until it meets a live one. No other key
//! moves, and each comes back when its server does.

use super::selector::{Server, is_alive};
use crate::router::hash::{low32, rehash};

/// Draws after which a key takes what its last draw makes of the live servers
/// alone. With half of the servers dead, one key in four billion gets here.
const DRAWS_MAX: usize = 32;

/// The numbers of the servers that are live.
#[derive(Debug)]
pub(super) struct Detour {
    /// By number, whether the server is live.
    alive: Box<[bool]>,
    /// The numbers of the live ones.
    live: Box<[u32]>,
}

impl Detour {
    /// None if all `servers` are live: the usual case, which asks no further.
    pub(super) fn new(servers: &[Server], alive: &[bool]) -> Option<Detour> {
        let alive: Box<[bool]> = servers
            .iter()
            .map(|server| is_alive(server, alive))
            .collect();
        let live: Box<[u32]> = (0..)
            .zip(&alive)
            .filter_map(|(number, alive)| alive.then_some(number))
            .collect();
        (live.len() < alive.len()).then_some(Detour { alive, live })
    }

    /// The number of a live server for a key of hash `hash`: `number`, the one
    /// the rule gave, if that is live; else what `draw` gives for the next
    /// hashes.
    pub(super) fn around(&self, number: u32, mut hash: u64, draw: impl Fn(u64) -> u32) -> u32 {
        let mut number = number;
        for _ in 0..DRAWS_MAX {
            if self.is_alive(number) {
                return number;
            }
            hash = rehash(hash);
            number = draw(hash);
        }
        self.any(hash)
    }

    /// Whether the server of that number is live.
    pub(super) fn is_alive(&self, number: u32) -> bool {
        self.alive.get(number as usize).copied().unwrap_or(false)
    }

    /// The number of a live server, by nothing but `hash`.
    pub(super) fn any(&self, hash: u64) -> u32 {
        let place = low32(hash % (self.live.len() as u64).max(1));
        self.live.get(place as usize).copied().unwrap_or(0)
    }

    /// The numbers of the live servers.
    pub(super) fn live(&self) -> &[u32] {
        &self.live
    }
}

/// The shares of `servers`, given by number, of which `detour` says which are
/// live: all live ones have the same.
pub(super) fn even_shares(
    servers: &[u32],
    detour: Option<&Detour>,
    add: &mut impl FnMut(u32, f64),
) {
    let live = detour.map_or(servers.len(), |detour| detour.live().len());
    for (number, server) in (0..).zip(servers) {
        if detour.is_none_or(|detour| detour.is_alive(number)) {
            add(*server, 1.0 / live as f64);
        }
    }
}
