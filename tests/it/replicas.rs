//! Replicated shards: changes reach every member, reads find one that answers,
//! and no member is left with something else.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::client::{Client, Got};
use crate::ketch::Ketch;
use crate::now;
use crate::peer::Peer;
use crate::scripted::{Fault, Scripted};

/// How long something may take that should happen at once.
const SOON: Duration = Duration::from_secs(20);

/// A proxy with one shard of these servers, the primary first.
fn proxy(servers: &[SocketAddr], pool: &str) -> Ketch {
    let zones = ["a", "b", "c"];
    let replicas = servers.iter().zip(zones).skip(1);
    let replicas: String = replicas
        .map(|(server, zone)| format!("{{address: '{server}', zone: {zone}}}, "))
        .collect();
    Ketch::start(&format!(
        "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\nworkers: 2\nzone: b\npools:\n  main:\n    timeout: 1s\n    probe_first: 20ms\n    probe_max: 40ms\n{pool}    shards:\n      - primary: {{address: '{}', zone: a}}\n        replicas: [{replicas}]\n",
        servers[0],
    ))
}

fn peers(count: usize) -> Option<(Vec<Peer>, Vec<SocketAddr>)> {
    let peers = Peer::several(count)?;
    let addresses = peers.iter().map(|peer| peer.target().address).collect();
    Some((peers, addresses))
}

/// Waits until something is so.
fn wait_until(what: &str, proxy: &Ketch, mut is_so: impl FnMut() -> bool) {
    let deadline = now() + SOON;
    while !is_so() {
        assert!(now() < deadline, "{what}: {:#?}", proxy.log_lines());
        thread::sleep(Duration::from_millis(2));
    }
}

/// Asks for one line.
fn told(client: &mut Client, request: &str) -> String {
    client.send(request);
    client.line()
}

fn hit(value: &str) -> Got {
    Got::Hit(value.as_bytes().to_vec())
}

#[test]
fn changes_reach_every_member() {
    let Some((_peers, servers)) = peers(3) else {
        return;
    };
    let proxy = proxy(&servers, "");
    let mut client = Client::connect(proxy.address());
    let mut members: Vec<_> = servers.iter().map(|at| Client::connect(*at)).collect();
    let mut all_hold = |key: &str, what: Got| {
        for member in &mut members {
            wait_until(key, &proxy, || member.get(key) == what);
        }
    };
    assert_eq!(client.set("k", b"1"), "STORED");
    all_hold("k", hit("1"));
    assert_eq!(told(&mut client, "delete k\r\n"), "DELETED");
    all_hold("k", Got::Miss);
    assert_eq!(told(&mut client, "add k 0 0 1\r\n2\r\n"), "STORED");
    all_hold("k", hit("2"));
    assert_eq!(told(&mut client, "add k 0 0 1\r\n3\r\n"), "NOT_STORED");
    all_hold("k", hit("2"));
    assert_eq!(told(&mut client, "ms k 1 T0 q\r\n4\r\nmn\r\n"), "MN");
    all_hold("k", hit("4"));
    // What depends on the item is deleted where it was not done.
    assert_eq!(told(&mut client, "incr k 5\r\n"), "9");
    let mut direct: Vec<_> = servers.iter().map(|at| Client::connect(*at)).collect();
    assert_eq!(direct[0].get("k"), hit("9"));
    for replica in &mut direct[1..] {
        wait_until("deleted", &proxy, || replica.get("k") == Got::Miss);
    }
    assert_eq!(client.get("k"), hit("9"));
    // A time to live is set everywhere.
    assert_eq!(client.set("t", b"x"), "STORED");
    assert_eq!(told(&mut client, "touch t 1000\r\n"), "TOUCHED");
    for member in &mut direct {
        wait_until("touched", &proxy, || {
            let answer = told(member, "mg t t\r\n");
            answer == "HD t1000" || answer == "HD t999"
        });
    } // Of one client nothing crosses, however soon one change follows another.
    assert_eq!(proxy.metric("ketch_pool_changes_crossed_total", ""), 0.0);
}

