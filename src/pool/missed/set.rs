//! The keys themselves: in the order they were missed, each once, compactly.

use std::collections::VecDeque;

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::packed;

/// Bytes of keys that are allocated at a time.
const CHUNK_BYTES: usize = 64 * 1024;

/// What is known of one key.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// The number of the chunk that holds the key.
    chunk: u64,
    /// Where it lies there, with its length before it.
    at: u32,
    /// Changes of it that were sent and may still be carried out.
    doubts: u32,
    /// How often it has been missed. Tells a deletion that was asked for before
    /// the last miss from one that was asked for after it.
    version: u32,
}

/// Keys, packed one behind the other.
#[derive(Debug, Default)]
struct Chunk {
    bytes: Vec<u8>,
    /// How many of its keys are still in the set.
    live: usize,
}

/// A key that may be deleted, as it was when it was taken out for that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// How long the key is.
    pub len: u8,
    version: u32,
}

/// Where an enumeration of the set has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    chunk: u64,
    at: u32,
}

/// A set of keys in the order they came.
///
/// A key costs its bytes and about 32 more.
#[derive(Debug)]
pub struct Set {
    table: HashTable<Entry>,
    chunks: VecDeque<Chunk>,
    /// The number of the first chunk.
    first: u64,
    /// How many keys nobody is in doubt about.
    due: usize,
    /// Bytes of all keys.
    bytes: usize,
    seed: u64,
}

