//! The only place that reads the time, and that waits for it.
//!
//! Everything else is handed a [`Moment`] or a Unix time, so that tests can pass
//! any they like.
//!
//! Sleepers are woken by a thread of their own ([`start_timers`]). A worker whose
//! own runtime kept a timer would tell the kernel with each wait for sockets when
//! to wake it, which costs a client that asks one thing at a time 3 % of all that
//! its requests cost.
#![expect(
    clippy::disallowed_methods,
    reason = "this is the place the lint points to"
)]

use std::io;
use std::sync::{LazyLock, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::runtime::{Builder, Handle};
use tokio::time::{Sleep, Timeout};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// A point in monotonic time: microseconds since the process first asked.
///
/// Eight bytes and plain arithmetic: one is kept for every request in flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

impl Moment {
    /// A moment so many microseconds after the first.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Microseconds since the first moment.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// Microseconds from `earlier` to this moment, 0 if it is not earlier.
    #[inline]
    pub const fn micros_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The time from `earlier` to this moment, zero if it is not earlier.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.micros_since(earlier))
    }

    /// The moment `duration` later.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(micros))
    }
}

/// The time now.
#[inline]
pub fn now() -> Moment {
    // Half a million years fit.
    Moment(u64::try_from(START.elapsed().as_micros()).unwrap_or(u64::MAX))
}

static TIMERS: OnceLock<Handle> = OnceLock::new();

/// Starts the thread that wakes all sleepers of the process, unless it runs.
/// Without it they are woken by the runtime that they run on.
///
/// # Errors
///
/// If the thread or its runtime cannot be made.
pub fn start_timers() -> io::Result<()> {
    static STARTING: Mutex<()> = Mutex::new(());
    let _alone = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    if TIMERS.get().is_some() {
        return Ok(());
    }
    let runtime = Builder::new_current_thread().enable_time().build()?;
    let handle = runtime.handle().clone();
    std::thread::Builder::new()
        .name("timers".to_owned())
        .spawn(move || runtime.block_on(std::future::pending::<()>()))?;
    TIMERS.get_or_init(|| handle);
    Ok(())
}

/// Makes something that waits, to be woken by the thread for that.
fn on_timers<T>(make: impl FnOnce() -> T) -> T {
    let _context = TIMERS.get().map(Handle::enter);
    make()
}

/// Waits for so long.
pub fn sleep(duration: Duration) -> Sleep {
    on_timers(|| tokio::time::sleep(duration))
}

/// Waits until `moment` has come.
pub fn sleep_until(moment: Moment) -> Sleep {
    let at = tokio::time::Instant::from_std(*START + Duration::from_micros(moment.0));
    on_timers(|| tokio::time::sleep_until(at))
}

/// Waits for `future`, but no longer than `duration`; then it is dropped.
pub fn timeout<F: Future>(duration: Duration, future: F) -> Timeout<F> {
    on_timers(|| tokio::time::timeout(duration, future))
}

/// Seconds since the Unix epoch.
pub fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Microseconds since the Unix epoch.
pub fn unix_micros() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
        })
}

/// Seconds since the Unix epoch, but counted from the first moment by the clock
/// that is never set: it does not jump, and does not run backwards.
pub fn steady_unix_seconds() -> u64 {
    first_unix_second().saturating_add(now().as_micros() / 1_000_000)
}

/// The second of the first moment, since the Unix epoch.
pub fn first_unix_second() -> u64 {
    static FIRST: LazyLock<u64> = LazyLock::new(|| {
        let passed = now().as_micros() / 1_000_000;
        unix_seconds().saturating_sub(passed)
    });
    *FIRST
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_order_and_subtract() {
        let early = Moment::from_micros(10);
        let late = early.after(Duration::from_millis(2));
        assert_eq!(late.micros_since(early), 2000);
        assert_eq!(early.micros_since(late), 0);
        assert!(late > early);
    }

    #[test]
    fn time_does_not_run_backwards() {
        let first = now();
        assert!(now() >= first);
    }

    #[test]
    fn a_runtime_without_timers_sleeps_and_gives_up() {
        start_timers().unwrap();
        start_timers().unwrap();
        let runtime = Builder::new_current_thread().build().unwrap();
        let begun = now();
        let waited = Duration::from_millis(5);
        runtime.block_on(sleep(waited));
        runtime.block_on(sleep_until(begun.after(2 * waited)));
        let never = timeout(waited, std::future::pending::<()>());
        assert!(runtime.block_on(never).is_err());
        assert!(now().since(begun) >= 3 * waited);
        let at_once = timeout(Duration::MAX, std::future::ready(7));
        assert_eq!(runtime.block_on(at_once).ok(), Some(7));
    }

    #[test]
    fn the_steady_time_is_about_the_time() {
        assert!(steady_unix_seconds().abs_diff(unix_seconds()) <= 2);
    }
}