#[test]
fn what_is_waited_for_is_what_was_asked_for() {
    let Some((mut peers, servers)) = peers(3) else {
        return;
    };
    let wait_for_all = [("sync", "sync"), ("majority", "majority"), ("none", "none")];
    let proxies = wait_for_all.map(|(name, copies)| {
        (
            name,
            proxy(&servers, &format!("    replication: {copies}\n")),
        )
    });
    for (name, proxy) in &proxies {
        let mut client = Client::connect(proxy.address());
        assert_eq!(client.set(name, b"1"), "STORED", "{name}");
        let mut replica = Client::connect(servers[2]);
        let there = replica.get(name);
        match *name {
            "none" => assert_eq!(there, Got::Miss),
            "sync" => assert_eq!(there, hit("1")),
            _ => {}
        }
    }
    drop(peers.pop());
    for (name, proxy) in &proxies {
        let mut client = Client::connect(proxy.address());
        wait_until("ejected", proxy, || {
            client.set("ejects", b"1");
            proxy.metric("ketch_server_up", "") < 3.0 || *name == "none"
        });
        let answer = client.set(name, b"2");
        match *name {
            "sync" => {
                let dead = servers[2];
                assert_eq!(answer, format!("SERVER_ERROR {dead} is ejected"));
            }
            _ => assert_eq!(answer, "STORED", "{name}"),
        }
        assert_eq!(client.get(name), hit("2"), "{name}");
    }
}

#[test]
fn reads_prefer_their_own_zone() {
    let Some((_peers, servers)) = peers(3) else {
        return;
    };
    let proxy = proxy(&servers, "    read: nearest\n    replication: sync\n");
    let mut client = Client::connect(proxy.address());
    assert_eq!(client.set("k", b"1"), "STORED");
    for _ in 0..20 {
        assert_eq!(client.get("k"), hit("1"));
    }
    let hits = |server| proxy.metric("ketch_server_hits_total", &format!("server=\"{server}\""));
    assert_eq!(
        [hits(servers[0]), hits(servers[1]), hits(servers[2])],
        [0.0, 20.0, 0.0]
    );
    // A version is the primary's, who will be asked to compare it.
    client.send("gets k\r\n");
    let header = client.line();
    let version = header.rsplit(' ').next().unwrap().to_owned();
    assert_eq!(
        (client.line().as_str(), client.line().as_str()),
        ("1", "END")
    );
    let answer = told(&mut client, &format!("cas k 0 0 1 {version}\r\n2\r\n"));
    assert_eq!(answer, "STORED");
}

#[test]
fn a_member_that_held_nothing_is_given_what_another_holds() {
    let Some((_peers, servers)) = peers(3) else {
        return;
    };
    let proxy = proxy(&servers, "    read_miss: next\n");
    let mut client = Client::connect(proxy.address());
    let mut replica = Client::connect(servers[1]);
    for key in ["one", "two", "three"] {
        let stored = told(&mut replica, &format!("set {key} 7 600 3\r\nold\r\n"));
        assert_eq!(stored, "STORED");
    }
    assert_eq!(client.get("one"), hit("old"));
    client.send("get two none three\r\n");
    let (found, end) = client.got_many();
    let keys: Vec<_> = found.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!((keys, end.as_str()), (vec!["two", "three"], "END"));
    let mut primary = Client::connect(servers[0]);
    for key in ["one", "two", "three"] {
        wait_until(key, &proxy, || {
            let item = told(&mut primary, &format!("mg {key} f t\r\n"));
            let ttl = item
                .strip_prefix("HD f7 t")
                .map(|ttl| ttl.parse::<u32>().unwrap());
            ttl.is_some_and(|ttl| (500..=600).contains(&ttl))
        });
    }
    wait_until("counted", &proxy, || {
        proxy.metric("ketch_pool_repairs_total", "") == 3.0
    });
}

