//! Memory with one writer that lends parts of itself to readers.
//!
//! What is lent can be read without a lock, from any thread, until it is let go; the
//! writer goes on beside it. That no byte changes while it is lent is not a promise of
//! the writer but looked at here: bytes to write are asked for, and those that are lent
//! are refused. Memory that is still lent when the writer is done with it cannot be
//! taken apart; it has to be put by until the last reader is gone.
#![expect(
    unsafe_code,
    reason = "the borrow checker cannot see that what is written and what is lent lie apart"
)]

use std::cell::RefCell;
use std::ops::{Deref, Range};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use super::span::Span;

/// Parts of one piece of memory that may be lent at a time. Few, for whoever writes
/// looks at all of them.
const LENT_MAX: usize = 32;

/// Memory that is written by who holds this, and lent.
#[derive(Debug)]
pub struct Pages {
    start: NonNull<u8>,
    len: usize,
    /// Keeps the memory, and counts who has borrowed from it. Its bytes are reached by
    /// `start` and in no other way.
    span: Arc<Span>,
    /// What is lent, or was when that was last looked at.
    lent: RefCell<Vec<Range<usize>>>,
}

// SAFETY: `start` points to memory that `span` owns and that is not bound to a thread.
unsafe impl Send for Pages {}

impl Pages {
    /// Memory of which nothing is lent.
    pub fn new(span: Span) -> Self {
        Self {
            start: span.start(),
            len: span.len(),
            span: Arc::new(span),
            lent: RefCell::default(),
        }
    }

    /// All of it.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the memory lives as long as `span`, `len` bytes of it. Writing needs
        // `&mut self`, and what is lent is only read.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// `len` bytes from `at` on, to write; none if they are lent or not there.
    #[inline]
    pub fn bytes_mut(&mut self, at: usize, len: usize) -> &mut [u8] {
        let is_there = at.checked_add(len).is_some_and(|end| end <= self.len);
        if !is_there || self.is_lent(at, len) {
            return &mut [];
        }
        // SAFETY: the memory lives as long as `span`, and these bytes are within it. Who
        // has borrowed does not look at them: they are not lent. Whoever reads or writes
        // through `self` holds it, and that is the caller.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().add(at), len) }
    }

    /// Whether some of `len` bytes from `at` on are lent.
    #[inline]
    pub fn is_lent(&mut self, at: usize, len: usize) -> bool {
        !self.lent.get_mut().is_empty() && self.is_among_lent(at, len)
    }

    #[cold]
    fn is_among_lent(&mut self, at: usize, len: usize) -> bool {
        self.has_borrowers()
            && (self.lent.get_mut().iter()).any(|lent| lent.start < at + len && at < lent.end)
    }

    /// Whether anything is lent. Forgets what was if not.
    pub fn has_borrowers(&mut self) -> bool {
        // As `Arc::strong_count`, and whoever let go has read before we write.
        let none = Arc::get_mut(&mut self.span).is_some();
        if none {
            self.lent.get_mut().clear();
        }
        !none
    }

    /// Lends `len` bytes from `at` on, if so many are there and not too many parts are
    /// lent already.
    pub fn lend(&self, at: usize, len: usize) -> Option<Lent> {
        let part = self.bytes().get(at..at.checked_add(len)?)?;
        let range = at..at + len;
        let mut lent = self.lent.borrow_mut();
        if !lent.contains(&range) {
            if lent.len() == LENT_MAX && Arc::strong_count(&self.span) == 1 {
                // Whoever let go has read before we write.
                fence(Ordering::Acquire);
                lent.clear();
            }
            if lent.len() >= LENT_MAX {
                return None;
            }
            lent.push(range);
        }
        Some(Lent {
            start: NonNull::from(part).cast(),
            len,
            _span: Arc::clone(&self.span),
        })
    }

    /// The memory itself.
    ///
    /// # Errors
    ///
    /// Itself, if something of it is still lent.
    pub fn into_span(self) -> Result<Span, Self> {
        let Self {
            start,
            len,
            span,
            lent,
        } = self;
        Arc::try_unwrap(span).map_err(|span| Self {
            start,
            len,
            span,
            lent,
        })
    }
}

/// A part of memory that is lent, until this is dropped. It does not change.
#[derive(Debug)]
pub struct Lent {
    start: NonNull<u8>,
    len: usize,
    _span: Arc<Span>,
}

// SAFETY: it is read only, and the memory it points to is kept by `_span` and not bound to
// a thread.
unsafe impl Send for Lent {}
// SAFETY: as above; all that a reference gives is a reference to bytes that do not change.
unsafe impl Sync for Lent {}

/// Has the processor fetch bytes that are about to be read, without waiting for them.
#[inline]
pub fn fetch_ahead(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    for line in bytes.iter().step_by(64) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: it only hints at an address, whatever lies there.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(std::ptr::from_ref(line).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}

impl Deref for Lent {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: `len` bytes from `start` on are within the memory, which lives as long
        // as `_span`; nobody writes to them while they are lent.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages() -> Pages {
        Pages::new(memmap2::MmapMut::map_anon(8192).unwrap().into())
    }

    #[test]
    fn what_is_lent_cannot_be_written_and_what_lies_beside_it_can() {
        let mut pages = pages();
        pages.bytes_mut(100, 50).fill(7);
        let lent = pages.lend(100, 50).unwrap();
        for (at, len) in [(100, 50), (99, 2), (149, 1), (0, 8192), (120, 1)] {
            assert!(pages.bytes_mut(at, len).is_empty(), "{at} {len}");
        }
        pages.bytes_mut(0, 100).fill(1);
        pages.bytes_mut(150, 8042).fill(2);
        assert_eq!((&lent[..], lent.len()), (&[7; 50][..], 50));
        drop(lent);
        assert_eq!(pages.bytes_mut(100, 50), [7; 50]);
    }

    #[test]
    fn memory_outlives_its_writer_while_it_is_lent() {
        let mut pages = pages();
        pages.bytes_mut(0, 3).copy_from_slice(b"abc");
        let lent = pages.lend(0, 3).unwrap();
        let pages = pages.into_span().unwrap_err();
        let read = std::thread::spawn(move || lent.to_vec());
        assert_eq!(read.join().unwrap(), b"abc");
        assert_eq!(&pages.into_span().unwrap()[..3], b"abc");
    }

    #[test]
    fn no_more_is_lent_than_there_is_and_not_too_many_parts() {
        let mut pages = pages();
        assert!(pages.lend(8000, 193).is_none() && pages.lend(usize::MAX, 2).is_none());
        assert!(pages.bytes_mut(usize::MAX, 2).is_empty());
        let mut lent: Vec<_> = (0..LENT_MAX).map(|at| pages.lend(at, 1).unwrap()).collect();
        assert!(pages.lend(LENT_MAX, 1).is_none());
        // The same part again is not one more.
        lent.extend(pages.lend(3, 1));
        assert_eq!(lent.len(), LENT_MAX + 1);
        lent.clear();
        assert!(pages.lend(LENT_MAX, 1).is_some());
    }

    #[test]
    fn fetching_ahead_changes_nothing() {
        let mut pages = pages();
        pages.bytes_mut(0, 8192).fill(9);
        let lent = pages.lend(10, 5000).unwrap();
        fetch_ahead(&lent);
        assert!(lent.iter().all(|&byte| byte == 9));
    }
}
