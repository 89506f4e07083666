//! The keys of the configuration, each declared once.

mod clients;
mod listener;
mod pool;
mod server;
mod shard;
mod top;

use std::time::Duration;

use super::form::{Durations, Parsed, Sizes};
use super::grammar;

pub(super) use clients::CLIENTS;
pub(super) use listener::LISTENER;
pub(super) use pool::{POOL, SERVERS_EXPECTED};
pub(super) use server::SERVER;
pub(super) use shard::SHARD;
pub(super) use top::TOP;

/// The longest time that a server may be waited for: whoever waits longer than
/// an hour for a cache has no use for it.
const WAIT_MAX: Duration = Duration::from_secs(3600);

/// The largest bound for bytes in memory, 64 GiB: more is taken for a mistake.
const BYTES_MAX: usize = 64 << 30;

/// The largest bound for requests in flight, about a million.
const REQUESTS_MAX: u32 = 1 << 20;

/// A time to wait for a server.
const WAIT: Durations = Durations {
    zero: false,
    min: Duration::from_millis(1),
    max: WAIT_MAX,
};

/// A bound for bytes in memory, from one page on.
const MEMORY: Sizes = Sizes {
    min: 4096,
    max: BYTES_MAX,
};

/// A name.
const NAME: Parsed<String> = Parsed {
    read: grammar::name,
    show: String::clone,
    expected: "a name of one line, in quotes if it looks like a number",
    brief: "text",
    pattern: "^[^\\u0000-\\u001f]+$",
};
