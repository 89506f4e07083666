//! The answers to a run of quiet retrievals, put together from those of several
//! servers in the order asked.

use std::cell::RefCell;

use bytes::Bytes;

use super::owed::{error, readdressed, status_of};
use crate::net::outbox::{Outbox, SHARE_BYTES_MIN};
use crate::pool::{Failure, Reply, Verdict};
use crate::protocol::binary::translate::from_meta;
use crate::protocol::binary::{self, HEADER_BYTES, Header, Opcode, Response, Status};
use crate::protocol::reply::{Block, Outcome};
use crate::proxy::settings::MissOnError;
use crate::proxy::stats::WorkerStats;

/// Spare batches that a worker keeps.
const SPARE_MAX: usize = 64;
/// Bytes beyond which a spare batch is not kept.
const SPARE_BYTES_MAX: usize = 32 * 1024;

thread_local! {
    /// Batches come one after another: their memory is lent on.
    #[expect(clippy::vec_box, reason = "what is kept are the boxes")]
    static SPARE: RefCell<Vec<Box<Batch>>> = const { RefCell::new(Vec::new()) };
}

/// One retrieval.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    /// As the client sent them.
    opcode: Opcode,
    opaque: u32,
    /// Where the key lies in `keys`, if the answer has to be made here.
    key_start: u32,
    key_len: u16,
    fragment: u16,
    found: Found,
}

/// What a server has said about a retrieval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// Nothing (yet).
    Nothing,
    /// It could not be asked, or its answer could not be kept.
    Refused(Status),
    /// `len` bytes of `blocks`, and for a large value a piece of `shared`.
    Answer {
        start: u32,
        len: u32,
        shared: Option<u16>,
    },
}

/// The retrievals that one server is asked for.
#[derive(Debug)]
struct Fragment {
    /// Whether it is asked in meta commands.
    meta: bool,
    /// The first retrieval that may still be answered: servers answer in the
    /// order asked.
    next: usize,
    keys: u64,
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Pending,
    Answered,
    /// With what the client is told, if it is told.
    Failed(Status, String),
}

/// A run of quiet retrievals on its way.
#[derive(Debug, Default)]
pub struct Batch {
    /// The opaque that the first one went out with; the others follow.
    base: u32,
    wanted: Vec<Wanted>,
    fragments: Vec<Fragment>,
    keys: Vec<u8>,
    blocks: Vec<u8>,
    shared: Vec<Bytes>,
    bytes: usize,
    bytes_max: usize,
    pending: usize,
    miss_on_error: MissOnError,
}

impl Batch {
    /// An empty one, with memory of an earlier one if there is any. `base` is the
    /// opaque that the first retrieval goes out with.
    pub(super) fn take(miss_on_error: MissOnError, bytes_max: usize, base: u32) -> Box<Self> {
        let mut batch = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
        (batch.miss_on_error, batch.bytes_max, batch.base) = (miss_on_error, bytes_max, base);
        batch
    }

    /// Frees what is kept for later ones: the worker has had nothing to do for a
    /// while.
    pub fn release() {
        drop(SPARE.take());
    }

    /// Keeps the memory of one that is done.
    pub(in crate::proxy) fn give_back(mut batch: Box<Self>) {
        let size = batch.blocks.capacity()
            + batch.keys.capacity()
            + batch.wanted.capacity() * size_of::<Wanted>();
        if size > SPARE_BYTES_MAX {
            return;
        }
        batch.wanted.clear();
        batch.fragments.clear();
        batch.keys.clear();
        batch.blocks.clear();
        batch.shared.clear();
        (batch.bytes, batch.pending) = (0, 0);
        SPARE.with_borrow_mut(|spare| {
            if spare.len() < SPARE_MAX {
                spare.push(batch);
            }
        });
    }

    /// Adds the part of one server, which is asked in meta commands or in
    /// frames; returns its number.
    pub(super) fn add_fragment(&mut self, meta: bool) -> u16 {
        let number = u16::try_from(self.fragments.len()).unwrap_or(u16::MAX);
        self.fragments.push(Fragment {
            meta,
            next: 0,
            keys: 0,
            state: State::Pending,
        });
        self.pending += 1;
        number
    }

    /// Adds a retrieval.
    pub(super) fn add(&mut self, request: &binary::Request<'_>, number: u16) {
        let Some(fragment) = self.fragments.get_mut(usize::from(number)) else {
            return;
        };
        fragment.keys += 1;
        let key: &[u8] = match request.opcode.returns_key() && fragment.meta {
            true => request.key,
            false => b"",
        };
        self.wanted.push(Wanted {
            opcode: request.opcode,
            opaque: request.opaque,
            key_start: to_u32(self.keys.len()),
            key_len: u16::try_from(key.len()).unwrap_or(u16::MAX),
            fragment: number,
            found: Found::Nothing,
        });
        self.keys.extend_from_slice(key);
    }

    /// The retrieval added last cannot be asked.
    pub(super) fn refuse_last(&mut self, status: Status) {
        if let Some(last) = self.wanted.last_mut() {
            last.found = Found::Refused(status);
        }
    }

