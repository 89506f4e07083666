//! Many clients at once do everything to items of all sizes, in a cache too small for
//! them: whatever is read must be something that was written for that key.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use crate::client::Client;
use crate::now;
use crate::peer::Peer;

/// Clients at a time.
const CLIENTS: u64 = 16;
/// Keys of each kind.
const KEYS: u32 = 400;
/// Memory of the cache, in MiB.
const MEMORY_MIB: u64 = 64;

/// The bytes that a key has at some version: they tell of both, and of their length.
fn value(key: &str, version: u32, len: usize) -> Vec<u8> {
    let head = format!("{key} {version} {len} ");
    let mut value = Vec::with_capacity(len.max(head.len()));
    value.extend_from_slice(head.as_bytes());
    let mut state = u64::from(version) * 0x9e37_79b9 + 1;
    while value.len() < len {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        value.extend_from_slice(&state.to_le_bytes());
    }
    value.truncate(len.max(head.len()));
    value
}

/// Checks that these bytes were written for that key.
fn check(key: &str, bytes: &[u8]) {
    let mut words = bytes.splitn(4, |&byte| byte == b' ');
    let mut word = || String::from_utf8_lossy(words.next().unwrap_or_default()).into_owned();
    let (named, version, len) = (word(), word(), word());
    assert_eq!(named, key, "a value of another key");
    let expected = value(key, version.parse().unwrap(), len.parse().unwrap());
    assert!(bytes == expected, "{key}: not a value of version {version}");
}

/// A client that does one thing after another.
struct Worker {
    client: Client,
    random: fastrand::Rng,
}

impl Worker {
    fn new(address: SocketAddr, seed: u64) -> Self {
        Self {
            client: Client::connect(address),
            random: fastrand::Rng::with_seed(seed),
        }
    }

    fn key(&mut self, kind: &str) -> String {
        format!("{kind}-{}", self.random.u32(..KEYS))
    }

    /// Of any size to 1 MiB less the overhead of an item, as many small as large.
    fn value(&mut self, key: &str) -> Vec<u8> {
        let most = 1usize << self.random.u32(0..=20);
        let len = self.random.usize(0..most).min((1 << 20) - 400);
        value(key, self.random.u32(..), len)
    }

    fn ttl(&mut self) -> u32 {
        if self.random.bool() {
            0
        } else {
            self.random.u32(1..4)
        }
    }

    /// Sends a line and reads one, which must begin with one of these words.
    fn expect(&mut self, line: &str, words: &[&str]) -> String {
        self.client.send(format!("{line}\r\n"));
        self.answer(line, words)
    }

    fn answer(&mut self, line: &str, words: &[&str]) -> String {
        let answer = self.client.line();
        let fits = words.iter().any(|word| answer.starts_with(word));
        assert!(fits, "{line:?}: {answer:?}");
        answer
    }

    fn store(&mut self, line: &str, value: &[u8], words: &[&str]) {
        let head = format!("{line}\r\n");
        self.client.send([head.as_bytes(), value, b"\r\n"].concat());
        self.answer(line, words);
    }

    fn step(&mut self) {
        let key = self.key("item");
        match self.random.u32(..100) {
            0..20 => self.set(&key),
            20..45 => self.get(&key),
            45..50 => self.get_many(),
            50..55 => {
                self.expect(&format!("delete {key}"), &["DELETED", "NOT_FOUND"]);
            }
            55..60 => {
                let ttl = self.ttl();
                self.expect(&format!("touch {key} {ttl}"), &["TOUCHED", "NOT_FOUND"]);
            }
            60..65 => self.compare_and_swap(&key),
            65..72 => self.count(),
            72..80 => self.extend(),
            80..97 => self.meta(&key),
            97..99 => {
                self.client.send("stats\r\n");
                while self.client.line() != "END" {}
            }
            _ if self.random.u32(..200) == 0 => {
                self.expect("flush_all", &["OK"]);
            }
            _ => {
                self.expect("version", &["VERSION"]);
            }
        }
    }

    fn set(&mut self, key: &str) {
        let (value, ttl) = (self.value(key), self.ttl());
        let verb = ["set", "set", "add", "replace"][self.random.usize(..4)];
        let line = format!("{verb} {key} 5 {ttl} {}", value.len());
        self.store(&line, &value, &["STORED", "NOT_STORED"]);
    }

    fn get(&mut self, key: &str) {
        let ttl = self.ttl();
        let line = match self.random.u32(..3) {
            0 => format!("gat {ttl} {key}"),
            1 => format!("gets {key}"),
            _ => format!("get {key}"),
        };
        self.client.send(format!("{line}\r\n"));
        let (found, end) = self.client.got_many();
        assert_eq!(end, "END");
        found.iter().for_each(|(named, value)| check(named, value));
        assert!(found.len() <= 1 && found.iter().all(|(named, _)| named == key));
    }

