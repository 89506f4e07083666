//! The classic dialect.

use smallvec::SmallVec;

use super::{
    GROUP_KEYS, Held, OUT_OF_MEMORY, TOO_LARGE, admit, delete, expiry, line, note_refused,
    number_bytes_max, value_bytes_max,
};
use crate::backend::sink::Sink;
use crate::backend::store::{
    self, At, Count, Counted, Found, Full, Home, LEND_BYTES_MIN, Mode, Shard, Stored, Tag, Value,
};
use crate::backend::watch::Removed;
use crate::protocol::number::write_u64;
use crate::protocol::reply::Outcome;
use crate::protocol::request::{Change, ChangeVerb, Retrieve, Store, StoreVerb};

pub(super) const NOT_A_NUMBER: &str =
    "CLIENT_ERROR cannot increment or decrement non-numeric value";

/// Bytes of a reply beyond which a retrieval of many keys is cut short, as by memcached
/// when it runs out of buffers: a line of a mebibyte can name a quarter of a million
/// values.
pub(super) const RETRIEVED_BYTES_MAX: usize = 64 << 20;

/// Carries out `get`, `gets`, `gat`, `gats`.
pub(super) fn retrieve(
    store: &store::Store,
    request: &Retrieve<'_>,
    now: u32,
    out: &mut impl Sink,
) -> Outcome {
    let mut hits = 0u32;
    let seen = |_: &[u8], hit| hits += u32::from(hit);
    match retrieve_some(store, request, RETRIEVED_BYTES_MAX, now, out, seen) {
        Ok(None) if hits > 0 => Outcome::Hit,
        Ok(None) => Outcome::Miss,
        Ok(Some(_)) => {
            store.count_oversized();
            line(
                out.bytes(),
                "SERVER_ERROR out of memory writing get response",
            );
            Outcome::ServerError
        }
        Err(Full) => Outcome::ServerError,
    }
}

/// Retrieves keys until there are more than `most` bytes to write, and tells `seen` of
/// each key that was looked for, and whether it was there. Returns the place of the key
/// to go on with; `None` if that were all.
///
/// # Errors
///
/// [`Full`] if there was no memory for the new times to live, which has been told.
pub fn retrieve_some(
    store: &store::Store,
    request: &Retrieve<'_>,
    most: usize,
    now: u32,
    out: &mut impl Sink,
    mut seen: impl FnMut(&[u8], bool),
) -> Result<Option<usize>, Full> {
    let homes = |(place, key)| (place, key, store.home(key));
    let mut keys = request.keys.iter().map(homes);
    let mut group: SmallVec<[_; GROUP_KEYS]> = SmallVec::new();
    loop {
        group.extend(keys.by_ref().take(GROUP_KEYS));
        if group.is_empty() {
            break;
        }
        if group.len() > 1 {
            store.fetch_ahead(group.iter().map(|(_, _, home)| home));
        }
        for (place, key, home) in group.drain(..) {
            if out.count() > most {
                return Ok(Some(place));
            }
            match retrieve_one(store, request, key, home, now, out) {
                Ok(hit) => seen(key, hit),
                Err(Full) => {
                    line(out.bytes(), OUT_OF_MEMORY);
                    return Err(Full);
                }
            }
        }
    }
    out.bytes().extend_from_slice(b"END\r\n");
    Ok(None)
}

/// Retrieves one key. Says whether it was there.
#[inline]
fn retrieve_one(
    store: &store::Store,
    request: &Retrieve<'_>,
    key: &[u8],
    home: Home<'_>,
    now: u32,
    out: &mut impl Sink,
) -> Result<bool, Full> {
    let with_cas = request.verb.with_cas();
    if !request.verb.touches() {
        return Ok(store.read(home, |shard, tag| get(shard, tag, key, now, with_cas, out)));
    }
    let exptime = expiry(request.exptime, now);
    store.write(home, now, |shard, tag| {
        get_and_touch(shard, tag, key, exptime, now, with_cas, out)
    })
}

