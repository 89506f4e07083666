//! The conformance set: exchanges as data, played on any target.
//!
//! The data, its format and how to add to it: `tests/conformance/README.md`.

mod binary;
mod file;
mod frame;
mod play;
mod text;

use std::env;
use std::fmt::{self, Write as _};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::process;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use self::file::{Exchange, File, Way};
use self::play::{Conn, Cuts, Failure, Play, Sentinel};
use self::text::Scope;
use crate::ketch::Ketch;
use crate::peer::{Peer, show};
use crate::target::Target;

#[test]
fn memcached_answers_as_recorded() {
    if let Some(peer) = Peer::start(&[]) {
        check(peer.target());
    }
}

#[test]
fn the_proxy_answers_as_memcached() {
    let Some(peers) = Peer::several(3) else {
        return;
    };
    let behind = peers[0].target().version;
    let servers: String = peers
        .iter()
        .map(|peer| format!("      - {}\n", peer.target().address))
        .collect();
    let ketch = Ketch::start(&format!(
        "listen: 127.0.0.1:0\nadmin: off\nclients:\n  flush_all: true\npools:\n  main:\n    timeout: 10s\n    stall_timeout: 20s\n    servers:\n{servers}"
    ));
    check(&Target::proxy("ketch proxy", Some(behind), ketch.address()));
}

#[test]
fn the_bundled_cache_answers_as_memcached() {
    check(Peer::backend(&[]).target());
}

#[test]
fn the_proxy_over_the_bundled_cache_answers_as_memcached() {
    let servers: Vec<_> = (0..3).map(|_| Peer::backend(&[])).collect();
    let listed: String = servers
        .iter()
        .map(|server| format!("      - {}\n", server.target().address))
        .collect();
    let ketch = Ketch::start(&format!(
        "listen: 127.0.0.1:0\nadmin: off\nclients:\n  flush_all: true\npools:\n  main:\n    timeout: 10s\n    stall_timeout: 20s\n    servers:\n{listed}"
    ));
    check(&Target::proxy(
        "ketch proxy over ketch backend",
        None,
        ketch.address(),
    ));
}

#[test]
fn the_proxy_answers_from_its_own_caches_as_memcached() {
    let ketch = Ketch::start(
        "listen: 127.0.0.1:0\nadmin: off\nclients:\n  flush_all: true\npools:\n  main:\n    servers: [embedded, embedded, embedded]\n",
    );
    check(&Target::proxy(
        "ketch proxy over embedded caches",
        None,
        ketch.address(),
    ));
}

/// A proxy over one shard of a primary and two replicas, whatever else its pool
/// says.
fn over_a_shard(servers: &[Peer], pool: &str) -> Ketch {
    let primary = servers[0].target().address;
    let replicas: String = servers[1..]
        .iter()
        .map(|peer| format!("'{}', ", peer.target().address))
        .collect();
    Ketch::start(&format!(
        "listen: 127.0.0.1:0\nadmin: off\nclients:\n  flush_all: true\npools:\n  main:\n    timeout: 10s\n    stall_timeout: 20s\n{pool}    shards:\n      - primary: '{primary}'\n        replicas: [{replicas}]\n"
    ))
}

#[test]
fn the_proxy_over_replicas_answers_as_memcached() {
    let Some(peers) = Peer::several(3) else {
        return;
    };
    for copies in ["async", "sync"] {
        let ketch = over_a_shard(&peers, &format!("    replication: {copies}\n"));
        let behind = Some(peers[0].target().version);
        check(&Target::proxy(
            &format!("ketch proxy over replicas, {copies}"),
            behind,
            ketch.address(),
        ));
    }
}

/// Plays every exchange on `target`, in every way, and fails with all that
/// was answered otherwise.
pub(crate) fn check(target: &Target) {
    play_all("tests/conformance", Sentinel::TEXT, target);
}

/// Plays every exchange of `directory` on `target`.
fn play_all(directory: &str, sentinel: Sentinel, target: &Target) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    let files = file::read_all(&directory).unwrap();
    let run = Run {
        target,
        sentinel,
        seed: seed(),
        filter: env::var("CONFORMANCE").unwrap_or_default(),
    };
    let mut report = Report {
        target: target.to_string(),
        seed: run.seed,
        ..Report::default()
    };
    for file in &files {
        for way in Way::ALL {
            run.file(file, way, &mut report);
        }
    }
    show(&report.summary());
    assert!(report.plays > 0, "no exchange matches {:?}", run.filter);
    assert!(report.failures.is_empty(), "{}", report.full());
}

/// What came of playing the exchanges on a target.
#[derive(Debug, Default)]
struct Report {
    target: String,
    seed: u64,
    exchanges: usize,
    left_out: usize,
    plays: usize,
    failures: Vec<Failed>,
}

