//! Requests carried out: what the store does, and what the client is told.
//!
//! The answers are those of memcached 1.6.45, byte for byte, but for what
//! `docs/backend.md` names. Sources: its `doc/protocol.txt`, and what the server itself
//! answers where that is silent.

mod admin;
mod binary;
mod meta;
mod text;

use super::sink::Sink;
use super::store::{DEAD, Full, LARGE_BYTES_MIN, Longest, Owned, Shard, Store, Value};
use super::watch::{self, Event, How, Kinds, Status};
use crate::clock;
use crate::protocol::binary as frame;
use crate::protocol::meta::ItemKey;
use crate::protocol::reply::Outcome;
use crate::protocol::request::{Replaced, Request};
use crate::protocol::{Error, Limits};

pub use admin::{VERSION, execute as execute_admin};
pub use binary::respond;
pub use text::retrieve_some;

/// Longest time to live that counts from now, in seconds; above it is Unix time.
/// Source: memcached `doc/protocol.txt`, "Expiration times".
const EXPTIME_RELATIVE_MAX: u32 = 60 * 60 * 24 * 30;

/// What memcached adds to key and value of an item when it compares its size with
/// the bound: its header, the key's end and the line end of the value.
const ITEM_OVERHEAD_BYTES: usize = 48 + 1 + 2;
/// Its cas id, if it has one.
const CAS_BYTES: usize = 8;
/// Its client flags, if it has any.
const FLAGS_BYTES: usize = 4;

/// The largest item that memcached keeps in one piece, in bytes; it looks for no number
/// in larger ones. Source: `slab_chunk_max`, half of a slab page.
const PIECE_BYTES_MAX: usize = 512 * 1024;

/// Keys that are looked for together, as to what of memory is fetched ahead: about as many
/// lines as a processor waits for at a time.
pub const GROUP_KEYS: usize = 16;

const TOO_LARGE: &str = "SERVER_ERROR object too large for cache";
const OUT_OF_MEMORY: &str = "SERVER_ERROR out of memory storing object";

/// Carries out a request at the second `now` and writes its reply to `out`, if
/// its client wants one.
pub fn execute(store: &Store, request: &Request<'_>, now: u32, out: &mut impl Sink) -> Outcome {
    match request {
        Request::Retrieve(request) => text::retrieve(store, request, now, out),
        Request::Store(request) => {
            let value = Held::Borrowed(request.value);
            text::store(store, request, value, now, out.bytes())
        }
        Request::Change(change) => text::change(store, change, now, out.bytes()),
        Request::Meta(request) => {
            meta::execute(store, request, Held::Borrowed(request.value), now, out)
        }
        Request::Admin(admin) => admin::execute(store, admin, now, out.bytes()),
    }
}

/// Why a value that was announced cannot be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is too large.
    TooLarge,
    /// There is no memory for it.
    Full,
    /// It does not end as it must.
    BadEnd,
}

/// The bounds within which a server takes requests for the store.
#[inline]
pub fn limits(store: &Store) -> Limits {
    Limits {
        // The shortest key is of one byte.
        value_bytes_max: value_bytes_max(store, 1)[0],
        announce_bytes_min: LARGE_BYTES_MIN,
        ..Limits::default()
    }
}

/// Whether the value that a request announces may be so long.
pub fn fits(store: &Store, request: &Request<'_>, value_len: usize) -> bool {
    match request {
        Request::Store(request) => fits_item(store, request.key.len(), request.flags, value_len),
        Request::Meta(request) => {
            let key = request.item_key();
            fits_item(store, key.as_bytes().len(), request.client_flags, value_len)
        }
        _ => false,
    }
}

