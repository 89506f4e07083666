//! How much memory peers make a worker thread hold.
//!
//! Bytes that come and go within a turn cost nothing here: counted is what stays
//! because a peer does not take it, has not sent the rest of it, or waits for
//! what must precede it.

use std::cell::Cell;
use std::rc::Rc;

use tokio::sync::Notify;

thread_local! {
    static TOTAL: Cell<usize> = const { Cell::new(0) };
    static MAX: Cell<usize> = const { Cell::new(usize::MAX) };
    static SHORT: Cell<bool> = const { Cell::new(false) };
    static FULL: Rc<Notify> = Rc::default();
}

/// Bytes that this thread holds.
#[inline]
pub fn total() -> usize {
    TOTAL.get()
}

/// Most bytes that this thread may hold.
pub fn max() -> usize {
    MAX.get()
}

/// Bounds what this thread may hold, in bytes.
pub fn set_max(max: usize) {
    MAX.set(max);
    tell_if_full();
}

/// Whether this thread holds more than it may.
pub fn is_full() -> bool {
    TOTAL.get() > MAX.get()
}

/// Whether nothing more is to be taken on, because what is held cannot be let go.
#[inline]
pub fn is_short() -> bool {
    SHORT.get()
}

/// Says whether something more may be taken on.
pub fn set_short(short: bool) {
    SHORT.set(short);
}

/// Waits until this thread holds more than it may, or has since the last wait.
pub async fn full() {
    let full = FULL.with(Rc::clone);
    full.notified().await;
}

fn tell_if_full() {
    if is_full() {
        FULL.with(|full| full.notify_one());
    }
}

/// What one of its buffers adds to it. Never leaves its thread.
#[derive(Debug, Default)]
pub struct Held {
    bytes: Cell<usize>,
    /// The sum is the thread's own.
    _not_send: std::marker::PhantomData<Rc<()>>,
}

impl Held {
    /// Bytes counted for it.
    #[inline]
    pub fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// Counts so many bytes for it from now on.
    #[inline]
    pub fn set(&self, bytes: usize) {
        if bytes != self.bytes.get() {
            self.change(bytes);
        }
    }

    fn change(&self, bytes: usize) {
        let before = self.bytes.replace(bytes);
        TOTAL.set(TOTAL.get().saturating_sub(before).saturating_add(bytes));
        tell_if_full();
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // The thread may be ending, and its sum be gone.
        let bytes = self.bytes.get();
        let _ = TOTAL.try_with(|total| total.set(total.get().saturating_sub(bytes)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_sum_is_that_of_all_there_are() {
        let before = total();
        let (one, other) = (Held::default(), Held::default());
        one.set(100);
        other.set(50);
        one.set(10);
        assert_eq!((total() - before, one.bytes()), (60, 10));
        drop(other);
        assert_eq!(total() - before, 10);
        set_max(total());
        assert!(!is_full());
        one.set(11);
        assert!(is_full());
        full().await;
        set_max(usize::MAX);
    }
}
