//! What goes and what stays when memory is short.

use super::*;

const DAYS: u32 = 86_400;

/// A store of one shard.
pub(super) fn store(mib: usize, evicts: bool) -> Store {
    Store::new(Settings {
        memory_bytes: mib << 20,
        threads: 1,
        evicts,
        ..Settings::default()
    })
}

/// Stores a value that expires then, in the place of another.
pub(super) fn set_until(
    store: &Store,
    key: &str,
    value: &[u8],
    exptime: u32,
    now: u32,
) -> Result<(), Full> {
    let put = Put {
        exptime,
        ..plain(key.as_bytes(), value)
    };
    let stored = store.write(store.home(put.key), now, |shard, tag| {
        let old = shard.find(tag, put.key, now);
        shard.put(tag, old, &put, now)
    });
    stored.map(|_| ())
}

/// Has what is stored expire a second later.
pub(super) fn touch(store: &Store, key: &str) -> Result<(), Full> {
    store.write(store.home(key.as_bytes()), 1000, |shard, tag| {
        let at = shard.find(tag, key.as_bytes(), 1000).unwrap();
        shard.set_exptime(at, 1001, 1000).map(|_| ())
    })
}

pub(super) fn sweep(store: &Store, now: u32) {
    for shard in 0..store.shards() {
        while store.tidy(shard, 256, now) {}
    }
}

/// Every other item lives for two seconds, the others for weeks, until there is no room.
fn fill_mixed(store: &Store, items: u32) -> u32 {
    let mut stored = 0;
    while stored < items {
        let exptime = 1000 + if stored % 2 == 0 { 2 } else { 20 * DAYS };
        if set_until(store, &format!("key-{stored}"), &[1; 200], exptime, 1000).is_err() {
            break;
        }
        stored += 1;
    }
    stored
}

#[test]
fn those_that_live_long_do_not_keep_those_that_do_not() {
    let store = store(8, false);
    let stored = fill_mixed(&store, u32::MAX);
    sweep(&store, 1004);
    let totals = store.totals();
    assert_eq!(totals.counters.swept, u64::from(stored.div_ceil(2)));
    assert_eq!(totals.items, u64::from(stored / 2));
    // And there is room for as many.
    let more = (0..stored / 5 * 2)
        .filter(|number| set_until(&store, &format!("new-{number}"), &[2; 200], 0, 1004).is_ok())
        .count();
    assert!(more > (stored / 5 * 2) as usize - 10, "{more} of {stored}");
}

#[test]
fn what_has_expired_makes_room_before_anything_that_lives_is_evicted() {
    for evicts in [true, false] {
        let store = store(8, evicts);
        let stored = fill_mixed(&store, 30_000);
        assert!(evicts || stored < 40_000);
        // Nobody has tidied up.
        for number in 0..stored / 5 * 2 {
            set_until(&store, &format!("new-{number}"), &[2; 200], 0, 1004).unwrap();
        }
        assert_eq!(store.totals().counters.evictions, 0);
    }
}

#[test]
fn a_walk_is_not_made_for_little() {
    let store = store(8, true);
    let mut random = fastrand::Rng::with_seed(7);
    let mut count = 0;
    for now in 1000..3000 {
        for _ in 0..20 {
            let ttl = *random.choice(&[1, 7, 60, 300, 301, 900, 3600]).unwrap();
            let key = format!("key-{count}");
            set_until(&store, &key, &[1; 100], now + ttl, now).unwrap();
            count += 1;
        }
        sweep(&store, now);
    }
    let totals = store.totals();
    let (swept, looked) = (totals.counters.swept, totals.counters.swept_over);
    assert!(looked < swept * 20, "{looked} items for {swept}");
    let mut dead = 0;
    store.walk(|found| {
        dead += u64::from(found.item.is_expired(2999));
        ControlFlow::Continue(())
    });
    assert!(dead * 10 < totals.items, "{dead} of {}", totals.items);
}

#[test]
fn a_set_that_fails_does_not_look_at_everything_again() {
    let store = store(8, false);
    let mut stored = 0;
    let set = |number: u32| set_until(&store, &format!("key-{number}"), &[1; 1000], 0, 1000);
    while set(stored).is_ok() {
        stored += 1;
    }
    let garbage = || store.slots[0].lock().segments.garbage;
    let delete = |number: u32| {
        let key = format!("key-{number}");
        store.read(store.home(key.as_bytes()), |shard, tag| {
            let at = shard.find(tag, key.as_bytes(), 1000).unwrap();
            shard.remove(at);
        });
    };
    assert_eq!(garbage(), 0, "all has been looked at");
    // One that is too little leaves the account as it is, whoever fails meanwhile.
    delete(0);
    let one = garbage();
    assert!(one > 1000);
    set(stored).unwrap_err();
    set(stored).unwrap_err();
    assert_eq!(garbage(), one);
    (100..120).for_each(delete);
    let freed = garbage();
    while set(stored).is_ok() {
        stored += 1;
    }
    assert!(garbage() < freed);
}

