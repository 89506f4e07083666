//! The sockets that clients connect to, as configurations come and go.

use std::sync::Arc;

use ketch::admin::state::Listening;
use ketch::config::Settings;
use ketch::net::listener::{self, Gate, Listener};
use ketch::net::worker::Workers;
use ketch::proxy::{Layout, Route};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::cli::CannotListen;

/// Sockets bound for a configuration that is not in force yet.
pub(super) type Bound = Vec<(usize, Listener)>;

/// The sockets that clients connect to.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    running: Vec<Running>,
}

/// A socket whose clients are accepted.
#[derive(Debug)]
struct Running {
    number: usize,
    address: String,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Listeners {
    /// Binds what `layout` has and is not bound yet. Nobody is accepted before
    /// [`Self::adopt`].
    ///
    /// # Errors
    ///
    /// The first address that cannot be had; none is bound then.
    pub(super) fn bind(&self, settings: &Settings, layout: &Layout) -> Result<Bound, CannotListen> {
        let mut bound = Vec::new();
        for (number, entry) in layout.entries.iter().enumerate() {
            let Some(entry) = entry.as_ref().filter(|_| !self.is_running(number)) else {
                continue;
            };
            let mut listen = settings.listen.iter();
            let listen = listen.find(|listen| listen.address == entry.address);
            let mode = listen.and_then(|listen| listen.mode);
            let listener = Listener::bind(&entry.address, mode).map_err(|source| CannotListen {
                address: entry.address.clone(),
                source,
            })?;
            bound.push((number, listener));
        }
        Ok(bound)
    }

    fn is_running(&self, number: usize) -> bool {
        self.running.iter().any(|known| known.number == number)
    }

    /// Accepts clients where `layout`, which is in force now, says so, and
    /// nowhere else: those of `bound`, and those that were there before.
    pub(super) async fn adopt(
        &mut self,
        bound: Bound,
        layout: &Layout,
        workers: &Arc<Workers<usize>>,
        gate: &Arc<Gate>,
    ) {
        let running = std::mem::take(&mut self.running);
        for known in running {
            if layout.entry(known.number).is_some() {
                self.running.push(known);
            } else {
                tracing::info!(address = %known.address, "no longer listening");
                known.end().await;
            }
        }
        for (number, listener) in bound {
            let address = listener.local().to_string();
            tracing::info!(pool = pool_of(layout, number), %address, "listening");
            let stop = CancellationToken::new();
            let task = tokio::spawn(listener::accept_all(
                listener,
                number,
                Arc::clone(workers),
                Arc::clone(gate),
                stop.clone(),
            ));
            self.running.push(Running {
                number,
                address,
                stop,
                task,
            });
        }
        self.running.sort_by_key(|known| known.number);
    }

    /// Accepts nobody any more, and closes the sockets.
    pub(super) async fn close(&mut self) {
        for known in self.running.drain(..) {
            known.end().await;
        }
    }

    /// Where clients are accepted, for operators.
    pub(super) fn shown(&self) -> Vec<Listening> {
        let show = |known: &Running| Listening {
            number: known.number,
            address: known.address.clone(),
        };
        self.running.iter().map(show).collect()
    }
}

impl Running {
    async fn end(self) {
        self.stop.cancel();
        // It ends at once, and with it the socket; a panic has been told.
        let _ = self.task.await;
    }
}

/// The name of the pool that a listener leads to.
fn pool_of(layout: &Layout, listener: usize) -> Option<&str> {
    let Route::Pool(place) = layout.entry(listener)?.route;
    layout.pools.get(place).map(|pool| &*pool.name)
}
