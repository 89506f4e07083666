//! The meta dialect.

use std::io::Write as _;

use super::text::{NOT_A_NUMBER, to_u64, write_data};
use super::{
    Held, OUT_OF_MEMORY, TOO_LARGE, admit, delete, expiry, is_new, line, note_refused,
    number_bytes_max, remaining, value_bytes_max,
};
use crate::backend::sink::Sink;
use crate::backend::store::{
    At, Count, Counted, Full, Longest, Mode, Put, Shard, State, Store, StoreChange, Stored, Tag,
    Value,
};
use crate::backend::watch::{How, Removed};
use crate::protocol::Error;
use crate::protocol::key::{decode_base64, encode_base64};
use crate::protocol::meta::{Meta, Mode as Wanted, Verb};
use crate::protocol::number::{Decimal, write_u64};
use crate::protocol::reply::Outcome;
use crate::protocol::request::Words;

/// `mg`, `ms`, `md`, `ma`, `me`.
pub(super) fn execute(
    store: &Store,
    request: &Meta<'_>,
    value: Held<'_>,
    now: u32,
    out: &mut impl Sink,
) -> Outcome {
    let key = request.item_key();
    let asked = Asked {
        request,
        key: key.as_bytes(),
        now,
    };
    match request.verb {
        Verb::Get => asked.get(store, out),
        Verb::Set => asked.set(store, &value, out.bytes()),
        Verb::Delete => asked.delete(store, out.bytes()),
        Verb::Arithmetic => asked.count(store, out.bytes()),
        Verb::Debug => asked.debug(store, out.bytes()),
    }
}

/// A meta request, with what all of them need.
#[derive(Clone, Copy)]
struct Asked<'a> {
    request: &'a Meta<'a>,
    /// The bytes the item is called by.
    key: &'a [u8],
    now: u32,
}

impl<'a> Asked<'a> {
    fn has(&self, letter: u8) -> bool {
        self.request.flags.has(letter)
    }

    /// The flags, in the order they were sent, as letter and whole word.
    fn words(&self) -> impl Iterator<Item = (u8, &'a [u8])> + use<'a> {
        Words::new(self.request.words).filter_map(|word| Some((*word.first()?, word)))
    }

    /// When the item expires that is made because there was none.
    fn vivified(&self) -> Option<u32> {
        self.request.vivify.map(|exptime| expiry(exptime, self.now))
    }

    /// When the item is to expire from now on.
    fn exptime(&self) -> Option<u32> {
        self.request
            .exptime
            .map(|exptime| expiry(exptime, self.now))
    }

    /// The last word on when the item expires: `T` and, for one that has just
    /// been made, `N` have their say in the order they were sent.
    fn last_exptime(&self, before: u32, created: bool) -> u32 {
        self.words().fold(before, |at, (letter, _)| {
            self.exptime_after(at, letter, created)
        })
    }

    fn exptime_after(&self, before: u32, letter: u8, created: bool) -> u32 {
        match letter {
            b'T' => self.exptime().unwrap_or(before),
            b'N' if created => self.vivified().unwrap_or(before),
            _ => before,
        }
    }

    /// Ends a reply that shows only what the client sent.
    fn end(&self, out: &mut Vec<u8>) {
        for (letter, word) in self.words() {
            self.echo(letter, word, self.has(b'b'), out);
        }
        out.extend_from_slice(b"\r\n");
    }

    /// The flags that go back as they came.
    fn echo(&self, letter: u8, word: &[u8], binary_key: bool, out: &mut Vec<u8>) {
        match letter {
            b'O' => {
                out.push(b' ');
                out.extend_from_slice(word);
            }
            b'k' => {
                out.extend_from_slice(b" k");
                if binary_key {
                    encode_base64(out, self.key);
                    out.extend_from_slice(b" b");
                } else {
                    out.extend_from_slice(self.key);
                }
            }
            _ => {}
        }
    }
}

/// A space, a letter, a number.
fn number(out: &mut Vec<u8>, letter: u8, value: u64) {
    out.extend_from_slice(&[b' ', letter]);
    write_u64(out, value);
}

/// Seconds since an item was last used. Another thread may have used it in a second
/// that has not come for this one.
fn idle_seconds(accessed: u32, now: u32) -> u32 {
    now.saturating_sub(accessed)
}

fn time_left(out: &mut Vec<u8>, exptime: u32, now: u32) {
    if exptime == 0 {
        out.extend_from_slice(b" t-1");
    } else {
        number(out, b't', u64::from(remaining(exptime, now)));
    }
}

/// `mg`.
impl Asked<'_> {
    fn get(&self, store: &Store, out: &mut impl Sink) -> Outcome {
        let home = store.home(self.key);
        let got = if self.request.vivify.is_none() && self.request.exptime.is_none() {
            let read = |shard: &mut Shard, tag| self.get_from(shard, tag, out);
            store.read(home, read)
        } else {
            store
                .write(home, self.now, |shard, tag| self.get_from(shard, tag, out))
                .or_else(|Full| store.read(home, |shard, tag| self.miss_new(shard, tag)))
        };
        match got {
            Ok(true) => Outcome::Hit,
            Ok(false) => {
                if !self.request.is_quiet() {
                    out.bytes().extend_from_slice(b"EN");
                    self.end(out.bytes());
                }
                Outcome::Miss
            }
            Err(Full) => {
                line(out.bytes(), OUT_OF_MEMORY);
                Outcome::ServerError
            }
        }
    }

