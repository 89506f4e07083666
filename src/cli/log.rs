//! Log events on standard error.

use std::io::{self, IsTerminal};

use ketch::config::{LogFormat, Settings};
use tracing_subscriber::EnvFilter;

/// Shows events from now on.
///
/// # Errors
///
/// If the filter cannot be read, which a checked configuration excludes.
pub(super) fn start(settings: &Settings) -> anyhow::Result<()> {
    show(&settings.log, settings.log_format)
}

/// Shows the events that `filter` lets pass.
///
/// # Errors
///
/// If the filter cannot be read.
pub(super) fn show(filter: &str, format: LogFormat) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter)?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}
