//! How the server behaves.

use std::time::Duration;

use super::users::Users;
use crate::backend::watch;

/// Which dialects a listener speaks (`-B`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// The first byte of a connection decides.
    #[default]
    Auto,
    /// Text and meta.
    Ascii,
    /// Binary.
    Binary,
}

impl Dialect {
    /// The name in `stats settings`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto-negotiate",
            Self::Ascii => "ascii",
            Self::Binary => "binary",
        }
    }
}

/// How the server behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Worker threads (`-t`).
    pub threads: usize,
    /// Which dialects are spoken.
    pub dialect: Dialect,
    /// Requests of one client that are carried out before it is the turn of others
    /// (`-R`); 0 for all that have been read at once, at most 64 KiB.
    pub requests_per_turn: usize,
    /// How long a client may say nothing; zero means for ever
    /// (`-o idle_timeout`).
    pub idle_timeout: Duration,
    /// Whether clients may drop everything (not with `-F`).
    pub flush: bool,
    /// Whether clients may list keys (not with `-X`).
    pub dump: bool,
    /// Whether clients may watch (not with `-W`).
    pub watch: bool,
    /// How much may wait for those who do (`-o watcher_logbuf_size`,
    /// `worker_logbuf_size`).
    pub watch_room: watch::Settings,
    /// Whether clients may end the process (`-A`).
    pub shutdown: bool,
    /// Whether clients may move the clock: for tests of clients and servers.
    pub move_clock: bool,
    /// What ends the prefix of a key, for `stats detail` (`-D`).
    pub prefix_delimiter: u8,
    /// Whether prefixes are counted from the start.
    pub detail: bool,
    /// Who may use the server; everybody if there is no list (`-Y`). Those who may
    /// from now on are in [`Shared`](super::Shared).
    pub users: Option<Users>,
    /// How much is logged (`-v`).
    pub verbosity: u32,
    /// What is only told.
    pub told: Told,
}

/// Settings that others act on, and those that mean nothing here: what `stats
/// settings` says of them.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// `-p`.
    pub tcp_port: u16,
    /// `-U`. Nothing listens there.
    pub udp_port: u16,
    /// `-l`.
    pub interface: Option<String>,
    /// `-s`.
    pub socket: Option<String>,
    /// `-a`.
    pub socket_mode: u32,
    /// `-b`.
    pub backlog: u32,
    /// `-f`. There are no slabs.
    pub growth_factor: f64,
    /// `-n`. There are no slabs.
    pub chunk_bytes: u32,
    /// Not with `-o no_lru_crawler`: whether the janitor's work is told under that
    /// name.
    pub crawls: bool,
    /// Not with `-o no_lru_maintainer`: whether the queues are told.
    pub maintains: bool,
    /// `-o track_sizes`: whether `stats sizes` looks at every item.
    pub tracks_sizes: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            threads: 4,
            dialect: Dialect::Auto,
            requests_per_turn: 0,
            idle_timeout: Duration::ZERO,
            flush: true,
            dump: true,
            watch: true,
            watch_room: watch::Settings::default(),
            shutdown: false,
            move_clock: false,
            prefix_delimiter: b':',
            detail: false,
            users: None,
            verbosity: 0,
            told: Told {
                tcp_port: 11211,
                socket_mode: 0o700,
                backlog: 1024,
                growth_factor: 1.25,
                chunk_bytes: 48,
                crawls: true,
                maintains: true,
                ..Told::default()
            },
        }
    }
}
