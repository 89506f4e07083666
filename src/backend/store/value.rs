//! Values too large to be copied: what fills pages, and the rest.

use std::sync::Arc;

use super::large::Large;
use super::memory::{LARGE_BYTES_MIN, Memory, PAGE_BYTES};
use super::shard::{Full, Value};

/// Memory that is claimed for what is still to come of a value: as much as has come
/// already, between these. Who announces much and sends little holds little.
const AHEAD_BYTES_MIN: usize = 16 * 1024;
const AHEAD_BYTES_MAX: usize = 128 * 1024;

/// A value in memory of its own, on its way into the store.
#[derive(Clone, Debug, Default)]
pub struct Owned {
    large: Option<Arc<Large>>,
    tail: Vec<u8>,
}

impl Owned {
    /// A value shorter than [`LARGE_BYTES_MIN`].
    pub fn small(tail: Vec<u8>) -> Self {
        debug_assert!(tail.len() < LARGE_BYTES_MIN);
        Self { large: None, tail }
    }

    /// Copies the pieces, one after the other, into memory of their own.
    ///
    /// # Errors
    ///
    /// [`Full`] if there is no memory for them.
    pub fn gather(memory: &Arc<Memory>, pieces: &[&[u8]]) -> Result<Self, Full> {
        let len = pieces.iter().map(|piece| piece.len()).sum();
        let mut filling = Filling::new(memory, len);
        for piece in pieces {
            filling.fill(piece, Filling::prepare)?;
        }
        Ok(filling.finish())
    }

