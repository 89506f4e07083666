//! Our own program, started on a configuration of the test's.

use std::fs;
use std::io::{BufRead, BufReader, pipe};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::now;

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
    reader: Reader,
}

/// What whoever reads the log does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Reader {
    #[default]
    Reads,
    /// Nothing, and keeps the pipe open.
    Waits,
    /// Closes the pipe once another line has come.
    Leaves,
}

impl Ketch {
    /// Starts the proxy on `config`, whose ports should be 0.
    pub(crate) fn start(config: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ketch-it-{}-{number}.yaml", process::id());
        let file = std::env::temp_dir().join(name);
        fs::write(&file, Self::in_json(config)).unwrap();
        Self::start_on(file)
    }

    /// The text of a configuration whose log this harness can read.
    pub(crate) fn in_json(config: &str) -> String {
        format!("log_format: json\n{config}")
    }

    /// Starts the proxy on a file, which is removed in the end.
    pub(crate) fn start_on(file: PathBuf) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ketch"));
        command
            .args(["proxy", "-c"])
            .arg(&file)
            .stdin(Stdio::null());
        Self::spawn(command, file)
    }

    /// Starts the proxy by a command that leads to it.
    pub(crate) fn spawn(mut command: Command, file: PathBuf) -> Self {
        // Both streams go to one place, as they do under most collectors.
        let (stderr, all) = pipe().unwrap();
        command.stdout(all.try_clone().unwrap()).stderr(all);
        let child = command.spawn().unwrap();
        drop(command);
        let log = Arc::new(Log::default());
        let writer = Arc::clone(&log);
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut log = writer.lines.lock().unwrap();
                log.lines.push(line);
                writer.more.notify_all();
                let waits = |log: &mut Lines| log.reader == Reader::Waits;
                log = writer.more.wait_while(log, waits).unwrap();
                if log.reader == Reader::Leaves {
                    break;
                }
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

    /// Has whoever reads the log do something else.
    pub(crate) fn set_reader(&self, reader: Reader) {
        self.log.lines.lock().unwrap().reader = reader;
        self.log.more.notify_all();
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

    /// Writes another configuration into its file and has it read.
    pub(crate) fn reload(&self, config: &str) -> (u16, String) {
        fs::write(&self.file, Self::in_json(config)).unwrap();
        self.post("/reload")
    }

    /// Its configuration's file.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// Its number among processes.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits until it has ended by itself; returns its exit code.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        let lines = self.log.lines.lock().unwrap();
        let ended = self
            .log
            .more
            .wait_timeout_while(lines, START_MAX, |lines| !lines.ended)
            .unwrap();
        assert!(ended.0.ended, "still there: {:#?}", ended.0.lines);
        drop(ended);
        self.child.wait().unwrap().code()
    }

    /// The same, though nobody reads what it says.
    pub(crate) fn wait_unheard(&mut self) -> Option<i32> {
        let deadline = now() + START_MAX;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(now() < deadline, "still there");
            thread::yield_now();
        }
    }

    /// What the system says of the process ([`crate::status`]).
    pub(crate) fn status(&self, field: &str) -> u64 {
        crate::status(self.pid(), field)
    }

    /// Descriptors that it has open.
    pub(crate) fn descriptors(&self) -> usize {
        let all = fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap();
        all.count()
    }

    /// Asks the admin listener; returns status and body.
    pub(crate) fn ask(&self, path: &str) -> (u16, String) {
        self.call("GET", path)
    }

    /// Has the admin listener do something; returns status and body.
    pub(crate) fn post(&self, path: &str) -> (u16, String) {
        self.call("POST", path)
    }

    fn call(&self, method: &str, path: &str) -> (u16, String) {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(self.admin.unwrap()).unwrap();
        let request =
            format!("{method} {path} HTTP/1.1\r\nhost: ketch\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        (status, body.to_owned())
    }

    /// Waits until a metric is `value`.
    pub(crate) fn wait_for_metric(&self, name: &str, labels: &str, value: f64) {
        let deadline = now() + START_MAX;
        loop {
            let is = self.metric(name, labels);
            if (is - value).abs() < 0.5 {
                return;
            }
            let log = self.log_lines();
            assert!(
                now() < deadline,
                "{name}{{{labels}}} is {is}, not {value}: {log:#?}"
            );
            thread::yield_now();
        }
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
