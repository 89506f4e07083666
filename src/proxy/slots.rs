//! The answers a client is owed, in the order it asked.
//!
//! Servers answer when they like. An answer whose turn has come goes straight to
//! the client; one that is early is parked until those before it are there.

use std::collections::VecDeque;

use bytes::Bytes;

use super::binary;
use super::merge::Merge;
use crate::net::held::Held;
use crate::net::outbox::{Outbox, SHARE_BYTES_MIN};
use crate::protocol::binary::{Opcode, Response};
use crate::protocol::reply::Outcome;

/// Which answers the client does not want to hear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quiet {
    /// It wants all.
    Not,
    /// None at all (`noreply`), not even errors: whoever does not read an answer
    /// would take it for that of the next request.
    All,
    /// Not that there is no such item (`q` of `mg`).
    Misses,
    /// Not that all went well (`q` of the others).
    Successes,
}

impl Quiet {
    /// Whether an answer that says `outcome` is kept back.
    #[inline]
    pub fn hides(self, outcome: Outcome) -> bool {
        match self {
            Self::Not => false,
            Self::All => true,
            Self::Misses => outcome == Outcome::Miss,
            Self::Successes => outcome == Outcome::Done,
        }
    }
}

/// What a request was, as far as its answer depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Which answers are kept back.
    pub quiet: Quiet,
    /// What is answered when the server fails: how this dialect says "no such
    /// item", if the pool wants failures told as misses; else the failure.
    pub miss: Option<&'static [u8]>,
}

/// One answer owed.
#[derive(Debug)]
pub enum Slot {
    /// A server has been asked.
    Waiting(Asked),
    /// A server has been asked for a binary client.
    Binary(binary::Asked),
    /// Several servers have been asked for parts of it.
    Merging(Box<Merge>),
    /// Several servers have been asked for parts of a binary client's run.
    Batching(Box<binary::Batch>),
    /// Several servers have been told the same.
    Gathering(Box<Gather>),
    /// It is there: so many bytes of the parking place.
    Parked {
        /// Where they begin.
        start: usize,
        /// How many.
        len: usize,
    },
    /// It is there, in memory of its own.
    Shared(Bytes),
    /// It is there: a few bytes of the parking place, then memory of its own.
    Framed {
        /// Where those bytes begin.
        start: usize,
        /// What follows them.
        body: Bytes,
        /// How many they are.
        len: u32,
    },
}

/// One answer for what several servers have been told.
#[derive(Debug)]
pub struct Gather {
    /// Servers that have not answered yet.
    pub pending: usize,
    /// The answer: that all did as told, or what the first said that did not.
    pub answer: Vec<u8>,
    /// Whether a server did not do as told.
    pub failed: bool,
    /// Whether the client wants no answer.
    pub quiet: bool,
    /// What a binary client has asked, with which opaque. It is told of a failure
    /// even if it was quiet.
    pub binary: Option<(Opcode, u32)>,
}

impl Gather {
    /// For a request of a binary client, with no server told yet.
    pub fn binary(opcode: Opcode, opaque: u32) -> Self {
        let mut answer = Vec::new();
        Response {
            opcode: opcode.byte(),
            opaque,
            ..Response::default()
        }
        .encode(&mut answer);
        Self {
            pending: 0,
            answer,
            failed: false,
            quiet: opcode.is_quiet(),
            binary: Some((opcode, opaque)),
        }
    }

    /// Whether nothing is answered.
    fn is_silent(&self) -> bool {
        self.quiet && !(self.failed && self.binary.is_some())
    }

    /// One server has answered: with nothing to add, or with a complaint.
    pub fn answered(&mut self, complaint: Option<Vec<u8>>) {
        self.pending = self.pending.saturating_sub(1);
        if let Some(complaint) = complaint
            && !std::mem::replace(&mut self.failed, true)
        {
            self.answer = match self.binary {
                Some((opcode, opaque)) => binary::admin::retold(opcode, opaque, &complaint),
                None => complaint,
            };
        }
    }
}

/// The answers owed to one client.
#[derive(Debug, Default)]
pub struct Slots {
    owed: VecDeque<Slot>,
    /// The number of the request at the front.
    first: u64,
    /// Bytes of answers that are early, one after another.
    parked: Vec<u8>,
    /// How many of them are still needed.
    parked_live: usize,
    /// Bytes of early answers in memory of their own.
    shared: usize,
    held: Held,
}

/// A parking place that holds this much more than is needed is tidied up.
const PARKED_WASTE_MAX: usize = 64 * 1024;

impl Slots {
    /// Answers owed.
    #[inline]
    pub fn len(&self) -> usize {
        self.owed.len()
    }

