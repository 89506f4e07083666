//! From a key to the server that holds it.
//!
//! Pure: bytes and settings in, an index out. Knows nothing of sockets, time
//! or the protocol.

mod hash;

pub use hash::Hash;
