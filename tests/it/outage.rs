//! What one bad server costs: clients that never stop, a fault that begins and
//! ends, and what each of them saw before, meanwhile and afterwards.
//!
//! Every value carries its key and a version, and every key has one writer: what
//! is read must be a value of that key, sent already and not older than the last
//! one that was stored.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use ketch::router::{Member, Placement, Settings};

use crate::client::{Client, Got};
use crate::ketch::Ketch;
use crate::now;
use crate::peer::show;

/// How long the proxies of these tests wait for a server.
pub(crate) const TIMEOUT: Duration = Duration::from_millis(300);
/// The longest time from one probe to the next, a tenth more being allowed, or what a
/// probe may take if that is longer.
pub(crate) const PROBE_MAX: Duration = Duration::from_millis(40);
/// Clients that ask all servers, requests in a pipeline of each, and its keys.
const CLIENTS: usize = 6;
const DEPTH: usize = 8;
/// How long all is well before the fault, and again after it.
const QUIET: Duration = Duration::from_millis(400);
/// How long the fault lasts.
const FAULT: Duration = Duration::from_millis(1200);
/// How long anything may take that must happen.
const DEADLINE: Duration = Duration::from_secs(20);
/// What the other servers' keys may take at the 99th of a hundred while one is
/// bad: twice what they took before, or this on a machine that is busy with
/// other tests. A third of what waiting for the bad one would cost.
const P99_FLOOR: Duration = Duration::from_millis(100);
/// What a busy machine may add to a wait.
const SLACK: Duration = Duration::from_millis(250);

/// Which server holds a key, as the proxy will find too.
pub(crate) struct Cluster {
    placement: Placement,
    servers: Vec<SocketAddr>,
}

impl Cluster {
    pub(crate) fn new(servers: Vec<SocketAddr>) -> Self {
        let members: Vec<_> = servers
            .iter()
            .map(|server| Member::new(server.ip().to_string(), Some(server.port())))
            .collect();
        let (placement, _) = Placement::new(&Settings::default(), &members).unwrap();
        Self { placement, servers }
    }

    /// A proxy for these servers, with more in the pool's configuration.
    pub(crate) fn proxy(&self, more: &str) -> Ketch {
        let servers = self
            .servers
            .iter()
            .map(|server| format!("      - {server}\n"));
        Ketch::start(&format!(
            "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\nworkers: 2\nclients:\n  value_bytes_max: 64MiB\npools:\n  main:\n    timeout: {timeout}ms\n    connect_timeout: {timeout}ms\n    probe_first: 20ms\n    probe_max: {probe}ms\n{more}    servers:\n{}",
            servers.collect::<String>(),
            timeout = TIMEOUT.as_millis(),
            probe = PROBE_MAX.as_millis(),
        ))
    }

    pub(crate) fn is_on(&self, key: &str, server: SocketAddr) -> bool {
        self.servers[self.placement.pick(key.as_bytes())] == server
    }

    /// A key of this name that lies on `server`, or on any other.
    pub(crate) fn key(&self, name: &str, server: SocketAddr, on: bool) -> String {
        (0..)
            .map(|number| format!("{name}:{number}"))
            .find(|key| self.is_on(key, server) == on)
            .unwrap()
    }
}

/// What a fault must and may lead to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Expected {
    /// Whether requests fail at all; `None` if that is a matter of luck.
    pub(crate) fails: Option<bool>,
    /// Whether the server is ejected for it, and within how long after its first
    /// failure is due at the latest.
    pub(crate) ejected_within: Option<Duration>,
    /// What the probe takes that is under way when the fault ends, if it is lost: the
    /// next one follows at once.
    pub(crate) lost_probe: Duration,
    /// Whether the server is used again although the fault goes on.
    pub(crate) heals: bool,
    /// Whether other servers take its keys once it is ejected: then nothing fails any
    /// more.
    pub(crate) remaps: bool,
    /// Whether it answers probes and fails again.
    pub(crate) flaps: bool,
}

