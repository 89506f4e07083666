//! What watchers are told of the cache, while there are any.
//!
//! Threads that work on the cache note what they do in a `page` of their
//! own; once for each batch of requests it is put on the thread's shelf (`desk`), from
//! which one thread that only lives while somebody watches takes it, makes lines of it
//! and hands them to the watchers (`hub`, `turn`).
//!
//! While nobody watches a batch of requests costs one relaxed load, and each look for
//! a key one look at a byte of the thread's own. While somebody does, what does not
//! fit on a shelf or into the buffer of a watcher that does not read is left out and
//! counted; no client waits for it.
//!
//! The lines are those of memcached 1.6.45; source: its `doc/protocol.txt`,
//! "Watchers", and what it writes.

mod desk;
mod event;
mod hub;
mod line;
mod output;
mod page;
mod turn;

pub use desk::{Desk, Working};
pub use event::{Event, Fetched, How, Kinds, Reason, Removed, Status};
pub use hub::{Counts, Hub, Refused, Seat, Settings, WATCHERS_MAX};
pub use page::{Mark, mark, note, note_with, release, retract, wants};