/// Carries out a storage command whose value came separately, or did not.
pub fn execute_with(
    store: &Store,
    request: &Request<'_>,
    value: Result<Owned, Refused>,
    now: u32,
    out: &mut impl Sink,
) -> Outcome {
    let value = match value {
        Ok(owned) => Held::Owned(owned),
        Err(Refused::TooLarge) => Held::TooLarge,
        Err(Refused::Full) => Held::Nowhere,
        Err(Refused::BadEnd) => {
            count_refused(store, request);
            // Those of meta commands are told even to who wants quiet.
            if !matches!(request, Request::Store(request) if request.noreply) {
                line(out.bytes(), &Error::BadDataChunk.to_string());
            }
            return Outcome::ClientError;
        }
    };
    match request {
        Request::Store(request) => text::store(store, request, value, now, out.bytes()),
        Request::Meta(request) => meta::execute(store, request, value, now, out),
        _ => Outcome::ClientError,
    }
}

/// Carries out a request of the binary dialect about an item. Its value may have
/// come separately, or be refused. Says whether there was such an item.
pub fn execute_binary(
    store: &Store,
    request: &frame::Request<'_>,
    value: Option<Result<Owned, Refused>>,
    now: u32,
    out: &mut impl Sink,
) -> bool {
    let value = match value {
        None => Held::Borrowed(request.value),
        Some(Ok(owned)) => Held::Owned(owned),
        Some(Err(Refused::Full | Refused::BadEnd)) => Held::Nowhere,
        Some(Err(Refused::TooLarge)) => Held::TooLarge,
    };
    binary::execute(store, request, &value, now, out)
}

/// Drops everything, now, or after so many seconds or at that Unix time; as in memcached
/// a second sooner than that, and what is stored within that second too.
pub fn flush_at(store: &Store, exptime: u32, now: u32) {
    let at = match exptime {
        0 => None,
        relative if relative <= EXPTIME_RELATIVE_MAX => Some(now.saturating_add(relative - 1)),
        future if future > now => Some(future - 1),
        past if past < first_second() => Some(NEVER),
        _ => None,
    };
    store.flush(at, now);
}

/// A second that does not come: who drops everything then drops nothing, and not at the
/// one named before either.
const NEVER: u32 = u32::MAX;

/// Where time begins for memcached: a minute before it is started. There was nothing to
/// drop before it.
fn first_second() -> u32 {
    let first = clock::first_unix_second().saturating_sub(60);
    u32::try_from(first).unwrap_or(u32::MAX)
}

/// Whether the value that a request of the binary dialect announces may be so long.
pub fn fits_binary(store: &Store, request: &frame::Request<'_>, value_len: usize) -> bool {
    let flags = match request.extras {
        frame::Extras::Item { flags, .. } => flags,
        _ => 0,
    };
    fits_item(store, request.key.len(), flags, value_len)
}

/// Removes an item, whatever came of it.
pub fn delete_key(store: &Store, key: &[u8], now: u32) {
    delete(store, key, now);
}

/// Removes what a refused value was to replace.
pub fn delete_replaced(store: &Store, replaced: Replaced<'_>, now: u32) {
    let key = ItemKey::new(replaced.key, replaced.base64);
    delete(store, key.as_bytes(), now);
}

/// When an item expires, from the time on the wire; 0 if never.
fn expiry(exptime: i32, now: u32) -> u32 {
    match u32::try_from(exptime) {
        Ok(exptime) => unsigned_expiry(exptime, now),
        Err(_) => DEAD,
    }
}

/// As [`expiry`], for a dialect in which times have no sign.
fn unsigned_expiry(exptime: u32, now: u32) -> u32 {
    match exptime {
        0 => 0,
        relative if relative <= EXPTIME_RELATIVE_MAX => now.saturating_add(relative),
        past if past <= now => DEAD,
        future => future,
    }
}

/// Seconds until `exptime`, as memcached counts them.
fn remaining(exptime: u32, now: u32) -> u32 {
    exptime.wrapping_sub(now)
}

/// Whether an item is within the bound on its size.
fn fits_item(store: &Store, key_len: usize, flags: u32, value_len: usize) -> bool {
    let [without, with] = value_bytes_max(store, key_len);
    value_len <= if flags == 0 { without } else { with }
}

/// The longest value of an item whose key is so long.
fn value_bytes_max(store: &Store, key_len: usize) -> Longest {
    longest_within(store, store.settings().item_bytes_max, key_len)
}

