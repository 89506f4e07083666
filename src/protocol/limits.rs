//! The bounds of the protocol, each with the reason for its number.

/// Longest key, in bytes. Source: memcached `doc/protocol.txt`, "Commands".
pub const KEY_BYTES_MAX: usize = 250;

/// Longest command line without its end that is waited for, in bytes, unless it
/// is a retrieval. memcached gives up on a connection when more than this many
/// bytes are buffered without a line end.
pub const LINE_BYTES_MAX: usize = 2048;

/// Most blanks that may stand before a retrieval command whose line is longer
/// than [`LINE_BYTES_MAX`]; memcached closes beyond it.
pub const LEADING_BLANKS_MAX: usize = 100;

/// Most words of a line that memcached looks at, apart from the keys of a
/// retrieval; those behind them are ignored.
pub const LINE_WORDS_MAX: usize = 23;

/// Most words in a meta command: name, key, length and flags together. memcached
/// answers `CLIENT_ERROR options flags are too long` beyond it.
pub const META_WORDS_MAX: usize = 20;

/// Longest opaque of a meta command, its letter `O` included, in bytes.
pub const OPAQUE_BYTES_MAX: usize = 32;

/// Largest length that a storage command may announce: memcached keeps it with
/// the line end in a signed 32-bit number.
pub const DATA_BYTES_MAX: u32 = 0x7fff_fffd;

/// Default for [`Limits::value_bytes_max`]: memcached's own item size, 1 MiB.
pub const VALUE_BYTES_MAX: usize = 1 << 20;

/// Highest value that [`Limits::value_bytes_max`] may be set to: 128 MiB, which
/// memcached too names as the largest sensible item (`-I`).
pub const VALUE_BYTES_CEILING: usize = 128 << 20;

/// Default for [`Limits::line_bytes_max`]: room for four thousand of the longest
/// keys. memcached has no bound here and buffers whatever arrives.
pub const RETRIEVAL_LINE_BYTES_MAX: usize = 1 << 20;

/// What a listener accepts of its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest value that is stored, in bytes; a larger one is read, dropped and
    /// answered with `SERVER_ERROR object too large for cache`.
    pub value_bytes_max: usize,
    /// Values at least this long, in bytes, are announced as soon as their command
    /// line is there ([`Cut::Announced`](super::Cut::Announced)) instead of waited
    /// for; `usize::MAX` for none.
    pub announce_bytes_min: usize,
    /// Longest line of a retrieval command (`get k1 k2 ...`), in bytes; beyond it
    /// the connection is closed.
    pub line_bytes_max: usize,
    /// Longest opaque of an `ms` whose value is looked at, in bytes: which of two
    /// mistakes memcached tells depends on whether the value is too large.
    pub opaque_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            value_bytes_max: VALUE_BYTES_MAX,
            announce_bytes_min: usize::MAX,
            line_bytes_max: RETRIEVAL_LINE_BYTES_MAX,
            opaque_bytes_max: OPAQUE_BYTES_MAX,
        }
    }
}
