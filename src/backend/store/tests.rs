mod limit;
pub(super) mod plain;
mod pressure;

use super::*;
use std::collections::{HashMap, VecDeque};

use self::plain::{change, item};
use super::log::{Queue, Trace};
use crate::net::lend::Lent;
use proptest::prelude::*;

const SEED: u64 = 99;

fn shard(memory: &Arc<Memory>, evicts: bool) -> Shard {
    let settings = shard::Settings {
        evicts,
        cas: true,
        seed: SEED,
        number: 0,
        shards: 1,
    };
    Shard::new(Arc::clone(memory), settings)
}

impl Shard {
    /// Everything that is kept twice is the same.
    fn check(&self) {
        let (mut items, mut bytes, mut larges) = (0, 0, 0);
        for queue in [Queue::Young, Queue::Main] {
            let order = self.order(queue);
            let mut large = 0;
            for &number in &order.segments {
                let about = self.segments.about(number);
                assert_eq!(about.queue, queue);
                let alive = self.segments.walk(number, 0);
                let alive: Vec<_> = alive.filter(|(_, item)| !item.word().is_gone()).collect();
                let live: usize = alive.iter().map(|(_, item)| item.size()).sum();
                let mut expiring = about.expiring;
                for (location, item) in &alive {
                    if location.offset() < about.counted {
                        let trace = Trace::of(item);
                        expiring.remove(trace.exptime, trace.weight());
                    }
                }
                assert_eq!(expiring.sum(), 0);
                assert_eq!(about.live, live);
                assert_eq!(about.items as usize, alive.len());
                let with_large = alive.iter().filter(|(_, item)| item.large().is_some());
                assert_eq!(about.larges as usize, with_large.count());
                for (location, item) in &alive {
                    let tag = Hash::new(item.key(), self.settings.seed).tag();
                    assert!(self.at(tag, *location).is_some());
                    large += self.large_cost(item);
                    larges += usize::from(item.large().is_some());
                }
                items += alive.len();
                bytes += live;
            }
            assert_eq!(order.large, large);
            bytes += large;
        }
        assert_eq!(self.items(), u64::try_from(items).unwrap());
        assert_eq!(self.bytes(), u64::try_from(bytes).unwrap());
        assert_eq!(self.index.items(), items);
        assert_eq!(self.large.len(), larges);
        let listed = self.young.segments.len() + self.main.segments.len();
        assert_eq!(self.segments.count(), listed);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Store {
        key: u16,
        mode: Mode,
        len: usize,
        ttl: u32,
    },
    Get {
        key: u16,
    },
    Delete {
        key: u16,
    },
    Count {
        key: u16,
        up: bool,
        delta: u64,
    },
    Touch {
        key: u16,
        ttl: u32,
    },
    Wait {
        seconds: u32,
    },
    Sweep {
        work: usize,
    },
    MakeRoom {
        work: usize,
    },
    Flush,
    FlushLater {
        seconds: u32,
    },
}

fn step(keys: u16) -> impl Strategy<Value = Step> {
    let key = move || 0..keys;
    let mode = prop_oneof![
        4 => Just(Mode::Set),
        1 => Just(Mode::Add),
        1 => Just(Mode::Replace),
        1 => Just(Mode::Append),
        1 => Just(Mode::Prepend),
        1 => Just(Mode::Cas),
    ];
    let len = prop_oneof![6 => 0usize..100, 2 => 0usize..5000, 1 => 0usize..70_000];
    let ttl = || prop_oneof![2 => Just(0u32), 1 => 1u32..20];
    prop_oneof![
        30 => (key(), mode, len, ttl()).prop_map(|(key, mode, len, ttl)| Step::Store { key, mode, len, ttl }),
        20 => key().prop_map(|key| Step::Get { key }),
        8 => key().prop_map(|key| Step::Delete { key }),
        8 => (key(), any::<bool>(), 0u64..1000).prop_map(|(key, up, delta)| Step::Count { key, up, delta }),
        5 => (key(), ttl()).prop_map(|(key, ttl)| Step::Touch { key, ttl }),
        4 => (0u32..4).prop_map(|seconds| Step::Wait { seconds }),
        3 => (1usize..200).prop_map(|work| Step::Sweep { work }),
        3 => (1usize..200).prop_map(|work| Step::MakeRoom { work }),
        1 => Just(Step::Flush),
        1 => (0u32..5).prop_map(|seconds| Step::FlushLater { seconds }),
    ]
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    value: Vec<u8>,
    exptime: u32,
    flags: u32,
    cas: u64,
}

/// A shard beside a plain map.
struct Tested {
    shard: Shard,
    model: HashMap<Vec<u8>, Known>,
    now: u32,
    flush_at: Option<u32>,
    written: u32,
    /// Whether the shard may know less than the map.
    forgets: bool,
    /// Parts of values that are lent, and what they said.
    lent: VecDeque<(Lent, Vec<u8>)>,
}

impl Tested {
    fn new(memory: &Arc<Memory>, evicts: bool, forgets: bool) -> Self {
        Self {
            shard: shard(memory, evicts),
            model: HashMap::new(),
            now: 1000,
            flush_at: None,
            written: 0,
            forgets,
            lent: VecDeque::new(),
        }
    }

