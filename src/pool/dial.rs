//! Making a connection that is known to lead to a memcached.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::failure::Failure;
use crate::clock;
use crate::net::listener::Address;
use crate::net::stream::Stream;
use crate::protocol::binary;
use crate::protocol::reply::{self, Outcome, Part, REPLY_LINE_BYTES_MAX, Shape};

/// What is spoken on a connection; a memcached goes by the first byte it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Text and meta commands.
    Text,
    /// Binary frames.
    Binary,
}

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
/// server's health. [`Failure::NoBinary`] for whatever goes wrong once the
/// connection is there, if it is to be a binary one: what is wrong with the
/// server itself shows in its other connections.
pub async fn dial(
    address: &Address,
    dialect: Dialect,
    timeout: Duration,
) -> Result<Stream, Failure> {
    let mut late = Failure::ConnectTimedOut;
    let attempt = async {
        let mut stream = connect(address).await.map_err(|error| classify(&error))?;
        if dialect == Dialect::Binary {
            late = Failure::NoBinary;
        }
        match &mut stream {
            Stream::Tcp(stream) => greet(stream, dialect).await?,
            Stream::Unix(stream) => greet(stream, dialect).await?,
        }
        Ok(stream)
    };
    // A dropped attempt loses a connection that nobody has used yet.
    let result = clock::timeout(timeout, attempt).await;
    result.unwrap_or(Err(late))
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
async fn greet(
    stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin),
    dialect: Dialect,
) -> Result<(), Failure> {
    match dialect {
        Dialect::Text => greet_in_text(stream).await,
        Dialect::Binary => greet_in_binary(stream).await.map_err(|_| Failure::NoBinary),
    }
}

/// Asks for the version in the binary dialect. Anything but its proper answer is
/// an error.
async fn greet_in_binary(
    stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin),
) -> Result<(), Failure> {
    let hello = binary::Request {
        opcode: binary::Opcode::Version,
        opaque: fastrand::u32(..),
        cas: 0,
        extras: binary::Extras::None,
        key: b"",
        value: b"",
    };
    let expected = binary::reply::expected(hello.opcode, hello.opaque);
    let request = hello.header().to_bytes();
    succeed(stream, &request, Shape::Binary, expected).await
}

async fn greet_in_text(
    stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin),
) -> Result<(), Failure> {
    succeed(stream, HELLO, Shape::Version, 0).await
}

/// As [`exchange`], where the server has to do as it is told.
async fn succeed(
    stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin),
    request: &[u8],
    shape: Shape,
    expected: u64,
) -> Result<(), Failure> {
    let outcome = exchange(stream, request, shape, expected).await?;
    if outcome.is_error() {
        return Err(Failure::Protocol);
    }
    Ok(())
}

/// Sends a request and reads its reply, which must be short and all that comes.
/// Returns what the reply says.
pub(super) async fn exchange(
    stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin),
    request: &[u8],
    shape: Shape,
    expected: u64,
) -> Result<Outcome, Failure> {
    let written = stream.write_all(request).await;
    written.map_err(|_| Failure::Closed)?;
    let mut answer = Vec::with_capacity(64);
    loop {
        match reply::cut(shape, expected, &answer) {
            Ok(Part::Whole {
                len,
                outcome,
                in_step: true,
            }) if len == answer.len() => return Ok(outcome),
            Ok(Part::More { need }) if need.max(answer.len()) <= REPLY_LINE_BYTES_MAX => {}
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
        tokio::join!(greet(&mut ours, Dialect::Text), server).0
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

    #[tokio::test]
    async fn only_a_memcached_that_speaks_it_is_accepted_in_binary() {
        for (status, status_fits) in [
            (binary::Status::Ok, true),
            (binary::Status::UnknownCommand, false),
        ] {
            let (mut ours, mut theirs) = tokio::io::duplex(64 * 1024);
            let server = async move {
                let mut hello = [0; binary::HEADER_BYTES];
                theirs.read_exact(&mut hello).await.unwrap();
                let hello = binary::Header::read(&hello).unwrap();
                let mut answer = Vec::new();
                binary::Response {
                    opcode: hello.opcode,
                    opaque: hello.opaque,
                    status: status.code(),
                    value: b"1.6.45",
                    ..binary::Response::default()
                }
                .encode(&mut answer);
                theirs.write_all(&answer).await.unwrap();
            };
            let (greeted, ()) = tokio::join!(greet(&mut ours, Dialect::Binary), server);
            assert_eq!(greeted.is_ok(), status_fits);
        }
        let (mut ours, mut theirs) = tokio::io::duplex(64 * 1024);
        let server = async move { theirs.write_all(b"ERROR\r\n").await.unwrap() };
        let (greeted, ()) = tokio::join!(greet(&mut ours, Dialect::Binary), server);
        assert_eq!(greeted, Err(Failure::NoBinary));
    }
}