#[inline]
fn get(
    shard: &mut Shard,
    tag: Tag,
    key: &[u8],
    now: u32,
    with_cas: bool,
    out: &mut impl Sink,
) -> bool {
    shard.counters.gets += 1;
    let Some(at) = shard.find(tag, key, now) else {
        shard.counters.get_misses += 1;
        return false;
    };
    shard.counters.get_hits += 1;
    shard.bump(at, now);
    write_value(&shard.get(at), key, with_cas, out);
    true
}

fn get_and_touch(
    shard: &mut Shard,
    tag: Tag,
    key: &[u8],
    exptime: u32,
    now: u32,
    with_cas: bool,
    out: &mut impl Sink,
) -> Result<bool, Full> {
    let at = touched(shard, tag, key, exptime, now)?;
    if let Some(at) = at {
        write_value(&shard.get(at), key, with_cas, out);
    }
    Ok(at.is_some())
}

/// Gives an item a new time to live, which counts as a use.
pub(super) fn touched(
    shard: &mut Shard,
    tag: Tag,
    key: &[u8],
    exptime: u32,
    now: u32,
) -> Result<Option<At>, Full> {
    let at = match shard.find(tag, key, now) {
        Some(at) => Some(shard.set_exptime(at, exptime, now)?),
        None => None,
    };
    shard.counters.touches += 1;
    match at {
        Some(at) => {
            shard.counters.touch_hits += 1;
            shard.bump(at, now);
        }
        None => shard.counters.touch_misses += 1,
    }
    Ok(at)
}

#[inline]
fn write_value(found: &Found<'_>, key: &[u8], with_cas: bool, out: &mut impl Sink) {
    let bytes = out.room(key.len() + found.item.tail().len().min(LEND_BYTES_MIN) + 80);
    bytes.extend_from_slice(b"VALUE ");
    bytes.extend_from_slice(key);
    bytes.push(b' ');
    write_u64(bytes, u64::from(found.item.flags()));
    bytes.push(b' ');
    write_u64(bytes, to_u64(found.value_len()));
    if with_cas {
        bytes.push(b' ');
        write_u64(bytes, found.item.cas());
    }
    bytes.extend_from_slice(b"\r\n");
    write_data(found, out);
}

/// The value itself, with its line end.
#[inline]
pub(super) fn write_data(found: &Found<'_>, out: &mut impl Sink) {
    write_bytes(found, out);
    out.room(2).extend_from_slice(b"\r\n");
}

/// The value itself.
#[inline]
pub(super) fn write_bytes(found: &Found<'_>, out: &mut impl Sink) {
    if let Some(large) = found.share() {
        out.share(large);
    }
    if out.borrows()
        && let Some(lent) = found.lend()
    {
        return out.lend(lent);
    }
    let tail = found.item.tail();
    // With room for what follows.
    out.room(tail.len() + 2).extend_from_slice(tail);
}

pub(super) fn to_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// `set`, `add`, `replace`, `append`, `prepend`, `cas`.
pub(super) fn store(
    store: &store::Store,
    request: &Store<'_>,
    value: Held<'_>,
    now: u32,
    out: &mut Vec<u8>,
) -> Outcome {
    let stored = admit(store, request.key.len(), request.flags, value.len()).and_then(|()| {
        value
            .store(store, now, |value| store_value(store, request, value, now))
            .map_err(|Full| OUT_OF_MEMORY)
    });
    let (outcome, text) = match stored {
        Ok(Stored::Stored { .. }) => (Outcome::Done, "STORED"),
        Ok(Stored::NotStored) => (Outcome::NotStored, "NOT_STORED"),
        Ok(Stored::Exists) => (Outcome::Exists, "EXISTS"),
        Ok(Stored::NotFound) => (Outcome::NotFound, "NOT_FOUND"),
        Err(text) => (Outcome::ServerError, text),
    };
    if stored.is_err() {
        note_refused(request.key, mode(request.verb).into(), text == TOO_LARGE);
        if request.verb == StoreVerb::Set {
            // Lest the value that was to be replaced is read as current.
            delete(store, request.key, now);
        }
    }
    if !request.noreply {
        line(out, text);
    }
    outcome
}

