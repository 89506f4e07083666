//! Dropping everything, at once for clients and in steps for the memory.
//!
//! Giving a segment back to the system takes some ten microseconds, and there can be
//! thousands. So under the lock of a shard only lists change hands; who has asked gives
//! back what was in them afterwards. Where that was a clock it is the janitor, or whoever
//! needs memory before.

use std::sync::Arc;

use super::hash::Tag;
use super::index::Index;
use super::large::Filed;
use super::log::Segments;
use super::shard::Shard;
use super::table::Table;

/// What has been dropped and not given back. It goes back when this is dropped.
#[derive(Debug, Default)]
pub(super) struct Dropped {
    segments: Vec<Segments>,
    large: Vec<Table<Filed>>,
    indexes: Vec<Index>,
    /// What it cost when it was dropped, in bytes.
    bytes: usize,
}

impl Dropped {
    /// About what is still to come back, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Gives a small part back. Returns whether there was one.
    pub(super) fn give_one(&mut self) -> bool {
        let given = shed(&mut self.large, |table| table.pop().is_some())
            || shed(&mut self.segments, Segments::shed)
            || shed(&mut self.indexes, Index::shed);
        if !given {
            self.bytes = 0;
        }
        given
    }
}

/// Has the last of `all` give a part of itself back, of those that have any.
fn shed<T>(all: &mut Vec<T>, mut shed_one: impl FnMut(&mut T) -> bool) -> bool {
    while let Some(last) = all.last_mut() {
        if shed_one(last) {
            return true;
        }
        all.pop();
    }
    false
}

impl Shard {
    /// Drops everything at that second, with what is stored within it, and not at the
    /// one named before unless that has come.
    pub fn flush_at(&mut self, at: u32, now: u32) {
        self.flush_if_due(now);
        self.flush_at = Some(at);
        self.flush_if_due(now);
    }

    /// Whether it is time to drop everything.
    #[inline]
    pub(super) fn is_flush_due(&self, now: u32) -> bool {
        self.flush_at.is_some_and(|at| at <= now)
    }

    /// Drops everything if its time has come.
    #[inline]
    pub(super) fn flush_if_due(&mut self, now: u32) {
        if let Some(at) = self.flush_at
            && at <= now
        {
            self.flush_due(at, now);
        }
    }

    #[cold]
    fn flush_due(&mut self, at: u32, now: u32) {
        if self.items > 0 {
            self.flush();
        }
        // Until the second is over there can be more.
        self.flush_at = (at == now).then_some(at);
    }

    /// Counts a key that is asked for after it has been dropped, once.
    #[cold]
    pub(super) fn count_flushed(&mut self, tag: Tag) {
        if let Some(flushed) = &mut self.flushed
            && let Some((position, _)) = flushed.find(tag, |_| true)
        {
            flushed.remove(position, None);
            self.counters.get_flushed += 1;
        }
    }

    /// Whether it is remembered what was dropped.
    pub(super) fn remembers_flushed(&self) -> bool {
        self.flushed.is_some()
    }

    /// Forgets what was dropped.
    pub(super) fn forget_flushed(&mut self) {
        if let Some(index) = self.flushed.take() {
            self.dropped.bytes += index.bytes();
            self.dropped.indexes.push(index);
        }
    }

    /// Drops everything. Takes no step for any segment or item; the memory is given back
    /// with `take_dropped`.
    pub fn flush(&mut self) {
        self.flush_at = None;
        self.forget_flushed();
        for order in [&mut self.young, &mut self.main] {
            self.dropped.bytes += std::mem::take(order).cost();
        }
        let empty = Index::new(Arc::clone(&self.memory), self.settings.evicts);
        self.flushed = Some(std::mem::replace(&mut self.index, empty));
        self.dropped.segments.push(self.segments.take_all());
        self.dropped.large.push(std::mem::take(&mut self.large));
        (self.compaction, self.advanced) = (None, None);
        self.sweep.forget();
        self.counters.reclaimed += self.items;
        (self.items, self.bytes) = (0, 0);
    }

    /// What has been dropped, to give it back when the shard is not locked any more.
    pub(super) fn take_dropped(&mut self) -> Dropped {
        std::mem::take(&mut self.dropped)
    }
}

#[cfg(test)]
mod tests {
    use crate::backend::store::tests::plain::change;
    use crate::backend::store::{Mode, Settings, Store, Value};

    fn full(evicts: bool) -> (Store, u32) {
        let store = Store::new(Settings {
            memory_bytes: 16 << 20,
            threads: 4,
            evicts,
            ..Settings::default()
        });
        let mut stored = 0;
        while stored < 20_000 && set(&store, stored, 1000) {
            stored += 1;
        }
        let large = store.gather(&[1; 100_000], 1000);
        assert!(large.is_ok() || !evicts);
        (store, stored)
    }

    fn set(store: &Store, number: u32, now: u32) -> bool {
        let key = format!("key-{number}");
        let change = change(Mode::Set, key.as_bytes(), Value::small(&[1; 1000]));
        store.store(&change, now).is_ok()
    }

    #[test]
    fn memory_goes_back_when_the_shard_is_not_locked_any_more() {
        let (store, _) = full(true);
        let used = store.memory_bytes();
        let mut dropped = Vec::new();
        for slot in &store.slots {
            let mut shard = slot.lock();
            let cost = shard.cost();
            shard.flush();
            assert_eq!(shard.items(), 0);
            // It can still be had from here; the index is remembered.
            assert!(shard.cost() + (1 << 20) > cost);
            dropped.push(shard.take_dropped());
            assert!(shard.cost() < 1 << 20);
        }
        assert_eq!(store.memory_bytes(), used);
        drop(dropped);
        assert!(store.memory_bytes() < 1 << 20);
    }

    #[test]
    fn what_a_clock_has_dropped_makes_room_when_it_is_needed() {
        for evicts in [true, false] {
            let (store, stored) = full(evicts);
            let items = store.totals().items;
            assert_eq!(evicts, items < u64::from(stored));
            store.flush(Some(1010), 1000);
            let before = store.totals().counters;
            assert!(
                (0..u32::try_from(items * 9 / 10).unwrap()).all(|number| set(&store, number, 1010))
            );
            let after = store.totals().counters;
            assert_eq!(after.evictions, before.evictions);
            assert_eq!(after.no_memory, before.no_memory);
        }
    }

    #[test]
    fn the_janitor_gives_back_what_a_clock_has_dropped() {
        let (store, _) = full(true);
        store.flush(Some(1010), 1000);
        for now in [1010, 1030] {
            for shard in 0..store.shards() {
                while store.tidy(shard, 256, now) {}
            }
        }
        assert_eq!(store.memory_bytes(), 0);
    }
}
