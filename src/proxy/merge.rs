//! One answer put together from the answers of several servers.
//!
//! Clients get the items in the order they asked, as from one memcached. That
//! also proves each item to be one that was asked for.

use std::cell::RefCell;
use std::ops::Range;

use bytes::Bytes;

use super::settings::MissOnError;
use crate::net::held::Held;
use crate::net::outbox::{Outbox, SHARE_BYTES_MIN};
use crate::pool::Failure;
use crate::protocol::reply::Block;

/// Spare merges that a worker keeps.
const SPARE_MAX: usize = 256;
/// Bytes beyond which a spare merge is not kept.
const SPARE_BYTES_MAX: usize = 16 * 1024;
/// From how many bytes on a reply counts as held.
const HELD_BYTES_MIN: usize = 16 * 1024;

thread_local! {
    /// Multi-key retrievals come one after another: their memory is lent on.
    #[expect(clippy::vec_box, reason = "what is kept are the boxes")]
    static SPARE: RefCell<Vec<Box<Merge>>> = const { RefCell::new(Vec::new()) };
}

/// Behind the last key of a fragment.
const NO_KEY: u32 = u32::MAX;

/// One key of a multi-key retrieval.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    /// Where the key lies in `keys`.
    start: u32,
    len: u16,
    /// Which fragment asks for it.
    fragment: u16,
    /// The next key of the same fragment.
    next: u32,
    found: Found,
}

/// What a server has said about a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// Nothing (yet).
    Nothing,
    /// A block of `blocks`.
    Copied { start: u32, len: u32 },
    /// A block of `shared`.
    Shared(u32),
}

/// The keys that one server is asked for.
#[derive(Clone, Copy, Debug)]
struct Fragment {
    /// Its first key that may still come.
    next: u32,
    /// Its last key.
    last: u32,
    keys: u32,
    state: FragmentState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FragmentState {
    Pending,
    Answered,
    Failed,
}

/// A multi-key retrieval on its way.
#[derive(Debug, Default)]
pub struct Merge {
    keys: Vec<u8>,
    wanted: Vec<Wanted>,
    fragments: Vec<Fragment>,
    blocks: Vec<u8>,
    shared: Vec<Bytes>,
    bytes: usize,
    held: Held,
    pending: usize,
    /// What the client is told if it is told of a failure: the first one.
    error: Vec<u8>,
    miss_on_error: MissOnError,
    bytes_max: usize,
}

impl Merge {
    /// An empty one, with memory of an earlier one if there is any.
    ///
    /// `keys` holds all keys; the key of each [`Self::add_key`] lies in it.
    pub fn take(keys: &[u8], miss_on_error: MissOnError, bytes_max: usize) -> Box<Self> {
        let mut merge = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
        merge.keys.extend_from_slice(keys);
        merge.miss_on_error = miss_on_error;
        merge.bytes_max = bytes_max;
        merge
    }

    /// Frees what is kept for later ones: the worker has had nothing to do for a
    /// while.
    pub fn release() {
        drop(SPARE.take());
    }

    /// Keeps the memory of one that is done.
    pub(super) fn give_back(mut merge: Box<Self>) {
        let size = merge.keys.capacity()
            + merge.blocks.capacity()
            + merge.wanted.capacity() * size_of::<Wanted>();
        if size > SPARE_BYTES_MAX {
            return;
        }
        merge.keys.clear();
        merge.wanted.clear();
        merge.fragments.clear();
        merge.blocks.clear();
        merge.shared.clear();
        merge.error.clear();
        (merge.bytes, merge.pending) = (0, 0);
        merge.held.set(0);
        SPARE.with_borrow_mut(|spare| {
            if spare.len() < SPARE_MAX {
                spare.push(merge);
            }
        });
    }

    /// Adds a fragment; returns its number. It is pending until it is answered
    /// or fails.
    pub fn add_fragment(&mut self) -> u16 {
        let number = u16::try_from(self.fragments.len()).unwrap_or(u16::MAX);
        self.fragments.push(Fragment {
            next: NO_KEY,
            last: NO_KEY,
            keys: 0,
            state: FragmentState::Pending,
        });
        self.pending += 1;
        number
    }