    /// How many retrievals a server is asked for.
    pub(super) fn keys_of(&self, fragment: u16) -> u64 {
        let fragment = self.fragments.get(usize::from(fragment));
        fragment.map_or(0, |fragment| fragment.keys)
    }

    /// Whether a server is still to be asked or to answer.
    pub(super) fn is_pending(&self, fragment: u16) -> bool {
        self.fragments
            .get(usize::from(fragment))
            .is_some_and(|fragment| fragment.state == State::Pending)
    }

    /// Whether every server has answered or failed.
    #[inline]
    pub(in crate::proxy) fn is_complete(&self) -> bool {
        self.pending == 0
    }

    /// Takes what a server has said.
    pub(in crate::proxy) fn take_reply(&mut self, fragment: u16, reply: &Reply<'_>) -> Verdict {
        match *reply {
            Reply::Blocks {
                bytes,
                blocks,
                owner,
            } => {
                if self.take_blocks(fragment, bytes, blocks, owner).is_none() {
                    return Verdict::Misfit;
                }
            }
            Reply::Whole { .. } => self.answered(fragment),
            Reply::Failed { server, failure } => self.failed(fragment, server, failure),
        }
        Verdict::Fits
    }

    /// `None` if an answer is not one to this server's retrievals, or comes out
    /// of order.
    fn take_blocks(
        &mut self,
        fragment: u16,
        bytes: &[u8],
        blocks: &[Block],
        owner: Option<&Bytes>,
    ) -> Option<()> {
        let meta = self.fragments.get(usize::from(fragment))?.meta;
        let mut rest = bytes;
        for block in blocks {
            let (bytes, behind) = rest.split_at_checked(block.len)?;
            rest = behind;
            if meta {
                self.take_meta(fragment, bytes, Outcome::Hit, owner)?;
            } else {
                self.take_frame(fragment, bytes, owner)?;
            }
        }
        Some(())
    }

    /// The retrieval that an answer with this opaque is for, if it may be.
    #[inline]
    fn claim(&mut self, fragment: u16, opaque: u32, bytes: usize) -> Option<&mut Wanted> {
        let at = usize::try_from(opaque.wrapping_sub(self.base)).ok()?;
        let part = self.fragments.get_mut(usize::from(fragment))?;
        let wanted = self.wanted.get_mut(at)?;
        if wanted.fragment != fragment || at < part.next {
            return None;
        }
        part.next = at + 1;
        self.bytes += bytes;
        Some(wanted)
    }

    #[inline]
    fn take_frame(&mut self, fragment: u16, bytes: &[u8], owner: Option<&Bytes>) -> Option<()> {
        let (head, body) = bytes.split_first_chunk::<HEADER_BYTES>()?;
        let header = Header::read(head)?;
        let (full, start) = (self.is_full_with(bytes.len()), self.blocks.len());
        let shares = shared_number(&self.shared, body, owner);
        let wanted = self.claim(fragment, header.opaque, bytes.len())?;
        if header.opcode != wanted.opcode.byte() {
            return None;
        }
        if full {
            wanted.found = Found::Refused(Status::Busy);
            return Some(());
        }
        let len = if shares.is_some() {
            HEADER_BYTES
        } else {
            bytes.len()
        };
        wanted.found = Found::Answer {
            start: to_u32(start),
            len: to_u32(len),
            shared: shares,
        };
        let head = readdressed(head, header.opcode, wanted.opaque);
        self.blocks.extend_from_slice(&head);
        match (shares, owner) {
            (Some(_), Some(owner)) => self.shared.push(owner.slice_ref(body)),
            _ => self.blocks.extend_from_slice(body),
        }
        Some(())
    }

    fn take_meta(
        &mut self,
        fragment: u16,
        bytes: &[u8],
        outcome: Outcome,
        owner: Option<&Bytes>,
    ) -> Option<()> {
        let answer = from_meta(Opcode::Get, outcome, bytes);
        let (full, start) = (self.is_full_with(bytes.len()), self.blocks.len());
        let shares = shared_number(&self.shared, answer.value, owner);
        let wanted = *self.claim(fragment, answer.opaque, bytes.len())?;
        let key_start = to_usize(wanted.key_start);
        let key_end = key_start + usize::from(wanted.key_len);
        let key = self.keys.get(key_start..key_end).unwrap_or_default();
        let found = if full {
            Found::Refused(Status::Busy)
        } else {
            let blocks = &mut self.blocks;
            answer.encode_head(wanted.opcode, wanted.opaque, key, blocks);
            match (shares, owner) {
                (Some(_), Some(owner)) => self.shared.push(owner.slice_ref(answer.value)),
                _ => blocks.extend_from_slice(answer.tail(wanted.opcode)),
            }
            Found::Answer {
                start: to_u32(start),
                len: to_u32(blocks.len() - start),
                shared: shares,
            }
        };
        let at = usize::try_from(answer.opaque.wrapping_sub(self.base)).ok()?;
        self.wanted.get_mut(at)?.found = found;
        Some(())
    }