impl Report {
    fn summary(&self) -> String {
        format!(
            "{}: {} exchanges ({} left out), {} plays, {} failures, seed {}",
            self.target,
            self.exchanges,
            self.left_out,
            self.plays,
            self.failures.len(),
            self.seed,
        )
    }

    fn full(&self) -> String {
        let mut text = self.summary();
        for failed in &self.failures {
            let _ = write!(text, "\n\n{failed}");
        }
        text
    }

    /// Notes a failure; one that an exchange has already had in another way
    /// is named there and not told again.
    fn add(&mut self, file: &File, exchange: &Exchange, way: Way, failure: Failure) {
        let name = format!("{}: {}", file.name, exchange.name);
        let known = self
            .failures
            .iter_mut()
            .find(|failed| failed.name == name && failed.failure.is_like(&failure));
        match known {
            Some(failed) => failed.ways.push(way),
            None => self.failures.push(Failed {
                name,
                ways: vec![way],
                failure,
            }),
        }
    }
}

/// An exchange that failed, and in which ways of playing it.
#[derive(Debug)]
struct Failed {
    name: String,
    ways: Vec<Way>,
    failure: Failure,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure {
            step,
            why,
            sent,
            expected,
            got,
        } = &self.failure;
        writeln!(f, "{}", self.name)?;
        writeln!(f, "    step {step}, {:?}: {why}", self.ways)?;
        writeln!(f, "    sent      {sent}")?;
        writeln!(f, "    expected  {expected}")?;
        write!(f, "    got       {got}")
    }
}

struct Run<'a> {
    target: &'a Target,
    sentinel: Sentinel,
    seed: u64,
    /// Only exchanges whose file or name contains this are played.
    filter: String,
}

impl Run<'_> {
    fn file(&self, file: &File, way: Way, report: &mut Report) {
        // The connection which the exchanges of a file share.
        let mut shared = None;
        for exchange in &file.exchanges {
            if !file.name.contains(&self.filter) && !exchange.name.contains(&self.filter) {
                continue;
            }
            if way == Way::Whole {
                report.exchanges += 1;
                report.left_out += usize::from(!exchange.is_for(self.target));
            }
            if !exchange.is_for(self.target) {
                continue;
            }
            let steps = exchange.steps(self.target);
            let waits = steps.iter().any(|step| step.until);
            // An exchange that waits is about time: to play it once is enough.
            if !exchange.holds_in(way, self.target) || (waits && way != Way::Whole) {
                continue;
            }
            report.plays += 1;
            let mut play = Play::new(
                self.target,
                self.cuts(way, &exchange.name),
                way == Way::Pipelined,
                self.sentinel,
                scope(),
            );
            let closes = steps.iter().any(|step| step.closes && step.conn == 1);
            let shares = way == Way::OneConnection && !closes;
            if shares {
                play.lend(
                    shared
                        .take()
                        .unwrap_or_else(|| Conn::open(self.target).unwrap()),
                );
            }
            match play.run(&steps) {
                Ok(conn) if shares => shared = conn,
                Ok(_) => {}
                Err(failure) => report.add(file, exchange, way, failure),
            }
        }
    }

    fn cuts(&self, way: Way, name: &str) -> Cuts {
        match way {
            Way::Bytes => Cuts::Bytes,
            Way::Random => {
                // The same cuts if the exchange is played alone.
                let mut hasher = DefaultHasher::new();
                (self.seed, name).hash(&mut hasher);
                Cuts::Random(hasher.finish().max(1))
            }
            Way::Whole | Way::Pipelined | Way::OneConnection => Cuts::Whole,
        }
    }
}

/// A scope with a key prefix that no other play on this machine has had.
fn scope() -> Scope {
    /// The prefix has six characters, so that lengths in the files are exact.
    const PREFIXES: u64 = 36_u64.pow(6);
    static FIRST: OnceLock<u64> = OnceLock::new();
    static PLAYS: AtomicU64 = AtomicU64::new(0);
    let now = unix_now();
    // Runs that follow one another start far apart, in case a target outlives
    // a run.
    let first = FIRST.get_or_init(|| now.wrapping_mul(100_003) + u64::from(process::id()));
    let play = PLAYS.fetch_add(1, Ordering::Relaxed);
    let mut number = first.wrapping_add(play) % PREFIXES;
    let mut key = String::new();
    for _ in 0..6 {
        key.extend(char::from_digit(u32::try_from(number % 36).unwrap(), 36));
        number /= 36;
    }
    Scope {
        key,
        now: i64::try_from(now).unwrap(),
        ..Scope::default()
    }
}

/// Where the random cuts come from: `CONFORMANCE_SEED`, or the time.
fn seed() -> u64 {
    match env::var("CONFORMANCE_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => unix_now(),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "absolute expiry times go to a real server, which reads the real time"
)]
fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}
