//! Why a pool cannot be placed as it is configured.

use super::distribution::Distribution;
use super::hash::Hash;
use super::rule::HASH_STOP_BYTES_MAX;

/// A configuration that cannot be what the operator meant.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// The list of servers is empty.
    #[error("no servers")]
    NoServers,
    /// More servers than the distribution can count.
    #[error("{count} servers, but distribution {distribution} takes at most {max}")]
    TooManyServers {
        /// The number of servers listed.
        count: usize,
        /// The distribution.
        distribution: Distribution,
        /// See [`Distribution::servers_max`].
        max: usize,
    },
    /// A server without anything to name it by.
    #[error("the server at place {place} has neither a name nor a host")]
    NameEmpty {
        /// The server's place in the list, the first being 0.
        place: usize,
    },
    /// Two servers of one name.
    #[error("two servers are named '{name}', at places {first} and {second}")]
    NameDuplicate {
        /// The name, explicit or derived from the address.
        name: String,
        /// The place in the list of the one, the first being 0.
        first: usize,
        /// The place of the other.
        second: usize,
    },
    /// A weight that the distribution cannot take.
    #[error("server '{server}' has weight {weight}, but distribution {distribution} takes {takes}")]
    Weight {
        /// The server's name.
        server: String,
        /// Its weight.
        weight: f64,
        /// The distribution.
        distribution: Distribution,
        /// The weights that the distribution takes, in words.
        takes: &'static str,
    },
    /// Weights that overflow the 32 bits in which twemproxy adds them up.
    #[error("the weights add up to {sum}, more than {}", u32::MAX)]
    WeightSum {
        /// The sum of all weights.
        sum: f64,
    },
    /// A hash that the distribution cannot work with.
    #[error("distribution {distribution} has its own hash, {own}, and takes no {hash}")]
    HashNotApplicable {
        /// The distribution.
        distribution: Distribution,
        /// The hash that was asked for.
        hash: Hash,
        /// The only hash that the distribution takes.
        own: Hash,
    },
    /// A seed for a hash that takes none.
    #[error("a seed needs hash {}, which this pool does not use", Hash::Xxh3_64)]
    SeedNotApplicable,
    /// A tag that is not two characters of one byte each.
    #[error("hash tag '{tag}' is not two characters of one byte each")]
    HashTag {
        /// The tag as it was given.
        tag: String,
    },
    /// A marker of no bytes or too many.
    #[error("hash stop of {length} bytes, but 1 to {HASH_STOP_BYTES_MAX} are allowed")]
    HashStop {
        /// The length of the marker in bytes.
        length: usize,
    },
    /// Both a tag and a stop.
    #[error("a hash tag and a hash stop exclude each other")]
    TagAndStop,
    /// A range start under another distribution than range.
    #[error("server '{server}' has a range start, which distribution {distribution} does not know")]
    RangeNotApplicable {
        /// The server's name.
        server: String,
        /// The distribution.
        distribution: Distribution,
    },
    /// Keys that no server owns.
    #[error(
        "no server owns the keys before '{}': the first range needs no start",
        .first.escape_ascii()
    )]
    RangeGap {
        /// The lowest start there is.
        first: Vec<u8>,
    },
    /// Two ranges that start at the same key.
    #[error("the ranges of '{first}' and '{second}' start at the same key, '{}'", .start.escape_ascii())]
    RangeDuplicate {
        /// The name of the one server.
        first: String,
        /// The name of the other.
        second: String,
        /// The start they share.
        start: Vec<u8>,
    },
    /// A list of live servers that is not as long as the list of servers.
    #[error("{got} servers said to be live or not, but there are {expected}")]
    AliveLength {
        /// The length of the list given.
        got: usize,
        /// The number of servers.
        expected: usize,
    },
    /// No server is live.
    #[error("no live servers")]
    NoneAlive,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_what_is_wrong() {
        let name = || "10.0.0.1".to_owned();
        let messages = [
            (
                Error::TooManyServers {
                    count: 70_000,
                    distribution: Distribution::Ketama,
                    max: 65_536,
                },
                "70000 servers, but distribution ketama takes at most 65536",
            ),
            (
                Error::NameDuplicate {
                    name: name(),
                    first: 0,
                    second: 2,
                },
                "two servers are named '10.0.0.1', at places 0 and 2",
            ),
            (
                Error::Weight {
                    server: name(),
                    weight: 0.5,
                    distribution: Distribution::Ketama,
                    takes: "whole numbers from 1",
                },
                "server '10.0.0.1' has weight 0.5, but distribution ketama takes whole numbers from 1",
            ),
            (
                Error::WeightSum {
                    sum: 4_294_967_296.0,
                },
                "the weights add up to 4294967296, more than 4294967295",
            ),
            (
                Error::HashNotApplicable {
                    distribution: Distribution::Furc,
                    hash: Hash::Md5,
                    own: Hash::Murmur64a,
                },
                "distribution furc has its own hash, murmur64a, and takes no md5",
            ),
            (
                Error::SeedNotApplicable,
                "a seed needs hash xxh3_64, which this pool does not use",
            ),
            (
                Error::HashStop { length: 17 },
                "hash stop of 17 bytes, but 1 to 16 are allowed",
            ),
            (
                Error::RangeDuplicate {
                    first: name(),
                    second: "10.0.0.2".to_owned(),
                    start: b"m\xff".to_vec(),
                },
                "the ranges of '10.0.0.1' and '10.0.0.2' start at the same key, 'm\\xff'",
            ),
        ];
        for (error, message) in messages {
            assert_eq!(error.to_string(), message);
        }
    }
}
