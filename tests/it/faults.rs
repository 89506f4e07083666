//! One bad server among good ones: it costs its own keys only, and nobody ever
//! gets another's answer.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use ketch::router::{Member, Placement, Settings};

use crate::client::{Client, Got};
use crate::ketch::Ketch;
use crate::now;
use crate::peer::Peer;
use crate::scripted::{BlackHole, Fault, Scripted};

/// How long the proxies of these tests wait for a server.
const TIMEOUT: Duration = Duration::from_millis(300);
/// Clients at a time that ask all servers, and that ask the good ones only.
const CLIENTS: usize = 12;
/// Pipelines that each client sends, and requests in each.
const ROUNDS: usize = 60;
const DEPTH: usize = 10;
/// How long the slowest of a hundred requests to good servers may take. Far below
/// the time-out; far above what they take on an idle machine.
const GOOD_P99_MAX: Duration = Duration::from_millis(150);

/// How often in a row a key of a server that is back must be stored and read.
const STEADY: usize = 100;

/// Which server holds a key, as the proxy will find too.
struct Cluster {
    placement: Placement,
    servers: Vec<SocketAddr>,
}

impl Cluster {
    fn new(servers: Vec<SocketAddr>) -> Self {
        let members: Vec<_> = servers
            .iter()
            .map(|server| Member::new(server.ip().to_string(), Some(server.port())))
            .collect();
        let (placement, _) = Placement::new(&Settings::default(), &members).unwrap();
        Self { placement, servers }
    }

    fn proxy(&self) -> Ketch {
        let servers = self
            .servers
            .iter()
            .map(|server| format!("      - {server}\n"));
        Ketch::start(&format!(
            "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\nworkers: 2\nclients:\n  value_bytes_max: 64MiB\npools:\n  main:\n    timeout: {}ms\n    probe_first: 20ms\n    probe_max: 40ms\n    servers:\n{}",
            TIMEOUT.as_millis(),
            servers.collect::<String>(),
        ))
    }

    fn is_on(&self, key: &str, server: SocketAddr) -> bool {
        self.servers[self.placement.pick(key.as_bytes())] == server
    }

    /// A key of this name that lies on `server`, or on any other.
    fn key(&self, name: &str, server: SocketAddr, on: bool) -> String {
        (0..)
            .map(|number| format!("{name}:{number}"))
            .find(|key| self.is_on(key, server) == on)
            .unwrap()
    }
}

/// Drives the proxy with many clients while `bad` misbehaves, and checks every
/// answer. Returns how many requests to the bad server failed and succeeded.
fn drive(cluster: &Cluster, proxy: &Ketch, bad: SocketAddr) -> (usize, usize) {
    let address = proxy.address();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let all: Vec<_> = (0..CLIENTS)
            .map(|client| scope.spawn(move || ask_all(cluster, address, bad, client)))
            .collect();
        let done = &done;
        let good = scope.spawn(move || ask_good(cluster, address, bad, done));
        let all: Vec<_> = all.into_iter().map(|client| client.join()).collect();
        // Before any of them is looked at: the other client must end too.
        done.store(true, Ordering::SeqCst);
        let mut sum = (0, 0);
        for client in all {
            let (failed, answered) = client.unwrap();
            sum = (sum.0 + failed, sum.1 + answered);
        }
        let mut times = good.join().unwrap();
        times.sort_unstable();
        let p99 = times[times.len() * 99 / 100];
        assert!(p99 < GOOD_P99_MAX, "p99 of good servers' keys: {p99:?}");
        sum
    })
}

