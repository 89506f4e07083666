//! What is different while a server is just coming back.
//!
//! It is trusted with few requests at a time, and with one more for each that it
//! answers. The others wait in the write queue, each within its own time-out: a
//! server that is well has caught up within milliseconds, and one that is not
//! costs only those it was asked.

use std::rc::Rc;

use super::{Connection, Stage, to_u64};
use crate::pool::failure::Failure;
use crate::pool::health::{State, Trust};

/// Requests in flight with which a server that has just come back is trusted, on
/// each connection: enough for a few clients, few enough to lose.
const RAMP_FIRST: u64 = 64;

impl Connection {
    /// Notices that the server has come back, before it is asked.
    #[cold]
    pub(super) fn ramp_up(&self) {
        let returns = self.server.health.entered(State::Returning);
        if self.ramp.get().0 == returns {
            return;
        }
        self.leave_old();
        // Late replies, if they come, are no proof.
        let waiting = self.waiting.borrow().len().saturating_sub(self.late.get());
        let answered = self.stats.requests.get().saturating_sub(to_u64(waiting));
        self.ramp.set((returns, answered));
        self.ramping.set(true);
    }

    /// Lets as many requests go as the server is trusted with.
    #[cold]
    pub(super) fn hold_back(&self) {
        let limit = match self.server.health.trust() {
            Trust::Some => self.limit(),
            Trust::Full | Trust::None => {
                self.ramping.set(false);
                u64::MAX
            }
        };
        self.outbox.set_limit(limit);
    }

    /// Where the last request ends with which the server is trusted.
    fn limit(&self) -> u64 {
        let requests = self.stats.requests.get();
        let waiting = self.waiting.borrow();
        let (_, start) = self.ramp.get();
        let answered = requests
            .saturating_sub(start)
            .saturating_sub(to_u64(waiting.len()));
        let window = RAMP_FIRST.saturating_add(answered);
        let last = usize::try_from(window.saturating_sub(1));
        let last = last.ok().and_then(|last| waiting.get(last));
        // Whoever comes next is held back when it has been queued.
        last.map_or(u64::MAX, |last| last.end)
    }

    /// After the server has been ejected: what waited for it to prove itself fails
    /// at once.
    pub(super) fn let_down(&self) {
        if self.limit() == u64::MAX {
            self.ramping.set(false);
        } else {
            self.part();
        }
    }

    /// Gives a connection of before the server's return up if it owes late
    /// replies. They may never come: connections may lead nowhere any more while
    /// new ones work.
    fn leave_old(&self) {
        if self.late.get() > 0 {
            self.part();
        }
    }

    fn part(&self) {
        if self.stage.get() != Stage::Up || self.outdated.replace(true) {
            return;
        }
        // What is queued from now on goes over the next connection.
        self.outbox.detach();
        self.ramping.set(false);
        self.outbox.set_limit(u64::MAX);
        self.break_off(Failure::TimedOut);
    }

    /// Leaves connections of before whenever the server comes back, for ever.
    pub(super) async fn follow_returns(self: Rc<Self>) {
        loop {
            self.server.health.wait_until(false).await;
            self.server.health.wait_until(true).await;
            self.leave_old();
        }
    }
}
