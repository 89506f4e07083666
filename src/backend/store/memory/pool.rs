//! Pages that nobody uses: those whose memory we have, and addresses without any.
//!
//! They come from the system as huge pages, where it has those. A key that is looked for
//! leads to three or four places in memory that nobody has been at for long, and with
//! pages of 4 KiB the processor looks for each of them in tables first, most of which have
//! left its caches, too. Measured on a virtual machine: a quarter of what a `get` costs, of
//! 32 bytes among a million keys and of 10 KiB among ten thousand.
//!
//! A huge page is resident as a whole from the first byte on, and counts as taken so. What
//! goes back goes by small pages, so that the bound on all memory is as exact as without
//! huge ones: a huge page of which a part has gone back consists of small ones from then
//! on. Where all of it has gone back it can be taken as a huge one again, and where all of
//! it is in use the system can be asked to make a huge one of it.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use memmap2::{Advice, MmapMut};

use super::runs::Runs;
use crate::net::memory::{HUGE_BYTES, give_back, make_huge, take_huge};
use crate::net::span::Span;

/// Addresses are mapped for so many bytes at a time. The system joins mappings that lie
/// side by side, and a process may have 65 530.
const AREA_BYTES: usize = 16 * HUGE_BYTES;

/// Huge pages are made of small ones when nothing has come or gone by small pages for so
/// many times that this was to be done, some seconds. Each takes milliseconds, in which
/// whoever writes to new memory waits, and where memory comes and goes it would soon be
/// taken apart again: one in a thousand requests waited 8 ms for that instead of 3.
const CALM_MIN: u32 = 20;

/// Places that are looked at for one of which a huge page can be made.
const LOOKS_MAX: usize = 64;

/// Pages that nobody uses.
#[derive(Debug, Default)]
pub(super) struct Pool {
    /// Those whose memory we have.
    spare: Mutex<Runs>,
    empty: Mutex<Empty>,
}

/// Addresses behind which there is no memory.
#[derive(Debug, Default)]
struct Empty {
    /// Never used, of a huge page each.
    fresh: Vec<Span>,
    /// Used before, or what is left of a fresh one.
    runs: Runs,
    /// Where there are small pages in the place of a huge one.
    small: BTreeSet<usize>,
    /// Those below have been looked at, to make huge pages of them.
    looked_at: usize,
    /// How often that was to be done since memory last came or went by small pages.
    calm: u32,
    /// Whether addresses have been forgotten that lay in one huge page with others: of those
    /// in use it is not known any more whether all around them is.
    is_torn: bool,
}

impl Pool {
    /// Spare pages of `bytes` in one piece, as [`Runs::take`].
    pub(super) fn take(&self, bytes: usize, room: usize, after: Option<usize>) -> Option<Span> {
        lock(&self.spare).take(bytes, room, after)
    }

    /// The longest run of spare pages, or `bytes` of it, if it has `least`.
    pub(super) fn take_longest(&self, least: usize, bytes: usize) -> Option<Span> {
        lock(&self.spare).take_longest(least, bytes)
    }

    /// Spares pages. Says how many bytes are spare then.
    pub(super) fn spare(&self, span: Span) -> usize {
        let mut spare = lock(&self.spare);
        spare.add(span);
        spare.bytes()
    }

    /// As many as `bytes` of spare pages, to give them back to the system: a huge page
    /// before others, or few long runs before many short ones.
    pub(super) fn take_to_release(&self, bytes: usize) -> Option<Span> {
        let mut spare = lock(&self.spare);
        let huge = (bytes >= HUGE_BYTES).then(|| spare.take_aligned(HUGE_BYTES));
        huge.flatten().or_else(|| spare.take_within(bytes))
    }

    /// Addresses of `bytes` in one piece, at most of a huge page, without memory; as
    /// [`Runs::take`] takes them.
    pub(super) fn map(&self, bytes: usize, room: usize, after: Option<usize>) -> io::Result<Span> {
        debug_assert!(bytes <= HUGE_BYTES);
        let mut empty = lock(&self.empty);
        let found = match empty.runs.take(bytes, room, after) {
            Some(found) => found,
            None => {
                // Behind what is left of the last one.
                let fresh = empty.fresh()?;
                empty.runs.add(fresh);
                let found = empty.runs.take(bytes, room, after);
                found.ok_or(io::ErrorKind::OutOfMemory)?
            }
        };
        empty.note_small(&found);
        Ok(found)
    }

