//! Changes of keys, as all workers see them: how many there have been, and which
//! are under way at the same time.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::protocol::reply::fingerprint;

/// Counters of changes; keys share them.
const COUNTERS: usize = 1024;
/// Tables of what is under way, each behind a lock that is held for a lookup.
const TABLES: usize = 16;

/// What decides the order in which members get changes: those of one lane reach
/// every member in the same order, and those of two lanes may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lane {
    /// The number of the worker.
    pub worker: u32,
    /// That of the client, if clients do not share its connections.
    pub client: u64,
}

/// When the members are sent a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// All at once.
    AtOnce,
    /// One first, and the others when that has answered: what begins in between
    /// reaches those before it.
    InSteps,
}

/// Changes of one key that overlap in time.
#[derive(Debug)]
struct Overlap {
    count: u32,
    lane: Lane,
    /// How many of them are between their steps.
    between_steps: u32,
    /// Whether any may reach one member before and another after one of the others.
    crossed: bool,
}

/// The changes of the keys of a shard.
#[derive(Debug)]
pub struct Changes {
    counts: Box<[AtomicU32]>,
    /// By the key's fingerprint. Two keys with the same one are taken for one, which
    /// costs copies and is never wrong.
    under_way: Box<[Mutex<HashMap<u64, Overlap>>]>,
    workers: AtomicU32,
}

impl Default for Changes {
    fn default() -> Self {
        Self {
            counts: (0..COUNTERS).map(|_| AtomicU32::new(0)).collect(),
            under_way: (0..TABLES).map(|_| Mutex::default()).collect(),
            workers: AtomicU32::new(0),
        }
    }
}

/// The one of these that is the key's.
fn of_key<T>(all: &[T], fingerprint: u64) -> Option<&T> {
    let count = u64::try_from(all.len()).ok()?;
    // The low bit of a fingerprint is always set.
    let at = (fingerprint >> 1).checked_rem(count)?;
    all.get(usize::try_from(at).ok()?)
}

impl Changes {
    /// A number for one more worker that makes changes.
    pub fn join(&self) -> u32 {
        self.workers.fetch_add(1, Ordering::Relaxed)
    }

    /// How often keys of this counter have been changed: whoever copies an item can
    /// tell whether it was changed meanwhile. A change too many is harmless.
    pub fn of(&self, key: &[u8]) -> u32 {
        of_key(&self.counts, fingerprint(key)).map_or(0, |count| count.load(Ordering::Acquire))
    }

    /// Counts a change.
    pub fn count(&self, key: &[u8]) {
        if let Some(count) = of_key(&self.counts, fingerprint(key)) {
            count.fetch_add(1, Ordering::Release);
        }
    }

    /// Notes that a change begins, before any member is asked for it.
    pub fn begin(&self, key: &[u8], lane: Lane, sent: Sent) -> UnderWay<'_> {
        let fingerprint = fingerprint(key);
        let between_steps = sent == Sent::InSteps;
        self.with(fingerprint, |overlaps| {
            let overlap = overlaps.entry(fingerprint).or_insert(Overlap {
                count: 0,
                lane,
                between_steps: 0,
                crossed: false,
            });
            overlap.crossed |= lane != overlap.lane || overlap.between_steps > 0;
            overlap.count = overlap.count.saturating_add(1);
            overlap.between_steps = overlap.between_steps.saturating_add(between_steps.into());
        });
        UnderWay {
            changes: self,
            fingerprint,
            between_steps,
            ended: false,
        }
    }

    /// Notes that all members have been sent a change.
    fn take_last_step(&self, fingerprint: u64) {
        self.with(fingerprint, |overlaps| {
            if let Some(overlap) = overlaps.get_mut(&fingerprint) {
                overlap.between_steps = overlap.between_steps.saturating_sub(1);
            }
        });
    }

    /// Notes that a change has ended; says whether it, or one that overlaps with it,
    /// has crossed another.
    fn end(&self, fingerprint: u64) -> bool {
        let crossed = self.with(fingerprint, |overlaps| {
            let Entry::Occupied(mut entry) = overlaps.entry(fingerprint) else {
                return false;
            };
            let overlap = entry.get_mut();
            overlap.count = overlap.count.saturating_sub(1);
            let crossed = overlap.crossed;
            if overlap.count == 0 {
                entry.remove();
            }
            crossed
        });
        crossed.unwrap_or(false)
    }

    fn with<T>(
        &self,
        fingerprint: u64,
        look: impl FnOnce(&mut HashMap<u64, Overlap>) -> T,
    ) -> Option<T> {
        let table = of_key(&self.under_way, fingerprint)?;
        let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
        Some(look(&mut table))
    }
}

