//! One server: its settings, its health, its counters.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;

use super::backoff::Backoff;
use super::failure::Failure;
use super::health::Health;
use super::missed::Missed;
use super::peers::Peers;
use crate::clock::Moment;
use crate::net::listener::Address;
use crate::stats::{Counter, Gauge, Histogram};

/// How the servers of a pool are treated. Two servers of the same address with
/// the same settings are one server.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// How long a request may take, from being queued to its reply.
    pub timeout: Duration,
    /// How long a connection may take to be made, its handshake included.
    pub connect_timeout: Duration,
    /// Connections of each worker thread.
    pub connections: usize,
    /// Whether connections are made before the first request needs them.
    pub preconnect: bool,
    /// Most requests that wait on one connection.
    pub in_flight_max: usize,
    /// Most bytes that wait to be sent on one connection.
    pub queue_bytes_max: usize,
    /// How old the oldest unanswered request of a connection may grow before the
    /// connection is given up. Longer than `timeout`: a late reply costs only
    /// its own request.
    pub stall_timeout: Duration,
    /// Most requests that have timed out and whose late replies a connection is
    /// still waiting for.
    pub late_max: usize,
    /// How many of a hundred requests may be sent once more; 0 for none.
    pub retries_percent: u32,
    /// Failures in a row after which the server is ejected.
    pub failures: u32,
    /// When an ejected server is asked whether it is back.
    pub probe: Backoff,
    /// How long a server that is back is trusted with few requests; zero for not
    /// at all.
    pub ramp: Duration,
    /// How many of a hundred servers of a pool may be ejected at a time.
    pub eject_max_percent: u32,
    /// How many times as slow as the median a server may be; `None` for any
    /// number.
    pub slow_after: Option<u32>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(1),
            connections: 1,
            preconnect: true,
            in_flight_max: 32 * 1024,
            queue_bytes_max: 64 << 20,
            stall_timeout: Duration::from_secs(5),
            late_max: 4096,
            retries_percent: 10,
            failures: 3,
            probe: Backoff {
                first: Duration::from_millis(100),
                max: Duration::from_secs(5),
                factor: 1.5,
                jitter: 0.1,
            },
            ramp: Duration::from_secs(1),
            eject_max_percent: 100,
            slow_after: None,
        }
    }
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Behind a socket.
    Remote(Address),
    /// In this process: reached by a function call, never down.
    Embedded,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Remote(address) => address.fmt(f),
            Self::Embedded => f.write_str("embedded"),
        }
    }
}

/// A server that all worker threads use.
#[derive(Debug)]
pub struct Server {
    /// What it is called in messages and metrics: its name in the configuration,
    /// else its address.
    pub name: Box<str>,
    /// Where it is.
    pub place: Place,
    /// How it is treated.
    pub settings: Settings,
    /// Whether it can be trusted; shared by all threads.
    pub health: Health,
    /// What it has missed; shared by all servers at the same place.
    pub missed: Arc<Missed>,
    /// The other servers of its pool, once they are known.
    pub peers: ArcSwapOption<Peers>,
    /// The counters of each thread's connections. Threads and connections are
    /// few and stay as long as the server does.
    stats: Mutex<Vec<Arc<ServerStats>>>,
}

impl Server {
    /// A server that has not been asked anything yet, but may have missed
    /// something.
    pub fn new(name: &str, place: Place, settings: Settings, missed: Arc<Missed>) -> Self {
        let health = Health::new(settings.failures).with_ramp(!settings.ramp.is_zero());
        Self {
            name: name.into(),
            place,
            settings,
            health,
            missed,
            peers: ArcSwapOption::empty(),
            stats: Mutex::default(),
        }
    }

    /// Notes a failure; says whether the server has been ejected for it, which
    /// depends on how many others are.
    pub fn failed(&self, failure: Failure, now: Moment) -> bool {
        self.health.failed_if(failure, now, || {
            let peers = self.peers.load();
            peers.as_ref().is_none_or(|peers| peers.may_lose_one())
        })
    }

    /// Counters for one more user of the server.
    pub fn new_stats(&self) -> Arc<ServerStats> {
        let stats = Arc::new(ServerStats::default());
        let mut all = self.stats.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(Arc::clone(&stats));
        stats
    }

    /// The counters of all its users.
    pub fn stats(&self) -> Vec<Arc<ServerStats>> {
        self.stats
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// What one thread has seen of a server over one connection.
#[derive(Debug, Default)]
pub struct ServerStats {
    /// Requests handed to the server, those refused at once not counted.
    pub requests: Counter,
    /// Requests that failed, by [`Failure::index`].
    pub failures: [Counter; Failure::ALL.len()],
    /// Keys retrieved and found.
    pub hits: Counter,
    /// Keys retrieved and not found.
    pub misses: Counter,
    /// Replies that were errors of the server's own.
    pub error_replies: Counter,
    /// Replies that came after their request had timed out, and were dropped.
    pub late_replies: Counter,
    /// Requests sent once more.
    pub retries: Counter,
    /// Requests not sent once more because too many were.
    pub retries_refused: Counter,
    /// Requests that another server was asked instead.
    pub remapped: Counter,
    /// Connections made.
    pub connects: Counter,
    /// Attempts to connect that failed.
    pub connect_failures: Counter,
    /// Bytes sent.
    pub bytes_sent: Gauge,
    /// Bytes received.
    pub bytes_received: Counter,
    /// Requests waiting for their reply.
    pub in_flight: Gauge,
    /// Whether the connection is up: 0 or 1.
    pub connected: Gauge,
    /// Time from a request to its reply, in microseconds.
    pub latency: Histogram,
}

impl ServerStats {
    /// Counts a failed request.
    pub fn failed(&self, failure: Failure) {
        if let Some(counter) = self.failures.get(failure.index()) {
            counter.increment();
        }
    }
}