    /// Borrows what stands in the log of an item, however little, for a few steps. A few
    /// segments are all that some of these shards have, so two values at a time.
    fn borrow(&mut self, at: At) {
        let item = self.shard.get(at).item;
        let pages = self.shard.segments.pages(at.location).unwrap();
        if let Some(lent) = pages.lend(item.tail_at().unwrap(), item.tail().len()) {
            self.lent.push_back((lent, item.tail().to_vec()));
        }
        if self.lent.len() > 2 {
            self.give_back();
        }
    }

    fn give_back(&mut self) {
        if let Some((lent, said)) = self.lent.pop_front() {
            assert!(lent[..] == said[..], "what was lent has changed");
        }
    }

    fn key(number: u16) -> Vec<u8> {
        // Of any length, and different.
        let mut key = format!("key-{number}-").into_bytes();
        key.resize(key.len() + usize::from(number % 97), b'x');
        key
    }

    fn expiry(&self, ttl: u32) -> u32 {
        if ttl == 0 { 0 } else { self.now + ttl }
    }

    /// Calls until there is memory, as a store does.
    fn write<T>(&mut self, mut write: impl FnMut(&mut Shard) -> Result<T, Full>) -> Option<T> {
        loop {
            if let Ok(done) = write(&mut self.shard) {
                self.shard.keep_room(self.now);
                return Some(done);
            }
            if !self.shard.make_room(64, self.now) {
                return None;
            }
        }
    }

    fn flush_if_due(&mut self) {
        if self.flush_at.is_some_and(|at| at <= self.now) {
            // What is stored within the second goes as well.
            self.flush_at = self.flush_at.filter(|&at| at == self.now);
            self.model.clear();
        }
    }

    /// What the map knows, after what time does to it.
    fn known(&mut self, key: &[u8]) -> Option<Known> {
        self.flush_if_due();
        let known = self.model.get(key)?;
        if known.exptime != 0 && known.exptime <= self.now {
            self.model.remove(key);
        }
        self.model.get(key).cloned()
    }

