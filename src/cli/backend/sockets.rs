//! The sockets of the cache.

use std::env;
use std::fs;
use std::io;
use std::net::ToSocketAddrs;

use anyhow::Context;
use ketch::admin;
use ketch::backend::server::Listening;
use ketch::net::listener::{Address, Listener, Options};
use tokio::net::TcpListener;

use super::listen::Listen;
use crate::cli::CannotListen;

/// Names a file for the ports that the system has chosen, as memcached does: tests
/// of clients read it.
const PORT_FILE: &str = "MEMCACHED_PORT_FILENAME";

/// Sockets that clients connect to.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    /// The sockets.
    pub(super) listeners: Vec<Listener>,
    /// What `stats conns` tells of each.
    pub(super) names: Vec<Listening>,
}

impl Sockets {
    /// Listens there.
    ///
    /// # Errors
    ///
    /// If an address cannot be had.
    pub(super) fn bind(&mut self, listen: &[Listen], options: Options) -> Result<(), CannotListen> {
        for wanted in listen {
            let bound =
                Listener::bind(&wanted.address, options).map_err(|source| CannotListen {
                    address: wanted.address.clone(),
                    source,
                })?;
            for listener in bound {
                let address = listener.local();
                tracing::info!(%address, "listening");
                self.names.push(Listening {
                    name: name_of(address),
                    dialect: wanted.dialect,
                });
                self.listeners.push(listener);
            }
        }
        Ok(())
    }
}

/// Listens for operators.
///
/// # Errors
///
/// If the address cannot be had.
pub(super) async fn bind_admin(host: &str, port: u16) -> Result<TcpListener, CannotListen> {
    let bound = bind_first(host, port).await;
    let bound = bound.and_then(|listener| Ok((listener.local_addr()?, listener)));
    let (address, listener) = bound.map_err(|source| CannotListen {
        address: Address::Tcp {
            host: host.to_owned(),
            port,
        },
        source,
    })?;
    tracing::info!(%address, "admin listening");
    Ok(listener)
}

/// Listens at the first address of a name that can be had. It is looked up in this
/// thread: one of its own would stay root's for a while (`-u`).
async fn bind_first(host: &str, port: u16) -> io::Result<TcpListener> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "no such host");
    for address in (host, port).to_socket_addrs()? {
        match admin::http::bind(&address.ip().to_string(), port, false).await {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The name of an address in `stats conns`.
fn name_of(address: &Address) -> String {
    match address {
        Address::Tcp { host, .. } if host.contains(':') => format!("tcp6:{address}"),
        Address::Tcp { .. } => format!("tcp:{address}"),
        Address::Unix(_) => address.to_string(),
    }
}

/// Tells the ports that were chosen to who has asked for them.
///
/// # Errors
///
/// If the file cannot be written.
pub(super) fn write_port_file(listeners: &[Listener]) -> anyhow::Result<()> {
    let Some(path) = env::var_os(PORT_FILE) else {
        return Ok(());
    };
    let lines = listeners
        .iter()
        .filter_map(|listener| match listener.local() {
            Address::Tcp { host, port } if host.contains(':') => {
                Some(format!("TCP INET6: {port}\n"))
            }
            Address::Tcp { port, .. } => Some(format!("TCP INET: {port}\n")),
            Address::Unix(_) => None,
        });
    // Under its name it is whole or not there.
    let mut new = path.clone();
    new.push(".new");
    fs::write(&new, lines.collect::<String>())
        .and_then(|()| fs::rename(&new, &path))
        .with_context(|| format!("cannot write {}", path.display()))
}
