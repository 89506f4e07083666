//! Running the bundled cache.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::{Pid, Signal, geteuid, kill_process};

use super::{DEADLINE, Running, ketch};
use crate::now;
use crate::peer::show;

/// The cache, telling where it listens.
fn start(args: &[&str]) -> Running {
    Running::start(ketch(&["backend", "-v", "-m", "8", "-t", "1", "-u", "root"]).args(args))
}

/// Whether the cache answers there.
fn answers(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_ok_and(|mut stream| is_served(&mut stream))
}

fn is_served(stream: &mut TcpStream) -> bool {
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
    let cache = start(&[&args[..], &["--admin", "localhost:0"]].concat());
    cache.line_with("ready");
    let threads = fs::read_dir(format!("/proc/{}/task", cache.pid())).unwrap();
    // One may have ended meanwhile.
    let status = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("status")).ok();
    for status in threads.filter_map(|thread| status(thread.unwrap())) {
        assert!(
            status.contains(&format!("Uid:\t{uid}\t{uid}\t{uid}\t")),
            "{status}"
        );
    }
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

#[test]
fn there_are_no_more_clients_than_descriptors() {
    for (limit, threads) in [(100, 4), (400, 64)] {
        let mut command = ketch(&["backend", "-v", "-l", "127.0.0.1", "-p", "-1", "-c", "300"]);
        command.args(["-m", "64", "-t", &threads.to_string()]);
        let limit_them = format!("--nofile={limit}");
        let Some(mut limited) = limited(&command, &limit_them) else {
            return show("skipped: needs prlimit, and setpriv to bind root by it");
        };
        let cache = Running::start(&mut limited);
        let port = cache.port();
        let line = cache.line_with("leaves room for fewer clients");
        let room = line.split_once("connections_max=").unwrap().1;
        let room: usize = room.split(' ').next().unwrap().parse().unwrap();
        // Most of what is left is for clients.
        assert!(room + threads * 4 + 30 > limit, "{line}");
        let connect = || TcpStream::connect(("127.0.0.1", port)).unwrap();
        let mut clients: Vec<_> = (0..room).map(|_| connect()).collect();
        assert!(clients.iter_mut().all(is_served));
        let mut told = String::new();
        connect().read_to_string(&mut told).unwrap();
        assert_eq!(told, "ERROR Too many open connections\r\n");
        assert_eq!(cache.end(Signal::TERM), 0);
    }
}

/// A command under a limit that it may not raise, whoever runs it.
fn limited(command: &Command, limit: &str) -> Option<Command> {
    let mut limited = Command::new("prlimit");
    limited.arg(limit);
    if geteuid().is_root() {
        limited.args(["setpriv", "--bounding-set=-sys_resource,-ipc_lock"]);
    }
    let mut tried = Command::new("prlimit");
    let tried = tried.args(limited.get_args()).arg("true").status();
    limited.arg(command.get_program()).args(command.get_args());
    tried.is_ok_and(|tried| tried.success()).then_some(limited)
}

#[test]
fn however_much_is_logged_it_is_our_own() {
    let cache = start(&["-vv", "-l", "127.0.0.1", "-p", "-1"]);
    assert!(answers((Ipv4Addr::LOCALHOST, cache.port()).into()));
    kill_process(cache.pid(), Signal::TERM).unwrap();
    // It ends with the process.
    let lines = std::iter::from_fn(|| cache.log.recv_timeout(DEADLINE).ok());
    let foreign: Vec<_> = lines.filter(|line| !line.contains(" ketch::")).collect();
    assert!(foreign.is_empty(), "{foreign:?}");
}

#[test]
fn memory_that_may_not_be_locked_is_told_and_is_not_locked() {
    let args = ["backend", "-v", "-k", "-l", "127.0.0.1", "-p", "-1"];
    let Some(mut limited) = limited(&ketch(&args), "--memlock=8388608") else {
        return show("skipped: needs prlimit, and setpriv to bind root by it");
    };
    let cache = Running::start(&mut limited);
    let port = cache.port();
    let line = cache.line_with("-k: memory is not locked");
    assert!(line.contains("(ulimit -l)"), "{line}");
    // Twice 64 MiB, and 80 for four threads and five more.
    assert!(line.contains("limit_kib=8192 needed_kib=868352"), "{line}");
    assert!(answers((Ipv4Addr::LOCALHOST, port).into()));
    assert_eq!(cache.end(Signal::TERM), 0);
}

#[test]
fn users_in_a_file_beside_it_are_read_again_in_the_background() {
    let folder = Folder::new("users");
    let (users, socket, pid) = (
        folder.path("users"),
        folder.path("socket"),
        folder.path("pid"),
    );
    fs::write(&users, "joe:secret\n").unwrap();
    let args = ["backend", "-d", "-m", "8", "-t", "1", "-u", "root"];
    let mut command = ketch(&args);
    command.args(["-Y", "users", "-s", &socket, "-P", &pid]);
    assert!(command.current_dir(&folder.0).status().unwrap().success());
    let id = fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
    let cache = Background(Pid::from_raw(id).unwrap());
    assert!(logs_in(&socket, "joe secret"));
    fs::write(&users, "ann:other\n").unwrap();
    kill_process(cache.0, Signal::HUP).unwrap();
    let deadline = now() + DEADLINE;
    while !logs_in(&socket, "ann other") {
        assert!(now() < deadline, "the file is not read again");
        std::thread::yield_now();
    }
}

/// A process that has left its starter; ended with the test.
struct Background(Pid);

impl Drop for Background {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::TERM);
    }
}

fn logs_in(socket: &str, words: &str) -> bool {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    write!(stream, "set x 0 0 {}\r\n{words}\r\n", words.len()).unwrap();
    let mut answer = [0; 8];
    stream.read_exact(&mut answer).is_ok() && &answer == b"STORED\r\n"
}

#[test]
fn users_that_cannot_be_read_again_are_told_without_being_asked() {
    let folder = Folder::new("no-users");
    let (users, socket) = (folder.path("users"), folder.path("socket"));
    fs::write(&users, "joe:secret\n").unwrap();
    let args = [
        "backend", "-m", "8", "-u", "root", "-Y", &users, "-s", &socket,
    ];
    let cache = Running::start(&mut ketch(&args));
    let deadline = now() + DEADLINE;
    while UnixStream::connect(&socket).is_err() {
        assert!(now() < deadline, "does not listen");
        std::thread::yield_now();
    }
    fs::write(&users, "nonsense").unwrap();
    kill_process(cache.pid(), Signal::HUP).unwrap();
    let line = cache.line_with("users stay as they were");
    assert!(line.contains("ERROR") && line.contains(&users), "{line}");
    assert!(logs_in(&socket, "joe secret"));
}

#[test]
fn users_cannot_log_in_where_only_binary_is_spoken() {
    let folder = Folder::new("binary-users");
    let users = folder.path("users");
    fs::write(&users, "joe:secret\n").unwrap();
    for args in [["-B", "binary"], ["-l", "proto[binary]:127.0.0.1:0"]] {
        let output = ketch(&["backend", "-Y", &users]).args(args).output();
        let (code, _, errors) = super::said(&output.unwrap());
        assert_eq!(code, 2, "{errors}");
        assert!(errors.starts_with("-Y: users log in over text"), "{errors}");
    }
}
