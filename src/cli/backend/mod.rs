//! `ketch backend`: the bundled cache as a server of its own.

mod args;
mod daemon;
mod extended;
mod ground;
mod listen;
mod lock;
mod pidfile;
mod sockets;
mod user;

use std::fs;
use std::path::{self, Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use ketch::admin::{self, cache::Cache};
use ketch::backend::server::{Dialect, Settings, Shared, Told, Users, Worker};
use ketch::backend::{self, Janitor, Store};
use ketch::log::{Format, Log};
use ketch::net::listener::{self, Gate};
use ketch::net::worker::Workers;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub(crate) use args::Args;
use extended::Extended;
use ground::Ground;
use listen::Listen;
use sockets::Sockets;

use super::BadUsage;

/// The licences, for `-i`.
const LICENCES: [&str; 2] = [
    include_str!("../../../LICENSE-MIT"),
    include_str!("../../../LICENSE-APACHE"),
];

/// Runs the cache until it is told to end.
///
/// # Errors
///
/// If it cannot start.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    if args.license {
        return crate::print(|out| out.write_all(LICENCES.join("\n").as_bytes()));
    }
    let plan = Plan::new(args)?;
    if args.daemon && !args.detached {
        return daemon::detach();
    }
    if args.detached {
        daemon::settle(args.enable_coredumps).context("cannot go into the background")?;
    }
    let log = Log::show(level(args.verbose), Format::Text)?;
    for warning in &plan.warnings {
        tracing::warn!("{warning}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    let workers = runtime.block_on(serve(args, plan, &log))?;
    // What accepted clients has ended, and with it the other owners.
    if let Some(workers) = Arc::into_inner(workers) {
        workers.stop();
    }
    Ok(())
}

/// What is logged: beyond warnings only what is our own.
fn level(verbose: u8) -> &'static str {
    match verbose {
        0 => "warn",
        1 => "warn,ketch=info",
        2 => "warn,ketch=debug",
        _ => "warn,ketch=trace",
    }
}

/// What the arguments come down to.
struct Plan {
    settings: Settings,
    store: backend::Settings,
    listen: Vec<Listen>,
    admin: Option<(String, u16)>,
    /// The file of users, from wherever the process goes.
    users: Option<PathBuf>,
    warnings: Vec<String>,
}

impl Plan {
    fn new(args: &Args) -> anyhow::Result<Self> {
        let refused = [
            (
                args.memory_file.is_some(),
                "-e",
                "items do not outlive the process",
            ),
            (
                args.enable_sasl,
                "-S",
                "there is no SASL; -Y names users for the text dialect",
            ),
            (args.enable_ssl, "-Z", "there is no TLS"),
            (
                args.napi_ids.is_some(),
                "-N",
                "workers are not bound to network queues",
            ),
        ];
        if let Some((_, flag, why)) = refused.into_iter().find(|(is_set, _, _)| *is_set) {
            return Err(BadUsage(format!("{flag}: {why}")).into());
        }
        let memory_bytes = usize::try_from(args.memory_limit)?.saturating_mul(1 << 20);
        if args.max_item_size > memory_bytes / 2 {
            let why = "-I: an item cannot be larger than half of the memory";
            return Err(BadUsage(why.to_owned()).into());
        }
        let extended = Extended::read(args.extended.iter().map(String::as_str))?;
        let threads = usize::from(args.threads);
        let socket = args.unix_socket.as_deref();
        let mut listen = listen::all(&args.listen, args.port, socket, args.protocol)?;
        let mut dialect = args.protocol;
        if args.auth_file.is_some() {
            let dialects = listen.iter_mut().map(|listen| &mut listen.dialect);
            dialects.chain([&mut dialect]).try_for_each(only_text)?;
        }
        let users = args.auth_file.as_deref().map(path::absolute).transpose()?;
        Ok(Self {
            warnings: warnings(args, &extended),
            store: backend::Settings {
                memory_bytes,
                item_bytes_max: args.max_item_size,
                evicts: !args.disable_evictions,
                cas: !args.disable_cas,
                threads,
            },
            listen,
            admin: args.admin.as_deref().map(listen::admin).transpose()?,
            settings: Settings {
                threads,
                dialect,
                requests_per_turn: usize::try_from(args.max_reqs_per_event.unwrap_or(0))?,
                idle_timeout: extended.idle_timeout,
                flush: !args.disable_flush_all,
                dump: !args.disable_dumping,
                watch: !args.disable_watch,
                watch_room: extended.watch_room,
                shutdown: args.enable_shutdown,
                move_clock: extended.moves_clock,
                prefix_delimiter: args.delimiter.unwrap_or(b':'),
                detail: args.delimiter.is_some(),
                users: users.as_deref().map(read_users).transpose()?,
                verbosity: args.verbose.into(),
                told: told(args, &extended),
            },
            users,
        })
    }
}

/// Makes it text that is spoken: only over text can users log in.
fn only_text(dialect: &mut Dialect) -> Result<(), BadUsage> {
    if *dialect == Dialect::Binary {
        let why = "-Y: users log in over text, which cannot be where only binary is spoken";
        return Err(BadUsage(why.to_owned()));
    }
    *dialect = Dialect::Ascii;
    Ok(())
}

