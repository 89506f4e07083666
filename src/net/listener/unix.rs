//! The file of a Unix socket.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

use super::Options;

/// Removes a Unix socket's file when its listener goes.
#[derive(Debug)]
pub(super) struct UnlinkOnDrop(PathBuf);

impl Drop for UnlinkOnDrop {
    fn drop(&mut self) {
        // Somebody else may have removed it: then there is nothing to do.
        let _ = fs::remove_file(&self.0);
    }
}

/// Listens at a path.
pub(super) fn bind(path: &Path, options: Options) -> io::Result<(UnixListener, UnlinkOnDrop)> {
    remove_stale(path)?;
    let socket = UnixListener::bind(path)?;
    let guard = UnlinkOnDrop(path.to_owned());
    if let Some(mode) = options.mode {
        fs::set_permissions(path, Permissions::from_mode(mode))?;
    }
    Ok((socket, guard))
}

/// Removes the socket file of a server that is no more. One that still answers,
/// and any other kind of file, is left alone: binding then fails.
fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => {
            match std::os::unix::net::UnixStream::connect(path) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    fs::remove_file(path)
                }
                _ => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Address, Listener};
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_file_is_replaced_and_a_live_one_is_not() {
        let path = std::env::temp_dir().join(format!("ketch-test-{}.sock", std::process::id()));
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
}
