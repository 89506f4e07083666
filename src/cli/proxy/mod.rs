//! `ketch proxy`: running it.
//!
//! The main thread accepts clients, serves operators, watches over servers and
//! carries out what it is told by signals, operators and the file; the worker
//! threads do the rest.

mod caches;
mod drain;
mod inherited;
mod links;
mod listeners;
mod probes;
mod reload;
mod watch;

use std::num::NonZero;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use ketch::admin::reloads::Refusal;
use ketch::admin::state::{Command, Order, Source};
use ketch::admin::{self, State};
use ketch::clock;
use ketch::config::{Config, Settings};
use ketch::log::Log;
use ketch::net::listener::{Address, Gate};
use ketch::net::worker::Workers;
use ketch::proxy::{Layout, Shared, Worker};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use xxhash_rust::xxh3::xxh3_64;

use super::{CannotListen, descriptors};
use inherited::Inherited;
use listeners::Listeners;
use probes::Probes;
use watch::Watch;

/// Most threads that `auto` starts: as many as may be configured.
const WORKERS_MAX: usize = 256;

/// Orders of operators that wait to be carried out.
const ORDERS_MAX: usize = 16;

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
    let log = Log::show(&config.settings.log, config.settings.log_format)?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let settings = config.settings.clone();
    let source = Source {
        path: PathBuf::from(&config.file),
        hash: xxh3_64(config.text.as_bytes()),
        text: config.text.clone(),
        read_at: clock::unix_seconds(),
        listeners: Vec::new(),
    };
    let threads = workers(&settings);
    let layout = config.build(None, &caches::maker(&settings, threads))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    let workers = runtime.block_on(async {
        let mut proxy = Proxy::start(settings, source, layout, threads).await?;
        log.queue().context("cannot start a thread")?;
        proxy.serve().await;
        proxy.close_admin().await;
        anyhow::Ok(proxy.workers)
    })?;
    // Not waiting for names that are still being resolved.
    runtime.shutdown_background();
    // What accepted clients has ended, and with it the other owners.
    if let Some(workers) = Arc::into_inner(workers) {
        workers.stop();
    }
    Ok(())
}

/// A running proxy, as the main thread sees it.
struct Proxy {
    settings: Settings,
    threads: usize,
    state: Arc<State>,
    gate: Arc<Gate>,
    workers: Arc<Workers<usize>>,
    listeners: Listeners,
    probes: Probes,
    admin: Option<JoinHandle<()>>,
    stop_admin: CancellationToken,
    told: Told,
    /// What the file said when it was tried last, whatever came of it.
    tried: Option<u64>,
}

impl Proxy {
    async fn start(
        settings: Settings,
        mut source: Source,
        layout: Layout,
        threads: usize,
    ) -> anyhow::Result<Self> {
        let inherited = Inherited::from_environment().context("bad sockets in LISTEN_FDS")?;
        let mut listeners = Listeners::new(inherited);
        let bound = listeners.bind(&settings, &layout)?;
        listeners.warn_of_unused();
        let admin = bind_admin(settings.admin.as_ref(), settings.shares_ports()).await?;
        let (orders, incoming) = mpsc::channel(ORDERS_MAX);
        let told = Told::new(&source.path, incoming).context("cannot wait for signals")?;

        let gate = Arc::new(Gate::new(descriptors::make_room(&settings, threads)));
        gate.set_accept_rate(settings.clients.accept_rate);
        let mut probes = Probes::default();
        probes.look_after(&layout);
        let shared = Shared::new(layout, Arc::clone(&gate), threads);
        let of_workers = Arc::clone(&shared);
        let make = move |_| Worker::new(Arc::clone(&of_workers));
        let workers = Workers::start(threads, "worker", make).context("cannot start workers")?;
        let workers = Arc::new(workers);
        let layout = shared.layout.load_full();
        listeners.adopt(bound, &layout, &workers, &gate).await;
        source.listeners = listeners.shown();
        let tried = Some(source.hash);
        let state = Arc::new(State::new(shared, source, None, orders));
        let stop_admin = CancellationToken::new();
        let serve_admin = |admin| admin::http::serve(admin, Arc::clone(&state), stop_admin.clone());
        let admin = admin.map(|admin| tokio::spawn(serve_admin(admin)));
        state.set_ready(true);
        tracing::info!(workers = threads, "ready");
        Ok(Self {
            settings,
            threads,
            state,
            gate,
            workers,
            listeners,
            probes,
            admin,
            stop_admin,
            told,
            tried,
        })
    }