/// Writes and reads keys of its own until told to stop. What is read is what was
/// written last, unless that failed; nothing is fine, older is not.
fn use_keys(address: SocketAddr, client: usize, going: &AtomicBool) -> (usize, usize) {
    const KEYS: usize = 50;
    let mut connection = Client::connect(address);
    // The last version known to be stored, and the last that was tried.
    let mut versions = [(0usize, 0usize); KEYS];
    let (mut rounds, mut failed) = (0, 0);
    while going.load(Ordering::SeqCst) {
        let at = rounds % KEYS;
        let key = format!("c{client}k{at}");
        let (stored, tried) = &mut versions[at];
        *tried += 1;
        match connection
            .set(&key, format!("{key}={tried}").as_bytes())
            .as_str()
        {
            "STORED" => *stored = *tried,
            error => {
                assert!(error.starts_with("SERVER_ERROR "), "{error}");
                failed += 1;
            }
        }
        match connection.get(&key) {
            Got::Hit(value) => {
                let value = String::from_utf8(value).unwrap();
                let version = value.strip_prefix(&format!("{key}=")).unwrap();
                let version: usize = version.parse().unwrap();
                assert!(
                    (*stored..=*tried).contains(&version),
                    "{value} {stored}..={tried}"
                );
            }
            Got::Miss => {}
            Got::Error(error) => {
                assert!(error.starts_with("SERVER_ERROR "), "{error}");
                failed += 1;
            }
        }
        rounds += 1;
    }
    (rounds, failed)
}

/// Stops the clients of a test when it is over, even if it has failed.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

/// Takes the primary away under load, by `away`, and brings it back by `back`.
fn without_one(pool: &str, away: impl Fn(&[Peer]), back: impl Fn(&[Peer])) {
    let Some((peers, servers)) = peers(3) else {
        return;
    };
    let proxy = proxy(&servers, pool);
    let address = proxy.address();
    let going = AtomicBool::new(true);
    let served = |proxy: &Ketch| proxy.metric("ketch_pool_requests_total", "command=\"get\"");
    let more = |what: &str| {
        let before = served(&proxy);
        wait_until(what, &proxy, || served(&proxy) > before + 2000.0);
    };
    thread::scope(|scope| {
        let going = &going;
        let stop = Stop(going);
        let clients: Vec<_> = (0..4)
            .map(|client| scope.spawn(move || use_keys(address, client, going)))
            .collect();
        more("before");
        away(&peers);
        wait_until("ejected", &proxy, || {
            proxy.metric("ketch_server_up", "") < 3.0
        });
        // The replicas serve, reads and writes.
        let failures = proxy.metric("ketch_failures_told_total", "");
        more("without its primary");
        let during = proxy.metric("ketch_failures_told_total", "") - failures;
        assert!(
            during < 10.0,
            "{during} failures after the ejection: {:#?}",
            proxy.log_lines(),
        );
        back(&peers);
        // Nobody else was taken for slow.
        assert_eq!(proxy.metric("ketch_server_ejections_total", ""), 1.0);
        wait_until("back", &proxy, || {
            proxy.metric("ketch_server_up", "") == 3.0
        });
        more("with its primary");
        drop(stop);
        for client in clients {
            let (rounds, failed) = client.join().unwrap();
            assert!(failed < rounds / 10, "{failed} of {rounds}");
        }
    });
    // Nothing is different from one member to the next.
    wait_until("deleted", &proxy, || {
        proxy.metric("ketch_server_missed_keys", "") == 0.0
    });
    let mut members: Vec<_> = servers.iter().map(|at| Client::connect(*at)).collect();
    for key in (0..4).flat_map(|client| (0..50).map(move |at| format!("c{client}k{at}"))) {
        let held: Vec<_> = members.iter_mut().map(|member| member.get(&key)).collect();
        let mut values: Vec<_> = held.iter().filter(|got| **got != Got::Miss).collect();
        values.dedup();
        assert!(values.len() <= 1, "{key}: {held:?}");
    }
}