    /// As something to store.
    pub fn as_value(&self) -> Value<'_> {
        Value {
            large: self.large.as_ref(),
            tail: [&self.tail, b""],
        }
    }

    /// Its length.
    pub fn len(&self) -> usize {
        self.large.as_ref().map_or(0, |large| large.len()) + self.tail.len()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A value that is being filled.
#[derive(Debug)]
pub struct Filling {
    large: Large,
    /// What does not fill a page.
    tail: Box<[u8]>,
    /// Bytes filled, of both.
    filled: usize,
}

impl Filling {
    /// A value of `len` bytes, none of which has come. No memory is taken but for its
    /// last few.
    pub fn new(memory: &Arc<Memory>, len: usize) -> Self {
        let rest = len % PAGE_BYTES;
        Self {
            large: Large::new(memory, len - rest),
            tail: vec![0; rest].into(),
            filled: 0,
        }
    }

    /// Bytes of it.
    pub fn len(&self) -> usize {
        self.large.len() + self.tail.len()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that are still to come.
    pub fn missing(&self) -> usize {
        self.len() - self.filled
    }

    /// Bytes for which memory is to be claimed now.
    pub fn ahead(&self) -> usize {
        let ahead = self.filled.clamp(AHEAD_BYTES_MIN, AHEAD_BYTES_MAX);
        ahead.min(self.large.len().saturating_sub(self.filled))
    }

    /// Whether there is memory for as much as is to be claimed now.
    pub(super) fn is_ahead(&self) -> bool {
        self.held() >= (self.filled + self.ahead()).min(self.large.len())
    }

    /// Bytes of memory claimed.
    pub(super) fn held(&self) -> usize {
        self.large.held()
    }

    /// Sees to it that there is memory for some of what is to come.
    ///
    /// # Errors
    ///
    /// [`Full`] if there is none.
    pub fn prepare(&mut self) -> Result<(), Full> {
        let from = self.filled;
        if from >= self.large.len() {
            return Ok(());
        }
        self.large.claim(from + self.ahead());
        if self.large.bytes_mut(from).is_empty() {
            return Err(Full);
        }
        Ok(())
    }

    /// Where the next bytes go, in two pieces: as much as [`Self::prepare`] has seen to.
    pub fn rooms(&mut self) -> [&mut [u8]; 2] {
        let (from, end) = (self.filled, self.large.len());
        if from >= end {
            let rest = self.tail.get_mut(from - end..);
            return [&mut [], rest.unwrap_or_default()];
        }
        let first = self.large.bytes_mut(from);
        let rest = if from + first.len() == end {
            &mut self.tail[..]
        } else {
            &mut []
        };
        [first, rest]
    }

    /// Counts bytes that have been written to [`Self::rooms`].
    pub fn advance(&mut self, count: usize) {
        debug_assert!(count <= self.missing());
        self.filled += count;
    }

    /// Copies bytes, as far as any are missing, and has memory prepared for them.
    /// Returns those behind.
    ///
    /// # Errors
    ///
    /// [`Full`] if `prepare` says so; what has been copied counts.
    pub fn fill<'a>(
        &mut self,
        mut bytes: &'a [u8],
        mut prepare: impl FnMut(&mut Self) -> Result<(), Full>,
    ) -> Result<&'a [u8], Full> {
        while self.missing() > 0 && !bytes.is_empty() {
            prepare(self)?;
            let taken = self.take(bytes);
            bytes = bytes.get(taken..).unwrap_or_default();
        }
        Ok(bytes)
    }

    /// Copies what there is room for. Says how much that was.
    fn take(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        for room in self.rooms() {
            let rest = bytes.get(taken..).unwrap_or_default();
            let count = room.len().min(rest.len());
            room[..count].copy_from_slice(&rest[..count]);
            taken += count;
        }
        self.advance(taken);
        taken
    }

    /// The value, of which nothing is missing.
    pub fn finish(self) -> Owned {
        debug_assert_eq!(self.missing(), 0);
        Owned {
            large: self.large.share(),
            tail: self.tail.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::backend::store::memory::{PIECE_BYTES_MAX, PIECE_BYTES_MIN, PIECE_COST};

    fn bytes(len: usize) -> Vec<u8> {
        (0..len).map(|at| at.to_le_bytes()[0] ^ 7).collect()
    }

    fn all_of(owned: &Owned) -> Vec<u8> {
        let value = owned.as_value();
        let parts: Vec<_> = value.parts().collect();
        [parts.concat(), value.tail.concat()].concat()
    }

    #[test]
    fn pieces_are_gathered_whatever_their_length() {
        let memory = Memory::new(8 << 20);
        for len in [1, 4096, 20_000, PIECE_BYTES_MAX, 2 * PIECE_BYTES_MAX + 5000] {
            let long = bytes(len);
            let owned = Owned::gather(&memory, &[b"abc", &long, b"", b"xyz"]).unwrap();
            assert_eq!(owned.len(), len + 6);
            assert!(all_of(&owned) == [b"abc", &long[..], b"xyz"].concat());
            let large = owned.as_value().large;
            let parts = large.map_or(0, |large| large.parts().count());
            let whole = (len + 6) / PAGE_BYTES * PAGE_BYTES;
            assert!(parts <= whole.div_ceil(PIECE_BYTES_MAX), "{parts} of {len}");
            assert_eq!(
                large.map_or(0, |large| large.cost()),
                whole + parts * PIECE_COST
            );
        }
    }

    #[test]
    fn memory_is_claimed_as_a_value_comes() {
        let memory = Memory::new(8 << 20);
        let mut filling = Filling::new(&memory, 1 << 20);
        assert_eq!(memory.taken(), 0);
        let mut steps = Vec::new();
        while filling.missing() > 0 {
            filling.prepare().unwrap();
            let [room, rest] = filling.rooms();
            assert!(rest.is_empty());
            let count = room.len();
            steps.push(count >> 10);
            filling.advance(count);
        }
        let (first, later) = steps.split_at(5);
        assert_eq!(first, [16, 16, 32, 64, 128]);
        assert!(later.iter().all(|&step| step == 128));
    }

    #[test]
    fn what_comes_in_small_steps_lies_in_no_shorter_pieces() {
        let memory = Memory::new(8 << 20);
        let len = 400 << 10;
        // Nothing is taken early, and every other hole is large enough.
        memory.early.store(8 << 20, Ordering::Relaxed);
        let mut holes: Vec<_> = (0..100)
            .map(|_| memory.piece(PIECE_BYTES_MIN, 0, None))
            .collect();
        for hole in holes.iter_mut().step_by(2) {
            memory.give_piece(hole.take().unwrap());
        }
        let mut filling = Filling::new(&memory, len);
        for step in bytes(len).chunks(1460) {
            filling.fill(step, Filling::prepare).unwrap();
        }
        let large = filling.finish();
        let parts = large
            .as_value()
            .large
            .map_or(0, |large| large.parts().count());
        assert!(parts <= len / PIECE_BYTES_MIN, "{parts}");
        holes
            .into_iter()
            .flatten()
            .for_each(|piece| memory.give_piece(piece));
    }

    #[test]
    fn the_rest_is_filled_with_the_last_pages() {
        let memory = Memory::new(1 << 20);
        let mut filling = Filling::new(&memory, 3 * PAGE_BYTES + 10);
        filling.prepare().unwrap();
        assert_eq!(filling.rooms().map(|room| room.len()), [3 * PAGE_BYTES, 10]);
        filling.advance(3 * PAGE_BYTES + 4);
        filling.prepare().unwrap();
        assert_eq!(filling.rooms().map(|room| room.len()), [0, 6]);
        filling.advance(6);
        assert_eq!(filling.finish().len(), 3 * PAGE_BYTES + 10);
    }

    #[test]
    fn the_last_pages_there_are_can_be_had() {
        let memory = Memory::new(PIECE_COST + 3 * PAGE_BYTES);
        let len = 3 * PAGE_BYTES + 1;
        assert!(Owned::gather(&memory, &[&bytes(len)]).is_ok());
        assert!(Owned::gather(&memory, &[&bytes(len + PAGE_BYTES)]).is_err());
    }

    #[test]
    fn a_value_beyond_the_limit_leaves_nothing_behind() {
        let memory = Memory::new(100 << 10);
        assert!(Owned::gather(&memory, &[&vec![1; 200 << 10]]).is_err());
        memory.release();
        assert_eq!(memory.taken(), 0);
    }
}
