//! Making room by closing the gaps between items.
//!
//! Where items are evicted, neighbouring segments of a queue that hold enough garbage
//! are copied together, in their order, so that nothing is lost and nothing looks
//! younger than it is. Where nothing is evicted order means nothing, but every byte
//! counts: the segment with most garbage is copied to where new items go, and what has
//! been freed is found again to the last item that fits.

use std::collections::VecDeque;
use std::ops::Range;

use super::hash::Hash;
use super::log::Queue;
use super::memory::{EXTENT_BYTES, LARGE_BYTES_MIN};
use super::shard::Shard;

/// Neighbouring segments that are copied together at most. Four that become
/// three copy three bytes for each byte gained; beyond that evicting is better.
const RUN_MAX: usize = 4;

/// Where nothing may be evicted a segment with so much garbage is copied: fifty bytes
/// for each byte gained, and no more of them free than one in fifty when a value is
/// refused.
const CLEANED_MIN: usize = EXTENT_BYTES / 50;

/// After nothing was found that is worth copying it is looked for anew when so many
/// bytes have become garbage: few, for they may be all that is missing somewhere, but
/// also so many for each segment that looking at all of them costs next to nothing.
const GARBAGE_MIN: usize = EXTENT_BYTES / 64;
const GARBAGE_MIN_PER_SEGMENT: usize = 16;

/// What may stay empty at the end of a segment because the next item did not fit:
/// the largest item there is.
const END_BYTES_MAX: usize = LARGE_BYTES_MIN + 512;

/// Segments that are being copied.
#[derive(Debug)]
pub(super) struct Compaction {
    queue: Queue,
    /// Those to come, by number and sequence, the current one first.
    sources: VecDeque<(u16, u32)>,
    /// Bytes of the current source that are done.
    done: usize,
    /// Where they are copied to, if that is not where new items go.
    pub(super) target: Option<u16>,
}

impl Shard {
    /// Begins to copy segments, if there are any that are worth it. Returns whether
    /// there are.
    pub(super) fn begin_compaction(&mut self, now: u32) -> bool {
        let least = GARBAGE_MIN.max(self.segments.count() * GARBAGE_MIN_PER_SEGMENT);
        if self.segments.garbage < least {
            return false;
        }
        let begun = if self.settings.evicts {
            self.begin_run(now)
        } else {
            self.begin_cleaning()
        };
        if !begun {
            self.segments.garbage = 0;
        }
        begun
    }

    /// Whether a segment is being copied to where new items go.
    #[inline]
    pub(super) fn is_cleaning(&self) -> bool {
        let work = self.compaction.as_ref();
        work.is_some_and(|work| work.target.is_none())
    }

    /// Begins to copy the segment with most garbage.
    fn begin_cleaning(&mut self) -> bool {
        let segments = &self.segments;
        let garbage = |number: u16| segments.about(number).used - segments.about(number).live;
        let most = [Queue::Main, Queue::Young]
            .into_iter()
            .flat_map(|queue| {
                let others = self.order(queue).segments.iter().rev().skip(1);
                others.map(move |&number| (garbage(number), number, queue))
            })
            .max_by_key(|most| most.0)
            .filter(|most| most.0 >= CLEANED_MIN);
        let Some((_, number, queue)) = most else {
            return false;
        };
        self.compaction = Some(Compaction {
            queue,
            sources: [(number, segments.about(number).sequence)].into(),
            done: 0,
            target: None,
        });
        true
    }

    /// Begins to copy a run of segments together.
    fn begin_run(&mut self, now: u32) -> bool {
        let run = [Queue::Main, Queue::Young]
            .into_iter()
            .find_map(|queue| Some((queue, self.find_run(queue)?)));
        let Some((queue, run)) = run else {
            return false;
        };
        let first = run.start;
        let sources: VecDeque<_> = self
            .order(queue)
            .segments
            .range(run)
            .map(|&number| (number, self.segments.about(number).sequence))
            .collect();
        let like = sources.front().map(|first| first.0);
        let Some(target) = self.add_target(queue, first, like, now) else {
            return false;
        };
        self.compaction = Some(Compaction {
            queue,
            sources,
            done: 0,
            target: Some(target),
        });
        true
    }

