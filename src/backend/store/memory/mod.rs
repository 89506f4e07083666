//! The memory of a store: how much there may be, and what is free of it.
//!
//! It comes from the system in pages, some for the log and the index and some for large
//! values, and goes back to it in pages. No allocator stands in between: what has been
//! freed in one place can be had in any other, whatever lies around it, and the bound on
//! the sum is exact, save for what is taken in advance to free more.
//!
//! The log and the index have extents, all of one size, a large value runs of as many
//! pages as it fills: one piece if there is a run of that length. The two have a [`Pool`]
//! each, lest what is free between values is too short for extents.
//!
//! What goes back is the memory; the addresses stay with us for the next who needs some.
//! Unmapping what is freed would make as many holes, and a cache of some gigabytes of large
//! values that expire in any order came near the number of mappings that a process may have.

mod pool;
mod runs;

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::net::lend::Pages;
use crate::net::memory::{HUGE_BYTES, has_huge_pages};
use crate::net::outbox::LENT_MAX;
use crate::net::span::Span;
use pool::{Pool, lock};

/// Size of an extent. Large enough that the last item of one wastes little, and
/// small enough that a shard of 8 MiB has 32 of them to age one by one.
pub const EXTENT_BYTES: usize = 256 * 1024;

/// Values from so many bytes on lie outside of the log, and are shared with the
/// connections that send them instead of being copied.
pub const LARGE_BYTES_MIN: usize = 16 * 1024;

/// Memory is claimed in multiples of so many bytes, a page of most systems. What a large
/// value has beyond them stands in the log.
pub(super) const PAGE_BYTES: usize = 4096;

/// Most bytes that a large value asks for at a time.
pub(super) const PIECE_BYTES_MAX: usize = 1 << 20;

/// A large value lies in shorter pieces than it asks for if there are no others, but in none
/// shorter than this, save at its end: what they leave between them is of no use to others.
pub(super) const PIECE_BYTES_MIN: usize = 16 * 1024;

const _: () = assert!(EXTENT_BYTES <= HUGE_BYTES && PIECE_BYTES_MAX <= HUGE_BYTES);

/// What a piece of a value costs beside its pages: a place in the value, a counter of
/// references and an entry in a table.
pub(super) const PIECE_COST: usize = 128;

/// What an extent of the log costs beside: its entries in the tables of its shard, with the
/// room that these keep for more. One of the index costs a few times as much; it has few.
const EXTENT_COST_BESIDE: usize = 512;

/// What an extent costs.
pub(super) const EXTENT_COST: usize = EXTENT_BYTES + EXTENT_COST_BESIDE;

/// Extents of which a part is lent to a connection cannot be used anew until it has been
/// written. All of them may be this share of the limit, as a divisor; where they might be
/// more nothing is lent.
const LENT_DIVISOR: usize = 8;

/// Memory is taken by small pages up to so many extents for each thread, and by huge ones
/// beyond: each of its eight shards begins with an extent for its log and one for its index,
/// and writes to the first few pages of them. A cache of which little is used stays small.
const SMALL_EXTENTS: usize = 16;

/// Share of the limit that is kept resident although it is free, as a divisor:
/// faulting pages in again costs more than the rest of a set.
const SPARE_DIVISOR: usize = 64;
/// The spare memory of each pool is at least what is left of a huge page, and as much again,
/// and at most so much.
const SPARE_BYTES_MIN: usize = 2 * HUGE_BYTES;
const SPARE_BYTES_MAX: usize = 16 << 20;

/// Spare memory goes back to the system by so many bytes if others need some of it, however
/// little: what a piece costs beside its pages is a few bytes each time.
const RELEASE_BYTES_MIN: usize = 64 * 1024;

/// A limit that is lowered takes effect by so many bytes at a time.
const STEP_BYTES: usize = 4 * EXTENT_BYTES;

/// Share of the limit, as a divisor, that values on their way in may have taken for what
/// is not about to come yet. Beyond that they take memory as they are filled: who announces
/// much and sends little holds little.
pub(super) const EARLY_DIVISOR: usize = 64;

/// Share of the limit, as a divisor, that is left to others by large values that come in, though
/// it be free. What cannot be evicted counts: values on their way in, and those that are still
/// written to clients though no item keeps them.
const UNPINNED_DIVISOR: usize = 8;

