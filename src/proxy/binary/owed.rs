//! The answer to one binary request, once its server has spoken or failed.

use bytes::Bytes;

use crate::net::buffers;
use crate::net::outbox::Outbox;
use crate::pool::Failure;
use crate::protocol::binary::translate::from_meta;
use crate::protocol::binary::{HEADER_BYTES, Opcode, Response, Status};
use crate::protocol::reply::Outcome;
use crate::proxy::slots::Slots;
use crate::proxy::stats::WorkerStats;

/// What a request was, as far as its answer depends on it.
#[derive(Debug)]
pub struct Asked {
    /// The opcode as sent.
    pub opcode: Opcode,
    /// The opaque as sent.
    pub opaque: u32,
    /// Whether its server was asked in meta commands.
    pub meta: bool,
    /// Whether nothing at all is answered: the proxy asked by itself.
    pub hidden: bool,
    /// Whether a failure is told as "no such item".
    pub miss: bool,
    /// The key, where an answer made up here has to name it.
    pub key: Box<[u8]>,
}

impl Asked {
    /// Whether the client does not hear an answer that says `outcome`.
    #[inline]
    fn keeps_back(&self, outcome: Outcome) -> bool {
        if self.hidden {
            return true;
        }
        self.opcode.is_quiet()
            && match outcome {
                Outcome::Miss => true,
                Outcome::Done => !self.opcode.retrieves(),
                _ => false,
            }
    }

    /// Gives the client what its server has said.
    #[inline]
    pub fn answer(
        &self,
        slots: &mut Slots,
        number: u64,
        (bytes, owner, outcome): (&[u8], Option<&Bytes>, Outcome),
        outbox: &Outbox,
    ) {
        if self.keeps_back(outcome) {
            return slots.answer(number, b"", None, outbox);
        }
        if self.meta {
            let answer = from_meta(self.opcode, outcome, bytes);
            let mut head = buffers::take();
            answer.encode_head(self.opcode, self.opaque, &self.key, &mut head);
            slots.answer_framed(number, &head, answer.tail(self.opcode), owner, outbox);
            buffers::give(head);
        } else if let Some((head, body)) = bytes.split_first_chunk::<HEADER_BYTES>() {
            let head = readdressed(head, self.opcode.byte(), self.opaque);
            slots.answer_framed(number, &head, body, owner, outbox);
        }
    }

    /// The answer to a retrieval of a key that counts as holding nothing.
    pub fn absent(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if !self.hidden && !self.opcode.is_quiet() {
            miss(self.opcode, self.opaque, &self.key).encode(&mut out);
        }
        out
    }

    /// The answer to a request that its server did not answer.
    pub fn failure(&self, server: &str, failure: Failure, stats: &WorkerStats) -> Vec<u8> {
        let mut out = Vec::new();
        if self.hidden {
            stats.failures_untold.increment();
        } else if self.miss {
            stats.failures_masked.increment();
            if !self.opcode.is_quiet() {
                miss(self.opcode, self.opaque, &self.key).encode(&mut out);
            }
        } else {
            stats.failures_told.increment();
            let text = format!("{server} {failure}");
            let status = status_of(failure);
            error(self.opcode.byte(), self.opaque, status, &text).encode(&mut out);
        }
        out
    }
}

/// A header with another opcode and opaque.
#[inline]
pub(super) fn readdressed(
    head: &[u8; HEADER_BYTES],
    opcode: u8,
    opaque: u32,
) -> [u8; HEADER_BYTES] {
    let mut head = *head;
    let [
        _,
        at_opcode,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        o0,
        o1,
        o2,
        o3,
        ..,
    ] = &mut head;
    *at_opcode = opcode;
    [*o0, *o1, *o2, *o3] = opaque.to_be_bytes();
    head
}

/// The answer that says "no such item".
fn miss(opcode: Opcode, opaque: u32, key: &[u8]) -> Response<'_> {
    let mut response = Response::of_status(opcode.byte(), opaque, Status::NotFound);
    if opcode.returns_key() {
        (response.key, response.value) = (key, b"");
    }
    response
}

/// An answer that says what went wrong.
pub(super) fn error(opcode: u8, opaque: u32, status: Status, text: &str) -> Response<'_> {
    Response {
        value: text.as_bytes(),
        ..Response::of_status(opcode, opaque, status)
    }
}

/// The status that a failure is told with.
pub(super) fn status_of(failure: Failure) -> Status {
    match failure {
        Failure::QueueFull | Failure::Overload | Failure::Memory => Status::Busy,
        _ => Status::TemporaryFailure,
    }
}
