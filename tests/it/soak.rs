//! A long run: real memcacheds that are stopped, killed and started again while
//! clients read and write through the proxy, and the configuration is reloaded.
//!
//! Every value carries its key and a version, and every key has one writer: what
//! a reader gets is checked to be a value of that key, not older than what the
//! writer knows to be stored. Servers that are well must not notice.
//!
//! `KETCH_SOAK_SECONDS` says how long (default 10); `--nocapture` shows figures.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use ketch::router::{Member, Placement, Settings};
use rustix::process::{Pid, Signal, kill_process};

use crate::client::{Client, Got};
use crate::ketch::Ketch;
use crate::now;
use crate::peer::{Peer, show};

/// Servers behind the proxy; one at a time is disturbed.
const SERVERS: usize = 4;
/// Clients that read and write, each with keys of its own.
const CLIENTS: usize = 6;
/// Keys of each.
const KEYS: u64 = 300;
/// Requests sent before an answer is read.
const DEPTH: usize = 16;
/// A client's pause after each pipeline: with all CPUs busy the times taken would
/// be those of the clients themselves.
const PACE: Duration = Duration::from_millis(2);
/// Pipelines before a client connects anew.
const PIPELINES: usize = 400;
/// The longest value, in bytes, beside its head.
const PADDING_MAX: u64 = 6_000;
/// How long a server stays stopped or dead, and how long it is then left alone.
const AWAY: Duration = Duration::from_millis(1_200);
const LEFT_ALONE: Duration = Duration::from_millis(2_000);
/// The first probe follows within this after a server's return: what fails later
/// is a fault.
const BACK_WITHIN: Duration = Duration::from_millis(1_500);
/// What requests to servers that are well may take at the 99th of a hundred while
/// another is away: twice what they took before, or this on a busy machine.
const P99_FLOOR: Duration = Duration::from_millis(20);

fn config(servers: &[SocketAddr], round: usize) -> String {
    let servers: String = servers
        .iter()
        .map(|server| format!("      - {server}\n"))
        .collect();
    format!(
        "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\nworkers: 2\nclients:\n  in_flight_max: {}\npools:\n  main:\n    timeout: 250ms\n    probe_first: 20ms\n    probe_max: 100ms\n    servers:\n{servers}",
        4096 + round,
    )
}

/// What is true at the moment, for all threads.
struct World {
    placement: Placement,
    servers: Vec<SocketAddr>,
    /// Until when a server may fail its requests, by its place.
    excused: Mutex<HashMap<usize, Option<Instant>>>,
    done: AtomicBool,
    changed: Condvar,
    ended: Mutex<bool>,
    requests: AtomicU64,
    failed: AtomicU64,
    hits: AtomicU64,
}

impl World {
    fn place(&self, key: &str) -> usize {
        self.placement.pick(key.as_bytes())
    }

    /// Fails unless the server of `key` has a reason to fail.
    fn expect_excuse(&self, key: &str, error: &str) {
        let place = self.place(key);
        let named = format!("SERVER_ERROR {} ", self.servers[place]);
        assert!(error.starts_with(&named), "{key}: {error}");
        let excused = self.excused.lock().unwrap();
        let until = excused.get(&place).copied();
        let late = match until {
            Some(Some(until)) => Some(now().saturating_duration_since(until)),
            Some(None) => Some(Duration::ZERO),
            None => None,
        };
        assert!(
            late == Some(Duration::ZERO),
            "{key}: {error}, but its server is well; its excuse ended {late:?} ago"
        );
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits for so long, or until the end. Returns whether it is the end.
    fn pause(&self, how_long: Duration) -> bool {
        let ended = self.ended.lock().unwrap();
        let waited = self
            .changed
            .wait_timeout_while(ended, how_long, |ended| !*ended);
        *waited.unwrap().0
    }

    fn end(&self) {
        self.done.store(true, Ordering::SeqCst);
        *self.ended.lock().unwrap() = true;
        self.changed.notify_all();
    }

    fn is_done(&self) -> bool {
        self.done.load(Ordering::SeqCst)
    }
}

/// What the writer of a key knows of it.
#[derive(Clone, Copy, Default)]
struct Known {
    /// The last version sent, stored or not.
    sent: u64,
    /// Nothing older than this may be read.
    oldest: u64,
}

/// What a client has asked and not yet been answered.
enum Asked {
    Set { number: u64, version: u64 },
    Delete { number: u64, version: u64 },
    Get { number: u64 },
}

struct Writer<'a> {
    world: &'a World,
    name: usize,
    random: fastrand::Rng,
    known: Vec<Known>,
}

