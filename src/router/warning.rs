//! What is odd about a pool's placement, though it can be had.

use super::distribution::Distribution;
use super::hash::Hash;

/// A configuration that works, but perhaps not as the operator thinks.
#[derive(Clone, Debug, PartialEq)]
pub enum Warning {
    /// A weight so small that its server gets no point on the ketama ring.
    ZeroPoints {
        /// The server's name.
        server: String,
        /// Its weight.
        weight: u32,
        /// The weights of all servers together.
        total: u32,
    },
    /// A hash that reaches only the beginning of the ketama ring.
    NarrowHash {
        /// The hash.
        hash: Hash,
        /// The server that takes most of the keys.
        server: String,
        /// The keys it takes, in per cent.
        percent: f64,
    },
    /// Servers are counted in another order than they are listed in.
    OrderedByName {
        /// The distribution, one that counts servers.
        distribution: Distribution,
    },
    /// Weights under a distribution that knows none.
    WeightsIgnored {
        /// The distribution.
        distribution: Distribution,
        /// How many servers have a weight other than 1.
        servers: usize,
    },
    /// No server has a weight above zero, and keys must still go somewhere.
    AllWeightsZero,
    /// A hash under a distribution that does not hash keys.
    HashIgnored {
        /// The distribution.
        distribution: Distribution,
        /// The hash that was asked for.
        hash: Hash,
    },
    /// A unix socket without a name.
    SocketUnnamed {
        /// The name it is placed by.
        name: String,
    },
    /// A name so long that points of the ketama ring lose their number.
    NameTruncated {
        /// The server's name.
        server: String,
    },
}

impl std::fmt::Display for Warning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Warning::ZeroPoints {
                server,
                weight,
                total,
            } => write!(
                f,
                "server '{server}' gets no keys: its weight, {weight} of {total}, is too small \
                 for a point on the ring",
            ),
            Warning::NarrowHash {
                hash,
                server,
                percent,
            } => write!(
                f,
                "hash {hash} reaches only the beginning of a ketama ring: {percent:.1} % of the \
                 keys go to server '{server}' (crc32a is the hash to take)",
            ),
            Warning::OrderedByName { distribution } => write!(
                f,
                "distribution {distribution} counts servers by name, shorter names first, and \
                 not as they are listed: a new name moves keys",
            ),
            Warning::WeightsIgnored {
                distribution,
                servers,
            } => write!(
                f,
                "distribution {distribution} ignores weights, and {servers} of the servers have \
                 one other than 1",
            ),
            Warning::AllWeightsZero => {
                write!(f, "all weights are 0, and keys go to servers nevertheless")
            }
            Warning::HashIgnored { distribution, hash } => {
                write!(
                    f,
                    "distribution {distribution} does not hash keys: {hash} is ignored"
                )
            }
            Warning::SocketUnnamed { name } => write!(
                f,
                "a unix socket without a name is placed as '{name}', with a colon, as twemproxy \
                 does: give it a name",
            ),
            Warning::NameTruncated { server } => write!(
                f,
                "the name '{server}' is too long for a ketama ring, which cuts it as twemproxy \
                 does: its points fall together",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_say_what_happens_and_what_to_do() {
        let narrow = Warning::NarrowHash {
            hash: Hash::Crc32,
            server: "10.0.0.1".to_owned(),
            percent: 99.96,
        };
        assert_eq!(
            narrow.to_string(),
            "hash crc32 reaches only the beginning of a ketama ring: 100.0 % of the keys go to \
             server '10.0.0.1' (crc32a is the hash to take)"
        );
        let zero = Warning::ZeroPoints {
            server: "10.0.0.1".to_owned(),
            weight: 1,
            total: 100_001,
        };
        assert_eq!(
            zero.to_string(),
            "server '10.0.0.1' gets no keys: its weight, 1 of 100001, is too small for a point on \
             the ring"
        );
        let ignored = Warning::WeightsIgnored {
            distribution: Distribution::Jump,
            servers: 2,
        };
        assert_eq!(
            ignored.to_string(),
            "distribution jump ignores weights, and 2 of the servers have one other than 1"
        );
    }
}
