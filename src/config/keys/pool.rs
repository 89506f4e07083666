//! One pool of servers.

use std::time::Duration;

use serde_json::{Value as Json, json};

use super::{MEMORY, NAME, REQUESTS_MAX, SERVER, SHARD, WAIT, WAIT_MAX};
use crate::config::form::{
    Counts, Durations, Flag, OneOf, Optional, OrWord, Parsed, Percent, Sizes,
};
use crate::config::grammar;
use crate::config::key::{Key, Preset, Scalar, Section, Slot, lens};
use crate::config::reader::{At, Report};
use crate::config::settings::{Pool, Server};
use crate::config::tree::Node;
use crate::proxy::shard::{Copies, OnMiss, ReadFrom};
use crate::proxy::{MissOnError, OnEject, ServerProtocol};
use crate::router::{Distribution, Hash, ServerOrder};

/// A pool of the map `pools`.
pub(in crate::config) static POOL: Section<Pool> = Section {
    name: "pools.NAME",
    definition: "pool",
    help: "A set of servers, which of them holds a key, and how they are treated. Names and \
           meaning follow twemproxy where there is the same thing.",
    expected: "a map with the key 'servers'",
    fresh: || Pool::named(""),
    twemproxys: &[
        ("listen", "listeners stand at the top of the file here"),
        ("server_failure_limit", "'failures' here"),
        (
            "server_retry_timeout",
            "probes find out here, see 'probe_first'",
        ),
        ("auto_eject_hosts", "'on_eject: remap' here"),
        ("client_connections", "'connections_max' of 'clients' here"),
        ("backlog", "always 1024 here"),
        ("tcpkeepalive", "always on here"),
        ("reuseport", "workers share their listeners here"),
        ("redis", "memcached only here"),
        ("redis_auth", "memcached only here"),
        ("redis_db", "memcached only here"),
    ],
    keys: &[
        Key {
            name: "servers",
            slot: &Servers,
            preset: Preset::Told("required, or `shards`"),
            help: "The servers: `host:port`, `unix:/path` or `embedded` (a cache in this \
                   process), with twemproxy's `:weight` and ` name` behind it or not, or sections.",
            bound: "",
        },
        Key {
            name: "shards",
            slot: &Shards,
            preset: Preset::Told("none"),
            help: "Instead of `servers`: shards of a primary and replicas, which hold the same \
                   keys. See docs/replication.md.",
            bound: "",
        },
        Key {
            name: "read",
            slot: &Scalar {
                lens: lens!(Pool, replication.read),
                form: OneOf {
                    all: &ReadFrom::ALL,
                    name: ReadFrom::name,
                },
            },
            preset: Preset::Fresh,
            help: "Which member of a shard is read from: the primary, the replicas in turn, those \
                   of the proxy's own `zone`, or all in turn. After an error the next is asked.",
            bound: "",
        },
        Key {
            name: "read_miss",
            slot: &Scalar {
                lens: lens!(Pool, replication.on_miss),
                form: OneOf {
                    all: &OnMiss::ALL,
                    name: OnMiss::name,
                },
            },
            preset: Preset::Fresh,
            help: "What is done when the member of a shard that was read from holds nothing: \
                   `answer` the miss, or ask the `next` member and give what it holds to those \
                   that held nothing.",
            bound: "",
        },
        Key {
            name: "repair_ttl",
            slot: &Scalar {
                lens: lens!(Pool, replication.repair_ttl),
                form: Durations {
                    zero: false,
                    min: Duration::from_secs(1),
                    max: Duration::from_secs(30 * 24 * 3600),
                },
            },
            preset: Preset::Fresh,
            help: "How long an item lives that was given to a member which held nothing, where \
                   the servers know no meta commands and so cannot tell how long it has left.",
            bound: "",
        },
        Key {
            name: "replication",
            slot: &Scalar {
                lens: lens!(Pool, replication.copies),
                form: OneOf {
                    all: &Copies::ALL,
                    name: Copies::name,
                },
            },
            preset: Preset::Fresh,
            help: "When a change of a key on a shard is answered: when the primary has answered \
                   (`async`), all members (`sync`: an error counts more than it), more than half \
                   (`majority`). `none`: only the primary is told, something else copies.",
            bound: "",
        },
        Key {
            name: "hedge",
            slot: &Scalar {
                lens: lens!(Pool, replication.hedge),
                form: OrWord {
                    word: "off",
                    form: PERCENT,
                },
            },
            preset: Preset::Fresh,
            help: "A `get` asks a second member of its shard when the first takes longer than \
                   this share of its answers took lately; the first answer counts.",
            bound: "",
        },
        Key {
            name: "hedge_budget",
            slot: &Scalar {
                lens: lens!(Pool, replication.hedge_budget),
                form: PERCENT,
            },
            preset: Preset::Fresh,
            help: "Second members that may be asked, as a share of the reads.",
            bound: "only the first member is waited for.",
        },
        Key {
            name: "distribution",
            slot: &Scalar {
                lens: lens!(Pool, placement.distribution),
                form: OneOf {
                    all: &Distribution::ALL,
                    name: Distribution::name,
                },
            },
            preset: Preset::Fresh,
            help: "From the hash of a key to a server.",
            bound: "",
        },
        Key {
            name: "hash",
            slot: &Scalar {
                lens: lens!(Pool, placement.hash),
                form: Optional(OneOf {
                    all: &Hash::ALL,
                    name: Hash::name,
                }),
            },
            preset: Preset::Told("the distribution's own"),
            help: "From a key to its hash. The distributions' own: `fnv1a_64` for ketama and \
                   modula, `one_at_a_time` for modula_unweighted, `xxh3_64` for jump, and \
                   `murmur64a`, the only one they take, for furc and rendezvous.",
            bound: "",
        },
        Key {
            name: "hash_tag",
            slot: &Scalar {
                lens: lens!(Pool, placement.hash_tag),
                form: Optional(Parsed {
                    read: |text| Ok(text.to_owned()),
                    show: String::clone,
                    expected: "two characters in quotes, such as \"{}\"",
                    brief: "two characters, as `\"{}\"`",
                    pattern: "^[\\u0001-\\u007f]{2}$",
                }),
            },
            preset: Preset::Told("none"),
            help: "Only what stands between the first of these characters and the next second one \
                   is hashed, so that keys with the same part go to the same server.",
            bound: "",
        },
        Key {
            name: "hash_stop",
            slot: &Scalar {
                lens: lens!(Pool, placement.hash_stop),
                form: Optional(Parsed {
                    read: |text| Ok(text.to_owned()),
                    show: String::clone,
                    expected: "a mark of 1 to 16 bytes in quotes, such as \"|#|\"",
                    brief: "1 to 16 bytes, as `\"\\|#\\|\"`",
                    pattern: "^.{1,16}$",
                }),
            },
            preset: Preset::Told("none"),
            help: "Only what precedes this mark is hashed. Not together with `hash_tag`.",
            bound: "",
        },
        Key {
            name: "server_order",
            slot: &Scalar {
                lens: lens!(Pool, placement.server_order),
                form: Optional(OneOf {
                    all: &ServerOrder::ALL,
                    name: ServerOrder::name,
                }),
            },
            preset: Preset::Told("the distribution's own"),
            help: "In which order servers are counted. `by_name` is twemproxy's and the default \
                   of ketama, modula and random; `listed` that of all others.",
            bound: "",
        },
        Key {
            name: "seed",
            slot: &Scalar {
                lens: lens!(Pool, placement.seed),
                form: Optional(NAME),
            },
            preset: Preset::Told("none"),
            help: "Places keys anew, independently of other pools over the same servers. For the \
                   hash `xxh3_64` only.",
            bound: "",
        },
        Key {
            name: "timeout",
            slot: &Scalar {
                lens: lens!(Pool, treatment.timeout),
                form: WAIT,
            },
            preset: Preset::Fresh,
            help: "How long a request may take, from being queued to its reply.",
            bound: "the client gets `SERVER_ERROR <server> timed out`; the connection stays, and \
                    the late reply is dropped.",
        },
        Key {
            name: "connect_timeout",
            slot: &Scalar {
                lens: lens!(Pool, treatment.connect_timeout),
                form: WAIT,
            },
            preset: Preset::Fresh,
            help: "How long a connection may take to be made, its first `version` included.",
            bound: "the server is ejected, and what waits for it fails.",
        },
        Key {
            name: "server_connections",
            slot: &Scalar {
                lens: lens!(Pool, treatment.connections),
                form: Counts { min: 1, max: 256 },
            },
            preset: Preset::Fresh,
            help: "Connections to each server, of each worker. A client always uses the same one, \
                   so that its requests arrive in the order it sends them.",
            bound: "",
        },
        Key {
            name: "preconnect",
            slot: &Scalar {
                lens: lens!(Pool, treatment.preconnect),
                form: Flag,
            },
            preset: Preset::Fresh,
            help: "Whether connections are made before the first request needs them.",
            bound: "",
        },
        Key {
            name: "in_flight_max",
            slot: &Scalar {
                lens: lens!(Pool, treatment.in_flight_max),
                form: Counts {
                    min: 1,
                    max: REQUESTS_MAX,
                },
            },
            preset: Preset::Fresh,
            help: "Requests that may wait on one connection.",
            bound: "`SERVER_ERROR <server> has too many requests waiting`.",
        },
        Key {
            name: "queue_bytes_max",
            slot: &Scalar {
                lens: lens!(Pool, treatment.queue_bytes_max),
                form: MEMORY,
            },
            preset: Preset::Fresh,
            help: "Bytes that may wait to be sent on one connection.",
            bound: "`SERVER_ERROR <server> has too many requests waiting`.",
        },
        Key {
            name: "stall_timeout",
            slot: &Scalar {
                lens: lens!(Pool, treatment.stall_timeout),
                form: WAIT,
            },
            preset: Preset::Fresh,
            help: "How old the oldest unanswered request of a connection may grow. Not less than \
                   `timeout`.",
            bound: "the connection is closed, what waits on it fails, and it is made again.",
        },
        Key {
            name: "late_max",
            slot: &Scalar {
                lens: lens!(Pool, treatment.late_max),
                form: Counts {
                    min: 0,
                    max: REQUESTS_MAX,
                },
            },
            preset: Preset::Fresh,
            help: "Late replies that a connection may still be waiting for.",
            bound: "the connection is closed, what waits on it fails, and it is made again.",
        },
        Key {
            name: "failures",
            slot: &Scalar {
                lens: lens!(Pool, treatment.failures),
                form: Counts { min: 1, max: 1000 },
            },
            preset: Preset::Fresh,
            help: "Failures in a row that a server may show. A connection that cannot be made is \
                   enough by itself, and so are ten connections lost within a second with requests under \
                   way.",
            bound: "the server is ejected: its requests fail at once or are sent elsewhere, see \
                    `on_eject`, and probes find out when it is back.",
        },
        Key {
            name: "on_eject",
            slot: &Scalar {
                lens: lens!(Pool, on_eject),
                form: OneOf {
                    all: &OnEject::ALL,
                    name: OnEject::name,
                },
            },
            preset: Preset::Fresh,
            help: "What becomes of the keys of an ejected server. `fail_fast`: their requests \
                   fail at once. `remap`: another server of the pool takes them until it is \
                   back, the owner of the next point of the ring or else one that each key \
                   chooses; no other key moves, and nothing stale is read \
                   (docs/reliability.md). Not for shards, whose replicas stand in, nor for \
                   `random`; embedded servers stand in for nobody.",
            bound: "",
        },
        Key {
            name: "retries",
            slot: &Scalar {
                lens: lens!(Pool, treatment.retries_percent),
                form: Percent,
            },
            preset: Preset::Fresh,
            help: "How many of all requests may be sent once more: retrievals that met the end \
                   of a connection which had been idle, before any byte of a reply. Also whether a \
                   refused reconnect is tried once more before the server is ejected.",
            bound: "the request fails.",
        },
        Key {
            name: "probe_first",
            slot: &Scalar {
                lens: lens!(Pool, treatment.probe.first),
                form: WAIT,
            },
            preset: Preset::Fresh,
            help: "When an ejected server is asked for the first time whether it is back; then \
                   after waits that grow by half.",
            bound: "",
        },
        Key {
            name: "probe_max",
            slot: &Scalar {
                lens: lens!(Pool, treatment.probe.max),
                form: WAIT,
            },
            preset: Preset::Fresh,
            help: "The longest time from one such question to the next, or as long as one may take \
                   if that is longer. Not less than `probe_first`.",
            bound: "waits grow no more.",
        },
        Key {
            name: "ramp",
            slot: &Scalar {
                lens: lens!(Pool, treatment.ramp),
                form: Durations {
                    zero: true,
                    min: Duration::from_millis(1),
                    max: WAIT_MAX,
                },
            },
            preset: Preset::Fresh,
            help: "How long a server that is back is trusted with 64 requests at a time on each \
                   connection, and one more for each that it answers; meanwhile one failure \
                   ejects it again. 0 means not at all.",
            bound: "requests wait until it has answered some, each within its `timeout`.",
        },
        Key {
            name: "eject_max",
            slot: &Scalar {
                lens: lens!(Pool, treatment.eject_max_percent),
                form: Percent,
            },
            preset: Preset::Fresh,
            help: "How many of the pool's servers may be ejected at a time. Where more seem to be \
                   down it may be the network, and they are asked on.",
            bound: "no further server is ejected.",
        },
        Key {
            name: "slow_after",
            slot: &Scalar {
                lens: lens!(Pool, treatment.slow_after),
                form: OrWord {
                    word: "off",
                    form: Counts { min: 2, max: 1000 },
                },
            },
            preset: Preset::Fresh,
            help: "How many times as slow as the pool's median a server may be, by the time in \
                   which nine of ten requests are answered, over 2 s; at least three servers \
                   with 50 requests each are compared, and 1 ms is always fast enough.",
            bound: "the server is ejected, and probed after `probe_max`.",
        },
        Key {
            name: "miss_on_error",
            slot: &Scalar {
                lens: lens!(Pool, miss_on_error),
                form: OneOf {
                    all: &MissOnError::ALL,
                    name: MissOnError::name,
                },
            },
            preset: Preset::Fresh,
            help: "When a `get` from a failed server is answered as a miss instead of an error. \
                   `multiget`: only if other servers answered the same `get`.",
            bound: "",
        },
        Key {
            name: "server_protocol",
            slot: &Scalar {
                lens: lens!(Pool, server_protocol),
                form: OneOf {
                    all: &ServerProtocol::ALL,
                    name: ServerProtocol::name,
                },
            },
            preset: Preset::Fresh,
            help: "How servers are asked for clients that speak the binary protocol. \
                   `as_client`: in the same, over connections of their own, made when the first \
                   such client needs them. `meta`: in meta commands, for servers that do not \
                   speak binary (docs/protocols.md has the differences).",
            bound: "",
        },
        Key {
            name: "embedded_memory",
            slot: &Scalar {
                lens: lens!(Pool, embedded_memory),
                form: Sizes {
                    min: 1 << 20,
                    max: 1 << 40,
                },
            },
            preset: Preset::Fresh,
            help: "Memory of each embedded server of the pool. Less than 2.1 MiB is taken as that.",
            bound: "the items that have not been used for longest make room.",
        },
    ],
};

