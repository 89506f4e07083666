//! Memory that a worker thread lends to whichever connection is busy.
//!
//! A connection that has nothing to say holds no buffer. What one gives back the
//! next one takes, so that a busy worker allocates nothing and ten thousand idle
//! clients cost little.

use std::cell::{Cell, RefCell};

/// Bytes read from a socket at once.
///
/// One such buffer serves all connections of a worker, so it may be large: with
/// many requests in flight the number of system calls falls as it grows. Beyond
/// 64 KiB nothing was gained and the second-level cache begins to suffer.
pub const SCRATCH_BYTES: usize = 64 * 1024;

/// Capacity of the write buffer of a connection that has begun to speak.
const SMALL_BYTES: usize = 16 * 1024;
/// Capacity of the write buffers of one that has much to say.
const LARGE_BYTES: usize = 64 * 1024;
/// A buffer that has grown beyond this is freed instead of kept.
const BUFFER_BYTES_MAX: usize = 256 * 1024;
/// Bytes of spare buffers that a worker keeps.
const SPARE_BYTES_MAX: usize = 4 * 1024 * 1024;

type Buffers = RefCell<Vec<Vec<u8>>>;

thread_local! {
    /// Kept apart, lest the few large ones end up with the many connections that
    /// say little, and those that say much make small ones grow by copying.
    static SMALL: Buffers = const { RefCell::new(Vec::new()) };
    static LARGE: Buffers = const { RefCell::new(Vec::new()) };
    static SPARE_BYTES: Cell<usize> = const { Cell::new(0) };
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer with room for a few thousand bytes.
#[inline]
pub fn take() -> Vec<u8> {
    lent(SMALL.with_borrow_mut(Vec::pop), SMALL_BYTES)
}

/// An empty buffer with room for tens of thousands of bytes.
pub fn take_large() -> Vec<u8> {
    lent(LARGE.with_borrow_mut(Vec::pop), LARGE_BYTES)
}

#[inline]
fn lent(spare: Option<Vec<u8>>, bytes: usize) -> Vec<u8> {
    match spare {
        Some(buffer) => {
            SPARE_BYTES.set(SPARE_BYTES.get().saturating_sub(buffer.capacity()));
            buffer
        }
        None => Vec::with_capacity(bytes),
    }
}

/// Gives a buffer back, whatever it holds.
#[inline]
pub fn give(mut buffer: Vec<u8>) {
    let capacity = buffer.capacity();
    let spare = SPARE_BYTES.get().saturating_add(capacity);
    if (SMALL_BYTES..=BUFFER_BYTES_MAX).contains(&capacity) && spare <= SPARE_BYTES_MAX {
        buffer.clear();
        SPARE_BYTES.set(spare);
        let class = if capacity < LARGE_BYTES {
            &SMALL
        } else {
            &LARGE
        };
        class.with_borrow_mut(|spares| spares.push(buffer));
    }
}

/// Frees all spare buffers: the worker has had nothing to do for a while.
pub fn release() {
    SPARE_BYTES.set(0);
    drop(SMALL.take());
    drop(LARGE.take());
}

/// Calls `read` with the worker's read buffer of [`SCRATCH_BYTES`].
///
/// What is in it does not outlive the call.
#[inline]
pub fn with_scratch<R>(read: impl FnOnce(&mut [u8]) -> R) -> R {
    SCRATCH.with_borrow_mut(|scratch| {
        if scratch.is_empty() {
            scratch.resize(SCRATCH_BYTES, 0);
        }
        read(scratch)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_given_back_is_lent_again_empty() {
        release();
        let mut buffer = take();
        buffer.extend_from_slice(b"abc");
        let address = buffer.as_ptr();
        give(buffer);
        let again = take();
        assert_eq!((again.as_ptr(), again.len()), (address, 0));
    }

    #[test]
    fn large_buffers_go_to_who_has_much_to_say() {
        release();
        give(take_large());
        assert_eq!(take().capacity(), SMALL_BYTES);
        give(Vec::with_capacity(SMALL_BYTES));
        assert_eq!(take_large().capacity(), LARGE_BYTES);
        assert_eq!(SPARE_BYTES.get(), SMALL_BYTES);
        release();
    }

    #[test]
    fn what_is_kept_is_bounded() {
        release();
        give(Vec::with_capacity(BUFFER_BYTES_MAX + 1));
        assert_eq!(SPARE_BYTES.get(), 0);
        for _ in 0..100 {
            give(Vec::with_capacity(BUFFER_BYTES_MAX));
        }
        assert!(SPARE_BYTES.get() <= SPARE_BYTES_MAX);
        release();
        assert_eq!(SPARE_BYTES.get(), 0);
    }
}
