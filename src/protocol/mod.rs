//! Bytes to requests and replies, and back.
//!
//! Pure: no I/O, no clock, no locks. A peer may send anything, so nothing here
//! indexes unchecked or computes unchecked on numbers from the wire.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

pub mod binary;
pub mod effect;
pub mod error;
pub mod key;
pub mod limits;
pub mod meta;
pub mod number;
pub mod reply;
pub mod request;
pub mod serve;
pub mod text;

pub use error::Error;
pub use limits::Limits;
pub use request::{Cut, Request};