    /// Takes a huge page, all of which is spare then. It does not if more than `ragged_max`
    /// bytes lie idle in pieces that are too short for one. Says whether it did.
    pub(super) fn take_huge(&self, ragged_max: usize) -> io::Result<bool> {
        let mut empty = lock(&self.empty);
        let (mut huge, is_fresh) = match empty.runs.take_aligned(HUGE_BYTES) {
            Some(huge) => (huge, false),
            None if empty.runs.bytes() > ragged_max => return Ok(false),
            None => (empty.fresh()?, true),
        };
        empty.small.remove(&huge.address());
        drop(empty);
        take_huge(&mut huge, is_fresh);
        lock(&self.spare).add(huge);
        Ok(true)
    }

    /// Gives the memory of pages back to the system.
    ///
    /// # Errors
    ///
    /// The pages, if the system does not take them, because they are locked.
    pub(super) fn empty(&self, mut span: Span) -> Result<(), Span> {
        // Not while a huge page is made of it.
        let mut empty = lock(&self.empty);
        if !give_back(&mut span) {
            return Err(span);
        }
        empty.note_small(&span);
        empty.runs.add(span);
        Ok(())
    }

    /// Has the system make one huge page of small ones. Says whether it did. Few places are
    /// looked at.
    pub(super) fn mend(&self) -> bool {
        let mut empty = lock(&self.empty);
        empty.calm = empty.calm.saturating_add(1);
        if empty.calm < CALM_MIN || empty.is_torn {
            return false;
        }
        for _ in 0..LOOKS_MAX {
            let from = empty.looked_at;
            let next = empty.small.range(from..).next().or(empty.small.first());
            let Some(&start) = next else {
                return false;
            };
            empty.looked_at = start + HUGE_BYTES;
            match empty.runs.overlap(start, HUGE_BYTES) {
                0 if make_huge(start) => {
                    empty.small.remove(&start);
                    return true;
                }
                0 => return false,
                // It can be taken as one.
                HUGE_BYTES => _ = empty.small.remove(&start),
                _ => {}
            }
        }
        false
    }

    /// Gives all addresses back to the system behind which there is no memory, as far as
    /// nothing else that has been mapped with them is in use.
    pub(super) fn forget_empty(&self) {
        let torn = Empty {
            is_torn: true,
            ..Empty::default()
        };
        drop(std::mem::replace(&mut *lock(&self.empty), torn));
    }
}

impl Empty {
    /// Notes that there is no huge page any more where these pages are.
    fn note_small(&mut self, span: &Span) {
        self.calm = 0;
        let end = span.address() + span.len();
        let first = span.address() / HUGE_BYTES * HUGE_BYTES;
        self.small.extend((first..end).step_by(HUGE_BYTES));
    }

    /// Addresses of a huge page that have never been used.
    fn fresh(&mut self) -> io::Result<Span> {
        if self.fresh.is_empty() {
            self.fresh = area()?;
        }
        self.fresh.pop().ok_or(io::ErrorKind::OutOfMemory.into())
    }
}

