//! What a file says, with the defaults for what it does not say.
//!
//! The defaults themselves stand where the settings are used, in
//! `proxy::Settings`, `pool::Settings` and their like; here are only those that
//! no other module has.

use std::time::Duration;

use std::path::PathBuf;

use crate::log;
use crate::net::listener::Address;
use crate::pool;
use crate::pool::server::Place;
use crate::protocol::Limits;
use crate::proxy;
use crate::proxy::{ClientProtocol, MissOnError, OnEject, ServerProtocol};
use crate::router;

/// Where clients are listened for by default: next to memcached's own port, so
/// that both fit on one host.
const LISTEN_PORT: u16 = 11311;

/// The admin listener's port by default.
const ADMIN_PORT: u16 = 11312;

/// Most clients at a time by default, over all listeners. With its server
/// connections a proxy then stays below a hard limit of 131072 descriptors.
const CONNECTIONS_MAX: usize = 65_536;

/// How long clients are given to finish by default: less than the 30 s after
/// which Kubernetes kills, and the 90 s of systemd.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// What peers may make the process hold by default: a thousand clients that do
/// not take the largest value which memcached stores by default.
const MEMORY_MAX: usize = 1 << 30;

/// Requests in flight by default, of all clients: 64 MiB of memory for them.
const IN_FLIGHT_MAX: usize = 1 << 20;

/// Clients let in a second by default: all that may be there come back within
/// seven seconds, and those who are there hardly notice.
const ACCEPT_RATE: u32 = 10_000;

/// Memory of an embedded cache by default: memcached's own `-m 64`.
const EMBEDDED_MEMORY: usize = 64 << 20;

/// What a whole file says.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Where clients are listened for.
    pub listen: Vec<Listen>,
    /// Where operators are; `None` for nowhere.
    pub admin: Option<Address>,
    /// Worker threads; `None` for as many as there are cores.
    pub workers: Option<usize>,
    /// The pool of listeners that name none.
    pub route: Option<String>,
    /// Which events are logged.
    pub log: String,
    /// How they are written.
    pub log_format: log::Format,
    /// Most bytes that all peers together may make the process hold.
    pub memory_max: usize,
    /// Most requests in flight, of all clients together.
    pub in_flight_max: usize,
    /// Whether the file is read again when it changes.
    pub watch: bool,
    /// How long clients are given to finish when the process is told to end.
    pub drain_timeout: Duration,
    /// How clients are treated.
    pub clients: Clients,
    /// The zone that the proxy is in; `None` for what the environment says.
    pub zone: Option<String>,
    /// How much is remembered of what a server has missed.
    pub missed: pool::missed::Settings,
    /// Where that is written to.
    pub missed_dir: Option<PathBuf>,
    /// The pools, in the order of the file.
    pub pools: Vec<Pool>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: vec![Listen::at(loopback(LISTEN_PORT))],
            admin: Some(loopback(ADMIN_PORT)),
            workers: None,
            route: None,
            log: "info".to_owned(),
            log_format: log::Format::default(),
            memory_max: MEMORY_MAX,
            in_flight_max: IN_FLIGHT_MAX,
            watch: true,
            drain_timeout: DRAIN_TIMEOUT,
            clients: Clients::default(),
            zone: None,
            missed: pool::missed::Settings::default(),
            missed_dir: None,
            pools: Vec::new(),
        }
    }
}

impl Settings {
    /// Whether another process may listen where this one does.
    pub fn shares_ports(&self) -> bool {
        self.listen.iter().any(|listen| listen.reuse_port)
    }
}

/// An address that only this host reaches: what listens without being told to
/// must not be open to others.
fn loopback(port: u16) -> Address {
    Address::Tcp {
        host: "127.0.0.1".to_owned(),
        port,
    }
}

/// One listener.
#[derive(Clone, Debug, PartialEq)]
pub struct Listen {
    /// Where it listens.
    pub address: Address,
    /// The permissions of its socket's file; `None` leaves them to the umask.
    pub mode: Option<u32>,
    /// What its clients speak.
    pub protocol: ClientProtocol,
    /// Whether other processes may listen on the same port.
    pub reuse_port: bool,
    /// The pool that its requests go to; `None` for the one at the top.
    pub route: Option<String>,
    /// Instead of what [`Clients`] says.
    pub value_bytes_max: Option<usize>,
    /// Instead of what [`Clients`] says.
    pub line_bytes_max: Option<usize>,
    /// Instead of what [`Clients`] says.
    pub flush_all: Option<bool>,
}

impl Listen {
    /// A listener at `address` that is like any other.
    pub fn at(address: Address) -> Self {
        Self {
            address,
            mode: None,
            protocol: ClientProtocol::default(),
            reuse_port: false,
            route: None,
            value_bytes_max: None,
            line_bytes_max: None,
            flush_all: None,
        }
    }