/// A share from 1 to 99 per cent.
const PERCENT: Parsed<u8> = Parsed {
    read: grammar::percent,
    show: |percent| format!("{percent}%"),
    expected: "a share such as 95%, 1% to 99%",
    brief: "share, 1% to 99%",
    pattern: "^[1-9][0-9]?%$",
};

/// What one server of the list should be.
pub(super) const ONE_EXPECTED: &str =
    "a server such as 10.0.0.1:11211, 10.0.0.1:11211:1 name, unix:/path or embedded";

/// Reads one server.
pub(super) fn one_server(at: &At<'_>, report: &mut Report<'_>) -> Option<Server> {
    match at.node {
        Node::Text(text) => match grammar::server(text) {
            Ok(text) => Some(Server {
                name: text.name,
                weight: text.weight.unwrap_or(1.0),
                ..Server::at(text.place)
            }),
            Err(flaw) => {
                report.flawed(at, flaw, ONE_EXPECTED.to_owned());
                None
            }
        },
        Node::Map(_) => {
            let mut server = (SERVER.fresh)();
            SERVER.read(at, &mut server, report);
            Some(server)
        }
        _ => {
            report.wrong_kind(at, ONE_EXPECTED.to_owned());
            None
        }
    }
}

/// The list of servers.
struct Servers;