impl Set {
    /// An empty set. Whoever cannot guess `seed` cannot make keys collide.
    pub fn new(seed: u64) -> Self {
        Self {
            table: HashTable::new(),
            chunks: VecDeque::new(),
            first: 0,
            due: 0,
            bytes: 0,
            seed,
        }
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Bytes of all keys.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// How many keys may be deleted now.
    pub fn due(&self) -> usize {
        self.due
    }

    /// Changes that may still be carried out, over all keys.
    pub fn doubts(&self) -> u64 {
        self.table.iter().map(|entry| u64::from(entry.doubts)).sum()
    }

    /// Whether the key is there.
    pub fn contains(&self, key: &[u8]) -> bool {
        self.find(key).is_some()
    }

    fn find(&self, key: &[u8]) -> Option<&Entry> {
        let hash = xxh3_64_with_seed(key, self.seed);
        let same = |entry: &Entry| key_at(&self.chunks, self.first, entry) == key;
        self.table.find(hash, same)
    }

    fn find_mut(&mut self, key: &[u8]) -> Option<&mut Entry> {
        let hash = xxh3_64_with_seed(key, self.seed);
        let (chunks, first) = (&self.chunks, self.first);
        self.table
            .find_mut(hash, |entry| key_at(chunks, first, entry) == key)
    }

    /// Adds a key, or notes that it has been missed again. `in_doubt` says that
    /// the change may still be carried out, until [`Self::settle`].
    pub fn miss(&mut self, key: &[u8], in_doubt: bool) {
        if let Some(entry) = self.find_mut(key) {
            entry.version = entry.version.wrapping_add(1);
            if in_doubt {
                let was_due = entry.doubts == 0;
                entry.doubts = entry.doubts.saturating_add(1);
                self.due -= usize::from(was_due);
            }
            return;
        }
        self.bytes += key.len();
        let (chunk, at) = self.append(key);
        let entry = Entry {
            chunk,
            at,
            doubts: u32::from(in_doubt),
            version: 0,
        };
        self.due += usize::from(!in_doubt);
        let hash = xxh3_64_with_seed(key, self.seed);
        let (chunks, first, seed) = (&self.chunks, self.first, self.seed);
        self.table.insert_unique(hash, entry, |entry| {
            xxh3_64_with_seed(key_at(chunks, first, entry), seed)
        });
    }

    fn append(&mut self, key: &[u8]) -> (u64, u32) {
        let room = |chunk: &Chunk| chunk.bytes.len() + key.len() < CHUNK_BYTES;
        if !self.chunks.back().is_some_and(room) {
            self.chunks.push_back(Chunk {
                // A few keys must not cost a whole chunk: the first one grows.
                bytes: Vec::with_capacity(if self.is_empty() { 0 } else { CHUNK_BYTES }),
                live: 0,
            });
        }
        let number = self.first + to_u64(self.chunks.len()) - 1;
        let Some(chunk) = self.chunks.back_mut() else {
            return (number, 0);
        };
        let at = u32::try_from(chunk.bytes.len()).unwrap_or(u32::MAX);
        packed::push(&mut chunk.bytes, key);
        chunk.live += 1;
        (number, at)
    }

    /// Notes that a change of the key which was in doubt has been carried out or
    /// never will be. Says whether the key is there and was in doubt.
    pub fn settle(&mut self, key: &[u8]) -> bool {
        let Some(entry) = self.find_mut(key).filter(|entry| entry.doubts > 0) else {
            return false;
        };
        entry.doubts -= 1;
        // A deletion asked for before this moment may have come too early.
        entry.version = entry.version.wrapping_add(1);
        let is_due = entry.doubts == 0;
        self.due += usize::from(is_due);
        true
    }

    /// Notes that a change of the key goes on being in doubt in another way: whatever
    /// was to make the key right may now come before it.
    pub fn unsettle(&mut self, key: &[u8]) {
        if let Some(entry) = self.find_mut(key) {
            entry.version = entry.version.wrapping_add(1);
        }
    }

    /// What has to be known to forget the key, if it may be forgotten once so many
    /// changes of it that are in doubt are over. `None` if others are, too.
    pub fn due_of(&self, key: &[u8], doubts: u32) -> Option<Due> {
        let entry = self.find(key).filter(|entry| entry.doubts == doubts)?;
        Some(Due {
            len: u8::try_from(key.len()).unwrap_or(u8::MAX),
            // Each that is settled counts as one more event, see `settle`.
            version: entry.version.wrapping_add(doubts),
        })
    }

    /// Appends up to `max` keys from `cursor` on that may be deleted to `keys`,
    /// one behind the other, and what has to be known to forget them to `due`.
    /// Advances the cursor.
    pub fn take_due(
        &self,
        cursor: &mut Cursor,
        max: usize,
        keys: &mut Vec<u8>,
        due: &mut Vec<Due>,
    ) {
        let mut taken = 0;
        self.walk(cursor, |key, entry| {
            if entry.doubts == 0 {
                keys.extend_from_slice(key);
                due.push(Due {
                    len: u8::try_from(key.len()).unwrap_or(u8::MAX),
                    version: entry.version,
                });
                taken += 1;
            }
            taken < max
        });
    }

    /// Visits up to `max` keys from `cursor` on, with whether they are in doubt;
    /// says whether there may be more.
    pub fn each(
        &self,
        cursor: &mut Cursor,
        max: usize,
        mut visit: impl FnMut(&[u8], bool),
    ) -> bool {
        let mut visited = 0;
        self.walk(cursor, |key, entry| {
            visit(key, entry.doubts > 0);
            visited += 1;
            visited < max
        });
        visited >= max
    }

    /// Visits the keys from `cursor` on for as long as `visit` says so.
    fn walk(&self, cursor: &mut Cursor, mut visit: impl FnMut(&[u8], &Entry) -> bool) {
        if cursor.chunk < self.first {
            *cursor = Cursor {
                chunk: self.first,
                at: 0,
            };
        }
        while let Some(chunk) = self.chunk(cursor.chunk) {
            while let Some((key, next)) = packed::at(&chunk.bytes, to_usize(cursor.at)) {
                let here = *cursor;
                cursor.at = u32::try_from(next).unwrap_or(u32::MAX);
                // A key that was forgotten leaves its bytes behind.
                let entry = self.find(key);
                let entry = entry.filter(|e| (e.chunk, e.at) == (here.chunk, here.at));
                if entry.is_some_and(|entry| !visit(key, entry)) {
                    return;
                }
            }
            if cursor.chunk + 1 >= self.first + to_u64(self.chunks.len()) {
                return;
            }
            *cursor = Cursor {
                chunk: cursor.chunk + 1,
                at: 0,
            };
        }
    }

    fn chunk(&self, number: u64) -> Option<&Chunk> {
        let place = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.chunks.get(place)
    }

    /// Forgets a key that has been deleted or replaced, unless it was missed again
    /// since `due` was taken out.
    pub fn forget(&mut self, key: &[u8], due: Due) -> bool {
        let hash = xxh3_64_with_seed(key, self.seed);
        let (chunks, first) = (&self.chunks, self.first);
        let same = |entry: &Entry| {
            key_at(chunks, first, entry) == key && (entry.version, entry.doubts) == (due.version, 0)
        };
        let Ok(found) = self.table.find_entry(hash, same) else {
            return false;
        };
        let (entry, _) = found.remove();
        self.due -= 1;
        self.bytes -= key.len();
        let place = usize::try_from(entry.chunk.saturating_sub(self.first));
        if let Some(chunk) = place.ok().and_then(|place| self.chunks.get_mut(place)) {
            chunk.live -= 1;
            if chunk.live == 0 {
                // Those before it may stay for long.
                chunk.bytes = Vec::new();
            }
        }
        while self.chunks.front().is_some_and(|chunk| chunk.live == 0) {
            self.chunks.pop_front();
            self.first += 1;
        }
        if self.table.is_empty() {
            self.table.shrink_to(0, |_| 0);
        }
        true
    }

    /// Forgets all keys.
    pub fn clear(&mut self) {
        self.first += to_u64(self.chunks.len());
        self.chunks = VecDeque::new();
        self.table = HashTable::new();
        self.due = 0;
        self.bytes = 0;
    }
}

/// The key of an entry.
fn key_at<'a>(chunks: &'a VecDeque<Chunk>, first: u64, entry: &Entry) -> &'a [u8] {
    usize::try_from(entry.chunk.saturating_sub(first))
        .ok()
        .and_then(|place| chunks.get(place))
        .and_then(|chunk| packed::at(&chunk.bytes, to_usize(entry.at)))
        .map_or(&[], |(key, _)| key)
}

