//! Making a connection, losing it, and what becomes of those who wait.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use tokio_util::task::AbortOnDropHandle;

use super::{Asker, CURES, Connection, Cure, Fate, Reply, Stage, Waiter, to_u64};
use crate::clock::{self, Moment};
use crate::pool::backoff::Backoff;
use crate::pool::dial::{Dialect, dial};
use crate::pool::failure::Failure;
use crate::pool::missed::Lingering;
use crate::pool::retry::is_idempotent;
use crate::pool::server::Place;
use crate::protocol::reply::Outcome;

/// Waits between attempts to connect while the server is not ejected: short, for
/// requests are waiting; growing, for a server that accepts connections only to
/// close them must not be hammered.
const RECONNECT: Backoff = Backoff {
    first: std::time::Duration::from_millis(5),
    max: std::time::Duration::from_secs(1),
    factor: 2.0,
    jitter: 0.1,
};

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
        let follow = tokio::task::spawn_local(Rc::clone(&self).follow_returns());
        let _follow = AbortOnDropHandle::new(follow);
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
                    attempts = if useful || failure.is_none() || self.outdated.get() {
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
            match failure {
                Some(failure) => self.settle(failure, left.is_none()),
                None => self.outdated.set(false),
            }
            let doubts = self.doubts.take();
            if let Some(read) = left.filter(|_| !doubts.is_empty()) {
                lingering.wait_for_end(read, Arc::clone(&self.server), doubts);
            }
        }
    }

    /// Waits until the server is active again, or the connection is to retire.
    pub(super) async fn wait_for_return(&self) {
        while !self.retiring.get() {
            // Whichever is cancelled loses nothing: the health is a state, and a
            // wish for the connection is looked for where it is acted on.
            tokio::select! {
                () = self.server.health.wait_until(true) => return,
                () = self.wanted.notified() => {}
            }
        }
    }

    pub(super) fn come_up(&self) {
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
    pub(super) fn settle(&self, failure: Failure, gone: bool) {
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
        let is_outdated = self.outdated.take();
        if !is_idle_close && !is_outdated {
            self.server.failed(failure, now);
        }
        // What will not be different the next time is not waited for.
        let is_hopeless = failure == Failure::NoBinary || failure.is_conclusive();
        if !self.server.health.is_active() || is_hopeless {
            self.fail_all(if is_outdated {
                Failure::Ejected
            } else {
                failure
            });
        }
    }

    /// Queues anew, once, what was sent to a server that owed nothing and has
    /// closed without a byte of a reply: most probably it had decided to close
    /// before. Says whether all that was sent is queued anew.
    pub(super) fn send_again(&self, now: Moment, fate: Fate) -> bool {
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
        drop(waiting);
        self.outbox.push_front(bytes);
        if self.ramping.get() {
            self.hold_back();
        }
        all
    }

    /// The bytes of the request at the front, if it may be sent once more. `kept`
    /// are bytes of the stream from `start` on.
    pub(super) fn front_to_repeat<'a>(
        &self,
        kept: &'a [u8],
        start: u64,
        now: Moment,
    ) -> Option<&'a [u8]> {
        let waiting = self.waiting.borrow();
        let front = waiting.front()?;
        let from = self.front_start.get().wrapping_sub(start);
        let bytes = range_of(kept, from, front.end.wrapping_sub(start))?;
        self.may_repeat(front, bytes, now).then_some(bytes)
    }

    /// Whether a request may be sent once more.
    pub(super) fn may_repeat(&self, waiter: &Waiter, bytes: &[u8], now: Moment) -> bool {
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
    pub(super) fn fail_all(&self, failure: Failure) {
        while self.fail_front(failure, Fate::Failed) {}
        self.outbox.skip(self.outbox.len());
        self.front_start.set(self.outbox.sent());
    }

    #[inline]
    pub(super) fn count_in_flight(&self, now: usize) {
        let before = self.in_flight.replace(now);
        self.deadlines.count(before, now);
        self.stats.in_flight.set(to_u64(now));
    }

    /// Fails the request at the front; says whether there was one.
    pub(super) fn fail_front(&self, failure: Failure, fate: Fate) -> bool {
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

    pub(super) fn fail(&self, asker: Option<Rc<dyn Asker>>, token: u64, failure: Failure) {
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
    pub(super) fn pop(&self, fate: Fate) -> Option<Waiter> {
        self.pop_as(|_| fate)
    }

    /// As [`Self::pop`], where the fate of a change is to be asked for.
    #[inline]
    pub(super) fn pop_as(&self, fate: impl FnOnce(&Waiter) -> Fate) -> Option<Waiter> {
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
    pub(super) fn cure(&self, outcome: Outcome) {
        let cure = self.cures.borrow_mut().pop_front();
        if let Some((key, cure)) = cure
            && matches!(outcome, Outcome::Done | Outcome::NotFound)
        {
            match cure {
                Cure::Replaced(due) => self.server.missed.replaced(&key, due),
                Cure::Hosted { turn, claim } => self.server.missed.hosted(&key, turn, claim),
            }
        }
    }

    /// Forgets the keys of the change at the front, or remembers them as missed,
    /// before anybody is told.
    #[inline]
    pub(super) fn drop_changes(&self, len: usize, fate: Fate) {
        let mut changes = self.changes.borrow_mut();
        let len = len.min(changes.len());
        let late = self.late.get() > 0;
        // What a server that is away has done all the same may be older than what
        // was done in its place.
        if fate == Fate::Over && !late && self.server.health.is_active() {
            changes.drain(..len);
            return;
        }
        let keys: Vec<u8> = changes.drain(..len).collect();
        let missed = &self.server.missed;
        match (late, fate) {
            // Remembered as in doubt when it timed out.
            (true, Fate::Over | Fate::Failed) => missed.settle(&keys),
            (true, Fate::InDoubt) => {
                missed.unsettle(&keys);
                self.doubts.borrow_mut().extend_from_slice(&keys);
            }
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

/// The bytes from `start` to `end`, if there are so many.
fn range_of(bytes: &[u8], start: u64, end: u64) -> Option<&[u8]> {
    bytes.get(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
}
