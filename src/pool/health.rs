//! Whether a server can be trusted.
//!
//! One word for all worker threads: what one of them learns spares the others
//! the same lesson. While a server is ejected its requests fail at once, and
//! only a probe brings it back: clients are never the probe, and a late reply is
//! no proof.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

use super::failure::Failure;
use crate::clock::Moment;

/// What is thought of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is asked.
    Active,
    /// It is left alone.
    Ejected,
    /// It is left alone and a probe is under way.
    Probing,
}

impl State {
    /// The name in metrics, logs and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Ejected => "ejected",
            Self::Probing => "probing",
        }
    }
}

/// Since when and why a server is in its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The state.
    pub state: State,
    /// When it came into it.
    pub since: Moment,
    /// What it was ejected for; the last time, if it is active.
    pub cause: Option<Failure>,
    /// When it will be probed next, if it is ejected.
    pub next_probe: Option<Moment>,
    /// How often it has been ejected.
    pub ejections: u64,
}

/// The health of one server.
#[derive(Debug)]
pub struct Health {
    /// Failures in a row that eject.
    limit: u32,
    /// A copy of the state that costs a request one load.
    active: AtomicU8,
    failures: AtomicU32,
    standing: Mutex<Standing>,
    /// Tells the prober and the connections.
    changed: watch::Sender<State>,
}

impl Health {
    /// An active server, ejected after `limit` failures in a row.
    pub fn new(limit: u32) -> Self {
        Self {
            limit: limit.max(1),
            active: AtomicU8::new(1),
            failures: AtomicU32::new(0),
            standing: Mutex::new(Standing {
                state: State::Active,
                since: Moment::default(),
                cause: None,
                next_probe: None,
                ejections: 0,
            }),
            changed: watch::Sender::new(State::Active),
        }
    }

    /// Whether the server may be asked.
    #[inline]
    pub fn is_active(&self) -> bool {
        self.active.load(Ordering::Relaxed) != 0
    }

    /// State, since when, why.
    pub fn standing(&self) -> Standing {
        *self.lock()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the server has answered.
    #[inline]
    pub fn succeeded(&self) {
        // Written only when it matters: the line stays shared among the cores.
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    /// Notes a failure; says whether the server has been ejected for it.
    pub fn failed(&self, failure: Failure, now: Moment) -> bool {
        if !failure.is_the_servers() || !self.is_active() {
            return false;
        }
        let before = self.failures.fetch_add(1, Ordering::Relaxed);
        if !failure.is_conclusive() && before.saturating_add(1) < self.limit {
            return false;
        }
        let mut standing = self.lock();
        if standing.state != State::Active {
            return false;
        }
        standing.state = State::Ejected;
        standing.since = now;
        standing.cause = Some(failure);
        standing.ejections += 1;
        self.active.store(0, Ordering::Relaxed);
        drop(standing);
        self.changed.send_replace(State::Ejected);
        true
    }

    /// Notes when the next probe is due.
    pub fn probe_at(&self, at: Moment) {
        let mut standing = self.lock();
        if standing.state != State::Active {
            standing.state = State::Ejected;
            standing.next_probe = Some(at);
        }
    }

    /// Notes that a probe is under way.
    pub fn probing(&self) {
        let mut standing = self.lock();
        if standing.state == State::Ejected {
            standing.state = State::Probing;
            standing.next_probe = None;
        }
    }

    /// Brings the server back: a probe was answered.
    pub fn restore(&self, now: Moment) {
        let mut standing = self.lock();
        if standing.state == State::Active {
            return;
        }
        standing.state = State::Active;
        standing.since = now;
        standing.next_probe = None;
        self.failures.store(0, Ordering::Relaxed);
        self.active.store(1, Ordering::Relaxed);
        drop(standing);
        self.changed.send_replace(State::Active);
    }

    /// Waits until the server is ejected, or until it is not.
    pub async fn wait_until(&self, active: bool) {
        let mut changes = self.changed.subscribe();
        // The sender lives as long as `self`: the wait cannot fail.
        let _ = changes
            .wait_for(|state| (*state == State::Active) == active)
            .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Moment = Moment::from_micros(5);

    #[test]
    fn failures_in_a_row_eject() {
        let health = Health::new(3);
        assert!(!health.failed(Failure::TimedOut, NOW));
        assert!(!health.failed(Failure::Closed, NOW));
        health.succeeded();
        assert!(!health.failed(Failure::TimedOut, NOW));
        assert!(!health.failed(Failure::TimedOut, NOW));
        assert!(health.failed(Failure::TimedOut, NOW));
        assert!(!health.is_active());
        assert!(!health.failed(Failure::TimedOut, NOW), "ejected once");
        let standing = health.standing();
        assert_eq!(standing.state, State::Ejected);
        assert_eq!(standing.cause, Some(Failure::TimedOut));
        assert_eq!((standing.since, standing.ejections), (NOW, 1));
    }

    #[test]
    fn one_refused_connection_ejects() {
        let health = Health::new(3);
        assert!(health.failed(Failure::Refused, NOW));
        assert!(!health.is_active());
    }

    #[test]
    fn our_own_limits_are_not_the_servers_fault() {
        let health = Health::new(1);
        assert!(!health.failed(Failure::QueueFull, NOW));
        assert!(health.is_active());
    }

    #[test]
    fn only_a_probe_brings_a_server_back() {
        let health = Health::new(1);
        health.failed(Failure::Closed, NOW);
        health.succeeded();
        assert!(!health.is_active());
        health.probe_at(NOW);
        health.probing();
        assert_eq!(health.standing().state, State::Probing);
        health.restore(NOW);
        assert!(health.is_active());
        assert_eq!(health.standing().state, State::Active);
    }

    #[tokio::test]
    async fn a_change_is_seen_by_those_who_wait() {
        let health = Health::new(1);
        health.wait_until(true).await;
        let (_, ()) = tokio::join!(health.wait_until(false), async {
            tokio::task::yield_now().await;
            health.failed(Failure::Refused, NOW);
        });
    }
}