/// Maps addresses for some huge pages; the first of them is last.
fn area() -> io::Result<Vec<Span>> {
    let map = MmapMut::map_anon(AREA_BYTES + HUGE_BYTES)?;
    // The system would bring memory back that we have given back. Where it has no huge
    // pages it does not know the advice.
    if let Err(error) = map.advise(Advice::NoHugePage) {
        tracing::trace!(%error, "no huge pages to refuse");
    }
    let map = Span::from(map);
    let before = map.address().next_multiple_of(HUGE_BYTES) - map.address();
    let (_, mut rest) = map.split_at(before);
    let mut all = Vec::with_capacity(AREA_BYTES / HUGE_BYTES);
    while all.len() < AREA_BYTES / HUGE_BYTES {
        let (huge, more) = rest.split_at(HUGE_BYTES);
        all.push(huge);
        rest = more;
    }
    all.reverse();
    Ok(all)
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: usize = HUGE_BYTES / 8;

    fn take_all(pool: &Pool) -> Vec<Span> {
        std::iter::from_fn(|| pool.take(BYTES, BYTES, None)).collect()
    }

    #[test]
    fn a_huge_page_that_has_gone_back_whole_is_one_again() {
        let pool = Pool::default();
        assert!(pool.take_huge(0).unwrap());
        let mut all = take_all(&pool);
        let start = all[0].address();
        assert!(all.len() == 8 && start.is_multiple_of(HUGE_BYTES));
        assert!(all.is_sorted_by_key(Span::address));
        all.swap(1, 5);
        for mut span in all {
            span.fill(7);
            pool.empty(span).unwrap();
        }
        assert!(pool.take_huge(0).unwrap());
        let whole = pool.take(HUGE_BYTES, HUGE_BYTES, None).unwrap();
        assert_eq!(whole.address(), start);
        assert!(whole.iter().all(|&byte| byte == 0));
    }

    #[test]
    fn a_huge_page_is_made_of_small_ones_that_are_all_in_use() {
        let pool = Pool::default();
        let mend = || (0..CALM_MIN).any(|_| pool.mend());
        assert!(!mend());
        let mut all: Vec<_> = (0..8)
            .map(|_| pool.map(BYTES, BYTES, None).unwrap())
            .collect();
        for (span, number) in all.iter_mut().zip(1..) {
            span.fill(number);
        }
        let taken = all.pop().unwrap();
        pool.empty(taken).unwrap();
        assert!(!mend(), "a part of it has gone back");
        all.push(pool.map(BYTES, BYTES, None).unwrap());
        assert!(!pool.mend(), "it may go back soon");
        // Only some systems do so.
        let is_made = mend();
        for (span, number) in all.iter().zip((1..8).chain([0])) {
            assert!(span.iter().all(|&byte| byte == number));
        }
        assert!(!is_made || !mend(), "once is enough");
    }

    #[test]
    fn single_pages_come_from_what_is_in_parts_already() {
        let pool = Pool::default();
        let one = pool.map(BYTES, BYTES, None).unwrap();
        let huge = one.address() / HUGE_BYTES;
        let others: Vec<_> = (1..8)
            .map(|_| pool.map(BYTES, BYTES, None).unwrap())
            .collect();
        assert!(
            others
                .iter()
                .all(|other| other.address() / HUGE_BYTES == huge)
        );
        assert_ne!(
            pool.map(BYTES, BYTES, None).unwrap().address() / HUGE_BYTES,
            huge
        );
    }

    #[test]
    fn what_lies_idle_in_pieces_is_used_before_another_huge_page() {
        let pool = Pool::default();
        let one = pool.map(BYTES, BYTES, None).unwrap();
        assert!(!pool.take_huge(6 * BYTES).unwrap());
        assert!(pool.take_huge(7 * BYTES).unwrap());
        pool.empty(one).unwrap();
        assert!(pool.take_huge(0).unwrap(), "it is whole again");
    }

    #[test]
    fn no_more_is_released_than_is_asked_for() {
        let pool = Pool::default();
        let [one, other, third] = [(); 3].map(|()| pool.map(BYTES, BYTES, None).unwrap());
        let (gap, third) = third.split_at(BYTES / 4);
        assert_eq!(pool.spare(one), BYTES);
        pool.spare(other);
        assert_eq!(pool.spare(third), BYTES / 4 * 11);
        let release = |bytes| pool.take_to_release(bytes).map(|span| span.len());
        assert_eq!(release(BYTES), Some(BYTES / 4 * 3));
        assert_eq!(release(BYTES), Some(BYTES));
        assert_eq!(release(BYTES / 2), Some(BYTES / 2));
        assert_eq!(release(HUGE_BYTES), Some(BYTES / 2));
        assert_eq!(release(HUGE_BYTES), None);
        drop(gap);
    }

    #[test]
    fn a_huge_page_is_released_whole() {
        let pool = Pool::default();
        assert!(pool.take_huge(0).unwrap() && pool.take_huge(0).unwrap());
        drop(pool.take(BYTES, BYTES, None));
        let whole = pool.take_to_release(2 * HUGE_BYTES).unwrap();
        assert_eq!(whole.len(), HUGE_BYTES);
        assert!(whole.address().is_multiple_of(HUGE_BYTES));
    }
}
