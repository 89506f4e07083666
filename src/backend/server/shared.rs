//! What all workers of a server share.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::detail::Detail;
use super::settings::{Dialect, Settings};
use super::worker::WorkerStats;
use crate::backend::store::Store;
use crate::clock::{self, Moment};
use crate::net::listener::Gate;

/// How a client has asked the process to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// At once.
    Now,
    /// In order.
    Graceful,
}

/// What a session lets others know.
#[derive(Debug)]
pub(super) struct Presence {
    /// Who it is with.
    pub(super) peer: String,
    /// The listener it came in at.
    pub(super) listener: usize,
    /// When it last said something.
    last: AtomicU64,
    /// Whether a value is on its way.
    state: AtomicU8,
}

impl Presence {
    pub(super) fn new(peer: String, listener: usize) -> Self {
        Self {
            peer,
            listener,
            last: AtomicU64::new(clock::now().as_micros()),
            state: AtomicU8::new(0),
        }
    }

    #[inline]
    pub(super) fn spoke(&self, now: Moment) {
        self.last.store(now.as_micros(), Ordering::Relaxed);
    }

    pub(super) fn last(&self) -> Moment {
        Moment::from_micros(self.last.load(Ordering::Relaxed))
    }

    /// Notes whether a request is only half there.
    #[inline]
    pub(super) fn set_halfway(&self, halfway: bool) {
        self.state.store(u8::from(halfway), Ordering::Relaxed);
    }

    pub(super) fn is_halfway(&self) -> bool {
        self.state.load(Ordering::Relaxed) != 0
    }
}

/// An address that the server listens on.
#[derive(Clone, Debug)]
pub struct Listening {
    /// As `stats conns` shows it.
    pub name: String,
    /// What is spoken there.
    pub dialect: Dialect,
}

/// What all workers of a server share.
#[derive(Debug)]
pub struct Shared {
    /// The items.
    pub store: Arc<Store>,
    /// How the server behaves.
    pub settings: Settings,
    /// How many clients there are and may be.
    pub gate: Arc<Gate>,
    /// Where it listens; sessions know their place in this list.
    pub listeners: Vec<Listening>,
    /// When the server started.
    pub started: Moment,
    /// What clients have said about how much is logged.
    pub verbosity: AtomicU32,
    /// Counters by prefix of key.
    pub(super) detail: Detail,
    /// Times that everything was dropped.
    pub(super) flushes: AtomicU64,
    /// Clients let in before the counters were reset.
    pub(super) accepted_before: AtomicU64,
    pub(super) refused_before: AtomicU64,
    workers: Mutex<Vec<Arc<WorkerStats>>>,
    sessions: Mutex<BTreeMap<u64, Arc<Presence>>>,
    stop: Notify,
    stop_graceful: AtomicBool,
}

impl Shared {
    /// A server over `store`.
    pub fn new(
        store: Arc<Store>,
        settings: Settings,
        gate: Arc<Gate>,
        listeners: Vec<Listening>,
    ) -> Arc<Self> {
        Arc::new(Self {
            store,
            gate,
            listeners,
            started: clock::now(),
            verbosity: AtomicU32::new(settings.verbosity),
            detail: Detail::new(settings.prefix_delimiter, settings.detail),
            settings,
            flushes: AtomicU64::new(0),
            accepted_before: AtomicU64::new(0),
            refused_before: AtomicU64::new(0),
            workers: Mutex::default(),
            sessions: Mutex::default(),
            stop: Notify::new(),
            stop_graceful: AtomicBool::new(false),
        })
    }

    /// The counters of all workers.
    pub fn workers(&self) -> Vec<Arc<WorkerStats>> {
        lock(&self.workers).clone()
    }

    pub(super) fn add_worker(&self, stats: Arc<WorkerStats>) {
        lock(&self.workers).push(stats);
    }

    /// Sessions there are, with their numbers.
    pub(super) fn sessions(&self) -> Vec<(u64, Arc<Presence>)> {
        let sessions = lock(&self.sessions);
        let sessions = sessions.iter();
        sessions
            .map(|(&number, presence)| (number, Arc::clone(presence)))
            .collect()
    }

    pub(super) fn enter(&self, number: u64, presence: Arc<Presence>) {
        lock(&self.sessions).insert(number, presence);
    }

    pub(super) fn leave(&self, number: u64) {
        lock(&self.sessions).remove(&number);
    }

    /// Asks for the end of the process.
    pub(super) fn request_stop(&self, stop: Stop) {
        self.stop_graceful
            .store(stop == Stop::Graceful, Ordering::Relaxed);
        self.stop.notify_one();
    }

    /// Waits until a client asks for the end of the process.
    pub async fn stop_requested(&self) -> Stop {
        self.stop.notified().await;
        if self.stop_graceful.load(Ordering::Relaxed) {
            Stop::Graceful
        } else {
            Stop::Now
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
