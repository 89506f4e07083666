//! Quiet retrievals in a row: one batch for each server, as a text retrieval of
//! several keys.

use std::rc::Rc;

use super::ask::{Path, serve};
use super::batch::Batch;
use super::behind::{changed_key, effect};
use super::owed::readdressed;
use crate::net::buffers;
use crate::pool::{Asker, Connection};
use crate::protocol::binary::translate::{BATCH_END, to_meta};
use crate::protocol::binary::{self, HEADER_BYTES, Header, MAGIC_REQUEST, Opcode, Status};
use crate::protocol::reply::Shape;
use crate::proxy::remap::Turned;
use crate::proxy::session::{Reading, Session, token};
use crate::proxy::slots::Slot;
use crate::proxy::stats::Command;

/// Most retrievals of a run; those beyond it make another.
const RUN_KEYS_MAX: u32 = 4096;

/// A run that is being taken.
pub(super) struct Run {
    batch: Box<Batch>,
    /// Which part of the batch a server has, by its place in the pool.
    fragments: Vec<Option<u16>>,
    /// The opaque that the first retrieval goes out with; the others follow.
    base: u32,
    keys: u32,
}

impl Session {
    /// Adds a quiet retrieval to the run, and its bytes to what its server will
    /// be sent.
    pub(super) fn add_to_run(
        self: &Rc<Self>,
        run: &mut Option<Run>,
        request: &binary::Request<'_>,
        frame: &[u8],
        reading: &Reading<'_>,
    ) {
        let Some(target) = reading.target() else {
            return self.respond_error(request, Status::Internal, "no route");
        };
        if run.as_ref().is_some_and(|run| run.keys >= RUN_KEYS_MAX) {
            self.end_run(run, reading);
        }
        let run = run.get_or_insert_with(|| Run {
            batch: Batch::take(
                target.pool.miss_on_error,
                reading.view.layout.sessions.multiget_bytes_max,
                self.opaque.get(),
            ),
            fragments: vec![None; target.view.links.len()],
            base: self.opaque.get(),
            keys: 0,
        });
        let command = Command::of_opcode(request.opcode);
        target.view.stats.asked_in_binary(command);
        let mut at = target.pool.placement.pick(request.key);
        if let Some(detour) = self.detour(target, request.key, at) {
            at = detour.at;
            if let Turned::Absent = detour.turn(effect(request), request.key) {
                // Not asked, and so a miss.
                return;
            }
        }
        let (Some(known), Some(path)) = (run.fragments.get_mut(at), self.path(target, at)) else {
            return;
        };
        let fragment = *known.get_or_insert_with(|| begin(&mut run.batch, path));
        let opaque = run.base.wrapping_add(run.keys);
        run.keys += 1;
        run.batch.add(request, fragment);
        let changed = changed_key(request);
        let remote = match path {
            Path::Binary(connection) | Path::Meta(connection) => Some(connection),
            Path::Embedded(_) | Path::Shard(_) => None,
        };
        if !run.batch.is_pending(fragment) {
            if let Some(connection) = remote.filter(|_| !changed.is_empty()) {
                connection.server().missed.miss(changed);
            }
            return;
        }
        if let Some(connection) = remote {
            if connection.server().missed.has(request.key) {
                // Not asked, and so a miss.
                return connection.server().missed.answered_absent();
            }
            if !changed.is_empty() {
                connection.note_change(changed);
            }
        }
        match path {
            Path::Binary(connection) => {
                if let Some((head, body)) = frame.split_first_chunk::<HEADER_BYTES>() {
                    let head = readdressed(head, request.opcode.byte(), opaque);
                    connection.outbox().push_all(&[&head, body]);
                }
            }
            Path::Meta(connection) => connection.outbox().push_with(|out| {
                if to_meta(request, opaque, true, out).is_none() {
                    run.batch.refuse_last(Status::InvalidArguments);
                }
            }),
            Path::Embedded(cache) => {
                let mut reply = buffers::take();
                let mut renamed = *request;
                renamed.opaque = opaque;
                match serve(&renamed, cache, &mut reply) {
                    Some(outcome) => run.batch.served(fragment, &reply, outcome),
                    None => run.batch.refuse_last(Status::InvalidArguments),
                }
                buffers::give(reply);
            }
            // Shards are asked for one key at a time.
            Path::Shard(_) => {}
        }
    }

    /// Ends the run, if there is one: its servers are sent what ends a batch.
    pub(super) fn end_run(self: &Rc<Self>, run: &mut Option<Run>, reading: &Reading<'_>) {
        let (Some(run), Some(target)) = (run.take(), reading.target()) else {
            return;
        };
        let Run {
            mut batch,
            fragments,
            base,
            keys,
        } = run;
        let opaque = base.wrapping_add(keys);
        self.opaque.set(opaque.wrapping_add(1));
        let mut slots = self.slots.borrow_mut();
        let number = slots.push(Slot::Parked { start: 0, len: 0 });
        for (at, fragment) in fragments.into_iter().enumerate() {
            let Some(fragment) = fragment.filter(|&fragment| batch.is_pending(fragment)) else {
                continue;
            };
            let keys = batch.keys_of(fragment);
            let expected = binary::reply::expected_of_batch(keys, opaque);
            let ask = |connection: &Rc<Connection>, end: &[u8], shape| {
                connection.outbox().push(end);
                let asker: Rc<dyn Asker> = Rc::<Self>::clone(self);
                connection.expect(shape, expected, asker, token(number, fragment), reading.now);
            };
            match self.path(target, at) {
                Some(Path::Binary(connection)) => {
                    ask(connection, &noop(opaque), Shape::BinaryBatch);
                }
                Some(Path::Meta(connection)) => ask(connection, BATCH_END, Shape::MetaBatch),
                Some(Path::Embedded(_) | Path::Shard(_)) | None => batch.answered(fragment),
            }
        }
        let complete = batch.is_complete();
        if complete {
            batch.count(&self.worker.stats);
        }
        if let Some(slot) = slots.get_mut(number) {
            *slot = Slot::Batching(batch);
        }
        if complete {
            slots.send_ready(&self.outbox);
        }
    }
}

/// Starts the part of one server, or marks it failed.
fn begin(batch: &mut Batch, path: Path<'_>) -> u16 {
    let fragment = batch.add_fragment(!matches!(path, Path::Binary(_)));
    if let Path::Binary(connection) | Path::Meta(connection) = path
        && let Err(failure) = connection.admit()
    {
        batch.failed(fragment, &connection.server().name, failure);
    }
    fragment
}

/// The request that ends a batch.
fn noop(opaque: u32) -> [u8; HEADER_BYTES] {
    Header {
        magic: MAGIC_REQUEST,
        opcode: Opcode::Noop.byte(),
        opaque,
        ..Header::default()
    }
    .to_bytes()
}
