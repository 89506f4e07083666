//! One client.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use memchr::memchr;

use super::layout::Entry;
use super::merge::Merge;
use super::settings::ClientProtocol;
use super::slots::{Asked, Quiet, Slot, Slots};
use super::stats::End;
use super::worker::{View, Worker};
use crate::clock::{self, Moment};
use crate::net::inbox::{Batch, Consumed, Inbox};
use crate::net::outbox::Outbox;
use crate::net::stream::{ReadHalf, WriteHalf};
use crate::pool::{Asker, Failure, Reply, Verdict};
use crate::protocol::binary::MAGIC_REQUEST;
use crate::protocol::reply::Outcome;
use crate::protocol::request::Cut;
use crate::protocol::{Error, text};

/// One client connection and its state.
pub struct Session {
    pub(super) worker: Rc<Worker>,
    pub(super) outbox: Rc<Outbox>,
    pub(super) slots: RefCell<Slots>,
    /// Tells sessions of a worker apart, and so picks the connection when there
    /// are several to a server.
    pub(super) number: u64,
    listener: usize,
    /// What the client speaks, once that is known.
    spoken: Cell<Option<Spoken>>,
    /// The opaque of the next request that a server is asked for a binary client.
    pub(super) opaque: Cell<u32>,
    /// Bytes of a refused value that are still to come.
    swallow: Cell<usize>,
    last_active: Cell<Moment>,
    /// Why the session is ending: nothing more is read, what is owed is still
    /// sent.
    ending: Cell<Option<End>>,
    /// The session ends as soon as nothing is owed and nothing is to be read.
    finishing: Cell<bool>,
    /// Since when the client has been seen to be quiet.
    quiet_since: Cell<Option<Moment>>,
    /// The session is over at once, whatever is owed.
    dead: Cell<bool>,
    /// Reading stopped before the end of what had arrived.
    unread: Cell<bool>,
    /// The session waits for its client to take replies, or for replies.
    paused: Cell<bool>,
    /// Bytes of a request that is not complete yet.
    carried: Cell<usize>,
    /// Bytes sent that are in the worker's counter already.
    sent_counted: Cell<u64>,
    /// The bounds in force when the session last read.
    bounds: Cell<Bounds>,
}

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spoken {
    Text,
    Binary,
}

/// The part of the settings that is looked at for every reply.
#[derive(Clone, Copy, Debug, Default)]
struct Bounds {
    in_flight_max: usize,
    pause_bytes: usize,
    owed_bytes_max: usize,
}

impl Session {
    /// A session with a fresh client of listener number `listener`.
    pub fn new(worker: Rc<Worker>, write: WriteHalf, number: u64, listener: usize) -> Rc<Self> {
        let outbox = Outbox::new(Rc::clone(&worker.turn), write);
        let settings = &worker.view().layout.sessions;
        let bounds = Bounds {
            in_flight_max: settings.in_flight_max,
            pause_bytes: settings.pause_bytes,
            owed_bytes_max: settings.owed_bytes_max,
        };
        Rc::new(Self {
            outbox,
            slots: RefCell::default(),
            number,
            listener,
            spoken: Cell::new(None),
            // Where connections are shared, those of others are told apart too.
            opaque: Cell::new(fastrand::u32(..)),
            swallow: Cell::new(0),
            last_active: Cell::new(clock::now()),
            ending: Cell::new(None),
            finishing: Cell::new(false),
            quiet_since: Cell::new(None),
            dead: Cell::new(false),
            unread: Cell::new(false),
            paused: Cell::new(false),
            carried: Cell::new(0),
            sent_counted: Cell::new(0),
            bounds: Cell::new(bounds),
            worker,
        })
    }

    /// The number of the listener that the client came by.
    pub fn listener(&self) -> usize {
        self.listener
    }

    /// When the client last said something.
    pub fn last_active(&self) -> Moment {
        self.last_active.get()
    }

    /// Gives back memory that an idle client does not need.
    pub fn shrink(&self) {
        self.slots.borrow_mut().shrink();
    }

    /// Ends the session once the client has got what it is owed.
    pub fn end(&self, end: End) {
        if self.ending.get().is_none() {
            self.ending.set(Some(end));
            self.outbox.wake_owner();
        }
    }

