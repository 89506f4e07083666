//! Running the bundled cache.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, chown};
use std::path::PathBuf;

use rustix::process::{Signal, geteuid};

use super::{DEADLINE, Running, ketch};
use crate::peer::show;

/// The cache, telling where it listens.
fn start(args: &[&str]) -> Running {
    Running::start(ketch(&["backend", "-v", "-m", "8", "-t", "1", "-u", "root"]).args(args))
}

/// Whether the cache answers there.
fn answers(address: SocketAddr) -> bool {
    let Ok(stream) = TcpStream::connect(address) else {
        return false;
    };
    is_served(stream)
}

fn is_served(mut stream: TcpStream) -> bool {
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut answer = [0; 4];
    stream.write_all(b"mn\r\n").unwrap();
    stream.read_exact(&mut answer).is_ok() && &answer == b"MN\r\n"
}

#[test]
fn without_an_address_or_with_a_star_all_are_listened_on() {
    let has_ipv6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    for args in [&["-p", "-1"][..], &["-p", "-1", "-l", "*"]] {
        let cache = start(args);
        let port = cache.port();
        if has_ipv6 {
            // A port that is chosen is that of all.
            assert_eq!(cache.port(), port);
            assert!(answers((Ipv6Addr::LOCALHOST, port).into()));
        }
        assert!(answers((Ipv4Addr::LOCALHOST, port).into()));
        assert_eq!(cache.end(Signal::TERM), 0);
    }
}

/// A folder for one test, gone with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let name = format!("ketch-serve-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn what_root_starts_for_another_user_is_that_users() {
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let nobody = passwd
        .lines()
        .find_map(|line| line.strip_prefix("nobody:x:"));
    let uid = nobody.and_then(|rest| rest.split(':').next()?.parse().ok());
    let Some(uid) = uid.filter(|_| geteuid().is_root()) else {
        return show("skipped: needs root, and a user named nobody");
    };
    let (roots, theirs) = (Folder::new("root"), Folder::new("nobody"));
    chown(&theirs.0, Some(uid), None).unwrap();
    let (socket, pid) = (theirs.path("socket"), roots.path("pid"));
    let args = ["-u", "nobody", "-s", &socket, "-a", "600", "-P", &pid];
    let cache = start(&args);
    cache.line_with("ready");
    let metadata = fs::metadata(&socket).unwrap();
    assert_eq!((metadata.uid(), metadata.mode() & 0o777), (uid, 0o600));
    let number = format!("{}\n", cache.pid().as_raw_nonzero());
    assert_eq!(fs::read_to_string(&pid).unwrap(), number);
    assert_eq!(cache.end(Signal::TERM), 0);
    assert!(fs::metadata(&socket).is_err());
    // It may not be removed, and tells of no process any more.
    assert_eq!(fs::read_to_string(&pid).unwrap(), "");
    // In a folder of root's only root could make a socket.
    let refused = ketch(&["backend", "-u", "nobody", "-s", &roots.path("socket")]).output();
    let errors = String::from_utf8(refused.unwrap().stderr).unwrap();
    assert!(errors.contains("Permission denied"), "{errors}");
}
