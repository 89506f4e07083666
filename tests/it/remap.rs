//! Keys whose server is away and which another one takes (`on_eject: remap`).

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use ketch::router::{Member, Placement, Settings};

use crate::client::{Client, Got};
use crate::ketch::Ketch;
use crate::now;
use crate::outage::{Cluster, Expected, TIMEOUT, measure};
use crate::peer::{Peer, show};
use crate::scripted::{Fault, Scripted};

const SERVERS: usize = 4;
/// The server that goes away.
const AWAY: usize = 1;
/// How long anything may take that must happen.
const DEADLINE: Duration = Duration::from_secs(30);
/// Requests in flight of a client of these tests.
const DEPTH: usize = 500;

/// Keys that are changed. `REMAP_KEYS` sets another number: 100000 is the full
/// test.
fn key_count() -> usize {
    std::env::var("REMAP_KEYS").map_or(4000, |count| count.parse().unwrap())
}

fn key(number: usize) -> String {
    format!("some:key:{number}")
}

fn placement(servers: &[SocketAddr]) -> Placement {
    let member = |server: &SocketAddr| Member::new(server.ip().to_string(), Some(server.port()));
    let members: Vec<_> = servers.iter().map(member).collect();
    Placement::new(&Settings::default(), &members).unwrap().0
}

fn proxy(servers: &[SocketAddr], top: &str) -> Ketch {
    let servers: Vec<_> = servers.iter().map(|server| format!("'{server}'")).collect();
    Ketch::start(&format!(
        "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\nworkers: 2\n{top}pools:\n  main:\n    timeout: 150ms\n    probe_first: 20ms\n    probe_max: 40ms\n    on_eject: remap\n    servers: [{}]\n",
        servers.join(", "),
    ))
}

/// Sends a request for each number and reads what answers each.
fn each<T>(
    address: SocketAddr,
    numbers: &[usize],
    request: impl Fn(usize) -> String,
    read: impl Fn(&mut Client, usize) -> T,
) -> Vec<T> {
    let mut client = Client::connect(address);
    let mut answers = Vec::with_capacity(numbers.len());
    for numbers in numbers.chunks(DEPTH) {
        client.send(
            numbers
                .iter()
                .map(|&number| request(number))
                .collect::<String>(),
        );
        answers.extend(numbers.iter().map(|&number| read(&mut client, number)));
    }
    answers
}

fn value(number: usize, version: &str) -> String {
    format!("{}={version}", key(number))
}

fn set_all(address: SocketAddr, numbers: &[usize], version: &str) -> Vec<String> {
    let request = |number: usize| {
        let value = value(number, version);
        format!("set {} 0 0 {}\r\n{value}\r\n", key(number), value.len())
    };
    each(address, numbers, request, |client, _| client.line())
}

fn get_all(address: SocketAddr, numbers: &[usize]) -> Vec<Got> {
    let request = |number: usize| format!("get {}\r\n", key(number));
    each(address, numbers, request, |client, number| {
        client.got(&key(number))
    })
}

fn hits(numbers: &[usize], version: &str) -> Vec<Got> {
    let hit = |&number: &usize| Got::Hit(value(number, version).into_bytes());
    numbers.iter().map(hit).collect()
}

fn misses(numbers: &[usize]) -> Vec<Got> {
    vec![Got::Miss; numbers.len()]
}

fn wait_until(proxy: &Ketch, what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = now() + DEADLINE;
    while !is_so() {
        assert!(now() < deadline, "{what}: {:#?}", proxy.log_lines());
        thread::sleep(Duration::from_millis(2));
    }
}

/// Waits until a server is ejected, by asking for keys of it.
fn wait_until_away(proxy: &Ketch, of_it: &str) {
    let mut client = Client::connect(proxy.address());
    let up = proxy.metric("ketch_server_up", "");
    wait_until(proxy, "ejected", || {
        client.get(of_it);
        proxy.metric("ketch_server_up", "") < up
    });
}

/// Waits until all servers are asked and nothing is left to be deleted.
fn wait_until_clean(proxy: &Ketch) {
    wait_until(proxy, "clean", || {
        proxy.metric("ketch_server_up", "") >= SERVERS as f64
            && proxy.metric("ketch_server_missed_keys", "") == 0.0
            && proxy.metric("ketch_server_guest_keys", "") == 0.0
    });
}

