//! Listening sockets: where, how many clients, and who gets them.

mod bind;
mod unix;

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;

use super::worker::{Accepted, Workers};
use crate::clock::{self, Moment};
pub use bind::{ANY, resolve};
use unix::SocketFile;

/// Connections that the kernel holds for us until we accept them; it may cap the
/// number (`net.core.somaxconn`). memcached asks for as many.
pub const BACKLOG: i32 = 1024;

/// How long accepting rests when the process has run out of descriptors or the
/// kernel out of memory: trying again at once would only burn a core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How many clients may come at once, as the time in which they could come at
/// the rate at which they are let in.
const ACCEPT_BURST: Duration = Duration::from_millis(100);

/// Bytes that the kernel takes for a client beyond what it has sent and what the
/// client may be sent. Left to itself it takes up to four megabytes for each client
/// that stops reading, outside of every bound of ours; from half a megabyte on more
/// does not make large values faster.
const UNSENT_MAX: u32 = 512 * 1024;

/// What a client is told when there are too many; memcached's words.
const TOO_MANY: &[u8] = b"ERROR Too many open connections\r\n";

/// Where a server listens or is reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// A host name or IP address, and a port.
    Tcp {
        /// Name or number; an IPv6 address without its brackets.
        host: String,
        /// 0 lets the system choose, for a listener.
        port: u16,
    },
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A socket that clients can connect to.
#[derive(Debug)]
pub struct Listener {
    socket: ListenSocket,
    local: Address,
    /// Others may hold the same socket, and go on listening.
    is_inherited: bool,
}

#[derive(Debug)]
enum ListenSocket {
    Tcp(TcpListener),
    Unix {
        /// `None` if the file is another's.
        file: Option<SocketFile>,
        listener: UnixListener,
    },
}

/// How to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// The permission bits of a Unix socket's file; `None` leaves them to the
    /// umask.
    pub mode: Option<u32>,
    /// Whether other processes of the same user may listen on the same port.
    pub reuse_port: bool,
    /// Connections that the kernel is to hold until they are accepted; it may do
    /// with fewer.
    pub backlog: i32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mode: None,
            reuse_port: false,
            backlog: BACKLOG,
        }
    }
}

impl Listener {
    /// Binds and listens, on all addresses that a name resolves to.
    ///
    /// # Errors
    ///
    /// Those of the system: an address is taken, none is on this host, the path is no
    /// socket, ...
    pub fn bind(address: &Address, options: Options) -> io::Result<Vec<Self>> {
        match address {
            Address::Tcp { host, port } => {
                let sockets = bind::tcp(&resolve(host, *port)?, options)?;
                let listeners = sockets.into_iter().map(|socket| {
                    Ok(Self {
                        local: local_tcp(&socket)?,
                        socket: ListenSocket::Tcp(socket),
                        is_inherited: false,
                    })
                });
                listeners.collect()
            }
            Address::Unix(path) => {
                let (listener, file) = unix::bind(path, options)?;
                Ok(vec![Self {
                    socket: ListenSocket::Unix {
                        file: Some(file),
                        listener,
                    },
                    local: address.clone(),
                    is_inherited: false,
                }])
            }
        }
    }

