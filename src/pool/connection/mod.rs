//! One worker's connection to one server.
//!
//! Requests are appended to the write queue and wait in a FIFO for their
//! replies; the server answers in the order asked. The invariant on which
//! everything rests: the bytes a reader has not consumed yet begin with the
//! reply to the request at the front of the FIFO. Whenever that is in doubt the
//! connection is closed.

mod connecting;
mod overdue;
mod reading;
mod returning;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Notify;

use super::deadlines::Deadlines;
use super::dial::Dialect;
use super::failure::Failure;
use super::health::Trust;
use super::missed::set::Due;
use super::missed::{Claim, packed};
use super::retry::Budget;
use super::server::{Server, ServerStats};
use crate::clock::Moment;
use crate::net::held;
use crate::net::outbox::{Outbox, SHARE_BYTES_MIN};
use crate::net::turn::Turn;
use crate::protocol::reply::{Block, Outcome, Shape};
use crate::protocol::request::Wire;

/// Places for requests that an idle connection keeps.
const WAITING_SPARE: usize = 16;

/// Bytes for the keys of changes that an idle connection keeps.
const CHANGES_SPARE: usize = 256;

/// What an asker is told.
#[derive(Debug)]
pub enum Reply<'a> {
    /// The whole reply.
    Whole {
        /// As the server sent it.
        bytes: &'a [u8],
        /// The owner of `bytes`, if they may be shared instead of copied.
        owner: Option<&'a Bytes>,
        /// What it says.
        outcome: Outcome,
    },
    /// Some `VALUE` blocks of a reply that goes on.
    Blocks {
        /// As the server sent them, one behind the other.
        bytes: &'a [u8],
        /// What each of them is.
        blocks: &'a [Block],
        /// The owner of `bytes`, if they may be shared instead of copied.
        owner: Option<&'a Bytes>,
    },
    /// There will be no reply, or no more of it.
    Failed {
        /// The server's name.
        server: &'a str,
        /// Why.
        failure: Failure,
    },
}

/// Whether a reply can be what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It can.
    Fits,
    /// It cannot: the connection is out of step.
    Misfit,
}

/// Somebody who waits for replies.
///
/// Called while a connection deals with what it has read: an asker may write to
/// its client and wake tasks, but must not ask again from within.
pub trait Asker {
    /// Takes the reply, or a part of it, to the request asked with `token`.
    ///
    /// Called with any number of [`Reply::Blocks`] and then exactly once with
    /// one of the others.
    fn reply(&self, token: u64, reply: Reply<'_>) -> Verdict;
}

/// One request for a server.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// Its bytes, in a form that is answered.
    pub wire: Wire<'a>,
    /// The owner of those bytes, if they may be shared instead of copied.
    pub owner: Option<&'a Bytes>,
    /// Which replies it can have.
    pub shape: Shape,
    /// [`crate::protocol::reply::fingerprint`] of what the reply must name, or 0. For
    /// [`Shape::Values`] the number of keys, for binary shapes what
    /// [`crate::protocol::binary::reply`] makes.
    pub expected: u64,
    /// The key that it changes, and which the server will have missed if it
    /// fails; empty if it changes nothing.
    pub changes: &'a [u8],
}

/// What becomes of the key of a change that leaves the FIFO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It was answered, or never sent: it is over.
    Over,
    /// It will have no answer, and be carried out no more.
    Failed,
    /// It will have no answer, and perhaps be carried out still.
    InDoubt,
}

/// A request in flight.
struct Waiter {
    /// Nobody any more once it has timed out; the reply is then dropped.
    asker: Option<Rc<dyn Asker>>,
    token: u64,
    shape: Shape,
    expected: u64,
    /// Bytes of [`Connection::changes`] that are its own, and perhaps [`CURES`].
    changes: u32,
    asked: Moment,
    /// The end of its bytes in the stream of all bytes ever queued.
    end: u64,
    /// It has been sent once more.
    again: bool,
}