#[test]
fn another_server_takes_the_keys_of_one_that_is_away_and_nothing_is_ever_stale() {
    let Some(peers) = Peer::several(SERVERS) else {
        return;
    };
    let servers: Vec<_> = peers.iter().map(|peer| peer.target().address).collect();
    let placement = placement(&servers);
    let proxy = proxy(&servers, "");
    let address = proxy.address();
    let all: Vec<_> = (0..key_count()).collect();
    let home = |number: &usize| placement.pick(key(*number).as_bytes());
    let (moved, stay): (Vec<_>, Vec<_>) = all.iter().partition(|number| home(number) == AWAY);
    // How many depends on the ports that the servers got.
    assert!(moved.len() > all.len() / 40, "{}", moved.len());
    assert!(
        set_all(address, &all, "old")
            .iter()
            .all(|line| line == "STORED")
    );

    // The first outage: not one error, and each key is where it should be.
    peers[AWAY].pause();
    wait_until_away(&proxy, &key(moved[0]));
    assert_eq!(get_all(address, &moved), misses(&moved), "nobody knows yet");
    assert_eq!(get_all(address, &stay), hits(&stay, "old"));
    assert!(
        set_all(address, &all, "new")
            .iter()
            .all(|line| line == "STORED")
    );
    assert_eq!(get_all(address, &all), hits(&all, "new"));
    let host = |number: &usize| {
        let key = key(*number);
        placement
            .stand_in(key.as_bytes(), |server| server != AWAY)
            .unwrap()
    };
    for server in (0..SERVERS).filter(|server| *server != AWAY) {
        let is_home = |number: &usize| home(number) == server;
        let is_host = |number: &usize| home(number) == AWAY && host(number) == server;
        let (own, others): (Vec<_>, Vec<_>) = all.iter().partition(|&number| is_home(number));
        let (guests, others): (Vec<_>, Vec<_>) = others.iter().partition(|&number| is_host(number));
        assert_eq!(get_all(servers[server], &own), hits(&own, "new"));
        assert_eq!(get_all(servers[server], &guests), hits(&guests, "new"));
        assert_eq!(get_all(servers[server], &others), misses(&others));
        // They are spread over the others.
        assert!(guests.len() < moved.len(), "{server}: {}", guests.len());
    }

    // It is back, with what it held: nothing of that is read, and nothing is left
    // behind elsewhere.
    peers[AWAY].resume();
    wait_until_clean(&proxy);
    assert_eq!(get_all(address, &moved), misses(&moved));
    assert_eq!(get_all(address, &stay), hits(&stay, "new"));
    for server in (0..SERVERS).filter(|server| *server != AWAY) {
        assert_eq!(get_all(servers[server], &moved), misses(&moved));
    }

    // And in the second outage nothing of the first.
    assert!(
        set_all(address, &all, "newer")
            .iter()
            .all(|line| line == "STORED")
    );
    assert_eq!(get_all(address, &all), hits(&all, "newer"));
    peers[AWAY].pause();
    wait_until_away(&proxy, &key(moved[0]));
    assert_eq!(get_all(address, &moved), misses(&moved));
    assert_eq!(get_all(address, &stay), hits(&stay, "newer"));
    let (deleted, kept) = moved.split_at(moved.len() / 2);
    assert!(
        set_all(address, &moved, "newest")
            .iter()
            .all(|line| line == "STORED")
    );
    let delete = |number: usize| format!("delete {}\r\n", key(number));
    let lines = each(address, deleted, delete, |client, _| client.line());
    assert!(lines.iter().all(|line| line == "DELETED"));
    assert_eq!(get_all(address, deleted), misses(deleted));
    assert_eq!(get_all(address, kept), hits(kept, "newest"));
    peers[AWAY].resume();
    wait_until_clean(&proxy);
    assert_eq!(get_all(address, &moved), misses(&moved));
    show(&format!(
        "{} keys, {} of the server that was away twice: {} requests sent elsewhere, {} keys deleted",
        all.len(),
        moved.len(),
        proxy.metric("ketch_server_remapped_total", ""),
        proxy.metric("ketch_server_missed_replayed_total", ""),
    ));
}