/// A change that is under way; it is not any more when this is dropped.
#[derive(Debug)]
pub struct UnderWay<'a> {
    changes: &'a Changes,
    fingerprint: u64,
    between_steps: bool,
    ended: bool,
}

impl UnderWay<'_> {
    /// Notes that all members have been sent it, if that is not done at once.
    pub fn take_last_step(&mut self) {
        if std::mem::take(&mut self.between_steps) {
            self.changes.take_last_step(self.fingerprint);
        }
    }

    /// Ends it, when every member that was asked has answered or failed. Says whether
    /// members may have got it and others in different orders.
    pub fn has_crossed(mut self) -> bool {
        self.take_last_step();
        self.ended = true;
        self.changes.end(self.fingerprint)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.take_last_step();
            let _ = self.changes.end(self.fingerprint);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_seen() {
        let changes = Changes::default();
        let before = changes.of(b"k");
        changes.count(b"k");
        assert_ne!(changes.of(b"k"), before);
    }

    fn lanes(changes: &Changes) -> [Lane; 2] {
        [(); 2].map(|()| Lane {
            worker: changes.join(),
            client: 0,
        })
    }

    fn is_idle(changes: &Changes) -> bool {
        let mut tables = changes.under_way.iter();
        tables.all(|table| table.lock().unwrap().is_empty())
    }

    #[test]
    fn changes_of_several_lanes_cross() {
        let changes = Changes::default();
        let [one, other] = lanes(&changes);
        let begin = |key: &[u8], lane| changes.begin(key, lane, Sent::AtOnce);
        // One after the other.
        assert!(!begin(b"k", one).has_crossed());
        assert!(!begin(b"k", other).has_crossed());
        // At the same time, of one lane; and of another key.
        let first = begin(b"k", one);
        let second = begin(b"k", one);
        let elsewhere = begin(b"other", other);
        assert!(!second.has_crossed());
        // Both ends of a crossing know of it, whichever ends first.
        let third = begin(b"k", other);
        assert!(first.has_crossed());
        // And whoever begins before all of it is over.
        let fourth = begin(b"k", other);
        assert!(third.has_crossed() && fourth.has_crossed());
        assert!(!elsewhere.has_crossed());
        assert!(is_idle(&changes));
    }

    #[test]
    fn what_begins_between_two_steps_crosses() {
        let changes = Changes::default();
        let [lane, _] = lanes(&changes);
        // What is on its way already stays in front.
        let before = changes.begin(b"k", lane, Sent::AtOnce);
        let mut stepping = changes.begin(b"k", lane, Sent::InSteps);
        stepping.take_last_step();
        let after = changes.begin(b"k", lane, Sent::AtOnce);
        for change in [before, stepping, after] {
            assert!(!change.has_crossed());
        }
        let stepping = changes.begin(b"k", lane, Sent::InSteps);
        let between = changes.begin(b"k", lane, Sent::AtOnce);
        assert!(between.has_crossed() && stepping.has_crossed());
        assert!(is_idle(&changes));
    }

    #[test]
    fn a_change_that_is_given_up_is_no_longer_under_way() {
        let changes = Changes::default();
        let [one, other] = lanes(&changes);
        drop(changes.begin(b"k", one, Sent::InSteps));
        assert!(is_idle(&changes));
        assert!(!changes.begin(b"k", other, Sent::AtOnce).has_crossed());
    }
}
