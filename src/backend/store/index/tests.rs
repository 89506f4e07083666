use super::*;
use std::collections::HashMap;

use proptest::prelude::*;

/// A tag that spreads like those of keys.
fn tag(number: u64) -> Tag {
    super::super::hash::Hash::new(&number.to_le_bytes(), 7).tag()
}

fn place(number: u32) -> Location {
    Location::from_bits((1 << 15) + number)
}

struct Tested {
    index: Index,
    model: HashMap<u64, Location>,
}

impl Tested {
    fn new() -> Self {
        Self {
            index: Index::new(Memory::new(64 << 20), true),
            model: HashMap::new(),
        }
    }

    fn find(&self, number: u64) -> Option<(Position, Location)> {
        let known = self.model.get(&number).copied();
        self.index
            .find(tag(number), |location| Some(location) == known)
    }

    fn insert(&mut self, number: u64) {
        let location = place(u32::try_from(number).unwrap());
        let position = self.index.reserve(tag(number)).unwrap();
        self.index.insert(position, tag(number), location);
        self.model.insert(number, location);
    }

    fn remove(&mut self, number: u64, ghost: Option<Location>) {
        let (position, _) = self.find(number).unwrap();
        self.index.remove(position, ghost);
        self.model.remove(&number);
    }

    fn check(&self) {
        assert_eq!(self.index.items(), self.model.len());
        for &number in self.model.keys() {
            assert!(self.find(number).is_some(), "{number}");
        }
    }
}

#[test]
fn many_items_are_found_and_take_little() {
    let mut tested = Tested::new();
    let memory = Arc::clone(&tested.index.memory);
    for number in 0..300_000 {
        tested.insert(number);
        if number % 10_000 == 9_999 {
            // 8 bytes of slot, at worst in pages that are not half full.
            let bytes = tested.index.bytes();
            let items = tested.model.len();
            assert!(
                bytes <= items * 18 + 2 * EXTENT_BYTES,
                "{bytes} for {items}"
            );
        }
    }
    tested.check();
    for number in 0..300_000 {
        tested.remove(number, None);
    }
    tested.check();
    assert_eq!(tested.index.pages.len(), 1);
    drop(tested);
    memory.release();
    assert_eq!(memory.taken(), 0);
}

#[test]
fn a_table_that_may_take_nothing_in_advance_keeps_to_the_limit() {
    for ahead in [true, false] {
        let memory = Memory::new(EXTENT_BYTES * 3 / 2);
        let mut index = Index::new(Arc::clone(&memory), ahead);
        let mut refused = false;
        for number in 0..100_000 {
            match index.reserve(tag(number)) {
                Ok(position) => index.insert(position, tag(number), place(1)),
                Err(NoPage) => refused = true,
            }
        }
        assert_eq!((refused, memory.is_over()), (!ahead, ahead));
    }
}

#[test]
fn a_page_fills_up_before_it_splits() {
    let mut tested = Tested::new();
    let mut number = 0;
    while tested.index.pages.len() < 2 {
        tested.insert(number);
        number += 1;
    }
    assert!(tested.model.len() > 400, "{}", tested.model.len());
}

#[test]
fn a_ghost_stays_until_its_slot_is_needed() {
    let mut tested = Tested::new();
    tested.insert(1);
    tested.remove(1, Some(Location::mark(77)));
    assert_eq!(tested.index.ghost(tag(1)).map(Location::marked), Some(77));
    assert!(tested.index.find(tag(1), |_| true).is_none());
    tested.insert(1);
    assert_eq!(tested.index.ghost(tag(1)), None);
    tested.remove(1, Some(Location::mark(78)));
    for number in 2..20_000 {
        tested.insert(number);
    }
    tested.check();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn the_index_agrees_with_a_map(
        steps in proptest::collection::vec((0u64..3000, 0u8..5), 1..6000),
    ) {
        let mut tested = Tested::new();
        for (number, what) in steps {
            match (tested.model.contains_key(&number), what) {
                (false, 0..=3) => tested.insert(number),
                (true, 0) => tested.remove(number, Some(Location::mark(5))),
                (true, 1..=2) => tested.remove(number, None),
                (true, 3) => {
                    let (position, _) = tested.find(number).unwrap();
                    let elsewhere = place(100_000 + u32::try_from(number).unwrap());
                    tested.index.relocate(position, elsewhere);
                    tested.model.insert(number, elsewhere);
                }
                (present, _) => prop_assert_eq!(tested.find(number).is_some(), present),
            }
        }
        tested.check();
    }
}