/// A client that asks all servers in deep pipelines. Values carry their key.
fn ask_all(
    cluster: &Cluster,
    address: SocketAddr,
    bad: SocketAddr,
    client: usize,
) -> (usize, usize) {
    let mut connection = Client::connect(address);
    let (mut failed, mut answered) = (0, 0);
    let keys: Vec<_> = (0..DEPTH)
        .map(|at| cluster.key(&format!("c{client}k{at}"), bad, at % 4 == 0))
        .collect();
    for round in 0..ROUNDS {
        let mut pipeline = Vec::new();
        for key in &keys {
            let value = format!("{key}={round}");
            pipeline.extend(format!("set {key} 0 0 {}\r\n{value}\r\n", value.len()).bytes());
            pipeline.extend(format!("get {key}\r\n").bytes());
        }
        connection.send(&pipeline);
        for key in &keys {
            let on_bad = cluster.is_on(key, bad);
            let stored = connection.line();
            let got = connection.got(key);
            if !on_bad {
                assert_eq!(stored, "STORED", "{key}");
                let value = format!("{key}={round}").into_bytes();
                assert_eq!(got, Got::Hit(value), "{key}");
                continue;
            }
            let of_bad = format!("SERVER_ERROR {bad} ");
            assert!(
                stored == "STORED" || stored.starts_with(&of_bad),
                "{stored}"
            );
            match got {
                Got::Hit(value) => {
                    let mine = format!("{key}=").into_bytes();
                    assert!(value.starts_with(&mine), "{key}: {value:?}");
                    answered += 1;
                }
                Got::Miss => answered += 1,
                Got::Error(error) => {
                    assert!(error.starts_with(&of_bad), "{error}");
                    failed += 1;
                }
            }
        }
    }
    (failed, answered)
}

/// A client that asks good servers only, one request at a time. Returns how long
/// each took.
fn ask_good(
    cluster: &Cluster,
    address: SocketAddr,
    bad: SocketAddr,
    done: &AtomicBool,
) -> Vec<Duration> {
    let key = cluster.key("good", bad, false);
    let mut connection = Client::connect(address);
    assert_eq!(connection.set(&key, b"good"), "STORED");
    let mut times = Vec::new();
    while !done.load(Ordering::SeqCst) || times.len() < 100 {
        let start = now();
        assert_eq!(connection.get(&key), Got::Hit(b"good".to_vec()));
        times.push(start.elapsed());
    }
    times
}

/// Three good servers and one with this fault.
fn with_fault(fault: Fault) -> (Vec<Scripted>, Cluster) {
    let mut servers: Vec<_> = (0..3).map(|_| Scripted::start(Fault::None)).collect();
    servers.push(Scripted::start(fault));
    let addresses = servers.iter().map(|server| server.address).collect();
    (servers, Cluster::new(addresses))
}

/// What a fault must and may lead to.
fn check(fault: Fault, must_fail: bool) {
    let (servers, cluster) = with_fault(fault);
    let bad = servers[3].address;
    let proxy = cluster.proxy();
    let (failed, _) = drive(&cluster, &proxy, bad);
    assert!(failed > 0 || !must_fail, "nothing failed under {fault:?}");
    // And once it behaves it is used again.
    servers[3].set(Fault::None);
    let key = cluster.key("again", bad, true);
    let mut client = Client::connect(proxy.address());
    let deadline = now() + Duration::from_secs(10);
    // What of it failed before is deleted, which may take a newer value with it
    // that overtook the deletion. Then it stays.
    let back = Got::Hit(b"back".to_vec());
    let mut in_a_row = 0;
    while in_a_row < STEADY {
        let is_back = client.set(&key, b"back") == "STORED" && client.get(&key) == back;
        in_a_row = if is_back { in_a_row + 1 } else { 0 };
        assert!(now() < deadline, "not used again: {:#?}", proxy.log_lines());
    }
    assert_eq!(client.get(&key), back);
}

#[test]
fn a_good_server_answers_all() {
    let (servers, cluster) = with_fault(Fault::None);
    let proxy = cluster.proxy();
    let (failed, answered) = drive(&cluster, &proxy, servers[3].address);
    assert_eq!(failed, 0);
    assert!(answered > 0);
    assert_eq!(proxy.metric("ketch_server_failures_total", ""), 0.0);
}

#[test]
fn a_server_that_never_answers_fails_its_own_keys() {
    check(Fault::Silent, true);
}

#[test]
fn a_server_that_answers_a_byte_at_a_time_is_only_slow() {
    check(Fault::Drip, false);
}

#[test]
fn a_server_that_closes_after_each_reply_loses_no_other() {
    check(Fault::CloseAfterReply, true);
}

#[test]
fn a_server_that_closes_within_a_reply_delivers_no_half_of_it() {
    check(Fault::CloseWithin, true);
}

#[test]
fn a_server_whose_answers_are_late_by_one_shifts_none() {
    check(Fault::Shifted, false);
}

