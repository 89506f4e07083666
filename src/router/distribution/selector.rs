//! The rule of a pool, built for its servers.

use super::Distribution;
use super::furc::Furc;
use super::jump::Jump;
use super::ketama::Ring;
use super::modula::Modula;
use super::random::Random;
use super::range::Ranges;
use super::rendezvous::{Rendezvous, WeightedRendezvous};
use super::weighted_furc::WeightedFurc;
use crate::router::hash::Hash;

/// A server as the rules see it.
#[derive(Clone, Debug)]
pub(in crate::router) struct Server {
    /// Its place in the caller's list, which is the answer of every rule.
    pub(in crate::router) listed: u32,
    /// The name that is hashed for it.
    pub(in crate::router) name: String,
    /// Its weight, one that the distribution takes.
    pub(in crate::router) weight: f64,
    /// The first key it owns, for ranges.
    pub(in crate::router) range_start: Vec<u8>,
}

/// The function that keys go through, and its seed.
#[derive(Clone, Copy, Debug)]
pub(in crate::router) struct Hasher {
    pub(in crate::router) hash: Hash,
    pub(in crate::router) seed: u64,
}

impl Hasher {
    #[inline]
    pub(super) fn hash(self, part: &[u8]) -> u64 {
        self.hash.hash_seeded(part, self.seed)
    }
}

/// A rule built for the servers of a pool.
#[derive(Debug)]
pub(in crate::router) enum Selector {
    Ketama(Ring),
    Modula(Modula),
    Random(Random),
    Jump(Jump),
    Furc(Furc),
    WeightedFurc(WeightedFurc),
    Rendezvous(Rendezvous),
    WeightedRendezvous(WeightedRendezvous),
    Range(Ranges),
}

impl Selector {
    /// The rule of `distribution` for `servers`, which stand in the order they
    /// are counted in and are checked. `alive` says by listed place which of
    /// them are live; at least one is.
    pub(in crate::router) fn new(
        distribution: Distribution,
        servers: &[Server],
        alive: &[bool],
    ) -> Selector {
        let live: Vec<&Server> = servers
            .iter()
            .filter(|server| is_alive(server, alive))
            .collect();
        match distribution {
            Distribution::Ketama => Selector::Ketama(Ring::new(&live)),
            Distribution::Modula => Selector::Modula(Modula::weighted(&live)),
            Distribution::ModulaUnweighted => Selector::Modula(Modula::unweighted(&live)),
            Distribution::Random => Selector::Random(Random::new(&live)),
            Distribution::Jump => Selector::Jump(Jump::new(servers, alive)),
            Distribution::Furc => Selector::Furc(Furc::new(servers, alive)),
            Distribution::WeightedFurc => Selector::WeightedFurc(WeightedFurc::new(servers, alive)),
            Distribution::Rendezvous => Selector::Rendezvous(Rendezvous::new(&live)),
            Distribution::WeightedRendezvous => {
                Selector::WeightedRendezvous(WeightedRendezvous::new(&live))
            }
            Distribution::Range => Selector::Range(Ranges::new(&live)),
        }
    }

    /// The listed place of the server of `part`, the hashed part of a key.
    #[inline]
    pub(in crate::router) fn pick(&self, hasher: Hasher, part: &[u8]) -> u32 {
        match self {
            Selector::Ketama(ring) => ring.pick(hasher.hash(part)),
            Selector::Modula(modula) => modula.pick(hasher.hash(part)),
            Selector::Random(random) => random.pick(),
            Selector::Jump(jump) => jump.pick(hasher.hash(part)),
            Selector::Furc(furc) => furc.pick(part),
            Selector::WeightedFurc(furc) => furc.pick(part),
            Selector::Rendezvous(rendezvous) => rendezvous.pick(part),
            Selector::WeightedRendezvous(rendezvous) => rendezvous.pick(part),
            Selector::Range(ranges) => ranges.pick(part),
        }
    }

    /// The hash that decides about `part`; none where keys are not hashed.
    pub(in crate::router) fn hash(&self, hasher: Hasher, part: &[u8]) -> Option<u64> {
        match self {
            Selector::Random(_) | Selector::Range(_) => None,
            Selector::Rendezvous(_) | Selector::WeightedRendezvous(_) => {
                Some(super::rendezvous::key_hash(part))
            }
            _ => Some(hasher.hash(part)),
        }
    }

    /// The point of the ring that `hash` falls on; none without a ring.
    pub(in crate::router) fn point(&self, hash: u64) -> Option<u32> {
        match self {
            Selector::Ketama(ring) => ring.point(hash),
            _ => None,
        }
    }

    /// The points on the ring of each server by listed place, of which there
    /// are `count`; none without a ring.
    pub(in crate::router) fn points(&self, count: usize) -> Option<Vec<u32>> {
        match self {
            Selector::Ketama(ring) => Some(ring.points_by_server(count)),
            _ => None,
        }
    }

    /// The share of the keys of each server by listed place, of which there are
    /// `count`, if `hash` spreads keys evenly over all its numbers. None where
    /// the keys themselves decide.
    pub(in crate::router) fn shares(&self, count: usize, hash: Hash) -> Option<Vec<f64>> {
        let mut shares = vec![0.0; count];
        let mut add = |server: u32, share: f64| {
            if let Some(sum) = shares.get_mut(server as usize) {
                *sum += share;
            }
        };
        match self {
            Selector::Ketama(ring) => ring.shares(hash.max(), &mut add),
            Selector::Modula(modula) => modula.shares(hash.max(), &mut add),
            Selector::Random(random) => random.shares(&mut add),
            Selector::Jump(jump) => jump.shares(&mut add),
            Selector::Furc(furc) => furc.shares(&mut add),
            Selector::WeightedFurc(furc) => furc.shares(&mut add),
            Selector::Rendezvous(rendezvous) => rendezvous.shares(&mut add),
            Selector::WeightedRendezvous(rendezvous) => rendezvous.shares(&mut add),
            Selector::Range(_) => return None,
        }
        Some(shares)
    }
}

/// Whether `server` is live, `alive` being ordered by listed place.
pub(super) fn is_alive(server: &Server, alive: &[bool]) -> bool {
    alive.get(server.listed as usize).copied().unwrap_or(false)
}

/// The listed places of `servers`, by the number each is counted as.
pub(super) fn listed<'a>(servers: impl IntoIterator<Item = &'a Server>) -> Box<[u32]> {
    servers.into_iter().map(|server| server.listed).collect()
}

/// Servers with these weights, listed and counted in this order.
#[cfg(test)]
pub(super) fn servers_for_tests<'a>(
    named: impl IntoIterator<Item = (&'a str, f64)>,
) -> Vec<Server> {
    (0..)
        .zip(named)
        .map(|(listed, (name, weight))| Server {
            listed,
            name: name.to_owned(),
            weight,
            range_start: Vec::new(),
        })
        .collect()
}
