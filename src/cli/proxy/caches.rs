//! Caches in this process, for pools with embedded servers.

use std::sync::Arc;

use ketch::backend::{self, Embedded};
use ketch::config::Settings;
use ketch::protocol::serve::Serve;

type Made = Result<Arc<dyn Serve>, Box<dyn std::error::Error + Send + Sync>>;

/// Makes caches for `threads` threads that hold items as large as clients may
/// send.
pub(super) fn maker(settings: &Settings, threads: usize) -> impl Fn(usize) -> Made + use<> {
    let item_bytes_max = settings
        .listen
        .iter()
        .map(|listen| listen.limits(&settings.clients).value_bytes_max)
        .max()
        .unwrap_or(settings.clients.limits.value_bytes_max);
    move |memory_bytes| {
        let cache = Embedded::start(backend::Settings {
            memory_bytes,
            item_bytes_max,
            threads,
            ..backend::Settings::default()
        })?;
        Ok(Arc::new(cache))
    }
}