    /// Ends the session once everything that the client has sent so far is
    /// answered.
    pub fn finish(&self) {
        if !self.finishing.replace(true) {
            self.outbox.wake_owner();
        }
    }

    /// Whether the client is owed nothing and has said nothing for as long as
    /// `quiet`, from when that was first asked.
    pub fn has_been_quiet(&self, now: Moment, quiet: Duration) -> bool {
        if !self.slots.borrow().is_empty() || !self.outbox.is_empty() {
            self.quiet_since.set(None);
            return false;
        }
        match self.quiet_since.get() {
            Some(since) if since > self.last_active.get() => now.since(since) >= quiet,
            _ => {
                self.quiet_since.set(Some(now));
                false
            }
        }
    }

    /// Whether the session can end because it is to: nothing is owed, and the
    /// client is not in the middle of a request.
    fn is_finished(&self, inbox: &Inbox) -> bool {
        let is_owed = !self.slots.borrow().is_empty() || !self.outbox.is_empty();
        if is_owed {
            self.outbox.wake_at(0);
        }
        !is_owed && inbox.is_empty() && self.swallow.get() == 0
    }

    /// Counts what the client has been sent since the last time.
    fn count_sent(&self) {
        let sent = self.outbox.sent();
        let before = self.sent_counted.replace(sent);
        self.worker.stats.bytes_sent.add(sent.wrapping_sub(before));
    }

    /// Bytes that the client makes the proxy hold.
    pub fn held(&self) -> usize {
        self.outbox.held() + self.slots.borrow().parked_bytes() + self.carried.get()
    }

    /// Since when the client has neither taken anything of what it is owed nor
    /// completed a request.
    pub fn stands_still_since(&self) -> Moment {
        let blocked = self.outbox.blocked_since();
        blocked.unwrap_or(self.last_active.get())
    }

    /// Ends the session now and drops what the client is owed.
    pub fn cut_off(&self, end: End) {
        self.kill(end);
        // Nobody takes it: kept by the kernel it would cost as much as kept here.
        self.outbox.abort();
        self.drop_owed();
    }

    fn drop_owed(&self) {
        self.dead.set(true);
        self.outbox.discard();
        drop(self.slots.take());
        self.carried.set(0);
    }

    /// Ends the session now.
    fn kill(&self, end: End) {
        self.ending.set(Some(end));
        self.dead.set(true);
        self.outbox.wake_owner();
    }

    /// Serves the client to the end of the session; returns why it ended.
    pub async fn run(self: Rc<Self>, mut read: ReadHalf) -> End {
        let mut inbox = Inbox::default();
        let end = std::future::poll_fn(|cx| {
            loop {
                self.outbox.set_owner(cx.waker());
                if self.dead.get() || self.outbox.is_broken() {
                    return Poll::Ready(self.ending.get().unwrap_or(End::Client));
                }
                if let Some(end) = self.ending.get() {
                    if self.slots.borrow().is_empty() && self.outbox.is_empty() {
                        return Poll::Ready(end);
                    }
                    self.outbox.wake_at(0);
                    return Poll::Pending;
                }
                if self.owes_too_much() {
                    self.pause();
                    return Poll::Pending;
                }
                if self.unread.replace(false) {
                    inbox.offer(|batch| self.take_requests(&batch));
                    continue;
                }
                let read_once = inbox.poll_read(cx, &mut read, |batch| self.take_requests(&batch));
                if !self.dead.get() {
                    self.carried.set(inbox.len());
                }
                let read_once = match read_once {
                    Poll::Ready(read_once) => read_once,
                    Poll::Pending if self.finishing.get() && self.is_finished(&inbox) => {
                        return Poll::Ready(End::Drain);
                    }
                    Poll::Pending => return Poll::Pending,
                };
                match read_once {
                    Ok(true) => {}
                    // A client may close its sending side and still read: it gets
                    // what it asked for.
                    Ok(false) => self.end(End::Client),
                    Err(_) => return Poll::Ready(End::Client),
                }
            }
        })
        .await;
        self.count_sent();
        // Waiters in flight keep the session alive; the socket goes now.
        self.drop_owed();
        end
    }

