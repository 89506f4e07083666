//! From the hash of a key to one of the servers.
//!
//! Each file holds one rule. [`Selector`] joins them: a rule that is built for
//! the servers of one pool, of which some may not be live.

mod detour;
mod furc;
mod jump;
mod ketama;
mod modula;
mod random;
mod range;
mod rendezvous;
mod selector;
mod weighted_furc;

use super::hash::Hash;
use super::settings::ServerOrder;

pub(super) use ketama::is_truncated;
pub(super) use selector::{Hasher, Selector, Server};

/// The rule that gives each key its server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Distribution {
    /// `ketama`: a ring of points made by MD5 of the servers' names. twemproxy's
    /// `ketama` and libmemcached's `KETAMA_WEIGHTED`. The default.
    #[default]
    Ketama,
    /// `modula`: the hash modulo the sum of all weights. twemproxy's.
    Modula,
    /// `modula_unweighted`: the hash modulo the number of servers. libmemcached's
    /// `MODULA`, and mcrouter's `Crc32` with the hash `crc32_mcrouter`.
    ModulaUnweighted,
    /// `random`: any server, another one each time. twemproxy's.
    Random,
    /// `jump`: jump consistent hash over the listed servers. The default of
    /// memcached's own proxy.
    Jump,
    /// `furc`: a walk over bits made from the key. mcrouter's `Ch3`, its default.
    Furc,
    /// `weighted_furc`: furc that turns keys away from servers of a weight below
    /// 1. mcrouter's `WeightedCh3`.
    WeightedFurc,
    /// `rendezvous`: the server whose name and the key give the highest score.
    /// mcrouter's `Rendezvous`, the servers' names being its `tags`.
    Rendezvous,
    /// `weighted_rendezvous`: the same, the score counting by weight. mcrouter's
    /// `WeightedRendezvous`; with equal weights it does not place as
    /// `rendezvous` does.
    WeightedRendezvous,
    /// `range`: each server owns the keys from its `range_start` inclusive up to
    /// the next server's, compared byte by byte.
    Range,
}

impl Distribution {
    /// Every distribution.
    pub const ALL: [Distribution; 10] = [
        Distribution::Ketama,
        Distribution::Modula,
        Distribution::ModulaUnweighted,
        Distribution::Random,
        Distribution::Jump,
        Distribution::Furc,
        Distribution::WeightedFurc,
        Distribution::Rendezvous,
        Distribution::WeightedRendezvous,
        Distribution::Range,
    ];

