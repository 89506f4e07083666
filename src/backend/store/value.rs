//! Values too large to be copied: parts that fill chunks, and the rest.

use std::collections::VecDeque;
use std::sync::Arc;

use super::memory::{CHUNK_BYTES, Chunk, Large, Memory};
use super::shard::{Full, Value};

/// A value in memory of its own, on its way into the store.
#[derive(Clone, Debug, Default)]
pub struct Owned {
    large: Option<Arc<Large>>,
    tail: Vec<u8>,
}

impl Owned {
    /// A value shorter than a chunk.
    pub fn small(tail: Vec<u8>) -> Self {
        debug_assert!(tail.len() < CHUNK_BYTES);
        Self { large: None, tail }
    }

    /// Copies the pieces, one after the other, into chunks.
    ///
    /// # Errors
    ///
    /// [`Full`] if there is no memory for so many chunks.
    pub fn gather(memory: &Arc<Memory>, pieces: &[&[u8]]) -> Result<Self, Full> {
        let mut filling = Filling::default();
        for piece in pieces {
            let mut piece = *piece;
            while !piece.is_empty() {
                let room = filling.room(memory)?;
                let (now, later) = piece.split_at(piece.len().min(room.len()));
                room[..now.len()].copy_from_slice(now);
                filling.advance(now.len());
                piece = later;
            }
        }
        Ok(filling.finish(memory))
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

/// Chunks that are being filled.
#[derive(Debug, Default)]
pub struct Filling {
    full: Vec<Chunk>,
    /// The one being filled, and empty ones behind it.
    open: VecDeque<Chunk>,
    /// Bytes of the first open one.
    filled: usize,
}

impl Filling {
    /// Bytes filled.
    pub fn len(&self) -> usize {
        self.full.len() * CHUNK_BYTES + self.filled
    }

    /// Whether nothing has been filled.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Chunks that are full.
    pub fn chunks(&self) -> usize {
        self.full.len()
    }

    /// Where the next bytes go, never nothing.
    ///
    /// # Errors
    ///
    /// [`Full`] if there is no memory for a chunk.
    pub fn room(&mut self, memory: &Arc<Memory>) -> Result<&mut [u8], Full> {
        if self.open.is_empty() {
            self.open.push_back(memory.chunk().ok_or(Full)?);
        }
        let chunk = self.open.front_mut().ok_or(Full)?;
        Ok(&mut chunk.bytes_mut()[self.filled..])
    }

    /// Where the next bytes go, up to `wanted` of them in up to `most` pieces:
    /// what there is, and more if there is memory.
    pub fn rooms(
        &mut self,
        memory: &Arc<Memory>,
        wanted: usize,
        most: usize,
    ) -> impl Iterator<Item = &mut [u8]> {
        let chunks = (self.filled + wanted).div_ceil(CHUNK_BYTES).min(most);
        while self.open.len() < chunks
            && let Some(chunk) = memory.chunk()
        {
            self.open.push_back(chunk);
        }
        let (mut skip, mut left) = (self.filled, wanted);
        self.open.iter_mut().take(chunks).map(move |chunk| {
            let room = &mut chunk.bytes_mut()[skip..];
            skip = 0;
            let count = room.len().min(left);
            left -= count;
            &mut room[..count]
        })
    }

    /// Counts bytes that have been written to [`Self::room`].
    pub fn advance(&mut self, count: usize) {
        self.filled += count;
        debug_assert!(self.filled <= CHUNK_BYTES);
        if self.filled == CHUNK_BYTES
            && let Some(chunk) = self.open.pop_front()
        {
            self.filled = 0;
            self.full.push(chunk);
        }
    }

    /// Counts bytes that have been written to [`Self::rooms`].
    pub fn advance_all(&mut self, mut count: usize) {
        while count > 0 {
            let first = count.min(CHUNK_BYTES - self.filled);
            self.advance(first);
            count -= first;
        }
    }

    /// What has been filled, as a value.
    pub fn finish(self, memory: &Arc<Memory>) -> Owned {
        let tail = self.open.front().map_or(&[][..], AsRef::as_ref);
        Owned {
            tail: tail.get(..self.filled).unwrap_or_default().to_vec(),
            large: Large::new(memory, self.full),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_gathered_across_the_borders_of_chunks() {
        let memory = Memory::new(1 << 20);
        let long: Vec<u8> = (0..CHUNK_BYTES + 100)
            .map(|at| at.to_le_bytes()[0] ^ 7)
            .collect();
        let owned = Owned::gather(&memory, &[b"abc", &long, b"", b"xyz"]).unwrap();
        assert_eq!(owned.len(), CHUNK_BYTES + 106);
        let value = owned.as_value();
        let chunks: Vec<&[u8]> = value.chunks().iter().map(AsRef::as_ref).collect();
        let all = [chunks.concat(), value.tail.concat()].concat();
        assert!(all == [b"abc", &long[..], b"xyz"].concat());
    }

    #[test]
    fn several_chunks_can_be_filled_at_once() {
        let memory = Memory::new(1 << 20);
        let mut filling = Filling::default();
        filling.room(&memory).unwrap()[..10].fill(b'a');
        filling.advance(10);
        let wanted = 2 * CHUNK_BYTES;
        let mut sizes = Vec::new();
        for room in filling.rooms(&memory, wanted, 8) {
            room.fill(b'b');
            sizes.push(room.len());
        }
        assert_eq!(sizes, [CHUNK_BYTES - 10, CHUNK_BYTES, 10]);
        filling.advance_all(wanted);
        let owned = filling.finish(&memory);
        assert_eq!(owned.len(), wanted + 10);
        let first = &owned.as_value().chunks()[0];
        assert_eq!((first[9], first[10], owned.tail[9]), (b'a', b'b', b'b'));
    }

    #[test]
    fn a_value_beyond_the_limit_leaves_nothing_behind() {
        let memory = Memory::new(100 << 10);
        assert!(Owned::gather(&memory, &[&vec![1; 200 << 10]]).is_err());
        memory.release();
        assert_eq!(memory.taken(), 0);
    }
}