    /// Whether the client has to take replies before more requests are read.
    #[inline]
    fn owes_too_much(&self) -> bool {
        let bounds = self.bounds.get();
        let slots = self.slots.borrow();
        let too_much = slots.len() >= bounds.in_flight_max
            || self.outbox.len() + slots.parked_bytes() >= bounds.pause_bytes;
        if !too_much {
            self.paused.set(false);
        }
        too_much
    }

    /// Waits until half of what is owed has been taken.
    fn pause(&self) {
        if !self.paused.replace(true) {
            self.worker.stats.pauses.increment();
        }
        self.outbox.wake_at(self.bounds.get().pause_bytes / 2);
    }

    /// Takes every complete request out of what has been read.
    fn take_requests(self: &Rc<Self>, batch: &Batch<'_>) -> Consumed {
        let view = self.worker.view();
        let now = clock::now();
        self.last_active.set(now);
        let Some(entry) = view.layout.entry(self.listener) else {
            // Its listener is gone.
            self.end(End::Drain);
            return Consumed {
                used: batch.bytes.len(),
                ..Consumed::default()
            };
        };
        let settings = &view.layout.sessions;
        self.bounds.set(Bounds {
            in_flight_max: settings.in_flight_max,
            pause_bytes: settings.pause_bytes,
            owed_bytes_max: settings.owed_bytes_max,
        });
        let mut at = Reading {
            view: &view,
            entry,
            owner: batch.owner,
            now,
        };
        let consumed = match self.spoken_in(batch.bytes, entry.protocol) {
            Spoken::Text => self.take_each(batch, &mut at),
            Spoken::Binary => self.take_binary(batch, &at),
        };
        self.worker.stats.bytes_received.add(to_u64(consumed.used));
        self.count_sent();
        if !self.outbox.is_empty() {
            self.outbox.mark();
        }
        consumed
    }

    /// What the client speaks: known by the first byte it sends, as in memcached,
    /// if the listener takes both.
    #[inline]
    fn spoken_in(&self, bytes: &[u8], takes: ClientProtocol) -> Spoken {
        if let Some(spoken) = self.spoken.get() {
            return spoken;
        }
        let spoken = match takes {
            ClientProtocol::Auto if bytes.first() == Some(&MAGIC_REQUEST) => Spoken::Binary,
            ClientProtocol::Auto | ClientProtocol::Text => Spoken::Text,
            ClientProtocol::Binary => Spoken::Binary,
        };
        self.spoken.set(Some(spoken));
        spoken
    }

    /// Passes over what is left of a refused value, of which `available` bytes
    /// are there; returns how many.
    #[inline]
    pub(super) fn swallow(&self, available: usize) -> usize {
        let skip = self.swallow.get().min(available);
        self.swallow.set(self.swallow.get() - skip);
        skip
    }

    /// Has the next `count` bytes passed over.
    pub(super) fn swallow_next(&self, count: usize) {
        self.swallow.set(count);
    }

    /// Whether no more requests are to be taken for now, although some may be
    /// there.
    #[inline]
    pub(super) fn stops_reading(&self) -> bool {
        let stops = self.owes_too_much();
        if stops {
            self.unread.set(true);
        }
        stops
    }

    /// Whether nothing more is read.
    #[inline]
    pub(super) fn is_ending(&self) -> bool {
        self.ending.get().is_some()
    }

    /// An opaque for a request to a server.
    #[inline]
    pub(super) fn next_opaque(&self) -> u32 {
        let opaque = self.opaque.get();
        self.opaque.set(opaque.wrapping_add(1));
        opaque
    }

