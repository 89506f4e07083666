//! Making room by evicting.
//!
//! The log has two queues. New items go to that of the young. When memory is
//! short the oldest segment of a queue is cleared, item by item: a young item
//! that has been used moves to the main queue, others go and leave a ghost; in
//! the main queue an item that has been used moves to the end, up to three times
//! for as many uses, and others go. An item whose ghost is still there when it
//! comes back goes straight to the main queue. The young get a tenth of the
//! memory while there is something else, so that what is read only once passes
//! through without pushing out what is read often. All that a decision takes is
//! done when memory is needed; a read only counts itself in two bits.
//!
//! Source of the policy: Yang et al., "FIFO queues are all you need for cache
//! eviction", SOSP 2023; here with ghosts in unused slots of the index.

use std::sync::Arc;

use super::hash::{Hash, Tag};
use super::index::Index;
use super::item;
use super::log::{Location, Queue};
use super::memory::EXTENT_BYTES;
use super::shard::{At, Order, Shard};

/// The young may have this share of a shard's memory, as a divisor. Simulated
/// with Zipf-distributed requests a tenth is best, with and without scans.
const YOUNG_DIVISOR: usize = 10;

/// Bytes of a main segment that may be spared when it is cleared, so that
/// clearing it frees some memory even if all of its items have been used.
const SPARED_MAX: usize = EXTENT_BYTES / 8 * 7;

/// Most items looked at after a change while memory is short: what keeps up with large
/// items where small ones go, without being felt.
const PACE: usize = 32;

/// An extent for the main queue is there when this share of its last segment, as a
/// divisor, is left.
const MAIN_LEAD: usize = 8;

impl Shard {
    /// Which queue a new item goes to.
    pub(super) fn queue_for(&self, tag: Tag) -> Queue {
        let recent = self.index.ghost(tag).is_some_and(|ghost| {
            let age = Location::mark(self.generation.wrapping_sub(ghost.marked()));
            age.marked() as usize <= self.segments.count()
        });
        if recent { Queue::Main } else { Queue::Young }
    }

    /// Works towards an extent for the next segment, as fast as the one before is written:
    /// it is there when it is needed, items stay until their room is, and each change
    /// clears about as much as it has taken.
    #[inline]
    pub fn keep_room(&mut self, now: u32) {
        if self.spare.is_none() && !self.memory.has_extent() {
            self.keep_pace(now);
        }
    }

    fn keep_pace(&mut self, now: u32) {
        let queue = self.victim();
        let owed = self.owed(queue);
        if owed == 0 {
            return;
        }
        let before = self.order(queue).cleared;
        for _ in 0..PACE {
            if !self.make_room_step(now) || self.memory.has_extent() {
                self.spare = self.memory.extent();
                return;
            }
            if self.order(queue).cleared.wrapping_sub(before) >= owed {
                return;
            }
        }
    }

    /// How much more is left to clear of a queue's oldest segment than can be written
    /// before a segment is needed, in bytes.
    fn owed(&self, queue: Queue) -> usize {
        let left = |order: &Order| {
            let written = order.segments.back();
            written.map(|&number| EXTENT_BYTES - self.segments.about(number).used)
        };
        // The main queue is written now and then: towards its end a whole extent is kept.
        let main = left(&self.main).map_or(usize::MAX, |left| left.saturating_mul(MAIN_LEAD));
        let left = left(&self.young).unwrap_or(0).min(main);
        let order = self.order(queue);
        let Some(&oldest) = order.segments.front() else {
            return EXTENT_BYTES;
        };
        let uncleared = self
            .segments
            .about(oldest)
            .used
            .saturating_sub(order.cleared);
        uncleared.saturating_sub(left)
    }

    /// Works until `bytes` are free, at least one step and up to `work` items: what
    /// need not go stays. Returns whether there was anything to do.
    pub fn make_room_for(&mut self, bytes: usize, work: usize, now: u32) -> bool {
        for done in 0..work {
            if !self.make_room_step(now) {
                return done > 0;
            }
            if self.memory.has_free(bytes) {
                break;
            }
        }
        true
    }

