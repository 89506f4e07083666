//! What all workers of a server share.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwapOption;
use tokio::sync::Notify;

use super::detail::Detail;
use super::settings::{Dialect, Settings};
use super::users::Users;
use super::worker::WorkerStats;
use crate::backend::store::Store;
use crate::backend::watch::Hub;
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
    /// Its number among all sessions and listeners.
    pub(super) number: u64,
    /// Who it is with.
    pub(super) peer: String,
    /// The listener it came in at.
    pub(super) listener: usize,
    /// When it last said something.
    last: AtomicU64,
    /// Whether a value is on its way.
    state: AtomicU8,
    /// Whether it watches.
    watches: AtomicBool,
}

impl Presence {
    pub(super) fn new(number: u64, peer: String, listener: usize) -> Self {
        Self {
            number,
            peer,
            listener,
            last: AtomicU64::new(clock::now().as_micros()),
            state: AtomicU8::new(0),
            watches: AtomicBool::new(false),
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

impl Presence {
    /// Notes that the client watches from now on.
    pub(super) fn set_watches(&self) {
        self.watches.store(true, Ordering::Relaxed);
    }

    pub(super) fn watches(&self) -> bool {
        self.watches.load(Ordering::Relaxed)
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

macro_rules! clients {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What has been seen of clients.
        #[derive(Clone, Copy, Debug, Default)]
        pub(super) struct Clients {
            $($(#[$doc])* pub(super) $name: u64,)*
        }

        impl Clients {
            /// What has come to it since it was as `before`.
            fn since(&self, before: &Self) -> Self {
                Self { $($name: self.$name.saturating_sub(before.$name),)* }
            }
        }
    };
}

clients! {
    /// Clients let in.
    accepted,
    /// Clients turned away because there were too many.
    refused,
    /// Bytes received from them.
    bytes_received,
    /// Bytes sent to them.
    bytes_sent,
    /// Clients let go because they said nothing.
    idle_kicks,
    /// How often the requests of one waited for those of others.
    yields,
    /// Attempts to log in.
    logins,
    /// Of those that failed.
    login_failures,
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
    /// Who watches.
    pub watch: Arc<Hub>,
    /// Counters by prefix of key.
    pub(super) detail: Detail,
    /// Times that everything was dropped.
    pub(super) flushes: AtomicU64,
    /// What had been seen of clients when the counters were reset.
    before: Mutex<Clients>,
    users: ArcSwapOption<Users>,
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
            watch: Hub::new(settings.watch_room),
            detail: Detail::new(settings.prefix_delimiter, settings.detail),
            users: ArcSwapOption::from_pointee(settings.users.clone()),
            settings,
            flushes: AtomicU64::new(0),
            before: Mutex::default(),
            workers: Mutex::default(),
            sessions: Mutex::default(),
            stop: Notify::new(),
            stop_graceful: AtomicBool::new(false),
        })
    }

    /// Who may use the server; everybody if there is no list.
    pub(super) fn users(&self) -> Option<Arc<Users>> {
        self.users.load_full()
    }

    /// Lets only these in from now on. Who has logged in stays.
    pub fn set_users(&self, users: Users) {
        self.users.store(Some(Arc::new(users)));
    }

    /// What has been seen of clients since the counters were reset.
    pub(super) fn clients(&self) -> Clients {
        self.clients_ever().since(&lock(&self.before))
    }

    /// Counts what is seen of clients from nothing.
    pub(super) fn reset_clients(&self) {
        *lock(&self.before) = self.clients_ever();
    }

    fn clients_ever(&self) -> Clients {
        let mut clients = Clients {
            accepted: self.gate.accepted(),
            refused: self.gate.refused(),
            ..Clients::default()
        };
        for worker in lock(&self.workers).iter() {
            clients.bytes_received += worker.bytes_received.get();
            clients.bytes_sent += worker.bytes_sent.get();
            clients.idle_kicks += worker.idle_kicks.get();
            clients.yields += worker.yields.get();
            clients.logins += worker.logins.get();
            clients.login_failures += worker.login_failures.get();
        }
        clients
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

    pub(super) fn enter(&self, presence: Arc<Presence>) {
        lock(&self.sessions).insert(presence.number, presence);
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