    /// Says whether there is something to tell.
    fn get_from(&self, shard: &mut Shard, tag: Tag, out: &mut impl Sink) -> Result<bool, Full> {
        let found = shard.find(tag, self.key, self.now);
        let (at, before, created) = match (found, self.vivified()) {
            (Some(at), _) => {
                let before = shard.get(at).item.exptime();
                let exptime = self.last_exptime(before, false);
                let at = shard.set_exptime(at, exptime, self.now)?;
                (at, before, false)
            }
            (None, Some(_)) => (self.create(shard, tag)?, 0, true),
            (None, None) => {
                shard.counters.gets += 1;
                shard.counters.get_misses += 1;
                return Ok(false);
            }
        };
        if self.has(b'T') {
            shard.counters.touches += 1;
            shard.counters.touch_hits += 1;
        } else {
            shard.counters.gets += 1;
            shard.counters.get_hits += 1;
        }
        let won = self.write_item(shard, at, before, created, out);
        if won {
            let state = shard.get(at).item.word().state();
            let token_sent = true;
            shard.set_state(
                at,
                State {
                    token_sent,
                    ..state
                },
            );
        }
        if !self.has(b'u') {
            shard.bump(at, self.now);
        }
        Ok(true)
    }

    /// There is no memory for the item that was missing: a miss like any other.
    fn miss_new(&self, shard: &mut Shard, tag: Tag) -> Result<bool, Full> {
        if shard.find(tag, self.key, self.now).is_some() {
            return Err(Full);
        }
        shard.counters.gets += 1;
        shard.counters.get_misses += 1;
        Ok(false)
    }

    /// Makes the item that was missing.
    fn create(&self, shard: &mut Shard, tag: Tag) -> Result<At, Full> {
        let put = Put {
            key: self.key,
            flags: 0,
            exptime: self.last_exptime(0, true),
            cas: self.request.new_cas,
            // As in memcached it does not remember how its key was told.
            state: State::default(),
            value: Value::small(b""),
        };
        shard.put(tag, None, &put, self.now)
    }

