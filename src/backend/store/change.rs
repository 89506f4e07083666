//! What clients can do to an item, whatever the dialect they say it in.

use super::hash::Tag;
use super::item::State;
use super::memory::LARGE_BYTES_MIN;
use super::shard::{At, Found, Full, Put, Shard, Value};
use super::value::Owned;
use crate::protocol::number::{Decimal, read_stored, read_stored_in};

/// The longest value of an item without client flags, in bytes, and of one that has
/// some, which in memcached take of its room.
pub type Longest = [usize; 2];

/// The longest value of an item with these flags.
pub(super) fn longest([without, with]: Longest, flags: u32) -> usize {
    if flags == 0 { without } else { with }
}

/// How a value is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Always.
    Set,
    /// If the key holds nothing.
    Add,
    /// If the key holds something.
    Replace,
    /// If the cas id fits.
    Cas,
    /// Behind what the key holds.
    Append,
    /// Before what the key holds.
    Prepend,
}

/// A value to be stored.
#[derive(Clone, Copy, Debug)]
pub struct Store<'a> {
    /// How.
    pub mode: Mode,
    /// The key.
    pub key: &'a [u8],
    /// Whether the key is told in base64.
    pub binary_key: bool,
    /// The client's flags.
    pub flags: u32,
    /// When it expires, in seconds; 0 if never.
    pub exptime: u32,
    /// The cas id that the item must have, or 0.
    pub compare: u64,
    /// Whether a value that comes too late is stored all the same, as a stale
    /// one.
    pub stale_allowed: bool,
    /// Whether appending makes an item where there is none.
    pub vivify: bool,
    /// The cas id to give the item; `None` for the next one.
    pub cas: Option<u64>,
    /// The value, or what is added to it.
    pub value: Value<'a>,
    /// The longest value there may be.
    pub value_bytes_max: Longest,
}

/// What became of a [`Store`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// It is stored.
    Stored {
        /// The item's cas id.
        cas: u64,
        /// The length of the value that the item has now.
        len: usize,
    },
    /// A condition was not met.
    NotStored,
    /// The item has another cas id.
    Exists,
    /// No item to compare with.
    NotFound,
}

/// A number to be changed.
#[derive(Clone, Copy, Debug)]
pub struct Count<'a> {
    /// The key.
    pub key: &'a [u8],
    /// Whether it is counted up.
    pub up: bool,
    /// By how much.
    pub delta: u64,
    /// The cas id that the item must have, or 0.
    pub compare: u64,
    /// The cas id to give the item; `None` for the next one.
    pub cas: Option<u64>,
    /// When the item expires from now on; `None` as before.
    pub exptime: Option<u32>,
    /// The longest value in which a number is looked for.
    pub value_bytes_max: Longest,
}

/// What became of a [`Count`].
#[derive(Clone, Copy, Debug)]
pub enum Counted {
    /// The number now.
    Done {
        /// The number.
        number: u64,
        /// The item's cas id.
        cas: u64,
        /// When the item expired before.
        exptime: u32,
    },
    /// What the item holds is no number.
    NotANumber,
    /// No such item.
    NotFound,
    /// The item has another cas id.
    Exists,
}

/// What a [`Store`] stores when nothing speaks against it.
fn as_put<'a>(store: &Store<'a>) -> Put<'a> {
    Put {
        key: store.key,
        flags: store.flags,
        exptime: store.exptime,
        cas: store.cas,
        state: State {
            binary_key: store.binary_key,
            ..State::default()
        },
        value: store.value,
    }
}

/// Whether an item may be changed by one who expects a cas id.
pub(super) fn fits(compare: u64, cas: u64) -> bool {
    compare == 0 || compare == cas
}

/// The number that the value of an item begins with, if it does.
fn number_in(found: &Found<'_>) -> Option<u64> {
    let tail = found.item.tail();
    if found.large.is_none() {
        return read_stored(tail);
    }
    read_stored_in(found.parts().chain([tail]))
}

