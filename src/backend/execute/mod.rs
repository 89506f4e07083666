//! Requests carried out: what the store does, and what the client is told.
//!
//! The answers are those of memcached 1.6.45, byte for byte. Sources: its
//! `doc/protocol.txt`, and what the server itself answers where that is silent.

mod admin;
mod meta;
mod text;

use super::sink::Sink;
use super::store::{CHUNK_BYTES, DEAD, Full, Owned, Store, Value};
use crate::protocol::meta::ItemKey;
use crate::protocol::reply::Outcome;
use crate::protocol::request::{Replaced, Request};
use crate::protocol::serve::Serve;
use crate::protocol::{Error, Request as AnyRequest};

pub use admin::VERSION;

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

const OUT_OF_MEMORY: &str = "SERVER_ERROR out of memory storing object";

/// Carries out a request at the second `now` and writes its reply to `out`, if
/// its client wants one.
pub fn execute(store: &Store, request: &Request<'_>, now: u32, out: &mut impl Sink) -> Outcome {
    match request {
        Request::Retrieve(retrieve) => text::retrieve(store, retrieve, now, out),
        Request::Store(request) => text::store(store, request, now, out),
        Request::Change(change) => text::change(store, change, now, out),
        Request::Meta(request) => meta::execute(store, request, now, out),
        Request::Admin(admin) => admin::execute(store, admin, now, out.bytes()),
    }
}

/// Removes what a refused value was to replace.
pub fn delete_replaced(store: &Store, replaced: Replaced<'_>, now: u32) {
    let key = ItemKey::new(replaced.key, replaced.base64);
    delete(store, key.as_bytes(), now);
}

impl Serve for Store {
    fn serve(&self, request: &AnyRequest<'_>, out: &mut Vec<u8>) -> Outcome {
        execute(self, request, self.now(), out)
    }
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
pub fn fits(store: &Store, key_len: usize, flags: u32, value_len: usize) -> bool {
    let settings = store.settings();
    let cas = if settings.cas { CAS_BYTES } else { 0 };
    let flags = if flags == 0 { 0 } else { FLAGS_BYTES };
    let size = ITEM_OVERHEAD_BYTES + cas + flags + key_len + value_len;
    size <= settings.item_bytes_max
}

/// The longest value of an item whose key is so long.
fn value_bytes_max(store: &Store, key_len: usize, flags: u32) -> usize {
    let settings = store.settings();
    let cas = if settings.cas { CAS_BYTES } else { 0 };
    let flags = if flags == 0 { 0 } else { FLAGS_BYTES };
    let overhead = ITEM_OVERHEAD_BYTES + cas + flags + key_len;
    settings.item_bytes_max.saturating_sub(overhead)
}

/// Why a value is refused before it is looked at what it is for.
fn admit(store: &Store, key_len: usize, flags: u32, value_len: usize) -> Result<(), Error> {
    if fits(store, key_len, flags, value_len) {
        Ok(())
    } else {
        store.count_too_large();
        Err(Error::TooLarge)
    }
}

/// A value, in memory of its own if it is too large for the log.
enum Held<'a> {
    Borrowed(&'a [u8]),
    Owned(Owned),
}

impl<'a> Held<'a> {
    fn new(store: &Store, value: &'a [u8], now: u32) -> Result<Self, Full> {
        if value.len() < CHUNK_BYTES {
            Ok(Self::Borrowed(value))
        } else {
            store.gather(value, now).map(Self::Owned)
        }
    }

    fn as_value(&self) -> Value<'_> {
        match self {
            Self::Borrowed(value) => Value::small(value),
            Self::Owned(owned) => owned.as_value(),
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

/// Appends a line.
fn line(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests;
