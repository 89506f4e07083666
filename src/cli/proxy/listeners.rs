//! The sockets that clients connect to, as configurations come and go.

use std::sync::Arc;

use ketch::admin::state::Listening;
use ketch::config::Settings;
use ketch::net::listener::{self, Address, Gate, Listener, Options};
use ketch::net::worker::Workers;
use ketch::proxy::{Layout, Route};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::inherited::Inherited;
use crate::cli::CannotListen;

/// Sockets bound for a configuration that is not in force yet.
pub(super) type Bound = Vec<(usize, Listener)>;

/// The sockets that clients connect to.
#[derive(Debug)]
pub(super) struct Listeners {
    running: Vec<Running>,
    /// Sockets that wait for a listener of their address.
    inherited: Inherited,
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
    /// None yet; those that `inherited` has need not be bound.
    pub(super) fn new(inherited: Inherited) -> Self {
        Self {
            running: Vec::new(),
            inherited,
        }
    }

    /// Warns of inherited sockets that no listener has taken.
    pub(super) fn warn_of_unused(&self) {
        self.inherited.warn();
    }

    /// Binds what `layout` has and is not bound yet. Nobody is accepted before
    /// [`Self::adopt`].
    ///
    /// # Errors
    ///
    /// The first address that cannot be had; none is bound then.
    pub(super) fn bind(
        &mut self,
        settings: &Settings,
        layout: &Layout,
    ) -> Result<Bound, CannotListen> {
        let mut bound = Vec::new();
        for (number, entry) in layout.entries.iter().enumerate() {
            let Some(entry) = entry.as_ref().filter(|_| !self.is_running(number)) else {
                continue;
            };
            let address = &entry.address;
            let mut listeners = self.inherited.take(address);
            if listeners.is_empty() {
                match Listener::bind(address, options(settings, address)) {
                    Ok(all) => listeners = all,
                    Err(source) => {
                        self.inherited.take_back(bound);
                        let address = address.clone();
                        return Err(CannotListen { address, source });
                    }
                }
            }
            bound.extend(listeners.into_iter().map(|listener| (number, listener)));
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

/// How to listen at an address of a configuration.
fn options(settings: &Settings, address: &Address) -> Options {
    let mut listeners = settings.listen.iter();
    let listen = listeners.find(|listen| listen.address == *address);
    listen.map_or_else(Options::default, |listen| Options {
        mode: listen.mode,
        reuse_port: listen.reuse_port,
        ..Options::default()
    })
}

/// The name of the pool that a listener leads to.
fn pool_of(layout: &Layout, listener: usize) -> Option<&str> {
    let Route::Pool(place) = layout.entry(listener)?.route;
    layout.pools.get(place).map(|pool| &*pool.name)
}