impl Shard {
    /// Stores a value, if it is to be.
    ///
    /// # Errors
    ///
    /// [`Full`] if there is no memory for it.
    pub fn store(&mut self, tag: Tag, store: &Store<'_>, now: u32) -> Result<Stored, Full> {
        self.store_ready(tag, store, None, now)
    }

    /// As [`Self::store`], where what is made of the old value and what is added to it
    /// may be ready.
    pub(super) fn store_ready(
        &mut self,
        tag: Tag,
        store: &Store<'_>,
        ready: Option<&Owned>,
        now: u32,
    ) -> Result<Stored, Full> {
        let stored = self.try_store(tag, store, ready, now)?;
        self.counters.sets += 1;
        self.note_store(tag, store, stored, now);
        Ok(stored)
    }

    fn try_store(
        &mut self,
        tag: Tag,
        store: &Store<'_>,
        ready: Option<&Owned>,
        now: u32,
    ) -> Result<Stored, Full> {
        let Some(old) = self.find(tag, store.key, now) else {
            return self.store_new(tag, store, now);
        };
        let item = self.get(old).item;
        let cas = item.cas();
        let mut put = as_put(store);
        match store.mode {
            Mode::Set | Mode::Replace => {}
            Mode::Add => {
                self.use_once(old, now);
                return Ok(Stored::NotStored);
            }
            Mode::Cas if store.compare != 0 && store.compare == cas => {}
            Mode::Cas if store.stale_allowed && store.compare != 0 && store.compare < cas => {
                put.exptime = item.exptime();
                put.state.stale = true;
                put.state.token_sent = item.word().state().token_sent;
            }
            Mode::Cas => {
                self.counters.cas_badval += 1;
                return Ok(Stored::Exists);
            }
            Mode::Append | Mode::Prepend => {
                if !fits(store.compare, cas) {
                    return Ok(Stored::Exists);
                }
                return self.extend(tag, old, store, ready, now);
            }
        }
        let stored = self.put_stored(tag, Some(old), &put, now)?;
        self.counters.cas_hits += u64::from(store.mode == Mode::Cas);
        Ok(stored)
    }

    /// Stores a value whose key holds nothing.
    fn store_new(&mut self, tag: Tag, store: &Store<'_>, now: u32) -> Result<Stored, Full> {
        match store.mode {
            Mode::Set | Mode::Add => {}
            Mode::Append | Mode::Prepend if store.vivify => {}
            Mode::Cas => {
                self.counters.cas_misses += 1;
                return Ok(Stored::NotFound);
            }
            Mode::Replace | Mode::Append | Mode::Prepend => return Ok(Stored::NotStored),
        }
        self.put_stored(tag, None, &as_put(store), now)
    }

    fn put_stored(
        &mut self,
        tag: Tag,
        old: Option<At>,
        put: &Put<'_>,
        now: u32,
    ) -> Result<Stored, Full> {
        let at = self.put(tag, old, put, now)?;
        let found = self.get(at);
        Ok(Stored::Stored {
            cas: found.item.cas(),
            len: found.value_len(),
        })
    }

    /// Appends or prepends to an item.
    fn extend(
        &mut self,
        tag: Tag,
        old: At,
        store: &Store<'_>,
        ready: Option<&Owned>,
        now: u32,
    ) -> Result<Stored, Full> {
        let found = self.get(old);
        // The item keeps its flags, whatever those of the request are.
        let longest = longest(store.value_bytes_max, found.item.flags());
        if found.value_len() + store.value.len() > longest {
            return Ok(Stored::NotStored);
        }
        let gathered;
        let owned = match ready {
            Some(ready) => ready,
            None => {
                gathered = self.gather(old, store)?;
                &gathered
            }
        };
        let put = Put {
            flags: found.item.flags(),
            exptime: found.item.exptime(),
            // memcached writes a new item, which does not remember how its key
            // was told.
            state: State::default(),
            value: owned.as_value(),
            ..as_put(store)
        };
        self.put_stored(tag, Some(old), &put, now)
    }

    /// Notes that there was no number to count.
    pub fn count_miss(&mut self, up: bool) {
        if up {
            self.counters.incr_misses += 1;
        } else {
            self.counters.decr_misses += 1;
        }
    }

