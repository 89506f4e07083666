//! What the admin listener reports about, and whom it tells what to do.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::{mpsc, oneshot};

use super::reloads::Reloads;
use crate::proxy::Shared;

/// The configuration in force, as its file says it.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// The file.
    pub path: PathBuf,
    /// What it said when it was read.
    pub text: String,
    /// XXH3-64 of `text`.
    pub hash: u64,
    /// When that was, in seconds since the Unix epoch.
    pub read_at: u64,
    /// Which listeners there are, by address, in the order of their numbers.
    pub listeners: Vec<Listening>,
}

/// A listener, as operators name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listening {
    /// Its number in the layout.
    pub number: usize,
    /// Where it listens, with the port that the system chose.
    pub address: String,
}

/// What an operator may tell the proxy to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Read the configuration again.
    Reload,
    /// Take no more clients, finish, and end.
    Drain,
}

/// A [`Command`], and where its answer goes: what was done, or why not.
#[derive(Debug)]
pub struct Order {
    /// What to do.
    pub command: Command,
    /// Where to say what came of it.
    pub answer: oneshot::Sender<Result<String, String>>,
}

/// What the admin listener reports about.
#[derive(Debug)]
pub struct State {
    /// The workers' counters, the pools and their servers.
    pub shared: Arc<Shared>,
    /// The configuration in force.
    pub source: ArcSwap<Source>,
    /// What came of reading it again.
    pub reloads: Reloads,
    /// Counters of rare events, kept by the `metrics` facade.
    pub events: Option<PrometheusHandle>,
    orders: mpsc::Sender<Order>,
    ready: AtomicBool,
}

impl State {
    /// A proxy that is not ready yet; whoever holds the other end of `orders`
    /// carries them out.
    pub fn new(
        shared: Arc<Shared>,
        source: Source,
        events: Option<PrometheusHandle>,
        orders: mpsc::Sender<Order>,
    ) -> Self {
        Self {
            shared,
            source: ArcSwap::from_pointee(source),
            reloads: Reloads::default(),
            events,
            orders,
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

    /// Has `command` carried out; says what came of it.
    ///
    /// # Errors
    ///
    /// Why it was not carried out, for the operator.
    pub async fn order(&self, command: Command) -> Result<String, String> {
        let (answer, answered) = oneshot::channel();
        // Both fail only while the process ends.
        let ending = || "the proxy is ending".to_owned();
        let order = Order { command, answer };
        self.orders.send(order).await.map_err(|_| ending())?;
        answered.await.unwrap_or_else(|_| Err(ending()))
    }
}
