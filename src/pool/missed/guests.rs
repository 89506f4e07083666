//! Keys that a server holds while it stands in for another one.
//!
//! What a server holds of another's keys from an earlier time may be stale, and
//! nobody can tell: so of such a key it counts as holding nothing until a client
//! of this proxy has stored or deleted it there. That is forgotten whenever any
//! server comes or goes ([`crate::pool::health::turns`]): while none does, all
//! changes of a key go to the same server, and what that holds is right. Later the
//! keys are deleted on it as if it had missed changes of them.

use std::collections::VecDeque;

use super::packed;
use super::set::{Cursor, Due, Set};

/// What a server that stands in for another one holds of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hosting {
    /// What was stored or deleted there last.
    Holds,
    /// It counts as holding nothing, until a request that replaces the item
    /// succeeds.
    Unknown(Claim),
    /// More keys are not taken.
    Full,
}

/// What the success of a request that replaces an item depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// That no change of the key has failed meanwhile.
    Fresh,
    /// That no further one has.
    Missed(Due),
    /// It does not help: a change may still be carried out after it.
    Never,
}

/// The keys of other servers that one holds.
#[derive(Debug)]
pub(super) struct Guests {
    /// Since which coming or going these are here.
    turn: u64,
    here: Set,
    /// Those of before, as far as they have not been dealt with.
    gone: VecDeque<(Set, Cursor)>,
    seed: u64,
}

impl Guests {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            turn: 0,
            here: Set::new(seed),
            gone: VecDeque::new(),
            seed,
        }
    }

    /// How many keys there are, with those that are on their way out.
    pub(super) fn len(&self) -> usize {
        let gone: usize = self.gone.iter().map(|(set, _)| set.len()).sum();
        self.here.len() + gone
    }

    pub(super) fn is_empty(&self) -> bool {
        self.here.is_empty() && self.gone.is_empty()
    }

    /// Whether the key is here since `turn`.
    pub(super) fn has(&self, key: &[u8], turn: u64) -> bool {
        self.turn == turn && self.here.contains(key)
    }

    /// Takes a key in. One that comes too late has left again already.
    pub(super) fn take(&mut self, key: &[u8], turn: u64) {
        if turn > self.turn {
            self.turn_to(turn);
        }
        if turn == self.turn {
            self.here.miss(key, false);
        } else {
            let mut late = Set::new(self.seed);
            late.miss(key, false);
            self.gone.push_back((late, Cursor::default()));
        }
    }

    /// Lets all go that have come before `turn`.
    pub(super) fn turn_to(&mut self, turn: u64) {
        if turn <= self.turn {
            return;
        }
        self.turn = turn;
        if !self.here.is_empty() {
            let gone = std::mem::replace(&mut self.here, Set::new(self.seed));
            self.gone.push_back((gone, Cursor::default()));
        }
    }

    /// Takes up to `max` keys out of those that have gone, and appends them to
    /// `packed`.
    pub(super) fn dismiss(&mut self, max: usize, packed: &mut Vec<u8>) {
        let (mut keys, mut due) = (Vec::new(), Vec::new());
        while due.len() < max
            && let Some((set, cursor)) = self.gone.front_mut()
        {
            let before = due.len();
            set.take_due(cursor, max - before, &mut keys, &mut due);
            if due.len() < max {
                self.gone.pop_front();
            }
        }
        let mut rest = &keys[..];
        for due in due {
            if let Some(key) = rest.split_off(..usize::from(due.len)) {
                packed::push(packed, key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dismissed(guests: &mut Guests, max: usize) -> Vec<Vec<u8>> {
        let mut keys = Vec::new();
        guests.dismiss(max, &mut keys);
        packed::iter(&keys).map(<[u8]>::to_vec).collect()
    }

    #[test]
    fn keys_are_here_until_anything_turns() {
        let mut guests = Guests::new(1);
        guests.take(b"a", 5);
        guests.take(b"b", 5);
        assert!(guests.has(b"a", 5) && !guests.has(b"a", 6) && !guests.has(b"c", 5));
        assert!(dismissed(&mut guests, 10).is_empty());
        guests.take(b"c", 6);
        assert!(guests.has(b"c", 6) && !guests.has(b"a", 6) && !guests.has(b"a", 5));
        assert_eq!(guests.len(), 3);
        assert_eq!(dismissed(&mut guests, 1), [b"a"]);
        assert_eq!(dismissed(&mut guests, 10), [b"b"]);
        assert_eq!(guests.len(), 1);
    }

    #[test]
    fn a_key_that_comes_too_late_has_gone_already() {
        let mut guests = Guests::new(1);
        guests.turn_to(6);
        guests.take(b"a", 5);
        assert!(!guests.has(b"a", 5) && !guests.has(b"a", 6));
        assert_eq!(dismissed(&mut guests, 10), [b"a"]);
        guests.turn_to(5);
        assert!(guests.is_empty());
    }
}
