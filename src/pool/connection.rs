//! One worker's connection to one server.
//!
//! Requests are appended to the write queue and wait in a FIFO for their
//! replies; the server answers in the order asked. The invariant on which
//! everything rests: the bytes a reader has not consumed yet begin with the
//! reply to the request at the front of the FIFO. Whenever that is in doubt the
//! connection is closed.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use tokio::sync::Notify;

use super::backoff::Backoff;
use super::deadlines::Deadlines;
use super::dial::{Dialect, dial};
use super::failure::Failure;
use super::health::{State, Trust};
use super::missed::Lingering;
use super::missed::set::Due;
use super::retry::{Budget, is_idempotent};
use super::server::{Place, Server, ServerStats};
use crate::clock::{self, Moment};
use crate::net::held;
use crate::net::inbox::{Batch, Consumed, Inbox};
use crate::net::outbox::{Outbox, SHARE_BYTES_MIN};
use crate::net::stream::ReadHalf;
use crate::net::turn::Turn;
use crate::protocol::reply::{self, Block, Outcome, Part, Shape};
use crate::protocol::request::Wire;

/// Waits between attempts to connect while the server is not ejected: short, for
/// requests are waiting; growing, for a server that accepts connections only to
/// close them must not be hammered.
const RECONNECT: Backoff = Backoff {
    first: std::time::Duration::from_millis(5),
    max: std::time::Duration::from_secs(1),
    factor: 2.0,
    jitter: 0.1,
};

/// Requests in flight with which a server that has just come back is trusted, on
/// each connection: enough for a few clients, few enough to lose.
const RAMP_FIRST: u64 = 64;

/// Places for requests that an idle connection keeps.
const WAITING_SPARE: usize = 16;

/// Bytes for the keys of changes that an idle connection keeps.
const CHANGES_SPARE: usize = 256;

