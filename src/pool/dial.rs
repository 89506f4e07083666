//! Making a connection that is known to lead to a memcached.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::failure::Failure;
use crate::net::listener::Address;
use crate::net::stream::Stream;
use crate::protocol::reply::{self, Part, REPLY_LINE_BYTES_MAX, Shape};

/// The first words of every connection: any memcached answers them, and nothing
/// else does.
const HELLO: &[u8] = b"version\r\n";

/// Silence after which the kernel asks whether the other host is still there, in
/// time before stateful firewalls forget a connection.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Connects and checks that a memcached answers, all within `timeout`.
///
/// # Errors
///
/// The [`Failure`] for the requests that wait for the connection, and for the
/// server's health.
pub async fn dial(address: &Address, timeout: Duration) -> Result<Stream, Failure> {
    let attempt = async {
        let mut stream = connect(address).await.map_err(|error| classify(&error))?;
        match &mut stream {
            Stream::Tcp(stream) => greet(stream).await?,
            Stream::Unix(stream) => greet(stream).await?,
        }
        Ok(stream)
    };
    // A dropped attempt loses a connection that nobody has used yet.
    tokio::time::timeout(timeout, attempt)
        .await
        .unwrap_or(Err(Failure::ConnectTimedOut))
}

async fn connect(address: &Address) -> io::Result<Stream> {
    match address {
        Address::Tcp { host, port } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            stream.set_nodelay(true)?;
            let keepalive = TcpKeepalive::new().with_time(KEEPALIVE);
            SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
            Ok(Stream::Tcp(stream))
        }
        Address::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix),
    }
}

fn classify(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::ConnectionRefused
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::NotFound => Failure::Refused,
        io::ErrorKind::TimedOut => Failure::ConnectTimedOut,
        _ => Failure::Unreachable,
    }
}

/// Asks for the version and reads just that answer.
async fn greet(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin)) -> Result<(), Failure> {
    stream.write_all(HELLO).await.map_err(|_| Failure::Closed)?;
    let mut answer = Vec::with_capacity(64);
    loop {
        match reply::cut(Shape::Version, 0, &answer) {
            Ok(Part::Whole { len, outcome, .. }) if len == answer.len() && !outcome.is_error() => {
                return Ok(());
            }
            Ok(Part::More { .. }) if answer.len() <= REPLY_LINE_BYTES_MAX => {}
            _ => return Err(Failure::Protocol),
        }
        match stream.read_buf(&mut answer).await {
            Ok(1..) => {}
            _ => return Err(Failure::Closed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn greeted(answer: &'static [u8]) -> Result<(), Failure> {
        let (mut ours, mut theirs) = tokio::io::duplex(64 * 1024);
        let server = async move {
            let mut hello = [0; HELLO.len()];
            theirs.read_exact(&mut hello).await.unwrap();
            assert_eq!(hello, HELLO);
            theirs.write_all(answer).await.unwrap();
        };
        tokio::join!(greet(&mut ours), server).0
    }

    #[tokio::test]
    async fn only_a_memcached_is_accepted() {
        assert_eq!(greeted(b"VERSION 1.6.45\r\n").await, Ok(()));
        for answer in [
            &b"HTTP/1.1 400 Bad Request\r\n"[..],
            b"VERSION 1.6.45\r\nmore",
            b"ERROR\r\n",
            b"SERVER_ERROR busy\r\n",
        ] {
            assert_eq!(greeted(answer).await, Err(Failure::Protocol), "{answer:?}");
        }
        assert_eq!(greeted(b"VERSION").await, Err(Failure::Closed));
    }
}
