//! The binary dialect.
//!
//! What is about items; statistics, and what ends a connection, is the server's.

use super::text::{touched, write_bytes};
use super::{
    Held, admit, delete, is_new, note_refused, number_bytes_max, unsigned_expiry, value_bytes_max,
};
use crate::backend::sink::Sink;
use crate::backend::store::{
    At, Count, Counted, Found, Full, LEND_BYTES_MIN, Longest, Mode, Put, Shard, State, Store,
    StoreChange, Stored, Tag, Value,
};
use crate::backend::watch::{How, Removed};
use crate::protocol::binary::request::NO_VIVIFY;
use crate::protocol::binary::{Extras, Header, MAGIC_RESPONSE, Opcode, Request, Status};
use crate::protocol::number::Decimal;

/// Carries out a request about an item at the second `now` and writes its response
/// to `out`, unless it is one that is kept back. Says whether there was such an
/// item.
pub(super) fn execute(
    store: &Store,
    request: &Request<'_>,
    value: &Held<'_>,
    now: u32,
    out: &mut impl Sink,
) -> bool {
    let asked = Asked { request, now };
    match request.opcode.loud() {
        Opcode::Get | Opcode::GetK => asked.get(store, out),
        Opcode::Touch | Opcode::Gat | Opcode::GatK => asked.get_and_touch(store, out),
        Opcode::Delete => asked.delete(store, out.bytes()),
        Opcode::Increment | Opcode::Decrement => asked.count(store, out.bytes()),
        // As memcached without cas ids: it is not looked at.
        _ if request.cas != 0 && !store.settings().cas => {
            let request = &Request { cas: 0, ..*request };
            Asked { request, now }.set(store, value, out.bytes())
        }
        _ => asked.set(store, value, out.bytes()),
    }
}

/// Writes a response that only says how it went.
pub fn respond(request: &Request<'_>, status: Status, out: &mut Vec<u8>) {
    respond_with(request, status, status.text(), out);
}

/// As [`respond`], in other words.
fn respond_with(request: &Request<'_>, status: Status, text: &str, out: &mut Vec<u8>) {
    head(request, status, 0, [0, 0, text.len()], out);
    out.extend_from_slice(text.as_bytes());
}

/// Writes a header. `parts` are the lengths of extras, key and value, which follow.
#[inline]
fn head(request: &Request<'_>, status: Status, cas: u64, parts: [usize; 3], out: &mut Vec<u8>) {
    let [extras, key, value] = parts;
    let body = extras.saturating_add(key).saturating_add(value);
    let header = Header {
        magic: MAGIC_RESPONSE,
        opcode: request.opcode.byte(),
        key_len: u16::try_from(key).unwrap_or(u16::MAX),
        extras_len: u8::try_from(extras).unwrap_or(u8::MAX),
        data_type: 0,
        status: status.code(),
        body_len: u32::try_from(body).unwrap_or(u32::MAX),
        opaque: request.opaque,
        cas,
    };
    out.extend_from_slice(&header.to_bytes());
}

/// How a request stores its value.
pub(super) fn mode(request: &Request<'_>) -> Mode {
    match request.opcode.loud() {
        Opcode::Append => Mode::Append,
        Opcode::Prepend => Mode::Prepend,
        _ if request.cas != 0 => Mode::Cas,
        Opcode::Add => Mode::Add,
        Opcode::Replace => Mode::Replace,
        _ => Mode::Set,
    }
}

/// A request, with what all of them need.
#[derive(Clone, Copy)]
struct Asked<'a> {
    request: &'a Request<'a>,
    now: u32,
}

impl<'a> Asked<'a> {
    fn key(&self) -> &'a [u8] {
        self.request.key
    }

    fn is_quiet(&self) -> bool {
        self.request.opcode.is_quiet()
    }

    /// When the item is to expire.
    fn exptime(&self) -> u32 {
        match self.request.extras {
            Extras::None => 0,
            Extras::Item { exptime, .. } | Extras::Count { exptime, .. } => {
                unsigned_expiry(exptime, self.now)
            }
            Extras::Exptime(exptime) => unsigned_expiry(exptime, self.now),
        }
    }

    /// Tells of a success that quiet requests do not tell of.
    fn done(&self, cas: u64, out: &mut Vec<u8>) {
        if !self.is_quiet() {
            head(self.request, Status::Ok, cas, [0, 0, 0], out);
        }
    }

    fn fail(&self, status: Status, out: &mut Vec<u8>) {
        respond(self.request, status, out);
    }
}

