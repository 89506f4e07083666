//! Taking back what has expired, a little at a time.
//!
//! An item that has expired is never served; its memory comes back when somebody
//! asks for it, when its segment is cleared, or here. Each segment knows how many
//! of its items expire, the earliest and the latest of them: from that follows
//! about how many have, and it is walked when those are worth the walk.

use super::hash::Hash;
use super::log::Segment;
use super::shard::Shard;

/// A segment is walked when about one in so many of its items has expired, or
/// all of those that can.
const WORTHWHILE: u64 = 16;

/// Segments whose numbers are looked at for the work of one item.
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
    /// Since when what was dropped is remembered, in seconds.
    flushed: Option<u32>,
}

/// Whether enough of a segment's items have expired.
fn is_due(segment: &Segment, now: u32) -> bool {
    if segment.expiring == 0 || segment.earliest > now {
        return false;
    }
    if segment.latest <= now {
        return true;
    }
    // As if they expired one after the other at even steps; the earliest has.
    let span = u64::from(segment.latest - segment.earliest) + 1;
    let past = u64::from(now - segment.earliest) + 1;
    let expired = (u64::from(segment.expiring) * past / span).max(1);
    expired * WORTHWHILE >= u64::from(segment.items)
}

impl Shard {
    /// Looks for expired items, up to `work` of all items. Returns whether there
    /// may be more.
    pub fn sweep(&mut self, work: usize, now: u32) -> bool {
        self.flush_if_due(now);
        self.forget_in_time(now);
        let mut left = work;
        while left > 0 {
            let Some((number, sequence)) = self.sweep.current else {
                if !self.find_due(&mut left, now) {
                    return false;
                }
                continue;
            };
            left -= 1;
            if self.segments.about(number).sequence != sequence || !self.sweep_one(number, now) {
                self.sweep.current = None;
            }
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

    /// Finds a segment to walk. Returns whether there is one.
    fn find_due(&mut self, left: &mut usize, now: u32) -> bool {
        let numbers = self.segments.numbers();
        for looked in 0..numbers {
            if looked % GLANCES == GLANCES - 1 {
                *left = left.saturating_sub(1);
            }
            let number = (self.sweep.next + looked) % numbers;
            let segment = self.segments.about_mut(number);
            if is_due(segment, now) {
                // Found anew on the way, together with what changes meanwhile.
                (segment.earliest, segment.latest) = (u32::MAX, 0);
                let sequence = segment.sequence;
                let found = u16::try_from(number).ok();
                self.sweep.current = found.map(|number| (number, sequence));
                self.sweep.done = 0;
                self.sweep.next = number + 1;
                return true;
            }
        }
        false
    }

    /// Looks at one item of a segment. Returns whether it was there.
    fn sweep_one(&mut self, number: u16, now: u32) -> bool {
        let Some((location, item)) = self.segments.walk(number, self.sweep.done).next() else {
            return false;
        };
        let (is_gone, exptime) = (item.word().is_gone(), item.exptime());
        let is_expired = item.is_expired(now);
        self.sweep.done += item.size();
        self.counters.swept_over += 1;
        if is_gone || exptime == 0 {
            return true;
        }
        if is_expired {
            let tag = Hash::new(item.key(), self.settings.seed).tag();
            if let Some(at) = self.at(tag, location) {
                self.counters.swept += 1;
                self.expire(at);
            }
        } else {
            let segment = self.segments.about_mut(number);
            segment.earliest = segment.earliest.min(exptime);
            segment.latest = segment.latest.max(exptime);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(items: u32, expiring: u32, earliest: u32, latest: u32) -> Segment {
        Segment {
            items,
            expiring,
            earliest,
            latest,
            ..Segment::default()
        }
    }

    #[test]
    fn a_segment_is_walked_when_enough_has_expired() {
        assert!(!is_due(&segment(100, 0, 0, 0), 50));
        assert!(!is_due(&segment(100, 100, 51, 60), 50));
        assert!(is_due(&segment(100, 100, 50, 50), 50));
        assert!(!is_due(&segment(1000, 1000, 100, 1099), 120));
        assert!(is_due(&segment(1000, 1000, 100, 1099), 170));
    }

    #[test]
    fn a_few_that_expire_among_many_are_waited_for() {
        assert!(!is_due(&segment(1000, 5, 10, 20), 15));
        assert!(is_due(&segment(1000, 5, 10, 20), 20));
    }
}
