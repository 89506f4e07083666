//! What the server says, and whose answer it is.

use std::cell::RefCell;
use std::task::Poll;

use bytes::Bytes;

use super::{CURES, Connection, Fate, Reply, Verdict, Waiter, to_u64};
use crate::clock::{self, Moment};
use crate::net::inbox::{Batch, Consumed, Inbox};
use crate::net::stream::ReadHalf;
use crate::pool::failure::Failure;
use crate::protocol::reply::{self, Block, Outcome, Part, Shape};

thread_local! {
    /// The blocks found in one read, lent to whichever connection is reading.
    static BLOCKS: RefCell<Vec<Block>> = const { RefCell::new(Vec::new()) };
}

impl Connection {
    /// Reads until the connection ends. Returns why, `None` for a clean end while
    /// the server owed nothing; and whether it was the server that ended it.
    pub(super) async fn read_replies(&self, read: &mut ReadHalf) -> (Option<Failure>, bool) {
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
    pub(super) fn break_off(&self, failure: Failure) {
        self.broken.set(Some(failure));
        self.outbox.wake_owner();
    }

    /// What the request at the front is to be answered with.
    #[inline]
    pub(super) fn front(&self) -> Option<(Shape, u64)> {
        let waiting = self.waiting.borrow();
        waiting.front().map(|front| (front.shape, front.expected))
    }

    /// Takes every complete reply out of what has been read.
    pub(super) fn take_replies(&self, batch: &Batch<'_>) -> Consumed {
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
            if self.ramping.get() {
                self.hold_back();
            }
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
    pub(super) fn take_blocks(
        &self,
        first: Block,
        rest: &[u8],
        owner: Option<&Bytes>,
    ) -> (usize, bool) {
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
    pub(super) fn take_whole(
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
