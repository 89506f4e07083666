//! What the admin listener reports about.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use metrics_exporter_prometheus::PrometheusHandle;

use crate::proxy::Shared;

/// The configuration in force, as its file says it.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// The file.
    pub path: PathBuf,
    /// What it said when it was read.
    pub text: String,
    /// When that was, in seconds since the Unix epoch.
    pub read_at: u64,
    /// Which listeners there are, in the order of their numbers.
    pub listeners: Vec<String>,
}

/// What the admin listener reports about.
#[derive(Debug)]
pub struct State {
    /// The workers' counters, the pools and their servers.
    pub shared: Arc<Shared>,
    /// The configuration in force.
    pub source: ArcSwap<Source>,
    /// Counters of rare events, kept by the `metrics` facade.
    pub events: Option<PrometheusHandle>,
    ready: AtomicBool,
}

impl State {
    /// A proxy that is not ready yet.
    pub fn new(shared: Arc<Shared>, source: Source, events: Option<PrometheusHandle>) -> Self {
        Self {
            shared,
            source: ArcSwap::from_pointee(source),
            events,
            ready: AtomicBool::new(false),
        }
    }

    /// Whether new clients are welcome.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// Says whether new clients are welcome.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Relaxed);
    }
}