    /// Adds the key of `len` bytes at `start` to a fragment.
    #[inline]
    pub fn add_key(&mut self, start: usize, len: usize, fragment: u16) {
        let at = to_u32(self.wanted.len());
        self.wanted.push(Wanted {
            start: to_u32(start),
            len: u16::try_from(len).unwrap_or(u16::MAX),
            fragment,
            next: NO_KEY,
            found: Found::Nothing,
        });
        let Some(fragment) = self.fragments.get_mut(usize::from(fragment)) else {
            return;
        };
        fragment.keys += 1;
        let last = std::mem::replace(&mut fragment.last, at);
        match self.wanted.get_mut(to_usize(last)) {
            Some(last) => last.next = at,
            None => fragment.next = at,
        }
    }

    /// How many keys a fragment asks for.
    pub fn keys_of(&self, fragment: u16) -> u64 {
        let fragment = self.fragments.get(usize::from(fragment));
        fragment.map_or(0, |fragment| u64::from(fragment.keys))
    }

    /// Whether a fragment is still to be asked or answered.
    pub fn is_pending(&self, fragment: u16) -> bool {
        self.fragments
            .get(usize::from(fragment))
            .is_some_and(|fragment| fragment.state == FragmentState::Pending)
    }

    /// Takes `VALUE` blocks, which stand one behind the other in `bytes`. Says
    /// whether each belongs to a key of the fragment and comes in the right
    /// order: servers answer in the order asked and leave out what they do not
    /// have.
    pub fn blocks(
        &mut self,
        fragment: u16,
        bytes: &[u8],
        blocks: &[Block],
        owner: Option<&Bytes>,
    ) -> bool {
        let Some(part) = self.fragments.get_mut(usize::from(fragment)) else {
            return false;
        };
        self.bytes += bytes.len();
        if self.bytes >= HELD_BYTES_MIN {
            self.held.set(self.bytes);
        }
        let keep = self.bytes <= self.bytes_max;
        if !keep {
            // Only counted from here on: the request fails when all is in.
            self.blocks = Vec::new();
            self.shared = Vec::new();
        }
        // Small blocks are copied all at once, large ones shared each.
        let copy_all = blocks.iter().all(|block| block.len < SHARE_BYTES_MIN) || owner.is_none();
        let mut start = self.blocks.len();
        if keep && copy_all {
            self.blocks.extend_from_slice(bytes);
        }
        let mut rest = bytes;
        for block in blocks {
            let Some((bytes, behind)) = rest.split_at_checked(block.len) else {
                return false;
            };
            rest = behind;
            let key = block.key(bytes);
            let wanted = loop {
                let Some(wanted) = self.wanted.get_mut(to_usize(part.next)) else {
                    return false;
                };
                part.next = wanted.next;
                let start = to_usize(wanted.start);
                if self.keys.get(start..start + usize::from(wanted.len)) == Some(key) {
                    break wanted;
                }
            };
            if !keep {
                continue;
            }
            wanted.found = match owner {
                Some(owner) if !copy_all => {
                    self.shared.push(owner.slice_ref(bytes));
                    Found::Shared(to_u32(self.shared.len() - 1))
                }
                _ => Found::Copied {
                    start: to_u32(start),
                    len: to_u32(block.len),
                },
            };
            start += block.len;
        }
        true
    }

    /// Where the next key of a fragment that may still come lies among all keys.
    pub fn next_key(&self, fragment: u16) -> Option<Range<usize>> {
        let part = self.fragments.get(usize::from(fragment))?;
        let wanted = self.wanted.get(to_usize(part.next))?;
        let start = to_usize(wanted.start);
        Some(start..start + usize::from(wanted.len))
    }

    /// The next key of a fragment has not been found.
    pub fn pass_over(&mut self, fragment: u16) {
        if let Some(part) = self.fragments.get_mut(usize::from(fragment))
            && let Some(wanted) = self.wanted.get(to_usize(part.next))
        {
            part.next = wanted.next;
        }
    }

