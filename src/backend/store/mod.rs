//! The items: a number of shards, each behind a lock of its own.
//!
//! The hash of a key picks its shard. A shard is single-threaded and knows
//! nothing of the others; what they share is the bound on their memory. A thread
//! holds one lock at a time, never while it waits or writes to a socket, and does
//! a bounded amount of work under it.

mod calendar;
mod change;
mod compact;
mod counters;
mod evict;
mod expiry;
mod extend;
mod flush;
mod hash;
mod index;
mod item;
mod large;
mod log;
mod memory;
mod noted;
mod shard;
mod table;
mod value;

use std::hash::{BuildHasher, RandomState};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use change::{Count, Counted, Longest, Mode, Store as StoreChange, Stored};
pub use counters::Counters;
pub use hash::Tag;
pub use item::{DEAD, State, UNIT};
pub use large::Large;
pub use memory::{EXTENT_BYTES, LARGE_BYTES_MIN, Memory};
pub use shard::{At, Found, Full, LEND_BYTES_MIN, Put, Shard, Value};
pub use value::{Filling, Owned};

use crate::backend::watch;
use crate::clock;
use hash::{Hash, SHARDS_MAX};
use memory::{EXTENT_COST, PIECE_COST};

/// A shard has at least so many segments, so that the one being written and the
/// one being cleared are a small part of it.
const SHARD_BYTES_MIN: usize = 32 * EXTENT_BYTES;

/// The limit can be lowered to so much for each shard: an extent for its index, one for
/// each queue, and one to copy to or for a value that is large.
const SHARD_BYTES_LEAST: usize = 4 * EXTENT_BYTES;

/// What the item of a large value needs beside it: an extent for the index and one for the
/// log.
const ITEM_BYTES_BESIDE: usize = 2 * EXTENT_COST;

/// Log that the segment numbers of a shard can reach, with room to spare.
const SHARD_BYTES_MAX: usize = 4 << 30;

/// Shards for each thread: so many that two threads seldom want the same.
const SHARDS_PER_THREAD: usize = 8;

/// The least memory a store works with, in bytes: a few segments.
pub const MEMORY_BYTES_MIN: usize = 8 * EXTENT_COST;

/// Items looked at before the lock is let go, when room is made for others.
const SLICE: usize = 256;

/// How often room is made for one item before it is given up. Enough to look at
/// everything there is, more than once.
const ATTEMPTS_MAX: usize = 1 << 20;

/// How a store behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What everything together may take up, in bytes (`-m`).
    pub memory_bytes: usize,
    /// The largest item, with key and the overhead that memcached would have, in
    /// bytes (`-I`).
    pub item_bytes_max: usize,
    /// Whether items are evicted when memory is short; else what is to be stored
    /// is refused (`-M`).
    pub evicts: bool,
    /// Whether items get cas ids (not with `-C`).
    pub cas: bool,
    /// Threads that will use the store.
    pub threads: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            memory_bytes: 64 << 20,
            item_bytes_max: 1 << 20,
            evicts: true,
            cas: true,
            threads: 4,
        }
    }
}

/// The bundled cache's items.
#[derive(Debug)]
pub struct Store {
    memory: Arc<Memory>,
    slots: Box<[Slot]>,
    settings: Settings,
    seed: u64,
    /// Seconds that the clock is ahead of the real one, in tests of servers.
    ahead: AtomicI64,
}

/// A shard and its lock, apart from the others in the processor's caches.
#[derive(Debug)]
#[repr(align(128))]
struct Slot {
    shard: Mutex<Shard>,
    /// Memory it holds, as last seen.
    cost: AtomicUsize,
}

impl Slot {
    #[inline]
    fn lock(&self) -> MutexGuard<'_, Shard> {
        self.shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what the shard holds now.
    #[inline]
    fn note(&self, shard: &Shard) {
        self.cost.store(shard.cost(), Ordering::Relaxed);
    }
}

