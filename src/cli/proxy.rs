//! `ketch proxy`: running it.

use std::num::NonZero;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use ketch::admin::{self, State, state::Source};
use ketch::backend::{self, Janitor, Store};
use ketch::clock;
use ketch::config::{Config, Settings};
use ketch::net::listener::{self, Address, Gate, Listener};
use ketch::net::worker::Workers;
use ketch::pool::probe;
use ketch::protocol::Request;
use ketch::protocol::reply::Outcome;
use ketch::protocol::serve::Serve;
use ketch::proxy::{Layout, Route, Shared, Worker};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{CannotListen, descriptors, log};

/// Most threads that `auto` starts: as many as may be configured.
const WORKERS_MAX: usize = 256;

/// Worker threads of a configuration on this host.
pub(super) fn workers(settings: &Settings) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, NonZero::get);
    let auto = || cores().min(WORKERS_MAX);
    settings.workers.unwrap_or_else(auto)
}

/// Runs the proxy until it is told to end.
///
/// # Errors
///
/// If it cannot start.
pub(crate) fn run(config: Config) -> anyhow::Result<()> {
    log::start(&config.settings)?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let settings = config.settings.clone();
    let source = Source {
        path: PathBuf::from(&config.file),
        text: config.text.clone(),
        read_at: clock::unix_seconds(),
        listeners: Vec::new(),
    };
    let layout = config.build(None, &cache_maker(&settings))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    let workers = runtime.block_on(serve(&settings, source, layout))?;
    // What accepted clients has ended, and with it the other owners.
    if let Some(workers) = Arc::into_inner(workers) {
        workers.stop();
    }
    Ok(())
}

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

/// Makes caches in this process that hold items as large as clients may send.
fn cache_maker(settings: &Settings) -> impl Fn(usize) -> MadeCache + use<> {
    let item_bytes_max = settings
        .listen
        .iter()
        .map(|listen| listen.limits(&settings.clients).value_bytes_max)
        .max()
        .unwrap_or(settings.clients.limits.value_bytes_max);
    let threads = workers(settings);
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

type MadeCache = Result<Arc<dyn Serve>, Box<dyn std::error::Error + Send + Sync>>;

/// Serves clients and operators until the process is told to end. Returns the
/// workers, with whatever they still have to do.
async fn serve(
    settings: &Settings,
    mut source: Source,
    layout: Layout,
) -> anyhow::Result<Arc<Workers<usize>>> {
    let listeners = bind(settings)?;
    let admin = bind_admin(settings.admin.as_ref()).await?;
    let mut told_to_end = ToldToEnd::new().context("cannot wait for signals")?;
    for (number, listener) in listeners.iter().enumerate() {
        let address = listener.local();
        tracing::info!(pool = pool_of(&layout, number), %address, "listening");
        source.listeners.push(address.to_string());
    }
    let count = workers(settings);
    let gate = Arc::new(Gate::new(descriptors::make_room(settings, count)));
    let servers = layout.servers();
    let shared = Shared::new(layout, Arc::clone(&gate));
    let of_workers = Arc::clone(&shared);
    let make = move |_| Worker::new(Arc::clone(&of_workers));
    let workers = Workers::start(count, "worker", make).context("cannot start workers")?;
    let workers = Arc::new(workers);

    let stop = CancellationToken::new();
    let mut accepting = JoinSet::new();
    for (number, listener) in listeners.into_iter().enumerate() {
        let (workers, gate) = (Arc::clone(&workers), Arc::clone(&gate));
        accepting.spawn(listener::accept_all(
            listener,
            number,
            workers,
            gate,
            stop.clone(),
        ));
    }
    let mut probes = JoinSet::new();
    for server in servers {
        probes.spawn(probe::watch_over(server));
    }
    let state = Arc::new(State::new(shared, source, None));
    if let Some(admin) = admin {
        accepting.spawn(admin::http::serve(admin, Arc::clone(&state), stop.clone()));
    }
    state.set_ready(true);
    tracing::info!(workers = count, "ready");

    let signal = told_to_end.wait().await;
    tracing::info!(signal, "ending");
    state.set_ready(false);
    stop.cancel();
    while accepting.join_next().await.is_some() {}
    Ok(workers)
}

/// The name of the pool that a listener leads to.
fn pool_of(layout: &Layout, listener: usize) -> Option<&str> {
    let Route::Pool(place) = layout.entry(listener)?.route;
    layout.pools.get(place).map(|pool| &*pool.name)
}

fn bind(settings: &Settings) -> Result<Vec<Listener>, CannotListen> {
    let bind = |listen: &ketch::config::Listen| {
        Listener::bind(&listen.address, listen.mode).map_err(|source| CannotListen {
            address: listen.address.clone(),
            source,
        })
    };
    settings.listen.iter().map(bind).collect()
}

async fn bind_admin(address: Option<&Address>) -> Result<Option<TcpListener>, CannotListen> {
    // A checked configuration has no other kind of address here.
    let Some(address @ Address::Tcp { host, port }) = address else {
        return Ok(None);
    };
    let bound = admin::http::bind(host, *port).await;
    let bound = bound.and_then(|listener| Ok((listener.local_addr()?, listener)));
    match bound {
        Ok((local, listener)) => {
            tracing::info!(address = %local, "admin listening");
            Ok(Some(listener))
        }
        Err(source) => Err(CannotListen {
            address: address.clone(),
            source,
        }),
    }
}

/// The signals that end the process.
struct ToldToEnd {
    terminate: Signal,
    interrupt: Signal,
}

impl ToldToEnd {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the first of them and names it.
    async fn wait(&mut self) -> &'static str {
        // A cancelled wait loses a signal that says the same as the other.
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
