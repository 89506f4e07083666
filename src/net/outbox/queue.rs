//! Bytes in the order they will be written: copies, shared values, parts of values.

use std::cell::RefMut;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;

use bytes::Bytes;

use crate::net::buffers;
use crate::net::lend::Lent;
use crate::net::stream::WriteHalf;

/// Pieces written with one system call, where they are many: a value of a mebibyte
/// in parts of 16 KiB, with what stands around it.
const PIECES_MAX: usize = 72;

/// Pieces up to which a write is prepared in less room.
const PIECES_FEW: usize = 20;

/// Bytes up to which few pieces will do.
const BYTES_FEW: usize = 160 * 1024;

/// Parts of others' memory that are lent to one queue at a time; what a batch asks for
/// beyond is copied. They are given back with the first try to write them.
pub const LENT_MAX: usize = 8;

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
    /// Buffers all of whose bytes belong to pieces, in their order.
    full: VecDeque<Vec<u8>>,
    /// The buffer that small writes are appended to; what of it belongs to no piece is
    /// written last.
    pub(super) tail: Vec<u8>,
    /// Bytes of the tail that belong to pieces.
    cut: usize,
    /// Bytes of the first buffer that belong to pieces which have been written.
    passed: usize,
    /// Bytes of the first part of the first piece that have been written already.
    written: usize,
    /// Bytes in all, those written of the first part not counted.
    pub(super) len: usize,
    /// Pieces that are lent.
    lent: usize,
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
    /// So many bytes of a buffer, between what a [`Writer`] shares.
    Run(usize),
    Copied(Vec<u8>),
    Shared(Bytes),
    /// What is left of parts, from this place on.
    Parts(Arc<dyn Parts>, usize),
    /// Others' memory, for as long as this turn takes.
    Lent(Lent),
}

impl Piece {
    /// A part of it, from 0 on; most pieces have one. What lies in a buffer is not here.
    #[inline]
    fn part(&self, at: usize) -> Option<&[u8]> {
        match self {
            Self::Run(_) => None,
            Self::Copied(bytes) => (at == 0).then_some(bytes),
            Self::Shared(bytes) => (at == 0).then_some(bytes),
            Self::Lent(bytes) => (at == 0).then_some(bytes),
            Self::Parts(owner, first) => owner.part(first + at),
        }
    }

    /// Bytes of the part that is written first.
    #[inline]
    pub(super) fn first_len(&self) -> usize {
        match self {
            Self::Run(len) => *len,
            piece => piece.part(0).map_or(0, <[u8]>::len),
        }
    }