fn to_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

fn to_usize(at: u32) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn due(set: &Set) -> Vec<Vec<u8>> {
        let (mut keys, mut due) = (Vec::new(), Vec::new());
        set.take_due(&mut Cursor::default(), usize::MAX, &mut keys, &mut due);
        let mut rest = &keys[..];
        due.iter()
            .map(|due| rest.split_off(..usize::from(due.len)).unwrap().to_vec())
            .collect()
    }

    #[test]
    fn keys_come_out_in_the_order_they_came_in() {
        let mut set = Set::new(7);
        for key in [&b"b"[..], b"a", b"b", b"c"] {
            set.miss(key, false);
        }
        assert_eq!(due(&set), [b"b", b"a", b"c"]);
        assert_eq!(set.len(), 3);
    }

    #[test]
    fn a_key_in_doubt_waits() {
        let mut set = Set::new(7);
        set.miss(b"k", true);
        set.miss(b"k", true);
        assert!(set.contains(b"k") && due(&set).is_empty());
        assert!(set.settle(b"k"));
        assert_eq!(set.due(), 0);
        assert!(set.settle(b"k"));
        assert!(!set.settle(b"k"), "nobody is in doubt any more");
        assert_eq!(due(&set), [b"k"]);
    }

    #[test]
    fn a_key_missed_again_while_it_is_deleted_stays() {
        let mut set = Set::new(7);
        set.miss(b"k", false);
        let (mut keys, mut before) = (Vec::new(), Vec::new());
        set.take_due(&mut Cursor::default(), 1, &mut keys, &mut before);
        set.miss(b"k", false);
        assert!(!set.forget(b"k", before[0]));
        assert!(set.contains(b"k"));
    }

    #[test]
    fn a_late_change_that_settles_during_the_deletion_keeps_the_key() {
        let mut set = Set::new(7);
        set.miss(b"k", false);
        let (mut keys, mut before) = (Vec::new(), Vec::new());
        set.take_due(&mut Cursor::default(), 1, &mut keys, &mut before);
        set.miss(b"k", true);
        assert!(set.settle(b"k"));
        assert!(!set.forget(b"k", before[0]));
    }

    #[test]
    fn memory_is_given_back() {
        let mut set = Set::new(7);
        for number in 0..20_000u32 {
            set.miss(format!("some-key:{number}").as_bytes(), false);
        }
        let chunks = set.chunks.len();
        assert!(chunks > 3);
        let (mut keys, mut taken) = (Vec::new(), Vec::new());
        set.take_due(&mut Cursor::default(), 20_000, &mut keys, &mut taken);
        let mut rest = &keys[..];
        for due in taken {
            let key = rest.split_off(..usize::from(due.len)).unwrap();
            assert!(set.forget(key, due));
        }
        assert!(set.is_empty() && set.chunks.is_empty());
        assert_eq!(set.table.capacity(), 0);
    }

    /// What happens to a key.
    #[derive(Clone, Debug)]
    enum Step {
        Miss(u8, bool),
        Settle(u8),
        Take,
        Forget,
        Clear,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0..40u8, any::<bool>()).prop_map(|(key, doubt)| Step::Miss(key, doubt)),
            3 => (0..40u8).prop_map(Step::Settle),
            2 => Just(Step::Take),
            2 => Just(Step::Forget),
            1 => Just(Step::Clear),
        ]
    }

    proptest! {
        /// Against a plain map: keys, doubts, and which deletions may be
        /// believed.
        #[test]
        fn a_set_is_what_a_map_would_be(steps in prop::collection::vec(step(), 0..300)) {
            let key = |number: u8| vec![b'k'; usize::from(number) * 6 + 1];
            let mut set = Set::new(3);
            // Doubts, and the number of the last event that forbids believing.
            let mut model: BTreeMap<u8, (u32, usize)> = BTreeMap::new();
            let mut taken: Vec<(u8, Due, usize)> = Vec::new();
            for (now, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Miss(number, doubt) => {
                        set.miss(&key(number), doubt);
                        let entry = model.entry(number).or_default();
                        *entry = (entry.0 + u32::from(doubt), now);
                    }
                    Step::Settle(number) => {
                        let entry = model.get_mut(&number).filter(|entry| entry.0 > 0);
                        prop_assert_eq!(set.settle(&key(number)), entry.is_some());
                        if let Some(entry) = entry {
                            *entry = (entry.0 - 1, now);
                        }
                    }
                    Step::Take => {
                        let (mut keys, mut due) = (Vec::new(), Vec::new());
                        set.take_due(&mut Cursor::default(), usize::MAX, &mut keys, &mut due);
                        taken.clear();
                        let mut rest = &keys[..];
                        for due in due {
                            let key = rest.split_off(..usize::from(due.len)).unwrap();
                            let number = u8::try_from((key.len() - 1) / 6).unwrap();
                            prop_assert_eq!(model[&number].0, 0);
                            taken.push((number, due, now));
                        }
                        prop_assert_eq!(taken.len(), set.due());
                    }
                    Step::Forget => {
                        for (number, due, at) in taken.drain(..) {
                            let believed = model
                                .get(&number)
                                .is_some_and(|entry| entry.0 == 0 && entry.1 < at);
                            prop_assert_eq!(set.forget(&key(number), due), believed);
                            if believed {
                                model.remove(&number);
                            }
                        }
                    }
                    Step::Clear => {
                        set.clear();
                        model.clear();
                        taken.clear();
                    }
                }
                prop_assert_eq!(set.len(), model.len());
                let bytes: usize = model.keys().map(|number| key(*number).len()).sum();
                prop_assert_eq!(set.bytes(), bytes);
                let doubts: u32 = model.values().map(|entry| entry.0).sum();
                prop_assert_eq!(set.doubts(), u64::from(doubts));
                for number in 0..40 {
                    prop_assert_eq!(set.contains(&key(number)), model.contains_key(&number));
                }
            }
        }
    }
}
