//! One answer put together from the answers of several servers.
//!
//! Clients get the items in the order they asked, as from one memcached. That
//! also proves each item to be one that was asked for.

use std::cell::RefCell;

use bytes::Bytes;
use memchr::memchr;

use super::settings::MissOnError;
use crate::net::outbox::{Outbox, SHARE_BYTES_MIN};
use crate::pool::Failure;

/// Spare merges that a worker keeps.
const SPARE_MAX: usize = 64;
/// Bytes beyond which a spare merge is not kept.
const SPARE_BYTES_MAX: usize = 64 * 1024;

thread_local! {
    /// Multi-key retrievals come one after another: their memory is lent on.
    #[expect(clippy::vec_box, reason = "what is kept are the boxes")]
    static SPARE: RefCell<Vec<Box<Merge>>> = const { RefCell::new(Vec::new()) };
}

/// One key of a multi-key retrieval.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    /// Where the key lies in `keys`.
    start: u32,
    len: u16,
    /// Which fragment asked for it.
    fragment: u16,
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

/// The keys that one server was asked for.
#[derive(Clone, Copy, Debug)]
struct Fragment {
    /// Its first key that may still come.
    next: usize,
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
    pending: usize,
    /// What the client is told if it is told of a failure: the first one.
    error: Vec<u8>,
    miss_on_error: MissOnError,
    bytes_max: usize,
}

impl Merge {
    /// An empty one, with memory of an earlier one if there is any.
    pub fn take(miss_on_error: MissOnError, bytes_max: usize) -> Box<Self> {
        let mut merge = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
        merge.miss_on_error = miss_on_error;
        merge.bytes_max = bytes_max;
        merge
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
            next: self.wanted.len(),
            keys: 0,
            state: FragmentState::Pending,
        });
        self.pending += 1;
        number
    }

    /// Adds a key to a fragment.
    #[inline]
    pub fn add_key(&mut self, key: &[u8], fragment: u16) {
        let start = to_u32(self.keys.len());
        self.keys.extend_from_slice(key);
        self.wanted.push(Wanted {
            start,
            len: u16::try_from(key.len()).unwrap_or(u16::MAX),
            fragment,
            found: Found::Nothing,
        });
        if let Some(fragment) = self.fragments.get_mut(usize::from(fragment)) {
            fragment.keys += 1;
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

    /// Takes a `VALUE` block. Says whether it belongs to a key of the fragment
    /// that comes behind those already answered.
    #[inline]
    pub fn block(&mut self, fragment: u16, block: &[u8], owner: Option<&Bytes>) -> bool {
        let Some(part) = self.fragments.get_mut(usize::from(fragment)) else {
            return false;
        };
        // `VALUE <key> `: the reader of replies has checked the form.
        let Some(key) = block
            .get(6..)
            .and_then(|rest| memchr(b' ', rest).and_then(|end| rest.get(..end)))
        else {
            return false;
        };
        let keys = &self.keys;
        let found = self
            .wanted
            .iter_mut()
            .enumerate()
            .skip(part.next)
            .find(|(_, wanted)| {
                let start = to_usize(wanted.start);
                wanted.fragment == fragment
                    && usize::from(wanted.len) == key.len()
                    && keys.get(start..start + key.len()) == Some(key)
            });
        let Some((at, wanted)) = found else {
            return false;
        };
        part.next = at + 1;
        self.bytes += block.len();
        if self.bytes > self.bytes_max {
            // Kept no longer, only counted: the request fails when all is in.
            self.blocks = Vec::new();
            self.shared = Vec::new();
            return true;
        }
        wanted.found = match owner {
            Some(owner) if block.len() >= SHARE_BYTES_MIN => {
                self.shared.push(owner.slice_ref(block));
                Found::Shared(to_u32(self.shared.len() - 1))
            }
            _ => {
                let start = to_u32(self.blocks.len());
                self.blocks.extend_from_slice(block);
                Found::Copied {
                    start,
                    len: to_u32(block.len()),
                }
            }
        };
        true
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
        for wanted in &self.wanted {
            match wanted.found {
                Found::Nothing => {}
                Found::Copied { start, len } => {
                    let start = to_usize(start);
                    let block = self.blocks.get(start..start + to_usize(len));
                    outbox.push(block.unwrap_or_default());
                }
                Found::Shared(at) => {
                    if let Some(block) = self.shared.get(to_usize(at)) {
                        outbox.push_shared(block.clone());
                    }
                }
            }
        }
        outbox.push(b"END\r\n");
    }
}

/// Offsets stay below the bound of a merge, which is checked to fit.
fn to_u32(offset: usize) -> u32 {
    u32::try_from(offset).unwrap_or(u32::MAX)
}

fn to_usize(offset: u32) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}
