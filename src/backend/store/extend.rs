//! Adding to a value that is large, or becomes so.
//!
//! What there is and what is added are copied together into memory of their own. That
//! takes long, and others may have to be evicted for it; so the shard is not locked
//! meanwhile. The old value is shared until then, its item kept from being evicted, and
//! the copy counts only if the key still holds what was copied.

use std::sync::Arc;

use super::change::{Mode, Store as Change, Stored, fits, longest};
use super::hash::Tag;
use super::large::Large;
use super::log::Queue;
use super::memory::LARGE_BYTES_MIN;
use super::shard::{At, Full, Shard};
use super::value::{Filling, Owned};
use super::{Home, SHARD_BYTES_LEAST, Store};

/// How often a value is copied anew because it has changed meanwhile. Then it is copied
/// while its shard is locked.
const ATTEMPTS_MAX: usize = 4;

/// Times that an item is moved instead of evicted: enough to outlast all others, each of
/// which is spared three times at most. Then its queue goes no further.
const ROUNDS_MAX: u32 = 8;

/// What a key held, to be added to.
#[derive(Debug)]
struct Base {
    large: Option<Arc<Large>>,
    tail: Vec<u8>,
}

/// An item that is not to be evicted for now.
#[derive(Debug)]
pub(super) struct Kept {
    tag: Tag,
    queue: Queue,
    /// What its large value costs.
    cost: usize,
    /// Times that it will still be moved instead.
    rounds: u32,
}

/// Sees to it that an item is not kept for longer.
struct Keeping<'a>(Home<'a>);

impl Drop for Keeping<'_> {
    fn drop(&mut self) {
        let Home { slot, tag } = self.0;
        let mut shard = slot.lock();
        let place = shard.kept.iter().position(|kept| kept.tag == tag);
        if let Some(place) = place {
            shard.kept.swap_remove(place);
        }
        slot.note(&shard);
    }
}

impl Store {
    /// Stores a value, if it is to be.
    ///
    /// # Errors
    ///
    /// [`Full`] if there is no memory for it, and none to be made.
    #[inline]
    pub fn store(&self, store: &Change<'_>, now: u32) -> Result<Stored, Full> {
        let home = self.home(store.key);
        if !matches!(store.mode, Mode::Append | Mode::Prepend) {
            return self.write(home, now, |shard, tag| shard.store(tag, store, now));
        }
        self.add(home, store, now)
            .or_else(|Full| self.read(home, |shard, tag| shard.leave_as_is(tag, store, now)))
    }

    /// Adds to a value.
    fn add(&self, home: Home<'_>, store: &Change<'_>, now: u32) -> Result<Stored, Full> {
        if let Some(stored) = self.add_to_large(home, store, now)? {
            return Ok(stored);
        }
        self.write(home, now, |shard, tag| shard.store(tag, store, now))
    }

    /// Adds to a value, if that makes a large one which may be stored and it does not
    /// change all the time.
    fn add_to_large(
        &self,
        home: Home<'_>,
        store: &Change<'_>,
        now: u32,
    ) -> Result<Option<Stored>, Full> {
        for _ in 0..ATTEMPTS_MAX {
            let Some((base, _keeping)) = self.keep_base(home, store, now) else {
                break;
            };
            let ready = self.extended(&base, store, now)?;
            let stored = self.write(home, now, |shard, tag| {
                if !shard.still_holds(tag, store.key, &base, now) {
                    return Ok(None);
                }
                shard.store_ready(tag, store, Some(&ready), now).map(Some)
            })?;
            if stored.is_some() {
                return Ok(stored);
            }
        }
        Ok(None)
    }