thread_local! {
    /// The blocks found in one read, lent to whichever connection is reading.
    static BLOCKS: RefCell<Vec<Block>> = const { RefCell::new(Vec::new()) };
}

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
    /// [`reply::fingerprint`] of what the reply must name, or 0. For
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
    cures: RefCell<VecDeque<(Box<[u8]>, Due)>>,
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
        let refused = if trust == Trust::None {
            Failure::Ejected
        } else if trust == Trust::Some && !self.may_ramp() {
            Failure::Ramp
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

    /// Whether a server that has just come back may be asked once more: it is
    /// trusted with few requests at a time, and with one more for each that it
    /// answers.
    #[cold]
    fn may_ramp(&self) -> bool {
        let requests = self.stats.requests.get();
        let waiting = to_u64(self.waiting.borrow().len());
        let returns = self.server.health.entered(State::Returning);
        let (of_return, mut start) = self.ramp.get();
        if of_return != returns {
            start = requests.saturating_sub(waiting);
            self.ramp.set((returns, start));
        }
        let answered = requests.saturating_sub(start).saturating_sub(waiting);
        waiting < RAMP_FIRST.saturating_add(answered)
    }

    /// Counts a request that is not sent.
    pub fn refused(&self, failure: Failure) {
        self.stats.failed(failure);
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

    /// Notes that the success of the request asked next makes a missed key right
    /// again.
    pub fn note_cure(&self, key: &[u8], due: Due) {
        self.changes_next.set(CURES);
        self.cures.borrow_mut().push_back((key.into(), due));
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

/// Connecting.
impl Connection {
    /// Makes the connection, reads replies, and makes it again when it breaks,
    /// until it has retired.
    pub async fn run(self: Rc<Self>) {
        let Place::Remote(address) = &self.server.place else {
            return;
        };
        let settings = &self.server.settings;
        // Attempts in a row that led to nothing.
        let mut attempts = 0;
        let mut lingering = Lingering::default();
        // A server that was there a moment ago may be starting anew: one attempt
        // that it refuses does not count.
        let mut spare = false;
        let preconnect = settings.preconnect && self.dialect == Dialect::Text;
        let mut eager = preconnect;
        loop {
            if self.retiring.get() && self.is_settled() {
                self.close();
                return lingering.all_ended().await;
            }
            if !eager && self.waiting.borrow().is_empty() {
                self.stage.set(Stage::Idle);
                self.wanted.notified().await;
                if self.retiring.get() {
                    continue;
                }
            }
            eager = false;
            if !self.server.health.is_active() {
                self.fail_all(Failure::Ejected);
                self.wait_for_return().await;
                (attempts, eager) = (0, preconnect);
                continue;
            }
            self.stage.set(Stage::Connecting);
            if attempts > 0 {
                let wait = RECONNECT.wait(attempts - 1, fastrand::f64());
                clock::sleep(wait).await;
            }
            let dialled = dial(address, self.dialect, settings.connect_timeout).await;
            let (failure, left) = match dialled {
                Ok(stream) => {
                    let (mut read, write) = stream.into_split();
                    self.come_up();
                    self.outbox.attach(write);
                    let received = self.stats.bytes_received.get();
                    let (failure, gone) = self.read_replies(&mut read).await;
                    let useful = self.stats.bytes_received.get() != received;
                    // A clean end after idling is no reason to wait.
                    attempts = if useful || failure.is_none() {
                        0
                    } else {
                        attempts + 1
                    };
                    self.outbox.detach();
                    self.stats.connected.set(0);
                    spare = settings.retries_percent > 0;
                    (failure, Some(read).filter(|_| !gone))
                }
                Err(failure) => {
                    attempts += 1;
                    self.stats.connect_failures.increment();
                    let is_spared = std::mem::take(&mut spare) && failure == Failure::Refused;
                    if is_spared && !self.waiting.borrow().is_empty() {
                        continue;
                    }
                    (Some(failure), None)
                }
            };
            self.stage.set(Stage::Idle);
            if let Some(failure) = failure {
                self.settle(failure, left.is_none());
            }
            let doubts = self.doubts.take();
            if let Some(read) = left.filter(|_| !doubts.is_empty()) {
                lingering.wait_for_end(read, Arc::clone(&self.server), doubts);
            }
        }
    }

    /// Waits until the server is active again, or the connection is to retire.
    async fn wait_for_return(&self) {
        while !self.retiring.get() {
            // Whichever is cancelled loses nothing: the health is a state, and a
            // wish for the connection is looked for where it is acted on.
            tokio::select! {
                () = self.server.health.wait_until(true) => return,
                () = self.wanted.notified() => {}
            }
        }
    }

    fn come_up(&self) {
        self.stage.set(Stage::Up);
        self.broken.set(None);
        self.stats.connects.increment();
        self.stats.connected.set(1);
        tracing::debug!(server = %self.server.name, "connected");
        self.forget_unsent();
    }

    /// After a broken connection or a failed attempt: fails what cannot be
    /// completed any more. `gone` says that the server has closed the connection
    /// too, and so reads no more from it.
    fn settle(&self, failure: Failure, gone: bool) {
        let now = clock::now();
        tracing::debug!(server = %self.server.name, cause = failure.name(), "connection lost");
        let fate = if gone { Fate::Failed } else { Fate::InDoubt };
        let is_idle_close = failure == Failure::Closed && self.send_again(now, fate);
        // Requests of which some byte has been sent may have been carried out.
        let sent = self.outbox.sent();
        while self.front_start.get() < sent && self.fail_front(failure, fate) {}
        // The rest of one that was cut in two must not follow on the next
        // connection.
        let cut = self.front_start.get().saturating_sub(sent);
        self.outbox.skip(usize::try_from(cut).unwrap_or(usize::MAX));
        if !is_idle_close {
            self.server.failed(failure, now);
        }
        // What will not be different the next time is not waited for.
        let is_hopeless = failure == Failure::NoBinary || failure.is_conclusive();
        if !self.server.health.is_active() || is_hopeless {
            self.fail_all(failure);
        }
    }

    /// Queues anew, once, what was sent to a server that owed nothing and has
    /// closed without a byte of a reply: most probably it had decided to close
    /// before. Says whether all that was sent is queued anew.
    fn send_again(&self, now: Moment, fate: Fate) -> bool {
        let Some(kept) = self.outbox.take_kept() else {
            return false;
        };
        let (start, sent) = (self.front_start.get(), self.outbox.sent());
        let (mut waiters, mut bytes) = (VecDeque::new(), Vec::new());
        let mut all = true;
        while self.front_start.get() < sent {
            if let Some(request) = self.front_to_repeat(&kept, start, now)
                && let Some(mut waiter) = self.pop(Fate::Failed)
            {
                bytes.extend_from_slice(request);
                // Where it is to end, as yet without what precedes it.
                (waiter.again, waiter.end) = (true, to_u64(bytes.len()));
                waiters.push_back(waiter);
            } else if self.fail_front(Failure::Closed, fate) {
                all = false;
            } else {
                break;
            }
        }
        // The rest of one that was cut in two must not follow on the next
        // connection.
        let rest = self.front_start.get().saturating_sub(sent);
        self.outbox
            .skip(usize::try_from(rest).unwrap_or(usize::MAX));
        let sent = self.outbox.sent();
        self.stats.retries.add(to_u64(waiters.len()));
        let all = all && !waiters.is_empty();
        let mut waiting = self.waiting.borrow_mut();
        for waiter in &mut *waiting {
            waiter.end = waiter.end.wrapping_add(to_u64(bytes.len()));
        }
        for mut waiter in waiters.into_iter().rev() {
            waiter.end = waiter.end.wrapping_add(sent);
            waiting.push_front(waiter);
        }
        self.front_start.set(sent);
        self.count_in_flight(waiting.len());
        self.outbox.push_front(bytes);
        all
    }

    /// The bytes of the request at the front, if it may be sent once more. `kept`
    /// are bytes of the stream from `start` on.
    fn front_to_repeat<'a>(&self, kept: &'a [u8], start: u64, now: Moment) -> Option<&'a [u8]> {
        let waiting = self.waiting.borrow();
        let front = waiting.front()?;
        let from = self.front_start.get().wrapping_sub(start);
        let bytes = range_of(kept, from, front.end.wrapping_sub(start))?;
        self.may_repeat(front, bytes, now).then_some(bytes)
    }

    /// Whether a request may be sent once more.
    fn may_repeat(&self, waiter: &Waiter, bytes: &[u8], now: Moment) -> bool {
        let settings = &self.server.settings;
        let is_due = waiter.asked.after(settings.timeout) <= now;
        let is_change = waiter.changes > 0 || !is_idempotent(bytes);
        if waiter.asker.is_none() || waiter.again || is_due || is_change {
            return false;
        }
        let requests = self.stats.requests.get();
        let mut budget = self.budget.borrow_mut();
        let is_left = budget.take(requests, settings.retries_percent);
        if !is_left {
            self.stats.retries_refused.increment();
        }
        is_left
    }

    /// Fails everything in flight and forgets what has not been sent.
    fn fail_all(&self, failure: Failure) {
        while self.fail_front(failure, Fate::Failed) {}
        self.outbox.skip(self.outbox.len());
        self.front_start.set(self.outbox.sent());
    }

    #[inline]
    fn count_in_flight(&self, now: usize) {
        let before = self.in_flight.replace(now);
        self.deadlines.count(before, now);
        self.stats.in_flight.set(to_u64(now));
    }

    /// Fails the request at the front; says whether there was one.
    fn fail_front(&self, failure: Failure, fate: Fate) -> bool {
        match self.pop(fate) {
            Some(waiter) => {
                if waiter.changes & CURES != 0 {
                    self.cures.borrow_mut().pop_front();
                }
                self.fail(waiter.asker, waiter.token, failure);
                true
            }
            None => false,
        }
    }

    fn fail(&self, asker: Option<Rc<dyn Asker>>, token: u64, failure: Failure) {
        if let Some(asker) = asker {
            self.stats.failed(failure);
            asker.reply(
                token,
                Reply::Failed {
                    server: &self.server.name,
                    failure,
                },
            );
        }
    }

    /// Takes the request at the front out of the FIFO.
    #[inline]
    fn pop(&self, fate: Fate) -> Option<Waiter> {
        self.pop_as(|_| fate)
    }

    /// As [`Self::pop`], where the fate of a change is to be asked for.
    #[inline]
    fn pop_as(&self, fate: impl FnOnce(&Waiter) -> Fate) -> Option<Waiter> {
        let mut waiting = self.waiting.borrow_mut();
        let waiter = waiting.pop_front()?;
        if waiter.changes > 0 {
            self.drop_changes(waiter.changes_len(), fate(&waiter));
        }
        self.front_start.set(waiter.end);
        self.front_blocks.set(0);
        self.late.set(self.late.get().saturating_sub(1));
        self.count_in_flight(waiting.len());
        Some(waiter)
    }

    /// A request marked with [`CURES`] has been answered. One that has timed out
    /// is in doubt until now, and cannot cure.
    #[cold]
    fn cure(&self, outcome: Outcome) {
        let cure = self.cures.borrow_mut().pop_front();
        if let Some((key, due)) = cure
            && matches!(outcome, Outcome::Done | Outcome::NotFound)
        {
            self.server.missed.replaced(&key, due);
        }
    }

    /// Forgets the keys of the change at the front, or remembers them as missed,
    /// before anybody is told.
    #[inline]
    fn drop_changes(&self, len: usize, fate: Fate) {
        let mut changes = self.changes.borrow_mut();
        let len = len.min(changes.len());
        let late = self.late.get() > 0;
        if fate == Fate::Over && !late {
            changes.drain(..len);
            return;
        }
        let keys: Vec<u8> = changes.drain(..len).collect();
        let missed = &self.server.missed;
        match (late, fate) {
            // Remembered as in doubt when it timed out.
            (true, Fate::Over | Fate::Failed) => missed.settle(&keys),
            (true, Fate::InDoubt) => self.doubts.borrow_mut().extend_from_slice(&keys),
            (false, Fate::InDoubt) => {
                missed.miss_all(&keys, true);
                self.doubts.borrow_mut().extend_from_slice(&keys);
            }
            (false, Fate::Over | Fate::Failed) => missed.miss_all(&keys, false),
        }
        if late {
            let left = self.changes_late.get().saturating_sub(len);
            self.changes_late.set(left);
        }
    }
}

/// Reading.
impl Connection {
    /// Reads until the connection ends. Returns why, `None` for a clean end while
    /// the server owed nothing; and whether it was the server that ended it.
    async fn read_replies(&self, read: &mut ReadHalf) -> (Option<Failure>, bool) {
        let mut inbox = Inbox::default();
        std::future::poll_fn(|cx| {
            loop {
                if let Some(failure) = self.broken.take() {
                    return Poll::Ready((Some(failure), false));
                }
                self.outbox.set_owner(cx.waker());
                if self.outbox.is_broken() {
                    return Poll::Ready((Some(Failure::Closed), true));
                }
                let read_once = inbox.poll_read(cx, read, |batch| self.take_replies(&batch));
                match std::task::ready!(read_once) {
                    Ok(true) => {}
                    // It owes nothing, so closing is its right.
                    Ok(false) | Err(_) if self.front_start.get() >= self.outbox.sent() => {
                        return Poll::Ready((None, true));
                    }
                    Ok(false) | Err(_) => return Poll::Ready((Some(Failure::Closed), true)),
                }
            }
        })
        .await
    }

    /// Makes the reader stop.
    fn break_off(&self, failure: Failure) {
        self.broken.set(Some(failure));
        self.outbox.wake_owner();
    }

    /// What the request at the front is to be answered with.
    #[inline]
    fn front(&self) -> Option<(Shape, u64)> {
        let waiting = self.waiting.borrow();
        waiting.front().map(|front| (front.shape, front.expected))
    }

    /// Takes every complete reply out of what has been read.
    fn take_replies(&self, batch: &Batch<'_>) -> Consumed {
        self.outbox.forget_kept();
        let now = clock::now();
        let mut used = 0;
        let mut answered = false;
        let need = loop {
            let rest = batch.bytes.get(used..).unwrap_or_default();
            if rest.is_empty() {
                break 0;
            }
            let front = self.front();
            let part = front.map(|(shape, expected)| reply::cut(shape, expected, rest));
            match part {
                Some(Ok(Part::More { need })) => break need,
                Some(Ok(Part::Block(first))) => {
                    let (len, fits) = self.take_blocks(first, rest, batch.owner);
                    used += len;
                    if !fits {
                        self.break_off(Failure::Protocol);
                    }
                }
                Some(Ok(Part::Whole {
                    len,
                    outcome,
                    in_step,
                })) => {
                    used += len;
                    let bytes = rest.get(..len).unwrap_or_default();
                    let fits = self.take_whole(bytes, batch.owner, outcome, now);
                    answered = true;
                    if !fits || !in_step {
                        self.break_off(Failure::Protocol);
                    }
                }
                // No request in flight, or not a reply to it.
                None | Some(Err(_)) => self.break_off(Failure::Protocol),
            }
            if self.broken.get().is_some() {
                used = batch.bytes.len();
                break 0;
            }
        };
        if answered {
            self.server.health.succeeded();
            self.end_if_settled();
        }
        self.stats.bytes_received.add(to_u64(used));
        self.stats.bytes_sent.set(self.outbox.sent());
        Consumed {
            used,
            need,
            scanned: 0,
        }
    }

    /// Hands on all blocks at the start of `rest`, of which the first is known.
    /// Returns their length and whether they fit.
    fn take_blocks(&self, first: Block, rest: &[u8], owner: Option<&Bytes>) -> (usize, bool) {
        let Some((shape, expected)) = self.front() else {
            return (0, false);
        };
        BLOCKS.with_borrow_mut(|blocks| {
            blocks.clear();
            blocks.push(first);
            let mut len = first.len;
            // What is no block is looked at again as the end of the reply.
            while let Some(more) = rest.get(len..)
                && let Ok(Part::Block(block)) = reply::cut(shape, expected, more)
            {
                blocks.push(block);
                len += block.len;
            }
            self.front_blocks
                .set(self.front_blocks.get() + to_u64(blocks.len()));
            let front = self
                .waiting
                .borrow()
                .front()
                .map(|front| (front.asker.clone(), front.token));
            let Some((Some(asker), token)) = front else {
                return (len, true);
            };
            let reply = Reply::Blocks {
                bytes: rest.get(..len).unwrap_or_default(),
                blocks,
                owner,
            };
            (len, asker.reply(token, reply) == Verdict::Fits)
        })
    }

    /// Hands on a reply; says whether it fits.
    #[inline]
    fn take_whole(
        &self,
        bytes: &[u8],
        owner: Option<&Bytes>,
        outcome: Outcome,
        now: Moment,
    ) -> bool {
        let blocks = self.front_blocks.get();
        let sent = self.outbox.sent();
        let fate = |waiter: &Waiter| match waiter.end > sent && !outcome.is_error() {
            true => Fate::InDoubt,
            false => Fate::Over,
        };
        let Some(waiter) = self.pop_as(fate) else {
            return false;
        };
        // Only a refusal can come before all of the request has been sent. A success
        // is that of another request, or a lie.
        if waiter.end > sent && !outcome.is_error() {
            if waiter.changes & CURES != 0 {
                self.cures.borrow_mut().pop_front();
            }
            self.fail(waiter.asker, waiter.token, Failure::Protocol);
            return false;
        }
        if waiter.changes & CURES != 0 {
            self.cure(outcome);
        }
        let Some(asker) = waiter.asker else {
            self.stats.late_replies.increment();
            return true;
        };
        self.stats.latency.record(now.micros_since(waiter.asked));
        match outcome {
            Outcome::Hit => self.stats.hits.increment(),
            Outcome::Miss => match waiter.shape.keys_asked(waiter.expected) {
                Some(keys) => {
                    self.stats.hits.add(blocks);
                    self.stats.misses.add(keys.saturating_sub(blocks));
                }
                None => self.stats.misses.increment(),
            },
            outcome if outcome.is_error() => self.stats.error_replies.increment(),
            _ => {}
        }
        let reply = Reply::Whole {
            bytes,
            owner,
            outcome,
        };
        if asker.reply(waiter.token, reply) == Verdict::Fits {
            return true;
        }
        self.fail(Some(asker), waiter.token, Failure::Protocol);
        false
    }
}

/// Time.
impl Connection {
    /// Fails what has waited too long. Returns when to look again.
    pub(super) fn expire(&self, now: Moment) -> Option<Moment> {
        let settings = &self.server.settings;
        while let Some((asker, token)) = self.next_late(now) {
            self.fail(asker, token, Failure::TimedOut);
            // Before there is a binary connection its requests prove nothing: the
            // server may not speak that, and be well.
            if self.dialect == Dialect::Text || self.stage.get() == Stage::Up {
                self.server.failed(Failure::TimedOut, now);
            }
        }
        self.forget_unsent();
        self.end_if_settled();
        let waiting = self.waiting.borrow();
        let oldest = waiting.front()?;
        let stalled = oldest.asked.after(settings.stall_timeout);
        if stalled <= now || self.late.get() > settings.late_max {
            self.break_off(Failure::TimedOut);
            return None;
        }
        let next = waiting.get(self.late.get());
        let next = next.map(|waiter| waiter.asked.after(settings.timeout));
        Some(next.map_or(stalled, |next| next.min(stalled)))
    }

    /// The next request that is overdue and has not been told so.
    fn next_late(&self, now: Moment) -> Option<(Option<Rc<dyn Asker>>, u64)> {
        let mut waiting = self.waiting.borrow_mut();
        let waiter = waiting.get_mut(self.late.get())?;
        if waiter.asked.after(self.server.settings.timeout) > now {
            return None;
        }
        self.late.set(self.late.get() + 1);
        if waiter.changes > 0 {
            let start = self.changes_late.get();
            let len = waiter.changes_len();
            let changes = self.changes.borrow();
            let keys: Vec<u8> = changes.iter().skip(start).take(len).copied().collect();
            self.changes_late.set(start + keys.len());
            // It may have been sent: it is over when it leaves the FIFO.
            self.server.missed.miss_all(&keys, true);
        }
        Some((waiter.asker.take(), waiter.token))
    }

    /// Drops requests that nobody waits for any more and that have not been sent,
    /// as far as they stand at the front: an old value must not arrive after a
    /// newer one that took another way.
    fn forget_unsent(&self) {
        let sent = self.outbox.sent();
        while self.late.get() > 0 && self.front_start.get() >= sent {
            let start = self.front_start.get();
            let Some(waiter) = self.pop(Fate::Over) else {
                return;
            };
            if waiter.changes & CURES != 0 {
                self.cures.borrow_mut().pop_front();
            }
            let bytes = waiter.end.saturating_sub(start);
            self.outbox
                .skip(usize::try_from(bytes).unwrap_or(usize::MAX));
        }
    }
}

/// The bytes from `start` to `end`, if there are so many.
fn range_of(bytes: &[u8], start: u64, end: u64) -> Option<&[u8]> {
    bytes.get(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
}

fn to_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
