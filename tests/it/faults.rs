//! One bad server among good ones: it costs its own keys only, and nobody ever
//! gets another's answer.

use std::cell::RefCell;
use std::time::Duration;

use crate::client::{Client, Got};
use crate::outage::{Cluster, Expected, Figures, TIMEOUT, measure};
use crate::peer::Peer;
use crate::scripted::{BlackHole, Fault, Scripted};

/// How long a server may take to be ejected whose failures take no time.
const AT_ONCE: Duration = Duration::from_millis(50);

/// Three good servers and one with this fault.
fn with_fault(fault: Fault) -> (Vec<Scripted>, Cluster) {
    let mut servers: Vec<_> = (0..3).map(|_| Scripted::start(Fault::None)).collect();
    servers.push(Scripted::start(fault));
    let addresses = servers.iter().map(|server| server.address).collect();
    (servers, Cluster::new(addresses))
}

/// A server that fails in a way for which it is ejected.
fn ejected_within(within: Duration) -> Expected {
    Expected {
        fails: Some(true),
        ejected_within: Some(within),
        ..Expected::default()
    }
}

/// A server that is none the worse for it.
const UNHARMED: Expected = Expected {
    fails: Some(false),
    ejected_within: None,
    lost_probe: Duration::ZERO,
    heals: false,
    remaps: false,
    flaps: false,
};

/// A server that begins to misbehave and stops doing so.
fn under(name: &str, fault: Fault, expected: Expected) -> Figures {
    let (servers, cluster) = with_fault(Fault::None);
    let (bad, proxy) = (&servers[3], cluster.proxy(""));
    measure(
        (name, expected),
        (&cluster, &proxy, bad.address),
        || bad.set(fault),
        || bad.set(Fault::None),
    )
}

#[test]
fn a_good_server_answers_all() {
    let figures = under("nothing", Fault::None, UNHARMED);
    assert!(figures.answered > 0);
}

#[test]
fn a_server_that_never_answers_fails_its_own_keys() {
    let expected = Expected {
        lost_probe: TIMEOUT,
        ..ejected_within(TIMEOUT)
    };
    under("never answers", Fault::Silent, expected);
}

#[test]
fn a_server_that_answers_late_fails_its_own_keys() {
    let expected = Expected {
        lost_probe: TIMEOUT,
        ..ejected_within(TIMEOUT)
    };
    under("late", Fault::Late, expected);
}

#[test]
fn a_server_that_is_slow_but_in_time_is_heard() {
    under("slow", Fault::Slow, UNHARMED);
}

#[test]
fn a_server_that_answers_a_byte_at_a_time_is_only_slow() {
    under("a byte at a time", Fault::Drip, UNHARMED);
}

#[test]
fn a_server_that_closes_at_once_fails_its_own_keys() {
    under(
        "closes at once",
        Fault::CloseAtOnce,
        ejected_within(AT_ONCE),
    );
}

#[test]
fn a_server_that_closes_after_each_reply_loses_no_other() {
    let expected = Expected {
        flaps: true,
        ..ejected_within(AT_ONCE)
    };
    under("closes after each reply", Fault::CloseAfterReply, expected);
}

#[test]
fn a_server_that_closes_within_a_reply_delivers_no_half_of_it() {
    under("closes within", Fault::CloseWithin, ejected_within(AT_ONCE));
}

#[test]
fn a_server_whose_answers_are_late_by_one_shifts_none() {
    // The next request brings the answer, if there is one.
    under("late by one", Fault::Shifted, Expected::default());
}

#[test]
fn junk_after_a_reply_is_nobodys_reply() {
    under("junk", Fault::Junk(b"junk\r\n"), ejected_within(AT_ONCE));
}

#[test]
fn an_end_too_many_is_never_followed_by_anothers_value() {
    under(
        "END too many",
        Fault::Junk(b"END\r\n"),
        ejected_within(AT_ONCE),
    );
}

#[test]
fn a_value_too_many_is_nobodys_value() {
    let junk = Fault::Junk(b"VALUE k 0 5\r\nwrong\r\nEND\r\n");
    under("VALUE too many", junk, ejected_within(AT_ONCE));
}

#[test]
fn a_server_that_closes_at_every_second_request_loses_no_other() {
    let expected = Expected {
        flaps: true,
        ..ejected_within(AT_ONCE)
    };
    under("closes at every second", Fault::Alternate, expected);
}

#[test]
fn a_server_that_reads_no_more_fails_its_own_keys() {
    under("reads no more", Fault::Deaf, ejected_within(TIMEOUT));
}

#[test]
fn connections_that_lead_nowhere_any_more_are_made_anew() {
    let expected = Expected {
        heals: true,
        ..ejected_within(TIMEOUT)
    };
    under("half-open", Fault::HalfOpen, expected);
}

#[test]
fn a_server_without_a_route_fails_its_own_keys() {
    let expected = Expected {
        lost_probe: TIMEOUT,
        ..ejected_within(TIMEOUT)
    };
    under("no route", Fault::Unrouted, expected);
}

