//! Commands that are not about a key, as far as the store alone can answer them.

use super::{flush_at, line};
use crate::backend::store::Store;
use crate::protocol::Error;
use crate::protocol::number::read_u32;
use crate::protocol::reply::Outcome;
use crate::protocol::request::{Admin, AdminVerb, Words, flush_delay};

/// The release of memcached whose dialects are spoken, followed by our own name
/// and release: clients that compare versions look at the first part.
pub const VERSION: &str = concat!("1.6.45-ketch-", env!("CARGO_PKG_VERSION"));

/// Carries out a command that is not about a key, as far as the store alone can.
pub fn execute(store: &Store, admin: &Admin<'_>, now: u32, out: &mut Vec<u8>) -> Outcome {
    let (args, noreply, verb) = match *admin {
        Admin::Noop => return say(out, false, "MN"),
        Admin::Version => return say(out, false, &format!("VERSION {VERSION}")),
        Admin::Quit => return Outcome::Done,
        Admin::Stats { .. } => return say(out, false, "END"),
        Admin::Other {
            verb,
            args,
            noreply,
        } => (args, noreply, verb),
    };
    match verb {
        AdminVerb::FlushAll => match flush_delay(args, noreply) {
            Ok(delay) => {
                // One that is negative has passed.
                let delay = delay.and_then(|delay| u32::try_from(delay).ok());
                flush_at(store, delay.unwrap_or(0), now);
                say(out, noreply, "OK")
            }
            Err(error) => refuse(out, noreply, &error.to_string()),
        },
        AdminVerb::Verbosity => match Words::new(args).next().and_then(read_u32) {
            Some(_) => say(out, noreply, "OK"),
            None => refuse(out, noreply, &Error::BadFormat.to_string()),
        },
        _ => refuse(out, noreply, &Error::UnknownCommand.to_string()),
    }
}

fn say(out: &mut Vec<u8>, noreply: bool, text: &str) -> Outcome {
    if !noreply {
        line(out, text);
    }
    Outcome::Done
}

fn refuse(out: &mut Vec<u8>, noreply: bool, text: &str) -> Outcome {
    if !noreply {
        line(out, text);
    }
    Outcome::ClientError
}
