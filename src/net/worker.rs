//! Worker threads: each with a runtime of its own, sharing nothing with the
//! others.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc as std_mpsc;
use std::thread::JoinHandle;

use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::stream::Stream;
use crate::clock;

/// Connections accepted and not yet picked up by their worker. A worker picks
/// them up every turn; where it does not, it is overloaded and new connections
/// wait in the listener's backlog instead.
const HANDOVER_MAX: usize = 1024;

/// A connection on its way from the listener to a worker.
#[derive(Debug)]
pub enum Accepted {
    /// Over TCP.
    Tcp(std::net::TcpStream),
    /// Over a Unix socket.
    Unix(std::os::unix::net::UnixStream),
}

impl Accepted {
    fn into_stream(self) -> io::Result<Stream> {
        Ok(match self {
            Self::Tcp(stream) => Stream::Tcp(TcpStream::from_std(stream)?),
            Self::Unix(stream) => Stream::Unix(UnixStream::from_std(stream)?),
        })
    }
}

/// The place of a connection among those that its worker serves; free when dropped.
#[derive(Debug)]
pub struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a worker does with its connections. Lives in the worker's thread.
pub trait Handler: 'static {
    /// Which listener a connection came from.
    type Origin: Send + 'static;

    /// Serves one connection to its end, and keeps its place until then. What it
    /// returns is a task as it stands: ten thousand clients are as many of them.
    fn serve(
        self: Rc<Self>,
        stream: Stream,
        origin: Self::Origin,
        place: Place,
    ) -> impl Future<Output = ()>;

    /// Runs beside the connections, until the worker ends.
    fn background(self: Rc<Self>) -> impl Future<Output = ()>;
}

/// The listener's side of one worker.
#[derive(Debug)]
struct Worker<O> {
    hand_over: mpsc::Sender<(Accepted, O)>,
    sessions: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

/// A fixed number of worker threads.
#[derive(Debug)]
pub struct Workers<O> {
    workers: Vec<Worker<O>>,
    stop: CancellationToken,
}

impl<O: Send + 'static> Workers<O> {
    /// Starts `count` threads named `name`-0, `name`-1, ... Each makes its handler
    /// by calling `make` with its number.
    ///
    /// # Errors
    ///
    /// If a thread or its runtime cannot be made.
    pub fn start<H>(
        count: usize,
        name: &str,
        make: impl Fn(usize) -> H + Clone + Send + 'static,
    ) -> io::Result<Self>
    where
        H: Handler<Origin = O>,
    {
        clock::start_timers()?;
        let stop = CancellationToken::new();
        let workers = (0..count.max(1))
            .map(|index| {
                let (hand_over, accepted) = mpsc::channel(HANDOVER_MAX);
                let sessions = Arc::new(AtomicUsize::new(0));
                let (starting, started) = std_mpsc::sync_channel(1);
                // The receiver waits for it, so there is one.
                let report = move |result| starting.send(result).unwrap_or_default();
                let (make, stop, count) = (make.clone(), stop.clone(), Arc::clone(&sessions));
                let thread = std::thread::Builder::new()
                    .name(format!("{name}-{index}"))
                    .spawn(move || {
                        let runtime = match runtime() {
                            Ok(runtime) => runtime,
                            Err(error) => return report(Err(error)),
                        };
                        report(Ok(()));
                        let handler = Rc::new(make(index));
                        runtime.block_on(run(handler, accepted, count, stop));
                        // Not waiting for names that are still being resolved.
                        runtime.shutdown_background();
                    })?;
                started
                    .recv()
                    .unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))?;
                Ok(Worker {
                    hand_over,
                    sessions,
                    thread: Some(thread),
                })
            })
            .collect::<io::Result<Vec<_>>>()?;
        Ok(Self { workers, stop })
    }

    /// Connections that all workers serve now.
    pub fn sessions(&self) -> usize {
        self.workers
            .iter()
            .map(|worker| worker.sessions.load(Ordering::Relaxed))
            .sum()
    }

    /// Hands a connection to the worker that serves the fewest. Waits while that
    /// one is too busy to take it.
    pub async fn hand_over(&self, accepted: Accepted, origin: O) {
        let fewest = self
            .workers
            .iter()
            .min_by_key(|worker| worker.sessions.load(Ordering::Relaxed));
        if let Some(worker) = fewest {
            worker.sessions.fetch_add(1, Ordering::Relaxed);
            if worker.hand_over.send((accepted, origin)).await.is_err() {
                worker.sessions.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Ends all threads, with whatever they were doing, and waits for them.
    pub fn stop(mut self) {
        self.stop.cancel();
        for worker in &mut self.workers {
            if let Some(thread) = worker.thread.take()
                && thread.join().is_err()
            {
                tracing::error!("a worker thread has panicked");
            }
        }
    }
}

/// A runtime for tasks that never leave their thread. It has no timers: those are
/// `clock`'s.
fn runtime() -> io::Result<LocalRuntime> {
    let options = LocalOptions::default();
    Builder::new_current_thread()
        .enable_io()
        .build_local(options)
}

async fn run<H: Handler>(
    handler: Rc<H>,
    mut accepted: mpsc::Receiver<(Accepted, H::Origin)>,
    sessions: Arc<AtomicUsize>,
    stop: CancellationToken,
) {
    tokio::task::spawn_local(Rc::clone(&handler).background());
    // A cancelled receive loses nothing: `recv` takes a connection only when it
    // returns it, and those not taken are closed with the channel.
    while let Some(Some((socket, origin))) = stop.run_until_cancelled(accepted.recv()).await {
        let place = Place(Arc::clone(&sessions));
        match socket.into_stream() {
            Ok(stream) => {
                tokio::task::spawn_local(Rc::clone(&handler).serve(stream, origin, place));
            }
            Err(error) => tracing::warn!(%error, "cannot serve a new connection"),
        }
    }
}