#[test]
fn a_server_that_stands_in_holds_only_what_was_stored_there_since() {
    let servers = [Scripted::start(Fault::None), Scripted::start(Fault::None)];
    let addresses: Vec<_> = servers.iter().map(|server| server.address).collect();
    let placement = placement(&addresses);
    let of_first = |name: &str| {
        let keys = (0..).map(|number| format!("{name}{number}"));
        let mut keys = keys.filter(|key| placement.pick(key.as_bytes()) == 0);
        keys.next().unwrap()
    };
    let (a, b, c) = (of_first("a"), of_first("b"), of_first("c"));
    // Of an earlier time, and of who knows whom.
    for key in [&a, &b, &c] {
        assert_eq!(Client::connect(addresses[1]).set(key, b"1"), "STORED");
    }
    let proxy = proxy(&addresses, "");
    let mut client = Client::connect(proxy.address());
    servers[0].set(Fault::CloseAtOnce);
    wait_until_away(&proxy, &a);
    assert_eq!(client.get(&a), Got::Miss);
    client.send(format!("get {a} {b} {c}\r\n"));
    assert_eq!(client.got_many(), (vec![], "END".to_owned()));
    for (request, answer) in [
        (format!("incr {a} 1\r\n"), "NOT_FOUND".to_owned()),
        (
            format!("append {a} 0 0 1\r\n2\r\n"),
            "NOT_STORED".to_owned(),
        ),
        (
            format!("add {a} 0 0 1\r\n2\r\n"),
            format!("SERVER_ERROR {} is ejected", addresses[0]),
        ),
        (format!("set {a} 0 0 1\r\n5\r\n"), "STORED".to_owned()),
        (format!("incr {a} 2\r\n"), "7".to_owned()),
        (format!("delete {b}\r\n"), "DELETED".to_owned()),
        (format!("delete {b}\r\n"), "NOT_FOUND".to_owned()),
    ] {
        client.send(&request);
        assert_eq!(client.line(), answer, "{request}");
    }
    client.send(format!("get {a} {b} {c}\r\n"));
    let found = vec![(a.clone(), b"7".to_vec())];
    assert_eq!(client.got_many(), (found, "END".to_owned()));
    assert_eq!(proxy.metric("ketch_server_guest_keys", ""), 2.0);
    let (_, route) = proxy.ask(&format!("/route?key={a}"));
    let stand_in = format!("\"stand_in\":\"{}\"", addresses[1]);
    assert!(route.contains(&stand_in), "{route}");
    // What is too large deletes what was there.
    let too_large = vec![b'x'; 2 << 20];
    let refused = "SERVER_ERROR object too large for cache";
    assert_eq!(client.set(&a, &too_large), refused);
    assert_eq!(client.get(&a), Got::Miss);
    // With nobody left nobody stands in.
    servers[1].set(Fault::CloseAtOnce);
    let of_second = (0..).map(|number| format!("d{number}"));
    let of_second = of_second
        .clone()
        .find(|key| placement.pick(key.as_bytes()) == 1);
    wait_until_away(&proxy, &of_second.unwrap());
    let ejected = format!("SERVER_ERROR {} is ejected", addresses[0]);
    assert_eq!(client.get(&a), Got::Error(ejected.clone()));
    assert_eq!(client.set(&a, b"6"), ejected);
}

#[test]
fn no_more_keys_are_taken_than_are_remembered() {
    let servers = [Scripted::start(Fault::None), Scripted::start(Fault::None)];
    let addresses: Vec<_> = servers.iter().map(|server| server.address).collect();
    let placement = placement(&addresses);
    let moved: Vec<_> = (0..)
        .filter(|&number| placement.pick(key(number).as_bytes()) == 0)
        .take(6)
        .collect();
    let proxy = proxy(&addresses, "missed_keys_max: 4\non_return: serve\n");
    servers[0].set(Fault::CloseAtOnce);
    wait_until_away(&proxy, &key(moved[0]));
    let ejected = format!("SERVER_ERROR {} is ejected", addresses[0]);
    let one = |number: &usize| set_all(proxy.address(), &[*number], "new").remove(0);
    let stored: Vec<_> = moved.iter().map(one).collect();
    assert_eq!(stored[..4], vec!["STORED".to_owned(); 4]);
    assert_eq!(stored[4..], vec![ejected.clone(); 2]);
    let mut expected = hits(&moved[..4], "new");
    expected.extend(vec![Got::Error(ejected); 2]);
    assert_eq!(get_all(proxy.address(), &moved), expected);
}