    /// Works towards free memory, up to `work` items. Returns whether there was
    /// anything to do.
    #[cfg(test)]
    pub(super) fn make_room(&mut self, work: usize, now: u32) -> bool {
        (0..work).take_while(|_| self.make_room_step(now)).count() > 0
    }

    /// Looks at one item. Returns whether there was anything to do.
    fn make_room_step(&mut self, now: u32) -> bool {
        self.flush_if_due(now);
        self.forget_flushed();
        if self.dropped.give_one() {
            return true;
        }
        if self.memory.is_over() && self.give_spare() {
            return true;
        }
        if self.compaction.is_some() {
            self.compact_one(now);
            return true;
        }
        let queue = self.victim();
        let is_between = self.order(queue).cleared == 0;
        // What has expired goes before anything that lives.
        if is_between && (self.begin_compaction(now) || self.sweep_step(now)) {
            return true;
        }
        if !self.settings.evicts {
            return self.give_rest();
        }
        let other = match queue {
            Queue::Young => Queue::Main,
            Queue::Main => Queue::Young,
        };
        self.clear_one(queue, now) || self.clear_one(other, now) || self.give_rest()
    }

    /// Gives back the extent that was put by, if there is one.
    fn give_spare(&mut self) -> bool {
        let spare = self.spare.take();
        let given = spare.is_some();
        if let Some(extent) = spare {
            self.memory.give_extent(extent);
        }
        given
    }

    /// Gives back what is there for items to come: somebody needs it more. Returns
    /// whether there was anything.
    fn give_rest(&mut self) -> bool {
        if self.give_spare() {
            return true;
        }
        for queue in [Queue::Young, Queue::Main] {
            if let Some(&number) = self.order(queue).segments.back()
                && self.segments.about(number).items == 0
            {
                self.drop_written(queue);
                return true;
            }
        }
        let empty = self.items() == 0 && !self.index.is_unused();
        if empty {
            self.index = Index::new(Arc::clone(&self.memory), self.settings.evicts);
        }
        empty
    }

    /// The queue whose oldest segment goes. A value that is larger than the share of the
    /// young does not go as soon as it has come: what is alone there stays.
    fn victim(&self) -> Queue {
        let (young, main) = (self.queue_cost(Queue::Young), self.queue_cost(Queue::Main));
        let mut segments = self.young.segments.iter();
        let first = segments.next();
        let is_alone = segments.next().is_none()
            && first.is_none_or(|&number| self.segments.about(number).items <= 1);
        let is_too_much = young > (young + main) / YOUNG_DIVISOR && !is_alone;
        if is_too_much || self.main.segments.is_empty() {
            Queue::Young
        } else {
            Queue::Main
        }
    }

    /// Clears one item of a queue's oldest segment. Returns whether there was one.
    fn clear_one(&mut self, queue: Queue, now: u32) -> bool {
        let order = self.order(queue);
        let Some(&number) = order.segments.front() else {
            return false;
        };
        let is_written = order.segments.len() == 1;
        let Some((location, item)) = self.segments.walk(number, order.cleared).next() else {
            self.clear_end(queue, number, is_written);
            return true;
        };
        let (word, size) = (item.word(), item.size());
        let is_expired = item.is_expired(now);
        let tag = Hash::new(item.key(), self.settings.seed).tag();
        let mut onward = None;
        if !word.is_gone() && !is_expired && self.is_kept(tag) {
            onward = self.room_to_keep(tag, queue, size, is_written, now);
            if onward.is_none() {
                // Nothing would be gained: somebody holds its value.
                return false;
            }
        }
        self.order_mut(queue).cleared += size;
        if word.is_gone() {
            return true;
        }
        let Some(at) = self.at(tag, location) else {
            return true;
        };
        if is_expired {
            self.expire(at);
        } else if let Some(number) = onward {
            self.move_on(at, queue, number);
        } else if word.uses() == 0 || !self.spare(at, queue, is_written, now) {
            self.evict(at, queue, now);
        }
        if queue == Queue::Young && self.young.segments.front() != Some(&number) {
            self.generation = self.generation.wrapping_add(1);
        }
        true
    }

