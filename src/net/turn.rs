//! One write per connection and turn.
//!
//! Whoever queues bytes for a peer marks the peer's [`Outbox`]; one task per
//! worker writes them all out. It is woken by the first mark and so runs after
//! the tasks that were runnable by then, which have had their say: requests of
//! many clients to one server leave in one write, and so do the answers of many
//! servers to one client.

use std::cell::RefCell;
use std::rc::Rc;

use tokio::sync::Notify;

use super::outbox::Outbox;

/// The marks of one turn.
#[derive(Debug, Default)]
pub struct Turn {
    marked: RefCell<Vec<Rc<Outbox>>>,
    wake: Notify,
}

impl Turn {
    /// Notes that `outbox` has something to write.
    #[inline]
    pub(super) fn mark(&self, outbox: Rc<Outbox>) {
        let mut marked = self.marked.borrow_mut();
        if marked.is_empty() {
            self.wake.notify_one();
        }
        marked.push(outbox);
    }

    /// Writes what has been marked, turn after turn. Never ends; each worker
    /// spawns one and drops it with its runtime.
    pub async fn run(self: Rc<Self>) {
        let mut batch = Vec::new();
        loop {
            self.wake.notified().await;
            // Swapped, not taken: both vectors keep their room.
            std::mem::swap(&mut batch, &mut *self.marked.borrow_mut());
            for outbox in batch.drain(..) {
                outbox.flush();
            }
        }
    }
}