    /// Takes what a cache in this process has said of the retrieval added last.
    pub(super) fn served(&mut self, fragment: u16, reply: &[u8], outcome: Outcome) {
        match outcome {
            Outcome::Miss => {}
            Outcome::Hit => {
                if self.take_meta(fragment, reply, outcome, None).is_none() {
                    self.refuse_last(Status::Internal);
                }
            }
            _ => {
                let answer = from_meta(Opcode::Get, outcome, reply);
                self.refuse_last(answer.status);
            }
        }
    }

    fn is_full_with(&self, bytes: usize) -> bool {
        self.bytes.saturating_add(bytes) > self.bytes_max
    }

    /// A server has answered to the end.
    pub(super) fn answered(&mut self, fragment: u16) {
        self.close(fragment, State::Answered);
    }

    /// A server will not answer.
    pub(super) fn failed(&mut self, fragment: u16, server: &str, failure: Failure) {
        let text = format!("{server} {failure}");
        self.close(fragment, State::Failed(status_of(failure), text));
    }

    fn close(&mut self, fragment: u16, state: State) {
        if let Some(fragment) = self.fragments.get_mut(usize::from(fragment))
            && fragment.state == State::Pending
        {
            fragment.state = state;
            self.pending -= 1;
        }
    }

    /// Whether failures are told.
    fn tells_failures(&self) -> bool {
        match self.miss_on_error {
            MissOnError::Always => false,
            // That nothing was found is only worth saying if somebody looked.
            MissOnError::Multiget => {
                let mut parts = self.fragments.iter();
                !parts.any(|part| part.state == State::Answered)
            }
            MissOnError::Never => true,
        }
    }

    /// Retrievals whose server failed before it had answered them.
    fn lost(&self) -> impl Iterator<Item = (&Wanted, Status, &str)> {
        self.wanted
            .iter()
            .filter(|wanted| wanted.found == Found::Nothing)
            .filter_map(|wanted| {
                let part = self.fragments.get(usize::from(wanted.fragment))?;
                match &part.state {
                    State::Failed(status, text) => Some((wanted, *status, text.as_str())),
                    _ => None,
                }
            })
    }

    /// Counts how it has ended.
    pub(in crate::proxy) fn count(&self, stats: &WorkerStats) {
        if self.bytes > self.bytes_max {
            stats.oversized.increment();
        }
        if self
            .fragments
            .iter()
            .all(|part| part.state == State::Answered)
        {
            return;
        }
        let lost = u64::try_from(self.lost().count()).unwrap_or(u64::MAX);
        if self.tells_failures() {
            stats.failures_told.add(lost);
        } else {
            stats.failures_masked.add(lost);
        }
    }

    /// Writes the answers.
    pub(in crate::proxy) fn send(&self, outbox: &Outbox) {
        let tells = self.tells_failures();
        if self.shared.is_empty() {
            return outbox.push_with(|out| {
                for wanted in &self.wanted {
                    out.extend_from_slice(self.copied(wanted));
                    self.excuse(wanted, tells, out);
                }
            });
        }
        for wanted in &self.wanted {
            outbox.push_with(|out| {
                out.extend_from_slice(self.copied(wanted));
                self.excuse(wanted, tells, out);
            });
            if let Found::Answer {
                shared: Some(at), ..
            } = wanted.found
                && let Some(piece) = self.shared.get(usize::from(at))
            {
                outbox.push_shared(piece.clone());
            }
        }
    }

    #[inline]
    fn copied(&self, wanted: &Wanted) -> &[u8] {
        let Found::Answer { start, len, .. } = wanted.found else {
            return b"";
        };
        let start = to_usize(start);
        let copied = self.blocks.get(start..start + to_usize(len));
        copied.unwrap_or_default()
    }

    /// What is said of a retrieval that was not answered: misses are not told.
    #[inline]
    fn excuse(&self, wanted: &Wanted, tells: bool, out: &mut Vec<u8>) {
        let (opcode, opaque) = (wanted.opcode.byte(), wanted.opaque);
        match wanted.found {
            Found::Answer { .. } => {}
            Found::Refused(status) => {
                Response::of_status(opcode, opaque, status).encode(out);
            }
            Found::Nothing => {
                let part = self.fragments.get(usize::from(wanted.fragment));
                if let Some(State::Failed(status, text)) = part.map(|part| &part.state)
                    && tells
                {
                    error(opcode, opaque, *status, text).encode(out);
                }
            }
        }
    }
}

/// The number that a large value gets among those that are shared.
fn shared_number(shared: &[Bytes], value: &[u8], owner: Option<&Bytes>) -> Option<u16> {
    if value.len() < SHARE_BYTES_MIN {
        return None;
    }
    owner?;
    u16::try_from(shared.len()).ok()
}

/// Offsets stay below the bound of a batch, which is checked to fit.
fn to_u32(offset: usize) -> u32 {
    u32::try_from(offset).unwrap_or(u32::MAX)
}

fn to_usize(offset: u32) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}