#[test]
fn a_server_that_refuses_connections_fails_its_own_keys() {
    let (mut servers, cluster) = with_fault(Fault::None);
    let server = servers.pop();
    let address = server.as_ref().unwrap().address;
    let server = RefCell::new(server);
    let proxy = cluster.proxy("");
    measure(
        ("refuses", ejected_within(AT_ONCE)),
        (&cluster, &proxy, address),
        || drop(server.take()),
        || drop(server.replace(Some(Scripted::start_at(address, Fault::None)))),
    );
}

#[test]
fn a_memcached_that_is_stopped_fails_its_own_keys() {
    let Some(peers) = Peer::several(4) else {
        return;
    };
    let addresses: Vec<_> = peers.iter().map(|peer| peer.target().address).collect();
    let cluster = Cluster::new(addresses.clone());
    let proxy = cluster.proxy("");
    measure(
        ("memcached stopped", ejected_within(TIMEOUT)),
        (&cluster, &proxy, addresses[3]),
        || peers[3].pause(),
        || peers[3].resume(),
    );
}

#[test]
fn a_memcached_that_is_killed_fails_its_own_keys_and_comes_back() {
    let Some(mut peers) = Peer::several(4) else {
        return;
    };
    let addresses: Vec<_> = peers.iter().map(|peer| peer.target().address).collect();
    let cluster = Cluster::new(addresses.clone());
    let proxy = cluster.proxy("");
    let peer = RefCell::new(peers.pop());
    let port = addresses[3].port().to_string();
    measure(
        ("memcached killed", ejected_within(AT_ONCE)),
        (&cluster, &proxy, addresses[3]),
        || drop(peer.take()),
        || drop(peer.replace(Peer::start(&["-p", &port]))),
    );
    proxy.wait_for_log("server is back");
}

#[test]
fn a_server_that_was_never_reached_fails_its_own_keys() {
    let servers: Vec<_> = (0..3).map(|_| Scripted::start(Fault::None)).collect();
    let hole = BlackHole::new();
    let mut addresses: Vec<_> = servers.iter().map(|server| server.address).collect();
    addresses.push(hole.address);
    let cluster = Cluster::new(addresses);
    let proxy = cluster.proxy("");
    let mut client = Client::connect(proxy.address());
    let (lost, good) = (
        cluster.key("k", hole.address, true),
        cluster.key("k", hole.address, false),
    );
    for _ in 0..10 {
        let stored = client.set(&lost, b"x");
        let of_hole = format!("SERVER_ERROR {} ", hole.address);
        assert!(stored.starts_with(&of_hole), "{stored}");
        assert_eq!(client.set(&good, b"x"), "STORED");
    }
}

#[test]
fn a_refusal_before_the_value_has_been_read_is_the_answer() {
    let (servers, cluster) = with_fault(Fault::None);
    let bad = servers[3].address;
    let proxy = cluster.proxy("");
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
    let proxy = cluster.proxy("");
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
    let proxy = cluster.proxy("");
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
    let proxy = cluster.proxy("");
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
fn what_is_stored_after_a_late_change_stays() {
    let (servers, cluster) = with_fault(Fault::None);
    let bad = &servers[3];
    let proxy = cluster.proxy("");
    let key = cluster.key("k", bad.address, true);
    let mut client = Client::connect(proxy.address());
    let timed_out = format!("SERVER_ERROR {} timed out", bad.address);
    // A deletion may be under way already when the newer value is stored: not
    // every time.
    let stayed = (0..5).filter(|_| {
        bad.set(Fault::Holding);
        assert_eq!(client.set(&key, b"late"), timed_out);
        // In order behind it, and answered in time.
        client.send(format!("set {key} 0 0 5\r\nnewer\r\n"));
        proxy.wait_for_metric("ketch_server_in_flight", "", 2.0);
        bad.set(Fault::None);
        assert_eq!(client.line(), "STORED");
        proxy.wait_for_metric("ketch_server_missed_keys", "", 0.0);
        match client.get(&key) {
            Got::Hit(value) => assert_eq!(value, b"newer"),
            other => {
                assert_eq!(other, Got::Miss);
                return false;
            }
        }
        true
    });
    assert!(stayed.count() > 0);
    assert!(proxy.metric("ketch_server_missed_replaced_total", "") > 0.0);
}

#[test]
fn a_multiget_gets_what_the_other_servers_have() {
    let (servers, cluster) = with_fault(Fault::None);
    let bad = servers[3].address;
    let proxy = cluster.proxy("");
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
    let proxy = cluster.proxy("");
    let (lost, good) = (cluster.key("k", bad, true), cluster.key("k", bad, false));
    let mut client = Client::connect(proxy.address());
    client.send(format!(
        "set {lost} 0 0 1 noreply\r\nx\r\nset {good} 0 0 1\r\ny\r\n"
    ));
    assert_eq!(client.line(), "STORED");
    assert_eq!(proxy.metric("ketch_failures_untold_total", ""), 1.0);
}