/// What `stats settings` says of what others act on, or nobody.
fn told(args: &Args, extended: &Extended) -> Told {
    Told {
        tcp_port: u16::try_from(args.port).unwrap_or(0),
        udp_port: u16::try_from(args.udp_port).unwrap_or(0),
        interface: (!args.listen.is_empty()).then(|| args.listen.join(",")),
        socket: args
            .unix_socket
            .as_ref()
            .map(|path| path.display().to_string()),
        socket_mode: args.unix_mask,
        backlog: u32::try_from(args.listen_backlog).unwrap_or(0),
        growth_factor: args.slab_growth_factor,
        chunk_bytes: args.slab_min_size,
        crawls: extended.crawls,
        maintains: extended.maintains,
        tracks_sizes: extended.tracks_sizes,
    }
}

/// What was asked for and means nothing here.
fn warnings(args: &Args, extended: &Extended) -> Vec<String> {
    let flags = [
        (args.udp_port != 0, "-U", "nothing listens on UDP"),
        (
            (args.slab_growth_factor - 1.25).abs() > f64::EPSILON,
            "-f",
            "there are no slabs",
        ),
        (args.slab_min_size != 48, "-n", "there are no slabs"),
        (
            args.enable_largepages,
            "-L",
            "huge pages are used anyway, where the system has them",
        ),
        (
            args.user.is_none() && rustix::process::geteuid().is_root(),
            "-u",
            "not given: this goes on as root",
        ),
    ];
    let flags = flags.into_iter().filter(|(is_set, _, _)| *is_set);
    let flags = flags.map(|(_, flag, why)| format!("{flag}: {why}"));
    let options = extended.without_effect.iter();
    let options = options.map(|name| format!("-o {name}: without effect here"));
    flags.chain(options).collect()
}

fn read_users(path: &Path) -> anyhow::Result<Users> {
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Users::read(&text).with_context(|| path.display().to_string())
}

/// Lets those of the file in from now on. If it cannot be read, or is no list of users,
/// those of before stay.
fn read_users_again(path: &Path, shared: &Shared) {
    match read_users(path) {
        Ok(users) => {
            shared.set_users(users);
            tracing::info!(file = %path.display(), "users read again");
        }
        Err(error) => tracing::error!(error = format!("{error:#}"), "-Y: users stay as they were"),
    }
}

/// Serves clients until the process is told to end. Returns the workers, with
/// whatever they still have to do.
async fn serve(args: &Args, plan: Plan, log: &Log) -> anyhow::Result<Arc<Workers<usize>>> {
    let mut told_to_end = ToldToEnd::new().context("cannot wait for signals")?;
    let Ground {
        sockets: Sockets { listeners, names },
        admin,
        room,
        pid_file,
    } = Ground::take(args, &plan).await?;
    let store = Arc::new(Store::new(plan.store));
    let gate = Arc::new(Gate::new(room));
    let threads = plan.settings.threads;
    let shared = Shared::new(Arc::clone(&store), plan.settings, Arc::clone(&gate), names);
    let desk = shared.watch.desk();
    let janitor = Janitor::start_at(store, Some(desk)).context("cannot start a thread")?;
    let of_workers = Arc::clone(&shared);
    let make = move |_| Worker::new(Arc::clone(&of_workers));
    let workers = Workers::start(threads, "worker", make).context("cannot start workers")?;
    let workers = Arc::new(workers);
    sockets::write_port_file(&listeners)?;

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
    if let Some(admin) = admin {
        let cache = Arc::new(Cache(Arc::clone(&shared)));
        accepting.spawn(admin::http::serve(admin, cache, stop.clone()));
    }
    tracing::info!(threads, "ready");
    if args.detached {
        daemon::tell_ready(args.verbose > 0).context("cannot go into the background")?;
    }
    log.queue().context("cannot start a thread")?;

    let why = told_to_end.wait(&shared, plan.users.as_deref()).await;
    tracing::info!(why, "ending");
    stop.cancel();
    while accepting.join_next().await.is_some() {}
    drop((janitor, pid_file));
    Ok(workers)
}

/// What ends the process.
struct ToldToEnd {
    terminate: Signal,
    interrupt: Signal,
    user: Signal,
    hangup: Signal,
}

impl ToldToEnd {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            user: signal(SignalKind::user_defined1())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the first of them and names it. Meanwhile `SIGHUP` has the file of
    /// users read again.
    async fn wait(&mut self, shared: &Shared, users: Option<&Path>) -> &'static str {
        loop {
            // A cancelled wait loses a signal, or a client's wish, that says the same
            // as the other.
            return tokio::select! {
                _ = self.terminate.recv() => "SIGTERM",
                _ = self.interrupt.recv() => "SIGINT",
                _ = self.user.recv() => "SIGUSR1",
                _ = shared.stop_requested() => "shutdown",
                // A terminal that goes does not end a cache.
                _ = self.hangup.recv() => {
                    if let Some(path) = users {
                        read_users_again(path, shared);
                    }
                    continue;
                }
            };
        }
    }
}
