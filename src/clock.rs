//! The only place that reads the time.
//!
//! Everything else is handed a [`Moment`] or a Unix time, so that tests can pass
//! any they like.
#![expect(
    clippy::disallowed_methods,
    reason = "this is the place the lint points to"
)]

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

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

/// The time now as the runtime's timers count it, for `sleep_until`.
pub fn timer_at(moment: Moment) -> tokio::time::Instant {
    tokio::time::Instant::from_std(*START + Duration::from_micros(moment.0))
}

/// Seconds since the Unix epoch.
pub fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Seconds since the Unix epoch, but counted from the first moment by the clock
/// that is never set: it does not jump, and does not run backwards.
pub fn steady_unix_seconds() -> u64 {
    static FIRST: LazyLock<u64> = LazyLock::new(|| {
        let passed = now().as_micros() / 1_000_000;
        unix_seconds().saturating_sub(passed)
    });
    (*FIRST).saturating_add(now().as_micros() / 1_000_000)
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
    fn the_steady_time_is_about_the_time() {
        assert!(steady_unix_seconds().abs_diff(unix_seconds()) <= 2);
    }
}
