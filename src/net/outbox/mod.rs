//! Bytes on their way to a peer.

mod queue;

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::Waker;

use bytes::Bytes;
use tokio::task::AbortHandle;

use super::held::Held;
use super::stream::WriteHalf;
use super::turn::Turn;
use crate::clock::{self, Moment};
use queue::Queue;
pub use queue::{LENT_MAX, Parts, Writer};

/// Values at least this large are shared between where they were read and where
/// they are written; smaller ones are copied, which is cheaper than counting
/// references to them and writing them as pieces of their own.
pub const SHARE_BYTES_MIN: usize = 16 * 1024;

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

    /// A second handle to the socket, for who writes to it when nothing is queued here.
    ///
    /// # Errors
    ///
    /// If there is no socket, or no descriptor for the handle.
    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        match &*self.half.borrow() {
            Some(half) => half.duplicate(),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
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
        self.queue.borrow_mut().push_with(write);
    }

    /// Begins to append, many pieces in a row.
    #[inline]
    pub fn writer(&self) -> Writer<'_> {
        Writer::new(self.queue.borrow_mut())
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
        self.queue.borrow_mut().keep();
    }

    /// Keeps nothing any more.
    #[inline]
    pub fn forget_kept(&self) {
        self.queue.borrow_mut().forget_kept();
    }

    /// What has been kept: all that was written since [`Self::keep`], if it was
    /// little.
    pub fn take_kept(&self) -> Option<Vec<u8>> {
        self.queue.borrow_mut().take_kept()
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
        self.try_flush();
        // What has not been taken may stay for long.
        self.queue.borrow_mut().copy_lent();
    }

    #[inline]
    fn try_flush(self: &Rc<Self>) {
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
mod tests;