    /// Takes over a TCP socket that listens already.
    ///
    /// # Errors
    ///
    /// Those of the system.
    pub fn inherit_tcp(socket: std::net::TcpListener) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        bound_unsent(&socket)?;
        let socket = TcpListener::from_std(socket)?;
        Ok(Self {
            local: local_tcp(&socket)?,
            socket: ListenSocket::Tcp(socket),
            is_inherited: true,
        })
    }

    /// Takes over a Unix socket that listens already; its file stays.
    ///
    /// # Errors
    ///
    /// Those of the system.
    pub fn inherit_unix(socket: std::os::unix::net::UnixListener) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let path = socket.local_addr()?.as_pathname().map(Path::to_owned);
        Ok(Self {
            local: Address::Unix(path.unwrap_or_default()),
            socket: ListenSocket::Unix {
                file: None,
                listener: UnixListener::from_std(socket)?,
            },
            is_inherited: true,
        })
    }

    /// Closes the socket. Returns the clients that the kernel has accepted for us
    /// and nobody has taken.
    fn close(self) -> io::Result<Vec<Accepted>> {
        let mut left = Vec::new();
        match self.socket {
            ListenSocket::Tcp(listener) => {
                let listener = listener.into_std()?;
                // Until there are no more, or the system refuses to give them.
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true)?;
                    prepare(&stream)?;
                    left.push(Accepted::Tcp(stream));
                }
            }
            ListenSocket::Unix { file, listener } => {
                drop(file);
                let listener = listener.into_std()?;
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true)?;
                    left.push(Accepted::Unix(stream));
                }
            }
        }
        Ok(left)
    }

    /// Whether others may hold the same socket.
    pub fn is_inherited(&self) -> bool {
        self.is_inherited
    }

    /// The address bound, with the port the system chose if it was 0.
    pub fn local(&self) -> &Address {
        &self.local
    }

    async fn accept(&self) -> io::Result<Accepted> {
        match &self.socket {
            ListenSocket::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                prepare(&stream)?;
                stream.into_std().map(Accepted::Tcp)
            }
            ListenSocket::Unix { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                stream.into_std().map(Accepted::Unix)
            }
        }
    }
}

/// Sets the options of a client's connection.
fn prepare(stream: &impl AsFd) -> io::Result<()> {
    let socket = SockRef::from(stream);
    // Requests and replies leave in one write each: waiting to fill a packet
    // would only delay them.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new())
}

fn local_tcp(socket: &TcpListener) -> io::Result<Address> {
    let local = socket.local_addr()?;
    Ok(Address::Tcp {
        host: local.ip().to_string(),
        port: local.port(),
    })
}

/// Bounds what the kernel takes for clients that take nothing; those who come by
/// a listening socket inherit it.
fn bound_unsent(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(socket).set_tcp_notsent_lowat(UNSENT_MAX)
}

/// How many clients there may be, over all listeners.
#[derive(Debug)]
pub struct Gate {
    /// Most clients at a time.
    sessions_max: AtomicUsize,
    /// Most clients let in a second; 0 for any number.
    accept_rate: AtomicU64,
    /// When the next client may be let in, if they come at that rate.
    next: Mutex<Moment>,
    delayed: AtomicU64,
    accepted: AtomicU64,
    refused: AtomicU64,
}

