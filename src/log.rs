//! Log events on standard error.
//!
//! Whoever reads them may be slow, or gone: once clients are served a thread of its own
//! writes the lines, and nobody waits for them.

use std::collections::VecDeque;
use std::io::{self, IsTerminal, Write};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// Most lines that wait to be written. What comes beyond is lost, and counted.
const LINES_MAX: usize = 8192;

/// How long the end of the process waits for lines that have yet to be written.
const END_MAX: Duration = Duration::from_secs(1);

/// Where lines wait.
static QUEUE: OnceLock<Queue> = OnceLock::new();

/// How events are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object in a line.
    Json,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 2] = [Self::Text, Self::Json];

    /// The name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// The log. Dropped, it waits for a moment until the lines that wait are written.
#[derive(Debug)]
pub struct Log(());

impl Log {
    /// Shows the events that `filter` lets pass, each written before what made it goes on.
    ///
    /// # Errors
    ///
    /// If the filter cannot be read, which a checked configuration excludes.
    pub fn show(filter: &str, format: Format) -> Result<Self, ParseError> {
        let filter = EnvFilter::try_new(filter)?;
        let log = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(|| Line)
            // It tells them to standard error, and panics if that fails.
            .log_internal_errors(false)
            .with_ansi(io::stderr().is_terminal());
        match format {
            Format::Text => log.init(),
            Format::Json => log.json().init(),
        }
        Ok(Self(()))
    }

    /// From now on has a thread write the lines.
    ///
    /// # Errors
    ///
    /// If the system has no thread for it.
    pub fn queue(&self) -> io::Result<()> {
        let queue = || QUEUE.get_or_init(Queue::default).write_all_that_come();
        let thread = thread::Builder::new().name("log".to_owned());
        thread.spawn(queue)?;
        QUEUE.get_or_init(Queue::default);
        Ok(())
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if let Some(queue) = QUEUE.get() {
            queue.wait_until_written(END_MAX);
        }
    }
}

/// Lines lost because too many waited.
pub fn lines_lost() -> u64 {
    QUEUE.get().map_or(0, |queue| queue.lock().lost)
}

/// A line on its way.
struct Line;

impl Write for Line {
    /// Takes a whole line at a time: so are events written.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match QUEUE.get() {
            Some(queue) => queue.push(line),
            None => io::stderr().write_all(line)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Lines that wait for the thread that writes them.
#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    /// There is a line.
    come: Condvar,
    /// There is none, nor is one being written.
    written: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: VecDeque<Box<[u8]>>,
    is_writing: bool,
    lost: u64,
}

impl Waiting {
    fn has_any(&mut self) -> bool {
        self.is_writing || !self.lines.is_empty()
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: &[u8]) {
        let mut waiting = self.lock();
        if waiting.lines.len() < LINES_MAX {
            waiting.lines.push_back(line.into());
            self.come.notify_one();
        } else {
            waiting.lost += 1;
        }
    }

    fn write_all_that_come(&self) {
        let mut waiting = self.lock();
        loop {
            if let Some(line) = waiting.lines.pop_front() {
                waiting.is_writing = true;
                drop(waiting);
                // Nobody is left to be told if this fails.
                let _ = io::stderr().write_all(&line);
                waiting = self.lock();
                waiting.is_writing = false;
            } else {
                self.written.notify_all();
                let more = self.come.wait(waiting);
                waiting = more.unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    fn wait_until_written(&self, longest: Duration) {
        let waiting = self.lock();
        // What is not written by then is lost.
        drop(
            self.written
                .wait_timeout_while(waiting, longest, Waiting::has_any),
        );
    }
}
