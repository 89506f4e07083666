//! Asking the one server of a request's key.

use std::rc::Rc;

use bytes::Bytes;

use super::behind::{changed_key, effect};
use super::owed::{Asked, readdressed};
use crate::net::buffers;
use crate::net::outbox::SHARE_BYTES_MIN;
use crate::pool::{Ask, Asker, Connection, Failure};
use crate::protocol::binary::translate::to_meta;
use crate::protocol::binary::{self, HEADER_BYTES, Status};
use crate::protocol::number::Decimal;
use crate::protocol::reply::{self, Shape};
use crate::protocol::request::Wire;
use crate::protocol::{Cut, Limits, text};
use crate::proxy::dispatch::Target;
use crate::proxy::session::{Reading, Session, token};
use crate::proxy::settings::{MissOnError, ServerProtocol};
use crate::proxy::shard::owned::Owned;
use crate::proxy::shard::{Question, Shard};
use crate::proxy::slots::Slot;
use crate::proxy::stats::Command;
use crate::proxy::worker::{Embedded, Link};

/// How a server is asked.
#[derive(Clone, Copy)]
pub(super) enum Path<'a> {
    /// In frames.
    Binary(&'a Rc<Connection>),
    /// In meta commands.
    Meta(&'a Rc<Connection>),
    /// By a function call, in meta commands too: what the cache does with them
    /// is the same, and there is one thing to keep right.
    Embedded(&'a Embedded),
    /// By a task, in meta commands: which of several servers is asked is the
    /// shard's business.
    Shard(&'a Rc<Shard>),
}

/// One request as it is sent, and as it is owed.
#[derive(Clone, Copy)]
struct Item<'a> {
    request: &'a binary::Request<'a>,
    frame: &'a [u8],
    owner: Option<&'a Bytes>,
}

impl Session {
    /// The way to the server at this place of the pool.
    #[inline]
    pub(super) fn path<'a>(&self, target: Target<'a>, at: usize) -> Option<Path<'a>> {
        match (target.view.links.get(at)?, target.pool.server_protocol) {
            (Link::Embedded(cache), _) => Some(Path::Embedded(cache)),
            (Link::Shard(shard), _) => Some(Path::Shard(shard)),
            (Link::Remote(connections), ServerProtocol::Meta) => {
                self.pick(connections).map(Path::Meta)
            }
            (Link::Remote(_), ServerProtocol::AsClient) => {
                let way = target.view.binary.get(at)?.as_ref()?;
                self.pick(way.connections()).map(Path::Binary)
            }
        }
    }

    /// Asks the server of an item. Nothing is answered to a `hidden` request,
    /// which is the proxy's own.
    pub(super) fn ask_item(
        self: &Rc<Self>,
        request: &binary::Request<'_>,
        frame: &[u8],
        hidden: bool,
        reading: &Reading<'_>,
    ) {
        let Some(target) = reading.target() else {
            return self.respond_error(request, Status::Internal, "no route");
        };
        if !hidden {
            let command = Command::of_opcode(request.opcode);
            target.view.stats.asked_in_binary(command);
        }
        let mut at = target.pool.placement.pick(request.key);
        let detour = self.detour(target, request.key, at);
        if let Some(detour) = &detour {
            at = detour.at;
        }
        let Some(path) = self.path(target, at) else {
            return self.respond_error(request, Status::Internal, "no server for this key");
        };
        let masks = target.pool.miss_on_error == MissOnError::Always;
        let asked = Asked {
            opcode: request.opcode,
            opaque: request.opaque,
            meta: !matches!(path, Path::Binary(_)),
            hidden,
            miss: masks && request.opcode.retrieves(),
            key: if request.opcode.returns_key() {
                request.key.into()
            } else {
                Box::default()
            },
        };
        let item = Item {
            request,
            frame,
            owner: reading.owner,
        };
        if let Path::Binary(connection) | Path::Meta(connection) = path {
            let is_answered = match &detour {
                Some(detour) => self.turn_item(detour, request, &asked, connection),
                None => {
                    connection.server().missed.any()
                        && self.answer_behind_item(request, &asked, connection)
                }
            };
            if is_answered {
                return;
            }
        }
        match path {
            Path::Binary(connection) => self.ask_in_binary(item, asked, connection, reading),
            Path::Meta(connection) => self.ask_in_meta(item, asked, connection, reading),
            Path::Embedded(cache) => self.serve_item(item, &asked, cache),
            Path::Shard(shard) => self.ask_shard_item(item, asked, shard),
        }
    }

    /// Sends the client's frame on, with an opaque of our own.
    #[inline]
    fn ask_in_binary(
        self: &Rc<Self>,
        item: Item<'_>,
        asked: Asked,
        connection: &Rc<Connection>,
        reading: &Reading<'_>,
    ) {
        let Some((head, body)) = item.frame.split_first_chunk::<HEADER_BYTES>() else {
            return;
        };
        let opcode = item.request.opcode.loud();
        let opaque = self.next_opaque();
        let head = readdressed(head, opcode.byte(), opaque);
        let before_value = body.len().saturating_sub(item.request.value.len());
        let ask = Ask {
            wire: Wire {
                line: [&head, body.get(..before_value).unwrap_or_default(), b""],
                block: item.request.value,
            },
            owner: item.owner,
            shape: Shape::Binary,
            expected: binary::reply::expected(opcode, opaque),
            changes: changed_key(item.request),
        };
        let number = self.slots.borrow_mut().push(Slot::Binary(asked));
        let asker: Rc<dyn Asker> = Rc::<Self>::clone(self);
        if let Err(failure) = connection.ask(ask, asker, token(number, 0), reading.now) {
            self.fail_item(number, connection, failure);
        }
    }

    /// Sends a meta command that means the same.
    fn ask_in_meta(
        self: &Rc<Self>,
        item: Item<'_>,
        asked: Asked,
        connection: &Rc<Connection>,
        reading: &Reading<'_>,
    ) {
        let opaque = self.next_opaque();
        let mut line = buffers::take();
        let Some(shape) = to_meta(item.request, opaque, false, &mut line) else {
            buffers::give(line);
            return self.refuse_untold(item.request, asked.hidden);
        };
        let number = self.slots.borrow_mut().push(Slot::Binary(asked));
        if let Err(failure) = connection.admit_change(changed_key(item.request)) {
            self.fail_item(number, connection, failure);
        } else {
            let outbox = connection.outbox();
            outbox.push(&line);
            if shape == Shape::MetaSet {
                let value = item.request.value;
                match item.owner {
                    Some(owner) if value.len() >= SHARE_BYTES_MIN => {
                        outbox.push_shared(owner.slice_ref(value));
                    }
                    _ => outbox.push(value),
                }
                outbox.push(b"\r\n");
            }
            let asker: Rc<dyn Asker> = Rc::<Self>::clone(self);
            let expected = opaque_fingerprint(opaque);
            connection.expect(shape, expected, asker, token(number, 0), reading.now);
        }
        buffers::give(line);
    }

    /// Has a task see to a request to a shard.
    fn ask_shard_item(self: &Rc<Self>, item: Item<'_>, asked: Asked, shard: &Rc<Shard>) {
        let mut text = Vec::new();
        if !told(item.request, self.next_opaque(), &mut text) {
            return self.refuse_untold(item.request, asked.hidden);
        }
        let number = self.slots.borrow_mut().push(Slot::Binary(asked));
        let asker: Rc<dyn Asker> = Rc::<Self>::clone(self);
        let question = Question {
            request: Owned::from_text(text),
            key: item.request.key.into(),
            client: self.number,
            asker,
            token: token(number, 0),
        };
        shard.take_on(effect(item.request), question);
    }

    /// A key that meta commands cannot carry.
    fn refuse_untold(&self, request: &binary::Request<'_>, hidden: bool) {
        if !hidden {
            self.worker.stats.bad_requests.increment();
            let text = "a key this long with such bytes cannot be sent in meta commands";
            self.respond_error(request, Status::InvalidArguments, text);
        }
    }

    /// Asks a cache in this process.
    fn serve_item(&self, item: Item<'_>, asked: &Asked, cache: &Embedded) {
        let mut reply = buffers::take();
        let number = self
            .slots
            .borrow_mut()
            .push(Slot::Parked { start: 0, len: 0 });
        let mut slots = self.slots.borrow_mut();
        match serve(item.request, cache, &mut reply) {
            Some(outcome) => {
                asked.answer(&mut slots, number, (&reply, None, outcome), &self.outbox);
            }
            None => {
                slots.answer(number, b"", None, &self.outbox);
                drop(slots);
                self.refuse_untold(item.request, asked.hidden);
            }
        }
        buffers::give(reply);
    }

    /// Answers a request that its server was not asked.
    fn fail_item(&self, number: u64, connection: &Connection, failure: Failure) {
        let mut slots = self.slots.borrow_mut();
        let Some(Slot::Binary(asked)) = slots.take(number) else {
            return;
        };
        let answer = asked.failure(&connection.server().name, failure, &self.worker.stats);
        slots.answer(number, &answer, None, &self.outbox);
    }
}