#[test]
fn errors_end_with_the_ejection() {
    let Some(peers) = Peer::several(SERVERS) else {
        return;
    };
    let addresses: Vec<_> = peers.iter().map(|peer| peer.target().address).collect();
    let cluster = Cluster::new(addresses.clone());
    let proxy = cluster.proxy("    on_eject: remap\n");
    let expected = Expected {
        fails: Some(true),
        ejected_within: Some(TIMEOUT),
        remaps: true,
        ..Expected::default()
    };
    measure(
        ("memcached stopped, keys remapped", expected),
        (&cluster, &proxy, addresses[3]),
        || peers[3].pause(),
        || peers[3].resume(),
    );
}

/// A key and what its only writer knows of it.
#[derive(Default)]
struct Known {
    sent: u64,
    oldest: u64,
}

/// Sets, deletes and gets keys of its own until told to stop.
fn write_and_read(name: usize, address: SocketAddr, done: &AtomicBool, reads: &AtomicU64) {
    const KEYS: usize = 60;
    let mut random = fastrand::Rng::with_seed(u64::try_from(name).unwrap());
    let mut known: Vec<_> = (0..KEYS).map(|_| Known::default()).collect();
    let mut client = Client::connect(address);
    while !done.load(Ordering::SeqCst) {
        let at = random.usize(..KEYS);
        let (key, known) = (format!("c{name}k{at}"), &mut known[at]);
        match random.u8(..10) {
            0..=3 => {
                known.sent += 1;
                if client.set(&key, known.sent.to_string().as_bytes()) == "STORED" {
                    known.oldest = known.sent;
                }
            }
            4 => {
                // No value has its number.
                known.sent += 1;
                client.send(format!("delete {key}\r\n"));
                if !client.line().starts_with("SERVER_ERROR") {
                    known.oldest = known.sent;
                }
            }
            _ => {
                if let Got::Hit(value) = client.get(&key) {
                    let version: u64 = String::from_utf8_lossy(&value).parse().unwrap();
                    let (oldest, sent) = (known.oldest, known.sent);
                    assert!(
                        (oldest..=sent).contains(&version),
                        "{key}: read {version}, {oldest} is stored, {sent} was sent"
                    );
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
}

#[test]
fn servers_that_come_and_go_at_will_leave_nothing_stale() {
    let seconds = std::env::var("KETCH_REMAP_SECONDS").map_or(6, |text| text.parse().unwrap());
    let Some(peers) = Peer::several(SERVERS) else {
        return;
    };
    let servers: Vec<_> = peers.iter().map(|peer| peer.target().address).collect();
    let proxy = proxy(&servers, "");
    let (address, done, reads) = (proxy.address(), AtomicBool::new(false), AtomicU64::new(0));
    let mut outages = 0;
    thread::scope(|scope| {
        let clients: Vec<_> = (0..6)
            .map(|name| {
                let (done, reads) = (&done, &reads);
                scope.spawn(move || write_and_read(name, address, done, reads))
            })
            .collect();
        let mut random = fastrand::Rng::with_seed(7);
        let mut away = [false; SERVERS];
        let ends = now() + Duration::from_secs(seconds);
        while now() < ends && clients.iter().all(|client| !client.is_finished()) {
            // Up to three of four are away at a time.
            let at = random.usize(..SERVERS);
            if away[at] {
                peers[at].resume();
                away[at] = false;
            } else if away.iter().filter(|away| **away).count() < SERVERS - 1 {
                peers[at].pause();
                (away[at], outages) = (true, outages + 1);
            }
            thread::sleep(Duration::from_millis(random.u64(20..400)));
        }
        done.store(true, Ordering::SeqCst);
        away.iter().zip(&peers).for_each(|(away, peer)| {
            if *away {
                peer.resume();
            }
        });
    });
    wait_until_clean(&proxy);
    let sum = |name| proxy.metric(name, "");
    show(&format!(
        "{seconds} s, {outages} outages, {} ejections: {} values read, {} requests sent elsewhere, {} keys deleted",
        sum("ketch_server_ejections_total"),
        reads.load(Ordering::Relaxed),
        sum("ketch_server_remapped_total"),
        sum("ketch_server_missed_replayed_total"),
    ));
    assert!(sum("ketch_server_remapped_total") > 0.0);
}