/// The same where items would have to be evicted: they are not for clients who stop halfway.
const UNPINNED_DIVISOR_FULL: usize = 2;

/// Huge pages are taken unless addresses without memory between what is in use are more
/// than this share of all that is taken, as a divisor.
const RAGGED_DIVISOR: usize = 8;

/// The memory of a store.
#[derive(Debug)]
pub struct Memory {
    limit: AtomicUsize,
    /// What may be taken: the limit, or more for a while after that has been lowered. Whoever
    /// asks for memory does not have to make up for all of the difference.
    bound: AtomicUsize,
    /// Bytes taken from the system, in use or spare, with what they cost beside.
    taken: AtomicUsize,
    /// Bytes of them that are spare.
    spare: AtomicUsize,
    /// Bytes taken early by values that are on their way in.
    pub(super) early: AtomicUsize,
    /// Bytes of large values that no item keeps.
    pinned: AtomicUsize,
    /// Held while spare memory is on its way to the system or from it. Who finds none in the
    /// pools waits for that.
    in_transit: Mutex<()>,
    /// Worker threads that may borrow.
    threads: usize,
    /// Extents that nobody uses but that are still lent in part, and how many.
    lent: Mutex<Vec<Pages>>,
    lent_count: AtomicUsize,
    /// Times that the system had no more memory.
    failures: AtomicUsize,
    /// Extents that nobody uses.
    extents: Pool,
    /// Pages of large values that nobody uses.
    pages: Pool,
    /// Whether the system has no more, in tests.
    #[cfg(test)]
    pub(super) is_exhausted: std::sync::atomic::AtomicBool,
}

/// What is to be taken of a pool.
struct Wanted {
    bytes: usize,
    /// Shorter ones will do, down to this, if there is nothing else.
    least: usize,
    /// What will be wanted behind them, with them.
    room: usize,
    /// Where they are best, though they be fewer.
    after: Option<usize>,
}

impl Wanted {
    fn extent() -> Self {
        Self {
            bytes: EXTENT_BYTES,
            least: EXTENT_BYTES,
            room: EXTENT_BYTES,
            after: None,
        }
    }
}

/// A piece of memory for the log or the index. Holds anything.
#[derive(Debug)]
pub struct Extent(Span);

impl Extent {
    /// As memory that can be lent.
    pub fn into_pages(self) -> Pages {
        Pages::new(self.0)
    }

    /// Its bytes.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Its bytes, to write.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl Memory {
    /// Memory of at most `limit` bytes, none of it taken yet.
    pub fn new(limit: usize) -> Arc<Self> {
        Self::lending(limit, 1)
    }

    /// The same, for so many threads that borrow from it.
    pub fn lending(limit: usize, threads: usize) -> Arc<Self> {
        Arc::new(Self {
            limit: AtomicUsize::new(limit),
            bound: AtomicUsize::new(limit),
            taken: AtomicUsize::new(0),
            spare: AtomicUsize::new(0),
            early: AtomicUsize::new(0),
            pinned: AtomicUsize::new(0),
            in_transit: Mutex::default(),
            threads: threads.max(1),
            lent: Mutex::default(),
            lent_count: AtomicUsize::new(0),
            failures: AtomicUsize::new(0),
            extents: Pool::default(),
            pages: Pool::default(),
            #[cfg(test)]
            is_exhausted: false.into(),
        })
    }

