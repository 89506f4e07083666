//! How an item lies in the log.
//!
//! ```text
//! word 4 | accessed 4 | cas 8 | flags 0/4 | exptime 0/4 | key | large 0/4 | value
//! ```
//!
//! Nothing is padded but the end, to [`UNIT`] bytes. What most items do not have
//! takes no room: client flags, a time to expire, and the number under which a large
//! value is kept; of such a value only what does not fill a page stands in the log.

use super::memory::{EXTENT_BYTES, LARGE_BYTES_MIN};

/// Items begin at multiples of so many bytes.
pub const UNIT: usize = 8;

/// Bytes of an item before whatever it may or may not have.
pub(super) const HEADER_BYTES: usize = 16;

/// An expiry that lies in the past at all times.
pub const DEAD: u32 = 1;

/// Most uses that are remembered of an item.
const USES_MAX: u32 = 3;

const KEY_LEN: u32 = 0xff;
const TAIL_SHIFT: u32 = 8;
const TAIL_LEN: u32 = 0x3fff;
const USES_SHIFT: u32 = 22;
const USES: u32 = 3 << USES_SHIFT;
const GONE: u32 = 1 << 24;
const FETCHED: u32 = 1 << 25;
const STALE: u32 = 1 << 26;
const TOKEN_SENT: u32 = 1 << 27;
const BINARY_KEY: u32 = 1 << 28;
const HAS_FLAGS: u32 = 1 << 29;
const HAS_EXPTIME: u32 = 1 << 30;
const LARGE: u32 = 1 << 31;

/// The first four bytes of an item: the lengths of its parts, and its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word(u32);

/// The part of an item's state that clients can see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// It has been read.
    pub fetched: bool,
    /// It was invalidated, and is served until somebody refreshes it.
    pub stale: bool,
    /// A client has been told to refresh it.
    pub token_sent: bool,
    /// Its key came in base64 and goes back so.
    pub binary_key: bool,
}

impl Word {
    /// The word of a gap of `bytes`, which holds no item.
    fn gap(bytes: usize) -> Self {
        debug_assert!(bytes <= TAIL_LEN as usize && bytes.is_multiple_of(UNIT));
        Self(GONE | (low(bytes) << TAIL_SHIFT))
    }

    #[inline]
    fn has(self, bit: u32) -> bool {
        self.0 & bit != 0
    }

    #[inline]
    fn with(self, bit: u32, on: bool) -> Self {
        Self(if on { self.0 | bit } else { self.0 & !bit })
    }

    #[inline]
    fn key_len(self) -> usize {
        (self.0 & KEY_LEN) as usize
    }

    #[inline]
    pub(super) fn tail_len(self) -> usize {
        ((self.0 >> TAIL_SHIFT) & TAIL_LEN) as usize
    }

    /// Where the key begins.
    #[inline]
    pub(super) fn key_at(self) -> usize {
        HEADER_BYTES + 4 * usize::from(self.has(HAS_FLAGS)) + 4 * usize::from(self.has(HAS_EXPTIME))
    }

    /// Where the number of a large value stands.
    #[inline]
    fn large_at(self) -> usize {
        self.key_at() + self.key_len()
    }

    /// Where the value, or what stands here of it, begins.
    #[inline]
    fn tail_at(self) -> usize {
        self.large_at() + 4 * usize::from(self.has(LARGE))
    }

    /// Bytes that the item takes up in the log.
    #[inline]
    fn size(self) -> usize {
        if self.key_len() == 0 {
            return self.tail_len();
        }
        (self.tail_at() + self.tail_len()).next_multiple_of(UNIT)
    }

    /// How often the item has been used since it was written or last spared.
    #[inline]
    pub fn uses(self) -> u32 {
        (self.0 & USES) >> USES_SHIFT
    }

    /// The word with another number of uses.
    #[inline]
    #[must_use]
    pub fn with_uses(self, uses: u32) -> Self {
        Self((self.0 & !USES) | (uses.min(USES_MAX) << USES_SHIFT))
    }

