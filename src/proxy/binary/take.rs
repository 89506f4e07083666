//! Every complete request out of what has been read.

use std::rc::Rc;

use super::owed::error;
use crate::net::inbox::{Batch as Read, Consumed};
use crate::protocol::binary::{self, Cut, Opcode, Refused, Response, Status};
use crate::proxy::session::{Reading, Session, consumed};
use crate::proxy::stats::End;

impl Session {
    /// Takes every complete request out of what a binary client has sent.
    pub(in crate::proxy) fn take_binary(
        self: &Rc<Self>,
        read: &Read<'_>,
        reading: &Reading<'_>,
    ) -> Consumed {
        let mut used = 0;
        // Quiet retrievals in a row go to their servers together.
        let mut run = None;
        let target = reading.target();
        let runs = target.is_some_and(|target| target.pool.replication.is_none());
        let taken = loop {
            used += self.swallow(read.bytes.len() - used);
            let rest = read.bytes.get(used..).unwrap_or_default();
            if rest.is_empty() || self.stops_reading() {
                break consumed(used, 0, 0);
            }
            match binary::cut(rest, &reading.entry.limits) {
                Cut::Request { request, len } => {
                    let frame = rest.get(..len).unwrap_or_default();
                    if request.opcode.is_quiet() && request.opcode.retrieves() && runs {
                        self.add_to_run(&mut run, &request, frame, reading);
                    } else {
                        self.end_run(&mut run, reading);
                        self.dispatch_binary(&request, frame, reading);
                    }
                    used += len;
                }
                Cut::Refused(refused) => {
                    self.end_run(&mut run, reading);
                    self.refuse_binary(&refused, reading);
                    used += refused.len;
                }
                Cut::More { need } => break consumed(used, need, 0),
                Cut::Close => {
                    self.end(End::Rubbish);
                    break consumed(read.bytes.len(), 0, 0);
                }
            }
            if self.is_ending() {
                // What comes after a `quit` is not read.
                break consumed(read.bytes.len(), 0, 0);
            }
        };
        self.end_run(&mut run, reading);
        taken
    }

    /// Sends a request on its way that does not join others.
    fn dispatch_binary(
        self: &Rc<Self>,
        request: &binary::Request<'_>,
        frame: &[u8],
        reading: &Reading<'_>,
    ) {
        let (opcode, opaque) = (request.opcode.byte(), request.opaque);
        match request.opcode.loud() {
            Opcode::Noop => self.respond(&Response {
                opcode,
                opaque,
                ..Response::default()
            }),
            Opcode::Quit => {
                if !request.opcode.is_quiet() {
                    self.respond(&Response {
                        opcode,
                        opaque,
                        ..Response::default()
                    });
                }
                self.end(End::Client);
            }
            Opcode::Version => self.tell_version(request),
            Opcode::Stat => self.tell_stats(request, reading),
            Opcode::Flush => self.flush_binary(request, frame, reading),
            _ => self.ask_item(request, frame, false, reading),
        }
    }

    /// Answers a request that has a form it must not have.
    fn refuse_binary(self: &Rc<Self>, refused: &Refused<'_>, reading: &Reading<'_>) {
        self.worker.stats.bad_requests.increment();
        if let Some(key) = refused.replaced {
            self.delete_item(key, reading);
        }
        let (opcode, opaque) = (refused.opcode, refused.opaque);
        self.respond(&Response::of_status(opcode, opaque, refused.status));
        if refused.closes {
            self.end(End::Rubbish);
        } else {
            self.swallow_next(refused.swallow);
        }
    }

    /// Deletes what a refused value was to replace, without telling.
    fn delete_item(self: &Rc<Self>, key: &[u8], reading: &Reading<'_>) {
        let Some(target) = reading.target() else {
            return;
        };
        // Where nothing could be stored there is nothing to delete, and nothing to
        // say about it either.
        if self.path(target, target.pool.placement.pick(key)).is_none() {
            return;
        }
        let request = binary::Request {
            opcode: Opcode::Delete,
            opaque: 0,
            cas: 0,
            extras: binary::Extras::None,
            key,
            value: b"",
        };
        let mut frame = Vec::new();
        request.encode(&mut frame);
        self.ask_item(&request, &frame, true, reading);
    }

    /// Answers without asking a server.
    pub(super) fn respond(&self, response: &Response<'_>) {
        let mut out = Vec::new();
        response.encode(&mut out);
        self.answer(&out);
    }

    /// Answers that something went wrong in the proxy itself.
    pub(super) fn respond_error(&self, request: &binary::Request<'_>, status: Status, text: &str) {
        let (opcode, opaque) = (request.opcode.byte(), request.opaque);
        self.respond(&error(opcode, opaque, status, text));
    }
}