impl Writer<'_> {
    fn key(&self, number: u64) -> String {
        format!("soak:{}:{number}", self.name)
    }

    fn run(mut self, address: SocketAddr) {
        while !self.world.is_done() {
            let mut client = Client::connect(address);
            for _ in 0..PIPELINES {
                self.pipeline(&mut client);
                if self.world.pause(PACE) {
                    break;
                }
            }
        }
    }

    fn pipeline(&mut self, client: &mut Client) {
        let mut bytes = Vec::new();
        let asked: Vec<_> = (0..DEPTH).map(|_| self.ask(&mut bytes)).collect();
        client.send(&bytes);
        for asked in asked {
            self.check(client, &asked);
        }
        let depth = u64::try_from(DEPTH).unwrap();
        self.world.requests.fetch_add(depth, Ordering::Relaxed);
    }

    fn ask(&mut self, bytes: &mut Vec<u8>) -> Asked {
        let number = self.random.u64(..KEYS);
        let key = self.key(number);
        let at = usize::try_from(number).unwrap();
        match self.random.u8(..10) {
            0..=2 => {
                self.known[at].sent += 1;
                let version = self.known[at].sent;
                let padding = self.random.u64(..PADDING_MAX);
                let padding = "x".repeat(usize::try_from(padding).unwrap());
                let value = format!("{key}={version};{padding}");
                bytes.extend(format!("set {key} 0 0 {}\r\n{value}\r\n", value.len()).bytes());
                Asked::Set { number, version }
            }
            3 => {
                self.known[at].sent += 1;
                let version = self.known[at].sent;
                bytes.extend(format!("delete {key}\r\n").bytes());
                Asked::Delete { number, version }
            }
            _ => {
                bytes.extend(format!("get {key}\r\n").bytes());
                Asked::Get { number }
            }
        }
    }

    fn check(&mut self, client: &mut Client, asked: &Asked) {
        match *asked {
            Asked::Set { number, version } => {
                let line = client.line();
                self.written(number, version, &line, line == "STORED");
            }
            Asked::Delete { number, version } => {
                let line = client.line();
                let is_gone = line == "DELETED" || line == "NOT_FOUND";
                // A value of this very number was never written.
                self.written(number, version, &line, is_gone);
            }
            Asked::Get { number } => {
                let key = self.key(number);
                match client.got(&key) {
                    Got::Miss => {}
                    Got::Error(error) => self.world.expect_excuse(&key, &error),
                    Got::Hit(value) => self.read(number, &key, &value),
                }
            }
        }
    }

    fn written(&mut self, number: u64, version: u64, line: &str, is_done: bool) {
        if is_done {
            let known = &mut self.known[usize::try_from(number).unwrap()];
            known.oldest = known.oldest.max(version);
        } else {
            self.world.expect_excuse(&self.key(number), line);
        }
    }

    fn read(&self, number: u64, key: &str, value: &[u8]) {
        let text = String::from_utf8_lossy(value);
        let head = text.split(';').next().and_then(|head| head.split_once('='));
        assert!(
            head.is_some_and(|(named, _)| named == key),
            "{key}: not its value: {text:.80}"
        );
        let version: u64 = head.unwrap().1.parse().unwrap();
        let known = self.known[usize::try_from(number).unwrap()];
        assert!(
            (known.oldest..=known.sent).contains(&version),
            "{key}: version {version} read, {} is stored, {} was sent last",
            known.oldest,
            known.sent
        );
        self.world.hits.fetch_add(1, Ordering::Relaxed);
    }
}

