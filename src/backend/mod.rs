//! The bundled cache: a store that speaks memcached's dialects.
//!
//! The same store serves `ketch backend`, a server of its own, and the embedded
//! servers of the proxy, which reach it by a function call.

pub mod embedded;
pub mod execute;
pub mod janitor;
pub mod server;
pub mod sink;
pub mod store;
pub mod watch;

pub use embedded::Embedded;
pub use janitor::Janitor;
pub use store::{Settings, Store};
