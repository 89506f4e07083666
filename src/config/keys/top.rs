//! The keys at the top of the file.

use std::time::Duration;

use serde_json::{Value as Json, json};

use super::{BYTES_MAX, CLIENTS, LISTENER, NAME, POOL, WAIT_MAX};
use crate::config::error::{Fault, Misfit};
use crate::config::form::{Counts, Durations, Flag, OneOf, Optional, OrWord, Parsed, Sizes};
use crate::config::grammar;
use crate::config::key::{Key, Nested, Preset, Scalar, Section, Slot, lens};
use crate::config::path::Part;
use crate::config::reader::{At, Report};
use crate::config::settings::{Listen, Pool, Settings};
use crate::config::tree::Node;
use crate::log;
use crate::net::listener::Address;
use crate::pool::OnReturn;

/// Most worker threads: as many cores as the largest hosts have.
const WORKERS_MAX: u32 = 256;

/// The largest bound for keys that are remembered of a server: a few gigabytes.
const MISSED_KEYS_MAX: u32 = 1 << 24;

/// Where the file begins.
pub(in crate::config) static TOP: Section<Settings> = Section {
    name: "top level",
    definition: "file",
    help: "What the process as a whole does.",
    expected: "a map with the key 'pools'",
    fresh: Settings::default,
    twemproxys: &[],
    keys: &[
        Key {
            name: "listen",
            slot: &Listeners,
            preset: Preset::Fresh,
            help: "Where clients are listened for: one address, a list of addresses, or a list of \
                   sections if listeners differ.",
            bound: "",
        },
        Key {
            name: "route",
            slot: &Scalar {
                lens: lens!(Settings, route),
                form: Optional(NAME),
            },
            preset: Preset::Told("the only pool"),
            help: "The pool that requests go to, by name. Needed if there are several pools and \
                   listeners without a route of their own.",
            bound: "",
        },
        Key {
            name: "pools",
            slot: &Pools,
            preset: Preset::Required,
            help: "The pools of servers, by name.",
            bound: "",
        },
        Key {
            name: "clients",
            slot: &Nested {
                lens: lens!(Settings, clients),
                section: &CLIENTS,
            },
            preset: Preset::Told("as below"),
            help: "How clients are treated.",
            bound: "",
        },
        Key {
            name: "zone",
            slot: &Scalar {
                lens: lens!(Settings, zone),
                form: Optional(NAME),
            },
            preset: Preset::Told("the environment's `KETCH_ZONE`, if that is set"),
            help: "The zone that the proxy is in: shards that are read from by `nearest` prefer \
                   members of the same zone.",
            bound: "",
        },
        Key {
            name: "missed_keys_max",
            slot: &Scalar {
                lens: lens!(Settings, missed.keys_max),
                form: Counts {
                    min: 0,
                    max: MISSED_KEYS_MAX,
                },
            },
            preset: Preset::Fresh,
            help: "Keys that are remembered of each server because a change of them failed and may \
                   not have reached it. They are deleted there before it serves them again. Each \
                   costs its length and about 32 bytes.",
            bound: "what `on_return` says.",
        },
        Key {
            name: "missed_keys_dir",
            slot: &Scalar {
                lens: lens!(Settings, missed_dir),
                form: Optional(Parsed {
                    read: grammar::folder,
                    show: |path| path.display().to_string(),
                    expected: "a path that begins with /, such as /var/lib/ketch",
                    brief: "path",
                    pattern: "^/",
                }),
            },
            preset: Preset::Told("none: they are forgotten with the process"),
            help: "A folder in which those keys are written down, so that a proxy that is killed \
                   forgets nothing. It is made if it is not there. A change of it takes effect \
                   for servers that are new to the process.",
            bound: "",
        },
        Key {
            name: "on_return",
            slot: &Scalar {
                lens: lens!(Settings, missed.on_return),
                form: OneOf {
                    all: &OnReturn::ALL,
                    name: OnReturn::name,
                },
            },
            preset: Preset::Fresh,
            help: "What is done about a server that has missed changes of more keys than are \
                   remembered: `flush` drops everything it holds before it serves again, `serve` \
                   lets it serve what it has, though some of it may be stale.",
            bound: "",
        },
        Key {
            name: "workers",
            slot: &Scalar {
                lens: lens!(Settings, workers),
                form: OrWord {
                    word: "auto",
                    form: Counts {
                        min: 1,
                        max: WORKERS_MAX,
                    },
                },
            },
            preset: Preset::Fresh,
            help: "Worker threads, each with its own connections to all servers. `auto` starts \
                   one for each core that the process may use.",
            bound: "",
        },
        Key {
            name: "memory_max",
            slot: &Scalar {
                lens: lens!(Settings, memory_max),
                form: Sizes {
                    min: 1 << 20,
                    max: BYTES_MAX,
                },
            },
            preset: Preset::Fresh,
            help: "Bytes that clients and servers together may make the process hold: replies \
                   that are not taken, requests that are not complete, what waits for a server. \
                   Each worker has an equal share. Embedded caches do not count.",
            bound: "from three quarters of it on clients are cut off, those first that have not \
                    moved for longest; where that does not help, requests fail with \
                    `SERVER_ERROR <server> is not asked while memory is short (memory_max)`.",
        },
        Key {
            name: "in_flight_max",
            slot: &Scalar {
                lens: lens!(Settings, in_flight_max),
                form: Counts {
                    min: 1,
                    max: 1 << 26,
                },
            },
            preset: Preset::Fresh,
            help: "Requests of all clients that may wait for servers. Each worker has an equal \
                   share.",
            bound: "`SERVER_ERROR <server> is not asked while too many requests wait \
                    (in_flight_max)`.",
        },
        Key {
            name: "admin",
            slot: &Scalar {
                lens: lens!(Settings, admin),
                form: OrWord {
                    word: "off",
                    form: Parsed {
                        read: grammar::tcp_address,
                        show: Address::to_string,
                        expected: "an address such as 127.0.0.1:11312",
                        brief: "`host:port`",
                        pattern: "",
                    },
                },
            },
            preset: Preset::Fresh,
            help: "Where operators are served over HTTP: metrics, health, routes.",
            bound: "",
        },
        Key {
            name: "log",
            slot: &Scalar {
                lens: lens!(Settings, log),
                form: Parsed {
                    read: grammar::log_filter,
                    show: String::clone,
                    expected: "a level (off, error, warn, info, debug, trace) or targets with \
                               levels, such as warn,ketch::pool=debug",
                    brief: "levels, as `info` or `warn,ketch::pool=debug`",
                    pattern: "",
                },
            },
            preset: Preset::Fresh,
            help: "Which events are logged, to standard error. Nothing is logged for single \
                   requests above `trace`.",
            bound: "",
        },
        Key {
            name: "log_format",
            slot: &Scalar {
                lens: lens!(Settings, log_format),
                form: OneOf {
                    all: &log::Format::ALL,
                    name: log::Format::name,
                },
            },
            preset: Preset::Fresh,
            help: "How events are written: for people, or one JSON object in a line.",
            bound: "",
        },
        Key {
            name: "drain_timeout",
            slot: &Scalar {
                lens: lens!(Settings, drain_timeout),
                form: Durations {
                    zero: true,
                    min: Duration::from_millis(1),
                    max: WAIT_MAX,
                },
            },
            preset: Preset::Fresh,
            help: "How long clients are given to finish when the process is told to end \
                   (`SIGTERM`, `SIGINT`, `POST /drain`). A client that says nothing for 100 ms is \
                   closed; in the last fifth all are, between two requests.",
            bound: "clients that are left are cut off.",
        },
        Key {
            name: "watch",
            slot: &Scalar {
                lens: lens!(Settings, watch),
                form: Flag,
            },
            preset: Preset::Fresh,
            help: "Whether this file is read again when it changes. `SIGHUP` and `POST /reload` \
                   have it read again in any case. `admin`, `log`, `log_format` and `workers` \
                   change only with a restart.",
            bound: "",
        },
    ],
};