    /// What the shard knows, which must be what the map knows.
    fn compare(&mut self, key: &[u8]) -> Option<Known> {
        let known = self.known(key);
        let tag = Hash::new(key, SEED).tag();
        let found = self.shard.find(tag, key, self.now).map(|at| {
            let found = self.shard.get(at);
            let parts: Vec<_> = found.parts().collect();
            Known {
                value: [&parts.concat(), found.item.tail()].concat(),
                exptime: found.item.exptime(),
                flags: found.item.flags(),
                cas: found.item.cas(),
            }
        });
        if found.is_none() && self.forgets {
            self.model.remove(key);
        } else {
            assert!(found == known, "{:?}", String::from_utf8_lossy(key));
        }
        found
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Store {
                key,
                mode,
                len,
                ttl,
            } => self.store(&Self::key(key), mode, len, ttl),
            Step::Get { key } => {
                let key = Self::key(key);
                self.compare(&key);
                let tag = Hash::new(&key, SEED).tag();
                if let Some(at) = self.shard.find(tag, &key, self.now) {
                    self.shard.bump(at, self.now);
                    assert!(self.shard.get(at).item.word().state().fetched);
                    assert_eq!(self.shard.get(at).item.accessed(), self.now);
                    self.borrow(at);
                }
            }
            Step::Delete { key } => {
                let key = Self::key(key);
                self.compare(&key);
                let tag = Hash::new(&key, SEED).tag();
                if let Some(at) = self.shard.find(tag, &key, self.now) {
                    self.shard.remove(at);
                }
                self.model.remove(&key);
            }
            Step::Count { key, up, delta } => self.count(&Self::key(key), up, delta),
            Step::Touch { key, ttl } => {
                let key = Self::key(key);
                self.compare(&key);
                let (tag, now, exptime) = (Hash::new(&key, SEED).tag(), self.now, self.expiry(ttl));
                let touched = self.write(|shard| match shard.find(tag, &key, now) {
                    Some(at) => shard.set_exptime(at, exptime, now).map(Some),
                    None => Ok(None),
                });
                if let Some(Some(_)) = touched
                    && let Some(known) = self.model.get_mut(&key)
                {
                    known.exptime = exptime;
                }
            }
            Step::Wait { seconds } => self.now += seconds,
            Step::Sweep { work } => {
                self.shard.sweep(work, self.now);
            }
            Step::MakeRoom { work } if self.forgets => {
                self.shard.make_room(work, self.now);
            }
            Step::MakeRoom { .. } => {}
            Step::Flush => {
                self.shard.flush();
                self.model.clear();
                self.flush_at = None;
            }
            Step::FlushLater { seconds } => {
                self.flush_if_due();
                self.flush_at = Some(self.now + seconds);
                self.shard.flush_at(self.now + seconds, self.now);
                self.flush_if_due();
            }
        }
    }

    fn store(&mut self, key: &[u8], mode: Mode, len: usize, ttl: u32) {
        self.written += 1;
        let number = self.written;
        let value: Vec<u8> = format!("{} {number} ", number % 7).into_bytes();
        let value: Vec<u8> = value.iter().copied().cycle().take(len).collect();
        let before = self.compare(key);
        let owned = match len {
            0..LARGE_BYTES_MIN => Owned::small(value.clone()),
            _ => match self.write(|shard| Owned::gather(&shard.memory, &[&value])) {
                Some(owned) => owned,
                None => return,
            },
        };
        let compare = match mode {
            Mode::Cas => before
                .as_ref()
                .map_or(1, |known| known.cas - u64::from(number % 2)),
            _ => 0,
        };
        let (tag, now, exptime) = (Hash::new(key, SEED).tag(), self.now, self.expiry(ttl));
        let stored = self.write(|shard| {
            let store = StoreChange {
                flags: number % 3,
                exptime,
                compare,
                value_bytes_max: [200_000; 2],
                ..change(mode, key, owned.as_value())
            };
            shard.store(tag, &store, now)
        });
        // Making room for the new value may have cost the old one.
        let before = before.filter(|_| !self.forgets || stored != Some(Stored::NotStored));
        let expected = match (mode, &before) {
            (Mode::Set, _) | (Mode::Replace, Some(_)) => Some(value),
            (Mode::Add, None) => Some(value),
            (Mode::Cas, Some(known)) if known.cas == compare => Some(value),
            (Mode::Append, Some(known)) => Some([&known.value[..], &value].concat()),
            (Mode::Prepend, Some(known)) => Some([&value[..], &known.value].concat()),
            _ => None,
        };
        let expected = expected.filter(|value| value.len() <= 200_000);
        match stored {
            Some(Stored::Stored { cas, len }) => {
                let extends = matches!(mode, Mode::Append | Mode::Prepend);
                let kept = before.filter(|_| extends);
                let value = expected.unwrap_or_default();
                assert!(len == value.len() && self.model.get(key).is_none_or(|old| old.cas < cas));
                let known = Known {
                    value,
                    exptime: kept.as_ref().map_or(exptime, |known| known.exptime),
                    flags: kept.as_ref().map_or(number % 3, |known| known.flags),
                    cas,
                };
                self.model.insert(key.to_vec(), known);
            }
            Some(_) if self.forgets => {}
            Some(_) => assert_eq!(expected, None, "{mode:?}"),
            None => assert!(!self.shard.settings.evicts),
        }
        self.compare(key);
    }

