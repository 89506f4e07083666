//! The bundled cache from a list of operations, beside a plain map and under a clock that
//! moves: what it tells is what the map knows. It may have evicted, but tells no other
//! value, none that has expired and none that was deleted; a quarter of an hour after
//! everything has expired nothing is left.
#![no_main]

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use ketch::backend::execute::execute;
use ketch::backend::sink::Sink;
use ketch::backend::store::Large;
use ketch::backend::{Settings, Store};
use ketch::net::lend::Lent;
use ketch::protocol::{Cut, Limits, text};
use libfuzzer_sys::fuzz_target;

/// What the map knows of a key.
#[derive(Clone)]
struct Known {
    value: Vec<u8>,
    expiry: u32,
}

/// A reply, with what was lent for it.
#[derive(Default)]
struct Reply {
    bytes: Vec<u8>,
    lent: Option<Lent>,
}

impl Sink for Reply {
    fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    fn room(&mut self, _more: usize) -> &mut Vec<u8> {
        &mut self.bytes
    }

    fn share(&mut self, value: &Arc<Large>) {
        self.bytes.share(value);
    }

    fn borrows(&self) -> bool {
        true
    }

    fn lend(&mut self, bytes: Lent) {
        self.bytes.extend_from_slice(&bytes);
        self.lent = Some(bytes);
    }

    fn count(&self) -> usize {
        self.bytes.len()
    }
}

struct Tested {
    store: Store,
    /// What is lent, and what it said then.
    lent: VecDeque<(Lent, Vec<u8>)>,
    map: HashMap<u8, Known>,
    now: u32,
    written: u32,
    /// Bytes of values that may still be written and compared.
    bytes_left: usize,
}

/// Bytes of values written for one input: enough to fill the largest cache
/// there is here, and no more, for an input of nothing but large values would take
/// a second and teach nothing.
const VALUE_BYTES_MAX: usize = 4 << 20;

/// Values that are borrowed at a time.
const LENT_MAX: usize = 8;

/// Operations of one input. Longer lists find what shorter ones find.
const STEPS_MAX: usize = 400;

impl Tested {
    fn say(&mut self, line: &[u8]) -> Vec<u8> {
        let limits = Limits {
            value_bytes_max: 1 << 20,
            ..Limits::default()
        };
        let Cut::Request { request, len } = text::cut(line, 0, &limits) else {
            panic!("not a request: {}", String::from_utf8_lossy(line));
        };
        assert_eq!(len, line.len());
        let mut out = Reply::default();
        execute(&self.store, &request, self.now, &mut out);
        if let Some(lent) = out.lent {
            let said = lent.to_vec();
            self.lent.push_back((lent, said));
        }
        if self.lent.len() > LENT_MAX {
            self.give_back();
        }
        out.bytes
    }

    /// Lets go of the value that was borrowed first, which has not changed.
    fn give_back(&mut self) {
        if let Some((lent, said)) = self.lent.pop_front() {
            assert!(lent[..] == said[..], "what was lent has changed");
        }
    }

    fn known(&mut self, key: u8) -> Option<Known> {
        let now = self.now;
        self.map
            .retain(|_, known| known.expiry == 0 || known.expiry > now);
        self.map.get(&key).cloned()
    }

    /// What the cache holds, which is what the map knows or nothing.
    fn check(&mut self, key: u8) -> Option<Known> {
        let told = self.say(format!("mg {key} v\r\n").as_bytes());
        let known = self.known(key);
        if told == b"EN\r\n" {
            self.map.remove(&key);
            return None;
        }
        let known = known.expect("nothing was there");
        let expected = [
            format!("VA {}\r\n", known.value.len()).as_bytes(),
            &known.value,
            b"\r\n",
        ]
        .concat();
        assert!(told == expected, "another value");
        Some(known)
    }

    fn store(&mut self, key: u8, verb: &str, len: usize, ttl: u32) {
        let known = self.check(key);
        // What is appended to is written anew.
        let written = len + known.as_ref().map_or(0, |known| known.value.len());
        let len = match self.bytes_left.checked_sub(written) {
            Some(left) => {
                self.bytes_left = left;
                len
            }
            None => len % 100,
        };
        self.written += 1;
        // In blocks: byte by byte, instrumented, takes longer than all that is tested.
        let number = self.written.to_string();
        let mut value = number.repeat(len / number.len() + 1).into_bytes();
        value.truncate(len);
        let head = format!("{verb} {key} 0 {ttl} {len}\r\n");
        let told = self.say(&[head.as_bytes(), &value, b"\r\n"].concat());
        let expiry = if ttl == 0 { 0 } else { self.now + ttl };
        let stored = told == b"STORED\r\n";
        let (value, expiry) = match (verb, known) {
            ("append", Some(known)) => ([known.value, value].concat(), known.expiry),
            ("prepend", Some(known)) => ([value, known.value].concat(), known.expiry),
            _ => (value, expiry),
        };
        if stored {
            self.map.insert(key, Known { value, expiry });
        } else if verb == "set" {
            // Refused for its size, and the old one is gone.
            self.map.remove(&key);
        }
        self.check(key);
    }