    /// What its clients may send.
    pub fn limits(&self, clients: &Clients) -> Limits {
        let common = clients.limits;
        Limits {
            value_bytes_max: self.value_bytes_max.unwrap_or(common.value_bytes_max),
            line_bytes_max: self.line_bytes_max.unwrap_or(common.line_bytes_max),
            ..common
        }
    }
}

/// How clients are treated.
#[derive(Clone, Debug, PartialEq)]
pub struct Clients {
    /// Most clients at a time, over all listeners.
    pub connections_max: usize,
    /// Most clients let in a second; 0 for any number.
    pub accept_rate: u32,
    /// The bounds of each.
    pub sessions: proxy::Settings,
    /// What they may send.
    pub limits: Limits,
    /// Whether they may flush all servers of their pool.
    pub flush_all: bool,
}

impl Default for Clients {
    fn default() -> Self {
        Self {
            connections_max: CONNECTIONS_MAX,
            accept_rate: ACCEPT_RATE,
            sessions: proxy::Settings::default(),
            limits: Limits::default(),
            flush_all: false,
        }
    }
}

/// A named set of servers.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Its servers, in the order of the file; of shards the primaries.
    pub servers: Vec<Server>,
    /// The replicas of each of them, if they are the primaries of shards; else
    /// empty.
    pub replicas: Vec<Vec<Server>>,
    /// How the members of shards are used.
    pub replication: proxy::shard::Settings,
    /// Which of them holds a key.
    pub placement: router::Settings,
    /// How they are treated.
    pub treatment: pool::Settings,
    /// When a failure is told as a miss.
    pub miss_on_error: MissOnError,
    /// What becomes of the keys of a server that is ejected.
    pub on_eject: OnEject,
    /// How its servers are asked for binary clients.
    pub server_protocol: ServerProtocol,
    /// Bytes of memory for each server in this process.
    pub embedded_memory: usize,
}

impl Pool {
    /// A pool without servers.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            servers: Vec::new(),
            replicas: Vec::new(),
            replication: proxy::shard::Settings::default(),
            placement: router::Settings::default(),
            treatment: pool::Settings::default(),
            miss_on_error: MissOnError::default(),
            on_eject: OnEject::default(),
            server_protocol: ServerProtocol::default(),
            embedded_memory: EMBEDDED_MEMORY,
        }
    }

    /// Its servers as placement knows them, in the order of the file.
    pub fn members(&self) -> Vec<router::Member> {
        self.servers.iter().map(Server::member).collect()
    }

    /// All its servers: those of the list, and the replicas.
    pub fn all_servers(&self) -> impl Iterator<Item = &Server> {
        self.servers.iter().chain(self.replicas.iter().flatten())
    }

    /// Names those embedded servers that have no name by their place among the
    /// embedded ones of the pool: `embedded-1`, `embedded-2`, ...
    pub(super) fn name_embedded(&mut self) {
        let replicas = self.replicas.iter_mut().flatten();
        let servers = self.servers.iter_mut().chain(replicas);
        let embedded = servers.filter(|server| server.is_embedded());
        for (number, server) in (1..).zip(embedded) {
            server
                .name
                .get_or_insert_with(|| format!("embedded-{number}"));
        }
    }
}

/// One shard of a pool, as the file says it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shard {
    /// Its primary; it is missing only while the file is read.
    pub primary: Option<Server>,
    /// Its replicas.
    pub replicas: Vec<Server>,
    /// Its name.
    pub name: Option<String>,
    /// Its share of the keys.
    pub weight: Option<f64>,
}

/// One server of a pool.
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    /// Where it is.
    pub place: Place,
    /// Its name; an embedded server always has one.
    pub name: Option<String>,
    /// Its share of the keys, against those of the others.
    pub weight: f64,
    /// The first key it holds; for the range distribution.
    pub range_start: Option<Vec<u8>>,
    /// The name of the shard that it is the primary of, by which keys are placed
    /// instead of by its own.
    pub shard: Option<String>,
    /// The zone that it is in.
    pub zone: Option<String>,
}

impl Server {
    /// A server without a name, of weight 1.
    pub fn at(place: Place) -> Self {
        Self {
            place,
            name: None,
            weight: 1.0,
            range_start: None,
            shard: None,
            zone: None,
        }
    }

    /// Whether it is in this process.
    pub fn is_embedded(&self) -> bool {
        self.place == Place::Embedded
    }

    /// What it is called in messages: its name, else its address.
    pub fn shown_name(&self) -> String {
        let name = self.name.clone();
        name.unwrap_or_else(|| self.place.to_string())
    }

    fn member(&self) -> router::Member {
        let (host, port) = match &self.place {
            Place::Remote(Address::Tcp { host, port }) => (host.clone(), Some(*port)),
            Place::Remote(Address::Unix(path)) => (path.display().to_string(), None),
            Place::Embedded => (self.place.to_string(), None),
        };
        router::Member {
            name: self.shard.clone().or_else(|| self.name.clone()),
            weight: self.weight,
            range_start: self.range_start.clone(),
            ..router::Member::new(host, port)
        }
    }
}