impl Slot<Pool> for Servers {
    fn read(&self, at: &At<'_>, target: &mut Pool, report: &mut Report<'_>) {
        let items = at.items().unwrap_or_default();
        if items.is_empty() {
            return report.wrong_kind(at, self.expected());
        }
        let servers = items.iter().filter_map(|item| one_server(item, report));
        target.servers = servers.collect();
    }

    fn expected(&self) -> String {
        SERVERS_EXPECTED.to_owned()
    }

    fn brief(&self) -> String {
        format!("list of servers or of `{}`", SERVER.name)
    }

    fn schema(&self) -> Json {
        let one = json!({"anyOf": [{"type": "string"}, SERVER.reference()]});
        json!({"type": "array", "minItems": 1, "items": one})
    }
}

/// What the list of servers should be.
pub(in crate::config) const SERVERS_EXPECTED: &str =
    "a list of servers such as [10.0.0.1:11211, 10.0.0.2:11211]";

/// The list of shards.
struct Shards;

impl Slot<Pool> for Shards {
    fn read(&self, at: &At<'_>, target: &mut Pool, report: &mut Report<'_>) {
        let items = at.items().unwrap_or_default();
        if items.is_empty() {
            return report.wrong_kind(at, self.expected());
        }
        for item in items {
            let mut shard = (SHARD.fresh)();
            SHARD.read(&item, &mut shard, report);
            if let Some((primary, replicas)) = shard.into_servers() {
                target.servers.push(primary);
                target.replicas.push(replicas);
            }
        }
    }

    fn expected(&self) -> String {
        "a list of shards such as [{primary: 10.0.0.1:11211, replicas: [10.0.0.2:11211]}]"
            .to_owned()
    }

    fn brief(&self) -> String {
        format!("list of `{}`", SHARD.name)
    }

    fn schema(&self) -> Json {
        json!({"type": "array", "minItems": 1, "items": SHARD.reference()})
    }
}
