//! Taking back what has expired, a little at a time.
//!
//! An item that has expired is never served; its memory comes back when somebody
//! asks for it, when its segment is cleared, or here. Each segment knows about how
//! much of it has expired, and is walked when that is worth the walk.

use super::calendar::Calendar;
use super::hash::Hash;
use super::log::{Segment, Trace};
use super::shard::Shard;

/// A segment is walked when about one in so many of its bytes has expired, or all that
/// can.
const WORTHWHILE: usize = 16;

/// Seconds after which it is walked for whatever has expired, however little: what is told
/// of a segment may be far from true when items went before their time.
const OVERDUE_SECONDS: u32 = 900;

/// Segments that are looked at for the work of one item.
const GLANCES: usize = 8;

/// How long what was dropped is remembered, in seconds.
const FLUSHED_SECONDS: u32 = 10;

/// Where the janitor is.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    /// The segment being walked, by number and sequence.
    current: Option<(u16, u32)>,
    /// Bytes of it that are done.
    done: usize,
    /// The number to look at next when looking for a segment.
    next: usize,
    /// Segments looked at since one was found.
    looked: usize,
    /// The second in which none was found any more: times to live are whole seconds.
    ended: Option<u32>,
    /// Since when what was dropped is remembered, in seconds.
    flushed: Option<u32>,
}

impl Sweep {
    /// Forgets where it was: there are no segments any more.
    pub(super) fn forget(&mut self) {
        (self.current, self.next, self.looked) = (None, 0, 0);
    }
}

/// Whether enough of a segment has expired.
fn is_due(segment: &Segment, now: u32) -> bool {
    let expiring = &segment.expiring;
    let expired = expiring.expired(now) as usize;
    let is_overdue = expiring.has_begun(now) && expiring.age(now) >= OVERDUE_SECONDS;
    let is_worthwhile = expired * WORTHWHILE >= segment.weight() || expiring.is_over(now);
    expired > 0 && is_worthwhile || is_overdue
}

impl Shard {
    /// Looks for expired items, up to `work` of all items. Returns whether there
    /// may be more.
    pub fn sweep(&mut self, work: usize, now: u32) -> bool {
        self.flush_if_due(now);
        self.forget_in_time(now);
        (0..work).all(|_| self.sweep_step(now))
    }

    /// Looks at one expired item, or at a few segments for some. Returns whether there
    /// may be more.
    pub(super) fn sweep_step(&mut self, now: u32) -> bool {
        let Some((number, sequence)) = self.sweep.current else {
            return self.find_due(now);
        };
        if self.segments.about(number).sequence != sequence || !self.sweep_one(number, now) {
            self.sweep.current = None;
        }
        true
    }

    /// Remembers what was dropped for a while only: it takes memory.
    fn forget_in_time(&mut self, now: u32) {
        if !self.remembers_flushed() {
            self.sweep.flushed = None;
            return;
        }
        let since = *self.sweep.flushed.get_or_insert(now);
        if now.saturating_sub(since) >= FLUSHED_SECONDS {
            self.forget_flushed();
        }
    }

    /// Looks at a few segments for one to walk. Returns whether it is worth going on.
    fn find_due(&mut self, now: u32) -> bool {
        if self.sweep.ended == Some(now) {
            return false;
        }
        let numbers = self.segments.numbers();
        for _ in 0..GLANCES {
            if self.sweep.looked >= numbers {
                (self.sweep.looked, self.sweep.ended) = (0, Some(now));
                return false;
            }
            let number = self.sweep.next % numbers;
            self.sweep.next = number + 1;
            self.sweep.looked += 1;
            let segment = self.segments.about_mut(number);
            if is_due(segment, now) {
                // Counted anew on the way, from now on.
                segment.expiring = Calendar::new(now);
                segment.counted = 0;
                let sequence = segment.sequence;
                let found = u16::try_from(number).ok();
                self.sweep.current = found.map(|number| (number, sequence));
                (self.sweep.done, self.sweep.looked) = (0, 0);
                break;
            }
        }
        true
    }

    /// Looks at one item of a segment. Returns whether it was there.
    fn sweep_one(&mut self, number: u16, now: u32) -> bool {
        let Some((location, item)) = self.segments.walk(number, self.sweep.done).next() else {
            self.segments.about_mut(number).counted = usize::MAX;
            return false;
        };
        let (is_gone, trace) = (item.word().is_gone(), Trace::of(&item));
        self.sweep.done += trace.size;
        self.counters.swept_over += 1;
        if !is_gone && item.is_expired(now) {
            let tag = Hash::new(item.key(), self.settings.seed).tag();
            if let Some(at) = self.at(tag, location) {
                self.counters.swept += 1;
                self.expire(at);
            }
            return true;
        }
        let segment = self.segments.about_mut(number);
        segment.counted = self.sweep.done;
        if !is_gone {
            segment.expiring.add(trace.exptime, trace.weight());
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::store::{EXTENT_BYTES, LARGE_BYTES_MIN};

    /// A segment that is full of items of a hundredth of it, of which so many expire
    /// then.
    fn segment(expiring: &[(u32, u32)]) -> Segment {
        let weight = u32::try_from(EXTENT_BYTES / 100).unwrap();
        let mut segment = Segment {
            used: EXTENT_BYTES,
            live: EXTENT_BYTES,
            ..Segment::default()
        };
        for &(items, exptime) in expiring {
            segment.expiring.add(exptime, items * weight);
        }
        segment
    }

    #[test]
    fn a_segment_is_walked_when_enough_has_expired() {
        assert!(!is_due(&segment(&[]), 50));
        assert!(!is_due(&segment(&[(100, 51)]), 50));
        assert!(is_due(&segment(&[(100, 50)]), 50));
        let mixed = segment(&[(5, 50), (2, 100), (5, 10_000)]);
        assert!(!is_due(&mixed, 99) && is_due(&mixed, 127));
    }

    #[test]
    fn a_few_that_expire_among_many_are_waited_for() {
        let few = segment(&[(1, 10), (1, 20)]);
        assert!(!is_due(&few, 15));
        assert!(is_due(&few, 20));
    }

    #[test]
    fn what_went_before_its_time_is_not_waited_for() {
        let mut few = segment(&[(1, 10), (1, 1000)]);
        assert!(!is_due(&few, 15));
        few.expiring
            .remove(1000, u32::try_from(EXTENT_BYTES / 100).unwrap());
        assert!(is_due(&few, 16));
    }

    #[test]
    fn nothing_is_waited_for_without_end() {
        let few = segment(&[(1, 10), (1, 1_000_000)]);
        assert!(!is_due(&few, OVERDUE_SECONDS - 1) && is_due(&few, OVERDUE_SECONDS));
        let none = segment(&[(1, 1000), (1, 1_000_000)]);
        assert!(!is_due(&none, OVERDUE_SECONDS));
    }

    #[test]
    fn what_large_values_hold_counts() {
        let mut large = segment(&[(1, 10), (50, 1000)]);
        assert!(!is_due(&large, 15));
        large.larges = 1;
        large.expiring.add(10, LARGE_BYTES_MIN.try_into().unwrap());
        assert!(is_due(&large, 15));
    }
}