/// As [`value_bytes_max`], of one that may be a number.
fn number_bytes_max(store: &Store, key_len: usize) -> Longest {
    longest_within(store, PIECE_BYTES_MAX, key_len)
}

fn longest_within(store: &Store, item_bytes_max: usize, key_len: usize) -> Longest {
    let cas = if store.settings().cas { CAS_BYTES } else { 0 };
    let overhead = ITEM_OVERHEAD_BYTES + cas + key_len;
    [0, FLAGS_BYTES].map(|flags| item_bytes_max.saturating_sub(overhead + flags))
}

/// Why a value is refused before it is looked at what it is for.
fn admit(store: &Store, key_len: usize, flags: u32, value_len: usize) -> Result<(), &'static str> {
    if fits_item(store, key_len, flags, value_len) {
        Ok(())
    } else {
        store.count_too_large();
        Err(TOO_LARGE)
    }
}

/// Counts a value that there was room for, and that was refused all the same because
/// something is wrong with what the client sent.
pub fn count_refused(store: &Store, request: &Request<'_>) {
    let item_key;
    let key = match request {
        Request::Store(request) => request.key,
        Request::Meta(request) => {
            item_key = request.item_key();
            item_key.as_bytes()
        }
        _ => return,
    };
    store.read(store.home(key), |shard, _| shard.counters.sets += 1);
}

/// Tells watchers of a value that a command announces and that is too large by far:
/// the command itself was refused.
pub fn note_too_large(request: &Request<'_>) {
    match request {
        Request::Store(request) => note_refused(request.key, text::mode(request.verb).into(), true),
        Request::Meta(request) => {
            let key = request.item_key();
            note_refused(key.as_bytes(), meta::mode(request).into(), true);
        }
        _ => {}
    }
}

/// As [`note_too_large`], in the binary dialect.
pub fn note_too_large_binary(request: &frame::Request<'_>) {
    note_refused(request.key, binary::mode(request).into(), true);
}

/// Tells watchers of a value that was refused before the store was asked.
fn note_refused(key: &[u8], how: How, is_too_large: bool) {
    watch::note_with(Kinds::MUTATIONS, key, || Event::Stored {
        status: if is_too_large {
            Status::TooLarge
        } else {
            Status::NoMemory
        },
        how,
        ttl: 0,
        bytes: 0,
    });
}

/// A value that is to be stored.
enum Held<'a> {
    /// With the request.
    Borrowed(&'a [u8]),
    /// In memory of its own, as it must be if it is too large for the log.
    Owned(Owned),
    /// There was no memory for it.
    Nowhere,
    /// It was not looked at.
    TooLarge,
}

impl Held<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Borrowed(value) => value.len(),
            Self::Owned(owned) => owned.len(),
            Self::Nowhere => 0,
            Self::TooLarge => usize::MAX,
        }
    }

    /// Calls `with` with the value in a form that can be stored.
    fn store<T>(
        &self,
        store: &Store,
        now: u32,
        with: impl FnOnce(Value<'_>) -> Result<T, Full>,
    ) -> Result<T, Full> {
        match self {
            Self::Borrowed(value) if value.len() < LARGE_BYTES_MIN => with(Value::small(value)),
            Self::Borrowed(value) => with(store.gather(value, now)?.as_value()),
            Self::Owned(owned) => with(owned.as_value()),
            Self::Nowhere | Self::TooLarge => Err(Full),
        }
    }
}

/// Deletes an item. Says whether it was there.
fn delete(store: &Store, key: &[u8], now: u32) -> bool {
    store.read(store.home(key), |shard, tag| {
        let found = shard.find(tag, key, now);
        if let Some(at) = found {
            shard.remove(at);
        }
        found.is_some()
    })
}

/// Whether it was a new item that there was no memory for.
fn is_new(store: &Store, key: &[u8], now: u32) -> bool {
    let find = |shard: &mut Shard, tag| shard.find(tag, key, now);
    store.read(store.home(key), find).is_none()
}

/// Appends a line.
fn line(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests;