impl Waiter {
    fn changes_len(&self) -> usize {
        usize::try_from(self.changes & !CURES).unwrap_or(usize::MAX)
    }
}

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// No socket and no attempt to get one.
    Idle,
    /// An attempt is under way or will be made soon.
    Connecting,
    /// Requests flow.
    Up,
    /// The server has left the pool, and what it owed is settled.
    Removed,
}

/// One worker's connection to one server, made anew as often as it breaks.
pub struct Connection {
    server: Arc<Server>,
    dialect: Dialect,
    stats: Arc<ServerStats>,
    outbox: Rc<Outbox>,
    waiting: RefCell<VecDeque<Waiter>>,
    /// How many of `waiting` the worker's sum has counted.
    in_flight: Cell<usize>,
    /// How many at the front of `waiting` have timed out.
    late: Cell<usize>,
    /// The keys that requests in flight change, packed, in the order of the
    /// requests. Reads have none.
    changes: RefCell<VecDeque<u8>>,
    /// How many of those bytes belong to the next request to be expected, and
    /// perhaps [`CURES`].
    changes_next: Cell<u32>,
    /// For each request in flight marked with [`CURES`] its key, and what its
    /// success means. Almost always empty.
    cures: RefCell<VecDeque<(Box<[u8]>, Cure)>>,
    /// How many of them belong to requests that have timed out.
    changes_late: Cell<usize>,
    /// The keys of changes that are in doubt after the connection broke.
    doubts: RefCell<Vec<u8>>,
    /// Where the bytes of the front of `waiting` begin in the stream of all bytes
    /// ever queued.
    front_start: Cell<u64>,
    /// Blocks that the request at the front of `waiting` has got already.
    front_blocks: Cell<u64>,
    stage: Cell<Stage>,
    /// Why the reader has to stop, set by whoever finds out.
    broken: Cell<Option<Failure>>,
    /// The server has left the pool: the connection ends when nobody waits for
    /// it any more.
    retiring: Cell<bool>,
    /// How many requests may be sent once more.
    budget: RefCell<Budget>,
    /// Which return of the server it was that was last noticed, and how many
    /// requests had been answered by then.
    ramp: Cell<(u64, u64)>,
    /// Whether requests wait because the server has just come back.
    ramping: Cell<bool>,
    /// The connection is given up because it is one of before the server's return,
    /// which is no failure of the server's.
    outdated: Cell<bool>,
    /// Wakes the task that is idle: a request has come, or it is to retire.
    wanted: Notify,
    deadlines: Rc<Deadlines>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("server", &self.server.name)
            .field("stage", &self.stage.get())
            .field("in_flight", &self.waiting.borrow().len())
            .finish_non_exhaustive()
    }
}

/// What the success of a request that replaces an item means.
#[derive(Clone, Copy, Debug)]
pub enum Cure {
    /// The key has not been missed any more.
    Replaced(Due),
    /// It is a key of another server for which this one stands in.
    Hosted {
        /// The present one ([`super::health::turns`]) when it was sent.
        turn: u64,
        /// What it depends on.
        claim: Claim,
    },
}

/// Marks the request whose key its success makes right again, in
/// [`Waiter::changes`].
const CURES: u32 = 1 << 31;

