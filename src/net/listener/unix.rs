//! The file of a Unix socket: made, found stale, removed.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;

use super::Options;

/// A socket's file; removed when dropped, unless another has taken its place.
///
/// To be dropped before its socket: until then the system gives its number to no
/// other file.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    id: (u64, u64),
}

impl SocketFile {
    fn at(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            id: id(path)?,
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if id(&self.path).is_ok_and(|id| id == self.id) {
            // If the folder is another user's it stays, and is replaced by who comes next.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn id(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Listens at a path.
pub(super) fn bind(path: &Path, options: Options) -> io::Result<(UnixListener, SocketFile)> {
    remove_stale(path)?;
    let socket = socket()?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file = SocketFile::at(path)?;
    if let Some(mode) = options.mode {
        // Nobody can connect before it listens, whatever the umask has let through.
        fs::set_permissions(path, Permissions::from_mode(mode))?;
    }
    socket.listen(options.backlog)?;
    Ok((UnixListener::from_std(socket.into())?, file))
}

fn socket() -> io::Result<Socket> {
    Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)
}

/// Removes the socket file of a server that is no more. One that still answers,
/// and any other kind of file, is left alone: binding then fails.
fn remove_stale(path: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket()) {
        return Ok(());
    }
    // Without waiting: where the queue is full somebody lives.
    match socket()?.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::super::{Address, Listener};
    use super::*;

    fn path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("ketch-test-{}-{name}.sock", std::process::id()))
    }

    #[tokio::test]
    async fn a_stale_socket_file_is_replaced_and_a_live_one_is_not() {
        let path = path("stale");
        let address = Address::Unix(path.clone());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let private = Options {
            mode: Some(0o600),
            ..Options::default()
        };
        let listener = Listener::bind(&address, private).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(Listener::bind(&address, Options::default()).is_err());
        drop(listener);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn the_file_of_another_who_has_come_instead_stays() {
        let path = path("instead");
        let address = Address::Unix(path.clone());
        let first = Listener::bind(&address, Options::default()).unwrap();
        fs::remove_file(&path).unwrap();
        let second = Listener::bind(&address, Options::default()).unwrap();
        drop(first);
        assert!(UnixStream::connect(&path).is_ok());
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn a_server_whose_queue_is_full_lives() {
        let path = path("full");
        let server = socket().unwrap();
        let address = SockAddr::unix(&path).unwrap();
        server.bind(&address).unwrap();
        server.listen(1).unwrap();
        let mut waiting = Vec::new();
        loop {
            let client = socket().unwrap();
            if client.connect(&address).is_err() {
                break;
            }
            waiting.push(client);
        }
        // In a thread, because it must not wait.
        let (tell, told) = mpsc::sync_channel(1);
        let asked = path.clone();
        thread::spawn(move || tell.send(remove_stale(&asked)));
        assert!(told.recv_timeout(Duration::from_secs(20)).unwrap().is_ok());
        assert!(path.exists());
        fs::remove_file(&path).unwrap();
    }
}
