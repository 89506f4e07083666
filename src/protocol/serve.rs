//! How the proxy asks a cache that lives in its own process.

use std::any::Any;

use super::reply::Outcome;
use super::request::Request;

/// A cache reached by a function call instead of a socket.
///
/// Stands here, below both sides, because the proxy must not know the bundled
/// cache and the cache must not know the proxy. Who knows both finds out which it is, to
/// tell operators about it.
pub trait Serve: Any + Send + Sync {
    /// Carries out one request and appends its reply, as a server would send it,
    /// to `out`. Nothing is appended for a request whose client wants no answer.
    /// Returns what the reply says, for the counters; that of a retrieval of
    /// several keys counts as a hit if any was found.
    fn serve(&self, request: &Request<'_>, out: &mut Vec<u8>) -> Outcome;
}