    fn get_many(&mut self) {
        let keys: Vec<_> = (0..self.random.usize(1..20))
            .map(|_| self.key("item"))
            .collect();
        self.client.send(format!("get {}\r\n", keys.join(" ")));
        let (found, end) = self.client.got_many();
        assert_eq!(end, "END");
        for (named, value) in &found {
            assert!(keys.contains(named));
            check(named, value);
        }
    }

    fn compare_and_swap(&mut self, key: &str) {
        let told = self.expect(&format!("mg {key} c"), &["HD c", "EN"]);
        let Some(cas) = told.strip_prefix("HD c") else {
            return;
        };
        let value = self.value(key);
        let line = format!("cas {key} 5 0 {} {cas}", value.len());
        self.store(&line, &value, &["STORED", "EXISTS", "NOT_FOUND"]);
    }

    fn count(&mut self) {
        let key = self.key("number");
        let told = self.expect(&format!("incr {key} 3"), &["NOT_FOUND", ""]);
        if told == "NOT_FOUND" {
            self.expect(&format!("ma {key} N0 J6 D3 q\r\nmn"), &["MN"]);
        } else {
            let number: u64 = told.parse().unwrap();
            assert_eq!(number % 3, 0);
        }
    }

    fn extend(&mut self) {
        let key = self.key("list");
        let record = format!("[{key}]");
        let verb = ["append", "prepend"][self.random.usize(..2)];
        let head = format!("{verb} {key} 0 0 {}", record.len());
        self.client.send(format!("{head}\r\n{record}\r\n"));
        if self.answer(&head, &["STORED", "NOT_STORED"]) == "NOT_STORED" {
            let line = format!("set {key} 0 0 {}", record.len());
            self.store(&line, record.as_bytes(), &["STORED"]);
        }
        self.client.send(format!("get {key}\r\n"));
        let (found, _) = self.client.got_many();
        for (_, list) in found {
            let whole = list
                .chunks(record.len())
                .all(|part| part == record.as_bytes());
            assert!(whole, "{key}");
            if list.len() > 50_000 {
                self.expect(&format!("md {key}"), &["HD", "NF"]);
            }
        }
    }

    fn meta(&mut self, key: &str) {
        match self.random.u32(..5) {
            0 => {
                let (value, ttl) = (self.value(key), self.ttl());
                let line = format!("ms {key} {} T{ttl} F5", value.len());
                self.store(&line, &value, &["HD"]);
            }
            1 => {
                self.expect(&format!("md {key} I T3"), &["HD", "NF"]);
            }
            2 => {
                self.expect(&format!("me {key}"), &["ME", "EN"]);
            }
            _ => {
                let told = self.expect(&format!("mg {key} v s t h l k"), &["VA", "EN"]);
                if let Some(rest) = told.strip_prefix("VA ") {
                    let len = rest.split(' ').next().unwrap().parse().unwrap();
                    check(key, &self.client.block(len));
                }
            }
        }
    }
}

/// Loads a cache for so long.
fn load(duration: Duration) {
    let memory = MEMORY_MIB.to_string();
    let server = Peer::backend(&["-m", &memory, "-t", "4"]);
    let address = server.target().address;
    let deadline = now() + duration;
    thread::scope(|scope| {
        for seed in 0..CLIENTS {
            scope.spawn(move || {
                let mut worker = Worker::new(address, seed);
                while now() < deadline {
                    worker.step();
                }
            });
        }
    });
    let kib = crate::status(server.id(), "VmHWM");
    // Beside the items: the program, and what is on its way to sixteen clients.
    let bound = MEMORY_MIB * 107 / 100 + 8 + 2 * CLIENTS;
    assert!(kib >> 10 <= bound, "{} MiB, not {bound}", kib >> 10);
    let mut client = Client::connect(address);
    client.send("flush_all\r\n");
    assert_eq!(client.line(), "OK");
    client.send("stats\r\n");
    let lines = std::iter::from_fn(|| Some(client.line()).filter(|line| line != "END"));
    let lines: Vec<_> = lines.collect();
    for nothing in ["STAT bytes 0", "STAT curr_items 0"] {
        assert!(lines.iter().any(|line| line == nothing), "{nothing}");
    }
}

#[test]
fn whatever_is_read_was_written() {
    load(Duration::from_secs(3));
}

#[test]
#[ignore = "takes minutes: LOAD_SECONDS of them, three without"]
fn whatever_is_read_was_written_for_minutes() {
    let seconds = std::env::var("LOAD_SECONDS").ok();
    let seconds = seconds.map_or(180, |seconds| seconds.parse().unwrap());
    load(Duration::from_secs(seconds));
}
