//! Memory for large values.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use smallvec::SmallVec;

use super::memory::{Memory, PAGE_BYTES, PIECE_BYTES_MIN, PIECE_COST};
use crate::net::outbox::Parts;
use crate::net::span::Span;

/// Memory for a large value, or for as much of it as fills pages. While it is shared it
/// does not change; it is free when the last of those who share it has let go.
#[derive(Debug)]
pub struct Large {
    /// Almost always there is one.
    pieces: SmallVec<[Span; 1]>,
    /// Bytes that they have.
    held: usize,
    /// Bytes of the value.
    len: usize,
    /// Bytes that have been taken early.
    early: usize,
    /// Whether it can be evicted: it is that of an item.
    filed: AtomicBool,
    memory: Arc<Memory>,
}

/// A large value that an item keeps.
#[derive(Debug)]
pub(super) struct Filed(Arc<Large>);

impl Large {
    /// Memory for `len` bytes, whole pages, none of which are taken yet.
    pub fn new(memory: &Arc<Memory>, len: usize) -> Self {
        debug_assert!(len.is_multiple_of(PAGE_BYTES));
        Self {
            pieces: SmallVec::new(),
            held: 0,
            len,
            early: 0,
            filed: AtomicBool::new(false),
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
        self.held + self.pieces.len() * PIECE_COST
    }

    /// Takes memory up to `to`, or for a half or a quarter of what is missing and so on if
    /// the limit does not allow it; for all of the value if that is to be had in one piece
    /// and not too much is taken early.
    pub(super) fn claim(&mut self, to: usize) {
        if self.held >= to {
            return;
        }
        let early = self.len - to;
        if early > 0 && self.held == 0 && !self.memory.is_too_early(early) {
            if let Some(piece) = self.memory.piece(self.len, self.len, None) {
                self.add(piece);
            }
            self.early = early.min(self.held.saturating_sub(to));
            self.memory.not_early(early - self.early);
        }
        let mut wanted = self.wanted(to);
        while wanted > 0 {
            let after = self.pieces.last().map(|last| last.address() + last.len());
            let room = self.len - self.held;
            if let Some(piece) = self.memory.piece(wanted, room, after) {
                self.add(piece);
                wanted = self.wanted(to);
            } else if wanted > PIECE_BYTES_MIN {
                wanted = (wanted / 2)
                    .next_multiple_of(PAGE_BYTES)
                    .max(PIECE_BYTES_MIN);
            } else {
                break;
            }
        }
    }

    /// Bytes to take at a time up to `to`: not in short pieces where more is still to come.
    fn wanted(&self, to: usize) -> usize {
        match to.saturating_sub(self.held) {
            0 => 0,
            missing => missing.max(PIECE_BYTES_MIN).min(self.len - self.held),
        }
    }

    fn add(&mut self, mut piece: Span) {
        self.held += piece.len();
        self.memory.pin(piece.len());
        if let Some(last) = self.pieces.pop() {
            match last.join(piece) {
                Ok(whole) => {
                    self.memory.note_joined();
                    piece = whole;
                }
                Err((last, next)) => {
                    self.pieces.push(last);
                    piece = next;
                }
            }
        }
        self.pieces.push(piece);
    }

    /// What has been taken from `from` on, to write, up to the end of the piece in which
    /// that lies.
    pub(super) fn bytes_mut(&mut self, from: usize) -> &mut [u8] {
        let mut before = 0;
        for piece in &mut self.pieces {
            let end = (before + piece.len()).min(self.len);
            if from < end {
                return piece
                    .get_mut(from - before..end - before)
                    .unwrap_or_default();
            }
            before = end;
        }
        &mut []
    }

    /// Bytes that it has taken.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Shares it, all of it having been written; `None` if it holds nothing.
    pub(super) fn share(mut self) -> Option<Arc<Self>> {
        self.memory.not_early(std::mem::take(&mut self.early));
        (self.len > 0).then(|| Arc::new(self))
    }
}

impl Parts for Large {
    #[inline]
    fn part(&self, at: usize) -> Option<&[u8]> {
        let piece = self.pieces.get(at)?;
        // Pages of the system may be larger than what the value fills.
        let surplus = self.held - self.len;
        if surplus > 0 && at + 1 == self.pieces.len() {
            return piece.get(..piece.len() - surplus);
        }
        Some(piece)
    }
}

impl Filed {
    pub(super) fn new(large: Arc<Large>) -> Self {
        if !large.filed.swap(true, Ordering::Relaxed) {
            large.memory.unpin(large.held);
        }
        Self(large)
    }

