//! The binary dialect: frames with a header of 24 bytes.
//!
//! The rules are those of memcached 1.6.45 (`proto_bin.c`), which decides what is
//! refused, with which status, and whether the connection is kept. Two of its
//! mistakes are not repeated, because they lose the framing: it passes over too
//! many bytes after an unknown opcode with a key, and takes a value that an
//! opcode does not have for the next request.

pub mod header;
pub mod opcode;
pub mod reply;
pub mod request;
pub mod response;
pub mod status;
pub mod translate;

#[cfg(test)]
mod tests;

pub use header::{HEADER_BYTES, Header, MAGIC_REQUEST, MAGIC_RESPONSE};
pub use opcode::Opcode;
pub use request::{Cut, Extras, Refused, Request, announced, cut};
pub use response::Response;
pub use status::Status;
