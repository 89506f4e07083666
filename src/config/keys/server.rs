//! One server of a pool.

use super::NAME;
use crate::config::form::{Optional, Parsed, Weight};
use crate::config::grammar;
use crate::config::key::{Key, Preset, Scalar, Section, lens};
use crate::config::settings::Server;
use crate::pool::server::Place;

/// A section of the list `servers`.
pub(in crate::config) static SERVER: Section<Server> = Section {
    name: "pools.NAME.servers[]",
    definition: "server",
    help: "One server of a pool, with what a line of text cannot say.",
    expected: "a map with the key 'address'",
    // Only until its address is read, without which there is no server.
    fresh: || Server::at(Place::Embedded),
    twemproxys: &[],
    keys: &[
        Key {
            name: "address",
            slot: &Scalar {
                lens: lens!(Server, place),
                form: Parsed {
                    read: grammar::server_address,
                    show: Place::to_string,
                    expected: "an address such as 10.0.0.1:11211, [::1]:11211 (in quotes), \
                               unix:/path or embedded",
                    brief: "address",
                    pattern: "",
                },
            },
            preset: Preset::Required,
            help: "Where it is: `host:port`, `[ipv6]:port`, `unix:/path`, or `embedded` for a \
                   cache in this process.",
            bound: "",
        },
        Key {
            name: "name",
            slot: &Scalar {
                lens: lens!(Server, name),
                form: Optional(NAME),
            },
            preset: Preset::Told("its address, or `embedded-1` and so on"),
            help: "What it is called in errors and metrics, and what ketama and rendezvous place \
                   it by: with a name it can move to another address and keep its keys. Two \
                   servers of a pool have two names.",
            bound: "",
        },
        Key {
            name: "weight",
            slot: &Scalar {
                lens: lens!(Server, weight),
                form: Weight,
            },
            preset: Preset::Fresh,
            help: "Its share of the keys, against those of the others. Ketama and modula take \
                   whole numbers from 1, weighted_furc 0 to 1, weighted_rendezvous any number.",
            bound: "",
        },
        Key {
            name: "zone",
            slot: &Scalar {
                lens: lens!(Server, zone),
                form: Optional(NAME),
            },
            preset: Preset::Told("none"),
            help: "The zone that it is in, for the members of shards that are read from by \
                   `nearest`.",
            bound: "",
        },
        Key {
            name: "range_start",
            slot: &Scalar {
                lens: lens!(Server, range_start),
                form: Optional(Parsed {
                    read: |text| Ok(text.as_bytes().to_vec()),
                    show: |start| String::from_utf8_lossy(start).into_owned(),
                    expected: "the first key of the server's range, in quotes",
                    brief: "text",
                    pattern: "",
                }),
            },
            preset: Preset::Told("the first key of all"),
            help: "The first key that it holds, for the distribution `range`.",
            bound: "",
        },
    ],
};