    /// Writes the reply. Says whether the client has won the right to refresh the
    /// item.
    fn write_item(
        &self,
        shard: &Shard,
        at: At,
        before: u32,
        created: bool,
        out: &mut impl Sink,
    ) -> bool {
        let found = shard.get(at);
        let item = found.item;
        let state = item.word().state();
        let unchanged = self.request.cas == Some(item.cas());
        let with_value = self.has(b'v') && !unchanged;
        let bytes = out.bytes();
        if with_value {
            bytes.extend_from_slice(b"VA ");
            write_u64(bytes, to_u64(found.value_len()));
        } else {
            bytes.extend_from_slice(b"HD");
        }
        let mut exptime = before;
        let mut won = false;
        for (letter, word) in self.words() {
            exptime = self.exptime_after(exptime, letter, created);
            match letter {
                b'N' => won |= created,
                b'R' => {
                    let soon = self
                        .request
                        .recache
                        .map_or(0, |time| expiry(time, self.now));
                    won |= !state.token_sent && !created && exptime != 0 && exptime < soon;
                }
                b's' => number(bytes, b's', to_u64(found.value_len())),
                b't' => time_left(bytes, exptime, self.now),
                b'c' => number(bytes, b'c', item.cas()),
                b'f' => number(bytes, b'f', u64::from(item.flags())),
                b'l' => number(
                    bytes,
                    b'l',
                    u64::from(idle_seconds(item.accessed(), self.now)),
                ),
                b'h' => number(bytes, b'h', u64::from(state.fetched)),
                _ => self.echo(letter, word, state.binary_key, bytes),
            }
        }
        if state.token_sent {
            bytes.extend_from_slice(b" Z");
        }
        if state.stale {
            bytes.extend_from_slice(b" X");
            won |= !state.token_sent;
        }
        if won {
            bytes.extend_from_slice(b" W");
        }
        bytes.extend_from_slice(b"\r\n");
        if with_value {
            write_data(&found, out);
        }
        won
    }
}

/// How `ms` stores its value.
pub(super) fn mode(request: &Meta<'_>) -> Mode {
    match request.mode {
        Wanted::Set | Wanted::Replace if request.cas.is_some() => Mode::Cas,
        Wanted::Replace => Mode::Replace,
        Wanted::Add => Mode::Add,
        Wanted::Append => Mode::Append,
        Wanted::Prepend => Mode::Prepend,
        Wanted::Set | Wanted::Incr | Wanted::Decr => Mode::Set,
    }
}

/// `ms`.
impl Asked<'_> {
    fn set(&self, store: &Store, value: &Held<'_>, out: &mut Vec<u8>) -> Outcome {
        let request = self.request;
        let stored =
            admit(store, self.key.len(), request.client_flags, value.len()).and_then(|()| {
                value
                    .store(store, self.now, |value| self.store(store, value))
                    .map_err(|Full| OUT_OF_MEMORY)
            });
        let (outcome, code, cas, len) = match stored {
            Ok(Stored::Stored { cas, len }) => (Outcome::Done, b"HD", cas, len),
            Ok(Stored::NotStored) => (Outcome::NotStored, b"NS", 0, value.len()),
            Ok(Stored::Exists) => (Outcome::Exists, b"EX", 0, value.len()),
            Ok(Stored::NotFound) => (Outcome::NotFound, b"NF", 0, value.len()),
            Err(text) => {
                note_refused(self.key, mode(request).into(), text == TOO_LARGE);
                delete(store, self.key, self.now);
                line(out, text);
                return Outcome::ServerError;
            }
        };
        if outcome == Outcome::Done && request.is_quiet() {
            return outcome;
        }
        out.extend_from_slice(code);
        for (letter, word) in self.words() {
            match letter {
                b'c' => number(out, b'c', cas),
                b's' => number(out, b's', to_u64(len)),
                _ => self.echo(letter, word, self.has(b'b'), out),
            }
        }
        out.extend_from_slice(b"\r\n");
        outcome
    }

    fn store(&self, store: &Store, value: Value<'_>) -> Result<Stored, Full> {
        let request = self.request;
        let mode = mode(request);
        let extends = matches!(mode, Mode::Append | Mode::Prepend);
        let exptime = match self.vivified().filter(|_| extends) {
            Some(exptime) => exptime,
            None => self.exptime().unwrap_or(0),
        };
        let change = StoreChange {
            mode,
            key: self.key,
            binary_key: self.has(b'b'),
            flags: request.client_flags,
            exptime,
            // As memcached without cas ids: what is added to may have any.
            compare: request
                .cas
                .filter(|_| !extends || store.settings().cas)
                .unwrap_or(0),
            stale_allowed: self.has(b'I'),
            vivify: request.vivify.is_some(),
            // memcached takes 0 for none, here and nowhere else.
            cas: request.new_cas.filter(|&cas| cas != 0),
            value,
            value_bytes_max: value_bytes_max(store, self.key.len()),
        };
        store.store(&change, self.now)
    }
}