/// Reading.
impl Asked<'_> {
    #[inline]
    fn get(&self, store: &Store, out: &mut impl Sink) -> bool {
        let found = store.read(store.home(self.key()), |shard, tag| {
            shard.counters.gets += 1;
            let Some(at) = shard.find(tag, self.key(), self.now) else {
                shard.counters.get_misses += 1;
                return false;
            };
            shard.counters.get_hits += 1;
            shard.bump(at, self.now);
            self.write_item(&shard.get(at), out);
            true
        });
        if !found {
            self.miss(out.bytes());
        }
        found
    }

    fn get_and_touch(&self, store: &Store, out: &mut impl Sink) -> bool {
        let exptime = self.exptime();
        let done = store.write(store.home(self.key()), self.now, |shard, tag| {
            let at = touched(shard, tag, self.key(), exptime, self.now)?;
            if let Some(at) = at {
                self.write_item(&shard.get(at), out);
            }
            Ok(at.is_some())
        });
        match done {
            Ok(true) => return true,
            Ok(false) => self.miss(out.bytes()),
            Err(Full) => self.fail(Status::OutOfMemory, out.bytes()),
        }
        false
    }

    #[inline]
    fn write_item(&self, found: &Found<'_>, out: &mut impl Sink) {
        let item = found.item;
        let touches_only = self.request.opcode == Opcode::Touch;
        let value_len = if touches_only { 0 } else { found.value_len() };
        let key: &[u8] = if self.request.opcode.returns_key() {
            self.key()
        } else {
            b""
        };
        let bytes = out.room(28 + key.len() + item.tail().len().min(LEND_BYTES_MIN));
        head(
            self.request,
            Status::Ok,
            item.cas(),
            [4, key.len(), value_len],
            bytes,
        );
        bytes.extend_from_slice(&item.flags().to_be_bytes());
        bytes.extend_from_slice(key);
        if !touches_only {
            write_bytes(found, out);
        }
    }

    /// Tells of a miss; one that asked for the key gets it in the place of words.
    fn miss(&self, out: &mut Vec<u8>) {
        if self.is_quiet() {
            return;
        }
        if self.request.opcode.returns_key() {
            let key = self.key();
            head(self.request, Status::NotFound, 0, [0, key.len(), 0], out);
            out.extend_from_slice(key);
        } else {
            self.fail(Status::NotFound, out);
        }
    }
}

