//! How long to wait before trying again.

use std::time::Duration;

/// Waits that grow by a factor up to a bound, each shaken a little so that many
/// proxies do not knock at the same moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    /// The first wait.
    pub first: Duration,
    /// The longest wait, before shaking.
    pub max: Duration,
    /// How much longer each wait is than the one before.
    pub factor: f64,
    /// The share of a wait by which it may be longer or shorter.
    pub jitter: f64,
}

impl Backoff {
    /// The wait before attempt number `attempt`, counted from 0. `random` is
    /// uniform from 0 to 1.
    pub fn wait(&self, attempt: u32, random: f64) -> Duration {
        let growth = self.factor.powf(f64::from(attempt.min(1000)));
        let plain = (self.first.as_secs_f64() * growth).min(self.max.as_secs_f64());
        let shaken = plain * (1.0 + self.jitter * (2.0 * random - 1.0));
        Duration::try_from_secs_f64(shaken).unwrap_or(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff {
        first: Duration::from_millis(100),
        max: Duration::from_secs(5),
        factor: 1.5,
        jitter: 0.1,
    };

    #[test]
    fn waits_grow_to_their_bound() {
        assert_eq!(BACKOFF.wait(0, 0.5), Duration::from_millis(100));
        assert_eq!(BACKOFF.wait(1, 0.5), Duration::from_millis(150));
        assert_eq!(BACKOFF.wait(50, 0.5), Duration::from_secs(5));
        assert_eq!(BACKOFF.wait(u32::MAX, 0.5), Duration::from_secs(5));
    }

    #[test]
    fn waits_are_shaken_by_a_tenth_at_most() {
        assert_eq!(BACKOFF.wait(0, 0.0), Duration::from_millis(90));
        assert_eq!(BACKOFF.wait(0, 1.0), Duration::from_millis(110));
    }
}
