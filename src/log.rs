//! Log events on standard error.
//!
//! Whoever reads them may be slow, or gone: once clients are served a thread of its own
//! writes the lines, and no request waits for them.

use std::io::{self, IsTerminal};
use std::sync::OnceLock;

use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::writer::EitherWriter;

/// Most lines that wait to be written. What comes beyond is lost, and counted.
const LINES_MAX: usize = 8192;

/// Where lines wait.
static QUEUE: OnceLock<NonBlocking> = OnceLock::new();

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
pub struct Log {
    thread: Option<WorkerGuard>,
}

impl Log {
    /// Shows the events that `filter` lets pass, each written before what made it goes on.
    ///
    /// # Errors
    ///
    /// If the filter cannot be read, which a checked configuration excludes.
    pub fn show(filter: &str, format: Format) -> Result<Self, ParseError> {
        let filter = EnvFilter::try_new(filter)?;
        let writer = || match QUEUE.get() {
            Some(queue) => EitherWriter::A(queue.clone()),
            None => EitherWriter::B(io::stderr()),
        };
        let log = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(writer)
            // It tells them to standard error, and panics if that fails.
            .log_internal_errors(false)
            .with_ansi(io::stderr().is_terminal());
        match format {
            Format::Text => log.init(),
            Format::Json => log.json().init(),
        }
        Ok(Self { thread: None })
    }

    /// From now on has a thread write the lines.
    pub fn queue(&mut self) {
        let (queue, thread) = NonBlockingBuilder::default()
            .buffered_lines_limit(LINES_MAX)
            .lossy(true)
            .thread_name("log")
            .finish(io::stderr());
        if QUEUE.set(queue).is_ok() {
            self.thread = Some(thread);
        }
    }
}

/// Lines lost because too many waited.
pub fn lines_lost() -> usize {
    QUEUE
        .get()
        .map_or(0, |queue| queue.error_counter().dropped_lines())
}
