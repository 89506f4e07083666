//! A connection, over TCP or a Unix socket, as two halves.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::{TcpStream, UnixStream, tcp, unix};

/// A connected socket.
#[derive(Debug)]
pub enum Stream {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a Unix socket.
    Unix(UnixStream),
}

impl Stream {
    /// Who is at the other end, as far as that has a name.
    pub fn peer(&self) -> String {
        match self {
            Self::Tcp(stream) => stream.peer_addr().map_or_else(
                |_| "tcp:unknown".to_owned(),
                |peer| match peer {
                    std::net::SocketAddr::V4(peer) => format!("tcp:{peer}"),
                    std::net::SocketAddr::V6(peer) => format!("tcp6:{peer}"),
                },
            ),
            Self::Unix(_) => "unix".to_owned(),
        }
    }

    /// The two halves. Dropping the writing one ends the connection's sending
    /// side.
    pub fn into_split(self) -> (ReadHalf, WriteHalf) {
        match self {
            Self::Tcp(stream) => {
                let (read, write) = stream.into_split();
                (ReadHalf::Tcp(read), WriteHalf::Tcp(write))
            }
            Self::Unix(stream) => {
                let (read, write) = stream.into_split();
                (ReadHalf::Unix(read), WriteHalf::Unix(write))
            }
        }
    }
}

/// The half that reads.
#[derive(Debug)]
pub enum ReadHalf {
    /// Of a TCP connection.
    Tcp(tcp::OwnedReadHalf),
    /// Of a Unix connection.
    Unix(unix::OwnedReadHalf),
}

impl ReadHalf {
    /// Reads what has come into several pieces of memory, one after the other. 0
    /// at the end of the stream.
    ///
    /// # Errors
    ///
    /// Those of the socket.
    pub fn poll_read_vectored(
        &self,
        cx: &mut Context<'_>,
        pieces: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            let read = match self {
                Self::Tcp(half) => half.try_read_vectored(pieces),
                Self::Unix(half) => half.try_read_vectored(pieces),
            };
            match read {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read),
            }
            std::task::ready!(match self {
                Self::Tcp(half) => half.as_ref().poll_read_ready(cx),
                Self::Unix(half) => half.as_ref().poll_read_ready(cx),
            })?;
        }
    }
}

impl AsyncRead for ReadHalf {
    #[inline]
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // A read that fills less than `buf` also tells the runtime that the
        // socket is empty, which saves the read that would only say so.
        match self.get_mut() {
            Self::Tcp(half) => Pin::new(half).poll_read(cx, buf),
            Self::Unix(half) => Pin::new(half).poll_read(cx, buf),
        }
    }
}

/// The half that writes.
#[derive(Debug)]
pub enum WriteHalf {
    /// Of a TCP connection.
    Tcp(tcp::OwnedWriteHalf),
    /// Of a Unix connection.
    Unix(unix::OwnedWriteHalf),
}

impl WriteHalf {
    /// Writes what the socket takes at once.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::WouldBlock`] if it takes nothing; others are final.
    #[inline]
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(half) => half.try_write(bytes),
            Self::Unix(half) => half.try_write(bytes),
        }
    }

    /// Writes what the socket takes at once of several pieces.
    ///
    /// # Errors
    ///
    /// As [`Self::try_write`].
    #[inline]
    pub fn try_write_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(half) => half.try_write_vectored(pieces),
            Self::Unix(half) => half.try_write_vectored(pieces),
        }
    }

    /// A second handle to the socket, which must not block either.
    ///
    /// # Errors
    ///
    /// If the process has no descriptor for it.
    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Tcp(half) => {
                let stream: &TcpStream = half.as_ref();
                stream.as_fd().try_clone_to_owned()
            }
            Self::Unix(half) => {
                let stream: &UnixStream = half.as_ref();
                stream.as_fd().try_clone_to_owned()
            }
        }
    }

    /// Has the kernel drop what it holds for the peer when the socket is closed,
    /// instead of going on to offer it.
    pub fn abort(&self) {
        // A socket that is gone holds nothing; one of Unix gives it back anyway.
        if let Self::Tcp(half) = self {
            let stream: &TcpStream = half.as_ref();
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
    }

    /// Waits until the socket takes bytes again.
    ///
    /// # Errors
    ///
    /// If the socket is gone.
    pub async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(half) => half.writable().await,
            Self::Unix(half) => half.writable().await,
        }
    }
}
