//! The meta dialect: two-letter commands with one-letter flags.

pub mod flags;
pub mod parse;

pub use flags::Flags;

use super::key::{KeyBuf, decode_base64};
use super::request::Wire;

/// The meta commands about a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// `mg`.
    Get,
    /// `ms`.
    Set,
    /// `md`.
    Delete,
    /// `ma`.
    Arithmetic,
    /// `me`.
    Debug,
}

/// What a meta command does with its value, from its `M` flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `S`, or no flag, for `ms`.
    Set,
    /// `E`.
    Add,
    /// `A`.
    Append,
    /// `P`.
    Prepend,
    /// `R`.
    Replace,
    /// `I` or `+`, or no flag, for `ma`.
    Incr,
    /// `D` or `-`.
    Decr,
}

/// A meta command with its flags read.
///
/// Numbers are those on the wire; times are in seconds.
#[derive(Clone, Copy, Debug)]
pub struct Meta<'a> {
    /// Which command.
    pub verb: Verb,
    /// The key as on the wire: base64 if the `b` flag is there.
    pub key: &'a [u8],
    /// The words after the key (and the length), as sent.
    pub words: &'a [u8],
    /// Which flags are there.
    pub flags: Flags,
    /// `M`.
    pub mode: Mode,
    /// `T`: new time to live.
    pub exptime: Option<i32>,
    /// `N`: make the item if it is missing, with this time to live.
    pub vivify: Option<i32>,
    /// `R`: win the right to refresh when less time than this is left.
    pub recache: Option<i32>,
    /// `C`: the cas id to compare with.
    pub cas: Option<u64>,
    /// `E`: the cas id to give the item.
    pub new_cas: Option<u64>,
    /// `F`: client flags.
    pub client_flags: u32,
    /// `J`: initial number.
    pub initial: u64,
    /// `D`: amount, 1 without the flag.
    pub delta: u64,
    /// `O` and what follows it; empty without the flag.
    pub opaque: &'a [u8],
    /// The value of `ms`.
    pub value: &'a [u8],
    /// The bytes for a server, without the quiet flag.
    pub wire: Wire<'a>,
}

/// The bytes an item is called by.
#[derive(Clone, Copy, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "lives on the stack for one routing decision; a box would cost an allocation"
)]
pub enum ItemKey<'a> {
    /// As on the wire.
    Plain(&'a [u8]),
    /// Decoded from base64.
    Decoded(KeyBuf),
}

impl<'a> ItemKey<'a> {
    /// The key of an item from the key on the wire.
    ///
    /// A key that claims to be base64 and is not stands for itself; the parser
    /// has refused it already where memcached does.
    #[inline]
    pub fn new(wire: &'a [u8], base64: bool) -> Self {
        match base64.then(|| decode_base64(wire)).flatten() {
            Some(key) => Self::Decoded(key),
            None => Self::Plain(wire),
        }
    }

    /// The bytes.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Plain(key) => key,
            Self::Decoded(key) => key.as_bytes(),
        }
    }
}

impl<'a> Meta<'a> {
    /// Whether the client wants no answer in the usual case (`q`).
    #[inline]
    pub fn is_quiet(&self) -> bool {
        self.flags.has(b'q')
    }

    /// The key by which the item is placed and found.
    #[inline]
    pub fn item_key(&self) -> ItemKey<'a> {
        ItemKey::new(self.key, self.flags.has(b'b'))
    }
}
