//! The client side of the proxy: sessions, and who gets which request.
//!
//! The only place that knows both the router and the pools, and the only one
//! that turns a failure into `SERVER_ERROR`.

pub mod binary;
pub mod dispatch;
pub mod drain;
pub mod layout;
pub mod local;
pub mod merge;
mod relief;
mod remap;
pub mod session;
pub mod settings;
pub mod shard;
pub mod slots;
pub mod stats;
pub mod worker;

pub use drain::Drain;
pub use layout::{Entry, Layout, Member, Pool, Route};
pub use settings::{ClientProtocol, MissOnError, OnEject, ServerProtocol, Settings};
pub use worker::{Shared, Worker};
