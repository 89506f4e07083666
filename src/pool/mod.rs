//! The servers of a pool: connections to them, what is in flight on each, and
//! whether they can be trusted, and what they have missed.
//!
//! Takes bytes and hands replies back. Knows neither why a server was chosen nor
//! who is asking.

pub mod backoff;
pub mod connection;
pub mod deadlines;
pub mod dial;
pub mod failure;
pub mod health;
pub mod missed;
pub mod peers;
pub mod probe;
mod retry;
pub mod server;
pub mod slow;

pub use connection::{Ask, Asker, Connection, Cure, Reply, Verdict};
pub use deadlines::Deadlines;
pub use dial::Dialect;
pub use failure::Failure;
pub use health::{Health, State};
pub use missed::{Missed, OnReturn};
pub use peers::Peers;
pub use server::{Server, ServerStats, Settings};
