//! When the items of a segment expire, as nearly as a few numbers can say it.
//!
//! A segment holds items that live for seconds beside others that live for weeks. So
//! the time ahead is cut into spans, each twice as long as the one before, and of each
//! is known how much expires in it. Within a span it is taken to happen at even steps.
//! That can be wrong by half of what a span is long; then a walk finds little, counts
//! everything anew from that moment on, and what is left lies in shorter spans.

/// Spans of time: the first is over when counting begins, the next is one second, and
/// what is further away than 48 days falls into the last.
const SPANS: usize = 24;

/// What expires when in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Calendar {
    /// Nothing expires before this second.
    earliest: u32,
    /// Nothing expires after this second.
    latest: u32,
    /// The second from which spans count.
    since: u32,
    /// What expires in each span.
    spans: [u32; SPANS],
}

/// The span that a second lies in, so many seconds after counting began.
#[inline]
fn span_of(seconds: u32) -> usize {
    let bits = u32::BITS - seconds.leading_zeros();
    (bits as usize).min(SPANS - 1)
}

impl Calendar {
    /// One that counts from that second on.
    pub(super) fn new(since: u32) -> Self {
        Self {
            earliest: u32::MAX,
            latest: 0,
            since,
            spans: [0; SPANS],
        }
    }

    #[inline]
    fn span_mut(&mut self, exptime: u32) -> &mut u32 {
        &mut self.spans[span_of(exptime.saturating_sub(self.since))]
    }

    /// Notes that something of that weight expires then; 0 is never.
    #[inline]
    pub(super) fn add(&mut self, exptime: u32, weight: u32) {
        if exptime == 0 {
            return;
        }
        self.earliest = self.earliest.min(exptime);
        self.latest = self.latest.max(exptime);
        *self.span_mut(exptime) += weight;
    }

    /// Forgets something that was noted.
    #[inline]
    pub(super) fn remove(&mut self, exptime: u32, weight: u32) {
        if exptime == 0 {
            return;
        }
        let span = self.span_mut(exptime);
        debug_assert!(*span >= weight);
        *span = span.saturating_sub(weight);
    }

    /// All that will expire.
    pub(super) fn sum(&self) -> u32 {
        self.spans.iter().sum()
    }

    /// Whether something may have expired.
    pub(super) fn has_begun(&self, now: u32) -> bool {
        self.earliest <= now
    }

    /// Seconds since counting began.
    pub(super) fn age(&self, now: u32) -> u32 {
        now.saturating_sub(self.since)
    }

    /// Whether nothing will expire any more.
    pub(super) fn is_over(&self, now: u32) -> bool {
        // What was to be the last may be gone.
        self.latest <= now || self.expired(now) == self.sum()
    }

    /// About how much has expired.
    #[inline]
    pub(super) fn expired(&self, now: u32) -> u32 {
        if !self.has_begun(now) {
            return 0;
        }
        if self.latest <= now {
            return self.sum();
        }
        let at = span_of(now.saturating_sub(self.since));
        let over: u32 = self.spans[..at].iter().sum();
        over + self.expired_in(at, now)
    }

    /// About how much has expired of a span that is not over.
    fn expired_in(&self, at: usize, now: u32) -> u32 {
        let end = if at == SPANS - 1 {
            u32::MAX
        } else {
            self.since.saturating_add((1 << at) - 1)
        };
        let begin = self.since.saturating_add((1 << at) / 2);
        let (first, last) = (begin.max(self.earliest), end.min(self.latest));
        if now < first || last < first {
            return 0;
        }
        let whole = u64::from(last - first) + 1;
        let past = (u64::from(now - first) + 1).min(whole);
        let expired = u64::from(self.spans[at]) * past / whole;
        u32::try_from(expired).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_expires_together_is_known_to_the_second() {
        let mut calendar = Calendar::new(1000);
        (0..10).for_each(|_| calendar.add(1300, 50));
        assert_eq!(calendar.expired(1299), 0);
        assert_eq!(calendar.expired(1300), 500);
    }

    #[test]
    fn one_that_lives_long_does_not_hide_those_that_do_not() {
        let mut calendar = Calendar::new(1000);
        (0..10).for_each(|_| calendar.add(1005, 50));
        calendar.add(1000 + 20 * 86_400, 50);
        assert_eq!(calendar.expired(1003), 0);
        assert_eq!(calendar.expired(1005), 500 / 3, "of three seconds one");
        assert_eq!(calendar.expired(1006), 500 / 3 * 2 + 1);
        assert_eq!(calendar.expired(1007), 500);
        assert_eq!(calendar.expired(1008), 500);
        assert_eq!(calendar.expired(1000 + 20 * 86_400), 550);
    }

    #[test]
    fn what_never_expires_is_not_counted() {
        let mut calendar = Calendar::new(1000);
        calendar.add(0, 50);
        assert_eq!(calendar.expired(u32::MAX), 0);
        assert_eq!(calendar, Calendar::new(1000));
    }

    #[test]
    fn what_is_dead_from_the_start_has_expired() {
        let mut calendar = Calendar::new(1000);
        calendar.add(1, 50);
        calendar.add(2000, 7);
        assert_eq!(calendar.expired(1000), 50);
    }

    proptest! {
        /// What has been over for as long as counting goes on is known exactly.
        #[test]
        fn the_rest_of_a_span_is_all_that_is_guessed(
            times in proptest::collection::vec((1u32..u32::MAX, 1u32..1000), 1..100),
            since: u32,
            now: u32,
        ) {
            let mut calendar = Calendar::new(since);
            times.iter().for_each(|&(exptime, weight)| calendar.add(exptime, weight));
            let sum = |to: u32| -> u32 {
                times.iter().filter(|time| time.0 <= to).map(|time| time.1).sum()
            };
            let elapsed = now.saturating_sub(since);
            let span = span_of(elapsed);
            let over = match span {
                0 => 0,
                _ => sum(since.saturating_add((1 << span >> 1) - 1)),
            };
            let begun = match span {
                _ if span == SPANS - 1 => u32::MAX,
                _ => since.saturating_add((1 << span) - 1),
            };
            let guess = calendar.expired(now);
            prop_assert!(now < since || (over..=sum(begun)).contains(&guess));
            for &(exptime, weight) in &times {
                calendar.remove(exptime, weight);
            }
            prop_assert_eq!(calendar.spans, [0; SPANS]);
        }
    }
}
