//! A cache that lives in the proxy's process.

use std::io;
use std::sync::Arc;

use super::execute;
use super::janitor::Janitor;
use super::store::{Settings, Store};
use crate::protocol::reply::Outcome;
use crate::protocol::request::Request;
use crate::protocol::serve::Serve;

/// A store with what keeps it tidy, asked by a function call.
#[derive(Debug)]
pub struct Embedded {
    store: Arc<Store>,
    _janitor: Janitor,
}

impl Embedded {
    /// An empty cache.
    ///
    /// # Errors
    ///
    /// If the system has no thread for it.
    pub fn start(settings: Settings) -> io::Result<Self> {
        let store = Arc::new(Store::new(settings));
        let janitor = Janitor::start(Arc::clone(&store))?;
        Ok(Self {
            store,
            _janitor: janitor,
        })
    }

    /// What it keeps.
    pub fn store(&self) -> &Store {
        &self.store
    }
}

impl Serve for Embedded {
    fn serve(&self, request: &Request<'_>, out: &mut Vec<u8>) -> Outcome {
        let now = self.store.now();
        execute::execute(&self.store, request, now, out)
    }
}
