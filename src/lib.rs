//! ketch is a memcached proxy: a stateless router between application servers
//! and a fleet of memcached servers, with a memcached-compatible cache bundled.
//!
//! The modules below stand in reading order. `docs/architecture.md` has the
//! map, the invariants and the way of a request.

pub mod admin;
pub mod backend;
pub mod clock;
pub mod config;
pub mod log;
pub mod net;
pub mod pool;
pub mod protocol;
pub mod proxy;
pub mod router;
pub mod stats;
pub mod usage;
