//! Whether a server can be trusted.
//!
//! One word for all worker threads: what one of them learns spares the others
//! the same lesson. While a server is ejected its requests fail at once, and
//! only a probe brings it back: clients are never the probe, and a late reply is
//! no proof. A server that is back is trusted step by step.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::failure::Failure;
use crate::clock::Moment;

/// Connections lost in the middle of something within [`LOSSES_WITHIN`] for which
/// a server is ejected, whatever it answers in between: one that answers a
/// request and loses the next never fails often in a row.
const LOSSES_MAX: u32 = 10;
const LOSSES_WITHIN: std::time::Duration = std::time::Duration::from_secs(1);

/// How often any server of the process has been ejected or has come back.
static TURNS: AtomicU64 = AtomicU64::new(1);

/// A number that grows whenever which servers are asked for a key may change: one
/// has been ejected, one is back, or there is another configuration. Whoever sees
/// a number sees at least the state of servers that belongs to it.
pub fn turns() -> u64 {
    TURNS.load(Ordering::Acquire)
}

/// Notes such a change, after it has been made.
pub fn turn() {
    TURNS.fetch_add(1, Ordering::AcqRel);
}

/// What is thought of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is asked.
    Active,
    /// It is left alone.
    Ejected,
    /// It is left alone and a probe is under way.
    Probing,
    /// It is asked again, but not as much as before yet.
    Returning,
}

impl State {
    /// The name in metrics, logs and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Ejected => "ejected",
            Self::Probing => "probing",
            Self::Returning => "returning",
        }
    }

    /// Every state.
    pub const ALL: [Self; 4] = [Self::Active, Self::Ejected, Self::Probing, Self::Returning];

    const fn is_asked(self) -> bool {
        matches!(self, Self::Active | Self::Returning)
    }
}

/// How much a server may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// As much as its bounds allow.
    Full,
    /// Little at first, and more as it answers.
    Some,
    /// Nothing.
    None,
}

/// The states as one number, for those who only want to know how much to ask.
const NONE: u8 = 0;
const FULL: u8 = 1;
const SOME: u8 = 2;

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

/// Connections that were lost lately.
#[derive(Debug, Default)]
struct Losses {
    since: Moment,
    count: u32,
}

impl Losses {
    /// Notes one more; says whether they are too many.
    fn note(&mut self, now: Moment) -> bool {
        if now.since(self.since) >= LOSSES_WITHIN {
            (self.since, self.count) = (now, 0);
        }
        self.count = self.count.saturating_add(1);
        self.count >= LOSSES_MAX
    }
}

/// The health of one server.
#[derive(Debug)]
pub struct Health {
    /// Failures in a row that eject.
    limit: u32,
    /// Whether a server that is back is trusted step by step.
    ramps: bool,
    /// A copy of the state that costs a request one load.
    trust: AtomicU8,
    /// Ejections that did not take place because too many others had.
    withheld: AtomicU64,
    /// How often each state was entered, by [`State::ALL`].
    entered: [AtomicU64; State::ALL.len()],
    failures: AtomicU32,
    losses: Mutex<Losses>,
    standing: Mutex<Standing>,
    /// Tells the prober and the connections.
    changed: watch::Sender<State>,
}

