//! One worker thread of the server: its clients.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::session::{End, Session};
use super::shared::{Presence, Shared};
use super::watch::{note_closed, note_opened};
use crate::backend::watch::{self, Desk};
use crate::clock;
use crate::net::stream::Stream;
use crate::net::turn::Turn;
use crate::net::worker::{Handler, Place};
use crate::net::{buffers, memory};
use crate::stats::{Counter, Gauge};

/// How often a worker looks for idle clients and memory to give back.
const SWEEP: Duration = Duration::from_millis(500);

/// What one worker has seen of its clients.
#[derive(Debug, Default)]
pub struct WorkerStats {
    /// Sessions it serves now.
    pub sessions: Gauge,
    /// Sessions that have ended.
    pub ended: Counter,
    /// Sessions ended because they were idle.
    pub idle_kicks: Counter,
    /// Bytes received from clients.
    pub bytes_received: Counter,
    /// Bytes sent to clients.
    pub bytes_sent: Counter,
    /// Requests refused for their form.
    pub bad_requests: Counter,
    /// How often reading from a client paused because it was owed too much.
    pub pauses: Counter,
    /// How often the requests of a client waited for those of others (`-R`).
    pub yields: Counter,
    /// Attempts to log in.
    pub logins: Counter,
    /// Of those that failed.
    pub login_failures: Counter,
}

/// One worker thread of the server.
#[derive(Debug)]
pub struct Worker {
    shared: Arc<Shared>,
    /// Writes to clients that could not be written to at once.
    pub(super) turn: Rc<Turn>,
    sessions: RefCell<Vec<Weak<Session>>>,
    /// What this worker counts.
    pub(super) stats: Arc<WorkerStats>,
    /// Where it notes what it does, for those who watch.
    pub(super) desk: Desk,
}

/// The next number of a session, over all workers.
static NUMBER: AtomicU64 = AtomicU64::new(0);

impl Worker {
    /// A worker without clients. Made in its own thread.
    pub fn new(shared: Arc<Shared>) -> Self {
        let stats = Arc::new(WorkerStats::default());
        shared.add_worker(Arc::clone(&stats));
        Self {
            desk: shared.watch.desk(),
            shared,
            turn: Rc::default(),
            sessions: RefCell::default(),
            stats,
        }
    }

    /// What all workers share.
    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Ends sessions that have been idle for too long.
    fn sweep(&self) {
        let timeout = self.shared.settings.idle_timeout;
        let mut sessions = self.sessions.borrow_mut();
        sessions.retain(|session| session.strong_count() > 0);
        if timeout.is_zero() {
            return;
        }
        let now = clock::now();
        for session in sessions.iter().filter_map(Weak::upgrade) {
            // Who watches has nothing to say.
            if session.presence().watches() {
                continue;
            }
            if now.since(session.last_active(now)) >= timeout {
                session.end(End::Idle);
            }
        }
    }
}

impl Handler for Worker {
    type Origin = usize;

    fn serve(
        self: Rc<Self>,
        stream: Stream,
        origin: usize,
        place: Place,
    ) -> impl Future<Output = ()> {
        // Those of the listeners come first.
        let listeners = u64::try_from(self.shared.listeners.len()).unwrap_or(0);
        let number = listeners + NUMBER.fetch_add(1, Ordering::Relaxed);
        let presence = Arc::new(Presence::new(number, stream.peer(), origin));
        self.shared.enter(Arc::clone(&presence));
        note_opened(&self, &presence);
        let (read, write) = stream.into_split();
        let session = Session::new(Rc::clone(&self), write, presence);
        self.sessions.borrow_mut().push(Rc::downgrade(&session));
        self.stats.sessions.set(self.stats.sessions.get() + 1);
        async move {
            let end = Rc::clone(&session).run(read).await;
            self.stats.sessions.set(self.stats.sessions.get() - 1);
            self.stats.ended.increment();
            if end == End::Idle {
                self.stats.idle_kicks.increment();
            }
            self.shared.leave(number);
            note_closed(&self, session.presence(), end);
            drop(place);
            session.let_go();
        }
    }

    async fn background(self: Rc<Self>) {
        tokio::task::spawn_local(Rc::clone(&self.turn).run());
        let mut activity = (0, 0);
        let mut released = false;
        loop {
            clock::sleep(SWEEP).await;
            self.sweep();
            // Clients that go free memory without a word.
            let now = (self.stats.bytes_received.get(), self.stats.sessions.get());
            let idle = std::mem::replace(&mut activity, now) == now;
            if idle && !released {
                buffers::release();
                self.sessions.borrow_mut().shrink_to_fit();
                watch::release();
                memory::trim();
            }
            released = idle;
        }
    }
}