/// Has a cache in this process carry out a request, and appends its reply to the
/// meta command; `None` if it cannot be said in one.
pub(super) fn serve(
    request: &binary::Request<'_>,
    cache: &Embedded,
    reply: &mut Vec<u8>,
) -> Option<reply::Outcome> {
    let mut line = buffers::take();
    let mut outcome = None;
    if told(request, request.opaque, &mut line) {
        let limits = Limits {
            value_bytes_max: usize::MAX,
            ..Limits::default()
        };
        if let Cut::Request { request, .. } = text::cut(&line, 0, &limits) {
            outcome = Some(cache.serve(&request, reply));
        }
    }
    buffers::give(line);
    outcome
}

/// Appends the whole meta command that means the same as a request; says whether
/// there is one.
fn told(request: &binary::Request<'_>, opaque: u32, out: &mut Vec<u8>) -> bool {
    let shape = to_meta(request, opaque, false, out);
    if shape == Some(Shape::MetaSet) {
        out.extend_from_slice(request.value);
        out.extend_from_slice(b"\r\n");
    }
    shape.is_some()
}

/// What a meta reply must name.
fn opaque_fingerprint(opaque: u32) -> u64 {
    let digits = Decimal::new(u64::from(opaque));
    let mut word = [b'O'; 11];
    let len = digits.as_bytes().len().min(10);
    for (to, &from) in word.iter_mut().skip(1).zip(digits.as_bytes()) {
        *to = from;
    }
    reply::fingerprint(word.get(..=len).unwrap_or_default())
}