/// What all shards hold.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// What they have seen.
    pub counters: Counters,
    /// Items there are.
    pub items: u64,
    /// Bytes of them, without the index.
    pub bytes: u64,
    /// Bytes of the index.
    pub index_bytes: usize,
    /// Items of the young and the main queue.
    pub queue_items: [u64; 2],
    /// When the oldest segments of the two queues were begun, in seconds.
    pub oldest: [Option<u32>; 2],
}

/// Where a key belongs.
#[derive(Clone, Copy, Debug)]
pub struct Home<'a> {
    slot: &'a Slot,
    tag: Tag,
}

impl Store {
    /// A store without items.
    pub fn new(settings: Settings) -> Self {
        let settings = Settings {
            memory_bytes: settings.memory_bytes.max(MEMORY_BYTES_MIN),
            ..settings
        };
        let memory = Memory::lending(settings.memory_bytes, settings.threads);
        let count = shards_for(&settings);
        // Keyed by the system's random numbers, as the standard library's maps are.
        let seed = RandomState::new().hash_one(count);
        let shards = u64::try_from(count).unwrap_or(1);
        let slots = (0..shards)
            .map(|number| {
                let settings = shard::Settings {
                    evicts: settings.evicts,
                    cas: settings.cas,
                    seed,
                    number,
                    shards,
                };
                Slot {
                    shard: Mutex::new(Shard::new(Arc::clone(&memory), settings)),
                    cost: AtomicUsize::new(0),
                }
            })
            .collect();
        Self {
            memory,
            slots,
            settings,
            seed,
            ahead: AtomicI64::new(0),
        }
    }

    /// How it behaves.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The second it is, as items count them: since the Unix epoch, but never
    /// set.
    #[inline]
    pub fn now(&self) -> u32 {
        let ahead = self.ahead.load(Ordering::Relaxed);
        let seconds = clock::steady_unix_seconds().saturating_add_signed(ahead);
        u32::try_from(seconds).unwrap_or(u32::MAX)
    }

    /// Puts the clock forward.
    pub fn advance_clock(&self, seconds: i64) {
        self.ahead.fetch_add(seconds, Ordering::Relaxed);
    }

    /// The memory of its shards and large values.
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// The most memory there may be, in bytes.
    pub fn memory_bytes_max(&self) -> usize {
        self.memory.limit()
    }

    /// Memory of large values that cannot be evicted, in bytes.
    pub fn pinned_bytes(&self) -> usize {
        self.memory.pinned()
    }

