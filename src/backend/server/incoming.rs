//! A large value on its way in.
//!
//! Its bytes are read from the socket into the memory that the store will keep
//! them in, as far as they have not come with the command line. Memory is taken
//! as they arrive, and not before there are some: for a client that announces much
//! and sends little nothing is evicted.

use std::io::{self, IoSliceMut};
use std::task::{Context, Poll};

use crate::backend::store::{Filling, Full, LARGE_BYTES_MIN, Owned, Store};
use crate::net::stream::ReadHalf;

/// A value on its way in, and what follows it.
#[derive(Debug)]
pub(super) struct Incoming {
    /// The command that announced it, as sent.
    pub(super) head: Vec<u8>,
    filling: Filling,
    /// Bytes after the value that belong to it, and those that have come.
    end: [u8; 2],
    end_len: usize,
    ended: usize,
}

impl Incoming {
    /// How much of `rest` must be there, the command's line of `len` bytes with it, before
    /// memory is taken for the value; `None` if it is.
    pub(super) fn wants(rest: &[u8], len: usize, value_len: usize) -> Option<usize> {
        let need = len + value_len.min(LARGE_BYTES_MIN);
        (rest.len() < need).then_some(need)
    }

    /// A value of `value_len` bytes, followed by `end_len` more, at most two.
    pub(super) fn new(store: &Store, head: &[u8], value_len: usize, end_len: usize) -> Self {
        Self {
            head: head.to_vec(),
            filling: Filling::new(store.memory(), value_len),
            end: [0; 2],
            end_len: end_len.min(2),
            ended: 0,
        }
    }

    /// Bytes of the value that are still to come.
    fn missing(&self) -> usize {
        self.filling.missing()
    }

    /// Bytes that are still to come, with what follows the value.
    pub(super) fn rest(&self) -> usize {
        self.missing() + self.end_len - self.ended
    }

    /// Whether the value ended as it must.
    pub(super) fn is_well_ended(&self) -> bool {
        self.end_len == 0 || self.end == *b"\r\n"
    }

    /// The value.
    pub(super) fn finish(self) -> Owned {
        self.filling.finish()
    }

    /// Takes bytes that have been read already: [`Self::rest`] tells how many.
    ///
    /// # Errors
    ///
    /// [`Full`] if there is no memory for all of them.
    pub(super) fn take(&mut self, store: &Store, bytes: &[u8], now: u32) -> Result<(), Full> {
        let prepare = |filling: &mut Filling| store.prepare(filling, now);
        let rest = self.filling.fill(bytes, prepare)?;
        if self.missing() == 0 {
            let wanted = &mut self.end[self.ended..self.end_len];
            let count = wanted.len().min(rest.len());
            wanted[..count].copy_from_slice(&rest[..count]);
            self.ended += count;
        }
        Ok(())
    }

    /// Reads what has come straight into the value. Ready with 0 at the end of the
    /// stream.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        stream: &ReadHalf,
        store: &Store,
        now: u32,
    ) -> Poll<io::Result<Result<usize, Full>>> {
        let missing = self.missing();
        if let Err(full) = store.prepare(&mut self.filling, now) {
            return Poll::Ready(Ok(Err(full)));
        }
        let rooms = self.filling.rooms();
        let is_all = rooms.iter().map(|room| room.len()).sum::<usize>() == missing;
        let end = if is_all {
            self.ended..self.end_len
        } else {
            0..0
        };
        let [first, rest] = rooms;
        let end = &mut self.end[end];
        let mut pieces = [first, rest, end].map(IoSliceMut::new);
        let read = std::task::ready!(stream.poll_read_vectored(cx, &mut pieces))?;
        let of_value = read.min(missing);
        self.filling.advance(of_value);
        self.ended += read - of_value;
        Poll::Ready(Ok(Ok(read)))
    }
}