/// One listener or several, as addresses or as sections.
struct Listeners;

impl Listeners {
    fn one(&self, at: &At<'_>, report: &mut Report<'_>) -> Option<Listen> {
        match at.node {
            Node::Text(text) => match grammar::listener(text) {
                Ok((address, mode)) => Some(Listen {
                    mode,
                    ..Listen::at(address)
                }),
                Err(flaw) => {
                    report.flawed(at, flaw, self.expected());
                    None
                }
            },
            Node::Map(_) => {
                let mut listen = (LISTENER.fresh)();
                LISTENER.read(at, &mut listen, report);
                report.is_sound(at).then_some(listen)
            }
            _ => {
                report.wrong_kind(at, self.expected());
                None
            }
        }
    }
}

impl Slot<Settings> for Listeners {
    fn read(&self, at: &At<'_>, target: &mut Settings, report: &mut Report<'_>) {
        let items = match at.items() {
            Some(items) if items.is_empty() => return report.wrong_kind(at, self.expected()),
            Some(items) => items,
            None => vec![at.clone()],
        };
        let listen = items.iter().filter_map(|item| self.one(item, report));
        target.listen = listen.collect();
    }

    fn show(&self, target: &Settings) -> Option<String> {
        let show = |listen: &Listen| listen.address.to_string();
        let all: Vec<_> = target.listen.iter().map(show).collect();
        Some(all.join(", "))
    }

    fn expected(&self) -> String {
        "an address such as 127.0.0.1:11311, [::1]:11311 (in quotes) or unix:/path, or a list of \
         addresses or sections"
            .to_owned()
    }

    fn brief(&self) -> String {
        format!("address, or list of addresses or of `{}`", LISTENER.name)
    }

    fn schema(&self) -> Json {
        let one = json!({"anyOf": [{"type": "string"}, LISTENER.reference()]});
        json!({"anyOf": [one, {"type": "array", "minItems": 1, "items": one}]})
    }
}

/// The pools, by name.
struct Pools;

impl Slot<Settings> for Pools {
    fn read(&self, at: &At<'_>, target: &mut Settings, report: &mut Report<'_>) {
        let entries = at.entries().unwrap_or_default();
        if entries.is_empty() {
            return report.wrong_kind(at, self.expected());
        }
        for (place, (name, at)) in entries.iter().enumerate() {
            let mut before = entries.iter().take(place);
            if let Some((_, first)) = before.find(|(earlier, _)| earlier == name) {
                let fault = Fault::DuplicateKey { first: 0 };
                report.repeated(at, Part::Key, first, fault);
                continue;
            }
            if let Err(flaw) = grammar::name(name) {
                let value = Node::Text((*name).to_owned()).to_string();
                let misfit = Misfit::Flawed { value, flaw };
                let expected = "a name of one line for the pool".to_owned();
                report.key_fault(at, Fault::Value { misfit, expected });
            }
            let mut pool = Pool::named(name);
            POOL.read(at, &mut pool, report);
            pool.name_embedded();
            target.pools.push(pool);
        }
    }

    fn expected(&self) -> String {
        "a map of pools by name, each with its servers".to_owned()
    }

    fn brief(&self) -> String {
        format!("map of names to `{}`", POOL.name)
    }

    fn schema(&self) -> Json {
        json!({"type": "object", "minProperties": 1, "additionalProperties": POOL.reference()})
    }
}
