//! How clients are treated.

use std::time::Duration;

use super::{BYTES_MAX, MEMORY, REQUESTS_MAX};
use crate::config::form::{Counts, Durations, Flag, Sizes};
use crate::config::key::{Key, Preset, Scalar, Section, lens};
use crate::config::settings::Clients;
use crate::protocol::limits::{LINE_BYTES_MAX, VALUE_BYTES_CEILING};

/// Largest value that a client may send.
pub(super) const VALUE: Sizes = Sizes {
    min: 1,
    max: VALUE_BYTES_CEILING,
};

/// Longest line of a retrieval; shorter than any other line makes no sense.
pub(super) const LINE: Sizes = Sizes {
    min: LINE_BYTES_MAX,
    max: 64 << 20,
};

/// The section `clients`.
pub(in crate::config) static CLIENTS: Section<Clients> = Section {
    name: "clients",
    definition: "clients",
    help: "How clients are treated. Listeners may say otherwise in what a client may send.",
    expected: "a map with keys for clients",
    fresh: Clients::default,
    twemproxys: &[],
    keys: &[
        Key {
            name: "connections_max",
            slot: &Scalar {
                lens: lens!(Clients, connections_max),
                form: Counts {
                    min: 1,
                    // More descriptors than this the kernel gives to no process
                    // (`fs.nr_open`).
                    max: 1 << 20,
                },
            },
            preset: Preset::Fresh,
            help: "Clients at a time, over all listeners. The process raises its limit of open \
                   files to suit.",
            bound: "a new client gets `ERROR Too many open connections` and is closed.",
        },
        Key {
            name: "accept_rate",
            slot: &Scalar {
                lens: lens!(Clients, accept_rate),
                form: Counts {
                    min: 0,
                    max: 1_000_000,
                },
            },
            preset: Preset::Fresh,
            help: "Clients let in a second, over all listeners, and a tenth of that at once; 0 \
                   means any number.",
            bound: "new clients wait in the kernel's queue.",
        },
        Key {
            name: "idle_timeout",
            slot: &Scalar {
                lens: lens!(Clients, sessions.idle_timeout),
                form: Durations {
                    zero: true,
                    min: Duration::from_secs(1),
                    max: Duration::from_secs(30 * 24 * 3600),
                },
            },
            preset: Preset::Fresh,
            help: "How long a client may say nothing; 0 means for ever.",
            bound: "the client is closed.",
        },
        Key {
            name: "in_flight_max",
            slot: &Scalar {
                lens: lens!(Clients, sessions.in_flight_max),
                form: Counts {
                    min: 1,
                    max: REQUESTS_MAX,
                },
            },
            preset: Preset::Fresh,
            help: "Requests of one client that may be unanswered.",
            bound: "reading from the client pauses until some of them are answered.",
        },
        Key {
            name: "pause_bytes",
            slot: &Scalar {
                lens: lens!(Clients, sessions.pause_bytes),
                form: MEMORY,
            },
            preset: Preset::Fresh,
            help: "Bytes of replies that one client may be owed.",
            bound: "reading from the client pauses until it has taken half of them.",
        },
        Key {
            name: "owed_bytes_max",
            slot: &Scalar {
                lens: lens!(Clients, sessions.owed_bytes_max),
                form: MEMORY,
            },
            preset: Preset::Fresh,
            help: "Bytes of replies that one client may be owed for what it asked before reading \
                   paused. Not less than `pause_bytes`, `multiget_bytes_max` and \
                   `value_bytes_max`.",
            bound: "the client is closed: it does not take its replies.",
        },
        Key {
            name: "multiget_bytes_max",
            slot: &Scalar {
                lens: lens!(Clients, sessions.multiget_bytes_max),
                form: MEMORY,
            },
            preset: Preset::Fresh,
            help: "Bytes of one reply to a `get` of several keys, while it is put together from \
                   several servers.",
            bound: "the request fails with \
                    `SERVER_ERROR reply is larger than multiget_bytes_max`.",
        },
        Key {
            name: "value_bytes_max",
            slot: &Scalar {
                lens: lens!(Clients, limits.value_bytes_max),
                form: VALUE,
            },
            preset: Preset::Fresh,
            help: "Largest value that a client may store. Servers must allow as much (`-I`).",
            bound: "the value is read and dropped, and the client gets \
                    `SERVER_ERROR object too large for cache`.",
        },
        Key {
            name: "line_bytes_max",
            slot: &Scalar {
                lens: lens!(Clients, limits.line_bytes_max),
                form: LINE,
            },
            preset: Preset::Fresh,
            help: "Longest line of a `get` of several keys.",
            bound: "the client is closed.",
        },
        Key {
            name: "flush_all",
            slot: &Scalar {
                lens: lens!(Clients, flush_all),
                form: Flag,
            },
            preset: Preset::Fresh,
            help: "Whether clients may empty all servers of their pool with `flush_all`.",
            bound: "",
        },
    ],
};

const _: () = assert!(BYTES_MAX >= VALUE_BYTES_CEILING);