    /// Leaves the first part behind. Says whether there is another.
    #[inline]
    fn pass(&mut self) -> bool {
        match self {
            Self::Run(_) | Self::Copied(_) | Self::Shared(_) | Self::Lent(_) => false,
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
        if self.cut == 0 {
            if !self.tail.is_empty() {
                let tail = std::mem::take(&mut self.tail);
                self.pieces.push_back(Piece::Copied(tail));
            }
            return;
        }
        self.end_run();
        let tail = std::mem::take(&mut self.tail);
        self.cut = 0;
        if self.full.is_empty() && self.passed == tail.len() {
            // All of its pieces have been written.
            self.passed = 0;
            self.let_go(tail);
        } else {
            self.full.push_back(tail);
        }
    }

    /// Makes a piece of what has been appended since the last one; the tail stays.
    #[inline]
    fn end_run(&mut self) {
        let len = self.tail.len() - self.cut;
        if len > 0 {
            self.pieces.push_back(Piece::Run(len));
            self.cut = self.tail.len();
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
        self.end_run();
        self.len += len;
        self.pieces.push_back(Piece::Parts(owner, 0));
    }

    fn push_lent(&mut self, bytes: Lent) {
        self.end_run();
        self.len += bytes.len();
        self.lent += 1;
        self.pieces.push_back(Piece::Lent(bytes));
    }

    /// Copies what is lent, so that its owner can have it back.
    #[inline]
    pub(super) fn copy_lent(&mut self) {
        if self.lent == 0 {
            return;
        }
        for piece in &mut self.pieces {
            if let Piece::Lent(bytes) = piece {
                *piece = Piece::Copied(bytes.to_vec());
            }
        }
        self.lent = 0;
    }

    /// Writes up to `max` bytes once. Returns how many bytes the socket took.
    #[inline]
    pub(super) fn write(&self, half: &WriteHalf, max: usize) -> io::Result<usize> {
        if self.pieces.is_empty() {
            let rest = self.tail.get(self.cut + self.written..).unwrap_or_default();
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
        let (mut buffer, mut at) = (0, self.passed);
        let parts = self.pieces.iter().flat_map(|piece| {
            let run = match piece {
                Piece::Run(len) => Some(self.run(&mut buffer, &mut at, *len)),
                _ => None,
            };
            let parts = (0..).map_while(|at| piece.part(at));
            run.into_iter().chain(parts)
        });
        let last = self.tail.get(self.cut..).unwrap_or_default();
        let parts = parts.chain(std::iter::once(last));
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

    /// The next `len` bytes of the buffers, `at` bytes into the one of this number; moves
    /// both on.
    #[inline]
    fn run(&self, buffer: &mut usize, at: &mut usize, len: usize) -> &[u8] {
        let bytes = self.full.get(*buffer).unwrap_or(&self.tail);
        let run = bytes.get(*at..*at + len).unwrap_or_default();
        *at += len;
        if *at == bytes.len() && *buffer < self.full.len() {
            (*buffer, *at) = (*buffer + 1, 0);
        }
        run
    }

    /// Leaves `len` bytes of the first buffer behind.
    #[inline]
    fn pass_run(&mut self, len: usize) {
        self.passed += len;
        if let Some(first) = self.full.front()
            && self.passed == first.len()
            && let Some(buffer) = self.full.pop_front()
        {
            self.passed = 0;
            self.let_go(buffer);
        }
    }

    /// Forgets the first `count` bytes.
    #[inline]
    pub(super) fn advance(&mut self, count: usize) {
        self.len = self.len.saturating_sub(count);
        self.written += count;
        while let Some(first) = self.pieces.front_mut() {
            let size = first.first_len();
            if self.written < size {
                return;
            }
            self.written -= size;
            if first.pass() {
                continue;
            }
            match self.pieces.pop_front() {
                Some(Piece::Run(len)) => self.pass_run(len),
                Some(Piece::Copied(buffer)) => self.let_go(buffer),
                // Large values are not kept.
                other => {
                    self.lent -= usize::from(matches!(other, Some(Piece::Lent(_))));
                    self.forget_kept();
                }
            }
        }
        if self.cut + self.written >= self.tail.len() {
            (self.cut, self.passed, self.written) = (0, 0, 0);
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
                Some(Piece::Run(len)) => {
                    // The buffer goes once all of it has been passed, and the run has
                    // something left: else it would be behind us.
                    *len -= self.written;
                    self.passed += self.written;
                }
                Some(Piece::Copied(first)) => drop(first.drain(..self.written)),
                Some(Piece::Shared(first)) => *first = first.slice(self.written..),
                Some(piece) => {
                    let rest = piece.part(0).and_then(|first| first.get(self.written..));
                    let rest = rest.unwrap_or_default();
                    let rest = Piece::Copied(rest.to_vec());
                    piece.pass();
                    self.pieces.push_front(rest);
                }
                None => {
                    drop(self.tail.drain(..self.cut + self.written));
                    (self.cut, self.passed) = (0, 0);
                }
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
    }

    /// Whether more may be lent to the queue.
    #[inline]
    pub fn borrows(&self) -> bool {
        self.queue.lent < LENT_MAX
    }

    /// Appends what is lent, without copying it if it can be written at once.
    pub fn lend(&mut self, bytes: Lent) {
        self.count();
        self.queue.push_lent(bytes);
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