    /// Gives a segment back all of which has been cleared.
    fn clear_end(&mut self, queue: Queue, number: u16, is_written: bool) {
        debug_assert_eq!(self.segments.about(number).items, 0);
        if is_written {
            self.drop_written(queue);
        } else {
            self.drop_if_done(number);
        }
    }

    /// The slot of the item at a location.
    pub(super) fn at(&self, tag: Tag, location: Location) -> Option<At> {
        let found = self.index.find(tag, |other| other == location);
        debug_assert!(found.is_some());
        found.map(|(position, location)| At { position, location })
    }

    /// Moves an item that has been used to the end of the main queue. Returns
    /// whether it could be spared.
    fn spare(&mut self, at: At, queue: Queue, is_written: bool, now: u32) -> bool {
        let item = self.segments.item(at.location);
        let (word, size) = (item.word(), item.size());
        let uses = match queue {
            Queue::Young => 0,
            Queue::Main if is_written || self.main.spared + size > SPARED_MAX => return false,
            Queue::Main => word.uses() - 1,
        };
        let Some(number) = self.room_in_advance(Queue::Main, size, now) else {
            return false;
        };
        if queue == Queue::Main {
            self.main.spared += size;
            self.counters.spared += 1;
        } else {
            self.counters.promoted += 1;
        }
        let location = self.move_on(at, queue, number);
        item::set_word(self.segments.head_mut(location), word.with_uses(uses));
        true
    }

    /// A segment of the main queue for an item that is not to be evicted, if it has not
    /// been moved there too often.
    fn room_to_keep(
        &mut self,
        tag: Tag,
        queue: Queue,
        size: usize,
        is_written: bool,
        now: u32,
    ) -> Option<u16> {
        if !self.may_move(tag) {
            return None;
        }
        if queue == Queue::Main && is_written {
            // Not behind itself: its segment goes.
            return self.next_in_advance(Queue::Main, now);
        }
        self.room_in_advance(Queue::Main, size, now)
    }

    /// Moves an item to a segment of the main queue, which has room.
    fn move_on(&mut self, at: At, queue: Queue, number: u16) -> Location {
        let large = self.large_cost(&self.segments.item(at.location));
        self.order_mut(queue).large -= large;
        self.main.large += large;
        let location = self.segments.copy(at.location, number);
        self.index.relocate(at.position, location);
        self.leave(at.location);
        location
    }

    /// The segment of a queue that is being written, with room for `size` bytes,
    /// even if that takes more memory than there is: soon there will be more.
    pub(super) fn room_in_advance(&mut self, queue: Queue, size: usize, now: u32) -> Option<u16> {
        if let Ok(number) = self.room_within(queue, size, now) {
            return Some(number);
        }
        self.next_in_advance(queue, now)
    }

    /// A new segment for a queue, even if that takes more memory than there is.
    fn next_in_advance(&mut self, queue: Queue, now: u32) -> Option<u16> {
        if !self.segments.has_number() {
            return None;
        }
        let extent = self.memory.extent_in_advance()?;
        Some(self.begin_segment(extent, queue, now))
    }

    fn evict(&mut self, at: At, queue: Queue, now: u32) {
        let item = self.segments.item(at.location);
        let word = item.word();
        self.counters.evictions += 1;
        self.counters.evicted_nonzero += u64::from(item.exptime() != 0);
        self.counters.evicted_unfetched += u64::from(!word.state().fetched);
        self.counters.evicted_active += u64::from(word.uses() > 0);
        self.counters.evicted_seconds = u64::from(now.saturating_sub(item.accessed()));
        self.note_eviction(at, now);
        let ghost = (queue == Queue::Young).then(|| Location::mark(self.generation));
        self.take_out(at, ghost);
    }
}