    /// Whether nothing is owed.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.owed.is_empty()
    }

    /// Bytes of answers that are early.
    #[inline]
    pub fn parked_bytes(&self) -> usize {
        self.parked_live + self.shared
    }

    /// Owes one more answer; returns the number of its request.
    #[inline]
    pub fn push(&mut self, slot: Slot) -> u64 {
        let number = self.first.wrapping_add(to_u64(self.owed.len()));
        self.owed.push_back(slot);
        number
    }

    /// The answer to request `number`, if it is still owed.
    #[inline]
    pub fn get_mut(&mut self, number: u64) -> Option<&mut Slot> {
        let at = usize::try_from(number.wrapping_sub(self.first)).ok()?;
        self.owed.get_mut(at)
    }

    /// Gives the answer to request `number`: to the client if its turn has come,
    /// with those behind it that are there.
    #[inline]
    pub fn answer(&mut self, number: u64, bytes: &[u8], owner: Option<&Bytes>, outbox: &Outbox) {
        let at = number.wrapping_sub(self.first);
        if at == 0 {
            send(bytes, owner, outbox);
            self.pop();
            self.send_ready(outbox);
            return;
        }
        let parked = match owner {
            Some(owner) if bytes.len() >= SHARE_BYTES_MIN => {
                self.shared += bytes.len();
                Slot::Shared(owner.slice_ref(bytes))
            }
            _ => {
                let start = self.parked.len();
                self.parked.extend_from_slice(bytes);
                self.parked_live += bytes.len();
                Slot::Parked {
                    start,
                    len: bytes.len(),
                }
            }
        };
        self.park(number, parked);
    }

    fn park(&mut self, number: u64, parked: Slot) {
        self.held.set(self.parked_bytes());
        if let Some(slot) = self.get_mut(number) {
            *slot = parked;
        }
    }

    /// As [`Self::answer`], for an answer in two pieces, of which `owner` may own
    /// the second.
    #[inline]
    pub fn answer_framed(
        &mut self,
        number: u64,
        head: &[u8],
        body: &[u8],
        owner: Option<&Bytes>,
        outbox: &Outbox,
    ) {
        if number == self.first {
            outbox.push(head);
            return self.answer(number, body, owner, outbox);
        }
        let start = self.parked.len();
        self.parked.extend_from_slice(head);
        self.parked_live += head.len();
        let parked = match owner {
            Some(owner) if body.len() >= SHARE_BYTES_MIN => {
                self.shared += body.len();
                Slot::Framed {
                    start,
                    body: owner.slice_ref(body),
                    len: u32::try_from(head.len()).unwrap_or(u32::MAX),
                }
            }
            _ => {
                self.parked.extend_from_slice(body);
                self.parked_live += body.len();
                Slot::Parked {
                    start,
                    len: head.len() + body.len(),
                }
            }
        };
        self.park(number, parked);
    }

    /// Takes what is known of request `number`, to answer it.
    #[inline]
    pub fn take(&mut self, number: u64) -> Option<Slot> {
        let slot = self.get_mut(number)?;
        Some(std::mem::replace(slot, Slot::Parked { start: 0, len: 0 }))
    }

    fn pop(&mut self) -> Option<Slot> {
        let slot = self.owed.pop_front()?;
        self.first = self.first.wrapping_add(1);
        Some(slot)
    }

    /// Sends the answers at the front that are there.
    #[inline]
    pub fn send_ready(&mut self, outbox: &Outbox) {
        while let Some(front) = self.owed.front_mut() {
            match front {
                Slot::Waiting(_) | Slot::Binary(_) => break,
                Slot::Merging(merge) if !merge.is_complete() => break,
                Slot::Merging(merge) => merge.send(outbox),
                Slot::Batching(batch) if !batch.is_complete() => break,
                Slot::Batching(batch) => batch.send(outbox),
                Slot::Gathering(gather) if gather.pending > 0 => break,
                Slot::Gathering(gather) if gather.is_silent() => {}
                Slot::Gathering(gather) => outbox.push(&gather.answer),
                Slot::Parked { start, len } => {
                    let bytes = self.parked.get(*start..*start + *len);
                    outbox.push(bytes.unwrap_or_default());
                    self.parked_live = self.parked_live.saturating_sub(*len);
                }
                Slot::Shared(bytes) => {
                    self.shared = self.shared.saturating_sub(bytes.len());
                    outbox.push_shared(bytes.clone());
                }
                Slot::Framed { start, body, len } => {
                    let len = usize::try_from(*len).unwrap_or(usize::MAX);
                    let head = self.parked.get(*start..*start + len);
                    outbox.push(head.unwrap_or_default());
                    self.parked_live = self.parked_live.saturating_sub(len);
                    self.shared = self.shared.saturating_sub(body.len());
                    outbox.push_shared(body.clone());
                }
            }
            match self.pop() {
                Some(Slot::Merging(merge)) => Merge::give_back(merge),
                Some(Slot::Batching(batch)) => binary::Batch::give_back(batch),
                _ => {}
            }
        }
        self.tidy();
    }

    /// Gives memory back that early answers no longer need.
    fn tidy(&mut self) {
        self.held.set(self.parked_bytes());
        if self.parked_live == 0 {
            if self.parked.capacity() > PARKED_WASTE_MAX {
                self.parked = Vec::new();
            }
            self.parked.clear();
        } else if self.parked.len() > 2 * self.parked_live + PARKED_WASTE_MAX {
            let mut parked = Vec::with_capacity(self.parked_live);
            for slot in &mut self.owed {
                let (start, len) = match slot {
                    Slot::Parked { start, len } => (start, *len),
                    Slot::Framed { start, len, .. } => {
                        (start, usize::try_from(*len).unwrap_or(usize::MAX))
                    }
                    _ => continue,
                };
                let bytes = self.parked.get(*start..*start + len).unwrap_or_default();
                *start = parked.len();
                parked.extend_from_slice(bytes);
            }
            self.parked = parked;
        }
    }

    /// Gives back what an idle client does not need.
    pub fn shrink(&mut self) {
        if self.owed.is_empty() {
            self.owed.shrink_to(4);
            self.parked = Vec::new();
        }
    }
}

/// Sends an answer whose turn has come.
#[inline]
fn send(bytes: &[u8], owner: Option<&Bytes>, outbox: &Outbox) {
    match owner {
        Some(owner) if bytes.len() >= SHARE_BYTES_MIN => outbox.push_shared(owner.slice_ref(bytes)),
        _ if bytes.is_empty() => {}
        _ => outbox.push(bytes),
    }
}

fn to_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