    /// What is to be added to, if together they are a large value that may be stored.
    fn keep_base<'a>(
        &self,
        home: Home<'a>,
        store: &Change<'_>,
        now: u32,
    ) -> Option<(Base, Keeping<'a>)> {
        let mut shard = home.slot.lock();
        let base = shard.keep_base(home.tag, store, now)?;
        home.slot.note(&shard);
        Some((base, Keeping(home)))
    }

    /// The value and what is added to it, in memory of their own.
    fn extended(&self, base: &Base, store: &Change<'_>, now: u32) -> Result<Owned, Full> {
        let cost = base.large.as_ref().map_or(0, |large| large.cost());
        let len = base.len() + store.value.len();
        // Others are to have something too, the index and the item among them.
        let least = cost + len + self.slots.len() * SHARD_BYTES_LEAST;
        if least > self.memory.limit() {
            self.count_no_memory();
            return Err(Full);
        }
        let mut filling = Filling::new(&self.memory, len);
        // What is added has come in, and is not kept by anything yet.
        let added = store.value.large.map_or(0, |large| large.held());
        for piece in pieces(base.parts(), store) {
            filling.fill(piece, |filling| self.prepare_beside(added, filling, now))?;
        }
        Ok(filling.finish())
    }
}

impl Base {
    fn len(&self) -> usize {
        self.large.as_ref().map_or(0, |large| large.len()) + self.tail.len()
    }

    fn parts(&self) -> impl Iterator<Item = &[u8]> {
        let large = self.large.iter().flat_map(|large| large.parts());
        large.chain([&self.tail[..]])
    }
}

/// What there is and what is added to it, in their order.
fn pieces<'a>(old: impl Iterator<Item = &'a [u8]>, store: &Change<'a>) -> Vec<&'a [u8]> {
    let new = store.value.parts().chain(store.value.tail);
    if store.mode == Mode::Append {
        old.chain(new).collect()
    } else {
        new.chain(old).collect()
    }
}

impl Shard {
    /// The item of a key, without anything being done or counted.
    fn peek(&self, tag: Tag, key: &[u8], now: u32) -> Option<At> {
        if self.is_flush_due(now) {
            return None;
        }
        let matches = |location| self.segments.item(location).key() == key;
        let (position, location) = self.index.find(tag, matches)?;
        let is_expired = self.segments.item(location).is_expired(now);
        (!is_expired).then_some(At { position, location })
    }

    /// There is no memory for what an item would become. It stays what it is, which in
    /// memcached is no error; that there is no room for a new one is.
    fn leave_as_is(&mut self, tag: Tag, store: &Change<'_>, now: u32) -> Result<Stored, Full> {
        self.peek(tag, store.key, now).ok_or(Full)?;
        self.counters.sets += 1;
        self.note_store(tag, store, Stored::NotStored, now);
        Ok(Stored::NotStored)
    }

    /// Keeps an item that is to be added to, if that makes a large value which may be
    /// stored.
    fn keep_base(&mut self, tag: Tag, store: &Change<'_>, now: u32) -> Option<Base> {
        let at = self.peek(tag, store.key, now)?;
        let found = self.get(at);
        let len = found.value_len() + store.value.len();
        let longest = longest(store.value_bytes_max, found.item.flags());
        let is_large = (LARGE_BYTES_MIN..=longest).contains(&len);
        if !is_large || !fits(store.compare, found.item.cas()) {
            return None;
        }
        let base = Base {
            large: found.large.cloned(),
            tail: found.item.tail().to_vec(),
        };
        self.kept.push(Kept {
            tag,
            queue: self.segments.about(at.location.segment()).queue,
            cost: base.large.as_ref().map_or(0, |large| large.cost()),
            rounds: ROUNDS_MAX,
        });
        Some(base)
    }

    /// Whether a key holds what it did. A large value that is shared is the same only if
    /// it is where it was.
    fn still_holds(&self, tag: Tag, key: &[u8], base: &Base, now: u32) -> bool {
        self.peek(tag, key, now).is_some_and(|at| {
            let found = self.get(at);
            found.large.map(Arc::as_ptr) == base.large.as_ref().map(Arc::as_ptr)
                && found.item.tail() == base.tail
        })
    }

    /// What large values of items of a queue cost that are not to be evicted for now.
    pub(super) fn kept_cost(&self, queue: Queue) -> usize {
        let kept = self.kept.iter().filter(|kept| kept.queue == queue);
        kept.map(|kept| kept.cost).sum()
    }