    fn count(&mut self, key: u8, verb: &str, delta: u32) {
        let known = self.check(key);
        let told = self.say(format!("{verb} {key} {delta}\r\n").as_bytes());
        let told = String::from_utf8(told).unwrap();
        if let (Ok(number), Some(known)) = (told.trim_end().parse::<u64>(), known) {
            let text = String::from_utf8(known.value.clone()).unwrap();
            // What follows a blank does not count: a number that got shorter was filled with
            // blanks, and then appended to.
            let before: u64 = text.split(' ').next().unwrap().parse().unwrap();
            let expected = match verb {
                "incr" => before.wrapping_add(delta.into()),
                _ => before.saturating_sub(delta.into()),
            };
            assert_eq!(number, expected);
            let mut value = number.to_string().into_bytes();
            value.resize(value.len().max(known.value.len()), b' ');
            self.map.insert(key, Known { value, ..known });
        }
        self.check(key);
    }

    fn touch(&mut self, key: u8, ttl: u32) {
        self.check(key);
        let told = self.say(format!("touch {key} {ttl}\r\n").as_bytes());
        if told == b"TOUCHED\r\n"
            && let Some(known) = self.map.get_mut(&key)
        {
            known.expiry = if ttl == 0 { 0 } else { self.now + ttl };
        }
        self.check(key);
    }

    fn tidy(&self, work: usize) {
        for shard in 0..self.store.shards() {
            self.store.tidy(shard, work, self.now);
        }
    }

    /// A quarter of an hour after everything has expired nothing is left.
    fn end(mut self) {
        while !self.lent.is_empty() {
            self.give_back();
        }
        let mut keys: Vec<u8> = self.map.keys().copied().collect();
        // The order of a map differs from run to run.
        keys.sort_unstable();
        for key in keys {
            self.touch(key, 1);
            // Where nothing is evicted there may be no room for a time to live.
            if self.known(key).is_some_and(|known| known.expiry == 0) {
                self.say(format!("delete {key}\r\n").as_bytes());
            }
        }
        // What is little among much that lives is not looked for sooner.
        self.now += 1000;
        for shard in 0..self.store.shards() {
            while self.store.tidy(shard, 1000, self.now) {}
        }
        let totals = self.store.totals();
        assert_eq!((totals.items, totals.bytes), (0, 0));
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&first, rest)) = bytes.split_first() else {
        return;
    };
    let mut tested = Tested {
        store: Store::new(Settings {
            // The largest lends values to begin with.
            memory_bytes: [0, 1 << 20, 2 << 20, 64 << 20][usize::from(first & 3)],
            threads: 1 + usize::from(first >> 6),
            evicts: first & 4 == 0,
            ..Settings::default()
        }),
        lent: VecDeque::new(),
        map: HashMap::new(),
        now: 1_000_000,
        written: 0,
        bytes_left: VALUE_BYTES_MAX,
    };
    for step in rest.as_chunks::<4>().0.iter().take(STEPS_MAX) {
        let [what, key, a, b] = *step;
        // Small, of some chunks, and a few that are larger than all of them.
        let len = match b % 16 {
            0..9 => usize::from(a),
            9..13 => usize::from(a) * 16,
            13 | 14 => usize::from(a) * 90,
            _ if key % 8 > 0 => usize::from(a) * 400,
            _ => usize::from(a) * 3000,
        };
        let ttl = u32::from(b >> 4) % 8;
        match what % 16 {
            0..4 => tested.store(key, "set", len, ttl),
            4 => tested.store(key, "add", len, ttl),
            5 => tested.store(key, "replace", len, ttl),
            6 => tested.store(key, "append", len, 0),
            7 => tested.store(key, "prepend", len, 0),
            8 => {
                tested.say(format!("delete {key}\r\n").as_bytes());
                tested.map.remove(&key);
            }
            9 => tested.count(key, "incr", a.into()),
            10 => tested.count(key, "decr", a.into()),
            11 => tested.touch(key, ttl),
            12 => tested.now += u32::from(a % 4),
            13 => tested.tidy(a.into()),
            14 if a == 0 => {
                tested.say(b"flush_all\r\n");
                tested.map.clear();
            }
            14 => tested
                .store
                .set_memory_bytes_max(usize::from(a % 128) << 20),
            _ => {
                tested.check(key);
            }
        }
    }
    tested.end();
});
