//! The memory of a store: how much there may be, and what is free of it.
//!
//! It comes from the system in blocks, some for the log and the index and some for
//! large values, and goes back to it in whole pages. No allocator stands in between:
//! what has been freed in one place can be had in any other, whatever lies around it,
//! and the bound on the sum is exact.
//!
//! A block is a range of addresses of one of a few sizes. What counts as taken are the
//! pages at its start that have been claimed; behind the others there is no memory, for
//! they have not been written to since they were mapped or given back. So a value lies in one piece whatever its size is,
//! and costs the pages that it fills.
//!
//! What goes back is the memory; the addresses stay with us for the next block of the
//! same size. The system joins blocks that lie side by side into one mapping. Unmapping
//! every freed one made as many holes, and a cache of some gigabytes of large values
//! that expire in any order came near the number of mappings that a process may have.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use memmap2::{Advice, MmapMut};

use crate::net::lend::Pages;
use crate::net::memory::give_back;
use crate::net::outbox::LENT_MAX;

/// Size of an extent. Large enough that the last item of one wastes little, and
/// small enough that a shard of 8 MiB has 32 of them to age one by one.
pub const EXTENT_BYTES: usize = 256 * 1024;

/// Values from so many bytes on lie outside of the log, and are shared with the
/// connections that send them instead of being copied.
pub const LARGE_BYTES_MIN: usize = 16 * 1024;

/// Memory is claimed in multiples of so many bytes, a page of most systems. What a large
/// value has beyond them stands in the log.
pub(super) const PAGE_BYTES: usize = 4096;

/// Sizes of blocks: powers of two from the first to the second. A value beyond that lies
/// in several.
pub(super) const BLOCK_BYTES_MIN: usize = 16 * 1024;
pub(super) const BLOCK_BYTES_MAX: usize = 1 << 20;
const SIZES: usize = (BLOCK_BYTES_MAX / BLOCK_BYTES_MIN).trailing_zeros() as usize + 1;

const _: () = assert!(EXTENT_BYTES >= BLOCK_BYTES_MIN && EXTENT_BYTES <= BLOCK_BYTES_MAX);

/// What a block of a value costs beside its pages: a place in the value, a counter of
/// references and an entry in a table.
pub(super) const BLOCK_COST: usize = 128;

/// What an extent costs beside: its entries in the tables of its shard.
const EXTENT_COST_BESIDE: usize = 256;

/// What an extent costs.
pub(super) const EXTENT_COST: usize = EXTENT_BYTES + EXTENT_COST_BESIDE;

/// Extents of which a part is lent to a connection cannot be used anew until it has been
/// written. All of them may be this share of the limit, as a divisor; where they might be
/// more nothing is lent.
const LENT_DIVISOR: usize = 8;

/// Share of the limit that is kept resident although it is free, as a divisor:
/// faulting pages in again costs more than the rest of a set.
const SPARE_DIVISOR: usize = 64;
/// The spare memory of each size is at least and at most so many bytes.
const SPARE_BYTES_MIN: usize = 1 << 20;
const SPARE_BYTES_MAX: usize = 16 << 20;

/// Share of the limit, as a divisor, that spare blocks may have brought with them which
/// values on their way in have not filled yet. Beyond that such a block is cut: who
/// announces much and sends little holds little.
pub(super) const EARLY_DIVISOR: usize = 64;

/// The memory of a store.
#[derive(Debug)]
pub struct Memory {
    limit: AtomicUsize,
    /// Bytes taken from the system, in use or spare, with what they cost beside.
    taken: AtomicUsize,
    /// Bytes of them that are spare.
    spare: AtomicUsize,
    /// Bytes of them that have been claimed by values on their way in with a spare block.
    pub(super) early: AtomicUsize,
    /// Worker threads that may borrow.
    threads: usize,
    /// Extents that nobody uses but that are still lent in part, and how many.
    lent: Mutex<Vec<Pages>>,
    lent_count: AtomicUsize,
    /// Blocks that nobody uses, by size.
    free: [Free; SIZES],
}

/// A range of addresses, and how much memory there is behind it.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) map: MmapMut,
    /// Bytes from the start on, in whole pages, that count as taken.
    pub(super) claimed: usize,
}

/// The blocks of one size that nobody uses.
#[derive(Debug, Default)]
struct Free {
    /// Those whose memory we still have.
    spare: Mutex<Spare>,
    /// Those whose memory has gone back: addresses and nothing else.
    empty: Mutex<Vec<MmapMut>>,
}

#[derive(Debug, Default)]
struct Spare {
    blocks: Vec<Block>,
    /// Bytes of them.
    claimed: usize,
}

