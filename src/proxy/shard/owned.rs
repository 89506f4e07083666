//! A request that outlives the bytes it was cut from.

use bytes::{Bytes, BytesMut};

use crate::protocol::request::{Cut, Request, Wire};
use crate::protocol::{Limits, text};

/// A request as a server is sent it, kept for as long as members are asked.
#[derive(Clone, Debug)]
pub struct Owned {
    bytes: Bytes,
}

impl Owned {
    /// Copies what goes over the wire.
    pub fn new(wire: Wire<'_>) -> Self {
        let mut bytes = BytesMut::with_capacity(wire.len());
        for piece in wire.line {
            bytes.extend_from_slice(piece);
        }
        bytes.extend_from_slice(wire.block);
        Self {
            bytes: bytes.freeze(),
        }
    }

    /// A request of the proxy's own.
    pub fn from_text(text: impl Into<Bytes>) -> Self {
        Self { bytes: text.into() }
    }

    /// Shows the request, and the owner of its bytes; `None` if it is none, which
    /// what was cut before and what the proxy writes itself cannot be.
    pub fn with<T>(&self, look: impl FnOnce(&Request<'_>, &Bytes) -> T) -> Option<T> {
        let limits = Limits {
            value_bytes_max: usize::MAX,
            line_bytes_max: usize::MAX,
            ..Limits::default()
        };
        match text::cut(&self.bytes, 0, &limits) {
            Cut::Request { request, .. } => Some(look(&request, &self.bytes)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_kept_whole() {
        let wire = Wire {
            line: [b"set k 0 0 3", b"\r\n", b""],
            block: b"abc\r\n",
        };
        let seen = Owned::new(wire).with(|request, _| match request {
            Request::Store(store) => (store.key.to_vec(), store.value.to_vec()),
            other => panic!("{other:?}"),
        });
        assert_eq!(seen, Some((b"k".to_vec(), b"abc".to_vec())));
    }
}