/// What came of a request to the bad server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Answered,
    /// It failed, and that took as long as it took.
    Failed,
    /// It failed because the server is ejected.
    Ejected,
}

/// One request: when it was answered, how long that took, what it was.
#[derive(Clone, Copy, Debug)]
struct Took {
    at: Instant,
    time: Duration,
    what: What,
}

/// What all threads know.
struct World<'a> {
    cluster: &'a Cluster,
    address: SocketAddr,
    bad: SocketAddr,
    done: AtomicBool,
    ended: Mutex<bool>,
    changed: Condvar,
    reads: AtomicU64,
    /// What the bad server's keys saw, of all clients.
    of_bad: Mutex<Vec<Took>>,
}

impl World<'_> {
    fn is_done(&self) -> bool {
        self.done.load(Ordering::SeqCst)
    }

    fn end(&self) {
        self.done.store(true, Ordering::SeqCst);
        *self.ended.lock().unwrap() = true;
        self.changed.notify_all();
    }

    /// Lets the clients go on for so long, or until one has failed.
    fn go_on(&self, how_long: Duration) {
        let ended = self.ended.lock().unwrap();
        let _unused = self
            .changed
            .wait_timeout_while(ended, how_long, |ended| !*ended)
            .unwrap();
    }

    /// Notes what an error of the bad server is; fails on one of another.
    fn failure(&self, key: &str, error: &str) -> What {
        assert!(self.cluster.is_on(key, self.bad), "{key}: {error}");
        let of_bad = format!("SERVER_ERROR {} ", self.bad);
        let cause = error.strip_prefix(&of_bad);
        assert!(cause.is_some(), "{key}: {error}");
        match cause.unwrap() {
            "is ejected" => What::Ejected,
            _ => What::Failed,
        }
    }

    fn note(&self, key: &str, asked: Instant, what: What) {
        if self.cluster.is_on(key, self.bad) {
            let at = now();
            let time = at - asked;
            self.of_bad.lock().unwrap().push(Took { at, time, what });
        }
    }

    fn of_bad(&self) -> Vec<Took> {
        self.of_bad.lock().unwrap().clone()
    }
}

/// Ends all clients when one has failed.
struct EndOnPanic<'a>(&'a World<'a>);

impl Drop for EndOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.end();
        }
    }
}

/// A key, and what its only writer knows of it.
struct Known {
    key: String,
    sent: u64,
    /// Nothing older may be read.
    oldest: u64,
}

/// A client that writes and reads all servers in pipelines.
fn ask_all(world: &World<'_>, name: usize) {
    let _end = EndOnPanic(world);
    let key = |at: usize| {
        let name = format!("c{name}k{at}");
        world.cluster.key(&name, world.bad, at.is_multiple_of(4))
    };
    let mut keys: Vec<_> = (0..DEPTH)
        .map(|at| Known {
            key: key(at),
            sent: 0,
            oldest: 0,
        })
        .collect();
    let mut client = Client::connect(world.address);
    while !world.is_done() {
        let mut pipeline = String::new();
        for known in &mut keys {
            known.sent += 1;
            let (key, value) = (&known.key, format!("{}={}", known.key, known.sent));
            pipeline += &format!("set {key} 0 0 {}\r\n{value}\r\nget {key}\r\n", value.len());
        }
        let asked = now();
        client.send(pipeline);
        for known in &mut keys {
            let stored = client.line();
            let what = if stored == "STORED" {
                known.oldest = known.sent;
                What::Answered
            } else {
                world.failure(&known.key, &stored)
            };
            world.note(&known.key, asked, what);
            let what = match client.got(&known.key) {
                Got::Miss => {
                    let key = &known.key;
                    assert!(world.cluster.is_on(key, world.bad), "{key} was not kept");
                    What::Answered
                }
                Got::Hit(value) => {
                    let version = version_of(&value, &known.key);
                    let (oldest, sent) = (known.oldest, known.sent);
                    assert!(
                        (oldest..=sent).contains(&version),
                        "{}: read {version}, {oldest} is stored, {sent} was sent",
                        known.key
                    );
                    world.reads.fetch_add(1, Ordering::Relaxed);
                    What::Answered
                }
                Got::Error(error) => world.failure(&known.key, &error),
            };
            world.note(&known.key, asked, what);
        }
    }
}

