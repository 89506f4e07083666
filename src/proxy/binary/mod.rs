//! Clients that speak the binary dialect.
//!
//! The same sessions, slots, placement, connections and counters as for text:
//! what is here is how such a request is put to a server, and how what comes
//! back is put to the client. Two ways lead to a server
//! ([`ServerProtocol`](super::settings::ServerProtocol)): frames over connections
//! of their own, or meta commands over those that text requests take.

pub mod admin;
pub mod ask;
pub mod batch;
mod behind;
pub mod owed;
pub mod run;
pub mod take;
pub mod way;

pub use batch::Batch;
pub use owed::Asked;
pub use way::Way;