    /// Whether an item is not to be evicted for now.
    #[inline]
    pub(super) fn is_kept(&self, tag: Tag) -> bool {
        self.kept.iter().any(|kept| kept.tag == tag)
    }

    /// Whether such an item may once more be moved to the main queue instead; notes it.
    pub(super) fn may_move(&mut self, tag: Tag) -> bool {
        let kept = self.kept.iter_mut().find(|kept| kept.tag == tag);
        kept.is_some_and(|kept| {
            kept.queue = Queue::Main;
            let may = kept.rounds > 0;
            kept.rounds = kept.rounds.saturating_sub(1);
            may
        })
    }

    /// Copies what an item holds and what is added to it together.
    pub(super) fn gather(&self, old: At, store: &Change<'_>) -> Result<Owned, Full> {
        let found = self.get(old);
        let pieces = pieces(found.parts().chain([found.item.tail()]), store);
        if found.value_len() + store.value.len() < LARGE_BYTES_MIN {
            return Ok(Owned::small(pieces.concat()));
        }
        Owned::gather(&self.memory, &pieces)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::store::tests::plain::change;
    use crate::backend::store::{Settings, Value};

    const NOW: u32 = 1000;

    fn store(mib: usize, threads: usize) -> Store {
        Store::new(Settings {
            memory_bytes: mib << 20,
            item_bytes_max: 64 << 20,
            threads,
            ..Settings::default()
        })
    }

    fn set(store: &Store, key: &[u8], value: &[u8]) {
        let owned = (value.len() >= LARGE_BYTES_MIN).then(|| store.gather(value, NOW).unwrap());
        let value = owned
            .as_ref()
            .map_or(Value::small(value), |owned| owned.as_value());
        store.store(&change(Mode::Set, key, value), NOW).unwrap();
    }

    fn append(store: &Store, key: &[u8], value: &[u8]) -> Result<Stored, Full> {
        let change = change(Mode::Append, key, Value::small(value));
        store.store(&change, NOW)
    }

    fn get(store: &Store, key: &[u8]) -> Option<Vec<u8>> {
        store.read(store.home(key), |shard, tag| {
            let at = shard.find(tag, key, NOW)?;
            let found = shard.get(at);
            let parts: Vec<_> = found.parts().chain([found.item.tail()]).collect();
            Some(parts.concat())
        })
    }

    fn fill(store: &Store, items: usize) {
        (0..items).for_each(|number| set(store, format!("key-{number}").as_bytes(), &[1; 1000]));
    }

    #[test]
    fn what_is_added_to_is_not_evicted_for_it() {
        for threads in [1, 8] {
            for read in [false, true] {
                let store = store(32, threads);
                set(&store, b"large", &[7; 13 << 20]);
                if read {
                    // Everybody else has been used as often as counts.
                    fill(&store, 10_000);
                    for _ in 0..3 {
                        (0..10_000).for_each(|number| {
                            let key = format!("key-{number}");
                            store.read(store.home(key.as_bytes()), |shard, tag| {
                                let at = shard.find(tag, key.as_bytes(), NOW).unwrap();
                                shard.bump(at, NOW);
                            });
                        });
                    }
                } else {
                    fill(&store, 30_000);
                    set(&store, b"large", &[7; 13 << 20]);
                }
                let before = store.totals();
                assert!(matches!(
                    append(&store, b"large", b"8"),
                    Ok(Stored::Stored { .. })
                ));
                let value = get(&store, b"large").unwrap();
                assert!(value.len() == (13 << 20) + 1 && value.ends_with(&[7, b'8']));
                // No more than it takes, and no more often than once.
                let evicted = store.totals().counters.evictions - before.counters.evictions;
                assert!(evicted < 16_000, "{evicted} of {}", before.items);
                assert!(store.slots.iter().all(|slot| slot.lock().kept.is_empty()));
            }
        }
    }

    #[test]
    fn nothing_is_evicted_for_what_cannot_be() {
        let store = store(32, 4);
        fill(&store, 30_000);
        set(&store, b"large", &[7; 16 << 20]);
        let before = store.totals().counters;
        assert_eq!(append(&store, b"large", b"8"), Ok(Stored::NotStored));
        let after = store.totals().counters;
        assert_eq!(after.evictions, before.evictions);
        assert_eq!(after.no_memory, before.no_memory + 1);
        assert_eq!(after.sets, before.sets + 1);
        assert_eq!(
            get(&store, b"large").map(|value| value.len()),
            Some(16 << 20)
        );
    }

    #[test]
    fn what_is_added_to_is_still_there_when_memory_does_not_suffice() {
        let store = store(32, 4);
        set(&store, b"large", &[7; 12 << 20]);
        // What a client that reads slowly has not taken yet.
        let lent = store.gather(&vec![1; 12 << 20], NOW).unwrap();
        fill(&store, 2000);
        assert_eq!(append(&store, b"large", b"8"), Ok(Stored::NotStored));
        assert_eq!(
            get(&store, b"large").map(|value| value.len()),
            Some(12 << 20)
        );
        drop(lent);
        let stored = append(&store, b"large", b"8");
        assert!(matches!(stored, Ok(Stored::Stored { .. })));
    }

    #[test]
    fn what_is_added_may_be_as_large_as_an_item_may_be() {
        let store = store(64, 1);
        set(&store, b"key", &[1; 2 << 20]);
        let added = store.gather(&vec![2; 20 << 20], NOW).unwrap();
        let change = change(Mode::Append, b"key", added.as_value());
        let stored = store.store(&change, NOW);
        assert!(matches!(stored, Ok(Stored::Stored { .. })));
        assert_eq!(get(&store, b"key").map(|value| value.len()), Some(22 << 20));
        drop(added);
        assert_eq!(store.pinned_bytes(), 0);
    }

    #[test]
    fn free_memory_is_for_values_on_their_way_but_for_an_eighth() {
        let store = store(64, 1);
        let coming: Vec<_> = (0..100)
            .map_while(|_| store.gather(&vec![1; 1 << 20], NOW).ok())
            .collect();
        assert!((54..=56).contains(&coming.len()), "{}", coming.len());
        fill(&store, 4000);
        assert!(store.gather(&vec![1; 1 << 20], NOW).is_err());
        assert_eq!(store.totals().counters.evictions, 0);
        assert!(store.pinned_bytes() >= coming.len() << 20);
        drop(coming);
        assert_eq!(store.pinned_bytes(), 0);
    }

    #[test]
    fn what_many_add_at_once_is_all_there() {
        let store = store(64, 4);
        set(&store, b"large", &[0; LEN]);
        const LEN: usize = 300_000;
        std::thread::scope(|scope| {
            for number in 1..=4u8 {
                let store = &store;
                scope.spawn(move || {
                    for _ in 0..50 {
                        append(store, b"large", &[number; 10]).unwrap();
                    }
                });
            }
        });
        let value = get(&store, b"large").unwrap();
        for number in 1..=4 {
            let count = value.iter().filter(|&&byte| byte == number).count();
            assert_eq!(count, 500);
        }
        assert!(
            value.len() == LEN + 2000 && value[LEN..].chunks(10).all(|ten| ten == [ten[0]; 10])
        );
    }

    #[test]
    fn small_values_become_large_ones_and_others_come_before() {
        let store = store(64, 1);
        set(&store, b"key", b"abc");
        append(&store, b"key", &[1; 10_000]).unwrap();
        append(&store, b"key", &[2; 10_000]).unwrap();
        let prepend = change(Mode::Prepend, b"key", Value::small(&[3; 5000]));
        store.store(&prepend, NOW).unwrap();
        let expected = [&[3; 5000][..], b"abc", &[1; 10_000], &[2; 10_000]].concat();
        assert!(get(&store, b"key") == Some(expected));
        assert_eq!(append(&store, b"other", &[1; 20]), Ok(Stored::NotStored));
        let long = Change {
            value_bytes_max: [25_000; 2],
            ..change(Mode::Append, b"key", Value::small(b"x"))
        };
        assert_eq!(store.store(&long, NOW), Ok(Stored::NotStored));
    }
}