impl Gate {
    /// Lets in at most `sessions_max` clients at a time.
    pub fn new(sessions_max: usize) -> Self {
        Self {
            sessions_max: AtomicUsize::new(sessions_max),
            accept_rate: AtomicU64::new(0),
            next: Mutex::default(),
            delayed: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    /// Lets in so many clients a second, or any number if 0. Others wait in the
    /// kernel's queue.
    pub fn set_accept_rate(&self, accept_rate: u32) {
        self.accept_rate
            .store(accept_rate.into(), Ordering::Relaxed);
    }

    /// How long the next client has to wait to be let in; if not at all, it is
    /// counted.
    fn wait(&self, now: Moment) -> Option<Duration> {
        let rate = self.accept_rate.load(Ordering::Relaxed);
        let apart = Duration::from_secs(1).checked_div(u32::try_from(rate).unwrap_or(u32::MAX))?;
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let ahead = next.since(now);
        if ahead > ACCEPT_BURST {
            self.delayed.fetch_add(1, Ordering::Relaxed);
            return Some(ahead - ACCEPT_BURST);
        }
        *next = (*next).max(now).after(apart);
        None
    }

    /// How often letting clients in has waited for its rate.
    pub fn delayed(&self) -> u64 {
        self.delayed.load(Ordering::Relaxed)
    }

    /// Clients let in since the start.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Clients turned away because there were too many.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Most clients at a time.
    pub fn sessions_max(&self) -> usize {
        self.sessions_max.load(Ordering::Relaxed)
    }

    /// Lets in at most so many from now on. Those who are in stay.
    pub fn set_sessions_max(&self, sessions_max: usize) {
        self.sessions_max.store(sessions_max, Ordering::Relaxed);
    }
}

/// Accepts clients and hands them to workers until `stop` is cancelled.
pub async fn accept_all<O: Clone + Send + 'static>(
    listener: Listener,
    origin: O,
    workers: Arc<Workers<O>>,
    gate: Arc<Gate>,
    stop: CancellationToken,
) {
    // A cancelled accept loses nothing: a connection is taken from the kernel
    // only when it is returned.
    while let Some(accepted) = stop
        .run_until_cancelled(next_client(&listener, &gate))
        .await
    {
        match accepted {
            Ok(socket) => let_in(socket, origin.clone(), &workers, &gate).await,
            Err(error) if is_about_the_client(&error) => {
                tracing::debug!(%error, "a client left before it was accepted");
            }
            Err(error) => {
                tracing::warn!(%error, listener = %listener.local, "cannot accept a client");
                clock::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // Clients in the kernel's queue believe that they are connected: they would
    // be reset with the socket. One that is shared goes on, with its queue.
    if !listener.is_inherited {
        match listener.close() {
            Ok(left) => {
                for socket in left {
                    let_in(socket, origin.clone(), &workers, &gate).await;
                }
            }
            Err(error) => tracing::warn!(%error, "clients in the queue of a listener are lost"),
        }
    }
}

/// The next client, as soon as it may be let in.
async fn next_client(listener: &Listener, gate: &Gate) -> io::Result<Accepted> {
    while let Some(wait) = gate.wait(clock::now()) {
        clock::sleep(wait).await;
    }
    listener.accept().await
}

async fn let_in<O: Send + 'static>(socket: Accepted, origin: O, workers: &Workers<O>, gate: &Gate) {
    if workers.sessions() < gate.sessions_max() {
        gate.accepted.fetch_add(1, Ordering::Relaxed);
        workers.hand_over(socket, origin).await;
    } else {
        gate.refused.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(sessions_max = gate.sessions_max(), "too many clients");
        turn_away(socket).await;
    }
}

/// Tells a client that there are too many, if it can be told at once.
async fn turn_away(socket: Accepted) {
    // A fresh socket takes these few bytes without waiting; a client that is
    // already gone does not need them.
    match socket {
        Accepted::Tcp(stream) => {
            if let Ok(mut stream) = tokio::net::TcpStream::from_std(stream) {
                let _ = stream.write(TOO_MANY).await;
            }
        }
        Accepted::Unix(stream) => {
            if let Ok(mut stream) = tokio::net::UnixStream::from_std(stream) {
                let _ = stream.write(TOO_MANY).await;
            }
        }
    }
}

fn is_about_the_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::NotConnected
            | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_as_they_are_written() {
        let tcp = |host: &str| Address::Tcp {
            host: host.to_owned(),
            port: 11211,
        };
        assert_eq!(tcp("localhost").to_string(), "localhost:11211");
        assert_eq!(tcp("::1").to_string(), "[::1]:11211");
        let unix = Address::Unix(PathBuf::from("/run/mc.sock"));
        assert_eq!(unix.to_string(), "unix:/run/mc.sock");
    }

    #[test]
    fn clients_are_let_in_at_a_rate_with_bursts() {
        let gate = Gate::new(1);
        let at = |millis| Moment::default().after(Duration::from_millis(millis));
        assert!((0..1000).all(|_| gate.wait(at(0)).is_none()), "no rate");
        gate.set_accept_rate(100);
        let now = at(1000);
        assert_eq!((0..100).filter(|_| gate.wait(now).is_none()).count(), 11);
        assert_eq!(gate.wait(now), Some(Duration::from_millis(10)));
        assert_eq!(gate.wait(at(1010)), None);
        assert!(gate.wait(at(1010)).is_some());
        assert_eq!(gate.delayed(), 91);
    }
}