    /// The places of neighbouring segments of a queue that fit into one less. As
    /// few as possible, and of those the emptiest.
    fn find_run(&self, queue: Queue) -> Option<Range<usize>> {
        let order = self.order(queue);
        // Neither the one that is being cleared nor the one being written.
        let start = usize::from(order.cleared > 0);
        let end = order.segments.len().checked_sub(1)?;
        let live = |at: usize| self.segments.about(order.segments[at]).live;
        (2..=RUN_MAX).find_map(|length| {
            let last_start = end.checked_sub(length)?;
            if last_start < start {
                return None;
            }
            let mut sum: usize = (start..start + length).map(live).sum();
            let (mut best, mut best_at) = (sum, start);
            for at in start + 1..=last_start {
                sum = sum + live(at + length - 1) - live(at - 1);
                if sum < best {
                    (best, best_at) = (sum, at);
                }
            }
            let fits = best <= (length - 1) * (EXTENT_BYTES - END_BYTES_MAX);
            fits.then_some(best_at..best_at + length)
        })
    }

    /// Puts an empty segment at a place of a queue. It counts as old as `like`.
    fn add_target(
        &mut self,
        queue: Queue,
        place: usize,
        like: Option<u16>,
        now: u32,
    ) -> Option<u16> {
        if !self.segments.has_number() {
            return None;
        }
        let spare = self.spare.take();
        let extent = spare.or_else(|| self.memory.extent_in_advance())?;
        let born = like.map_or(0, |like| self.segments.about(like).born);
        let target = self.segments.add(extent, queue, now);
        self.segments.about_mut(target).born = born;
        self.order_mut(queue).segments.insert(place, target);
        Some(target)
    }

    /// Goes on with one item of the compaction.
    pub(super) fn compact_one(&mut self, now: u32) {
        let Some(mut work) = self.compaction.take() else {
            return;
        };
        let Some(&(number, sequence)) = work.sources.front() else {
            return self.end_compaction(work.target);
        };
        let next = if self.segments.about(number).sequence == sequence {
            self.segments.walk(number, work.done).next()
        } else {
            // Its last item went, and it with it.
            None
        };
        let Some((from, item)) = next else {
            work.sources.pop_front();
            work.done = 0;
            self.compaction = Some(work);
            return;
        };
        let (word, size, is_expired) = (item.word(), item.size(), item.is_expired(now));
        let tag = Hash::new(item.key(), self.settings.seed).tag();
        work.done += size;
        if !word.is_gone()
            && let Some(at) = self.at(tag, from)
        {
            if is_expired {
                self.expire(at);
            } else if let Some(target) = self.find_target(&mut work, number, size, now) {
                let to = self.segments.copy(from, target);
                self.index.relocate(at.position, to);
                self.counters.compacted += 1;
                // Sees that the target is not given back with its source.
                self.compaction = Some(work);
                self.leave(from);
                debug_assert!(self.segments.about(target).items > 0);
                return;
            } else {
                // No memory to go on with: what has been moved has been moved. And none to
                // begin again, until there is more to gain.
                self.segments.garbage = 0;
                return self.end_compaction(work.target);
            }
        }
        self.compaction = Some(work);
    }

    /// A segment to copy to, with room for `size` bytes.
    fn find_target(
        &mut self,
        work: &mut Compaction,
        source: u16,
        size: usize,
        now: u32,
    ) -> Option<u16> {
        let Some(full) = work.target else {
            return self.room_in_advance(work.queue, size, now);
        };
        if self.segments.has_room(full, size) {
            return Some(full);
        }
        let segments = &self.order(work.queue).segments;
        let place = segments.iter().position(|&number| number == full);
        let place = place.map_or(0, |place| place + 1);
        let target = self.add_target(work.queue, place, Some(source), now)?;
        work.target = Some(target);
        // It is protected no more, and may have lost its items meanwhile.
        if self.segments.about(full).items == 0 {
            self.drop_if_done(full);
        }
        Some(target)
    }

    fn end_compaction(&mut self, target: Option<u16>) {
        debug_assert!(self.compaction.is_none());
        if let Some(target) = target
            && self.segments.about(target).items == 0
        {
            self.drop_if_done(target);
        }
    }
}