/// How a command stores its value.
pub(super) fn mode(verb: StoreVerb) -> Mode {
    match verb {
        StoreVerb::Set => Mode::Set,
        StoreVerb::Add => Mode::Add,
        StoreVerb::Replace => Mode::Replace,
        StoreVerb::Append => Mode::Append,
        StoreVerb::Prepend => Mode::Prepend,
        StoreVerb::Cas => Mode::Cas,
    }
}

fn store_value(
    store: &store::Store,
    request: &Store<'_>,
    value: Value<'_>,
    now: u32,
) -> Result<Stored, Full> {
    let change = store::StoreChange {
        mode: mode(request.verb),
        key: request.key,
        binary_key: false,
        flags: request.flags,
        exptime: expiry(request.exptime, now),
        compare: request.cas,
        stale_allowed: false,
        vivify: false,
        cas: None,
        value,
        value_bytes_max: value_bytes_max(store, request.key.len()),
    };
    store.store(&change, now)
}

/// `delete`, `touch`, `incr`, `decr`.
pub(super) fn change(
    store: &store::Store,
    request: &Change<'_>,
    now: u32,
    out: &mut Vec<u8>,
) -> Outcome {
    let before = out.len();
    let outcome = match request.verb {
        ChangeVerb::Delete => {
            let deleted = store.read(store.home(request.key), |shard, tag| {
                let found = shard.find(tag, request.key, now);
                match found {
                    Some(at) => {
                        shard.counters.delete_hits += 1;
                        shard.note_removal(at, Removed::Delete);
                        shard.remove(at);
                    }
                    None => shard.counters.delete_misses += 1,
                }
                found.is_some()
            });
            done_or_not_found(deleted, "DELETED", out)
        }
        ChangeVerb::Touch(exptime) => {
            let exptime = expiry(exptime, now);
            let touched = store.write(store.home(request.key), now, |shard, tag| {
                touched(shard, tag, request.key, exptime, now)
            });
            match touched {
                Ok(at) => done_or_not_found(at.is_some(), "TOUCHED", out),
                Err(Full) => {
                    line(out, OUT_OF_MEMORY);
                    Outcome::ServerError
                }
            }
        }
        ChangeVerb::Incr(delta) => count(store, request.key, true, delta, now, out),
        ChangeVerb::Decr(delta) => count(store, request.key, false, delta, now, out),
    };
    if request.noreply {
        out.truncate(before);
    }
    outcome
}

fn done_or_not_found(done: bool, text: &str, out: &mut Vec<u8>) -> Outcome {
    if done {
        line(out, text);
        Outcome::Done
    } else {
        line(out, "NOT_FOUND");
        Outcome::NotFound
    }
}

fn count(
    store: &store::Store,
    key: &[u8],
    up: bool,
    delta: u64,
    now: u32,
    out: &mut Vec<u8>,
) -> Outcome {
    let change = Count {
        key,
        up,
        delta,
        compare: 0,
        cas: None,
        exptime: None,
        value_bytes_max: number_bytes_max(store, key.len()),
    };
    let counted = store.write(store.home(key), now, |shard, tag| {
        let counted = shard.count(tag, &change, now)?;
        if matches!(counted, Counted::NotFound) {
            shard.count_miss(up);
        }
        Ok(counted)
    });
    match counted {
        Ok(Counted::Done { number, .. }) => {
            write_u64(out, number);
            out.extend_from_slice(b"\r\n");
            Outcome::Done
        }
        Ok(Counted::NotFound) => done_or_not_found(false, "", out),
        Ok(Counted::Exists) => {
            line(out, "EXISTS");
            Outcome::Exists
        }
        Ok(Counted::NotANumber) => {
            line(out, NOT_A_NUMBER);
            Outcome::ClientError
        }
        Err(Full) => {
            line(out, "SERVER_ERROR out of memory");
            Outcome::ServerError
        }
    }
}
