//! Going on in the background (`-d`).
//!
//! A process that has threads cannot fork safely, so the program is started a second
//! time, in a session of its own. The first waits until the second serves clients:
//! whoever started it knows whether it works.

use std::env;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use anyhow::Context;
use rustix::stdio::{dup2_stderr, dup2_stdout};

/// What the background process says when it serves clients.
const READY: &str = "ready";

/// Starts the background process with the arguments of this one, and waits until it
/// is ready.
///
/// # Errors
///
/// If it cannot be started, or ends before it is ready.
pub(super) fn detach() -> anyhow::Result<()> {
    let program = env::current_exe().context("cannot find the program's own file")?;
    let mut child = Command::new(program)
        .args(env::args_os().skip(1))
        .arg("--detached")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start a process in the background")?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line)?;
    }
    if line.trim_end() == READY {
        return Ok(());
    }
    // It has said why.
    let status = child.wait()?;
    anyhow::bail!("the process in the background has ended: {status}")
}

/// Makes this the background process: it leaves the terminal, and, unless core files
/// are wanted, the folder it was started in.
///
/// # Errors
///
/// Those of the system.
pub(super) fn settle(stay: bool) -> io::Result<()> {
    rustix::process::setsid()?;
    if stay {
        Ok(())
    } else {
        env::set_current_dir("/")
    }
}

/// Tells the process that started this one that clients are served. From now on
/// nobody reads what this one says, unless it is to `keep` its log where it is.
///
/// # Errors
///
/// Those of the system.
pub(super) fn tell_ready(keep: bool) -> io::Result<()> {
    writeln!(io::stdout(), "{READY}")?;
    let nowhere = File::options().write(true).open("/dev/null")?;
    dup2_stdout(&nowhere)?;
    if keep {
        Ok(())
    } else {
        Ok(dup2_stderr(&nowhere)?)
    }
}