    /// The most that may be taken, in bytes.
    #[inline]
    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// Changes the limit. If more is in use, the store goes down to it step by step.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
        self.set_bound(limit.max(self.used()));
    }

    /// Goes a step towards a limit that has been lowered, if the last one has been evicted.
    pub(super) fn settle(&self) {
        let (limit, bound, used) = (self.limit(), self.bound(), self.used());
        if bound < limit || bound > limit && used <= bound {
            self.set_bound(limit.max(used.saturating_sub(STEP_BYTES)));
        }
    }

    fn set_bound(&self, bound: usize) {
        self.bound.store(bound, Ordering::Relaxed);
        self.collect();
        let _transit = lock(&self.in_transit);
        while self.over() > 0 && self.release_some(self.over()) {}
    }

    /// The most that may be taken for now, in bytes.
    #[inline]
    fn bound(&self) -> usize {
        self.bound.load(Ordering::Relaxed)
    }

    /// Bytes taken beyond that.
    fn over(&self) -> usize {
        self.taken().saturating_sub(self.bound())
    }

    /// Bytes taken from the system, in use or spare, with what they cost beside.
    #[inline]
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Whether more is in use than may be.
    #[inline]
    pub fn is_over(&self) -> bool {
        self.used() > self.bound()
    }

    /// Whether an extent could be had.
    #[inline]
    pub fn has_extent(&self) -> bool {
        self.has_free(EXTENT_COST)
    }

    /// Whether so many bytes could be had.
    #[inline]
    pub fn has_free(&self, bytes: usize) -> bool {
        self.fits(bytes) || self.collect() && self.fits(bytes)
    }

    /// Whether so many bytes more may be in use.
    #[inline]
    fn fits(&self, bytes: usize) -> bool {
        self.used().saturating_add(bytes) <= self.bound()
    }

    /// Whether there is so much that a part of it may be lent.
    #[inline]
    pub fn lends(&self) -> bool {
        self.limit() / LENT_DIVISOR >= self.threads * LENT_MAX * EXTENT_BYTES
    }

    /// Takes memory back that may still be lent: then it counts as taken until it is not.
    pub fn give_pages(&self, pages: Pages) {
        match pages.into_span() {
            Ok(span) => self.give_extent(Extent(span)),
            Err(pages) => {
                let mut lent = lock(&self.lent);
                lent.push(pages);
                self.lent_count.store(lent.len(), Ordering::Relaxed);
            }
        }
    }

    /// Takes back what is not lent any more. Says whether there was anything.
    fn collect(&self) -> bool {
        if self.lent_count.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let mut lent = lock(&self.lent);
        let before = lent.len();
        for pages in std::mem::take(&mut *lent) {
            match pages.into_span() {
                Ok(span) => self.give_extent(Extent(span)),
                Err(pages) => lent.push(pages),
            }
        }
        self.lent_count.store(lent.len(), Ordering::Relaxed);
        lent.len() < before
    }

    /// Bytes in use, with what they cost beside.
    #[inline]
    pub(super) fn used(&self) -> usize {
        let spare = self.spare.load(Ordering::Relaxed);
        self.taken().saturating_sub(spare)
    }

    /// An extent, if the limit allows it.
    pub fn extent(&self) -> Option<Extent> {
        let take = || self.take(&self.extents, &Wanted::extent());
        self.with_cost(EXTENT_COST_BESIDE, take).map(Extent)
    }

    /// An extent although the limit does not allow it: for work that frees more
    /// than it takes, but takes first. `None` if the system has no more.
    pub fn extent_in_advance(&self) -> Option<Extent> {
        if let Some(extent) = self.extent() {
            return Some(extent);
        }
        let extent = self.mapped(|| self.extents.map(EXTENT_BYTES, EXTENT_BYTES, None))?;
        self.taken.fetch_add(EXTENT_COST, Ordering::Relaxed);
        Some(Extent(extent))
    }

    /// Takes an extent back.
    pub fn give_extent(&self, extent: Extent) {
        self.give(&self.extents, extent.0, EXTENT_COST_BESIDE);
    }

    /// Memory for so many bytes of a large value, or for as many of them as there are in one
    /// piece, if the limit allows it. It begins at `after` if any are free there, or where there
    /// is `room` for more.
    pub(super) fn piece(&self, bytes: usize, room: usize, after: Option<usize>) -> Option<Span> {
        let bytes = bytes.min(PIECE_BYTES_MAX).next_multiple_of(page_bytes());
        let wanted = Wanted {
            bytes,
            least: PIECE_BYTES_MIN.min(bytes),
            room: room.clamp(bytes, PIECE_BYTES_MAX),
            after,
        };
        self.with_cost(PIECE_COST, || self.take(&self.pages, &wanted))
    }

    /// Takes a piece of a large value back.
    pub(super) fn give_piece(&self, piece: Span) {
        self.give(&self.pages, piece, PIECE_COST);
    }

    /// Counts two pieces as one, which they have become.
    pub(super) fn note_joined(&self) {
        self.taken.fetch_sub(PIECE_COST, Ordering::Relaxed);
    }

    /// Gives all spare memory back to the system.
    pub fn release(&self) {
        self.collect();
        let _transit = lock(&self.in_transit);
        while self.release_some(usize::MAX) {}
    }

    /// Whether so many bytes are too many to be taken early; counts them if not.
    pub(super) fn is_too_early(&self, bytes: usize) -> bool {
        let most = self.limit() / EARLY_DIVISOR;
        let sum = self.early.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if sum > most {
            self.not_early(bytes);
        }
        sum > most
    }

    pub(super) fn not_early(&self, bytes: usize) {
        self.early.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes of large values that cannot be evicted.
    pub fn pinned(&self) -> usize {
        self.pinned.load(Ordering::Relaxed)
    }

    pub(super) fn pin(&self, bytes: usize) {
        self.pinned.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn unpin(&self, bytes: usize) {
        self.pinned.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Whether a value that has taken `own` bytes may take `more` of what is free, as to what
    /// others have that cannot be evicted. One by itself may take all there is.
    pub(super) fn may_pin(&self, own: usize, more: usize) -> bool {
        self.leaves(UNPINNED_DIVISOR, own, more)
    }

    /// The same, if items have to be evicted for it.
    pub(super) fn may_evict(&self, own: usize, more: usize) -> bool {
        self.leaves(UNPINNED_DIVISOR_FULL, own, more)
    }

    fn leaves(&self, divisor: usize, own: usize, more: usize) -> bool {
        let (pinned, limit) = (self.pinned(), self.limit());
        pinned <= own || pinned + more <= limit - limit / divisor
    }

    /// What `take` takes, if the limit allows what it costs beside.
    fn with_cost(&self, beside: usize, take: impl FnOnce() -> Option<Span>) -> Option<Span> {
        if !self.claim(beside) {
            return None;
        }
        let taken = take();
        if taken.is_none() {
            self.taken.fetch_sub(beside, Ordering::Relaxed);
        }
        taken
    }

    /// Pages of a pool, if the limit allows it.
    fn take(&self, pool: &Pool, wanted: &Wanted) -> Option<Span> {
        let &Wanted {
            bytes,
            least,
            room,
            after,
        } = wanted;
        let fitting = || self.take_spare(bytes, || pool.take(bytes, room, after));
        if let Some(span) = fitting() {
            return Some(span);
        }
        if self.take_huge(pool)
            && let Some(span) = fitting()
        {
            return Some(span);
        }
        if !self.claim_free(bytes) {
            // Shorter pieces that are spare need not be given back and taken again.
            let shorter = self.take_spare(least, || pool.take_longest(least, bytes));
            if shorter.is_some() || !self.claim(bytes) {
                return shorter;
            }
        }
        let mapped = self.mapped(|| pool.map(bytes, room, after));
        // There may be less behind `after`.
        let len = mapped.as_ref().map_or(0, |span| span.len());
        self.taken.fetch_sub(bytes - len, Ordering::Relaxed);
        mapped
    }

    /// What `take` takes of what is spare, `least` or more.
    fn take_spare(&self, least: usize, take: impl FnOnce() -> Option<Span>) -> Option<Span> {
        // Where too much is in use, spare memory is what goes first.
        if !self.fits(least) {
            return None;
        }
        let span = take()?;
        self.spare.fetch_sub(span.len(), Ordering::Relaxed);
        Some(span)
    }

    /// Takes a huge page, all of which is spare then, if the limit allows it. Says whether it
    /// did.
    fn take_huge(&self, pool: &Pool) -> bool {
        let has_room = self.taken() + HUGE_BYTES <= self.bound();
        if !has_room || !self.has_grown(1) || !has_huge_pages() {
            return false;
        }
        let _transit = lock(&self.in_transit);
        if !self.claim_free(HUGE_BYTES) {
            return false;
        }
        // Counted before somebody else can have it.
        self.spare.fetch_add(HUGE_BYTES, Ordering::Relaxed);
        let ragged_max = self.taken() / RAGGED_DIVISOR;
        let taken = self.mapped(|| pool.take_huge(ragged_max)) == Some(true);
        if !taken {
            self.spare.fetch_sub(HUGE_BYTES, Ordering::Relaxed);
            self.taken.fetch_sub(HUGE_BYTES, Ordering::Relaxed);
        }
        taken
    }

    /// Whether so many times as much is in use as is taken by small pages at first.
    fn has_grown(&self, times: usize) -> bool {
        self.used() >= times * self.threads * SMALL_EXTENTS * EXTENT_BYTES
    }

    /// Has a huge page made of small ones. Says whether one was made.
    pub fn mend(&self) -> bool {
        // Of what is in use some pages have never been written, in a cache of which little
        // is used most.
        self.has_grown(4) && has_huge_pages() && (self.extents.mend() || self.pages.mend())
    }

    /// Counts `cost` as taken, if the limit allows it; if need be spare memory goes back
    /// to the system for it.
    fn claim(&self, cost: usize) -> bool {
        if self.claim_free(cost) {
            return true;
        }
        self.collect();
        let _transit = lock(&self.in_transit);
        while self.fits(cost) {
            let missing = self
                .taken()
                .saturating_add(cost)
                .saturating_sub(self.bound());
            if !self.release_some(missing.max(RELEASE_BYTES_MIN)) {
                return false;
            }
            if self.claim_free(cost) {
                return true;
            }
        }
        false
    }

    fn claim_free(&self, cost: usize) -> bool {
        let bound = self.bound();
        self.taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
                taken.checked_add(cost).filter(|&sum| sum <= bound)
            })
            .is_ok()
    }

    fn mapped<T>(&self, map: impl Fn() -> io::Result<T>) -> Option<T> {
        #[cfg(test)]
        if self.is_exhausted.load(Ordering::Relaxed) {
            return None;
        }
        let mapped = map().or_else(|_| {
            // Perhaps there are no more addresses: there are those of the other pool.
            self.forget_empty();
            map()
        });
        // As if the limit had been reached: something is evicted for it.
        mapped.inspect_err(|error| self.warn(error)).ok()
    }

    /// Warns of the first time that the system has no more memory, the second, the fourth
    /// and so on: it may be each time from now on.
    fn warn(&self, error: &io::Error) {
        let times = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        if times.is_power_of_two() {
            tracing::warn!(%error, times, "the system has no more memory");
        }
    }

    fn forget_empty(&self) {
        self.pages.forget_empty();
        self.extents.forget_empty();
    }

    /// Takes pages back: to spare them, or for the system.
    fn give(&self, pool: &Pool, span: Span, beside: usize) {
        self.taken.fetch_sub(beside, Ordering::Relaxed);
        // Counted before somebody else can have them.
        self.spare.fetch_add(span.len(), Ordering::Relaxed);
        let keep = (self.limit() / SPARE_DIVISOR).clamp(SPARE_BYTES_MIN, SPARE_BYTES_MAX);
        let mut spare = pool.spare(span);
        let surplus = |spare: usize| spare.saturating_sub(keep).max(self.over().min(spare));
        if surplus(spare) == 0 {
            return;
        }
        let _transit = lock(&self.in_transit);
        while surplus(spare) > 0 {
            match self.release_from(pool, surplus(spare)) {
                0 => break,
                released => spare = spare.saturating_sub(released),
            }
        }
    }

    /// Gives as many as `bytes` of spare memory back to the system, of that of large values
    /// first. Says whether there was any that it took. Whoever calls it holds `in_transit`.
    fn release_some(&self, bytes: usize) -> bool {
        let mut pools = [&self.pages, &self.extents].into_iter();
        pools.any(|pool| self.release_from(pool, bytes) > 0)
    }

    /// Gives a run of as many as `bytes` of spare pages back to the system. Says how many it
    /// took.
    fn release_from(&self, pool: &Pool, bytes: usize) -> usize {
        let page = page_bytes();
        let pages = bytes
            .checked_next_multiple_of(page)
            .unwrap_or(bytes / page * page);
        let released = pool.take_to_release(pages);
        released.map_or(0, |span| self.empty(pool, span))
    }

    /// Gives the memory of spare pages back to the system. Says how many bytes it took.
    fn empty(&self, pool: &Pool, span: Span) -> usize {
        let len = span.len();
        if let Err(span) = pool.empty(span) {
            // What the system does not take stays, and counts.
            pool.spare(span);
            return 0;
        }
        // In this order: they are not to look as if they were in use again.
        self.taken.fetch_sub(len, Ordering::Relaxed);
        self.spare.fetch_sub(len, Ordering::Relaxed);
        len
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.release();
    }
}

/// Bytes of a page of this system, or of what we take for one.
fn page_bytes() -> usize {
    rustix::param::page_size().max(PAGE_BYTES)
}

#[cfg(test)]
mod tests;
