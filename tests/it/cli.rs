//! The program as its users call it: arguments in, text and an exit code out.

mod inspect;
mod run;
mod serve;

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// Longest wait for anything that must happen.
const DEADLINE: Duration = Duration::from_secs(20);

/// The program, in the root of the project.
fn ketch(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ketch"));
    command
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(args)
        .stdin(Stdio::null());
    command
}

/// What the program says, and how it ends.
fn output(args: &[&str]) -> (i32, String, String) {
    said(&ketch(args).output().unwrap())
}

fn said(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (
        output.status.code().unwrap_or(-1),
        text(&output.stdout),
        text(&output.stderr),
    )
}

/// The program as it runs; killed with the test if it is still there.
struct Running {
    child: Child,
    /// The lines of its log; ends with it.
    log: Receiver<String>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (sender, log) = mpsc::sync_channel(1024);
        thread::spawn(move || {
            lines
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
        });
        Self { child, log }
    }

    /// The next line of the log that contains `part`.
    fn line_with(&self, part: &str) -> String {
        let mut seen = String::new();
        loop {
            let line = self.log.recv_timeout(DEADLINE);
            assert!(line.is_ok(), "no '{part}' in the log: {line:?}\n{seen}");
            let line = line.unwrap();
            if line.contains(part) {
                return line;
            }
            seen.push_str(&line);
            seen.push('\n');
        }
    }

    /// The port of the next address that is listened on.
    fn port(&self) -> u16 {
        let line = self.line_with("listening");
        line.rsplit(':').next().unwrap().parse().unwrap()
    }

    /// The number of its process.
    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn end(mut self, signal: Signal) -> i32 {
        kill_process(self.pid(), signal).unwrap();
        self.line_with("ending");
        // Its log ends when the process does.
        let rest = std::iter::from_fn(|| Some(self.log.recv_timeout(DEADLINE)));
        let end = rest.into_iter().find_map(Result::err);
        assert_eq!(end, Some(RecvTimeoutError::Disconnected));
        self.child.wait().unwrap().code().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A file for one test, gone with it.
struct TempFile(PathBuf);

impl TempFile {
    fn new(name: &str, text: &str) -> Self {
        let name = format!("ketch-cli-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
