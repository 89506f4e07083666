//! Listening sockets that the service manager has opened for us.
//!
//! Such a socket outlives the process: while one proxy makes way for the next,
//! clients wait in its queue, and none is refused.

use std::io;

use ketch::net::listener::{self, Address, Listener};
use listenfd::ListenFd;

use super::listeners::Bound;

/// Sockets that have been passed to the process and not been used yet.
#[derive(Debug, Default)]
pub(super) struct Inherited {
    listeners: Vec<Listener>,
}

impl Inherited {
    /// The sockets that the environment names (`LISTEN_FDS`).
    ///
    /// # Errors
    ///
    /// If one of them is no listening stream socket.
    pub(super) fn from_environment() -> io::Result<Self> {
        let mut passed = ListenFd::from_env();
        let mut listeners = Vec::new();
        for place in 0..passed.len() {
            // Of the other kind, a socket is left where it is.
            let listener = match passed.take_tcp_listener(place) {
                Ok(Some(socket)) => Listener::inherit_tcp(socket)?,
                _ => match passed.take_unix_listener(place)? {
                    Some(socket) => Listener::inherit_unix(socket)?,
                    None => continue,
                },
            };
            tracing::debug!(address = %listener.local(), "socket passed by the service manager");
            listeners.push(listener);
        }
        Ok(Self { listeners })
    }

    /// The sockets that listen at this address, if any has been passed: they are
    /// instead of others, also where a name has further addresses.
    pub(super) fn take(&mut self, address: &Address) -> Vec<Listener> {
        if self.listeners.is_empty() {
            return Vec::new();
        }
        let wanted = numeric(address);
        let taken = |listener: &mut Listener| wanted.contains(listener.local());
        self.listeners.extract_if(.., taken).collect()
    }

    /// Keeps those of `bound` that have been passed: they are not needed yet, and
    /// could not be had again.
    pub(super) fn take_back(&mut self, bound: Bound) {
        let listeners = bound.into_iter().map(|(_, listener)| listener);
        self.listeners
            .extend(listeners.filter(Listener::is_inherited));
    }

    /// Warns of sockets that no listener has taken.
    pub(super) fn warn(&self) {
        for listener in &self.listeners {
            let address = listener.local();
            tracing::warn!(%address, "no listener of this address for a socket that was passed");
        }
    }
}

/// The addresses that a socket could have which listens at `address`.
fn numeric(address: &Address) -> Vec<Address> {
    match address {
        Address::Tcp { host, port } => {
            let found = listener::resolve(host, *port).into_iter().flatten();
            let numeric = found.map(|found| Address::Tcp {
                host: found.ip().to_string(),
                port: found.port(),
            });
            numeric.collect()
        }
        Address::Unix(_) => vec![address.clone()],
    }
}
