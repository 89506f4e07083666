//! The memory of a store: how much there may be, and what is free of it.
//!
//! It comes from the system in two sizes, extents for the log and the index and
//! chunks for large values, and goes back to it whole. No allocator stands in
//! between: what has been freed in one size can be had in the other, whatever
//! lies around it, and the bound on the sum is exact.
//!
//! What goes back is the memory; the addresses stay with us for the next piece of the
//! same size. The system joins pieces that lie side by side into one mapping. Unmapping
//! every freed one made as many holes, and a cache of some gigabytes of large values
//! that expire in any order came near the number of mappings that a process may have.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use memmap2::{Advice, MmapMut};

use crate::net::lend::Pages;
use crate::net::memory::give_back;
use crate::net::outbox::{LENT_MAX, Parts};

/// Size of an extent. Large enough that the last item of one wastes little, and
/// small enough that a shard of 8 MiB has 32 of them to age one by one.
pub const EXTENT_BYTES: usize = 256 * 1024;

/// Size of a chunk: the part of a large value that is shared with the
/// connections that send it instead of being copied.
pub const CHUNK_BYTES: usize = 16 * 1024;

/// What an extent costs with its entries in the tables of its shard.
pub(super) const EXTENT_COST: usize = EXTENT_BYTES + 256;

/// What a chunk costs with its place in the list of its value, and its share of what
/// the value costs beside: a counter of references and an entry in a table.
pub(super) const CHUNK_COST: usize = CHUNK_BYTES + 128;

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

/// The memory of a store.
#[derive(Debug)]
pub struct Memory {
    limit: AtomicUsize,
    /// Bytes taken from the system, in use or spare, with what they cost beside.
    taken: AtomicUsize,
    /// Bytes of them that are spare.
    spare: AtomicUsize,
    /// Worker threads that may borrow.
    threads: usize,
    /// Extents that nobody uses but that are still lent in part, and how many.
    lent: Mutex<Vec<Pages>>,
    lent_count: AtomicUsize,
    extents: Pieces,
    chunks: Pieces,
}

/// The free pieces of one size.
#[derive(Debug)]
struct Pieces {
    /// Bytes of a piece.
    bytes: usize,
    /// What one costs.
    cost: usize,
    /// Those whose memory we still have.
    spare: Mutex<Vec<MmapMut>>,
    /// Those whose memory has gone back: addresses and nothing else.
    empty: Mutex<Vec<MmapMut>>,
}

impl Pieces {
    fn new(bytes: usize, cost: usize) -> Self {
        Self {
            bytes,
            cost,
            spare: Mutex::default(),
            empty: Mutex::default(),
        }
    }

    /// Memory for a piece, where one has been or anew.
    fn map(&self) -> std::io::Result<MmapMut> {
        if let Some(map) = lock(&self.empty).pop() {
            return Ok(map);
        }
        let map = MmapMut::map_anon(self.bytes)?;
        // Large pages would bring memory back that we have given back. Where the
        // system has none it does not know the advice.
        if let Err(error) = map.advise(Advice::NoHugePage) {
            tracing::trace!(%error, "no large pages to refuse");
        }
        Ok(map)
    }

    /// Gives the memory of a piece back to the system.
    fn empty(&self, mut map: MmapMut) {
        // What cannot be given back, because it is locked, is unmapped.
        if give_back(&mut map) {
            lock(&self.empty).push(map);
        }
    }
}

impl Drop for Pieces {
    /// Unmaps all in the order of their addresses: in any other each would first be cut
    /// out of the mapping it lies in, and there may be no more mappings for that.
    fn drop(&mut self) {
        let mut all = std::mem::take(&mut *lock(&self.spare));
        all.append(&mut lock(&self.empty));
        all.sort_unstable_by_key(|map| map.as_ptr().addr());
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

/// A piece of memory for a part of a large value. Holds anything.
#[derive(Debug)]
pub struct Chunk {
    /// There until the chunk is dropped.
    map: Option<MmapMut>,
    memory: Arc<Memory>,
}

impl Chunk {
    /// Its bytes, to write.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.map.as_deref_mut().unwrap_or_default()
    }
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        if let Some(map) = self.map.take() {
            self.memory.give(map, &self.memory.chunks);
        }
    }
}