    /// Memory in use, in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.memory.used()
    }

    /// Changes the most memory there may be, to no less than what the shards need to
    /// keep anything, and no more than they can reach. What is too much goes in the course
    /// of the next [`Self::tidy`].
    pub fn set_memory_bytes_max(&self, bytes: usize) {
        let shards = self.slots.len();
        let least = MEMORY_BYTES_MIN.max(shards * SHARD_BYTES_LEAST);
        let most = shards.saturating_mul(SHARD_BYTES_MAX);
        self.memory.set_limit(bytes.clamp(least, most));
    }

    /// Where a key belongs.
    #[inline]
    pub fn home(&self, key: &[u8]) -> Home<'_> {
        let hash = Hash::new(key, self.seed);
        Home {
            slot: &self.slots[hash.shard(self.slots.len())],
            tag: hash.tag(),
        }
    }

    /// Has the processor fetch what it takes to find the keys of `homes`, of all at the same
    /// time: each key leads to two places in memory, the second of which is known by the first.
    pub fn fetch_ahead<'a>(&self, homes: impl Iterator<Item = &'a Home<'a>> + Clone) {
        for home in homes.clone() {
            home.slot.lock().index.fetch_slots(home.tag);
        }
        for home in homes {
            home.slot.lock().fetch_item(home.tag);
        }
    }

    /// Calls `read` with the shard of a key.
    #[inline]
    pub fn read<T>(&self, home: Home<'_>, read: impl FnOnce(&mut Shard, Tag) -> T) -> T {
        read(&mut home.slot.lock(), home.tag)
    }

    /// Calls `write` with the shard of a key, as often as it says that there is
    /// no memory while some can be made.
    ///
    /// # Errors
    ///
    /// [`Full`] if there is no memory, and none to be made.
    #[inline]
    pub fn write<T>(
        &self,
        home: Home<'_>,
        now: u32,
        mut write: impl FnMut(&mut Shard, Tag) -> Result<T, Full>,
    ) -> Result<T, Full> {
        let mut shard = home.slot.lock();
        let mut noted = watch::mark();
        if let Ok(done) = write(&mut shard, home.tag) {
            shard.keep_room(now);
            home.slot.note(&shard);
            return Ok(done);
        }
        for attempt in 1..ATTEMPTS_MAX {
            watch::retract(noted);
            // What may be gathered needs more than one; each attempt copies it.
            let wanted = EXTENT_COST.saturating_mul(attempt);
            // Room is made where most is taken; else every shard looks after
            // itself.
            let fair = self.memory.limit() / self.slots.len();
            let made =
                shard.cost() + EXTENT_COST >= fair && shard.make_room_for(wanted, SLICE, now);
            if !made {
                home.slot.note(&shard);
                drop(shard);
                if !self.make_room_for(wanted, SLICE, now) {
                    break;
                }
                shard = home.slot.lock();
            }
            noted = watch::mark();
            if let Ok(done) = write(&mut shard, home.tag) {
                home.slot.note(&shard);
                return Ok(done);
            }
        }
        home.slot.lock().counters.no_memory += 1;
        Err(Full)
    }

    /// Works until `bytes` are free, or up to `work` items, in the shards that hold most.
    /// Returns whether there was anything to do.
    fn make_room_for(&self, bytes: usize, work: usize, now: u32) -> bool {
        let cost = |slot: &&Slot| slot.cost.load(Ordering::Relaxed);
        let fullest = self.slots.iter().max_by_key(cost);
        let rest = self.slots.iter();
        fullest.into_iter().chain(rest).any(|slot| {
            let mut shard = slot.lock();
            let made = shard.make_room_for(bytes, work, now);
            slot.note(&shard);
            made
        })
    }

    /// Copies a value into memory of its own, if it is too large for the log.
    ///
    /// # Errors
    ///
    /// [`Full`] if there is no memory, and none to be made.
    pub fn gather(&self, value: &[u8], now: u32) -> Result<Owned, Full> {
        let mut filling = Filling::new(&self.memory, value.len());
        filling.fill(value, |filling| self.prepare(filling, now))?;
        Ok(filling.finish())
    }

    /// Sees to it that there is memory for some of what is to come of a large value;
    /// evicts for it if need be.
    ///
    /// # Errors
    ///
    /// [`Full`] if there is no memory, and none to be made.
    pub fn prepare(&self, filling: &mut Filling, now: u32) -> Result<(), Full> {
        self.prepare_beside(0, filling, now)
    }

    /// As [`Self::prepare`], for one who has `beside` bytes of large values already.
    fn prepare_beside(&self, beside: usize, filling: &mut Filling, now: u32) -> Result<(), Full> {
        if filling.is_ahead() {
            return Ok(());
        }
        let (own, more) = (beside + filling.held(), filling.ahead());
        let mut prepared = if self.memory.may_pin(own, more) {
            filling.prepare()
        } else {
            Err(Full)
        };
        // Nothing is evicted for what cannot be.
        let may_evict = self.could_hold(filling.len()) && self.memory.may_evict(own, more);
        if prepared.is_err() && may_evict {
            for _ in 0..ATTEMPTS_MAX {
                let made = self.make_room_for(more + PIECE_COST, SLICE, now);
                prepared = filling.prepare();
                if prepared.is_ok() || !made {
                    break;
                }
            }
        }
        if prepared.is_err() {
            self.count_no_memory();
        }
        prepared
    }

    /// Whether there could be a value of so many bytes, if all others went.
    fn could_hold(&self, bytes: usize) -> bool {
        bytes.saturating_add(ITEM_BYTES_BESIDE) <= self.memory.limit()
    }

    /// Drops everything, now or at that second.
    pub fn flush(&self, at: Option<u32>, now: u32) {
        for slot in &self.slots {
            let mut shard = slot.lock();
            match at {
                Some(at) => shard.flush_at(at, now),
                None => shard.flush(),
            }
            let dropped = shard.take_dropped();
            slot.note(&shard);
            // Nobody waits while the memory goes back.
            drop(shard);
            drop(dropped);
        }
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.slots.len()
    }

    /// Takes back what has expired in a shard, and what is beyond the limit in any, up to
    /// `work` items each. Returns whether there may be more.
    pub fn tidy(&self, shard: usize, work: usize, now: u32) -> bool {
        let Some(slot) = self.slots.get(shard) else {
            return false;
        };
        let mut shard = slot.lock();
        let more = shard.sweep(work, now);
        let dropped = shard.take_dropped();
        slot.note(&shard);
        drop(shard);
        drop(dropped);
        self.memory.settle();
        // From whichever shard has most, so that each gives what it needs least.
        more | (self.memory.is_over() && self.make_room_for(0, work, now))
    }

    /// What all shards hold.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for slot in &self.slots {
            let shard = slot.lock();
            totals.counters.add(&shard.counters);
            totals.items += shard.items();
            totals.bytes += shard.bytes();
            totals.index_bytes += shard.index_bytes();
            for (sum, items) in totals.queue_items.iter_mut().zip(shard.queue_items()) {
                *sum += items;
            }
            for (oldest, other) in totals.oldest.iter_mut().zip(shard.oldest()) {
                *oldest = match (*oldest, other) {
                    (Some(one), Some(other)) => Some(one.min(other)),
                    (one, other) => one.or(other),
                };
            }
        }
        totals
    }

    /// Shows every item to `visit` until it has seen enough. Locks a shard for as
    /// long as one segment takes.
    pub fn walk(&self, mut visit: impl FnMut(Found<'_>) -> ControlFlow<()>) {
        for slot in &self.slots {
            let numbers = slot.lock().segment_numbers();
            for number in numbers {
                if slot.lock().visit(number, &mut visit).is_break() {
                    return;
                }
            }
        }
    }

    /// Counts a value that was refused for its size.
    pub fn count_too_large(&self) {
        if let Some(slot) = self.slots.first() {
            slot.lock().counters.too_large += 1;
        }
    }

    /// Counts a value that was refused because there was no memory, before its shard
    /// has seen anything of it.
    fn count_no_memory(&self) {
        if let Some(slot) = self.slots.first() {
            slot.lock().counters.no_memory += 1;
        }
    }

    /// Counts a retrieval that was cut short.
    pub fn count_oversized(&self) {
        if let Some(slot) = self.slots.first() {
            slot.lock().counters.oversized += 1;
        }
    }

    /// Sets all counters to 0.
    pub fn reset_counters(&self) {
        for slot in &self.slots {
            slot.lock().counters = Counters::default();
        }
    }
}

/// How many shards: a power of two, many for the threads but few for the memory.
fn shards_for(settings: &Settings) -> usize {
    let wanted = settings.threads.max(1).saturating_mul(SHARDS_PER_THREAD);
    let most = (settings.memory_bytes / SHARD_BYTES_MIN).max(1);
    let least = settings.memory_bytes.div_ceil(SHARD_BYTES_MAX);
    let count = wanted.next_power_of_two().min(most).max(least);
    let below = 1 << (usize::BITS - 1 - count.leading_zeros());
    below.clamp(least.next_power_of_two().min(SHARDS_MAX), SHARDS_MAX)
}

#[cfg(test)]
mod tests;