#[test]
fn junk_after_a_reply_is_nobodys_reply() {
    check(Fault::Junk(b"junk\r\n"), true);
}

#[test]
fn an_end_too_many_is_never_followed_by_anothers_value() {
    check(Fault::Junk(b"END\r\n"), true);
}

#[test]
fn a_value_too_many_is_nobodys_value() {
    check(Fault::Junk(b"VALUE k 0 5\r\nwrong\r\nEND\r\n"), true);
}

#[test]
fn a_server_that_closes_at_every_second_request_loses_no_other() {
    check(Fault::Alternate, false);
}

#[test]
fn a_server_that_reads_no_more_fails_its_own_keys() {
    check(Fault::Deaf, true);
}

#[test]
fn a_server_that_cannot_be_reached_fails_its_own_keys() {
    let servers: Vec<_> = (0..3).map(|_| Scripted::start(Fault::None)).collect();
    let hole = BlackHole::new();
    let mut addresses: Vec<_> = servers.iter().map(|server| server.address).collect();
    addresses.push(hole.address);
    let cluster = Cluster::new(addresses);
    let proxy = cluster.proxy();
    let (failed, answered) = drive(&cluster, &proxy, hole.address);
    assert!(failed > 0);
    assert_eq!(answered, 0);
}

#[test]
fn a_refusal_before_the_value_has_been_read_is_the_answer() {
    let (servers, cluster) = with_fault(Fault::None);
    let bad = servers[3].address;
    let proxy = cluster.proxy();
    let mut client = Client::connect(proxy.address());
    let key = cluster.key("k", bad, true);
    servers[3].set(Fault::Early("SERVER_ERROR object too large for cache\r\n"));
    let large = vec![b'v'; 1_000_000];
    for _ in 0..5 {
        assert_eq!(
            client.set(&key, &large),
            "SERVER_ERROR object too large for cache"
        );
        assert!(matches!(client.get(&key), Got::Hit(value) if value == large));
    }
    assert_eq!(proxy.metric("ketch_server_connects_total", ""), 8.0);
}

#[test]
fn a_success_before_the_value_has_been_sent_is_none() {
    let (servers, cluster) = with_fault(Fault::None);
    let bad = servers[3].address;
    let proxy = cluster.proxy();
    let mut client = Client::connect(proxy.address());
    let key = cluster.key("k", bad, true);
    servers[3].set(Fault::EarlyAndDeaf("STORED\r\n"));
    // More than the buffers of two sockets hold.
    let answer = client.set(&key, &vec![b'v'; 40 << 20]);
    assert!(
        answer.starts_with(&format!("SERVER_ERROR {bad} ")),
        "{answer}"
    );
}

#[test]
fn errors_of_the_server_itself_are_handed_on() {
    let (servers, cluster) = with_fault(Fault::Refuse("SERVER_ERROR out of memory\r\n"));
    let bad = servers[3].address;
    let proxy = cluster.proxy();
    let key = cluster.key("k", bad, true);
    let mut client = Client::connect(proxy.address());
    for _ in 0..10 {
        assert_eq!(client.set(&key, b"x"), "SERVER_ERROR out of memory");
        let refused = "SERVER_ERROR out of memory".to_owned();
        assert_eq!(client.get(&key), Got::Error(refused));
    }
    // They are no reason to eject it.
    assert_eq!(proxy.metric("ketch_server_ejections_total", ""), 0.0);
    assert_eq!(proxy.metric("ketch_server_error_replies_total", ""), 20.0);
}

#[test]
fn late_replies_are_dropped_and_the_connection_lives_on() {
    let (servers, cluster) = with_fault(Fault::Holding);
    let bad = &servers[3];
    let proxy = cluster.proxy();
    let (one, two) = (
        cluster.key("one", bad.address, true),
        cluster.key("two", bad.address, true),
    );
    let mut client = Client::connect(proxy.address());
    client.send(format!("set {one} 0 0 1\r\n1\r\nget {one}\r\n"));
    let timed_out = format!("SERVER_ERROR {} timed out", bad.address);
    assert_eq!(client.line(), timed_out);
    assert_eq!(client.got(&one), Got::Error(timed_out));
    bad.set(Fault::None);
    // Both late replies come before the answer to this, and go to nobody.
    assert_eq!(client.set(&two, b"2"), "STORED");
    assert_eq!(client.get(&two), Got::Hit(b"2".to_vec()));
    // That which came too late for its client is not kept.
    assert_eq!(client.get(&one), Got::Miss);
    assert_eq!(proxy.metric("ketch_server_late_replies_total", ""), 2.0);
    let of_bad = format!("server=\"{}\"", bad.address);
    // One connection of each worker, and both are those of the start.
    assert_eq!(proxy.metric("ketch_server_connects_total", &of_bad), 2.0);
}

