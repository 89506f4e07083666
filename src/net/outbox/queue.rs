//! Bytes in the order they will be written: copies, shared values, parts of values.

use std::cell::RefMut;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;

use bytes::Bytes;

use crate::net::buffers;
use crate::net::stream::WriteHalf;

/// Pieces written with one system call, where they are many: a value of a mebibyte
/// in parts of 16 KiB, with what stands around it.
const PIECES_MAX: usize = 72;

/// Pieces up to which a write is prepared in less room.
const PIECES_FEW: usize = 16;

/// Bytes up to which few pieces will do.
const BYTES_FEW: usize = 160 * 1024;

/// Bytes that lie in several places and have one owner: sharing them costs one
/// reference, however many places there are.
pub trait Parts: std::fmt::Debug + Send + Sync {
    /// The part at a place, from 0 on; `None` behind the last. None is empty.
    fn part(&self, at: usize) -> Option<&[u8]>;
}

/// Bytes in the order they will be written.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Complete pieces; those written first.
    pub(super) pieces: VecDeque<Piece>,
    /// The piece that small writes are appended to; written last.
    pub(super) tail: Vec<u8>,
    /// Bytes of the first part of the first piece that have been written already.
    written: usize,
    /// Bytes in all, those written of the first part not counted.
    pub(super) len: usize,
    /// What has been written and is kept for a while.
    kept: Kept,
}

/// Bytes that have been written and may have to be written again.
#[derive(Debug, Default)]
struct Kept {
    /// Whether anything is kept.
    on: bool,
    /// What was written first, which mostly is all.
    first: Vec<u8>,
    more: Vec<Vec<u8>>,
}

/// Most bytes that are kept after they have been written.
pub(super) const KEPT_BYTES_MAX: usize = 64 * 1024;

#[derive(Debug)]
pub(super) enum Piece {
    Copied(Vec<u8>),
    Shared(Bytes),
    /// What is left of parts, from this place on.
    Parts(Arc<dyn Parts>, usize),
}

impl Piece {
    /// A part of it, from 0 on; most pieces have one.
    #[inline]
    fn part(&self, at: usize) -> Option<&[u8]> {
        match self {
            Self::Copied(bytes) => (at == 0).then_some(bytes),
            Self::Shared(bytes) => (at == 0).then_some(bytes),
            Self::Parts(owner, first) => owner.part(first + at),
        }
    }

    /// The part that is written first.
    #[inline]
    pub(super) fn first(&self) -> &[u8] {
        self.part(0).unwrap_or_default()
    }

    /// Leaves the first part behind. Says whether there is another.
    #[inline]
    fn pass(&mut self) -> bool {
        match self {
            Self::Copied(_) | Self::Shared(_) => false,
            Self::Parts(owner, first) => {
                *first += 1;
                owner.part(*first).is_some()
            }
        }
    }
}

impl Queue {
    /// Sees to it that there is a tail which takes `more` bytes without moving
    /// those it holds: a long queue grows by pieces.
    #[inline]
    fn ready_tail(&mut self, more: usize) {
        if self.tail.capacity() == 0 {
            self.tail = buffers::take();
        } else if self.tail.len() + more > self.tail.capacity() && !self.tail.is_empty() {
            self.end_tail();
            self.tail = buffers::take_large();
        }
    }

    /// Makes a piece of the tail, if there is anything in it.
    fn end_tail(&mut self) {
        if !self.tail.is_empty() {
            let tail = std::mem::take(&mut self.tail);
            self.pieces.push_back(Piece::Copied(tail));
        }
    }