impl Free {
    /// A block of `bytes` without memory, where one has been or anew.
    fn map(&self, bytes: usize) -> std::io::Result<Block> {
        if let Some(map) = lock(&self.empty).pop() {
            return Ok(Block { map, claimed: 0 });
        }
        let map = MmapMut::map_anon(bytes)?;
        // Large pages would bring memory back that we have given back. Where the
        // system has none it does not know the advice.
        if let Err(error) = map.advise(Advice::NoHugePage) {
            tracing::trace!(%error, "no large pages to refuse");
        }
        Ok(Block { map, claimed: 0 })
    }

    /// Gives the memory of a block back to the system.
    fn empty(&self, block: Block) {
        let Block { mut map, claimed } = block;
        // What cannot be given back, because it is locked, is unmapped.
        if give_back(map.get_mut(..claimed).unwrap_or_default()) {
            lock(&self.empty).push(map);
        }
    }

    /// A spare block.
    fn pop(&self) -> Option<Block> {
        let mut spare = lock(&self.spare);
        let block = spare.blocks.pop()?;
        spare.claimed -= block.claimed;
        Some(block)
    }

    /// Spares a block, if there are not too many of them.
    fn push(&self, block: Block, bytes_max: usize) -> Result<(), Block> {
        let mut spare = lock(&self.spare);
        if block.claimed == 0 || spare.claimed + block.claimed > bytes_max {
            return Err(block);
        }
        spare.claimed += block.claimed;
        spare.blocks.push(block);
        Ok(())
    }
}

