//! The bundled cache as a server of its own.
//!
//! Worker threads share the store and nothing else; each serves its clients on
//! the same net as the proxy does. A request is carried out as soon as it is cut
//! out of what has been read, and its reply is built in the client's outbox.

mod ahead;
mod command;
mod detail;
mod frames;
mod incoming;
mod lines;
mod login;
mod session;
mod settings;
mod shared;
mod stats;
mod talk;
mod users;
mod watch;
mod worker;

pub use settings::{Dialect, Settings, Told};
pub use shared::{Listening, Shared, Stop};
pub use users::Users;
pub use worker::{Worker, WorkerStats};
