//! Where replies go.

use std::sync::Arc;

use super::store::Large;
use crate::net::lend::Lent;
use crate::net::outbox::Writer;

/// Takes the bytes of replies.
pub trait Sink {
    /// What has been written and not shared, to append to.
    fn bytes(&mut self) -> &mut Vec<u8>;

    /// As [`Self::bytes`], with room for `more`.
    fn room(&mut self, more: usize) -> &mut Vec<u8>;

    /// Appends a large value, without copying it if possible.
    fn share(&mut self, value: &Arc<Large>);

    /// Whether it takes what is lent.
    fn borrows(&self) -> bool;

    /// Appends what is lent.
    fn lend(&mut self, bytes: Lent);

    /// Bytes there are.
    fn count(&self) -> usize;
}

impl Sink for Writer<'_> {
    #[inline]
    fn bytes(&mut self) -> &mut Vec<u8> {
        self.bytes()
    }

    #[inline]
    fn room(&mut self, more: usize) -> &mut Vec<u8> {
        self.room(more)
    }

    fn share(&mut self, value: &Arc<Large>) {
        self.share(Arc::<Large>::clone(value), value.len());
    }

    #[inline]
    fn borrows(&self) -> bool {
        self.borrows()
    }

    fn lend(&mut self, bytes: Lent) {
        self.lend(bytes);
    }

    #[inline]
    fn count(&self) -> usize {
        self.len()
    }
}

impl Sink for Vec<u8> {
    #[inline]
    fn bytes(&mut self) -> &mut Vec<u8> {
        self
    }

    #[inline]
    fn room(&mut self, more: usize) -> &mut Vec<u8> {
        self.reserve(more);
        self
    }

    fn share(&mut self, value: &Arc<Large>) {
        self.reserve(value.len());
        for part in value.parts() {
            self.extend_from_slice(part);
        }
    }

    /// It is not known when it will be read.
    #[inline]
    fn borrows(&self) -> bool {
        false
    }

    fn lend(&mut self, bytes: Lent) {
        self.extend_from_slice(&bytes);
    }

    #[inline]
    fn count(&self) -> usize {
        self.len()
    }
}