    fn count(&mut self, key: &[u8], up: bool, delta: u64) {
        let before = self.compare(key);
        let (tag, now) = (Hash::new(key, SEED).tag(), self.now);
        let counted = self.write(|shard| {
            let count = Count {
                key,
                up,
                delta,
                compare: 0,
                cas: None,
                exptime: None,
                value_bytes_max: [200_000; 2],
            };
            shard.count(tag, &count, now)
        });
        let number = before.as_ref().and_then(|known| {
            let text = String::from_utf8_lossy(&known.value).into_owned();
            text.split(' ').next()?.parse::<u64>().ok()
        });
        match counted {
            Some(Counted::Done {
                number: now, cas, ..
            }) => {
                let before_number = number.unwrap();
                let expected = if up {
                    before_number + delta
                } else {
                    before_number.saturating_sub(delta)
                };
                assert_eq!(now, expected);
                let known = self.model.get_mut(key).unwrap();
                let mut value = now.to_string().into_bytes();
                value.resize(value.len().max(known.value.len()), b' ');
                (known.value, known.cas) = (value, cas);
            }
            Some(Counted::NotANumber) => assert_eq!(number, None),
            Some(Counted::NotFound) => assert!(before.is_none() || self.forgets),
            other => assert!(other.is_none() && !self.shard.settings.evicts),
        }
        self.compare(key);
    }