#[test]
fn a_multiget_gets_what_the_other_servers_have() {
    let (servers, cluster) = with_fault(Fault::None);
    let bad = servers[3].address;
    let proxy = cluster.proxy();
    let keys: Vec<_> = (0..20)
        .map(|at| cluster.key(&format!("key{at}"), bad, at % 3 == 0))
        .collect();
    let mut client = Client::connect(proxy.address());
    for key in &keys {
        assert_eq!(client.set(key, key.as_bytes()), "STORED");
    }
    servers[3].set(Fault::Silent);
    client.send(format!("get {}\r\n", keys.join(" ")));
    let (found, end) = client.got_many();
    assert_eq!(end, "END");
    let expected: Vec<_> = keys.iter().filter(|key| !cluster.is_on(key, bad)).collect();
    assert!(expected.len() < keys.len());
    let found: Vec<_> = found
        .into_iter()
        .map(|(key, value)| {
            assert_eq!(key.as_bytes(), value);
            key
        })
        .collect();
    // In the order asked.
    assert_eq!(found.iter().collect::<Vec<_>>(), expected);
    let masked = proxy.metric("ketch_failures_masked_total", "");
    assert_eq!(masked, (keys.len() - expected.len()) as f64);
    // Where nobody was heard there is nothing to tell but that.
    let ours = [cluster.key("x", bad, true), cluster.key("y", bad, true)];
    client.send(format!("get {}\r\n", ours.join(" ")));
    let (found, end) = client.got_many();
    assert!(found.is_empty());
    assert!(end.starts_with(&format!("SERVER_ERROR {bad} ")), "{end}");
}

#[test]
fn a_request_without_reply_stays_without_one_when_its_server_fails() {
    let (servers, cluster) = with_fault(Fault::Silent);
    let bad = servers[3].address;
    let proxy = cluster.proxy();
    let (lost, good) = (cluster.key("k", bad, true), cluster.key("k", bad, false));
    let mut client = Client::connect(proxy.address());
    client.send(format!(
        "set {lost} 0 0 1 noreply\r\nx\r\nset {good} 0 0 1\r\ny\r\n"
    ));
    assert_eq!(client.line(), "STORED");
    assert_eq!(proxy.metric("ketch_failures_untold_total", ""), 1.0);
}

#[test]
fn a_killed_memcached_fails_its_own_keys_and_comes_back() {
    let Some(peers) = (0..4).map(|_| Peer::start(&[])).collect::<Option<Vec<_>>>() else {
        return;
    };
    let mut peers: Vec<_> = peers.into_iter().collect();
    let addresses: Vec<_> = peers.iter().map(|peer| peer.target().address).collect();
    let cluster = Cluster::new(addresses.clone());
    let proxy = cluster.proxy();
    let bad = addresses[3];
    let key = cluster.key("k", bad, true);
    let mut client = Client::connect(proxy.address());
    assert_eq!(client.set(&key, b"x"), "STORED");
    drop(peers.pop());
    let (failed, _) = drive(&cluster, &proxy, bad);
    assert!(failed > 0);
    match client.get(&key) {
        Got::Error(error) => assert_eq!(error, format!("SERVER_ERROR {bad} is ejected")),
        other => panic!("{other:?}"),
    }
    let server = Scripted::start_at(bad, Fault::None);
    let deadline = now() + Duration::from_secs(10);
    while client.set(&key, b"y") != "STORED" || server.value(key.as_bytes()).is_none() {
        assert!(now() < deadline, "{:#?}", proxy.log_lines());
        thread::yield_now();
    }
    assert_eq!(server.value(key.as_bytes()), Some(b"y".to_vec()));
    proxy.wait_for_log("server is back");
}