/// Asking.
impl Connection {
    /// A connection that is made when it is first needed, or at once if the
    /// server's settings say so. The caller spawns [`Self::run`].
    ///
    /// One in binary is always made when it is first needed: most servers never
    /// have a binary client.
    pub fn new(
        server: Arc<Server>,
        dialect: Dialect,
        turn: &Rc<Turn>,
        deadlines: &Rc<Deadlines>,
    ) -> Rc<Self> {
        let stats = server.new_stats();
        let connection = Rc::new(Self {
            server,
            dialect,
            stats,
            outbox: Outbox::detached(Rc::clone(turn)),
            waiting: RefCell::default(),
            in_flight: Cell::new(0),
            late: Cell::new(0),
            changes: RefCell::default(),
            changes_next: Cell::new(0),
            cures: RefCell::default(),
            changes_late: Cell::new(0),
            doubts: RefCell::default(),
            front_start: Cell::new(0),
            front_blocks: Cell::new(0),
            stage: Cell::new(Stage::Idle),
            broken: Cell::new(None),
            retiring: Cell::new(false),
            budget: RefCell::default(),
            ramp: Cell::default(),
            ramping: Cell::new(false),
            outdated: Cell::new(false),
            wanted: Notify::new(),
            deadlines: Rc::clone(deadlines),
        });
        deadlines.watch(Rc::downgrade(&connection));
        connection
    }

    /// The server at the other end.
    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// Whether a request may be queued now. One that is admitted must be
    /// completed with [`Self::expect`] before anybody else asks.
    ///
    /// # Errors
    ///
    /// The failure to tell the client: the server is ejected, or a bound is
    /// reached.
    #[inline]
    pub fn admit(&self) -> Result<(), Failure> {
        let settings = &self.server.settings;
        let trust = self.server.health.trust();
        if trust == Trust::Some {
            self.ramp_up();
        }
        let refused = if trust == Trust::None {
            Failure::Ejected
        } else if self.waiting.borrow().len() >= settings.in_flight_max
            || self.outbox.len() >= settings.queue_bytes_max
        {
            Failure::QueueFull
        } else {
            match self.stage.get() {
                Stage::Removed => Failure::Removed,
                _ if !self.deadlines.has_room() => Failure::Overload,
                _ if held::is_short() => Failure::Memory,
                Stage::Up | Stage::Connecting => return Ok(()),
                Stage::Idle => {
                    self.wanted.notify_one();
                    return Ok(());
                }
            }
        };
        self.refused(refused);
        Err(refused)
    }

    /// Counts a request that is not sent.
    pub fn refused(&self, failure: Failure) {
        self.stats.failed(failure);
    }

    /// Counts a request that another server is asked instead of this one, which is
    /// away.
    pub fn remapped(&self) {
        self.stats.remapped.increment();
    }

    /// The write queue, for the bytes of an admitted request.
    #[inline]
    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// Completes an admitted request whose bytes have been queued: `asker` will
    /// be told the reply.
    #[inline]
    pub fn expect(
        &self,
        shape: Shape,
        expected: u64,
        asker: Rc<dyn Asker>,
        token: u64,
        now: Moment,
    ) {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() == self.late.get() {
            self.deadlines.arm(now.after(self.server.settings.timeout));
            // The server owes nothing and may be about to close: see
            // `send_again`. If it owes late replies, it lives.
            let is_even = waiting.is_empty() && self.front_start.get() == self.outbox.sent();
            if is_even && self.server.settings.retries_percent > 0 {
                self.outbox.keep();
            }
        }
        waiting.push_back(Waiter {
            asker: Some(asker),
            token,
            shape,
            expected,
            changes: self.changes_next.replace(0),
            asked: now,
            end: self.outbox.sent().wrapping_add(to_u64(self.outbox.len())),
            again: false,
        });
        self.stats.requests.increment();
        self.count_in_flight(waiting.len());
        drop(waiting);
        if self.ramping.get() {
            self.hold_back();
        }
        self.outbox.mark();
    }

    /// Notes a key that the admitted request changes.
    pub fn note_change(&self, key: &[u8]) {
        let mut changes = self.changes.borrow_mut();
        let before = changes.len();
        changes.push_back(u8::try_from(key.len()).unwrap_or(u8::MAX));
        changes.extend(key.get(..usize::from(u8::MAX)).unwrap_or(key));
        let added = u32::try_from(changes.len() - before).unwrap_or(u32::MAX);
        let next = self.changes_next.get().wrapping_add(added);
        self.changes_next.set(next);
    }

