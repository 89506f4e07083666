//! Where replies go.

use bytes::Bytes;

use crate::net::outbox::Writer;

/// Takes the bytes of replies.
pub trait Sink {
    /// What has been written and not shared, to append to.
    fn bytes(&mut self) -> &mut Vec<u8>;

    /// Appends a large part of a value, without copying it if possible.
    fn share(&mut self, part: &Bytes);

    /// Bytes there are.
    fn count(&self) -> usize;
}

impl Sink for Writer<'_> {
    #[inline]
    fn bytes(&mut self) -> &mut Vec<u8> {
        self.bytes()
    }

    fn share(&mut self, part: &Bytes) {
        self.share(part.clone());
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

    fn share(&mut self, part: &Bytes) {
        self.extend_from_slice(part);
    }

    #[inline]
    fn count(&self) -> usize {
        self.len()
    }
}
