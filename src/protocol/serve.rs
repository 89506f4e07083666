//! How the proxy asks a cache that lives in its own process.

use super::request::Request;

/// A cache reached by a function call instead of a socket.
///
/// Stands here, below both sides, because the proxy must not know the bundled
/// cache and the cache must not know the proxy.
pub trait Serve: Send + Sync {
    /// Carries out one request and appends its reply, as a server would send it,
    /// to `out`. Nothing is appended for a request whose client wants no answer.
    fn serve(&self, request: &Request<'_>, out: &mut Vec<u8>);
}
