//! Caches in this process, for pools with embedded servers.

use std::sync::Arc;

use ketch::backend::{self, Janitor, Store};
use ketch::config::Settings;
use ketch::protocol::Request;
use ketch::protocol::reply::Outcome;
use ketch::protocol::serve::Serve;

/// A cache in this process, with what keeps it tidy.
struct Embedded {
    store: Arc<Store>,
    _janitor: Janitor,
}

impl Serve for Embedded {
    fn serve(&self, request: &Request<'_>, out: &mut Vec<u8>) -> Outcome {
        self.store.serve(request, out)
    }
}

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
        let store = Arc::new(Store::new(backend::Settings {
            memory_bytes,
            item_bytes_max,
            threads,
            ..backend::Settings::default()
        }));
        let janitor = Janitor::start(Arc::clone(&store))?;
        Ok(Arc::new(Embedded {
            store,
            _janitor: janitor,
        }))
    }
}
