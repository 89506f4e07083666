//! What an operator says about the placement of a pool's keys.

use super::distribution::Distribution;
use super::hash::Hash;

/// How a pool places its keys. The default is twemproxy's: ketama over
/// `fnv1a_64`, the whole key counting.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// From the hash of a key to a server. Default: [`Distribution::Ketama`].
    pub distribution: Distribution,
    /// From a key to its hash. `None` takes the distribution's own, see
    /// [`Distribution::natural_hash`].
    pub hash: Option<Hash>,
    /// Two characters of one byte each, as `{}`: only what stands between the
    /// first occurrence of the one and the next occurrence of the other is
    /// hashed. Without such a part, or if it is empty, the whole key is.
    /// Default: none.
    pub hash_tag: Option<String>,
    /// A marker of 1 to 16 bytes, as `|#|`: only what precedes its first
    /// occurrence is hashed. Default: none.
    pub hash_stop: Option<String>,
    /// In which order the servers are counted. `None` takes the distribution's
    /// own, see [`Distribution::natural_order`].
    pub server_order: Option<ServerOrder>,
    /// Seeds [`Hash::Xxh3_64`] with the XXH3 of this string, as the `seed` of a
    /// pool of memcached's proxy does, so that two pools over the same servers
    /// place their keys independently. Default: none.
    pub seed: Option<String>,
}

impl Settings {
    /// Forgets a hash and an order that the distribution would take by itself.
    pub fn forget_the_natural(&mut self) {
        let distribution = self.distribution;
        self.hash = self
            .hash
            .filter(|hash| Some(*hash) != distribution.natural_hash());
        let natural = distribution.natural_order();
        self.server_order = self.server_order.filter(|order| *order != natural);
    }
}

/// The order in which servers are counted: it decides which server a number
/// means under modula, jump and furc, and which of two equal points comes
/// first on a ketama ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerOrder {
    /// `by_name`: shorter names first, names of one length by their bytes.
    /// twemproxy's; how the servers are listed makes no difference.
    ByName,
    /// `listed`: as the caller lists them. libmemcached's, memcached's proxy's
    /// and mcrouter's.
    Listed,
}

impl ServerOrder {
    /// Every order.
    pub const ALL: [ServerOrder; 2] = [ServerOrder::ByName, ServerOrder::Listed];

    /// The order of that name, as the configuration writes it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<ServerOrder> {
        ServerOrder::ALL
            .into_iter()
            .find(|order| order.name() == name)
    }

    /// The name of this order in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ServerOrder::ByName => "by_name",
            ServerOrder::Listed => "listed",
        }
    }
}

/// A server of a pool, as far as placement cares.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// The name to place the server by, whatever its address. `None` takes
    /// twemproxy's, see [`Member::placement_name`].
    pub name: Option<String>,
    /// A host name, an IP address, or the path of a unix socket, which begins
    /// with `/`.
    pub host: String,
    /// The port; `None` for a unix socket.
    pub port: Option<u16>,
    /// How much of the keys the server takes. Ketama and modula take whole
    /// numbers from 1, weighted furc 0 to 1, weighted rendezvous any number
    /// from 0; the others ignore it. Default: 1.
    pub weight: f64,
    /// The first key of the server's range; for the range distribution only.
    /// `None` there means the empty key, before all others.
    pub range_start: Option<Vec<u8>>,
}

impl Member {
    /// A server without a name of its own, of weight 1.
    #[must_use]
    pub fn new(host: impl Into<String>, port: Option<u16>) -> Member {
        Member {
            name: None,
            host: host.into(),
            port,
            weight: 1.0,
            range_start: None,
        }
    }

    /// The name that stands for the server in placement.
    ///
    /// An explicit name as it is; else the host alone if the port is 11211,
    /// else `host:port`. A unix socket without a name is its path and a colon,
    /// an accident of twemproxy's parser which placement has to share;
    /// libmemcached says `path:0` instead.
    ///
    /// Source: twemproxy `src/nc_conf.c`, `conf_add_server`.
    #[must_use]
    pub fn placement_name(&self) -> String {
        match (&self.name, self.port) {
            (Some(name), _) => name.clone(),
            (None, Some(DEFAULT_PORT)) => self.host.clone(),
            (None, Some(port)) => format!("{}:{port}", self.host),
            (None, None) if self.is_unix_socket() => format!("{}:", self.host),
            (None, None) => self.host.clone(),
        }
    }

    pub(super) fn is_unix_socket(&self) -> bool {
        self.host.starts_with('/')
    }
}

/// The port that a name leaves out: memcached's own.
const DEFAULT_PORT: u16 = 11211;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_taken_as_it_is() {
        let mut member = Member::new("10.0.0.1", Some(11211));
        member.name = Some("cache 1:".to_owned());
        assert_eq!(member.placement_name(), "cache 1:");
    }

    #[test]
    fn without_a_name_only_port_11211_is_left_out() {
        let name = |host: &str, port| Member::new(host, port).placement_name();
        assert_eq!(name("10.0.0.1", Some(11211)), "10.0.0.1");
        assert_eq!(name("10.0.0.1", Some(11212)), "10.0.0.1:11212");
        assert_eq!(name("cache.example", Some(1)), "cache.example:1");
        assert_eq!(name("/run/mc.sock", None), "/run/mc.sock:");
        assert_eq!(name("embedded", None), "embedded");
    }

    #[test]
    fn what_the_distribution_takes_by_itself_is_forgotten() {
        let mut settings = Settings {
            hash: Some(Hash::Fnv1a64),
            server_order: Some(ServerOrder::ByName),
            ..Settings::default()
        };
        settings.forget_the_natural();
        assert_eq!(settings, Settings::default());
        settings.hash = Some(Hash::Md5);
        settings.server_order = Some(ServerOrder::Listed);
        let before = settings.clone();
        settings.forget_the_natural();
        assert_eq!(settings, before);
    }

    #[test]
    fn names_lead_back_to_their_order() {
        for order in ServerOrder::ALL {
            assert_eq!(ServerOrder::from_name(order.name()), Some(order));
        }
        assert_eq!(ServerOrder::from_name("name"), None);
    }
}