    /// As [`Self::note_cure`] for a request that replaces the item of a key which its
    /// server has missed, if its success makes that right: if all changes of the key
    /// that may still be carried out go before it on this connection.
    pub fn note_replaced(&self, key: &[u8]) {
        let late = self.changes_late.get();
        let changes = self.changes.borrow();
        let late: Vec<u8> = changes.iter().take(late).copied().collect();
        let before = packed::iter(&late).filter(|late| *late == key).count();
        drop(changes);
        let before = u32::try_from(before).unwrap_or(u32::MAX);
        if let Some(due) = self.server.missed.replaceable(key, before) {
            self.note_cure(key, Cure::Replaced(due));
        }
    }

    /// Notes that the success of the request asked next makes a missed key right
    /// again.
    pub fn note_cure(&self, key: &[u8], cure: Cure) {
        self.changes_next.set(CURES);
        self.cures.borrow_mut().push_back((key.into(), cure));
    }

    /// As [`Self::admit`], for a request that changes `key`, or nothing if that is
    /// empty. The key of a change that is not admitted is remembered as missed.
    ///
    /// # Errors
    ///
    /// As [`Self::admit`].
    #[inline]
    pub fn admit_change(&self, key: &[u8]) -> Result<(), Failure> {
        if let Err(failure) = self.admit() {
            self.not_admitted(key);
            return Err(failure);
        }
        if !key.is_empty() {
            self.note_change(key);
        }
        Ok(())
    }

    #[cold]
    fn not_admitted(&self, key: &[u8]) {
        if !key.is_empty() {
            self.server.missed.miss(key);
        }
        if self.changes_next.replace(0) & CURES != 0 {
            self.cures.borrow_mut().pop_back();
        }
    }

    /// Queues a request. The key of a change that is not admitted is remembered
    /// as missed.
    ///
    /// # Errors
    ///
    /// As [`Self::admit`].
    #[inline]
    pub fn ask(
        &self,
        ask: Ask<'_>,
        asker: Rc<dyn Asker>,
        token: u64,
        now: Moment,
    ) -> Result<(), Failure> {
        self.admit_change(ask.changes)?;
        let [a, b, c] = ask.wire.line;
        match ask.owner {
            Some(owner) if ask.wire.block.len() >= SHARE_BYTES_MIN => {
                self.outbox.push_all(&[a, b, c]);
                self.outbox.push_shared(owner.slice_ref(ask.wire.block));
            }
            _ => self.outbox.push_all(&[a, b, c, ask.wire.block]),
        }
        self.expect(ask.shape, ask.expected, asker, token, now);
        Ok(())
    }

    /// Bytes that the server has sent over it so far.
    pub fn received(&self) -> u64 {
        self.stats.bytes_received.get()
    }

    /// Gives back memory that a burst has left behind.
    pub fn shrink(&self) {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.is_empty() {
            waiting.shrink_to(WAITING_SPARE);
            self.changes.borrow_mut().shrink_to(CHANGES_SPARE);
        }
    }

    /// Takes the server out of service: what is in flight is still answered, or
    /// fails in its time; then [`Self::run`] ends and with it the connection.
    pub fn retire(&self) {
        self.retiring.set(true);
        self.wanted.notify_one();
        self.end_if_settled();
    }

    /// Whether nobody waits for a reply; late ones would be dropped anyway.
    fn is_settled(&self) -> bool {
        self.waiting.borrow().len() == self.late.get()
    }

    #[inline]
    fn end_if_settled(&self) {
        if self.retiring.get() && self.is_settled() {
            self.break_off(Failure::Removed);
        }
    }

    /// The end of [`Self::run`]: whatever is asked from now on fails.
    fn close(&self) {
        self.stage.set(Stage::Removed);
        self.outbox.detach();
        self.stats.connected.set(0);
        self.fail_all(Failure::Removed);
    }
}

fn to_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
