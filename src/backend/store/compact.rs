//! Making room by closing the gaps between items.
//!
//! Neighbouring segments of a queue that hold enough garbage are copied together,
//! in their order, so that nothing is lost and nothing looks younger than it is.

use std::collections::VecDeque;
use std::ops::Range;

use super::hash::Hash;
use super::log::Queue;
use super::memory::{EXTENT_BYTES, LARGE_BYTES_MIN};
use super::shard::Shard;

/// Neighbouring segments that are copied together at most. Four that become
/// three copy three bytes for each byte gained; beyond that evicting is better.
const RUN_MAX: usize = 4;
/// The same where nothing may be evicted: then every byte counts.
const RUN_MAX_WITHOUT_EVICTION: usize = 16;

/// After nothing was found that is worth copying it is looked for anew when so many
/// bytes have become garbage: few, for they may be all that is missing somewhere, but
/// also so many for each segment that looking at all of them costs next to nothing.
const GARBAGE_MIN: usize = EXTENT_BYTES / 64;
const GARBAGE_MIN_PER_SEGMENT: usize = 16;

/// What may stay empty at the end of a segment because the next item did not fit:
/// the largest item there is.
const END_BYTES_MAX: usize = LARGE_BYTES_MIN + 512;

/// Segments that are being copied together.
#[derive(Debug)]
pub(super) struct Compaction {
    queue: Queue,
    /// Those to come, by number and sequence, the current one first.
    sources: VecDeque<(u16, u32)>,
    /// Bytes of the current source that are done.
    done: usize,
    /// Where they are copied to.
    pub(super) target: u16,
}

impl Shard {
    /// Begins to copy a run of segments together, if there is one that is worth
    /// it. Returns whether there is.
    pub(super) fn begin_compaction(&mut self, now: u32) -> bool {
        let least = GARBAGE_MIN.max(self.segments.count() * GARBAGE_MIN_PER_SEGMENT);
        if self.segments.garbage < least {
            return false;
        }
        let begun = self.begin_run(now);
        if !begun {
            self.segments.garbage = 0;
        }
        begun
    }

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
            target,
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
        let most = if self.settings.evicts {
            RUN_MAX
        } else {
            RUN_MAX_WITHOUT_EVICTION
        };
        (2..=most).find_map(|length| {
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
            } else if self.find_target(&mut work, number, size, now) {
                let to = self.segments.copy(from, work.target);
                self.index.relocate(at.position, to);
                self.counters.compacted += 1;
                // Sees that the target is not given back with its source.
                let target = work.target;
                self.compaction = Some(work);
                self.leave(from);
                debug_assert!(self.segments.about(target).items > 0);
                return;
            } else {
                // No memory to go on with: what has been moved has been moved.
                return self.end_compaction(work.target);
            }
        }
        self.compaction = Some(work);
    }

    /// Sees to it that the target has room for `size` bytes.
    fn find_target(&mut self, work: &mut Compaction, source: u16, size: usize, now: u32) -> bool {
        if self.segments.has_room(work.target, size) {
            return true;
        }
        let segments = &self.order(work.queue).segments;
        let place = segments.iter().position(|&number| number == work.target);
        let place = place.map_or(0, |place| place + 1);
        let full = work.target;
        match self.add_target(work.queue, place, Some(source), now) {
            Some(target) => {
                work.target = target;
                // It is protected no more, and may have lost its items meanwhile.
                if self.segments.about(full).items == 0 {
                    self.drop_if_done(full);
                }
                true
            }
            None => false,
        }
    }

    fn end_compaction(&mut self, target: u16) {
        debug_assert!(self.compaction.is_none());
        if self.segments.about(target).items == 0 {
            self.drop_if_done(target);
        }
    }
}