    /// Does as told until that is to end.
    async fn serve(&mut self) {
        loop {
            match self.told.next().await {
                Word::End(by) => {
                    tracing::info!(by, "ending");
                    return self.drain().await;
                }
                Word::Reload => {
                    // Whoever sent the signal looks into the log.
                    let _ = self.reload("SIGHUP").await;
                }
                Word::File => self.reload_if_changed().await,
                Word::Order(order) => match order.command {
                    Command::Reload => {
                        let outcome = self.reload("admin").await;
                        // Who asked may be gone.
                        let _ = order.answer.send(outcome);
                    }
                    Command::Drain => {
                        let _ = order.answer.send(Ok("draining".to_owned()));
                        tracing::info!(by = "admin", "ending");
                        return self.drain().await;
                    }
                },
            }
        }
    }

    /// Reloads if the file does not say what it said when it was tried last:
    /// something else near it may have changed, and one change may be noticed
    /// more than once.
    async fn reload_if_changed(&mut self) {
        if self.settings.watch && reload::fingerprint(&self.state.source.load().path) != self.tried
        {
            let _ = self.reload("file").await;
        }
    }

    /// Reads the file again and puts it in force, if all of it is good.
    async fn reload(&mut self, trigger: &'static str) -> Result<String, String> {
        let outcome = self.try_reload(trigger).await;
        let reloads = &self.state.reloads;
        match &outcome {
            Ok(Some(summary)) => {
                reloads.succeeded(true);
                Ok(summary.clone())
            }
            Ok(None) => {
                reloads.succeeded(false);
                tracing::info!(trigger, "configuration unchanged");
                Ok("unchanged".to_owned())
            }
            Err(error) => {
                let problem = format!("{error:#}");
                for line in problem.lines() {
                    tracing::error!(trigger, "configuration refused: {line}");
                }
                reloads.refused(Refusal {
                    at: clock::unix_seconds(),
                    problem: problem.clone(),
                });
                Err(problem)
            }
        }
    }

    /// Says what has been applied; `None` if there was nothing to apply.
    async fn try_reload(&mut self, trigger: &'static str) -> anyhow::Result<Option<String>> {
        let source = self.state.source.load_full();
        let previous = self.state.shared.layout.load_full();
        let (path, threads) = (source.path.clone(), self.threads);
        self.tried = reload::fingerprint(&path);
        let in_force = Arc::clone(&source);
        // Large configurations take their time, in which clients are accepted.
        let prepared = tokio::task::spawn_blocking(move || {
            reload::prepare(&path, &in_force.text, &previous, threads)
        });
        let Some(prepared) = prepared.await?? else {
            return Ok(None);
        };
        let bound = self.listeners.bind(&prepared.settings, &prepared.layout)?;
        // From here on nothing can fail.
        reload::tell(&prepared);
        let summary = reload::summary(&prepared.diff);
        let shared = &self.state.shared;
        shared.install(prepared.layout);
        let layout = shared.layout.load_full();
        let room = descriptors::make_room(&prepared.settings, self.threads);
        self.gate.set_sessions_max(room);
        self.gate
            .set_accept_rate(prepared.settings.clients.accept_rate);
        self.probes.look_after(&layout);
        let workers = &self.workers;
        self.listeners
            .adopt(bound, &layout, workers, &self.gate)
            .await;
        let hash = xxh3_64(prepared.text.as_bytes());
        self.state.source.store(Arc::new(Source {
            path: source.path.clone(),
            hash,
            text: prepared.text,
            read_at: clock::unix_seconds(),
            listeners: self.listeners.shown(),
        }));
        self.settings = prepared.settings;
        let hash = format!("{hash:016x}");
        tracing::info!(trigger, hash, "configuration applied");
        Ok(Some(summary))
    }
}

async fn bind_admin(
    address: Option<&Address>,
    reuse_port: bool,
) -> Result<Option<TcpListener>, CannotListen> {
    // A checked configuration has no other kind of address here.
    let Some(address @ Address::Tcp { host, port }) = address else {
        return Ok(None);
    };
    let bound = admin::http::bind(host, *port, reuse_port).await;
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

/// What the process is told.
enum Word {
    /// To end, and by whom.
    End(&'static str),
    /// To read the configuration again.
    Reload,
    /// That the configuration's file may have changed.
    File,
    /// What an operator orders.
    Order(Order),
}

/// Where the process is told things.
struct Told {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    watch: Watch,
    orders: mpsc::Receiver<Order>,
}

impl Told {
    fn new(file: &std::path::Path, orders: mpsc::Receiver<Order>) -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            watch: Watch::start(file),
            orders,
        })
    }

    /// Waits for the next word.
    async fn next(&mut self) -> Word {
        // None of the waits loses anything when it is cancelled.
        tokio::select! {
            _ = self.terminate.recv() => Word::End("SIGTERM"),
            _ = self.interrupt.recv() => Word::End("SIGINT"),
            _ = self.hang_up.recv() => Word::Reload,
            () = self.watch.changed() => Word::File,
            Some(order) = self.orders.recv() => Word::Order(order),
        }
    }
}