/// `md`.
impl Asked<'_> {
    fn delete(&self, store: &Store, out: &mut Vec<u8>) -> Outcome {
        let deleted = store.write(store.home(self.key), self.now, |shard, tag| {
            self.delete_from(shard, tag)
        });
        let (outcome, code) = match deleted {
            Ok(Outcome::Done) if self.request.is_quiet() => return Outcome::Done,
            Ok(Outcome::Done) => (Outcome::Done, b"HD"),
            Ok(Outcome::Exists) => (Outcome::Exists, b"EX"),
            Ok(_) => (Outcome::NotFound, b"NF"),
            Err(Full) => {
                line(out, "SERVER_ERROR out of memory");
                return Outcome::ServerError;
            }
        };
        out.extend_from_slice(code);
        self.end(out);
        outcome
    }

    fn delete_from(&self, shard: &mut Shard, tag: Tag) -> Result<Outcome, Full> {
        let Some(mut at) = shard.find(tag, self.key, self.now) else {
            shard.counters.delete_misses += 1;
            return Ok(Outcome::NotFound);
        };
        let cas = shard.get(at).item.cas();
        if self.request.cas.is_some_and(|compare| compare != cas) {
            shard.counters.delete_misses += 1;
            return Ok(Outcome::Exists);
        }
        if self.has(b'x') {
            // Its value goes, the item stays.
            let put = Put {
                key: self.key,
                flags: self.request.client_flags,
                exptime: self.exptime().unwrap_or(0),
                cas: self.request.new_cas.or(Some(cas)),
                // As in memcached it does not remember how its key was told.
                state: State::default(),
                value: Value::small(b""),
            };
            at = shard.put(tag, Some(at), &put, self.now)?;
            shard.note_new(&put, How::Set, self.now);
        }
        if self.has(b'I') {
            if let Some(exptime) = self.exptime() {
                at = shard.set_exptime(at, exptime, self.now)?;
            }
            let state = State {
                stale: true,
                token_sent: false,
                ..shard.get(at).item.word().state()
            };
            shard.set_state(at, state);
            let cas = shard.new_cas(self.request.new_cas);
            shard.set_cas(at, cas);
            return Ok(Outcome::Done);
        }
        shard.counters.delete_hits += 1;
        shard.note_removal(at, Removed::Meta);
        if !self.has(b'x') {
            shard.remove(at);
        }
        Ok(Outcome::Done)
    }
}

