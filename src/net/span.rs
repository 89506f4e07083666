//! Memory of one mapping, in parts that have an owner each.
#![expect(
    unsafe_code,
    reason = "the borrow checker cannot see that the parts of a mapping lie apart"
)]

use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

use memmap2::MmapMut;

/// A mapping, or a part of one. The mapping goes when all of its parts have gone.
#[derive(Debug)]
pub struct Span {
    start: NonNull<u8>,
    len: usize,
    /// Keeps the memory. Its bytes are reached by `start` and in no other way.
    map: Arc<MmapMut>,
}

// SAFETY: it owns the bytes that `start` points to, as a box would; they are not bound to
// a thread.
unsafe impl Send for Span {}
// SAFETY: as above; all that a reference gives is a reference to the bytes.
unsafe impl Sync for Span {}

impl From<MmapMut> for Span {
    fn from(mut map: MmapMut) -> Self {
        Self {
            start: NonNull::from(&mut map[..]).cast(),
            len: map.len(),
            map: Arc::new(map),
        }
    }
}

impl Span {
    /// Where it begins. Parts of one mapping have the order of their bytes.
    #[inline]
    pub fn address(&self) -> usize {
        self.start.addr().get()
    }

    /// Its first byte, for who keeps the span while it is in use.
    #[inline]
    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// The first `at` bytes, or all if there are not so many, and the rest.
    pub fn split_at(self, at: usize) -> (Self, Self) {
        let at = at.min(self.len);
        let rest = Self {
            // SAFETY: no further than the end of the bytes that `self` owns.
            start: unsafe { self.start.add(at) },
            len: self.len - at,
            map: Arc::clone(&self.map),
        };
        (Self { len: at, ..self }, rest)
    }

    /// Makes one span of two.
    ///
    /// # Errors
    ///
    /// Both, if the second does not follow the first in the same mapping.
    pub fn join(self, next: Self) -> Result<Self, (Self, Self)> {
        let follows = self.address() + self.len == next.address();
        if !follows || !Arc::ptr_eq(&self.map, &next.map) {
            return Err((self, next));
        }
        Ok(Self {
            len: self.len + next.len,
            ..self
        })
    }
}

impl Deref for Span {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: `len` bytes from `start` on belong to this span alone, for spans are
        // made of whole mappings or by taking others apart; `map` keeps them.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Span {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and this borrow of the span is the only one.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(len: usize) -> Span {
        MmapMut::map_anon(len).unwrap().into()
    }

    #[test]
    fn parts_are_written_each_by_its_owner() {
        let (mut first, mut rest) = span(8192).split_at(100);
        let writer = std::thread::spawn(move || {
            rest.fill(2);
            rest
        });
        first.fill(1);
        let rest = writer.join().unwrap();
        assert_eq!((first.len(), rest.len()), (100, 8092));
        let whole = first.join(rest).unwrap();
        assert!(whole[..100].iter().all(|&byte| byte == 1));
        assert!(whole[100..].iter().all(|&byte| byte == 2));
    }

    #[test]
    fn a_part_outlives_the_others() {
        let (first, mut rest) = span(4096).split_at(4000);
        drop(first);
        rest[95] = 7;
        let (rest, none) = rest.split_at(1000);
        assert_eq!((rest[95], rest.len(), none.len()), (7, 96, 0));
    }

    #[test]
    fn only_neighbours_are_joined_and_in_their_order() {
        let (first, rest) = span(4096).split_at(1000);
        let (second, third) = rest.split_at(1000);
        let (first, third) = first.join(third).unwrap_err();
        let (second, first) = second.join(first).unwrap_err();
        let (first, other) = first.join(span(4096)).unwrap_err();
        assert_eq!(other.len(), 4096);
        let whole = first.join(second).unwrap().join(third).unwrap();
        assert_eq!(whole.len(), 4096);
    }
}
