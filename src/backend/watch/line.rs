//! Events as lines.

use std::fmt;
use std::net::SocketAddr;

use super::event::{Event, Fetched, Status};
use super::page::Record;

/// The class in which an item is told to be: there is one. What was never in the store
/// is in class 0, as in memcached.
const fn class(is_stored: bool) -> u8 {
    if is_stored { 1 } else { 0 }
}

/// A line that tells of an event, with its end.
pub(super) struct Line<'a> {
    pub(super) record: &'a Record,
    /// The key or the address that it is about.
    pub(super) about: &'a [u8],
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Record {
            gid,
            micros,
            client,
            event,
            ..
        } = *self.record;
        let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
        // memcached leaves out the noughts before a fraction's first other digit. Whoever
        // reads it as a number of microseconds reads the same, others now read it right.
        write!(f, "ts={seconds}.{fraction:06} gid={gid} ")?;
        let key = Encoded(self.about);
        let peer = Peer(self.about);
        match event {
            Event::Fetched { status, bytes } => writeln!(
                f,
                "type=item_get key={key} status={} clsid={} cfd={client} size={bytes}",
                status.word(),
                class(status == Fetched::Found),
            ),
            Event::Stored {
                status,
                how,
                ttl,
                bytes,
            } => writeln!(
                f,
                "type=item_store key={key} status={} cmd={} ttl={ttl} clsid={} cfd={client} \
                 size={bytes}",
                status.word(),
                how.word(),
                class(!matches!(status, Status::TooLarge | Status::NoMemory)),
            ),
            Event::Deleted { by, bytes } => writeln!(
                f,
                "type=deleted key={key} cmd={} clsid={} size={bytes}",
                by.word(),
                class(true),
            ),
            Event::Evicted {
                fetched,
                ttl,
                idle,
                bytes,
            } => writeln!(
                f,
                "type=eviction key={key} fetch={} ttl={ttl} la={idle} clsid={} size={bytes}",
                if fetched { "yes" } else { "no" },
                class(true),
            ),
            Event::Opened => writeln!(f, "type=conn_new {peer} cfd={client}"),
            Event::Closed(reason) => {
                let reason = reason.word();
                writeln!(f, "type=conn_close {peer} reason={reason} cfd={client}")
            }
        }
    }
}

/// A key, with `%XX` for every byte that is no letter, digit, `-`, `.`, `_` or `~`.
struct Encoded<'a>(&'a [u8]);

impl fmt::Display for Encoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
        let mut rest = self.0;
        while !rest.is_empty() {
            let plain = rest.iter().take_while(|&byte| is_plain(byte)).count();
            let (now, later) = rest.split_at(plain);
            // Those are all of one byte.
            f.write_str(str::from_utf8(now).unwrap_or_default())?;
            rest = later;
            if let Some((byte, later)) = later.split_first() {
                write!(f, "%{byte:02X}")?;
                rest = later;
            }
        }
        Ok(())
    }
}

/// A client's address, from what [`Stream::peer`](crate::net::stream::Stream::peer)
/// says of it.
struct Peer<'a>(&'a [u8]);

impl fmt::Display for Peer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = str::from_utf8(self.0).unwrap_or_default();
        let Some((_, address)) = text.split_once(':') else {
            return write!(f, "rip=unix rport=0 transport=local");
        };
        match address.parse::<SocketAddr>() {
            Ok(address) => {
                let (ip, port) = (address.ip(), address.port());
                write!(f, "rip={ip} rport={port} transport=tcp")
            }
            Err(_) => write!(f, "rip=unknown rport=0 transport=tcp"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::{How, Reason, Removed};
    use super::*;

    /// The line of an event, behind its time and number.
    fn line(event: Event, about: &[u8]) -> String {
        let record = Record::of_test(3, 1_700_000_000_000_042, 27, event);
        let line = Line {
            record: &record,
            about,
        };
        let line = line.to_string();
        let rest = line.strip_prefix("ts=1700000000.000042 gid=3 ").unwrap();
        rest.strip_suffix('\n').unwrap().to_owned()
    }

    #[test]
    fn every_kind_of_line_is_as_in_memcached() {
        let fetched = |status, bytes| Event::Fetched { status, bytes };
        assert_eq!(
            line(fetched(Fetched::Found, 4), b"a-b"),
            "type=item_get key=a-b status=found clsid=1 cfd=27 size=4"
        );
        assert_eq!(
            line(fetched(Fetched::Missing, 0), b"n,foo"),
            "type=item_get key=n%2Cfoo status=not_found clsid=0 cfd=27 size=0"
        );
        let stored = |status| Event::Stored {
            status,
            how: How::Cas,
            ttl: 100,
            bytes: 5,
        };
        assert_eq!(
            line(stored(Status::Exists), b"k"),
            "type=item_store key=k status=exists cmd=cas ttl=100 clsid=1 cfd=27 size=5"
        );
        assert_eq!(
            line(stored(Status::TooLarge), b"k"),
            "type=item_store key=k status=too_large cmd=cas ttl=100 clsid=0 cfd=27 size=5"
        );
        let (by, bytes) = (Removed::Meta, 9);
        assert_eq!(
            line(Event::Deleted { by, bytes }, b"k"),
            "type=deleted key=k cmd=md clsid=1 size=9"
        );
        let evicted = Event::Evicted {
            fetched: true,
            ttl: -1,
            idle: 12,
            bytes,
        };
        assert_eq!(
            line(evicted, b"k"),
            "type=eviction key=k fetch=yes ttl=-1 la=12 clsid=1 size=9"
        );
    }

    #[test]
    fn clients_are_told_by_their_address() {
        assert_eq!(
            line(Event::Opened, b"tcp:127.0.0.1:4711"),
            "type=conn_new rip=127.0.0.1 rport=4711 transport=tcp cfd=27"
        );
        assert_eq!(
            line(Event::Closed(Reason::Idle), b"tcp6:[::1]:4711"),
            "type=conn_close rip=::1 rport=4711 transport=tcp reason=idle_timeout cfd=27"
        );
        assert_eq!(
            line(Event::Opened, b"unix"),
            "type=conn_new rip=unix rport=0 transport=local cfd=27"
        );
        assert_eq!(
            line(Event::Opened, b"tcp:unknown"),
            "type=conn_new rip=unknown rport=0 transport=tcp cfd=27"
        );
    }

    #[test]
    fn every_byte_of_a_key_can_be_told() {
        let all: Vec<u8> = (0..=255).collect();
        let text = Encoded(&all).to_string();
        assert!(text.starts_with("%00%01") && text.ends_with("%FE%FF"));
        assert_eq!(text.len(), 66 + 190 * 3);
        assert_eq!(Encoded(b"AZaz09-._~").to_string(), "AZaz09-._~");
    }
}