    /// The word after one more use.
    #[inline]
    #[must_use]
    pub fn used(self) -> Self {
        self.with_uses(self.uses() + 1)
    }

    /// The word of an item that has been read once more.
    #[inline]
    #[must_use]
    pub fn fetched(self) -> Self {
        self.used().with(FETCHED, true)
    }

    /// What clients can see of it.
    pub fn state(self) -> State {
        State {
            fetched: self.has(FETCHED),
            stale: self.has(STALE),
            token_sent: self.has(TOKEN_SENT),
            binary_key: self.has(BINARY_KEY),
        }
    }

    /// The word with another state.
    #[must_use]
    pub fn with_state(self, state: State) -> Self {
        self.with(FETCHED, state.fetched)
            .with(STALE, state.stale)
            .with(TOKEN_SENT, state.token_sent)
            .with(BINARY_KEY, state.binary_key)
    }

    /// Whether this is garbage: an item that is no more, or a gap.
    #[inline]
    pub fn is_gone(self) -> bool {
        self.has(GONE)
    }
}

/// The low 32 bits of a length that is far below them.
#[expect(
    clippy::cast_possible_truncation,
    reason = "lengths within an extent, and numbers of large values, fit"
)]
#[inline]
pub(super) fn low(length: usize) -> u32 {
    debug_assert!(u32::try_from(length).is_ok());
    length as u32
}

#[inline]
fn read_u32(bytes: &[u8], at: usize) -> u32 {
    let chunk = bytes.get(at..).and_then(<[u8]>::first_chunk);
    chunk.map_or(0, |chunk| u32::from_le_bytes(*chunk))
}

#[inline]
fn write_u32(bytes: &mut [u8], at: usize, value: u32) {
    if let Some(chunk) = bytes.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        *chunk = value.to_le_bytes();
    }
}

/// An item in the log, to read.
#[derive(Clone, Copy, Debug)]
pub struct Item<'a> {
    word: Word,
    /// From its first byte to the end of its extent.
    bytes: &'a [u8],
}

impl<'a> Item<'a> {
    /// The item at the start of `bytes`.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self {
            word: Word(read_u32(bytes, 0)),
            bytes,
        }
    }

    /// Its lengths and state.
    #[inline]
    pub fn word(&self) -> Word {
        self.word
    }

    /// When it was last used, in seconds.
    #[inline]
    pub fn accessed(&self) -> u32 {
        read_u32(self.bytes, 4)
    }

    /// Its cas id.
    #[inline]
    pub fn cas(&self) -> u64 {
        let chunk = self.bytes.get(8..).and_then(<[u8]>::first_chunk);
        chunk.map_or(0, |chunk| u64::from_le_bytes(*chunk))
    }

    /// Its client flags.
    #[inline]
    pub fn flags(&self) -> u32 {
        if self.word.has(HAS_FLAGS) {
            read_u32(self.bytes, HEADER_BYTES)
        } else {
            0
        }
    }

    /// When it expires, in seconds; 0 if never.
    #[inline]
    pub fn exptime(&self) -> u32 {
        if self.word.has(HAS_EXPTIME) {
            read_u32(self.bytes, self.word.key_at() - 4)
        } else {
            0
        }
    }

    /// Whether it has expired.
    #[inline]
    pub fn is_expired(&self, now: u32) -> bool {
        let exptime = self.exptime();
        exptime != 0 && exptime <= now
    }

    /// Its key.
    #[inline]
    pub fn key(&self) -> &'a [u8] {
        let (at, len) = (self.word.key_at(), self.word.key_len());
        self.bytes.get(at..at + len).unwrap_or_default()
    }

    /// The number under which the rest of its value is kept, if it is large.
    #[inline]
    pub fn large(&self) -> Option<u32> {
        let at = self.word.large_at();
        self.word.has(LARGE).then(|| read_u32(self.bytes, at))
    }

    /// What stands here of its value: all of it, or the end of a large one.
    #[inline]
    pub fn tail(&self) -> &'a [u8] {
        let (at, len) = (self.word.tail_at(), self.word.tail_len());
        self.bytes.get(at..at + len).unwrap_or_default()
    }

    /// Where in its extent that stands.
    #[inline]
    pub(super) fn tail_at(&self) -> Option<usize> {
        (EXTENT_BYTES + self.word.tail_at()).checked_sub(self.bytes.len())
    }

    /// Bytes that it takes up in the log.
    #[inline]
    pub fn size(&self) -> usize {
        self.word.size()
    }
}

