//! Values too large to be copied: parts that fill chunks, and the rest.

use std::sync::Arc;

use bytes::Bytes;

use super::memory::{CHUNK_BYTES, Chunk, Memory};
use super::shard::{Full, Value};

/// A value in memory of its own, on its way into the store.
#[derive(Clone, Debug, Default)]
pub struct Owned {
    chunks: Vec<Bytes>,
    tail: Vec<u8>,
}

impl Owned {
    /// A value shorter than a chunk.
    pub fn small(tail: Vec<u8>) -> Self {
        debug_assert!(tail.len() < CHUNK_BYTES);
        Self {
            chunks: Vec::new(),
            tail,
        }
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
        Ok(filling.finish())
    }

    /// As something to store.
    pub fn as_value(&self) -> Value<'_> {
        Value {
            chunks: &self.chunks,
            tail: [&self.tail, b""],
        }
    }

    /// Its length.
    pub fn len(&self) -> usize {
        self.chunks.len() * CHUNK_BYTES + self.tail.len()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Chunks that are being filled.
#[derive(Debug, Default)]
pub struct Filling {
    chunks: Vec<Bytes>,
    current: Option<Chunk>,
    /// Bytes of the current chunk.
    filled: usize,
}

impl Filling {
    /// Begins with chunks that are full already.
    pub fn after(chunks: &[Bytes]) -> Self {
        Self {
            chunks: chunks.to_vec(),
            ..Self::default()
        }
    }

    /// Bytes filled.
    pub fn len(&self) -> usize {
        self.chunks.len() * CHUNK_BYTES + self.filled
    }

    /// Whether nothing has been filled.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the next bytes go, never nothing.
    ///
    /// # Errors
    ///
    /// [`Full`] if there is no memory for a chunk.
    pub fn room(&mut self, memory: &Arc<Memory>) -> Result<&mut [u8], Full> {
        let chunk = match self.current.take() {
            Some(chunk) => chunk,
            None => memory.chunk().ok_or(Full)?,
        };
        let chunk = self.current.insert(chunk);
        Ok(&mut chunk.bytes_mut()[self.filled..])
    }

    /// Counts bytes that have been written to [`Self::room`].
    pub fn advance(&mut self, count: usize) {
        self.filled += count;
        debug_assert!(self.filled <= CHUNK_BYTES);
        if self.filled == CHUNK_BYTES
            && let Some(chunk) = self.current.take()
        {
            self.filled = 0;
            self.chunks.push(chunk.freeze());
        }
    }

    /// What has been filled, as a value.
    pub fn finish(self) -> Owned {
        let tail = self.current.as_ref().map_or(&[][..], AsRef::as_ref);
        Owned {
            tail: tail.get(..self.filled).unwrap_or_default().to_vec(),
            chunks: self.chunks,
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
        let all = [value.chunks.concat(), value.tail.concat()].concat();
        assert!(all == [b"abc", &long[..], b"xyz"].concat());
    }

    #[test]
    fn a_value_beyond_the_limit_leaves_nothing_behind() {
        let memory = Memory::new(100 << 10);
        assert!(Owned::gather(&memory, &[&vec![1; 200 << 10]]).is_err());
        memory.release();
        assert_eq!(memory.mapped(), 0);
    }
}