/// A piece of memory for the log or the index. Holds anything.
#[derive(Debug)]
pub struct Extent(MmapMut);

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
            taken: AtomicUsize::new(0),
            spare: AtomicUsize::new(0),
            early: AtomicUsize::new(0),
            threads: threads.max(1),
            lent: Mutex::default(),
            lent_count: AtomicUsize::new(0),
            free: Default::default(),
        })
    }

    /// The most that may be taken, in bytes.
    #[inline]
    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// Changes the limit. If more is taken, it is for the shards to evict.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
        self.release();
    }

    /// Bytes taken from the system, in use or spare, with what they cost beside.
    #[inline]
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Whether more is taken than may be.
    #[inline]
    pub fn is_over(&self) -> bool {
        self.taken() > self.limit()
    }

    /// Whether an extent could be had.
    #[inline]
    pub fn has_extent(&self) -> bool {
        self.has_free(EXTENT_COST)
    }

    /// Whether so many bytes could be had.
    #[inline]
    pub fn has_free(&self, bytes: usize) -> bool {
        self.used().saturating_add(bytes) <= self.limit()
            || self.collect() && self.used().saturating_add(bytes) <= self.limit()
    }

    /// Whether there is so much that a part of it may be lent.
    #[inline]
    pub fn lends(&self) -> bool {
        self.limit() / LENT_DIVISOR >= self.threads * LENT_MAX * EXTENT_BYTES
    }

    /// Takes memory back that may still be lent: then it counts as taken until it is not.
    pub fn give_pages(&self, pages: Pages) {
        match pages.into_map() {
            Ok(map) => self.give_extent(Extent(map)),
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
            match pages.into_map() {
                Ok(map) => self.give_extent(Extent(map)),
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
        let mut block = self.block(EXTENT_BYTES, EXTENT_COST_BESIDE)?;
        if self.claim_of(&mut block, EXTENT_BYTES) {
            return Some(Extent(block.map));
        }
        self.give(block, EXTENT_COST_BESIDE);
        None
    }

    /// An extent although the limit does not allow it: for work that frees more
    /// than it takes, but takes first. `None` if the system has no more.
    pub fn extent_in_advance(&self) -> Option<Extent> {
        if let Some(extent) = self.extent() {
            return Some(extent);
        }
        let block = self.map(self.free_of(EXTENT_BYTES)?, EXTENT_BYTES)?;
        self.taken.fetch_add(EXTENT_COST, Ordering::Relaxed);
        Some(Extent(block.map))
    }

    /// Takes an extent back.
    pub fn give_extent(&self, extent: Extent) {
        let (map, claimed) = (extent.0, EXTENT_BYTES);
        self.give(Block { map, claimed }, EXTENT_COST_BESIDE);
    }

    /// Gives all spare memory back to the system.
    pub fn release(&self) {
        self.collect();
        while self.release_one() {}
    }

    /// The free blocks of the smallest size that has `bytes`.
    fn free_of(&self, bytes: usize) -> Option<&Free> {
        let at = (block_bytes(bytes) / BLOCK_BYTES_MIN).trailing_zeros();
        self.free.get(usize::try_from(at).ok()?)
    }

    /// A block of the smallest size that has `bytes`, if the limit allows what it costs
    /// `beside` its pages. Some of those may be claimed.
    pub(super) fn block(&self, bytes: usize, beside: usize) -> Option<Block> {
        let free = self.free_of(bytes)?;
        if !self.claim(beside) {
            return None;
        }
        // Where more is taken than may be, spare memory is what goes first.
        let spare = if self.is_over() { None } else { free.pop() };
        if let Some(block) = spare {
            self.spare.fetch_sub(block.claimed, Ordering::Relaxed);
            return Some(block);
        }
        let block = self.map(free, block_bytes(bytes));
        if block.is_none() {
            self.taken.fetch_sub(beside, Ordering::Relaxed);
        }
        block
    }

    /// Whether so many bytes are too many to be claimed early; counts them if not.
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

    /// Claims the pages of the first `bytes` of a block, if the limit allows it.
    pub(super) fn claim_of(&self, block: &mut Block, bytes: usize) -> bool {
        let bytes = bytes.next_multiple_of(page_bytes());
        let more = bytes.saturating_sub(block.claimed);
        let done = more == 0 || self.claim(more);
        if done {
            block.claimed += more;
        }
        done
    }

    /// Gives back the pages of a block behind the first `bytes`.
    pub(super) fn cut(&self, block: &mut Block, bytes: usize) {
        let bytes = bytes.next_multiple_of(page_bytes());
        let surplus = block.map.get_mut(bytes..block.claimed).unwrap_or_default();
        let len = surplus.len();
        // What the system does not take stays, and counts.
        if len > 0 && give_back(surplus) {
            block.claimed -= len;
            self.taken.fetch_sub(len, Ordering::Relaxed);
        }
    }

    /// Counts `cost` as taken, if the limit allows it; if need be spare blocks go back
    /// to the system for it.
    fn claim(&self, cost: usize) -> bool {
        if self.claim_free(cost) {
            return true;
        }
        self.collect();
        while self.used().saturating_add(cost) <= self.limit() && self.release_one() {
            if self.claim_free(cost) {
                return true;
            }
        }
        false
    }

    fn claim_free(&self, cost: usize) -> bool {
        let limit = self.limit();
        self.taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
                taken.checked_add(cost).filter(|&sum| sum <= limit)
            })
            .is_ok()
    }

    /// A block of `bytes` without memory.
    fn map(&self, free: &Free, bytes: usize) -> Option<Block> {
        let mapped = free.map(bytes).or_else(|_| {
            // Perhaps there are no more addresses: there are those of other sizes.
            self.forget_empty();
            free.map(bytes)
        });
        // As if the limit had been reached: something is evicted for it.
        mapped
            .inspect_err(|error| tracing::warn!(%error, "the system has no more memory"))
            .ok()
    }

    /// Gives all addresses back to the system behind which there is no memory, in their
    /// order: in any other each block would first be cut out of the mapping it lies in,
    /// and there may be no more mappings for that.
    fn forget_empty(&self) {
        let mut all = Vec::new();
        for free in &self.free {
            all.append(&mut lock(&free.empty));
        }
        all.sort_unstable_by_key(|map| map.as_ptr().addr());
    }

    /// Gives a spare block back to the system, a large one if there is one.
    fn release_one(&self) -> bool {
        let mut sizes = self.free.iter().rev();
        let Some((free, block)) = sizes.find_map(|free| Some((free, free.pop()?))) else {
            return false;
        };
        let claimed = block.claimed;
        free.empty(block);
        self.spare.fetch_sub(claimed, Ordering::Relaxed);
        self.taken.fetch_sub(claimed, Ordering::Relaxed);
        true
    }

    /// Takes a block back: to spare it, or for the system.
    pub(super) fn give(&self, block: Block, beside: usize) {
        let claimed = block.claimed;
        self.taken.fetch_sub(beside, Ordering::Relaxed);
        let Some(free) = self.free_of(block.map.len()) else {
            debug_assert!(false, "a block has one of the sizes");
            return;
        };
        let keep = (self.limit() / SPARE_DIVISOR).clamp(SPARE_BYTES_MIN, SPARE_BYTES_MAX);
        let keep = if self.is_over() { 0 } else { keep };
        // Counted before somebody else can have it.
        self.spare.fetch_add(claimed, Ordering::Relaxed);
        if let Err(block) = free.push(block, keep) {
            free.empty(block);
            self.spare.fetch_sub(claimed, Ordering::Relaxed);
            self.taken.fetch_sub(claimed, Ordering::Relaxed);
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // In their order, as they are unmapped.
        self.release();
        self.forget_empty();
    }
}

/// The smallest size of a block that has `bytes`.
fn block_bytes(bytes: usize) -> usize {
    bytes.next_power_of_two().max(BLOCK_BYTES_MIN)
}

