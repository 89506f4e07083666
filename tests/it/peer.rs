//! The real memcached: found, started on a port of its own, stopped.

use std::env;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::now;
use crate::target::{Kind, Target, Version};

/// How long a memcached may take until it listens. It takes a few
/// milliseconds; the rest is for a machine that is busy with other things.
const START_MAX: Duration = Duration::from_secs(20);
/// The pause between two looks at whether it listens.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// A memcached of our own, or what stands in for one, killed when dropped.
#[derive(Debug)]
pub(crate) struct Peer {
    child: Child,
    target: Target,
}

impl Peer {
    /// As many memcacheds with the settings of [`Self::start`]; `None` if there is no
    /// memcached.
    pub(crate) fn several(count: usize) -> Option<Vec<Self>> {
        (0..count).map(|_| Self::start(&[])).collect()
    }

    /// Starts the program that `MEMCACHED` names, or the one in `PATH`, with
    /// `args` besides those which give it a loopback port of its own.
    ///
    /// Without the program the answer is `None`, and the test says that it was
    /// skipped; with `REQUIRE_PEER=1` that is a failure.
    pub(crate) fn start(args: &[&str]) -> Option<Self> {
        let program = env::var_os("MEMCACHED").unwrap_or_else(|| "memcached".into());
        let program = Path::new(&program);
        let version = match version(program) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                assert!(!is_required(), "{}: {error}", program.display());
                show(&format!("skipped: {}: {error}", program.display()));
                return None;
            }
            version => version.unwrap(),
        };
        let target = Target {
            name: program.display().to_string(),
            kind: Kind::Memcached,
            version,
            behind: None,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        };
        let peer = Self::run(Command::new(program), target, args).unwrap();
        show(&format!("playing on {}", peer.target));
        Some(peer)
    }

    /// Starts our own bundled cache in the same way.
    pub(crate) fn backend(args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ketch"));
        command.arg("backend");
        let target = Target {
            name: "ketch backend".into(),
            kind: Kind::Backend,
            version: Version::NEWEST,
            behind: None,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        };
        Self::run(command, target, args).unwrap()
    }

    /// Stops it where it stands: connections stay, nothing is answered.
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
        let deadline = now() + START_MAX;
        let stat = format!("/proc/{}/stat", self.child.id());
        let stopped = || fs::read_to_string(&stat).unwrap().contains(") T ");
        while !stopped() {
            assert!(now() < deadline, "memcached goes on");
            thread::yield_now();
        }
    }

    /// Lets it go on.
    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).unwrap();
    }

    /// Where it listens and what it is.
    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    /// The number of its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the process has ended; whether it says that all went well.
    pub(crate) fn ended_well(&mut self) -> bool {
        let deadline = now() + START_MAX;
        while now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.success();
            }
            thread::sleep(LOOK_AGAIN);
        }
        false
    }

    fn run(mut command: Command, target: Target, args: &[&str]) -> io::Result<Self> {
        let port_file = PortFile::new();
        // Port -1 lets the system choose; memcached writes its choice into the
        // file. Little memory and few threads: the exchanges need no more.
        command
            .args([
                "-l",
                "127.0.0.1",
                "-p",
                "-1",
                "-U",
                "0",
                "-m",
                "64",
                "-t",
                "2",
            ])
            .args(args)
            .env("MEMCACHED_PORT_FILENAME", &port_file.path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if fs::metadata("/proc/self")?.uid() == 0 {
            command.args(["-u", "root"]);
        }
        // The peer exists before the first wait, so that a failure kills it.
        let mut peer = Self {
            child: command.spawn()?,
            target,
        };
        let deadline = now() + START_MAX;
        loop {
            if let Some(port) = port_file.read() {
                let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
                if TcpStream::connect(address).is_ok() {
                    peer.target.address = address;
                    return Ok(peer);
                }
            }
            if let Some(status) = peer.child.try_wait()? {
                return Err(io::Error::other(format!("the server ended: {status}")));
            }
            if now() > deadline {
                return Err(io::Error::other("the server does not listen"));
            }
            thread::sleep(LOOK_AGAIN);
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing left to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a program that is not there is a failure.
pub(crate) fn is_required() -> bool {
    env::var("REQUIRE_PEER").is_ok_and(|value| value == "1")
}

/// Asks `program` for its version: `memcached 1.6.45`.
fn version(program: &Path) -> io::Result<Version> {
    let output = Command::new(program).arg("-V").output()?;
    String::from_utf8_lossy(&output.stdout)
        .split_whitespace()
        .nth(1)
        .unwrap_or_default()
        .parse()
        .map_err(io::Error::other)
}

/// The file into which memcached writes its port; removed when dropped.
#[derive(Debug)]
struct PortFile {
    path: PathBuf,
}

impl PortFile {
    fn new() -> Self {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let name = format!("ketch-peer-{}-{number}.port", process::id());
        Self {
            path: env::temp_dir().join(name),
        }
    }

    /// The port in `TCP INET: 40123`, once it is there.
    fn read(&self) -> Option<u16> {
        let text = fs::read_to_string(&self.path).ok()?;
        let line = text.lines().find(|line| line.starts_with("TCP "))?;
        line.rsplit(' ').next()?.parse().ok()
    }
}

impl Drop for PortFile {
    fn drop(&mut self) {
        // It is absent if memcached ended before it had a port.
        let _ = fs::remove_file(&self.path);
    }
}

/// Tells whoever runs the tests (`--nocapture` shows it) what was played.
#[expect(
    clippy::print_stderr,
    reason = "a test's output is the terminal, and a skipped test must be seen"
)]
pub(crate) fn show(line: &str) {
    eprintln!("{line}");
}