/// The full chunks of a large value, which do not change any more. All have one
/// counter of references; their memory is free when the last of those who share them
/// has let go.
#[derive(Debug)]
pub struct Large {
    chunks: Box<[MmapMut]>,
    memory: Arc<Memory>,
}

impl Large {
    /// A value of these chunks; `None` if there are none.
    pub fn new(memory: &Arc<Memory>, chunks: impl IntoIterator<Item = Chunk>) -> Option<Arc<Self>> {
        let chunks = chunks.into_iter().filter_map(|mut chunk| chunk.map.take());
        let chunks: Box<[_]> = chunks.collect();
        (!chunks.is_empty()).then(|| {
            Arc::new(Self {
                chunks,
                memory: Arc::clone(memory),
            })
        })
    }

    /// The chunks, each of [`CHUNK_BYTES`].
    #[inline]
    pub fn chunks(&self) -> &[MmapMut] {
        &self.chunks
    }

    /// Bytes of all of them.
    #[inline]
    pub fn len(&self) -> usize {
        self.chunks.len() * CHUNK_BYTES
    }

    /// Whether there are none, which there always are.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }
}

impl Parts for Large {
    #[inline]
    fn part(&self, at: usize) -> Option<&[u8]> {
        self.chunks.get(at).map(AsRef::as_ref)
    }
}

impl Drop for Large {
    fn drop(&mut self) {
        for map in std::mem::take(&mut self.chunks) {
            self.memory.give(map, &self.memory.chunks);
        }
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
            threads: threads.max(1),
            lent: Mutex::default(),
            lent_count: AtomicUsize::new(0),
            extents: Pieces::new(EXTENT_BYTES, EXTENT_COST),
            chunks: Pieces::new(CHUNK_BYTES, CHUNK_COST),
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
        self.take(&self.extents, &self.chunks).map(Extent)
    }

    /// An extent although the limit does not allow it: for work that frees more
    /// than it takes, but takes first. `None` if the system has no more.
    pub fn extent_in_advance(&self) -> Option<Extent> {
        if let Some(extent) = self.extent() {
            return Some(extent);
        }
        self.taken.fetch_add(EXTENT_COST, Ordering::Relaxed);
        self.map(&self.extents).map(Extent)
    }

    /// Takes an extent back.
    pub fn give_extent(&self, extent: Extent) {
        self.give(extent.0, &self.extents);
    }

    /// A chunk, if the limit allows it.
    pub fn chunk(self: &Arc<Self>) -> Option<Chunk> {
        let map = self.take(&self.chunks, &self.extents)?;
        Some(Chunk {
            map: Some(map),
            memory: Arc::clone(self),
        })
    }

    /// Gives all spare memory back to the system.
    pub fn release(&self) {
        self.collect();
        for pieces in [&self.extents, &self.chunks] {
            while self.release_one(pieces) {}
        }
    }

    /// Takes a spare piece or a new one; if need be pieces of the other size go
    /// back to the system for it.
    fn take(&self, pieces: &Pieces, others: &Pieces) -> Option<MmapMut> {
        if let Some(map) = self.take_spare(pieces) {
            return Some(map);
        }
        if !self.claim(pieces.cost) {
            if self.collect()
                && let Some(map) = self.take_spare(pieces)
            {
                return Some(map);
            }
            while self.taken() + pieces.cost > self.limit() && self.release_one(others) {}
            if !self.claim(pieces.cost) {
                return None;
            }
        }
        self.map(pieces)
    }

    /// A spare piece, if there is one and no more is taken than may be.
    fn take_spare(&self, pieces: &Pieces) -> Option<MmapMut> {
        if self.is_over() {
            return None;
        }
        let map = lock(&pieces.spare).pop()?;
        self.spare.fetch_sub(pieces.cost, Ordering::Relaxed);
        Some(map)
    }