    /// After everything has gone nothing is left.
    fn end(mut self, memory: &Memory) {
        while !self.lent.is_empty() {
            self.give_back();
        }
        self.shard.check();
        let keys: Vec<_> = self.model.keys().cloned().collect();
        for key in &keys {
            self.compare(key);
        }
        for key in keys.iter().step_by(2) {
            let tag = Hash::new(key, SEED).tag();
            if let Some(at) = self.shard.find(tag, key, self.now) {
                self.shard.remove(at);
            }
        }
        for key in &keys {
            let (tag, now) = (Hash::new(key, SEED).tag(), self.now);
            self.write(|shard| match shard.find(tag, key, now) {
                Some(at) => shard.set_exptime(at, now + 1, now).map(|_| ()),
                None => Ok(()),
            });
        }
        // Later than anything that has ever been meant to expire.
        self.now += 30;
        if self.shard.settings.evicts {
            while self.shard.sweep(1000, self.now) {}
            assert_eq!((self.shard.items(), self.shard.bytes()), (0, 0));
            self.shard.check();
        }
        drop(self.shard);
        memory.release();
        assert_eq!(memory.taken(), 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_shard_agrees_with_a_map(steps in proptest::collection::vec(step(40), 1..600)) {
        let memory = Memory::new(256 << 20);
        let mut tested = Tested::new(&memory, true, false);
        steps.iter().for_each(|step| tested.take(step));
        tested.end(&memory);
    }

    #[test]
    fn a_shard_that_evicts_never_tells_another_value(
        steps in proptest::collection::vec(step(400), 1..3000),
    ) {
        let memory = Memory::new(MEMORY_BYTES_MIN);
        let mut tested = Tested::new(&memory, true, true);
        for (at, step) in steps.iter().enumerate() {
            tested.take(step);
            if at % 100 == 0 {
                tested.shard.check();
            }
        }
        tested.end(&memory);
    }

    #[test]
    fn a_shard_that_does_not_evict_keeps_what_it_has(
        steps in proptest::collection::vec(step(400), 1..3000),
    ) {
        let memory = Memory::new(MEMORY_BYTES_MIN);
        let mut tested = Tested::new(&memory, false, false);
        steps.iter().for_each(|step| tested.take(step));
        tested.end(&memory);
    }
}

#[test]
fn a_segment_written_anew_is_not_walked_on_from_where_it_was() {
    let memory = Memory::new(MEMORY_BYTES_MIN);
    let mut shard = shard(&memory, true);
    let fill = |shard: &mut Shard, len: usize| {
        for number in 0..100 {
            let key = format!("key-{number}").into_bytes();
            let tag = Hash::new(&key, SEED).tag();
            let value = vec![0; len];
            let put = Put {
                exptime: 1001 + number % 2 * 9,
                ..plain(&key, &value)
            };
            shard.put(tag, None, &put, 1000).unwrap();
        }
    };
    fill(&mut shard, 40);
    // The janitor stops in the middle of the only segment; then all of it is evicted.
    assert!(shard.sweep(50, 1001));
    shard.make_room(200, 1001);
    assert_eq!(shard.items(), 0);
    fill(&mut shard, 57);
    while shard.sweep(1000, 1010) {}
    assert_eq!((shard.items(), shard.bytes()), (0, 0));
    shard.check();
}

#[test]
fn no_more_large_items_go_than_a_new_one_needs() {
    let store = Store::new(Settings {
        memory_bytes: 8 << 20,
        threads: 1,
        ..Settings::default()
    });
    let value = vec![b'v'; 65_000];
    let set = |number: u32| {
        let key = format!("key-{number}").into_bytes();
        let owned = store.gather(&value, 1000).unwrap();
        let put = item(&key, owned.as_value());
        store
            .write(store.home(&key), 1000, |shard, tag| {
                shard.put(tag, None, &put, 1000)
            })
            .unwrap();
    };
    (0..1000).for_each(set);
    // But for a few segments all of it holds items.
    let totals = store.totals();
    assert!(totals.items * 65_000 > 7 << 20, "{}", totals.items);
    assert_eq!(totals.counters.evictions, 1000 - totals.items);
}

/// A store of one shard that lends.
fn lending() -> Store {
    let store = Store::new(Settings {
        memory_bytes: 16 << 20,
        threads: 1,
        ..Settings::default()
    });
    assert!(store.memory().lends());
    store
}

/// An item with nothing but a key and a value.
fn plain<'a>(key: &'a [u8], value: &'a [u8]) -> Put<'a> {
    item(key, Value::small(value))
}

fn set(store: &Store, key: &[u8], value: &[u8]) {
    let put = plain(key, value);
    let done = store.write(store.home(key), 1000, |shard, tag| {
        let old = shard.find(tag, key, 1000);
        shard.put(tag, old, &put, 1000)
    });
    assert!(done.is_ok());
}

fn lend(store: &Store, key: &[u8]) -> Option<Lent> {
    store.read(store.home(key), |shard, tag| {
        let at = shard.find(tag, key, 1000)?;
        shard.get(at).lend()
    })
}

#[test]
fn a_value_that_is_lent_stays_as_it_was_whatever_becomes_of_its_item() {
    let store = lending();
    let say = |number: usize| vec![number.to_le_bytes()[0]; LEND_BYTES_MIN + number];
    let key = |number: usize| format!("key-{number}").into_bytes();
    (0..8).for_each(|number| set(&store, &key(number), &say(number)));
    let lent: Vec<_> = (0..8)
        .map(|number| lend(&store, &key(number)).unwrap())
        .collect();
    // Written anew, where it was, where it may be; read, touched, deleted; all evicted.
    set(&store, &key(0), &say(100)[..LEND_BYTES_MIN]);
    set(&store, &key(1), b"small");
    for number in 2..5 {
        store.read(store.home(&key(number)), |shard, tag| {
            let at = shard.find(tag, &key(number), 1000).unwrap();
            shard.bump(at, 1001);
            shard.set_cas(at, 99);
            shard.set_exptime(at, 2000, 1001).unwrap();
            if number == 4 {
                let at = shard.find(tag, &key(number), 1000).unwrap();
                shard.remove(at);
            }
        });
    }
    (100..10_000).for_each(|number| set(&store, &key(number), &say(number % 8)));
    assert!(store.totals().counters.evictions > 0);
    store.flush(None, 1000);
    (0..1000).for_each(|number| set(&store, &key(number), &say(number % 8)));
    for (number, lent) in lent.iter().enumerate() {
        assert!(lent[..] == say(number)[..], "{number}");
    }
    store.flush(None, 1000);
    store.memory().release();
    assert!(store.memory().taken() >= EXTENT_COST);
    drop(lent);
    store.memory().release();
    store.flush(None, 1000);
    let index = store.totals().index_bytes;
    assert!(store.memory().taken() < index + 2 * EXTENT_COST);
}

#[test]
fn values_are_lent_where_they_are_a_small_part_of_all() {
    let store = lending();
    set(&store, b"large", &[1; LEND_BYTES_MIN]);
    set(&store, b"small", &[1; LEND_BYTES_MIN - 1]);
    assert!(lend(&store, b"large").is_some() && lend(&store, b"small").is_none());
    store.set_memory_bytes_max(15 << 20);
    assert!(lend(&store, b"large").is_none());
}

#[test]
fn a_segment_that_is_lent_is_not_written_from_its_start() {
    let memory = Memory::new(32 << 20);
    let mut shard = shard(&memory, true);
    let put = |shard: &mut Shard, key: &[u8], value: &[u8]| {
        let tag = Hash::new(key, SEED).tag();
        let put = plain(key, value);
        shard.put(tag, None, &put, 1000).unwrap()
    };
    let at = put(&mut shard, b"one", &[1; LEND_BYTES_MIN]);
    let lent = shard.get(at).lend().unwrap();
    // The only segment there is is cleared, and begun anew.
    while shard.items() > 0 {
        assert!(shard.make_room(1, 1000));
    }
    shard.make_room(1, 1000);
    put(&mut shard, b"two", &[2; LEND_BYTES_MIN]);
    assert!(lent.iter().all(|&byte| byte == 1));
    shard.check();
    drop((lent, shard));
    memory.release();
    assert_eq!(memory.taken(), 0);
}

#[test]
fn each_value_evicts_about_as_much_as_it_takes() {
    for len in [100, 1000, 11_000] {
        let store = Store::new(Settings {
            memory_bytes: 8 << 20,
            threads: 1,
            ..Settings::default()
        });
        let value = vec![b'v'; len];
        let set = |number: usize| {
            let key = format!("key-{number:08}").into_bytes();
            let put = plain(&key, &value);
            store
                .write(store.home(&key), 1000, |shard, tag| {
                    shard.put(tag, None, &put, 1000)
                })
                .unwrap();
        };
        let full = (10 << 20) / len;
        (0..full).for_each(set);
        for number in full..full + 1000 {
            let before = store.totals().counters.evictions;
            set(number);
            let evicted = store.totals().counters.evictions - before;
            assert!((1..=2).contains(&evicted), "{evicted} for one of {len}");
        }
    }
}
