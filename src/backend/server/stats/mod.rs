//! `stats`: what the server tells about itself.
//!
//! The names are memcached's, as monitoring tools read them, and the values are
//! true: what does not exist here, such as slabs to move, is told as none.

mod general;
mod items;
mod settings;

use std::fmt::{Display, Write as _};
use std::sync::atomic::Ordering;

use super::command::unknown;
use super::shared::Shared;
use crate::clock;
use crate::protocol::number::read_u32;
use crate::protocol::request::Words;

/// Lines of `STAT name value`.
#[derive(Debug, Default)]
struct Report(String);

impl Report {
    fn line(&mut self, name: &str, value: impl Display) {
        // Writing to a string cannot fail.
        let _ = write!(self.0, "STAT {name} {value}\r\n");
    }

    /// A line for each counter that is always nothing here.
    fn zeros(&mut self, names: &[&str]) {
        names.iter().for_each(|name| self.line(name, 0));
    }

    fn finish(mut self) -> String {
        self.0.push_str("END\r\n");
        self.0
    }
}

fn yes(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}

/// The reports that memcached finds by the start of their names, in its order.
const ABBREVIATED: [&str; 5] = ["reset", "detail", "settings", "cachedump", "conns"];

/// Answers `stats` with its words.
pub(super) fn report(shared: &Shared, args: &[u8], now: u32, out: &mut Vec<u8>) {
    let mut words = Words::new(args);
    let Some(word) = words.next() else {
        return out.extend_from_slice(general::report(shared, now).as_bytes());
    };
    let name = ABBREVIATED
        .into_iter()
        .find(|name| name.as_bytes().starts_with(word))
        .or_else(|| str::from_utf8(word).ok())
        .unwrap_or_default();
    let text = match name {
        "reset" => {
            reset(shared);
            "RESET\r\n".to_owned()
        }
        "detail" => detail(shared, words.next()),
        "settings" => settings::report(shared),
        "cachedump" => cachedump(shared, words, now),
        "conns" => conns(shared),
        "items" => items::report_items(shared, now),
        "slabs" => items::report_slabs(shared),
        "sizes" => items::report_sizes(shared),
        _ => format!("{}\r\n", unknown()),
    };
    out.extend_from_slice(text.as_bytes());
}

/// What the binary dialect has of them, by name and value; `None` if there is no such
/// report. Names may go on after the end of a report's own, as in memcached.
pub(super) fn report_binary(
    shared: &Shared,
    key: &[u8],
    now: u32,
) -> Option<Vec<(String, String)>> {
    let text = match key {
        b"" => general::report(shared, now),
        b"items" => items::report_items(shared, now),
        b"slabs" => items::report_slabs(shared),
        b"sizes" => items::report_sizes(shared),
        key if key.starts_with(b"reset") => {
            reset(shared);
            String::new()
        }
        key if key.starts_with(b"settings") => settings::report(shared),
        key => match key.strip_prefix(b"detail")? {
            _ if !shared.settings.dump => return None,
            word if word.starts_with(b" dump") => {
                return Some(vec![("detailed".to_owned(), shared.detail.dump())]);
            }
            word if word.starts_with(b" on") || word.starts_with(b" off") => {
                shared.detail.enable(word.starts_with(b" on"));
                String::new()
            }
            _ => return None,
        },
    };
    let lines = text.lines().filter_map(|line| line.strip_prefix("STAT "));
    let pairs = lines.filter_map(|line| line.split_once(' '));
    Some(
        pairs
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
    )
}

/// Counts that everything was dropped.
pub(super) fn count_flush(shared: &Shared) {
    shared.flushes.fetch_add(1, Ordering::Relaxed);
}

fn reset(shared: &Shared) {
    shared.store.reset_counters();
    shared.detail.clear();
    shared.flushes.store(0, Ordering::Relaxed);
    shared.reset_clients();
    shared.watch.reset_counts();
}

fn detail(shared: &Shared, word: Option<&[u8]>) -> String {
    if !shared.settings.dump {
        return "CLIENT_ERROR stats detail not allowed\r\n".to_owned();
    }
    match word {
        Some(b"on") => shared.detail.enable(true),
        Some(b"off") => shared.detail.enable(false),
        Some(b"dump") => return shared.detail.dump(),
        _ => return "CLIENT_ERROR usage: stats detail on|off|dump\r\n".to_owned(),
    }
    "OK\r\n".to_owned()
}

fn cachedump(shared: &Shared, mut words: Words<'_>, now: u32) -> String {
    if !shared.settings.dump {
        return "CLIENT_ERROR stats cachedump not allowed\r\n".to_owned();
    }
    let (Some(class), Some(limit)) = (words.next(), words.next()) else {
        return "CLIENT_ERROR bad command line\r\n".to_owned();
    };
    match (read_u32(class), read_u32(limit)) {
        (Some(class), Some(limit)) => items::dump(shared, class, limit, now),
        _ => "CLIENT_ERROR bad command line format\r\n".to_owned(),
    }
}

/// `stats conns`: where the server listens, and who is there.
fn conns(shared: &Shared) -> String {
    let now = clock::now();
    let mut report = Report::default();
    let mut conn = |number: u64, name: &str, value: &dyn Display| {
        report.line(&format!("{number}:{name}"), value);
    };
    for (number, address) in (0..).zip(&shared.listeners) {
        conn(number, "addr", &address.name);
        conn(number, "state", &"conn_listening");
        conn(
            number,
            "secs_since_last_cmd",
            &now.since(shared.started).as_secs(),
        );
    }
    for (number, presence) in shared.sessions() {
        let listener = shared.listeners.get(presence.listener);
        let state = if presence.watches() {
            "conn_watch"
        } else if presence.is_halfway() {
            "conn_nread"
        } else {
            "conn_parse_cmd"
        };
        match (presence.peer.as_str(), listener) {
            // A client has no address of its own here.
            ("unix", Some(listener)) => conn(number, "addr", &listener.name),
            (peer, _) => conn(number, "addr", &peer),
        }
        if let Some(listener) = listener {
            conn(number, "listen_addr", &listener.name);
        }
        conn(number, "state", &state);
        conn(
            number,
            "secs_since_last_cmd",
            &now.since(presence.last()).as_secs(),
        );
    }
    report.finish()
}