    fn take_each(self: &Rc<Self>, batch: &Batch<'_>, reading: &mut Reading<'_>) -> Consumed {
        let mut used = 0;
        let mut scanned = batch.scanned;
        loop {
            used += self.swallow(batch.bytes.len() - used);
            let rest = batch.bytes.get(used..).unwrap_or_default();
            if rest.is_empty() {
                return consumed(used, 0, 0);
            }
            if self.stops_reading() {
                return consumed(used, 0, 0);
            }
            match text::cut(rest, scanned, &reading.entry.limits) {
                Cut::Request { request, len } => {
                    self.dispatch(&request, reading);
                    used += len;
                }
                Cut::Refused {
                    error,
                    silent,
                    len,
                    swallow,
                    replaced,
                } => {
                    if let Some(replaced) = replaced {
                        self.delete_replaced(replaced, reading);
                    }
                    self.refuse(error, silent);
                    self.swallow.set(swallow);
                    used += len;
                }
                Cut::More { need } => {
                    let scanned = match memchr(b'\n', rest) {
                        None => rest.len(),
                        Some(_) => 0,
                    };
                    return consumed(used, need, scanned);
                }
                // Not asked for: as if the rest of it were waited for.
                Cut::Announced { len, value_len, .. } => {
                    return consumed(used, len + value_len + 2, 0);
                }
                Cut::Close => {
                    self.end(End::Rubbish);
                    return consumed(batch.bytes.len(), 0, 0);
                }
            }
            if self.ending.get().is_some() {
                // `quit`: what comes after it is not read.
                return consumed(batch.bytes.len(), 0, 0);
            }
            scanned = 0;
        }
    }

    fn refuse(&self, error: Error, silent: bool) {
        self.worker.stats.bad_requests.increment();
        if !silent {
            self.answer(format!("{error}\r\n").as_bytes());
        }
    }

    /// Answers a request without asking a server.
    pub(super) fn answer(&self, bytes: &[u8]) {
        let mut slots = self.slots.borrow_mut();
        if slots.is_empty() {
            self.outbox.push(bytes);
            return;
        }
        let number = slots.push(Slot::Parked { start: 0, len: 0 });
        slots.answer(number, bytes, None, &self.outbox);
    }

    /// After an answer: the client may be owed less, or too much.
    #[inline]
    fn answered(&self, slots: &Slots) {
        if self.outbox.is_empty() {
            let is_ending = self.ending.get().is_some() || self.finishing.get();
            if slots.is_empty() && is_ending {
                self.outbox.wake_owner();
            }
            return;
        }
        self.outbox.mark();
        let bounds = self.bounds.get();
        if self.paused.get() && slots.len() <= bounds.in_flight_max / 2 {
            self.outbox.wake_owner();
        }
        if self.outbox.len() + slots.parked_bytes() > bounds.owed_bytes_max {
            self.kill(End::Slow);
        }
    }
}

/// What stays the same while a batch of requests is taken.
pub(super) struct Reading<'a> {
    pub(super) view: &'a Rc<View>,
    pub(super) entry: &'a Entry,
    pub(super) owner: Option<&'a Bytes>,
    pub(super) now: Moment,
}

pub(super) fn consumed(used: usize, need: usize, scanned: usize) -> Consumed {
    Consumed {
        used,
        need,
        scanned,
    }
}

/// The number of a request, and which part of it.
pub(super) fn token(request: u64, fragment: u16) -> u64 {
    (request << 16) | u64::from(fragment)
}

fn untoken(token: u64) -> (u64, u16) {
    let [low, high, ..] = token.to_le_bytes();
    (token >> 16, u16::from_le_bytes([low, high]))
}

impl Asker for Session {
    #[inline]
    fn reply(&self, token: u64, reply: Reply<'_>) -> Verdict {
        if self.dead.get() {
            return Verdict::Fits;
        }
        let (number, fragment) = untoken(token);
        let mut slots = self.slots.borrow_mut();
        let verdict = match slots.get_mut(number) {
            Some(Slot::Waiting(asked)) => {
                let asked = *asked;
                self.take_reply(&mut slots, number, asked, reply)
            }
            Some(Slot::Merging(merge)) => {
                let verdict = take_fragment(merge, fragment, &reply);
                if verdict == Verdict::Fits && merge.is_complete() {
                    self.count(merge);
                    slots.send_ready(&self.outbox);
                }
                verdict
            }
            Some(Slot::Binary(_)) => self.take_item(&mut slots, number, &reply),
            Some(Slot::Batching(batch)) => {
                let verdict = batch.take_reply(fragment, &reply);
                if verdict == Verdict::Fits && batch.is_complete() {
                    batch.count(&self.worker.stats);
                    slots.send_ready(&self.outbox);
                }
                verdict
            }
            Some(Slot::Gathering(gather)) => {
                gather.answered(complaint(&reply));
                if gather.pending == 0 {
                    slots.send_ready(&self.outbox);
                }
                Verdict::Fits
            }
            // Answered already.
            _ => Verdict::Fits,
        };
        self.answered(&slots);
        verdict
    }
}