    pub(super) fn large(&self) -> &Arc<Large> {
        &self.0
    }
}

impl Drop for Filed {
    fn drop(&mut self) {
        // Whoever else has it keeps it from being free. Nobody can begin to, if nobody does.
        if Arc::strong_count(&self.0) > 1 && self.0.filed.swap(false, Ordering::Relaxed) {
            self.0.memory.pin(self.0.held);
        }
    }
}

impl Drop for Large {
    fn drop(&mut self) {
        self.memory.not_early(self.early);
        if !*self.filed.get_mut() {
            self.memory.unpin(self.held);
        }
        for piece in self.pieces.drain(..) {
            self.memory.give_piece(piece);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::backend::store::memory::{EARLY_DIVISOR, LARGE_BYTES_MIN};

    /// A value of `len` bytes.
    pub(in crate::backend::store) fn large(memory: &Arc<Memory>, len: usize) -> Option<Large> {
        let mut large = Large::new(memory, len);
        large.claim(len);
        (large.bytes_mut(0).len() == len).then_some(large)
    }

    #[test]
    fn a_value_is_free_when_nobody_shares_it_any_more() {
        let cost = LARGE_BYTES_MIN + PIECE_COST;
        let memory = Memory::new(cost);
        let mut first = large(&memory, LARGE_BYTES_MIN).unwrap();
        first.bytes_mut(0)[0] = 7;
        let shared = first.share().unwrap();
        let other = Arc::clone(&shared);
        drop(shared);
        assert_eq!(other.part(0).unwrap()[0], 7);
        assert_eq!((other.len(), other.cost()), (LARGE_BYTES_MIN, cost));
        assert!(large(&memory, PAGE_BYTES).is_none());
        drop(other);
        assert!(large(&memory, LARGE_BYTES_MIN).is_some());
    }

    #[test]
    fn a_value_costs_the_pages_it_fills_whatever_lay_there_before() {
        let memory = Memory::new(8 << 20);
        for pages in [20, 17, 32, 18, 31, 17] {
            let mut value = large(&memory, pages * PAGE_BYTES).unwrap();
            value.bytes_mut(0).fill(1);
            let value = value.share().unwrap();
            assert_eq!(value.cost(), pages * PAGE_BYTES + PIECE_COST);
            assert_eq!(memory.used(), value.cost());
            assert!(value.parts().all(|part| part.iter().all(|&byte| byte == 1)));
        }
        assert_eq!(memory.used(), 0);
        assert_eq!(
            memory.taken(),
            (20 + 32) * PAGE_BYTES,
            "no more than must be"
        );
    }

    #[test]
    fn a_value_lies_in_pieces_where_there_is_no_run_for_it() {
        let memory = Memory::new(40 * PAGE_BYTES + 6 * PIECE_COST);
        let mut values: Vec<_> = (0..5)
            .map(|_| large(&memory, 8 * PAGE_BYTES).unwrap())
            .collect();
        values.remove(3);
        values.remove(1);
        let mut value = large(&memory, 0).unwrap();
        assert!(value.is_empty());
        value.len = 15 * PAGE_BYTES;
        value.claim(15 * PAGE_BYTES);
        let mut filled = 0;
        while filled < value.len() {
            let bytes = value.bytes_mut(filled);
            assert!(!bytes.is_empty());
            bytes.fill(3);
            filled += bytes.len();
        }
        assert_eq!(value.cost(), 15 * PAGE_BYTES + 2 * PIECE_COST);
        let value = value.share().unwrap();
        let lens: Vec<_> = value.parts().map(|part| part.len() / PAGE_BYTES).collect();
        assert_eq!(lens, [8, 7]);
        drop((values, value));
        assert_eq!((memory.used(), memory.taken()), (0, 40 * PAGE_BYTES));
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
            next.claim(LARGE_BYTES_MIN);
            assert!(next.bytes_mut(0).len() >= LARGE_BYTES_MIN);
            begun.push(next);
        }
        let early = memory.limit() / EARLY_DIVISOR;
        assert!(memory.used() <= 20 * (LARGE_BYTES_MIN + PIECE_COST) + early);
        drop(begun);
        assert_eq!(memory.early.load(Ordering::Relaxed), 0);
        assert_eq!(memory.used(), 0);
    }
}
