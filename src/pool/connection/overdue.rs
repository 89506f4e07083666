//! What has waited too long.

use std::rc::Rc;

use super::{Asker, CURES, Connection, Fate, Stage};
use crate::clock::Moment;
use crate::pool::dial::Dialect;
use crate::pool::failure::Failure;

impl Connection {
    /// Fails what has waited too long. Returns when to look again.
    pub(in crate::pool) fn expire(&self, now: Moment) -> Option<Moment> {
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
        match self.ramping.get() {
            true if self.server.health.is_active() => self.hold_back(),
            true => self.let_down(),
            false => {}
        }
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
    pub(super) fn next_late(&self, now: Moment) -> Option<(Option<Rc<dyn Asker>>, u64)> {
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
    pub(super) fn forget_unsent(&self) {
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
