//! What the command line does. Part of the program, not of the library.

pub(crate) mod args;
pub(crate) mod backend;
pub(crate) mod check;
mod descriptors;
pub(crate) mod diff;
pub(crate) mod proxy;
pub(crate) mod route;

use std::io;
use std::process::ExitCode;

use ketch::net::listener::Address;

/// A listener that could not be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}")]
struct CannotListen {
    address: Address,
    source: io::Error,
}

/// Arguments that do not go together, or cannot be had.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
struct BadUsage(String);

/// A question that has no answer in this configuration.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct BadQuestion(String);

/// How the process ends because of `error`.
pub(crate) fn exit_code(error: &anyhow::Error) -> ExitCode {
    if error.is::<CannotListen>() {
        args::CANNOT_LISTEN.into()
    } else if error.is::<BadQuestion>() || error.is::<BadUsage>() {
        args::BAD_USAGE.into()
    } else if error.is::<ketch::config::Error>() {
        args::BAD_CONFIGURATION.into()
    } else {
        args::OTHER.into()
    }
}