impl Health {
    /// An active server, ejected after `limit` failures in a row.
    pub fn new(limit: u32) -> Self {
        Self {
            limit: limit.max(1),
            ramps: false,
            trust: AtomicU8::new(FULL),
            withheld: AtomicU64::new(0),
            entered: Default::default(),
            failures: AtomicU32::new(0),
            losses: Mutex::default(),
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

    /// The same, trusted step by step once it is back.
    #[must_use]
    pub fn with_ramp(mut self, ramps: bool) -> Self {
        self.ramps = ramps;
        self
    }

    /// Whether the server may be asked.
    #[inline]
    pub fn is_active(&self) -> bool {
        self.trust.load(Ordering::Relaxed) != NONE
    }

    /// How much the server may be asked.
    #[inline]
    pub fn trust(&self) -> Trust {
        match self.trust.load(Ordering::Relaxed) {
            FULL => Trust::Full,
            NONE => Trust::None,
            _ => Trust::Some,
        }
    }

    /// Ejections that did not take place because too many others had.
    pub fn withheld(&self) -> u64 {
        self.withheld.load(Ordering::Relaxed)
    }

    /// How often it has come into a state.
    pub fn entered(&self, state: State) -> u64 {
        let counts = self.entered.get(state as usize);
        counts.map_or(0, |count| count.load(Ordering::Relaxed))
    }

    fn enter(&self, standing: &mut Standing, state: State) {
        standing.state = state;
        if let Some(count) = self.entered.get(state as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// State, since when, why.
    pub fn standing(&self) -> Standing {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, Standing> {
        lock(&self.standing)
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
        self.failed_if(failure, now, || true)
    }

    /// As [`Self::failed`], where the server is ejected only if `may_eject`.
    pub fn failed_if(
        &self,
        failure: Failure,
        now: Moment,
        may_eject: impl FnOnce() -> bool,
    ) -> bool {
        if !failure.is_the_servers() || !self.is_active() {
            return false;
        }
        let before = self.failures.fetch_add(1, Ordering::Relaxed);
        let on_probation = self.trust() == Trust::Some;
        let loses = failure.is_a_loss() && lock(&self.losses).note(now);
        let is_enough = on_probation || loses || before.saturating_add(1) >= self.limit;
        if !failure.is_conclusive() && !is_enough {
            return false;
        }
        if !may_eject() {
            self.withheld.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        let mut standing = self.lock();
        if !standing.state.is_asked() {
            return false;
        }
        self.enter(&mut standing, State::Ejected);
        standing.since = now;
        standing.cause = Some(failure);
        standing.ejections += 1;
        self.trust.store(NONE, Ordering::Relaxed);
        turn();
        drop(standing);
        self.changed.send_replace(State::Ejected);
        true
    }

    /// Notes when the next probe is due.
    pub fn probe_at(&self, at: Moment) {
        let mut standing = self.lock();
        if !standing.state.is_asked() {
            standing.state = State::Ejected;
            standing.next_probe = Some(at);
        }
    }

    /// Notes that a probe is under way.
    pub fn probing(&self) {
        let mut standing = self.lock();
        if standing.state == State::Ejected {
            self.enter(&mut standing, State::Probing);
            standing.next_probe = None;
        }
    }

    /// Brings the server back: a probe was answered.
    pub fn restore(&self, now: Moment) {
        let mut standing = self.lock();
        if standing.state.is_asked() {
            return;
        }
        let (state, trust) = if self.ramps {
            (State::Returning, SOME)
        } else {
            (State::Active, FULL)
        };
        self.enter(&mut standing, state);
        standing.since = now;
        standing.next_probe = None;
        self.failures.store(0, Ordering::Relaxed);
        self.trust.store(trust, Ordering::Relaxed);
        turn();
        drop(standing);
        self.changed.send_replace(state);
    }

    /// Trusts a server that is back as any other. Says whether it was on its way.
    pub fn settle(&self, now: Moment) -> bool {
        let mut standing = self.lock();
        if standing.state != State::Returning {
            return false;
        }
        self.enter(&mut standing, State::Active);
        standing.since = now;
        self.trust.store(FULL, Ordering::Relaxed);
        true
    }

    /// Waits until the server is ejected, or until it is not.
    pub async fn wait_until(&self, active: bool) {
        let mut changes = self.changed.subscribe();
        // The sender lives as long as `self`: the wait cannot fail.
        let _ = changes.wait_for(|state| state.is_asked() == active).await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
    fn losing_connections_again_and_again_ejects() {
        let health = Health::new(3);
        let lose = |health: &Health, millis: u64| {
            health.succeeded();
            health.failed(Failure::Closed, Moment::from_micros(millis * 1000))
        };
        // One every two hundred milliseconds may be bad luck.
        assert!(!(0..100).any(|at| lose(&health, at * 200)));
        // One every ten is not.
        assert!((2_000..2_010).any(|at| lose(&health, at * 10)));
        // Time-outs in between answers are seen to by others.
        let health = Health::new(3);
        assert!(!(0..100).any(|_| {
            health.succeeded();
            health.failed(Failure::TimedOut, NOW)
        }));
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

    #[test]
    fn a_server_that_is_back_is_on_probation() {
        let health = Health::new(3).with_ramp(true);
        assert_eq!(health.trust(), Trust::Full);
        health.failed(Failure::Refused, NOW);
        assert_eq!(health.trust(), Trust::None);
        health.restore(NOW);
        assert_eq!(health.standing().state, State::Returning);
        assert!(health.is_active());
        assert_eq!(health.trust(), Trust::Some);
        // One failure is enough now.
        assert!(health.failed(Failure::TimedOut, NOW));
        health.restore(NOW);
        assert!(health.settle(NOW));
        assert!(!health.settle(NOW));
        assert_eq!(health.trust(), Trust::Full);
        assert!(!health.failed(Failure::TimedOut, NOW));
        let entered = State::ALL.map(|state| health.entered(state));
        assert_eq!(entered, [1, 2, 0, 2]);
    }

    #[test]
    fn an_ejection_that_may_not_be_is_withheld() {
        let health = Health::new(1);
        assert!(!health.failed_if(Failure::Refused, NOW, || false));
        assert!(health.is_active());
        assert_eq!(health.withheld(), 1);
        assert!(health.failed_if(Failure::Refused, NOW, || true));
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