fn version_of(value: &[u8], key: &str) -> u64 {
    let text = String::from_utf8_lossy(value);
    let version = text
        .strip_prefix(key)
        .and_then(|rest| rest.strip_prefix('='));
    assert!(version.is_some(), "{key}: not its value: {text}");
    version.unwrap().parse().unwrap()
}

/// A client that asks good servers only, one request at a time.
fn ask_good(world: &World<'_>) -> Vec<Took> {
    let _end = EndOnPanic(world);
    let keys: Vec<_> = (0..4)
        .map(|at| world.cluster.key(&format!("good{at}"), world.bad, false))
        .collect();
    let mut client = Client::connect(world.address);
    for key in &keys {
        assert_eq!(client.set(key, b"good"), "STORED");
    }
    let mut took = Vec::new();
    for key in keys.iter().cycle() {
        if world.is_done() {
            break;
        }
        let asked = now();
        assert_eq!(client.get(key), Got::Hit(b"good".to_vec()), "{key}");
        let at = now();
        took.push(Took {
            at,
            time: at - asked,
            what: What::Answered,
        });
    }
    took
}

/// A client that asks the bad server only, one request at a time.
fn ask_bad(world: &World<'_>) {
    let _end = EndOnPanic(world);
    let key = world.cluster.key("bad", world.bad, true);
    let mut client = Client::connect(world.address);
    while !world.is_done() {
        let asked = now();
        let what = match client.set(&key, b"bad").as_str() {
            "STORED" => What::Answered,
            error => world.failure(&key, error),
        };
        world.note(&key, asked, what);
        // A moment in which nobody else is kept from asking.
        world.go_on(Duration::from_micros(500));
    }
}

/// What came of a fault.
#[derive(Debug)]
pub(crate) struct Figures {
    /// Requests to the bad server that were asked before it was ejected, or at all if
    /// it was not, and failed.
    pub(crate) failed: usize,
    /// Those that were asked afterwards, and failed all the same.
    pub(crate) failed_later: usize,
    /// Requests to the bad server that were answered meanwhile.
    pub(crate) answered: usize,
    /// From the fault to the ejection.
    pub(crate) ejected_after: Option<Duration>,
    /// From the end of the fault to the first answer.
    pub(crate) back_after: Duration,
}

