//! One timer for all requests of a worker.
//!
//! Requests on one connection time out in the order they were asked, so a
//! connection knows its next deadline by looking at the oldest; and one timer,
//! set to the earliest of all connections, is enough. While requests are
//! answered in time it fires about once per time-out, not once per request.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

use tokio::sync::Notify;

use super::connection::Connection;
use crate::clock::{self, Moment};

/// The connections of a worker that may have something time out.
#[derive(Debug, Default)]
pub struct Deadlines {
    next: Cell<Option<Moment>>,
    earlier: Notify,
    connections: RefCell<Vec<Weak<Connection>>>,
    /// Requests that wait on all of them.
    in_flight: Cell<usize>,
    /// Most of them.
    in_flight_max: Cell<Option<usize>>,
}

impl Deadlines {
    /// Bounds the requests that wait on all connections together.
    pub fn set_in_flight_max(&self, max: usize) {
        self.in_flight_max.set(Some(max.max(1)));
    }

    /// Whether one more request may wait.
    #[inline]
    pub(super) fn has_room(&self) -> bool {
        let max = self.in_flight_max.get();
        max.is_none_or(|max| self.in_flight.get() < max)
    }

    /// Counts a connection's requests: it had `before` and has `now`.
    #[inline]
    pub(super) fn count(&self, before: usize, now: usize) {
        let in_flight = self.in_flight.get().wrapping_add(now).wrapping_sub(before);
        self.in_flight.set(in_flight);
    }

    /// Looks after one more connection, as long as it lives.
    pub(super) fn watch(&self, connection: Weak<Connection>) {
        self.connections.borrow_mut().push(connection);
    }

    /// Sees to it that connections are looked at when `deadline` has come.
    #[inline]
    pub(super) fn arm(&self, deadline: Moment) {
        if self.next.get().is_none_or(|next| deadline < next) {
            self.next.set(Some(deadline));
            self.earlier.notify_one();
        }
    }

    /// Times out what is due, for ever. Each worker spawns one.
    pub async fn run(self: Rc<Self>) {
        loop {
            match self.next.get() {
                None => self.earlier.notified().await,
                Some(next) => {
                    // Whichever branch is cancelled loses nothing: both are only
                    // waits, and `next` is read anew.
                    tokio::select! {
                        () = clock::sleep_until(next) => self.expire(),
                        () = self.earlier.notified() => {}
                    }
                }
            }
        }
    }

    fn expire(&self) {
        let now = clock::now();
        self.next.set(None);
        let alive: Vec<_> = {
            let mut connections = self.connections.borrow_mut();
            connections.retain(|connection| connection.strong_count() > 0);
            connections.iter().filter_map(Weak::upgrade).collect()
        };
        for connection in alive {
            if let Some(deadline) = connection.expire(now) {
                self.arm(deadline);
            }
        }
    }
}