    /// Counts the number that an item holds up or down.
    ///
    /// # Errors
    ///
    /// [`Full`] if the number grows and there is no memory for that.
    pub fn count(&mut self, tag: Tag, count: &Count<'_>, now: u32) -> Result<Counted, Full> {
        let Some(old) = self.find(tag, count.key, now) else {
            return Ok(Counted::NotFound);
        };
        let found = self.get(old);
        let item = found.item;
        let before = found.value_len();
        if before == 0 || before > longest(count.value_bytes_max, item.flags()) {
            return Ok(Counted::NotANumber);
        }
        if !fits(count.compare, item.cas()) {
            return Ok(Counted::Exists);
        }
        let Some(number) = number_in(&found) else {
            return Ok(Counted::NotANumber);
        };
        let number = if count.up {
            number.wrapping_add(count.delta)
        } else {
            number.saturating_sub(count.delta)
        };
        let digits = Decimal::new(number);
        // A number that gets shorter keeps its room, filled with blanks; one that
        // gets longer is a new item, as in memcached, and forgets what it was.
        let len = digits.as_bytes().len();
        let blanks = vec![b' '; before.saturating_sub(len)];
        let tail = [digits.as_bytes(), &blanks];
        let owned;
        let value = if before < LARGE_BYTES_MIN {
            Value { large: None, tail }
        } else {
            owned = Owned::gather(&self.memory, &tail)?;
            owned.as_value()
        };
        let is_same = len <= before;
        let state = if is_same {
            item.word().state()
        } else {
            State::default()
        };
        let put = Put {
            key: count.key,
            flags: item.flags(),
            exptime: count.exptime.unwrap_or(item.exptime()),
            cas: count.cas,
            state,
            value,
        };
        let exptime = item.exptime();
        let at = self.put(tag, Some(old), &put, now)?;
        // One that keeps its room is the same item.
        self.counters.total_items -= u64::from(is_same);
        if count.up {
            self.counters.incr_hits += 1;
        } else {
            self.counters.decr_hits += 1;
        }
        Ok(Counted::Done {
            number,
            cas: self.get(at).item.cas(),
            exptime,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::store::hash::Hash;
    use crate::backend::store::memory::Memory;
    use crate::backend::store::shard::Settings;
    use crate::backend::store::tests::plain::item;

    fn shard() -> Shard {
        let settings = Settings {
            evicts: true,
            cas: true,
            seed: 7,
            number: 0,
            shards: 1,
        };
        Shard::new(Memory::new(8 << 20), settings)
    }

    fn tag(key: &[u8]) -> Tag {
        Hash::new(key, 7).tag()
    }

    fn put(shard: &mut Shard, key: &[u8], value: &[u8]) -> At {
        let put = item(key, Value::small(value));
        shard.put(tag(key), None, &put, 1000).unwrap()
    }

    #[test]
    fn a_number_that_grows_is_a_new_item() {
        let mut shard = shard();
        put(&mut shard, b"key", b"8");
        let mut totals = Vec::new();
        for _ in 0..4 {
            let count = Count {
                key: b"key",
                up: true,
                delta: 1,
                value_bytes_max: [1000; 2],
                compare: 0,
                cas: None,
                exptime: None,
            };
            shard.count(tag(b"key"), &count, 1000).unwrap();
            totals.push(shard.counters.total_items);
        }
        assert_eq!(totals, [1, 2, 2, 2]);
    }

    #[test]
    fn a_segment_begun_for_an_item_that_is_touched_is_young() {
        let mut shard = shard();
        let first = put(&mut shard, b"first", &[1; 10_000]);
        let segment = |at: At| at.location.segment();
        for number in 0..25 {
            let at = put(&mut shard, format!("key-{number}").as_bytes(), &[1; 10_000]);
            assert_eq!(segment(at), segment(first));
        }
        let touched = shard.set_exptime(first, 3000, 2000).unwrap();
        assert_ne!(segment(touched), segment(first));
        assert_eq!(shard.segments.about(segment(touched)).born, 2000);
    }
}