/// Has clients ask while a fault begins (`begin`) and ends (`end`), checks what
/// they are told, and shows the figures under `name`.
pub(crate) fn measure(
    (name, expected): (&str, Expected),
    (cluster, proxy, bad): (&Cluster, &Ketch, SocketAddr),
    begin: impl FnOnce(),
    end: impl FnOnce(),
) -> Figures {
    let world = World {
        cluster,
        address: proxy.address(),
        bad,
        done: AtomicBool::new(false),
        ended: Mutex::new(false),
        changed: Condvar::new(),
        reads: AtomicU64::new(0),
        of_bad: Mutex::default(),
    };
    let (good, times) = thread::scope(|scope| {
        let world = &world;
        let _end = EndOnPanic(world);
        for client in 0..CLIENTS {
            scope.spawn(move || ask_all(world, client));
        }
        scope.spawn(move || ask_bad(world));
        let good = scope.spawn(move || ask_good(world));
        // As long as it takes until everybody has begun.
        world.go_on(QUIET / 2);
        let from = now();
        world.go_on(QUIET);
        let began = now();
        begin();
        world.go_on(FAULT);
        let stops = now();
        end();
        let ended = now();
        let mut back = None;
        while back.is_none() && !world.is_done() {
            let since = |took: &&Took| took.at - took.time >= ended && took.what == What::Answered;
            back = world.of_bad().iter().find(since).map(|took| took.at);
            assert!(
                ended.elapsed() < DEADLINE,
                "not used again: {:#?}",
                proxy.log_lines()
            );
            world.go_on(Duration::from_millis(2));
        }
        world.go_on(QUIET);
        world.end();
        let good = good.join().unwrap();
        (good, [from, began, stops, ended, back.unwrap_or(ended)])
    });
    let [from, began, stops, ended, back] = times;
    let of_bad = world.of_bad();
    let p99 = |from: Instant, until: Instant| {
        let times = good.iter().filter(|took| (from..until).contains(&took.at));
        p99(times.map(|took| took.time).collect())
    };
    let (before, during) = (p99(from, began), p99(began, stops));
    let meanwhile = |what: What, from: Instant, until: Instant| {
        let is = move |took: &&Took| (from..until).contains(&took.at) && took.what == what;
        of_bad.iter().filter(is)
    };
    let first = |what: What, from: Instant| meanwhile(what, from, stops).map(|took| took.at).min();
    let ejected = match expected.remaps {
        false => first(What::Ejected, began),
        // The first that is answered by another server.
        true => first(What::Failed, began).and_then(|failed| first(What::Answered, failed)),
    };
    let errors_end = ejected.unwrap_or(stops);
    let figures = Figures {
        failed: meanwhile(What::Failed, began, stops)
            .filter(|took| took.at - took.time <= errors_end)
            .count(),
        failed_later: meanwhile(What::Failed, errors_end, stops)
            .filter(|took| took.at - took.time > errors_end)
            .count(),
        answered: meanwhile(What::Answered, began, stops).count(),
        ejected_after: ejected.map(|at| at - began),
        back_after: back.saturating_duration_since(ended),
    };
    let ejected_p99 = self::p99(
        meanwhile(What::Ejected, began, stops)
            .map(|took| took.time)
            .collect(),
    );
    let failed_after = |wait: Duration| {
        of_bad
            .iter()
            .filter(|took| took.at - took.time > back + wait && took.what != What::Answered)
            .count()
    };
    show(&format!(
        "{name}: others' p99 {before:.1?} before, {during:.1?} during; {} failed, {} later, {} answered; \
         ejected after {:.0?}, then told in {ejected_p99:.1?}; back after {:.0?}, {} failed since; {} values read",
        figures.failed,
        figures.failed_later,
        figures.answered,
        figures.ejected_after,
        figures.back_after,
        failed_after(Duration::ZERO),
        world.reads.load(Ordering::Relaxed),
    ));
    assert!(
        during <= (2 * before).max(P99_FLOOR),
        "{name}: the others' keys took {during:?}, {before:?} before"
    );
    if let Some(fails) = expected.fails {
        assert_eq!(figures.failed > 0, fails, "{name}: {figures:?}");
    }
    match expected.ejected_within {
        None if expected.fails.is_none() => {}
        None => assert_eq!(figures.ejected_after, None, "{name}"),
        Some(within) => {
            let after = figures.ejected_after.unwrap();
            assert!(after <= within + SLACK, "{name}: ejected after {after:?}");
            // Errors cost time no longer.
            assert!(ejected_p99 <= P99_FLOOR, "{name}: {ejected_p99:?}");
            // A server that seems to be well is asked again, and costs what it is
            // asked meanwhile; each time it is left alone for longer.
            let may_fail = if expected.flaps { figures.failed } else { 0 };
            assert!(figures.failed_later <= may_fail, "{name}: {figures:?}");
        }
    }
    let answered_later = meanwhile(What::Answered, errors_end, stops).count();
    if expected.heals || expected.remaps {
        assert!(answered_later > 0, "{name}: {figures:?}");
    }
    if expected.remaps {
        assert_eq!(meanwhile(What::Ejected, began, stops).count(), 0, "{name}");
    }
    let interval = (PROBE_MAX + PROBE_MAX / 10).max(expected.lost_probe);
    assert!(
        figures.back_after <= interval + SLACK,
        "{name}: back after {:?}: {:#?}",
        figures.back_after,
        proxy.log_lines()
    );
    assert_eq!(failed_after(SLACK), 0, "{name}: fails again");
    figures
}

fn p99(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times
        .get(times.len() * 99 / 100)
        .copied()
        .unwrap_or_default()
}