/// Changes the word of the item at the start of `bytes`.
#[inline]
pub(super) fn set_word(bytes: &mut [u8], word: Word) {
    write_u32(bytes, 0, word.0);
}

/// Notes when the item at the start of `bytes` was last used.
#[inline]
pub(super) fn set_accessed(bytes: &mut [u8], now: u32) {
    write_u32(bytes, 4, now);
}

/// Changes the cas id of the item at the start of `bytes`.
#[inline]
pub(super) fn set_cas(bytes: &mut [u8], cas: u64) {
    if let Some(chunk) = bytes.get_mut(8..).and_then(<[u8]>::first_chunk_mut) {
        *chunk = cas.to_le_bytes();
    }
}

/// Changes the expiry of the item at the start of `bytes`, if it has room for
/// one. Says whether it has.
pub(super) fn set_exptime(bytes: &mut [u8], exptime: u32) -> bool {
    let word = Word(read_u32(bytes, 0));
    if word.has(HAS_EXPTIME) {
        write_u32(bytes, word.key_at() - 4, exptime);
    }
    word.has(HAS_EXPTIME)
}

/// Marks the item at the start of `bytes` as garbage.
#[inline]
pub(super) fn set_gone(bytes: &mut [u8]) {
    let word = Word(read_u32(bytes, 0));
    set_word(bytes, word.with(GONE, true));
}

/// Writes gaps over the first `size` bytes, whole units.
pub(super) fn write_gap(mut bytes: &mut [u8], mut size: usize) {
    const GAP_MAX: usize = TAIL_LEN as usize / UNIT * UNIT;
    while size > 0 {
        let gap = size.min(GAP_MAX);
        set_word(bytes, Word::gap(gap));
        size -= gap;
        bytes = bytes.get_mut(gap..).unwrap_or_default();
    }
}

/// An item that is to be written.
#[derive(Clone, Copy, Debug)]
pub(super) struct NewItem<'a> {
    /// Its key, of 1 to 250 bytes.
    pub key: &'a [u8],
    /// Its client flags.
    pub flags: u32,
    /// When it expires, in seconds; 0 if never.
    pub exptime: u32,
    /// When it was last used, in seconds.
    pub accessed: u32,
    /// Its cas id.
    pub cas: u64,
    /// What clients can see of it.
    pub state: State,
    /// How often it has been used.
    pub uses: u32,
    /// The number under which the rest of its value is kept, if it is large.
    pub large: Option<u32>,
    /// The value, or the end of a large one, in two pieces; together shorter than
    /// [`LARGE_BYTES_MIN`].
    pub tail: [&'a [u8]; 2],
}