/// How long a request took, when it began, and which server it asked.
struct Took {
    at: Instant,
    place: usize,
    time: Duration,
}

/// A client that asks each server in turn, one request at a time.
fn watch(world: &World, address: SocketAddr) -> Vec<Took> {
    let keys: Vec<_> = (0..SERVERS)
        .map(|place| {
            (0..)
                .map(|number| format!("watch:{number}"))
                .find(|key| world.place(key) == place)
                .unwrap()
        })
        .collect();
    let mut client = Client::connect(address);
    let mut took = Vec::new();
    while !world.is_done() {
        for (place, key) in keys.iter().enumerate() {
            let at = now();
            match client.get(key) {
                Got::Miss | Got::Hit(_) => {}
                Got::Error(error) => world.expect_excuse(key, &error),
            }
            let time = at.elapsed();
            took.push(Took { at, place, time });
        }
        world.pause(PACE);
    }
    took
}

/// A time during which a server was away.
struct Outage {
    place: usize,
    kind: &'static str,
    from: Instant,
    until: Instant,
}

/// Disturbs one server after another until the end.
fn disturb(world: &World, peers: &mut [Peer], proxy: &Ketch) -> Vec<Outage> {
    let mut outages = Vec::new();
    for round in 0.. {
        if world.pause(LEFT_ALONE) {
            break;
        }
        let place = round % SERVERS;
        let is_stopped = (round / SERVERS + round).is_multiple_of(2);
        world.excused.lock().unwrap().insert(place, None);
        let from = now();
        if is_stopped {
            signal(&peers[place], Signal::STOP);
        } else {
            signal(&peers[place], Signal::KILL);
        }
        world.pause(AWAY);
        let until = now();
        if is_stopped {
            signal(&peers[place], Signal::CONT);
        } else {
            let port = world.servers[place].port().to_string();
            assert!(!peers[place].ended_well());
            peers[place] = Peer::start(&["-p", &port]).unwrap();
        }
        let back_by = now() + BACK_WITHIN;
        world.excused.lock().unwrap().insert(place, Some(back_by));
        outages.push(Outage {
            place,
            kind: if is_stopped { "stopped" } else { "killed" },
            from,
            until,
        });
        let (status, answer) = proxy.reload(&config(&world.servers, round + 1));
        assert_eq!(status, 200, "{answer}");
    }
    outages
}

fn signal(peer: &Peer, signal: Signal) {
    let pid = i32::try_from(peer.id()).ok().and_then(Pid::from_raw);
    kill_process(pid.unwrap(), signal).unwrap();
}

fn p99(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times
        .get(times.len() * 99 / 100)
        .copied()
        .unwrap_or_default()
}

/// Compares what requests to healthy servers took during outages with what they
/// took before the first.
fn compare(took: &[Took], outages: &[Outage]) {
    let Some(first) = outages.first() else {
        return;
    };
    let before = took.iter().filter(|took| took.at < first.from);
    let before = p99(before.map(|took| took.time).collect());
    for kind in ["stopped", "killed"] {
        let mut during = Vec::new();
        for outage in outages.iter().filter(|outage| outage.kind == kind) {
            let others = took.iter().filter(|took| {
                took.place != outage.place && (outage.from..outage.until).contains(&took.at)
            });
            during.extend(others.map(|took| took.time));
        }
        if during.is_empty() {
            continue;
        }
        let count = during.len();
        let during = p99(during);
        show(&format!(
            "{kind}: p99 of the other servers {during:?} over {count} requests, {before:?} before"
        ));
        assert!(
            during <= (2 * before).max(P99_FLOOR),
            "{kind}: {during:?}, {before:?} before"
        );
    }
}

