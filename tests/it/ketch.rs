//! Our own program, started on a configuration of the test's.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{self, Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

/// How long the program may take until it is ready.
const START_MAX: Duration = Duration::from_secs(20);

/// A running `ketch proxy`, killed when dropped.
#[derive(Debug)]
pub(crate) struct Ketch {
    child: Child,
    file: PathBuf,
    log: Arc<Log>,
    /// Where it listens for clients, in the order of the configuration.
    pub(crate) listeners: Vec<SocketAddr>,
    /// Where it listens for operators.
    pub(crate) admin: Option<SocketAddr>,
}

/// What the program has logged so far.
#[derive(Debug, Default)]
struct Log {
    lines: Mutex<Lines>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct Lines {
    lines: Vec<String>,
    ended: bool,
}

impl Ketch {
    /// Starts the proxy on `config`, whose ports should be 0.
    pub(crate) fn start(config: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ketch-it-{}-{number}.yaml", process::id());
        let file = std::env::temp_dir().join(name);
        fs::write(&file, format!("log_format: json\n{config}")).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_ketch"))
            .args(["proxy", "-c"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Log::default());
        let stderr = child.stderr.take().unwrap();
        let writer = Arc::clone(&log);
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                writer.lines.lock().unwrap().lines.push(line);
                writer.more.notify_all();
            }
            writer.lines.lock().unwrap().ended = true;
            writer.more.notify_all();
        });
        let mut ketch = Self {
            child,
            file,
            log,
            listeners: Vec::new(),
            admin: None,
        };
        ketch.wait_for_log("ready");
        for line in ketch.log_lines() {
            let address = field(&line, "address").and_then(|address| address.parse().ok());
            match field(&line, "message").as_deref() {
                Some("listening") => ketch.listeners.extend(address),
                Some("admin listening") => ketch.admin = address,
                _ => {}
            }
        }
        ketch
    }

    /// The only listener, or the first.
    pub(crate) fn address(&self) -> SocketAddr {
        self.listeners[0]
    }

    /// Everything logged so far.
    pub(crate) fn log_lines(&self) -> Vec<String> {
        self.log.lines.lock().unwrap().lines.clone()
    }

    /// Waits until an event with this message has been logged.
    pub(crate) fn wait_for_log(&self, message: &str) {
        let lines = self.log.lines.lock().unwrap();
        let seen = |lines: &Lines| {
            let mut lines = lines.lines.iter();
            lines.any(|line| field(line, "message").as_deref() == Some(message))
        };
        let (lines, timeout) = self
            .log
            .more
            .wait_timeout_while(lines, START_MAX, |lines| !seen(lines) && !lines.ended)
            .unwrap();
        assert!(
            seen(&lines),
            "no {message:?} (timed out: {}) in {:#?}",
            timeout.timed_out(),
            lines.lines
        );
    }

    /// Asks the admin listener; returns status and body.
    pub(crate) fn ask(&self, path: &str) -> (u16, String) {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(self.admin.unwrap()).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: ketch\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        (status, body.to_owned())
    }

    /// The sum of all samples of a metric whose labels hold `labels`.
    pub(crate) fn metric(&self, name: &str, labels: &str) -> f64 {
        let (_, page) = self.ask("/metrics");
        page.lines()
            .filter_map(|line| line.rsplit_once(' '))
            .filter(|(sample, _)| {
                let end = sample.find('{').unwrap_or(sample.len());
                &sample[..end] == name && sample.contains(labels)
            })
            .map(|(_, value)| value.parse::<f64>().unwrap())
            .sum()
    }
}

impl Drop for Ketch {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing left to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.file);
    }
}

/// A field of a log line in JSON; fields of the event stand in `fields`.
fn field(line: &str, name: &str) -> Option<String> {
    let (_, rest) = line.split_once(&format!("\"{name}\":\""))?;
    let (value, _) = rest.split_once('"')?;
    Some(value.to_owned())
}
