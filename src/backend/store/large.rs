//! Memory for large values.

use std::sync::Arc;

use smallvec::SmallVec;

use super::memory::{BLOCK_BYTES_MAX, BLOCK_COST, Block, Memory, PAGE_BYTES};
use crate::net::outbox::Parts;

/// Memory for a large value, or for as much of it as fills pages. While it is shared it
/// does not change; it is free when the last of those who share it has let go.
#[derive(Debug)]
pub struct Large {
    /// Each of [`BLOCK_BYTES_MAX`] but the last, which is no larger than it must be.
    /// Almost always there is one.
    blocks: SmallVec<[Block; 1]>,
    /// Bytes that it holds.
    len: usize,
    /// Bytes of it that count as early.
    early: usize,
    memory: Arc<Memory>,
}

impl Large {
    /// Memory for `len` bytes, whole pages, none of which are claimed yet.
    pub fn new(memory: &Arc<Memory>, len: usize) -> Self {
        debug_assert!(len.is_multiple_of(PAGE_BYTES));
        Self {
            blocks: SmallVec::new(),
            len,
            early: 0,
            memory: Arc::clone(memory),
        }
    }

    /// Bytes that it holds.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes, in pieces.
    pub fn parts(&self) -> impl Iterator<Item = &[u8]> {
        (0..).map_while(|at| self.part(at))
    }

    /// What it costs.
    pub(super) fn cost(&self) -> usize {
        let cost = |block: &Block| block.claimed + BLOCK_COST;
        self.blocks.iter().map(cost).sum()
    }

    /// Claims memory from `from` up to `to`, or a half or a quarter of that and so on if
    /// the limit does not allow it, though not beyond the block in which `from` lies.
    pub(super) fn claim(&mut self, from: usize, to: usize) {
        let (at, start) = (from / BLOCK_BYTES_MAX, from % BLOCK_BYTES_MAX);
        let before = from - start;
        let wanted = (self.len - before).min(BLOCK_BYTES_MAX);
        if at == self.blocks.len()
            && let Some(mut block) = self.memory.block(wanted, BLOCK_COST)
        {
            let early = block.claimed;
            if self.memory.is_too_early(early) {
                self.memory.cut(&mut block, to - before);
            } else {
                self.early += early;
            }
            self.blocks.push(block);
        }
        if let Some(block) = self.blocks.get_mut(at) {
            let mut more = wanted.min(to - before) - start;
            while more > 0 && !self.memory.claim_of(block, start + more) {
                more = more / 2 / PAGE_BYTES * PAGE_BYTES;
            }
        }
    }

    /// What has been claimed from `from` on, to write, up to the end of the block in
    /// which that lies.
    pub(super) fn bytes_mut(&mut self, from: usize) -> &mut [u8] {
        let (at, start) = (from / BLOCK_BYTES_MAX, from % BLOCK_BYTES_MAX);
        let wanted = (self.len - (from - start)).min(BLOCK_BYTES_MAX);
        let block = self.blocks.get_mut(at);
        let bytes = block.and_then(|block| block.map.get_mut(start..block.claimed.min(wanted)));
        bytes.unwrap_or_default()
    }

    /// Gives back what has been claimed and is not needed, and shares the rest; `None`
    /// if it holds nothing.
    pub(super) fn share(mut self) -> Option<Arc<Self>> {
        let len = self.len;
        self.memory.not_early(std::mem::take(&mut self.early));
        if let Some(last) = self.blocks.last_mut() {
            self.memory.cut(last, (len - 1) % BLOCK_BYTES_MAX + 1);
        }
        (len > 0).then(|| Arc::new(self))
    }
}

impl Parts for Large {
    #[inline]
    fn part(&self, at: usize) -> Option<&[u8]> {
        let left = self.len.checked_sub(at * BLOCK_BYTES_MAX)?;
        self.blocks.get(at)?.map.get(..left.min(BLOCK_BYTES_MAX))
    }
}

impl Drop for Large {
    fn drop(&mut self) {
        self.memory.not_early(self.early);
        for block in self.blocks.drain(..) {
            self.memory.give(block, BLOCK_COST);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::backend::store::memory::{BLOCK_BYTES_MIN, EARLY_DIVISOR};

    /// A value of `len` bytes.
    pub(in crate::backend::store) fn large(memory: &Arc<Memory>, len: usize) -> Option<Large> {
        let mut large = Large::new(memory, len);
        large.claim(0, len);
        (large.bytes_mut(0).len() == len).then_some(large)
    }

    #[test]
    fn a_value_is_free_when_nobody_shares_it_any_more() {
        let cost = BLOCK_BYTES_MIN + BLOCK_COST;
        let memory = Memory::new(cost);
        let mut first = large(&memory, BLOCK_BYTES_MIN).unwrap();
        first.bytes_mut(0)[0] = 7;
        let shared = first.share().unwrap();
        let other = Arc::clone(&shared);
        drop(shared);
        assert_eq!(other.part(0).unwrap()[0], 7);
        assert_eq!((other.len(), other.cost()), (BLOCK_BYTES_MIN, cost));
        assert!(large(&memory, PAGE_BYTES).is_none());
        drop(other);
        assert!(large(&memory, BLOCK_BYTES_MIN).is_some());
    }

    #[test]
    fn a_value_costs_the_pages_it_fills_whatever_lay_there_before() {
        let memory = Memory::new(8 << 20);
        for pages in [20, 17, 32, 18, 31, 17] {
            let mut value = large(&memory, pages * PAGE_BYTES).unwrap();
            value.bytes_mut(0).fill(1);
            let value = value.share().unwrap();
            assert_eq!(value.cost(), pages * PAGE_BYTES + BLOCK_COST);
            assert_eq!(memory.used(), value.cost());
            assert!(value.parts().all(|part| part.iter().all(|&byte| byte == 1)));
        }
        assert_eq!(memory.used(), 0);
        assert_eq!(memory.taken(), 17 * PAGE_BYTES, "it was the same block");
    }

    #[test]
    fn values_on_their_way_in_hold_little_whatever_the_blocks_had() {
        const LEN: usize = 1 << 20;
        let memory = Memory::new(64 << 20);
        let full: Vec<_> = (0..20).map(|_| large(&memory, LEN).unwrap()).collect();
        let mut begun = Vec::new();
        for one in full {
            drop(one);
            let mut next = Large::new(&memory, LEN);
            next.claim(0, BLOCK_BYTES_MIN);
            assert!(next.bytes_mut(0).len() >= BLOCK_BYTES_MIN);
            begun.push(next);
        }
        let early = memory.limit() / EARLY_DIVISOR;
        assert!(memory.used() <= 20 * (BLOCK_BYTES_MIN + BLOCK_COST) + early);
        drop(begun);
        assert_eq!(memory.early.load(Ordering::Relaxed), 0);
        assert_eq!(memory.used(), 0);
    }
}