    /// The distribution of that name, as the configuration writes it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Distribution> {
        Distribution::ALL
            .into_iter()
            .find(|distribution| distribution.name() == name)
    }

    /// The name of this distribution in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Distribution::Ketama => "ketama",
            Distribution::Modula => "modula",
            Distribution::ModulaUnweighted => "modula_unweighted",
            Distribution::Random => "random",
            Distribution::Jump => "jump",
            Distribution::Furc => "furc",
            Distribution::WeightedFurc => "weighted_furc",
            Distribution::Rendezvous => "rendezvous",
            Distribution::WeightedRendezvous => "weighted_rendezvous",
            Distribution::Range => "range",
        }
    }

    /// The hash that keys go through unless the settings name another: the
    /// default of the peer whose rule it is. `None` where keys are not hashed.
    #[must_use]
    pub fn natural_hash(self) -> Option<Hash> {
        match self {
            Distribution::Ketama | Distribution::Modula => Some(Hash::Fnv1a64),
            Distribution::ModulaUnweighted => Some(Hash::OneAtATime),
            Distribution::Jump => Some(Hash::Xxh3_64),
            Distribution::Furc
            | Distribution::WeightedFurc
            | Distribution::Rendezvous
            | Distribution::WeightedRendezvous => Some(Hash::Murmur64a),
            Distribution::Random | Distribution::Range => None,
        }
    }

    /// Whether the settings may name another hash than the natural one. mcrouter's
    /// rules are defined together with their hash, so theirs is fixed.
    #[must_use]
    pub fn takes_any_hash(self) -> bool {
        match self {
            Distribution::Ketama
            | Distribution::Modula
            | Distribution::ModulaUnweighted
            | Distribution::Jump => true,
            Distribution::Random
            | Distribution::Furc
            | Distribution::WeightedFurc
            | Distribution::Rendezvous
            | Distribution::WeightedRendezvous
            | Distribution::Range => false,
        }
    }

    /// The order in which servers are counted unless the settings say otherwise:
    /// that of the peer whose rule it is.
    #[must_use]
    pub fn natural_order(self) -> ServerOrder {
        match self {
            Distribution::Ketama | Distribution::Modula | Distribution::Random => {
                ServerOrder::ByName
            }
            _ => ServerOrder::Listed,
        }
    }

    /// The most servers there may be.
    ///
    /// mcrouter's furc is defined up to 2^23, and the others are held to the
    /// same; a ketama ring has 160 points for each and is held to 2^16, which
    /// makes ten million points.
    #[must_use]
    pub fn servers_max(self) -> usize {
        match self {
            Distribution::Ketama => 1 << 16,
            _ => 1 << 23,
        }
    }

    /// Whether the server of a key depends on how the servers are counted.
    pub(super) fn counts_servers(self) -> bool {
        match self {
            Distribution::Modula
            | Distribution::ModulaUnweighted
            | Distribution::Jump
            | Distribution::Furc
            | Distribution::WeightedFurc => true,
            Distribution::Ketama
            | Distribution::Random
            | Distribution::Rendezvous
            | Distribution::WeightedRendezvous
            | Distribution::Range => false,
        }
    }

    /// Whether the servers' names take part, so that they must be as a peer
    /// writes them.
    pub(super) fn hashes_names(self) -> bool {
        match self {
            Distribution::Ketama
            | Distribution::Modula
            | Distribution::Rendezvous
            | Distribution::WeightedRendezvous => true,
            Distribution::ModulaUnweighted
            | Distribution::Random
            | Distribution::Jump
            | Distribution::Furc
            | Distribution::WeightedFurc
            | Distribution::Range => false,
        }
    }

    /// The weights that this distribution takes.
    pub(super) fn weights(self) -> Weights {
        match self {
            Distribution::Ketama | Distribution::Modula => Weights::Whole,
            Distribution::WeightedFurc => Weights::UpToOne,
            Distribution::WeightedRendezvous => Weights::Any,
            Distribution::ModulaUnweighted
            | Distribution::Random
            | Distribution::Jump
            | Distribution::Furc
            | Distribution::Rendezvous
            | Distribution::Range => Weights::Ignored,
        }
    }
}

impl std::fmt::Display for Distribution {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// The weights that a distribution takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weights {
    /// Whole numbers from 1 that fit 32 bits, as twemproxy's.
    Whole,
    /// From 0 to 1.
    UpToOne,
    /// From 0 upwards.
    Any,
    /// None: all servers are equal.
    Ignored,
}

impl Weights {
    /// Whether `weight` is one of these.
    pub(super) fn admit(self, weight: f64) -> bool {
        match self {
            Weights::Whole => whole(weight) >= 1 && f64::from(whole(weight)) == weight,
            Weights::UpToOne => (0.0..=1.0).contains(&weight),
            Weights::Any => weight >= 0.0 && weight.is_finite(),
            Weights::Ignored => true,
        }
    }

    /// These weights in words.
    pub(super) fn describe(self) -> &'static str {
        match self {
            Weights::Whole => "whole numbers from 1",
            Weights::UpToOne => "0 to 1",
            Weights::Any | Weights::Ignored => "numbers from 0",
        }
    }
}

/// A weight as the whole number it is checked to be.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "saturates, and a weight that is not a whole number is refused at load"
)]
pub(super) fn whole(weight: f64) -> u32 {
    weight as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_their_distribution() {
        for distribution in Distribution::ALL {
            assert_eq!(
                Distribution::from_name(distribution.name()),
                Some(distribution)
            );
        }
        assert_eq!(Distribution::from_name("Ketama"), None);
    }

    #[test]
    fn weights_are_admitted_as_the_peers_admit_them() {
        let cases = [
            (Weights::Whole, [true, true, false, false, false]),
            (Weights::UpToOne, [true, false, true, true, false]),
            (Weights::Any, [true, true, true, true, false]),
        ];
        for (weights, expected) in cases {
            assert_eq!(
                [1.0, 7.0, 0.5, 0.0, -1.0].map(|w| weights.admit(w)),
                expected
            );
            assert!(!weights.admit(f64::NAN) && !weights.admit(f64::INFINITY));
        }
        assert!(Weights::Whole.admit(f64::from(u32::MAX)));
        assert!(!Weights::Whole.admit(f64::from(u32::MAX) + 1.0));
    }
}
