//! A limit that changes while there are items.

use super::pressure::{set_until, store, sweep, touch};
use super::*;

/// Reads of a key: it is there, and used.
fn read(store: &Store, key: &str) -> bool {
    store.read(store.home(key.as_bytes()), |shard, tag| {
        let found = shard.find(tag, key.as_bytes(), 1000);
        found.map(|at| shard.bump(at, 1000)).is_some()
    })
}

#[test]
fn what_is_read_often_stays_when_the_limit_is_lowered() {
    let store = Store::new(Settings {
        memory_bytes: 64 << 20,
        threads: 4,
        ..Settings::default()
    });
    assert_eq!(store.shards(), 8);
    let key = |number: u32| format!("key-{number}");
    for number in 0..50_000 {
        set_until(&store, &key(number), &[1; 1000], 0, 1000).unwrap();
    }
    assert_eq!(store.totals().counters.evictions, 0);
    for _ in 0..3 {
        assert!(
            (0..50_000)
                .step_by(20)
                .all(|number| read(&store, &key(number)))
        );
    }
    store.set_memory_bytes_max(32 << 20);
    sweep(&store, 1000);
    assert!(store.memory_bytes() <= 32 << 20);
    let alive = (0..50_000)
        .step_by(20)
        .filter(|&number| read(&store, &key(number)));
    assert_eq!(alive.count(), 2500);
    // It ends when it is enough.
    assert!(store.totals().items > 24_000, "{}", store.totals().items);
}

#[test]
fn a_cache_of_many_shards_works_at_the_lowest_limit() {
    let store = Store::new(Settings {
        memory_bytes: 256 << 20,
        threads: 4,
        ..Settings::default()
    });
    assert_eq!(store.shards(), 32);
    let key = |number: u32| format!("key-{number}");
    for number in 0..100_000 {
        set_until(&store, &key(number), &[1; 1000], 0, 1000).unwrap();
        if number % 2 == 0 {
            read(&store, &key(number));
        }
    }
    store.set_memory_bytes_max(1);
    assert_eq!(store.memory_bytes_max(), 32 << 20);
    sweep(&store, 1000);
    assert!(store.memory_bytes() <= 32 << 20);
    for number in 0..1000 {
        set_until(&store, &key(number), &[2; 3000], 0, 1000).unwrap();
        assert!(store.gather(&[3; 500_000], 1000).is_ok());
    }
    sweep(&store, 1000);
    assert!(store.memory_bytes() <= 32 << 20);
    let alive = (0..1000).filter(|&number| read(&store, &key(number)));
    let alive = alive.count();
    assert!(alive > 700, "{alive}");
}

#[test]
fn shards_without_items_hold_nothing_that_others_need() {
    for evicts in [true, false] {
        let store = Store::new(Settings {
            memory_bytes: 256 << 20,
            threads: 4,
            evicts,
            ..Settings::default()
        });
        for number in 0..10_000 {
            set_until(&store, &format!("key-{number}"), &[1; 1000], 0, 1000).unwrap();
        }
        if !evicts {
            for number in 0..10_000 {
                let key = format!("key-{number}");
                store.read(store.home(key.as_bytes()), |shard, tag| {
                    let at = shard.find(tag, key.as_bytes(), 1000).unwrap();
                    shard.remove(at);
                });
            }
        }
        store.memory.set_limit(EXTENT_COST);
        sweep(&store, 1000);
        assert!(
            store.memory_bytes() <= EXTENT_COST,
            "{}",
            store.memory_bytes()
        );
    }
}

#[test]
fn who_stores_does_not_make_up_for_all_of_a_lowered_limit() {
    let store = store(256, true);
    let key = |number: u32| format!("key-{number}");
    for number in 0..100_000 {
        set_until(&store, &key(number), &[1; 1000], 0, 1000).unwrap();
    }
    store.set_memory_bytes_max(32 << 20);
    assert_eq!(store.memory_bytes_max(), 32 << 20);
    // A mebibyte, and an extent for each shard.
    let most = 4 * (1 << 20) / 1000;
    for round in 0..3 {
        let before = store.totals().counters.evictions;
        let evictions = || store.totals().counters.evictions - before;
        for number in 0..1000 {
            set_until(&store, &key(number), &[round; 1000], 0, 1000).unwrap();
        }
        assert!(evictions() < 1000 + most, "{}", evictions());
        // However much more the janitor does, it is no debt of whoever comes next.
        (0..10).for_each(|_| _ = store.tidy(0, 256, 1000));
    }
    assert!(store.memory_bytes() > 64 << 20);
    sweep(&store, 1000);
    assert!(store.memory_bytes() <= 32 << 20 && store.totals().items > 25_000);
    store.set_memory_bytes_max(256 << 20);
    let evictions = store.totals().counters.evictions;
    for number in 0..100_000 {
        set_until(&store, &key(number), &[1; 1000], 0, 1000).unwrap();
    }
    assert_eq!(store.totals().counters.evictions, evictions);
}

#[test]
fn nothing_is_evicted_for_a_value_that_is_larger_than_the_limit() {
    let store = store(64, true);
    for number in 0..10_000 {
        set_until(&store, &format!("key-{number}"), &[1; 1000], 0, 1000).unwrap();
    }
    store.set_memory_bytes_max(16 << 20);
    sweep(&store, 1000);
    let before = store.totals();
    let most = (16 << 20) - ITEM_BYTES_BESIDE;
    assert!(store.gather(&vec![1; most + 1], 1000).is_err());
    let after = store.totals();
    assert_eq!(after.items, before.items);
    assert_eq!(after.counters.no_memory, before.counters.no_memory + 1);
    assert!(store.gather(&vec![1; most / 10 * 9], 1000).is_ok());
}

#[test]
fn what_nothing_is_evicted_for_can_be_given_a_time_under_a_lowered_limit() {
    let store = store(16, false);
    let key = |number: u32| format!("key-{number}");
    for number in 0..40_000 {
        set_until(&store, &key(number), &[1; 200], 0, 1000).unwrap();
    }
    store.set_memory_bytes_max(8 << 20);
    sweep(&store, 1000);
    assert!(store.memory_bytes() > 8 << 20);
    assert!((0..500).all(|number| touch(&store, &key(number)).is_ok()));
    store.flush(None, 1000);
    set_until(&store, "new", b"value", 0, 1000).unwrap();
    assert!((0..100).all(|number| set_until(&store, &key(number), b"1", 0, 1000).is_ok()));
    (0..100).for_each(|number| assert_eq!(touch(&store, &key(number)), Ok(())));
}

#[test]
fn no_more_is_promised_than_the_shards_can_reach() {
    let store = store(8, true);
    assert_eq!(store.shards(), 1);
    store.set_memory_bytes_max(usize::MAX);
    assert_eq!(store.memory_bytes_max(), SHARD_BYTES_MAX);
}