#[test]
fn what_is_deleted_makes_room_for_others_where_nothing_is_evicted() {
    // Items that fill segments to the end, and some of which few fit.
    for len in [200, 5000, 15_000] {
        let store = store(16, false);
        let mut stored = Vec::new();
        for number in 0.. {
            let key = format!("key-{number}");
            if set_until(&store, &key, &vec![1; len], 0, 1000).is_err() {
                break;
            }
            stored.push(key);
        }
        fastrand::Rng::with_seed(5).shuffle(&mut stored);
        // A fiftieth of all at a time.
        let step = stored.len() / 50;
        let (mut deleted, mut refused) = (0, 0);
        for (at, keys) in stored.chunks_exact(step).take(10).enumerate() {
            for key in keys {
                let removed = store.read(store.home(key.as_bytes()), |shard, tag| {
                    shard
                        .find(tag, key.as_bytes(), 1000)
                        .map(|at| shard.remove(at))
                });
                assert!(removed.is_some());
            }
            deleted += step;
            for number in 0..step + refused {
                let key = format!("new-{at}-{number}");
                let full = set_until(&store, &key, &vec![2; len], 0, 1000).is_err();
                refused = if number == 0 { 0 } else { refused } + usize::from(full);
            }
            store.slots.iter().for_each(|slot| slot.lock().check());
        }
        assert!(deleted >= stored.len() / 6);
        assert!(
            refused <= stored.len() / 30,
            "{len}: {refused} of {deleted}"
        );
        // What has been taken in advance comes back.
        sweep(&store, 1000);
        assert!(store.memory_bytes() <= store.memory_bytes_max());
    }
}

#[test]
fn what_there_is_can_be_given_a_time_where_nothing_is_evicted() {
    let store = store(16, false);
    let key = |number: u32| format!("key-{number}");
    let stored = (0..)
        .take_while(|&number| set_until(&store, &key(number), &[1; 200], 0, 1000).is_ok())
        .count();
    for number in 0..40_000 {
        assert_eq!(touch(&store, &key(number)), Ok(()), "{number} of {stored}");
    }
    // A segment for each shard, and one that each copies to.
    let most = store.memory_bytes_max() + 2 * store.shards() * EXTENT_COST;
    assert!(store.memory_bytes() <= most);
    store.slots.iter().for_each(|slot| slot.lock().check());
    // They expire, and all is as it was.
    sweep(&store, 1002);
    assert!(store.memory_bytes() <= store.memory_bytes_max());
    assert!(set_until(&store, "new", &[1; 200], 0, 1002).is_ok());
}

#[test]
fn what_has_been_made_counts_though_there_is_no_more() {
    let memory = Memory::new(MEMORY_BYTES_MIN);
    let mut shard = shard(&memory, true);
    let tag = Hash::new(b"key", SEED).tag();
    shard
        .put(tag, None, &plain(b"key", b"value"), 1000)
        .unwrap();
    assert!(shard.make_room_for(2 * MEMORY_BYTES_MIN, 1000, 1000));
    assert_eq!((shard.items(), memory.used()), (0, 0));
    assert!(!shard.make_room_for(2 * MEMORY_BYTES_MIN, 1000, 1000));
}

#[test]
fn what_cannot_be_copied_for_want_of_memory_is_not_begun_again_and_again() {
    let memory = Memory::new(MEMORY_BYTES_MIN);
    let mut shard = shard(&memory, false);
    let tag = |key: &str| Hash::new(key.as_bytes(), SEED).tag();
    let mut keys = (0..).map(|number| format!("key-{number}"));
    let stored: Vec<_> = keys
        .by_ref()
        .take_while(|key| {
            let put = plain(key.as_bytes(), &[1; 1000]);
            shard.put(tag(key), None, &put, 1000).is_ok()
        })
        .collect();
    for key in stored.iter().take(50) {
        let at = shard.find(tag(key), key.as_bytes(), 1000).unwrap();
        shard.remove(at);
    }
    memory.is_exhausted.store(true, Ordering::Relaxed);
    // A segment is worth copying, and there is nothing to copy it to.
    let worked = (0..100_000).take_while(|_| shard.make_room(1, 1000));
    assert!(worked.count() < 1000);
    shard.check();
}
