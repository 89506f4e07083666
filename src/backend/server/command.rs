//! Commands about the server itself.

use std::sync::atomic::Ordering;

use super::session::{End, Session};
use super::shared::{Shared, Stop};
use super::stats;
use super::watch;
use crate::backend::execute;
use crate::net::outbox::Writer;
use crate::protocol::Error;
use crate::protocol::number::read_u32;
use crate::protocol::request::{Admin, AdminVerb, Words};

/// Beyond this nothing more is told, as in memcached.
const VERBOSITY_MAX: u32 = 2;

/// The least that `cache_memlimit` takes, in MiB.
const MEMORY_MIB_MIN: u32 = 8;
/// The most; more is taken for a number of bytes.
const MEMORY_MIB_MAX: u32 = 1_000_000_000;

/// Carries out a command about the server.
pub(super) fn execute(
    session: &Session,
    shared: &Shared,
    admin: &Admin<'_>,
    now: u32,
    out: &mut Writer<'_>,
) {
    match *admin {
        Admin::Quit => session.end(End::Client),
        Admin::Stats { args } => stats::report(shared, args, now, out.bytes()),
        Admin::Noop | Admin::Version => {
            execute::execute_admin(&shared.store, admin, now, out.bytes());
        }
        Admin::Other {
            verb,
            args,
            noreply,
        } => {
            let text = match verb {
                AdminVerb::FlushAll => return flush_all(shared, admin, noreply, now, out),
                AdminVerb::Verbosity => verbosity(shared, args),
                AdminVerb::CacheMemlimit => cache_memlimit(shared, args),
                AdminVerb::Shutdown => match shutdown(shared, args) {
                    Some(text) => text,
                    None => return session.end(End::Shutdown),
                },
                AdminVerb::Watch => match watch::begin(session, shared, args, out) {
                    Some(text) => return say(out, text),
                    None => return,
                },
                AdminVerb::Slabs => slabs(args),
                AdminVerb::LruCrawler => lru_crawler(args),
                AdminVerb::Lru => "ERROR",
            };
            if !noreply {
                say(out, text);
            }
        }
    }
}

fn say(out: &mut Writer<'_>, text: &str) {
    let bytes = out.bytes();
    bytes.extend_from_slice(text.as_bytes());
    bytes.extend_from_slice(b"\r\n");
}

fn flush_all(shared: &Shared, admin: &Admin<'_>, noreply: bool, now: u32, out: &mut Writer<'_>) {
    stats::count_flush(shared);
    if shared.settings.flush {
        execute::execute_admin(&shared.store, admin, now, out.bytes());
    } else if !noreply {
        say(out, "CLIENT_ERROR flush_all not allowed");
    }
}

fn verbosity(shared: &Shared, args: &[u8]) -> &'static str {
    match Words::new(args).next().and_then(read_u32) {
        Some(level) => {
            let level = level.min(VERBOSITY_MAX);
            shared.verbosity.store(level, Ordering::Relaxed);
            "OK"
        }
        None => "CLIENT_ERROR bad command line format",
    }
}

fn cache_memlimit(shared: &Shared, args: &[u8]) -> &'static str {
    match Words::new(args).next().and_then(read_u32) {
        None => "ERROR",
        Some(mib) if mib < MEMORY_MIB_MIN => {
            "MEMLIMIT_TOO_SMALL cannot set maxbytes to less than 8m"
        }
        Some(mib) if mib > MEMORY_MIB_MAX => {
            "MEMLIMIT_ADJUST_FAILED input value is megabytes not bytes"
        }
        Some(mib) => {
            let mib = usize::try_from(mib).unwrap_or(usize::MAX);
            shared
                .store
                .set_memory_bytes_max(mib.saturating_mul(1 << 20));
            "OK"
        }
    }
}

/// What the client is told; `None` if the process ends.
fn shutdown(shared: &Shared, args: &[u8]) -> Option<&'static str> {
    if !shared.settings.shutdown {
        return Some("SERVER_ERROR: shutdown not enabled");
    }
    let mut words = Words::new(args);
    match (words.next(), words.next()) {
        (None, _) => shared.request_stop(Stop::Now),
        (Some(b"graceful"), None) => shared.request_stop(Stop::Graceful),
        _ => return Some("CLIENT_ERROR invalid shutdown mode"),
    }
    None
}

/// There are none to move.
fn slabs(args: &[u8]) -> &'static str {
    let mut words = Words::new(args);
    let (verb, first) = (words.next(), words.next());
    match (verb, first.map(read_u32), words.count()) {
        (Some(b"automove"), Some(None), 0) => "CLIENT_ERROR bad command line format",
        (Some(b"automove"), Some(Some(_)), 0) | (Some(b"reassign"), Some(_), 1) => {
            "CLIENT_ERROR slab reassignment disabled"
        }
        _ => "ERROR",
    }
}

/// There is none to steer.
fn lru_crawler(args: &[u8]) -> &'static str {
    let mut words = Words::new(args);
    match (words.next(), words.count()) {
        (Some(b"crawl" | b"metadump" | b"mgdump"), 1) => "CLIENT_ERROR lru crawler disabled",
        _ => "ERROR",
    }
}

/// How a command that does not exist is answered.
pub(super) fn unknown() -> String {
    Error::UnknownCommand.to_string()
}