/// Writing.
impl Asked<'_> {
    fn set(&self, store: &Store, value: &Held<'_>, out: &mut Vec<u8>) -> bool {
        let flags = match self.request.extras {
            Extras::Item { flags, .. } => flags,
            _ => 0,
        };
        let loud = self.request.opcode.loud();
        let stored = match admit(store, self.key().len(), flags, value.len()) {
            Err(_) => Err(Status::TooLarge),
            Ok(()) => value
                .store(store, self.now, |value| self.store(store, flags, value))
                .map_err(|Full| Status::OutOfMemory),
        };
        match stored {
            Ok(Stored::Stored { cas, .. }) => {
                self.done(cas, out);
                return true;
            }
            Ok(Stored::Exists) => self.fail(Status::Exists, out),
            Ok(Stored::NotFound) => self.fail(Status::NotFound, out),
            Ok(Stored::NotStored) => {
                let status = match loud {
                    Opcode::Add => Status::Exists,
                    Opcode::Replace => Status::NotFound,
                    _ => Status::NotStored,
                };
                self.fail(status, out);
            }
            Err(status) => {
                note_refused(
                    self.key(),
                    mode(self.request).into(),
                    status == Status::TooLarge,
                );
                if loud == Opcode::Set {
                    // Lest the value that was to be replaced is read as current.
                    delete(store, self.key(), self.now);
                }
                if status == Status::OutOfMemory {
                    respond_with(self.request, status, "Out of memory allocating item", out);
                } else {
                    self.fail(status, out);
                }
            }
        }
        false
    }

    fn store(&self, store: &Store, flags: u32, value: Value<'_>) -> Result<Stored, Full> {
        let compare = self.request.cas;
        let mode = mode(self.request);
        let change = StoreChange {
            mode,
            key: self.key(),
            binary_key: false,
            flags,
            exptime: self.exptime(),
            compare,
            stale_allowed: false,
            vivify: false,
            cas: None,
            value,
            value_bytes_max: value_bytes_max(store, self.key().len()),
        };
        store.store(&change, self.now)
    }

    fn delete(&self, store: &Store, out: &mut Vec<u8>) -> bool {
        let compare = self.request.cas;
        let status = store.read(store.home(self.key()), |shard, tag| {
            let Some(at) = shard.find(tag, self.key(), self.now) else {
                shard.counters.delete_misses += 1;
                return Status::NotFound;
            };
            if compare != 0 && compare != shard.get(at).item.cas() {
                return Status::Exists;
            }
            shard.counters.delete_hits += 1;
            shard.note_removal(at, Removed::Delete);
            shard.remove(at);
            Status::Ok
        });
        if status == Status::Ok {
            self.done(0, out);
        } else {
            self.fail(status, out);
        }
        status == Status::Ok
    }
}

/// Counting.
impl Asked<'_> {
    fn count(&self, store: &Store, out: &mut Vec<u8>) -> bool {
        let longest = number_bytes_max(store, self.key().len());
        let counted = store.write(store.home(self.key()), self.now, |shard, tag| {
            self.count_in(shard, tag, longest)
        });
        match counted {
            Ok(Ok((number, cas))) => {
                if !self.is_quiet() {
                    head(self.request, Status::Ok, cas, [0, 0, size_of::<u64>()], out);
                    out.extend_from_slice(&number.to_be_bytes());
                }
                return true;
            }
            Ok(Err(status)) => self.fail(status, out),
            Err(Full) => {
                let text = if is_new(store, self.key(), self.now) {
                    "Out of memory allocating new item"
                } else {
                    "Out of memory incrementing value"
                };
                respond_with(self.request, Status::OutOfMemory, text, out);
            }
        }
        false
    }

    /// The number now, and the item's cas id.
    fn count_in(
        &self,
        shard: &mut Shard,
        tag: Tag,
        longest: Longest,
    ) -> Result<Result<(u64, u64), Status>, Full> {
        let Extras::Count {
            delta,
            initial,
            exptime,
        } = self.request.extras
        else {
            return Ok(Err(Status::InvalidArguments));
        };
        let up = self.request.opcode.loud() == Opcode::Increment;
        let count = Count {
            key: self.key(),
            up,
            delta,
            compare: self.request.cas,
            cas: None,
            exptime: None,
            value_bytes_max: longest,
        };
        Ok(match shard.count(tag, &count, self.now)? {
            Counted::Done { number, cas, .. } => Ok((number, cas)),
            Counted::NotFound if exptime == NO_VIVIFY => {
                shard.count_miss(up);
                Err(Status::NotFound)
            }
            Counted::NotFound => {
                let at = self.create(shard, tag, initial)?;
                Ok((initial, shard.get(at).item.cas()))
            }
            Counted::Exists => Err(Status::Exists),
            Counted::NotANumber => Err(Status::NotANumber),
        })
    }

    /// Makes the item that was missing.
    fn create(&self, shard: &mut Shard, tag: Tag, number: u64) -> Result<At, Full> {
        let digits = Decimal::new(number);
        let put = Put {
            key: self.key(),
            flags: 0,
            exptime: self.exptime(),
            cas: None,
            state: State::default(),
            value: Value::small(digits.as_bytes()),
        };
        let at = shard.put(tag, None, &put, self.now)?;
        shard.note_new(&put, How::Add, self.now);
        Ok(at)
    }
}