/// Bytes of a page of this system, as far as blocks are made for it.
fn page_bytes() -> usize {
    rustix::param::page_size().clamp(PAGE_BYTES, BLOCK_BYTES_MIN)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::store::large::tests::large;

    #[test]
    fn no_more_is_handed_out_than_the_limit_allows() {
        let memory = Memory::new(3 * EXTENT_COST + PAGE_BYTES + BLOCK_COST);
        let extents: Vec<_> = std::iter::from_fn(|| memory.extent()).collect();
        assert_eq!(extents.len(), 3);
        assert!(large(&memory, 2 * PAGE_BYTES).is_none());
        let one = large(&memory, PAGE_BYTES);
        assert!(one.is_some() && large(&memory, PAGE_BYTES).is_none());
        assert_eq!(memory.taken(), memory.limit());
    }

    #[test]
    fn what_is_free_in_one_size_can_be_had_in_another() {
        let memory = Memory::new(EXTENT_COST);
        let values: Vec<_> = std::iter::from_fn(|| large(&memory, BLOCK_BYTES_MIN)).collect();
        let cost = BLOCK_BYTES_MIN + BLOCK_COST;
        assert_eq!(values.len(), EXTENT_COST / cost);
        assert!(!memory.has_extent() && memory.extent().is_none());
        drop(values);
        let extent = memory.extent().unwrap();
        assert_eq!(memory.taken(), EXTENT_COST);
        memory.give_extent(extent);
        assert!(large(&memory, 5 * PAGE_BYTES).is_some());
    }

    #[test]
    fn an_extent_takes_what_is_there_and_the_rest_anew() {
        let memory = Memory::new(4 << 20);
        drop(large(&memory, 50 * PAGE_BYTES).unwrap());
        assert_eq!(memory.taken(), 50 * PAGE_BYTES);
        let extent = memory.extent().unwrap();
        assert_eq!((memory.taken(), memory.used()), (EXTENT_COST, EXTENT_COST));
        memory.give_extent(extent);
        assert_eq!((memory.taken(), memory.used()), (EXTENT_BYTES, 0));
    }

    #[test]
    fn many_threads_keep_to_the_limit() {
        let memory = Memory::new(6 << 20);
        std::thread::scope(|scope| {
            for seed in 0..4 {
                let memory = &memory;
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(seed);
                    let (mut values, mut extents) = (Vec::new(), Vec::new());
                    for _ in 0..3000 {
                        let most = if random.bool() { 16 } else { 256 };
                        let pages = random.usize(1..=most);
                        match random.u8(..10) {
                            0..5 => values.extend(large(memory, pages * PAGE_BYTES)),
                            5 => extents.extend(memory.extent()),
                            6 => extents
                                .drain(..)
                                .for_each(|extent| memory.give_extent(extent)),
                            7 if random.u8(..20) == 0 => memory.release(),
                            _ => values.truncate(random.usize(..8)),
                        }
                        assert!(memory.taken() <= memory.limit());
                        assert!(memory.used() <= memory.limit());
                    }
                    extents
                        .into_iter()
                        .for_each(|extent| memory.give_extent(extent));
                });
            }
        });
        assert_eq!(memory.used(), 0);
        memory.release();
        assert_eq!(memory.taken(), 0);
    }

    #[test]
    fn what_is_taken_in_advance_has_to_come_back_first() {
        let memory = Memory::new(EXTENT_COST);
        let first = memory.extent().unwrap();
        let second = memory.extent_in_advance().unwrap();
        assert!(memory.is_over());
        memory.give_extent(first);
        assert!(!memory.is_over() && memory.extent().is_none());
        memory.give_extent(second);
        assert!(memory.extent().is_some());
    }

    #[test]
    fn what_comes_and_goes_in_any_order_makes_no_holes() {
        let mappings = || {
            std::fs::read_to_string("/proc/self/maps")
                .unwrap()
                .lines()
                .count()
        };
        let memory = Memory::new(64 << 20);
        let mut values: Vec<_> = std::iter::from_fn(|| large(&memory, BLOCK_BYTES_MIN)).collect();
        for value in &mut values {
            value.bytes_mut(0)[0] = 1;
        }
        let before = mappings();
        // Every other one goes, and extents take their memory.
        let mut keep = false;
        values.retain(|_| {
            keep = !keep;
            keep
        });
        let extents: Vec<_> = std::iter::from_fn(|| memory.extent()).collect();
        assert!(extents.len() > 100);
        // Other tests of this process map things too.
        assert!(mappings() < before + 200);
        drop((values, extents));
    }

    #[test]
    fn spare_memory_goes_back_when_asked() {
        let memory = Memory::new(8 << 20);
        let extent = memory.extent().unwrap();
        memory.give_extent(extent);
        assert_eq!(memory.taken(), EXTENT_BYTES);
        memory.release();
        assert_eq!(memory.taken(), 0);
    }
}