#[test]
fn servers_come_and_go_and_no_value_is_wrong_or_stale() {
    let seconds = std::env::var("KETCH_SOAK_SECONDS").map_or(10, |text| text.parse().unwrap());
    let Some(mut peers) = Peer::several(SERVERS) else {
        return;
    };
    let servers: Vec<_> = peers.iter().map(|peer| peer.target().address).collect();
    let members: Vec<_> = servers
        .iter()
        .map(|server| Member::new(server.ip().to_string(), Some(server.port())))
        .collect();
    let (placement, _) = Placement::new(&Settings::default(), &members).unwrap();
    let proxy = Ketch::start(&config(&servers, 0));
    let address = proxy.address();
    let world = World {
        placement,
        servers,
        excused: Mutex::default(),
        done: AtomicBool::new(false),
        changed: Condvar::new(),
        ended: Mutex::new(false),
        requests: AtomicU64::new(0),
        failed: AtomicU64::new(0),
        hits: AtomicU64::new(0),
    };
    let ends = now() + Duration::from_secs(seconds);
    let (outages, took, middle) = thread::scope(|scope| {
        let world = &world;
        let writers: Vec<_> = (0..CLIENTS)
            .map(|name| {
                let writer = Writer {
                    world,
                    name,
                    random: fastrand::Rng::with_seed(u64::try_from(name).unwrap()),
                    known: vec![Known::default(); usize::try_from(KEYS).unwrap()],
                };
                scope.spawn(move || EndOnPanic(world, || writer.run(address)).run())
            })
            .collect();
        let watching = scope.spawn(move || EndOnPanic(world, || watch(world, address)).run());
        let (peers, proxy) = (&mut peers, &proxy);
        let chaos = scope.spawn(move || EndOnPanic(world, || disturb(world, peers, proxy)).run());
        world.pause(Duration::from_secs(seconds) / 2);
        let middle = Resources::of(proxy);
        world.pause(ends.saturating_duration_since(now()));
        world.end();
        for writer in writers {
            writer.join().unwrap();
        }
        (chaos.join().unwrap(), watching.join().unwrap(), middle)
    });
    let end = Resources::of(&proxy);
    show(&format!(
        "{seconds} s, {} outages: {} requests, {} hits, {} failed; at half time {middle:?}, in the end {end:?}",
        outages.len(),
        world.requests.load(Ordering::Relaxed),
        world.hits.load(Ordering::Relaxed),
        world.failed.load(Ordering::Relaxed),
    ));
    assert!(world.hits.load(Ordering::Relaxed) > 0);
    compare(&took, &outages);
    assert_eq!(end.threads, middle.threads);
    assert!(end.descriptors <= middle.descriptors + CLIENTS + SERVERS * 2);
    assert!(end.resident_kib <= middle.resident_kib + middle.resident_kib / 10 + 4096);
}

/// Ends the run when a thread of it fails, so that the others do not go on for
/// an hour.
struct EndOnPanic<'a, F>(&'a World, F);

impl<R, F: FnOnce() -> R> EndOnPanic<'_, F> {
    fn run(self) -> R {
        struct Guard<'a>(&'a World);
        impl Drop for Guard<'_> {
            fn drop(&mut self) {
                if thread::panicking() {
                    self.0.end();
                }
            }
        }
        let _guard = Guard(self.0);
        (self.1)()
    }
}

/// What the proxy holds.
#[derive(Debug)]
struct Resources {
    resident_kib: u64,
    threads: u64,
    descriptors: usize,
}

impl Resources {
    fn of(proxy: &Ketch) -> Self {
        Self {
            resident_kib: proxy.status("VmRSS"),
            threads: proxy.status("Threads"),
            descriptors: proxy.descriptors(),
        }
    }
}