    #[inline]
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.ready_tail(bytes.len());
        self.tail.extend_from_slice(bytes);
        self.len += bytes.len();
    }

    pub(super) fn push_shared(&mut self, bytes: Bytes) {
        self.end_tail();
        self.len += bytes.len();
        self.pieces.push_back(Piece::Shared(bytes));
    }

    fn push_parts(&mut self, owner: Arc<dyn Parts>, len: usize) {
        self.end_tail();
        self.len += len;
        self.pieces.push_back(Piece::Parts(owner, 0));
    }

    /// Writes up to `max` bytes once. Returns how many bytes the socket took.
    #[inline]
    pub(super) fn write(&self, half: &WriteHalf, max: usize) -> io::Result<usize> {
        if self.pieces.is_empty() {
            let rest = self.tail.get(self.written..).unwrap_or_default();
            return half.try_write(rest.get(..max).unwrap_or(rest));
        }
        if self.len <= BYTES_FEW {
            self.write_pieces::<PIECES_FEW>(half, max)
        } else {
            self.write_pieces::<PIECES_MAX>(half, max)
        }
    }

    /// Writes up to `N` pieces.
    fn write_pieces<const N: usize>(&self, half: &WriteHalf, max: usize) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); N];
        let pieces = self.pieces.iter();
        let parts = pieces.flat_map(|piece| (0..).map_while(|at| piece.part(at)));
        let parts = parts.chain(std::iter::once(&self.tail[..]));
        let (mut count, mut from, mut left) = (0, self.written, max);
        for (slot, part) in slices.iter_mut().zip(parts) {
            if left == 0 {
                break;
            }
            let part = part.get(from..).unwrap_or_default();
            let part = part.get(..left).unwrap_or(part);
            left -= part.len();
            *slot = IoSlice::new(part);
            from = 0;
            count += 1;
        }
        half.try_write_vectored(slices.get(..count).unwrap_or_default())
    }

    /// Forgets the first `count` bytes.
    #[inline]
    pub(super) fn advance(&mut self, count: usize) {
        self.len = self.len.saturating_sub(count);
        self.written += count;
        while let Some(first) = self.pieces.front_mut() {
            let size = first.first().len();
            if self.written < size {
                return;
            }
            self.written -= size;
            if first.pass() {
                continue;
            }
            match self.pieces.pop_front() {
                Some(Piece::Copied(buffer)) => self.let_go(buffer),
                // Large values are not kept.
                _ => self.forget_kept(),
            }
        }
        if self.written >= self.tail.len() {
            self.written = 0;
            let buffer = std::mem::take(&mut self.tail);
            self.let_go(buffer);
        }
    }

    /// Lets `write` append.
    #[inline]
    pub(super) fn push_with(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        self.ready_tail(0);
        let before = self.tail.len();
        write(&mut self.tail);
        // A writer that takes bytes away would cut what others have queued.
        debug_assert!(self.tail.len() >= before);
        self.len += self.tail.len().saturating_sub(before);
    }

    /// From now on keeps what has been written, until [`Self::forget_kept`].
    #[inline]
    pub(super) fn keep(&mut self) {
        self.kept.on = true;
    }

    /// What has been kept, unless it was too much.
    pub(super) fn take_kept(&mut self) -> Option<Vec<u8>> {
        let kept = std::mem::take(&mut self.kept);
        kept.on.then(|| [kept.first, kept.more.concat()].concat())
    }

    /// Gives a buffer back that has been written, or keeps it.
    #[inline]
    fn let_go(&mut self, buffer: Vec<u8>) {
        let kept = &mut self.kept;
        if !kept.on {
            return buffers::give(buffer);
        }
        if kept.first.is_empty() {
            kept.first = buffer;
        } else {
            kept.more.push(buffer);
        }
        let more: usize = kept.more.iter().map(Vec::len).sum();
        if kept.first.len() + more > KEPT_BYTES_MAX {
            self.forget_kept();
        }
    }

    #[inline]
    pub(super) fn forget_kept(&mut self) {
        if self.kept.on {
            self.kept.on = false;
            buffers::give(std::mem::take(&mut self.kept.first));
            self.kept.more.drain(..).for_each(buffers::give);
        }
    }

    /// Puts bytes before all others.
    pub(super) fn push_front(&mut self, bytes: Vec<u8>) {
        // What has been written of the first piece must not be taken for a part
        // of these.
        if self.written > 0 {
            match self.pieces.front_mut() {
                Some(Piece::Copied(first)) => drop(first.drain(..self.written)),
                Some(Piece::Shared(first)) => *first = first.slice(self.written..),
                Some(piece) => {
                    let rest = piece.first().get(self.written..).unwrap_or_default();
                    let rest = Piece::Copied(rest.to_vec());
                    piece.pass();
                    self.pieces.push_front(rest);
                }
                None => drop(self.tail.drain(..self.written)),
            }
            self.written = 0;
        }
        self.len += bytes.len();
        self.pieces.push_front(Piece::Copied(bytes));
    }
}

/// Appends to an outbox, many pieces in a row.
///
/// The outbox can be neither read nor written out while it is there.
#[derive(Debug)]
pub struct Writer<'a> {
    queue: RefMut<'a, Queue>,
    /// How much of the tail is counted in the queue's length.
    counted: usize,
}

impl<'a> Writer<'a> {
    #[inline]
    pub(super) fn new(mut queue: RefMut<'a, Queue>) -> Self {
        queue.ready_tail(0);
        let counted = queue.tail.len();
        Self { queue, counted }
    }
}

impl Writer<'_> {
    /// What is copied, to append to.
    #[inline]
    pub fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.queue.tail
    }

    /// As [`Self::bytes`], with room for `more`: what has been appended before does
    /// not move for it.
    #[inline]
    pub fn room(&mut self, more: usize) -> &mut Vec<u8> {
        let tail = &self.queue.tail;
        if tail.len() + more > tail.capacity() {
            self.count();
            self.queue.ready_tail(more);
            self.counted = self.queue.tail.len();
        }
        &mut self.queue.tail
    }

    /// Appends all parts of `owner`, `len` bytes, without copying them.
    pub fn share(&mut self, owner: Arc<dyn Parts>, len: usize) {
        self.count();
        self.queue.push_parts(owner, len);
        self.queue.ready_tail(0);
        self.counted = 0;
    }

    /// Bytes queued and not yet taken by the socket.
    #[inline]
    pub fn len(&self) -> usize {
        self.queue.len + self.queue.tail.len().saturating_sub(self.counted)
    }

    /// Whether nothing is queued.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn count(&mut self) {
        // A writer that takes bytes away would cut what others have queued.
        debug_assert!(self.queue.tail.len() >= self.counted);
        self.queue.len += self.queue.tail.len().saturating_sub(self.counted);
        self.counted = self.queue.tail.len();
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        self.count();
        // An idle peer holds no buffer.
        if self.queue.tail.is_empty() {
            buffers::give(std::mem::take(&mut self.queue.tail));
        }
    }
}