/// `ma`.
impl Asked<'_> {
    fn count(&self, store: &Store, out: &mut Vec<u8>) -> Outcome {
        let longest = number_bytes_max(store, self.key.len());
        let counted = store.write(store.home(self.key), self.now, |shard, tag| {
            self.count_in(shard, tag, longest)
        });
        match counted {
            Ok(Told::Number(told)) => {
                if !self.request.is_quiet() {
                    self.write_number(&told, out);
                }
                Outcome::Done
            }
            Ok(Told::Nothing) => {
                out.extend_from_slice(b"NF");
                self.end(out);
                Outcome::NotFound
            }
            Ok(Told::Exists) => {
                out.extend_from_slice(b"EX");
                self.end(out);
                Outcome::Exists
            }
            Ok(Told::NotANumber) => {
                line(out, NOT_A_NUMBER);
                Outcome::ClientError
            }
            Err(Full) => {
                line(
                    out,
                    if is_new(store, self.key, self.now) {
                        "SERVER_ERROR Out of memory allocating new item"
                    } else {
                        "SERVER_ERROR out of memory"
                    },
                );
                Outcome::ServerError
            }
        }
    }

    fn count_in(&self, shard: &mut Shard, tag: Tag, longest: Longest) -> Result<Told, Full> {
        let up = self.request.mode != Wanted::Decr;
        let count = Count {
            key: self.key,
            up,
            delta: self.request.delta,
            compare: self.request.cas.unwrap_or(0),
            cas: self.request.new_cas,
            exptime: self.exptime(),
            value_bytes_max: longest,
        };
        Ok(match shard.count(tag, &count, self.now)? {
            Counted::Done {
                number,
                cas,
                exptime,
            } => Told::Number(Number {
                number,
                cas,
                exptime,
                created: false,
            }),
            Counted::NotFound if self.request.vivify.is_some() => {
                let number = self.request.initial;
                let digits = Decimal::new(number);
                let put = Put {
                    key: self.key,
                    flags: 0,
                    exptime: self.last_exptime(0, true),
                    cas: self.request.new_cas,
                    state: State::default(),
                    value: Value::small(digits.as_bytes()),
                };
                let at = shard.put(tag, None, &put, self.now)?;
                shard.note_new(&put, How::Add, self.now);
                Told::Number(Number {
                    number,
                    cas: shard.get(at).item.cas(),
                    exptime: 0,
                    created: true,
                })
            }
            Counted::NotFound => {
                shard.count_miss(up);
                Told::Nothing
            }
            Counted::Exists => Told::Exists,
            Counted::NotANumber => Told::NotANumber,
        })
    }

    fn write_number(&self, told: &Number, out: &mut Vec<u8>) {
        let digits = Decimal::new(told.number);
        let with_value = self.has(b'v');
        if with_value {
            out.extend_from_slice(b"VA ");
            write_u64(out, to_u64(digits.as_bytes().len()));
        } else {
            out.extend_from_slice(b"HD");
        }
        let mut exptime = told.exptime;
        for (letter, word) in self.words() {
            exptime = self.exptime_after(exptime, letter, told.created);
            match letter {
                b'c' => number(out, b'c', told.cas),
                b't' => time_left(out, exptime, self.now),
                _ => self.echo(letter, word, self.has(b'b'), out),
            }
        }
        if with_value {
            out.extend_from_slice(b"\r\n");
            out.extend_from_slice(digits.as_bytes());
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// What `ma` has to tell.
enum Told {
    Number(Number),
    Nothing,
    Exists,
    NotANumber,
}

/// A number that was counted.
struct Number {
    number: u64,
    cas: u64,
    /// When the item expired before.
    exptime: u32,
    /// Whether the item was made just now.
    created: bool,
}

/// `me`.
impl Asked<'_> {
    fn debug(&self, store: &Store, out: &mut Vec<u8>) -> Outcome {
        if self.has(b'b') && decode_base64(self.request.key).is_none() {
            line(out, &Error::BadFormat.to_string());
            return Outcome::ClientError;
        }
        store.read(store.home(self.key), |shard, tag| {
            shard.counters.meta_debugs += 1;
            let Some(at) = shard.find(tag, self.key, self.now) else {
                line(out, "EN");
                return Outcome::Miss;
            };
            let found = shard.get(at);
            let item = found.item;
            out.extend_from_slice(b"ME ");
            if item.word().state().binary_key {
                encode_base64(out, self.key);
            } else {
                out.extend_from_slice(self.key);
            }
            let exp = match item.exptime() {
                0 => -1,
                exptime => i64::from(exptime) - i64::from(self.now),
            };
            let fetched = if item.word().state().fetched {
                "yes"
            } else {
                "no"
            };
            // Writing to a vector cannot fail. There is one class of items.
            let _ = write!(
                out,
                " exp={exp} la={} cas={} fetch={fetched} cls=1 size={}\r\n",
                idle_seconds(item.accessed(), self.now),
                item.cas(),
                found.cost(),
            );
            Outcome::Hit
        })
    }
}