impl Session {
    /// Takes the reply of the one server that was asked.
    #[inline]
    fn take_reply(
        &self,
        slots: &mut Slots,
        number: u64,
        asked: Asked,
        reply: Reply<'_>,
    ) -> Verdict {
        match reply {
            Reply::Whole {
                bytes,
                owner,
                outcome,
            } => {
                let bytes = if asked.quiet.hides(outcome) {
                    b""
                } else {
                    bytes
                };
                slots.answer(number, bytes, owner, &self.outbox);
            }
            Reply::Blocks { .. } => return Verdict::Misfit,
            Reply::Failed { server, failure } => {
                let text = self.failure_text(asked, server, failure);
                slots.answer(number, &text, None, &self.outbox);
            }
        }
        Verdict::Fits
    }

    /// Takes the reply of the one server that was asked for a binary client.
    #[inline]
    fn take_item(&self, slots: &mut Slots, number: u64, reply: &Reply<'_>) -> Verdict {
        if matches!(reply, Reply::Blocks { .. }) {
            return Verdict::Misfit;
        }
        let Some(Slot::Binary(asked)) = slots.take(number) else {
            return Verdict::Fits;
        };
        match *reply {
            Reply::Whole {
                bytes,
                owner,
                outcome,
            } => asked.answer(slots, number, (bytes, owner, outcome), &self.outbox),
            Reply::Failed { server, failure } => {
                let answer = asked.failure(server, failure, &self.worker.stats);
                slots.answer(number, &answer, None, &self.outbox);
            }
            Reply::Blocks { .. } => {}
        }
        Verdict::Fits
    }

    /// What the client is told of a failure.
    pub(super) fn failure_text(&self, asked: Asked, server: &str, failure: Failure) -> Vec<u8> {
        let stats = &self.worker.stats;
        match asked.miss {
            _ if asked.quiet == Quiet::All => {
                stats.failures_untold.increment();
                Vec::new()
            }
            Some(miss) => {
                stats.failures_masked.increment();
                if asked.quiet.hides(Outcome::Miss) {
                    Vec::new()
                } else {
                    miss.to_vec()
                }
            }
            None => {
                stats.failures_told.increment();
                format!("SERVER_ERROR {server} {failure}\r\n").into_bytes()
            }
        }
    }

    /// Counts how a merge has ended.
    pub(super) fn count(&self, merge: &Merge) {
        let stats = &self.worker.stats;
        stats.failures_masked.add(merge.masked());
        stats.failures_told.add(u64::from(merge.is_error()));
        stats.oversized.add(u64::from(merge.is_too_large()));
    }
}

/// What a server that was told to do something says instead of `OK`.
fn complaint(reply: &Reply<'_>) -> Option<Vec<u8>> {
    match *reply {
        Reply::Whole { outcome, .. } if !outcome.is_error() => None,
        Reply::Whole { bytes, .. } | Reply::Blocks { bytes, .. } => Some(bytes.to_vec()),
        Reply::Failed { server, failure } => {
            Some(format!("SERVER_ERROR {server} {failure}\r\n").into_bytes())
        }
    }
}

/// Takes a part of the reply of one of several servers.
fn take_fragment(merge: &mut Merge, fragment: u16, reply: &Reply<'_>) -> Verdict {
    match *reply {
        Reply::Blocks {
            bytes,
            blocks,
            owner,
        } => {
            if !merge.blocks(fragment, bytes, blocks, owner) {
                return Verdict::Misfit;
            }
        }
        Reply::Whole { bytes, outcome, .. } if outcome.is_error() => {
            merge.refused(fragment, bytes);
        }
        Reply::Whole { .. } => merge.answered(fragment),
        Reply::Failed { server, failure } => merge.failed(fragment, server, failure),
    }
    Verdict::Fits
}

fn to_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
