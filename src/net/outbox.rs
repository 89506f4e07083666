//! Bytes on their way to a peer.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use bytes::Bytes;
use tokio::task::AbortHandle;

use super::buffers;
use super::held::Held;
use super::stream::WriteHalf;
use super::turn::Turn;
use crate::clock::{self, Moment};

/// Values at least this large are shared between where they were read and where
/// they are written; smaller ones are copied, which is cheaper than counting
/// references to them and writing them as pieces of their own.
pub const SHARE_BYTES_MIN: usize = 16 * 1024;

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
struct Queue {
    /// Complete pieces; those written first.
    pieces: VecDeque<Piece>,
    /// The piece that small writes are appended to; written last.
    tail: Vec<u8>,
    /// Bytes of the first part of the first piece that have been written already.
    written: usize,
    /// Bytes in all, those written of the first part not counted.
    len: usize,
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
const KEPT_BYTES_MAX: usize = 64 * 1024;

#[derive(Debug)]
enum Piece {
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
    fn first(&self) -> &[u8] {
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
    fn push(&mut self, bytes: &[u8]) {
        self.ready_tail(bytes.len());
        self.tail.extend_from_slice(bytes);
        self.len += bytes.len();
    }

    fn push_shared(&mut self, bytes: Bytes) {
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
    fn write(&self, half: &WriteHalf, max: usize) -> io::Result<usize> {
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
    fn advance(&mut self, count: usize) {
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
    fn forget_kept(&mut self) {
        if self.kept.on {
            self.kept.on = false;
            buffers::give(std::mem::take(&mut self.kept.first));
            self.kept.more.drain(..).for_each(buffers::give);
        }
    }

    /// Puts bytes before all others.
    fn push_front(&mut self, bytes: Vec<u8>) {
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

/// What stands between an outbox and its peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Bytes go out with the next turn.
    Open,
    /// The socket is full; a task of its own waits for room.
    Blocked,
    /// No socket: bytes are kept until one is attached.
    Detached,
    /// The socket has broken. As detached, and its owner has been woken.
    Broken,
}

/// The writing side of one connection.
///
/// Bytes queued here leave with the next flush of the worker's [`Turn`].
#[derive(Debug)]
pub struct Outbox {
    turn: Rc<Turn>,
    half: RefCell<Option<Rc<WriteHalf>>>,
    queue: RefCell<Queue>,
    state: Cell<State>,
    marked: Cell<bool>,
    /// Bytes handed to the socket since the outbox was made, over all sockets.
    sent: Cell<u64>,
    /// How far `sent` may go for now.
    limit: Cell<u64>,
    /// What is counted of the queue while its peer does not take it.
    held: Held,
    /// When the peer last took something, while the socket is full.
    taken: Cell<Moment>,
    /// The task that waits for room in the socket; it holds the socket open and
    /// is stopped when the socket is taken away.
    room: RefCell<Option<AbortHandle>>,
    /// The task that owns the connection: woken when the socket breaks, and when
    /// the queue has become as short as it asked for.
    owner: RefCell<Option<Waker>>,
    /// How short the queue must be for the owner to be woken, if it wants to be.
    short: Cell<Option<usize>>,
}

impl Outbox {
    /// An outbox that writes to `half`.
    pub fn new(turn: Rc<Turn>, half: WriteHalf) -> Rc<Self> {
        let outbox = Self::detached(turn);
        outbox.half.replace(Some(Rc::new(half)));
        outbox.state.set(State::Open);
        outbox
    }

    /// An outbox that keeps its bytes until a socket is attached.
    pub fn detached(turn: Rc<Turn>) -> Rc<Self> {
        Rc::new(Self {
            turn,
            half: RefCell::new(None),
            queue: RefCell::default(),
            state: Cell::new(State::Detached),
            marked: Cell::new(false),
            sent: Cell::new(0),
            limit: Cell::new(u64::MAX),
            held: Held::default(),
            taken: Cell::default(),
            room: RefCell::new(None),
            owner: RefCell::new(None),
            short: Cell::new(None),
        })
    }

    /// Gives a detached outbox its socket; what has been queued goes out with
    /// the next turn.
    pub fn attach(self: &Rc<Self>, half: WriteHalf) {
        self.half.replace(Some(Rc::new(half)));
        self.state.set(State::Open);
        if !self.is_empty() {
            self.mark();
        }
    }

    /// Takes the socket away and closes its sending side; queued bytes stay.
    pub fn detach(&self) {
        self.drop_half();
        self.state.set(State::Detached);
    }

    /// Takes the socket away, and drops what is queued.
    pub fn discard(&self) {
        self.detach();
        drop(self.queue.take());
        self.held.set(0);
    }

    /// As [`Self::discard`], and the kernel drops what it holds, too.
    pub fn abort(&self) {
        if let Some(half) = &*self.half.borrow() {
            half.abort();
        }
        self.discard();
    }

    /// Bytes that stay queued because the peer does not take them.
    pub fn held(&self) -> usize {
        self.held.bytes()
    }

    /// Since when the peer has taken nothing although there was something to
    /// take; `None` if it takes all.
    pub fn blocked_since(&self) -> Option<Moment> {
        (self.state.get() == State::Blocked).then(|| self.taken.get())
    }

    fn drop_half(&self) {
        self.half.replace(None);
        if let Some(room) = self.room.take() {
            room.abort();
        }
    }

    /// Queues a copy of `bytes`. The caller marks the outbox when it is done.
    #[inline]
    pub fn push(&self, bytes: &[u8]) {
        self.queue.borrow_mut().push(bytes);
    }

    /// Lets `write` append to the queue.
    #[inline]
    pub fn push_with(&self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut queue = self.queue.borrow_mut();
        queue.ready_tail(0);
        let before = queue.tail.len();
        write(&mut queue.tail);
        // A writer that takes bytes away would cut what others have queued.
        debug_assert!(queue.tail.len() >= before);
        queue.len += queue.tail.len().saturating_sub(before);
    }

    /// Begins to append, many pieces in a row.
    #[inline]
    pub fn writer(&self) -> Writer<'_> {
        let mut queue = self.queue.borrow_mut();
        queue.ready_tail(0);
        let counted = queue.tail.len();
        Writer { queue, counted }
    }

    /// Queues several copies at once.
    #[inline]
    pub fn push_all(&self, pieces: &[&[u8]]) {
        let mut queue = self.queue.borrow_mut();
        for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
            queue.push(piece);
        }
    }

    /// Queues `bytes` without copying them.
    pub fn push_shared(&self, bytes: Bytes) {
        self.queue.borrow_mut().push_shared(bytes);
    }

    /// Bytes queued and not yet taken by the socket.
    #[inline]
    pub fn len(&self) -> usize {
        self.queue.borrow().len
    }

    /// Whether nothing is queued.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that sockets have taken since the outbox was made.
    #[inline]
    pub fn sent(&self) -> u64 {
        self.sent.get()
    }

    /// Keeps what is queued beyond `limit`, counted as [`Self::sent`] counts, until
    /// another limit is set; `u64::MAX` lets everything go.
    pub fn set_limit(self: &Rc<Self>, limit: u64) {
        if self.limit.replace(limit) < limit && !self.is_empty() {
            self.mark();
        }
    }

    /// Whether the socket has broken.
    #[inline]
    pub fn is_broken(&self) -> bool {
        self.state.get() == State::Broken
    }

    /// Forgets the next `count` queued bytes as if they had been sent: they
    /// belong to requests that nobody waits for any more.
    pub fn skip(&self, count: usize) {
        self.queue.borrow_mut().advance(count);
        self.sent.set(self.sent.get().wrapping_add(to_u64(count)));
    }

    /// From now on keeps what is written, as far as it is little, until
    /// [`Self::forget_kept`].
    #[inline]
    pub fn keep(&self) {
        self.queue.borrow_mut().kept.on = true;
    }

    /// Keeps nothing any more.
    #[inline]
    pub fn forget_kept(&self) {
        self.queue.borrow_mut().forget_kept();
    }

    /// What has been kept: all that was written since [`Self::keep`], if it was
    /// little.
    pub fn take_kept(&self) -> Option<Vec<u8>> {
        let kept = std::mem::take(&mut self.queue.borrow_mut().kept);
        kept.on.then(|| [kept.first, kept.more.concat()].concat())
    }

    /// Queues `bytes` before all others.
    pub fn push_front(&self, bytes: Vec<u8>) {
        if !bytes.is_empty() {
            self.queue.borrow_mut().push_front(bytes);
        }
    }

    /// Sees to it that what is queued is written at the end of this turn.
    #[inline]
    pub fn mark(self: &Rc<Self>) {
        if self.state.get() != State::Open {
            self.held.set(self.len());
        } else if !self.marked.replace(true) {
            self.turn.mark(Rc::clone(self));
        }
    }

    /// Names the task that is woken when the socket breaks.
    #[inline]
    pub fn set_owner(&self, waker: &Waker) {
        let mut owner = self.owner.borrow_mut();
        if !owner.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *owner = Some(waker.clone());
        }
    }

    /// Wakes the owner once when no more than `len` bytes are queued.
    pub fn wake_at(&self, len: usize) {
        self.short.set(Some(len));
    }

    /// Wakes the owner.
    pub fn wake_owner(&self) {
        if let Some(owner) = &*self.owner.borrow() {
            owner.wake_by_ref();
        }
    }

    #[inline]
    fn wake_if_short(&self) {
        if self.short.get().is_some_and(|len| self.len() <= len) {
            self.short.set(None);
            self.wake_owner();
        }
    }

    fn break_down(&self) {
        self.drop_half();
        self.state.set(State::Broken);
        self.wake_owner();
    }

    /// Writes until the queue is empty or the socket full: at once, instead of at
    /// the end of the turn. For an owner whose bytes all come from itself.
    pub fn flush(self: &Rc<Self>) {
        self.marked.set(false);
        if self.state.get() != State::Open {
            return;
        }
        let Some(half) = self.half.borrow().clone() else {
            return;
        };
        match self.write_out(&half) {
            Ok(()) => {
                self.held.set(self.len());
                self.wake_if_short();
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.state.set(State::Blocked);
                self.held.set(self.len());
                self.taken.set(clock::now());
                self.wake_if_short();
                let task = tokio::task::spawn_local(Rc::clone(self).wait_for_room(half));
                self.room.replace(Some(task.abort_handle()));
            }
            Err(_) => self.break_down(),
        }
    }

    #[inline]
    fn write_out(&self, half: &WriteHalf) -> io::Result<()> {
        let mut queue = self.queue.borrow_mut();
        while queue.len > 0 {
            let room = self.limit.get().saturating_sub(self.sent.get());
            if room == 0 {
                break;
            }
            let count = queue.write(half, usize::try_from(room).unwrap_or(usize::MAX))?;
            queue.advance(count);
            self.sent.set(self.sent.get().wrapping_add(to_u64(count)));
        }
        Ok(())
    }

    async fn wait_for_room(self: Rc<Self>, half: Rc<WriteHalf>) {
        loop {
            let ready = half.writable().await;
            let written = ready.and_then(|()| self.write_out(&half));
            self.held.set(self.len());
            self.taken.set(clock::now());
            match written {
                Ok(()) => {
                    self.state.set(State::Open);
                    self.room.replace(None);
                    self.wake_if_short();
                    return;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wake_if_short(),
                Err(_) => return self.break_down(),
            }
        }
    }
}

fn to_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::stream::Stream;
    use tokio::io::AsyncReadExt;
    use tokio::net::UnixStream;

    fn pair() -> (Rc<Turn>, Rc<Outbox>, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (_, write) = Stream::Unix(ours).into_split();
        let turn = Rc::new(Turn::default());
        let outbox = Outbox::new(Rc::clone(&turn), write);
        (turn, outbox, theirs)
    }

    async fn local<F: Future>(future: F) -> F::Output {
        tokio::task::LocalSet::new().run_until(future).await
    }

    #[tokio::test]
    async fn what_is_queued_arrives_in_order() {
        local(async {
            let (turn, outbox, mut peer) = pair();
            tokio::task::spawn_local(turn.run());
            outbox.push(b"one ");
            outbox.push_shared(Bytes::from_static(b"two "));
            outbox.push_all(&[b"three ", b"", b"four"]);
            assert_eq!(outbox.len(), 18);
            outbox.mark();
            outbox.mark();
            let mut got = [0; 18];
            peer.read_exact(&mut got).await.unwrap();
            assert_eq!(&got, b"one two three four");
            assert!(outbox.is_empty());
            assert_eq!(outbox.sent(), 18);
        })
        .await;
    }

    #[tokio::test]
    async fn a_writer_appends_copies_and_shares() {
        local(async {
            let (turn, outbox, mut peer) = pair();
            tokio::task::spawn_local(turn.run());
            outbox.push(b"zero ");
            let mut writer = outbox.writer();
            writer.bytes().extend_from_slice(b"one ");
            writer.share(Arc::new(Words(vec!["tw".into(), "o ".into()])), 4);
            writer.bytes().extend_from_slice(b"three");
            assert_eq!(writer.len(), 18);
            drop(writer);
            assert_eq!(outbox.len(), 18);
            outbox.mark();
            let mut got = [0; 18];
            peer.read_exact(&mut got).await.unwrap();
            assert_eq!(&got, b"zero one two three");
            assert!(outbox.is_empty());
        })
        .await;
    }

    #[derive(Debug)]
    struct Words(Vec<String>);

    impl Parts for Words {
        fn part(&self, at: usize) -> Option<&[u8]> {
            self.0.get(at).map(String::as_bytes)
        }
    }

    #[tokio::test]
    async fn many_parts_arrive_whole_however_little_the_socket_takes() {
        local(async {
            let (turn, outbox, mut peer) = pair();
            tokio::task::spawn_local(turn.run());
            let words: Vec<String> = (0..3000).map(|at| format!("{at:5000}")).collect();
            let said = words.concat();
            let mut writer = outbox.writer();
            writer.bytes().push(b'<');
            writer.share(Arc::new(Words(words)), said.len());
            writer.bytes().push(b'>');
            drop(writer);
            outbox.mark();
            let mut got = vec![0; said.len() + 2];
            peer.read_exact(&mut got).await.unwrap();
            assert!(got == format!("<{said}>").as_bytes());
            assert!(outbox.is_empty());
        })
        .await;
    }

    #[tokio::test]
    async fn what_is_put_first_cuts_no_part_in_two() {
        local(async {
            let (turn, outbox, mut peer) = pair();
            tokio::task::spawn_local(turn.run());
            let words = ["ab", "cd", "ef"].map(String::from).to_vec();
            outbox.writer().share(Arc::new(Words(words)), 6);
            outbox.skip(3);
            outbox.push_front(b"first ".to_vec());
            assert_eq!(outbox.len(), 9);
            outbox.mark();
            let mut got = [0; 9];
            peer.read_exact(&mut got).await.unwrap();
            assert_eq!(&got, b"first def");
        })
        .await;
    }

    #[tokio::test]
    async fn a_writer_does_not_move_what_it_has_written() {
        local(async {
            let (turn, outbox, mut peer) = pair();
            tokio::task::spawn_local(turn.run());
            let said: Vec<u8> = (0..=u8::MAX).cycle().take(200_000).collect();
            let mut writer = outbox.writer();
            for part in said.chunks(10_000) {
                writer.room(part.len()).extend_from_slice(part);
            }
            assert_eq!(writer.len(), said.len());
            drop(writer);
            let large = buffers::take_large().capacity();
            let longest = |piece: &Piece| piece.first().len();
            assert!(outbox.queue.borrow().pieces.iter().map(longest).max() <= Some(large));
            outbox.mark();
            let mut got = vec![0; said.len()];
            peer.read_exact(&mut got).await.unwrap();
            assert!(got == said);
        })
        .await;
    }

    #[tokio::test]
    async fn a_long_queue_is_kept_in_pieces() {
        local(async {
            let (turn, outbox, mut peer) = pair();
            tokio::task::spawn_local(turn.run());
            let said: Vec<u8> = (0..=u8::MAX).cycle().take(600_000).collect();
            for part in said.chunks(10_000) {
                outbox.push(part);
            }
            {
                let queue = outbox.queue.borrow();
                assert!(queue.pieces.len() >= 9);
                // None has grown.
                let large = buffers::take_large().capacity();
                let pieces = queue.pieces.iter().map(|piece| piece.first().len());
                assert!(pieces.chain([queue.tail.len()]).all(|len| len <= large));
            }
            assert_eq!(outbox.len(), said.len());
            outbox.mark();
            let mut got = vec![0; said.len()];
            peer.read_exact(&mut got).await.unwrap();
            assert!(got == said);
            assert!(outbox.is_empty());
        })
        .await;
    }

    #[tokio::test]
    async fn a_full_socket_is_waited_for() {
        local(async {
            let (turn, outbox, mut peer) = pair();
            tokio::task::spawn_local(turn.run());
            let large = Bytes::from(vec![7u8; 4 << 20]);
            outbox.push(b"x");
            outbox.push_shared(large.clone());
            outbox.push(b"y");
            outbox.mark();
            let mut got = vec![0; large.len() + 2];
            peer.read_exact(&mut got).await.unwrap();
            assert_eq!((got[0], got[got.len() - 1]), (b'x', b'y'));
            assert!(got[1..got.len() - 1] == large[..]);
        })
        .await;
    }

    #[tokio::test]
    async fn what_lies_beyond_the_limit_is_kept_until_that_is_lifted() {
        local(async {
            let (turn, outbox, mut peer) = pair();
            tokio::task::spawn_local(turn.run());
            outbox.set_limit(6);
            outbox.push(b"one ");
            outbox.push_shared(Bytes::from_static(b"two "));
            outbox.push(b"three");
            outbox.mark();
            let mut got = [0; 6];
            peer.read_exact(&mut got).await.unwrap();
            assert_eq!(&got, b"one tw");
            assert_eq!((outbox.sent(), outbox.len()), (6, 7));
            outbox.set_limit(7);
            peer.read_exact(&mut got[..1]).await.unwrap();
            outbox.set_limit(u64::MAX);
            peer.read_exact(&mut got).await.unwrap();
            assert_eq!(&got, b" three");
            assert!(outbox.is_empty());
        })
        .await;
    }

    #[tokio::test]
    async fn a_detached_outbox_keeps_its_bytes_for_the_next_socket() {
        local(async {
            let turn = Rc::new(Turn::default());
            tokio::task::spawn_local(Rc::clone(&turn).run());
            let outbox = Outbox::detached(turn);
            outbox.push(b"gone kept");
            outbox.mark();
            tokio::task::yield_now().await;
            outbox.skip(5);
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            outbox.attach(Stream::Unix(ours).into_split().1);
            let mut got = [0; 4];
            theirs.read_exact(&mut got).await.unwrap();
            assert_eq!(&got, b"kept");
            assert_eq!(outbox.sent(), 9);
        })
        .await;
    }

    #[tokio::test]
    async fn what_was_written_is_kept_until_it_is_forgotten() {
        local(async {
            let (turn, outbox, mut peer) = pair();
            tokio::task::spawn_local(turn.run());
            let mut got = [0; 3];
            outbox.keep();
            for piece in [b"one", b"two"] {
                outbox.push(piece);
                outbox.mark();
                peer.read_exact(&mut got).await.unwrap();
            }
            outbox.push(b"unsent");
            assert_eq!(outbox.take_kept().as_deref(), Some(&b"onetwo"[..]));
            assert_eq!(outbox.take_kept(), None);
            outbox.push_front(b"again ".to_vec());
            outbox.mark();
            let mut got = [0; 12];
            peer.read_exact(&mut got).await.unwrap();
            assert_eq!(&got, b"again unsent");
            // Much is not kept, nor is what is large.
            outbox.keep();
            for _ in 0..5 {
                outbox.push(&[0; KEPT_BYTES_MAX / 4]);
                outbox.mark();
                peer.read_exact(&mut [0; KEPT_BYTES_MAX / 4]).await.unwrap();
            }
            assert_eq!(outbox.take_kept(), None);
            outbox.keep();
            outbox.push_shared(Bytes::from_static(b"abc"));
            outbox.mark();
            peer.read_exact(&mut [0; 3]).await.unwrap();
            assert_eq!(outbox.take_kept(), None);
        })
        .await;
    }

    #[tokio::test]
    async fn the_owner_learns_that_the_socket_has_broken() {
        local(async {
            let (turn, outbox, peer) = pair();
            tokio::task::spawn_local(turn.run());
            drop(peer);
            outbox.push(&[0; 1000]);
            outbox.mark();
            std::future::poll_fn(|cx| {
                outbox.set_owner(cx.waker());
                if outbox.is_broken() {
                    std::task::Poll::Ready(())
                } else {
                    std::task::Poll::Pending
                }
            })
            .await;
            // What the next socket may still carry is there.
            assert_eq!(outbox.len(), 1000);
        })
        .await;
    }

    #[tokio::test]
    async fn the_owner_is_woken_when_the_queue_is_short() {
        local(async {
            let (turn, outbox, mut peer) = pair();
            tokio::task::spawn_local(turn.run());
            outbox.push(&vec![0; 1 << 20]);
            outbox.mark();
            outbox.wake_at(1000);
            let waiter = std::future::poll_fn(|cx| {
                outbox.set_owner(cx.waker());
                if outbox.len() <= 1000 {
                    std::task::Poll::Ready(())
                } else {
                    std::task::Poll::Pending
                }
            });
            let mut got = vec![0; 1 << 20];
            let (_, read) = tokio::join!(waiter, peer.read_exact(&mut got));
            read.unwrap();
        })
        .await;
    }
}