    /// A fragment has been answered to its end.
    pub fn answered(&mut self, fragment: u16) {
        self.close(fragment, FragmentState::Answered);
    }

    /// A fragment will not be answered.
    pub fn failed(&mut self, fragment: u16, server: &str, failure: Failure) {
        self.close(fragment, FragmentState::Failed);
        if self.error.is_empty() {
            self.error = format!("SERVER_ERROR {server} {failure}\r\n").into_bytes();
        }
    }

    /// A server has refused a fragment with an error of its own.
    pub fn refused(&mut self, fragment: u16, error: &[u8]) {
        self.close(fragment, FragmentState::Failed);
        if self.error.is_empty() {
            self.error = error.to_vec();
        }
    }

    fn close(&mut self, fragment: u16, state: FragmentState) {
        if let Some(fragment) = self.fragments.get_mut(usize::from(fragment))
            && fragment.state == FragmentState::Pending
        {
            fragment.state = state;
            self.pending -= 1;
        }
    }

    /// Whether every fragment has been answered or has failed.
    #[inline]
    pub fn is_complete(&self) -> bool {
        self.pending == 0
    }

    /// Whether it has outgrown its bound.
    pub fn is_too_large(&self) -> bool {
        self.bytes > self.bytes_max
    }

    /// Whether the client is told of the failure instead of what was found.
    fn tells_failure(&self) -> bool {
        let mut states = self.fragments.iter().map(|fragment| fragment.state);
        match self.miss_on_error {
            MissOnError::Always => false,
            // That nothing was found is only worth saying if somebody looked.
            MissOnError::Multiget => !states.any(|state| state == FragmentState::Answered),
            MissOnError::Never => states.any(|state| state == FragmentState::Failed),
        }
    }

    /// Keys told as misses although their server was not heard.
    pub fn masked(&self) -> u64 {
        if self.tells_failure() {
            return 0;
        }
        let failed = |fragment: u16| {
            self.fragments
                .get(usize::from(fragment))
                .is_some_and(|part| part.state == FragmentState::Failed)
        };
        let masked = self
            .wanted
            .iter()
            .filter(|wanted| wanted.found == Found::Nothing && failed(wanted.fragment))
            .count();
        u64::try_from(masked).unwrap_or(u64::MAX)
    }

    /// Whether the client is told an error.
    pub fn is_error(&self) -> bool {
        self.is_too_large() || (!self.error.is_empty() && self.tells_failure())
    }

    /// Writes the answer.
    pub(super) fn send(&self, outbox: &Outbox) {
        if self.is_too_large() {
            outbox.push(b"SERVER_ERROR reply is larger than multiget_bytes_max\r\n");
            return;
        }
        if !self.error.is_empty() && self.tells_failure() {
            outbox.push(&self.error);
            return;
        }
        if self.shared.is_empty() {
            outbox.push_with(|out| {
                for wanted in &self.wanted {
                    if let Found::Copied { start, len } = wanted.found {
                        out.extend_from_slice(self.copied(start, len));
                    }
                }
                out.extend_from_slice(b"END\r\n");
            });
            return;
        }
        for wanted in &self.wanted {
            match wanted.found {
                Found::Nothing => {}
                Found::Copied { start, len } => outbox.push(self.copied(start, len)),
                Found::Shared(at) => {
                    if let Some(block) = self.shared.get(to_usize(at)) {
                        outbox.push_shared(block.clone());
                    }
                }
            }
        }
        outbox.push(b"END\r\n");
    }

    #[inline]
    fn copied(&self, start: u32, len: u32) -> &[u8] {
        let start = to_usize(start);
        let block = self.blocks.get(start..start + to_usize(len));
        block.unwrap_or_default()
    }
}

/// Offsets stay below the bound of a merge, which is checked to fit.
fn to_u32(offset: usize) -> u32 {
    u32::try_from(offset).unwrap_or(u32::MAX)
}

fn to_usize(offset: u32) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}