    /// Counts `cost` as taken, if the limit allows it.
    fn claim(&self, cost: usize) -> bool {
        let limit = self.limit();
        self.taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
                taken.checked_add(cost).filter(|&sum| sum <= limit)
            })
            .is_ok()
    }

    /// Memory for what has been claimed.
    fn map(&self, pieces: &Pieces) -> Option<MmapMut> {
        match pieces.map() {
            Ok(map) => Some(map),
            Err(error) => {
                // As if the limit had been reached: something is evicted for it.
                tracing::warn!(%error, "the system has no more memory");
                self.taken.fetch_sub(pieces.cost, Ordering::Relaxed);
                None
            }
        }
    }

    /// Gives a spare piece back to the system, if there is one.
    fn release_one(&self, pieces: &Pieces) -> bool {
        let Some(map) = lock(&pieces.spare).pop() else {
            return false;
        };
        pieces.empty(map);
        self.spare.fetch_sub(pieces.cost, Ordering::Relaxed);
        self.taken.fetch_sub(pieces.cost, Ordering::Relaxed);
        true
    }

    /// Takes a piece back: to spare it, or for the system.
    fn give(&self, map: MmapMut, pieces: &Pieces) {
        let keep = (self.limit() / SPARE_DIVISOR).clamp(SPARE_BYTES_MIN, SPARE_BYTES_MAX);
        if !self.is_over() {
            let mut spares = lock(&pieces.spare);
            if (spares.len() + 1) * pieces.cost <= keep {
                spares.push(map);
                self.spare.fetch_add(pieces.cost, Ordering::Relaxed);
                return;
            }
        }
        pieces.empty(map);
        self.taken.fetch_sub(pieces.cost, Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_handed_out_than_the_limit_allows() {
        let memory = Memory::new(3 * EXTENT_COST + CHUNK_COST);
        let extents: Vec<_> = std::iter::from_fn(|| memory.extent()).collect();
        assert_eq!(extents.len(), 3);
        let chunk = memory.chunk();
        assert!(chunk.is_some() && memory.chunk().is_none());
        assert_eq!(memory.taken(), memory.limit());
    }

    #[test]
    fn what_is_free_in_one_size_can_be_had_in_the_other() {
        let memory = Memory::new(EXTENT_COST);
        let chunks: Vec<_> = std::iter::from_fn(|| memory.chunk()).collect();
        assert_eq!(chunks.len(), EXTENT_COST / CHUNK_COST);
        assert!(!memory.has_extent() && memory.extent().is_none());
        drop(chunks);
        let extent = memory.extent().unwrap();
        assert_eq!(memory.taken(), EXTENT_COST);
        memory.give_extent(extent);
        assert!(memory.chunk().is_some());
    }

    #[test]
    fn a_chunk_is_free_when_nobody_shares_it_any_more() {
        let memory = Memory::new(CHUNK_COST);
        let mut chunk = memory.chunk().unwrap();
        chunk.bytes_mut()[0] = 7;
        let shared = Large::new(&memory, [chunk]).unwrap();
        let other = Arc::clone(&shared);
        drop(shared);
        assert_eq!(other.chunks()[0][0], 7);
        assert_eq!(other.len(), CHUNK_BYTES);
        assert!(memory.chunk().is_none());
        drop(other);
        assert!(memory.chunk().is_some());
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
        let mut chunks: Vec<_> = std::iter::from_fn(|| memory.chunk()).collect();
        for chunk in &mut chunks {
            chunk.bytes_mut()[0] = 1;
        }
        let before = mappings();
        // Every other one goes, and extents take their memory.
        let mut keep = false;
        chunks.retain(|_| {
            keep = !keep;
            keep
        });
        let extents: Vec<_> = std::iter::from_fn(|| memory.extent()).collect();
        assert!(extents.len() > 100);
        // Other tests of this process map things too.
        assert!(mappings() < before + 200);
        drop((chunks, extents));
    }

    #[test]
    fn spare_memory_goes_back_when_asked() {
        let memory = Memory::new(8 << 20);
        let extent = memory.extent().unwrap();
        memory.give_extent(extent);
        assert_eq!(memory.taken(), EXTENT_COST);
        memory.release();
        assert_eq!(memory.taken(), 0);
    }
}