#[test]
fn replicas_serve_while_the_primary_hangs_and_it_returns_without_stale_items() {
    without_one(
        "    read_miss: next\n",
        |peers| peers[0].pause(),
        |peers| peers[0].resume(),
    );
}

#[test]
fn the_others_serve_while_a_replica_hangs() {
    without_one(
        "    read: spread\n    replication: majority\n    read_miss: next\n",
        |peers| peers[1].pause(),
        |peers| peers[1].resume(),
    );
}

#[test]
fn a_multiget_finds_what_replicas_of_a_dead_primary_hold() {
    let Some((mut peers, servers)) = peers(3) else {
        return;
    };
    let proxy = proxy(&servers, "    replication: sync\n");
    let mut client = Client::connect(proxy.address());
    let keys: Vec<_> = (0..30).map(|at| format!("key{at}")).collect();
    for key in &keys {
        assert_eq!(client.set(key, key.as_bytes()), "STORED");
    }
    drop(peers.remove(0));
    client.send(format!("get {}\r\n", keys.join(" ")));
    let (found, end) = client.got_many();
    assert_eq!(end, "END");
    let found: Vec<_> = found.into_iter().map(|(key, _)| key).collect();
    assert_eq!(found, keys);
}

#[test]
fn a_slow_member_is_not_waited_for() {
    let servers: Vec<_> = (0..2).map(|_| Scripted::start(Fault::None)).collect();
    let addresses: Vec<_> = servers.iter().map(|server| server.address).collect();
    let proxy = proxy(
        &addresses,
        "    replication: sync\n    hedge: 95%\n    hedge_budget: 50%\n    failures: 1000\n",
    );
    let mut client = Client::connect(proxy.address());
    assert_eq!(client.set("k", b"1"), "STORED");
    // Until it is known what is slow.
    let deadline = now() + Duration::from_millis(1200);
    while now() < deadline {
        assert_eq!(client.get("k"), hit("1"));
    }
    servers[0].set(Fault::Holding);
    let start = now();
    for _ in 0..10 {
        assert_eq!(client.get("k"), hit("1"));
    }
    let took = start.elapsed();
    // Ten time-outs would be ten seconds.
    assert!(took < Duration::from_millis(3000), "{took:?}");
    assert!(proxy.metric("ketch_pool_hedges_won_total", "") >= 10.0);
    // Who asks for a version waits for the member that will be asked to compare it.
    let hedges = proxy.metric("ketch_pool_hedges_total", "");
    client.send("gets k\r\n");
    client.line();
    assert!(start.elapsed() - took >= Duration::from_secs(1));
    assert_eq!(proxy.metric("ketch_pool_hedges_total", ""), hedges);
    servers[0].set(Fault::None);
}

#[test]
fn a_version_of_one_member_is_none_of_another() {
    let Some((mut peers, servers)) = peers(2) else {
        return;
    };
    // Each counts for itself: the second is one behind the first.
    assert_eq!(Client::connect(servers[0]).set("other", b"x"), "STORED");
    let proxy = proxy(&servers, "    replication: sync\n");
    let mut client = Client::connect(proxy.address());
    assert_eq!(client.set("k", b"1"), "STORED");
    let version = version(&mut client, "k");

    drop(peers.remove(0));
    wait_until("ejected", &proxy, || {
        client.get("k");
        proxy.metric("ketch_server_up", "") < 2.0
    });
    // What the replica counts now is what the primary had counted then.
    let second = Client::connect(servers[1]).set("k", b"2");
    assert_eq!(second, "STORED");
    let own = self::version(&mut Client::connect(servers[1]), "k");
    assert_eq!(own, version);

    let compare = |with: u64| format!("cas k 0 0 1 {with}\r\n3\r\n");
    assert_eq!(told(&mut client, &compare(version)), "EXISTS");
    let shown = self::version(&mut client, "k");
    assert_ne!(shown, version);
    let answer = told(&mut client, "mg k c\r\n");
    assert_eq!(answer, format!("HD c{shown}"));
    // The other member is away: no change reaches all.
    let answer = told(&mut client, &compare(shown));
    assert!(answer.starts_with("SERVER_ERROR "), "{answer}");
    assert_eq!(Client::connect(servers[1]).get("k"), hit("3"));
}

