//! A large value on its way in.
//!
//! Its bytes are read from the socket into the memory that the store will keep
//! them in, as far as they have not come with the command line. Memory is taken
//! as they arrive: a client that announces much and sends little holds little.

use std::io::{self, IoSliceMut};
use std::task::{Context, Poll};

use crate::backend::store::{Filling, Full, Owned, Store};
use crate::net::stream::ReadHalf;

/// Chunks that one read may fill, once as many have been filled: one that sends
/// little does not get to hold more.
const PIECES: usize = 8;

/// A value on its way in, and what follows it.
#[derive(Debug)]
pub(super) struct Incoming {
    /// The command that announced it, as sent.
    pub(super) head: Vec<u8>,
    filling: Filling,
    /// Bytes of the value.
    value_len: usize,
    /// Bytes after the value that belong to it, and those that have come.
    end: [u8; 2],
    end_len: usize,
    ended: usize,
}

impl Incoming {
    /// A value of `value_len` bytes, followed by `end_len` more, at most two.
    pub(super) fn new(head: &[u8], value_len: usize, end_len: usize) -> Self {
        Self {
            head: head.to_vec(),
            filling: Filling::default(),
            value_len,
            end: [0; 2],
            end_len: end_len.min(2),
            ended: 0,
        }
    }

    /// Bytes of the value that are still to come.
    fn missing(&self) -> usize {
        self.value_len - self.filling.len()
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
    pub(super) fn finish(self, store: &Store) -> Owned {
        self.filling.finish(store.memory())
    }

    /// Takes bytes that have been read already. Returns how many.
    ///
    /// # Errors
    ///
    /// [`Full`] if there is no memory for them.
    pub(super) fn take(&mut self, store: &Store, bytes: &[u8], now: u32) -> Result<usize, Full> {
        let mut used = 0;
        while self.missing() > 0 && used < bytes.len() {
            let missing = self.missing();
            let room = store.room_in(&mut self.filling, now)?;
            let rest = bytes.get(used..).unwrap_or_default();
            let count = room.len().min(rest.len()).min(missing);
            room[..count].copy_from_slice(&rest[..count]);
            self.filling.advance(count);
            used += count;
        }
        if self.missing() == 0 {
            let rest = bytes.get(used..).unwrap_or_default();
            let wanted = &mut self.end[self.ended..self.end_len];
            let count = wanted.len().min(rest.len());
            wanted[..count].copy_from_slice(&rest[..count]);
            self.ended += count;
            used += count;
        }
        Ok(used)
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
        if missing > 0
            && let Err(full) = store.room_in(&mut self.filling, now)
        {
            return Poll::Ready(Ok(Err(full)));
        }
        let mut pieces: [IoSliceMut<'_>; PIECES + 1] =
            std::array::from_fn(|_| IoSliceMut::new(&mut []));
        let (mut count, mut room) = (0, 0);
        let most = (self.filling.chunks() + 1).min(PIECES);
        for piece in self.filling.rooms(store.memory(), missing, most) {
            room += piece.len();
            pieces[count] = IoSliceMut::new(piece);
            count += 1;
        }
        if room == missing {
            pieces[count] = IoSliceMut::new(&mut self.end[self.ended..self.end_len]);
            count += 1;
        }
        let read = std::task::ready!(stream.poll_read_vectored(cx, &mut pieces[..count]))?;
        let of_value = read.min(missing);
        self.filling.advance_all(of_value);
        self.ended += read - of_value;
        Poll::Ready(Ok(Ok(read)))
    }
}
