//! What every server of bytes needs: listeners, worker threads, buffered
//! reading, gathered writing. Shared by the proxy and the bundled cache; knows
//! neither.

pub mod buffers;
pub mod held;
pub mod inbox;
pub mod lend;
pub mod listener;
pub mod memory;
pub mod outbox;
pub mod span;
pub mod stream;
pub mod turn;
pub mod worker;
