//! Requests that are not about an item.

use std::rc::Rc;

use super::ask::Path;
use super::owed::{readdressed, status_of};
use crate::pool::{Ask, Asker};
use crate::protocol::binary::{
    Extras, HEADER_BYTES, MAGIC_RESPONSE, Opcode, Request, Response, Status, reply,
};
use crate::protocol::reply::Shape;
use crate::protocol::request::Wire;
use crate::proxy::dispatch::Target;
use crate::proxy::local::{FLUSH_REFUSED, Reported, VERSION, serve_flush};
use crate::proxy::session::{Reading, Session, token};
use crate::proxy::slots::{Gather, Slot};
use crate::proxy::stats::Command;
use crate::proxy::worker::Link;

impl Session {
    pub(super) fn tell_version(&self, request: &Request<'_>) {
        self.respond(&Response {
            opcode: request.opcode.byte(),
            opaque: request.opaque,
            value: VERSION.as_bytes(),
            ..Response::default()
        });
    }

    /// Answers `stat` with what text clients get, a response for each line and an
    /// empty one behind them.
    pub(super) fn tell_stats(&self, request: &Request<'_>, reading: &Reading<'_>) {
        let report = match self.report_on(request.key, reading) {
            Reported::Lines(report) => report,
            Reported::Refused(text) => {
                return self.respond_error(request, Status::AuthFailure, text);
            }
            Reported::Unknown => {
                let (opcode, opaque) = (request.opcode.byte(), request.opaque);
                return self.respond(&Response::of_status(opcode, opaque, Status::NotFound));
            }
        };
        let mut out = Vec::new();
        let response = Response {
            opcode: request.opcode.byte(),
            opaque: request.opaque,
            ..Response::default()
        };
        for line in report.lines() {
            let line = line.strip_prefix("STAT ");
            if let Some((name, value)) = line.and_then(|line| line.split_once(' ')) {
                Response {
                    key: name.as_bytes(),
                    value: value.as_bytes(),
                    ..response
                }
                .encode(&mut out);
            }
        }
        response.encode(&mut out);
        self.answer(&out);
    }

    /// The ways to all servers of the pool; those of shards are asked as shards ask
    /// them.
    fn all_paths<'a>(&self, target: Target<'a>) -> Vec<Path<'a>> {
        if target.pool.replication.is_none() {
            let places = 0..target.view.links.len();
            return places.filter_map(|at| self.path(target, at)).collect();
        }
        let servers = target.view.servers.iter();
        let path = |link: &'a Link| match link {
            Link::Remote(connections) => self.pick(connections).map(Path::Meta),
            Link::Embedded(cache) => Some(Path::Embedded(cache)),
            Link::Shard(shard) => Some(Path::Shard(shard)),
        };
        servers.filter_map(path).collect()
    }

    /// Tells every server of the pool to drop everything, over the connections
    /// that this client's other requests take, so that they stay in order.
    pub(super) fn flush_binary(
        self: &Rc<Self>,
        request: &Request<'_>,
        frame: &[u8],
        reading: &Reading<'_>,
    ) {
        let Some(target) = reading.target() else {
            return self.respond_error(request, Status::Internal, "no route");
        };
        target.view.stats.asked_in_binary(Command::FlushAll);
        if !reading.entry.flush_all {
            return self.respond_error(request, Status::AuthFailure, FLUSH_REFUSED);
        }
        let delay = match request.extras {
            Extras::Exptime(delay) => delay.min(i32::MAX.unsigned_abs()),
            _ => 0,
        };
        let line = format!("flush_all {delay}\r\n");
        let opaque = self.next_opaque();
        let Some((head, extras)) = frame.split_first_chunk::<HEADER_BYTES>() else {
            return;
        };
        let head = readdressed(head, Opcode::Flush.byte(), opaque);
        let mut gather = Gather::binary(request.opcode, request.opaque);
        let mut slots = self.slots.borrow_mut();
        let number = slots.push(Slot::Parked { start: 0, len: 0 });
        for path in self.all_paths(target) {
            let (connection, ask) = match path {
                Path::Binary(connection) => {
                    let ask = Ask {
                        wire: Wire {
                            line: [&head, extras, b""],
                            block: b"",
                        },
                        owner: None,
                        shape: Shape::Binary,
                        expected: reply::expected(Opcode::Flush, opaque),
                        changes: b"",
                    };
                    (connection, ask)
                }
                Path::Meta(connection) => {
                    let ask = Ask {
                        wire: Wire::unchanged(line.as_bytes()),
                        owner: None,
                        shape: Shape::Ok,
                        expected: 0,
                        changes: b"",
                    };
                    (connection, ask)
                }
                Path::Embedded(cache) => {
                    serve_flush(cache, delay);
                    continue;
                }
                // Its members have paths of their own.
                Path::Shard(_) => continue,
            };
            gather.pending += 1;
            let asker: Rc<dyn Asker> = Rc::<Self>::clone(self);
            if let Err(failure) = connection.ask(ask, asker, token(number, 0), reading.now) {
                let text = format!("{} {failure}", connection.server().name);
                let answer = complaint(request.opcode, request.opaque, status_of(failure), &text);
                gather.answered(Some(answer));
            }
        }
        if let Some(slot) = slots.get_mut(number) {
            *slot = Slot::Gathering(Box::new(gather));
        }
        slots.send_ready(&self.outbox);
    }
}

/// What a binary client is told of a complaint, which is a line of text or a
/// server's response.
pub(in crate::proxy) fn retold(opcode: Opcode, opaque: u32, complained: &[u8]) -> Vec<u8> {
    match complained.split_first_chunk::<HEADER_BYTES>() {
        Some((head, body)) if head.first() == Some(&MAGIC_RESPONSE) => {
            [&readdressed(head, opcode.byte(), opaque)[..], body].concat()
        }
        _ => {
            let text = String::from_utf8_lossy(complained.trim_ascii_end());
            let text = text.strip_prefix("SERVER_ERROR ").unwrap_or(&text);
            complaint(opcode, opaque, Status::TemporaryFailure, text)
        }
    }
}

fn complaint(opcode: Opcode, opaque: u32, status: Status, text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    super::owed::error(opcode.byte(), opaque, status, text).encode(&mut out);
    out
}