/// The version of an item that a client is shown.
fn version(client: &mut Client, key: &str) -> u64 {
    client.send(format!("gets {key}\r\n"));
    let line = client.line();
    let version = line.split(' ').nth(4).unwrap().parse().unwrap();
    let (_value, end) = (client.line(), client.line());
    assert_eq!(end, "END");
    version
}

#[test]
fn an_operator_sees_who_is_a_replica_of_whom() {
    let Some((_peers, servers)) = peers(2) else {
        return;
    };
    let proxy = proxy(&servers, "");
    let (_, all) = proxy.ask("/servers");
    let [primary, replica] = [servers[0], servers[1]];
    assert!(
        all.contains(&format!("\"replica_of\":\"{primary}\"")),
        "{all}"
    );
    assert!(all.contains("\"zone\":\"b\""), "{all}");
    let (_, route) = proxy.ask("/route?key=k");
    assert!(
        route.contains(&format!("\"server\":\"{primary}\"")),
        "{route}"
    );
    assert!(
        route.contains(&format!("\"replicas\":[{{\"address\":\"{replica}\"")),
        "{route}"
    );
}

/// Changes one of a few keys again and again, in every way there is.
fn change_at_random(address: SocketAddr, seed: u64, keys: &[String], count: usize) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut client = Client::connect(address);
    for number in 0..count {
        let key = random.choice(keys).unwrap();
        let value = format!("{seed}.{number}");
        let len = value.len();
        let told = match random.u8(..10) {
            0..=4 => told(&mut client, &format!("set {key} 0 0 {len}\r\n{value}\r\n")),
            5 => told(&mut client, &format!("add {key} 0 0 {len}\r\n{value}\r\n")),
            6 => told(
                &mut client,
                &format!("append {key} 0 0 {len}\r\n{value}\r\n"),
            ),
            7 => told(&mut client, &format!("ms {key} {len} ME\r\n{value}\r\n")),
            8 => told(&mut client, &format!("delete {key}\r\n")),
            _ => told(&mut client, &format!("touch {key} 0\r\n")),
        };
        assert!(!told.starts_with("SERVER_ERROR"), "{told}");
    }
}

#[test]
fn changes_that_cross_leave_nothing_different() {
    let Some((_peers, servers)) = peers(3) else {
        return;
    };
    let mut members: Vec<_> = servers.iter().map(|at| Client::connect(*at)).collect();
    for pool in [
        "",
        "    replication: sync\n",
        "    server_connections: 3\n    replication: majority\n",
    ] {
        let proxy = proxy(&servers, pool);
        for round in 0..60_u64 {
            let keys: Vec<_> = (0..3).map(|at| format!("r{round}k{at}")).collect();
            thread::scope(|scope| {
                for client in 0..6 {
                    let (keys, address) = (&keys, proxy.address());
                    scope.spawn(move || change_at_random(address, client * 1000 + round, keys, 12));
                }
            });
            // Once copies have arrived, and what crossed has been deleted.
            for key in &keys {
                wait_until(key, &proxy, || {
                    let held: Vec<_> = members.iter_mut().map(|member| member.get(key)).collect();
                    let right = |there: &Got| *there == Got::Miss || *there == held[0];
                    held.iter().all(right)
                });
            }
        }
        assert!(proxy.metric("ketch_pool_changes_crossed_total", "") > 0.0);
        assert_eq!(proxy.metric("ketch_server_missed_abandoned_total", ""), 0.0);
    }
}
