use super::*;
use crate::backend::store::large::tests::large;

#[test]
fn no_more_is_handed_out_than_the_limit_allows() {
    let memory = Memory::new(3 * EXTENT_COST + PAGE_BYTES + PIECE_COST);
    let extents: Vec<_> = std::iter::from_fn(|| memory.extent()).collect();
    assert_eq!(extents.len(), 3);
    assert!(large(&memory, 2 * PAGE_BYTES).is_none());
    let one = large(&memory, PAGE_BYTES);
    assert!(one.is_some() && large(&memory, PAGE_BYTES).is_none());
    assert_eq!(memory.taken(), memory.limit());
}

#[test]
fn what_is_free_in_one_size_can_be_had_in_another() {
    let memory = Memory::new(EXTENT_COST);
    let values: Vec<_> = std::iter::from_fn(|| large(&memory, LARGE_BYTES_MIN)).collect();
    let cost = LARGE_BYTES_MIN + PIECE_COST;
    assert_eq!(values.len(), EXTENT_COST / cost);
    assert!(!memory.has_extent() && memory.extent().is_none());
    drop(values);
    let extent = memory.extent().unwrap();
    assert_eq!(memory.taken(), EXTENT_COST);
    memory.give_extent(extent);
    assert!(large(&memory, 5 * PAGE_BYTES).is_some());
}

#[test]
fn many_threads_keep_to_the_limit() {
    let memory = Memory::new(6 << 20);
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let memory = &memory;
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed);
                let (mut values, mut extents) = (Vec::new(), Vec::new());
                for _ in 0..3000 {
                    let most = if random.bool() { 16 } else { 256 };
                    let pages = random.usize(1..=most);
                    match random.u8(..10) {
                        0..5 => values.extend(large(memory, pages * PAGE_BYTES)),
                        5 => extents.extend(memory.extent()),
                        6 => extents
                            .drain(..)
                            .for_each(|extent| memory.give_extent(extent)),
                        7 if random.u8(..20) == 0 => memory.release(),
                        _ => values.truncate(random.usize(..8)),
                    }
                    assert!(memory.taken() <= memory.limit());
                    assert!(memory.used() <= memory.limit());
                }
                extents
                    .into_iter()
                    .for_each(|extent| memory.give_extent(extent));
            });
        }
    });
    assert_eq!(memory.used(), 0);
    memory.release();
    assert_eq!(memory.taken(), 0);
}

#[test]
fn what_is_taken_in_advance_has_to_come_back_first() {
    let memory = Memory::new(EXTENT_COST);
    let first = memory.extent().unwrap();
    let second = memory.extent_in_advance().unwrap();
    assert!(memory.is_over());
    memory.give_extent(first);
    assert!(!memory.is_over() && memory.extent().is_none());
    memory.give_extent(second);
    assert!(memory.extent().is_some());
}

#[test]
fn what_comes_and_goes_in_any_order_makes_no_holes() {
    let mappings = || {
        std::fs::read_to_string("/proc/self/maps")
            .unwrap()
            .lines()
            .count()
    };
    let memory = Memory::new(64 << 20);
    let mut values: Vec<_> = std::iter::from_fn(|| large(&memory, LARGE_BYTES_MIN)).collect();
    for value in &mut values {
        value.bytes_mut(0)[0] = 1;
    }
    let before = mappings();
    // Every other one goes, and extents take their memory.
    let mut keep = false;
    values.retain(|_| {
        keep = !keep;
        keep
    });
    let extents: Vec<_> = std::iter::from_fn(|| memory.extent()).collect();
    assert!(extents.len() > 100);
    // Other tests of this process map things too.
    assert!(mappings() < before + 200);
    drop((values, extents));
}

#[test]
fn spare_memory_goes_back_when_asked() {
    let memory = Memory::new(8 << 20);
    let extent = memory.extent().unwrap();
    memory.give_extent(extent);
    assert_eq!(memory.taken(), EXTENT_BYTES);
    memory.release();
    assert_eq!(memory.taken(), 0);
}
