//! One client.

use std::cell::{Cell, OnceCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::shared::Presence;
use super::talk::Talk;
use super::worker::Worker;
use crate::backend::watch::Seat;
use crate::clock::Moment;
use crate::net::inbox::Inbox;
use crate::net::outbox::Outbox;
use crate::net::stream::{ReadHalf, WriteHalf};

/// Bytes of replies owed to one client at which reading from it pauses. Much of
/// them may be shared with the store, and none of them can be evicted.
pub(super) const PAUSE_BYTES: usize = 1 << 20;

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The client closed or quit.
    Client,
    /// It sent what is not worth an answer.
    Rubbish,
    /// It was idle for too long.
    Idle,
    /// It had the process end.
    Shutdown,
}

/// One client connection and its state.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) worker: Rc<Worker>,
    pub(super) outbox: Rc<Outbox>,
    presence: Arc<Presence>,
    /// Why the session is ending: nothing more is read, what is owed is still
    /// sent.
    ending: Cell<Option<End>>,
    /// Its place among those who watch, once it does.
    seat: OnceCell<Seat>,
    /// Nothing that the client says is listened to any more: the session is ending, or
    /// the client watches.
    deaf: Cell<bool>,
    /// The session waits for its client to take replies.
    paused: Cell<bool>,
    /// Bytes sent that are in the worker's counter already.
    sent_counted: Cell<u64>,
    /// Bytes sent when it was last looked whether the client takes any.
    sent_seen: Cell<u64>,
    /// When it was last seen to have taken some.
    took: Cell<Moment>,
}

impl Session {
    /// A session with a fresh client.
    pub(super) fn new(worker: Rc<Worker>, write: WriteHalf, presence: Arc<Presence>) -> Rc<Self> {
        Rc::new(Self {
            outbox: Outbox::new(Rc::clone(&worker.turn), write),
            worker,
            presence,
            ending: Cell::new(None),
            seat: OnceCell::new(),
            deaf: Cell::new(false),
            paused: Cell::new(false),
            sent_counted: Cell::new(0),
            sent_seen: Cell::new(0),
            took: Cell::new(Moment::default()),
        })
    }

    /// What the session lets others know.
    pub(super) fn presence(&self) -> &Presence {
        &self.presence
    }

    /// Ends the session once the client has got what it is owed, or at once if it takes
    /// none of that.
    pub(super) fn end(&self, end: End) {
        if self.ending.get().is_none() || end == End::Idle {
            self.ending.set(Some(end));
            self.deaf.set(true);
            self.outbox.wake_owner();
        }
    }

    /// When the client last said something, or was seen to take of what it is owed: as
    /// often as somebody asks.
    pub(super) fn last_active(&self, now: Moment) -> Moment {
        let sent = self.outbox.sent();
        if self.sent_seen.replace(sent) != sent {
            self.took.set(now);
        }
        self.presence.last().max(self.took.get())
    }

    /// Lets the client watch to the end of the session.
    pub(super) fn watch(&self, seat: Seat) {
        if self.seat.set(seat).is_ok() {
            self.deaf.set(true);
            self.presence.set_watches();
        }
    }

    /// Whether what the client says is not listened to any more.
    #[inline]
    pub(super) fn is_deaf(&self) -> bool {
        self.deaf.get()
    }

    /// Serves the client to the end of the session; returns why it ended. The
    /// client sees the end when it is let go ([`Self::let_go`]).
    pub(super) async fn run(self: Rc<Self>, mut read: ReadHalf) -> End {
        let mut inbox = Inbox::default();
        let mut talk = Talk::new(&self);
        let end = std::future::poll_fn(|cx| {
            loop {
                self.outbox.set_owner(cx.waker());
                if self.outbox.is_broken() {
                    return Poll::Ready(End::Client);
                }
                if let Some(end) = self.ending.get() {
                    // Who is idle has not taken replies either.
                    if self.outbox.is_empty() || end == End::Idle {
                        return Poll::Ready(end);
                    }
                    self.outbox.wake_at(0);
                    return Poll::Pending;
                }
                if self.owes_too_much() {
                    return Poll::Pending;
                }
                match self.poll_step(cx, &mut read, &mut inbox, &mut talk) {
                    Poll::Ready(Ok(true)) if talk.yields() => {
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    Poll::Ready(Ok(true)) => {}
                    // A client may close its sending side and still read: it gets
                    // what it asked for.
                    Poll::Ready(Ok(false)) => self.end(End::Client),
                    Poll::Ready(Err(_)) => return Poll::Ready(End::Client),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await;
        self.count_sent();
        end
    }

    /// Closes the connection. Whatever is counted of the session is counted before:
    /// the client may ask for it as soon as it sees the end.
    pub(super) fn let_go(&self) {
        self.outbox.detach();
    }

    /// Reads once and carries out what has come. Ready with `false` at the end of
    /// the stream.
    #[inline]
    fn poll_step(
        self: &Rc<Self>,
        cx: &mut Context<'_>,
        read: &mut ReadHalf,
        inbox: &mut Inbox,
        talk: &mut Talk,
    ) -> Poll<io::Result<bool>> {
        let more = if talk.has_unread() {
            inbox.offer(|batch| talk.take(self, &batch));
            Ok(true)
        } else if talk.awaits_value() {
            std::task::ready!(talk.poll_value(self, cx, read))
        } else {
            std::task::ready!(inbox.poll_read(cx, read, |batch| talk.take(self, &batch)))
        };
        if !self.outbox.is_empty() {
            // All that is in there comes from here: nobody else has to be waited
            // for.
            self.outbox.flush();
        }
        self.count_sent();
        Poll::Ready(more)
    }

    /// Whether the client has to take replies before more requests are read. If
    /// so, the session is woken when it has taken half of them.
    #[inline]
    fn owes_too_much(&self) -> bool {
        let too_much = self.outbox.len() >= PAUSE_BYTES;
        if too_much {
            if !self.paused.replace(true) {
                self.worker.stats.pauses.increment();
            }
            self.outbox.wake_at(PAUSE_BYTES / 2);
        } else {
            self.paused.set(false);
        }
        too_much
    }

    /// Counts what the client has been sent since the last time.
    #[inline]
    fn count_sent(&self) {
        let sent = self.outbox.sent();
        let before = self.sent_counted.replace(sent);
        self.worker.stats.bytes_sent.add(sent.wrapping_sub(before));
    }
}
