//! Binding: which sockets an address comes down to.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};

use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

use super::{Options, bound_unsent};

/// The host that means every address of this one, over IPv4 and IPv6; memcached's.
pub const ANY: &str = "*";

/// How often the system is asked for a port that is free on every address of a name.
/// One that is taken elsewhere is rare already.
const PORT_TRIES: usize = 8;

/// The addresses of a host, each once: `/etc/hosts` may name one several times.
///
/// # Errors
///
/// If the name cannot be resolved.
pub fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if host == ANY {
        let any = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        return Ok(any.map(|host| SocketAddr::new(host, port)).into());
    }
    let mut addresses = Vec::new();
    for address in (host, port).to_socket_addrs()? {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Ok(addresses)
}

/// Listens on all of `addresses`, on one port.
pub(super) fn tcp(addresses: &[SocketAddr], options: Options) -> io::Result<Vec<TcpListener>> {
    let chooses = addresses.iter().any(|address| address.port() == 0);
    for _ in 1..PORT_TRIES {
        match tcp_once(addresses, options) {
            // What was free on the first address was not on another.
            Err(error) if chooses && error.kind() == io::ErrorKind::AddrInUse => {}
            done => return done,
        }
    }
    tcp_once(addresses, options)
}

/// As [`tcp`]; a port that the system chooses for the first address is that of all.
/// Addresses that this host does not have are left out, if there are others.
fn tcp_once(addresses: &[SocketAddr], options: Options) -> io::Result<Vec<TcpListener>> {
    let mut sockets = Vec::new();
    let mut port = None;
    let mut missing = io::Error::new(io::ErrorKind::NotFound, "no such host");
    for address in addresses {
        let mut address = *address;
        if let Some(port) = port {
            address.set_port(port);
        }
        match tcp_one(address, options) {
            Ok(socket) => {
                port = Some(socket.local_addr()?.port());
                sockets.push(socket);
            }
            Err(error) if is_elsewhere(&error) => missing = error,
            Err(error) if addresses.len() > 1 => {
                // Which of them is not in the name.
                return Err(io::Error::new(error.kind(), format!("{address}: {error}")));
            }
            Err(error) => return Err(error),
        }
    }
    if sockets.is_empty() {
        Err(missing)
    } else {
        Ok(sockets)
    }
}

/// Whether an address cannot be had because it, or IPv6 altogether, is not on this host.
fn is_elsewhere(error: &io::Error) -> bool {
    let not_here = [Errno::ADDRNOTAVAIL, Errno::AFNOSUPPORT];
    Errno::from_io_error(error).is_some_and(|error| not_here.contains(&error))
}

fn tcp_one(address: SocketAddr, options: Options) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        // `[::]` means IPv6 only; who wants both lists both.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(options.reuse_port)?;
    socket.bind(&address.into())?;
    bound_unsent(&socket)?;
    socket.listen(options.backlog)?;
    TcpListener::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(addresses: &[&str]) -> io::Result<Vec<SocketAddr>> {
        let addresses: Vec<_> = addresses
            .iter()
            .map(|address| address.parse().unwrap())
            .collect();
        let sockets = tcp(&addresses, Options::default())?;
        sockets.iter().map(TcpListener::local_addr).collect()
    }

    #[tokio::test]
    async fn a_name_is_listened_on_at_all_its_addresses_on_one_port() {
        let bound = on(&["127.0.0.1:0", "127.0.0.2:0"]).unwrap();
        let hosts: Vec<_> = bound.iter().map(|bound| bound.ip().to_string()).collect();
        assert_eq!(hosts, ["127.0.0.1", "127.0.0.2"]);
        assert_eq!(bound[0].port(), bound[1].port());
    }

    #[tokio::test]
    async fn an_address_of_another_host_is_left_out_and_one_that_is_taken_is_not() {
        // 192.0.2.0/24 is for documents, and nobody's.
        assert_eq!(on(&["192.0.2.1:0", "127.0.0.1:0"]).unwrap().len(), 1);
        let error = on(&["192.0.2.1:0"]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = taken.local_addr().unwrap();
        let free = format!("127.0.0.2:{}", taken.port());
        let error = on(&[&free, &taken.to_string()]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().starts_with(&taken.to_string()), "{error}");
    }

    #[test]
    fn a_star_is_every_address() {
        let any = resolve(ANY, 1).unwrap();
        assert_eq!(any, ["0.0.0.0:1", "[::]:1"].map(|any| any.parse().unwrap()));
    }
}