impl NewItem<'_> {
    fn word(&self) -> Word {
        let tail_len = self.tail[0].len() + self.tail[1].len();
        debug_assert!(tail_len < LARGE_BYTES_MIN && (1..=250).contains(&self.key.len()));
        Word(low(self.key.len()) | (low(tail_len) << TAIL_SHIFT))
            .with(HAS_FLAGS, self.flags != 0)
            .with(HAS_EXPTIME, self.exptime != 0)
            .with(LARGE, self.large.is_some())
            .with_state(self.state)
            .with_uses(self.uses)
    }

    /// Bytes that it will take up in the log.
    #[inline]
    pub(super) fn size(&self) -> usize {
        self.word().size()
    }

    /// Writes it to the start of `bytes`, which has room.
    pub(super) fn write(&self, bytes: &mut [u8]) {
        let word = self.word();
        set_word(bytes, word);
        set_accessed(bytes, self.accessed);
        set_cas(bytes, self.cas);
        if self.flags != 0 {
            write_u32(bytes, HEADER_BYTES, self.flags);
        }
        if self.exptime != 0 {
            write_u32(bytes, word.key_at() - 4, self.exptime);
        }
        copy(bytes, word.key_at(), self.key);
        if let Some(large) = self.large {
            write_u32(bytes, word.large_at(), large);
        }
        copy(bytes, word.tail_at(), self.tail[0]);
        copy(bytes, word.tail_at() + self.tail[0].len(), self.tail[1]);
    }
}

#[inline]
fn copy(bytes: &mut [u8], at: usize, from: &[u8]) {
    if let Some(to) = bytes.get_mut(at..at + from.len()) {
        to.copy_from_slice(from);
    }
}

const _: () = assert!(LARGE_BYTES_MIN <= TAIL_LEN as usize + 1);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_item_reads_as_it_was_written(
            key in proptest::collection::vec(any::<u8>(), 1..=250),
            tail in proptest::collection::vec(any::<u8>(), 0..1000),
            cut in 0usize..1000,
            flags in prop_oneof![Just(0u32), any::<u32>()],
            exptime in prop_oneof![Just(0u32), any::<u32>()],
            accessed: u32,
            cas: u64,
            bits in 0u8..16,
            uses in 0u32..=3,
            large in proptest::option::of(any::<u32>()),
        ) {
            let state = State {
                fetched: bits & 1 != 0,
                stale: bits & 2 != 0,
                token_sent: bits & 4 != 0,
                binary_key: bits & 8 != 0,
            };
            let (first, second) = tail.split_at(cut.min(tail.len()));
            let new = NewItem {
                key: &key, flags, exptime, accessed, cas, state, uses, large,
                tail: [first, second],
            };
            let mut bytes = vec![0xa5; new.size() + UNIT];
            new.write(&mut bytes);
            let item = Item::new(&bytes);
            prop_assert_eq!((item.key(), item.tail()), (&key[..], &tail[..]));
            prop_assert_eq!((item.flags(), item.exptime()), (flags, exptime));
            prop_assert_eq!((item.accessed(), item.cas()), (accessed, cas));
            prop_assert_eq!((item.word().state(), item.word().uses()), (state, uses));
            prop_assert_eq!((item.large(), item.size()), (large, new.size()));
            prop_assert!(!item.word().is_gone());
            prop_assert_eq!(bytes.split_off(new.size()), vec![0xa5; UNIT]);
            set_gone(&mut bytes);
            let item = Item::new(&bytes);
            prop_assert!(item.word().is_gone() && item.size() == new.size());
        }
    }

    #[test]
    fn an_item_of_the_common_kind_has_a_header_of_sixteen_bytes() {
        let new = NewItem {
            key: &[b'k'; 16],
            flags: 0,
            exptime: 0,
            accessed: 1,
            cas: 1,
            state: State::default(),
            uses: 0,
            large: None,
            tail: [&[b'v'; 32], b""],
        };
        assert_eq!(new.size(), 64);
    }

    #[test]
    fn gaps_of_any_size_are_walked_over() {
        for size in [8, 16, 16_376, 16_384, 100_000] {
            let mut bytes = vec![0; size + UNIT];
            write_gap(&mut bytes, size);
            let mut at = 0;
            while at < size {
                let item = Item::new(&bytes[at..]);
                assert!(item.word().is_gone());
                at += item.size();
            }
            assert_eq!(at, size);
        }
    }

    #[test]
    fn uses_are_counted_up_to_a_bound() {
        let mut word = Word(0);
        for uses in [1, 2, 3, 3] {
            word = word.fetched();
            assert_eq!(word.uses(), uses);
        }
        assert!(word.state().fetched);
    }
}
