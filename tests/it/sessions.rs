//! Client sessions and their bounds.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use crate::client::{Client, Got};
use crate::ketch::Ketch;
use crate::now;
use crate::scripted::{Fault, Scripted};

/// How long something may take that should happen at once.
const SOON: Duration = Duration::from_secs(10);

fn proxy(server: &Scripted, clients: &str) -> Ketch {
    Ketch::start(&format!(
        "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\nworkers: 2\n{clients}pools:\n  main:\n    timeout: 10s\n    stall_timeout: 10s\n    servers: ['{}']\n",
        server.address
    ))
}

/// Waits until a metric has at least this value.
fn wait_for(ketch: &Ketch, name: &str, labels: &str, at_least: f64) {
    let deadline = now() + SOON;
    while ketch.metric(name, labels) < at_least {
        assert!(
            now() < deadline,
            "{name}{{{labels}}} stays below {at_least}"
        );
        thread::yield_now();
    }
}

#[test]
fn a_pipeline_of_any_depth_is_answered_in_order() {
    let server = Scripted::start(Fault::None);
    let ketch = proxy(&server, "clients: {in_flight_max: 16}\n");
    let mut client = Client::connect(ketch.address());
    let mut sender = client.sender();
    let count = 20_000;
    let feeding = thread::spawn(move || {
        for at in 0..count {
            let request = format!("set k{at} 0 0 5\r\n{at:05}\r\nget k{at}\r\nmn\r\n");
            sender.write_all(request.as_bytes()).unwrap();
        }
    });
    for at in 0..count {
        assert_eq!(client.line(), "STORED");
        let value = format!("{at:05}").into_bytes();
        assert_eq!(client.got(&format!("k{at}")), Got::Hit(value));
        assert_eq!(client.line(), "MN");
    }
    feeding.join().unwrap();
    // It was never allowed to run further ahead than that.
    assert!(ketch.metric("ketch_client_pauses_total", "") > 100.0);
}

#[test]
fn a_client_that_does_not_read_is_not_read_from_either() {
    let server = Scripted::start(Fault::None);
    let clients = "clients: {in_flight_max: 8, pause_bytes: 64KiB, owed_bytes_max: 2MiB, multiget_bytes_max: 2MiB}\n";
    let ketch = proxy(&server, clients);
    let mut client = Client::connect(ketch.address());
    let value = vec![b'x'; 100_000];
    assert_eq!(client.set("large", &value), "STORED");
    // Far more than the sockets between hold.
    let mut sender = client.sender();
    let count = 500;
    let feeding = thread::spawn(move || {
        sender
            .write_all("get large\r\n".repeat(count).as_bytes())
            .unwrap();
    });
    wait_for(&ketch, "ketch_client_pauses_total", "", 1.0);
    // Others are served meanwhile.
    let mut other = Client::connect(ketch.address());
    assert_eq!(other.set("small", b"y"), "STORED");
    for _ in 0..count {
        assert_eq!(client.got("large"), Got::Hit(value.clone()));
    }
    feeding.join().unwrap();
}

#[test]
fn a_client_that_owes_itself_too_much_is_closed() {
    let server = Scripted::start(Fault::None);
    let clients = "clients: {pause_bytes: 1MiB, owed_bytes_max: 2MiB, multiget_bytes_max: 2MiB}\n";
    let ketch = proxy(&server, clients);
    let mut client = Client::connect(ketch.address());
    assert_eq!(client.set("large", &vec![b'x'; 500_000]), "STORED");
    // Asked for in one go, before anything is owed.
    client.send("get large\r\n".repeat(100));
    wait_for(&ketch, "ketch_client_sessions_ended_total", "slow", 1.0);
    let mut other = Client::connect(ketch.address());
    assert_eq!(other.set("small", b"y"), "STORED");
}

#[test]
fn a_multiget_beyond_its_bound_fails_and_leaves_the_connection() {
    let server = Scripted::start(Fault::None);
    let clients = "clients: {multiget_bytes_max: 1MiB, pause_bytes: 256KiB}\n";
    let ketch = proxy(&server, clients);
    let mut client = Client::connect(ketch.address());
    for key in ["a", "b", "c"] {
        assert_eq!(client.set(key, &vec![b'x'; 400_000]), "STORED");
    }
    client.send("get a b\r\nget a b c\r\nget a b\r\n");
    assert_eq!(client.got_many().0.len(), 2);
    let (found, error) = client.got_many();
    assert!(found.is_empty());
    assert_eq!(
        error,
        "SERVER_ERROR reply is larger than multiget_bytes_max"
    );
    assert_eq!(client.got_many().0.len(), 2);
    assert_eq!(
        ketch.metric("ketch_client_multiget_oversized_total", ""),
        1.0
    );
}

#[test]
fn one_client_too_many_is_told_so() {
    let server = Scripted::start(Fault::None);
    let ketch = proxy(&server, "clients: {connections_max: 2}\n");
    let clients: Vec<_> = (0..2)
        .map(|at| {
            let mut client = Client::connect(ketch.address());
            assert_eq!(client.set(&format!("k{at}"), b"x"), "STORED");
            client
        })
        .collect();
    let mut third = TcpStream::connect(ketch.address()).unwrap();
    let mut told = String::new();
    third.read_to_string(&mut told).unwrap();
    assert_eq!(told, "ERROR Too many open connections\r\n");
    assert_eq!(ketch.metric("ketch_client_sessions_refused_total", ""), 1.0);
    drop(clients);
    // There is room again.
    wait_for(&ketch, "ketch_client_sessions_ended_total", "client", 2.0);
    let mut client = Client::connect(ketch.address());
    assert_eq!(client.set("k", b"x"), "STORED");
}

#[test]
fn an_idle_client_is_closed_and_a_busy_one_is_not() {
    let server = Scripted::start(Fault::None);
    let ketch = proxy(&server, "clients: {idle_timeout: 1s}\n");
    let mut idle = TcpStream::connect(ketch.address()).unwrap();
    let mut busy = Client::connect(ketch.address());
    let ended = thread::spawn(move || {
        let mut rest = Vec::new();
        idle.read_to_end(&mut rest).unwrap();
        assert!(rest.is_empty());
    });
    while !ended.is_finished() {
        assert_eq!(busy.set("k", b"x"), "STORED");
    }
    ended.join().unwrap();
    assert_eq!(busy.set("k", b"x"), "STORED");
    wait_for(&ketch, "ketch_client_sessions_ended_total", "idle", 1.0);
}

#[test]
fn a_client_that_has_said_all_still_hears_all() {
    let server = Scripted::start(Fault::Holding);
    let ketch = proxy(&server, "");
    let mut stream = TcpStream::connect(ketch.address()).unwrap();
    stream.write_all(b"set k 0 0 1\r\nx\r\nget k\r\n").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    wait_for(&ketch, "ketch_server_in_flight", "", 2.0);
    server.set(Fault::None);
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    assert_eq!(answers, "STORED\r\nVALUE k 0 1\r\nx\r\nEND\r\n");
}

#[test]
fn values_of_all_sizes_pass_unchanged() {
    let server = Scripted::start(Fault::None);
    let ketch = proxy(
        &server,
        "clients: {value_bytes_max: 8MiB, owed_bytes_max: 1GiB}\n",
    );
    let mut client = Client::connect(ketch.address());
    // Around every size at which something else happens.
    for size in [
        0,
        1,
        100,
        16_000,
        16_384,
        16_385,
        65_000,
        65_536,
        65_537,
        1 << 20,
        8 << 20,
    ] {
        let value: Vec<u8> = (0..=250).cycle().take(size).collect();
        let key = format!("k{size}");
        assert_eq!(client.set(&key, &value), "STORED", "{size}");
        assert_eq!(
            server.value(key.as_bytes()).as_ref(),
            Some(&value),
            "{size}"
        );
        assert_eq!(client.get(&key), Got::Hit(value.clone()), "{size}");
        client.send(format!("get {key} k0 {key}\r\n"));
        let (found, end) = client.got_many();
        assert_eq!(end, "END");
        assert!(found.iter().map(|item| item.1.len()).eq([size, 0, size]));
        assert!(found[0].1 == value && found[2].1 == value);
    }
    let too_large = vec![0; (8 << 20) + 1];
    let answer = client.set("k0", &too_large);
    assert_eq!(answer, "SERVER_ERROR object too large for cache");
    // What it was to replace is gone.
    assert_eq!(client.get("k0"), Got::Miss);
}

#[test]
fn listeners_have_routes_and_bounds_of_their_own() {
    let servers = [Scripted::start(Fault::None), Scripted::start(Fault::None)];
    let socket = std::env::temp_dir().join(format!("ketch-it-{}.sock", std::process::id()));
    let ketch = Ketch::start(&format!(
        "listen:\n  - {{address: '127.0.0.1:0', route: alpha}}\n  - {{address: '[::1]:0', route: beta, flush_all: true}}\n  - {{address: 'unix:{}', mode: 0600, route: beta, value_bytes_max: 10B}}\nadmin: 127.0.0.1:0\npools:\n  alpha: {{servers: ['{}']}}\n  beta: {{servers: ['{}']}}\n",
        socket.display(),
        servers[0].address,
        servers[1].address,
    ));
    let mut alpha = Client::connect(ketch.listeners[0]);
    let mut beta = Client::connect(ketch.listeners[1]);
    assert!(ketch.listeners[1].is_ipv6());
    assert_eq!(alpha.set("k", b"alpha"), "STORED");
    assert_eq!(beta.set("k", b"beta"), "STORED");
    assert_eq!(alpha.get("k"), Got::Hit(b"alpha".to_vec()));
    assert_eq!(servers[1].value(b"k"), Some(b"beta".to_vec()));
    let mut unix = UnixStream::connect(&socket).unwrap();
    unix.write_all(b"get k\r\nset k 0 0 11\r\nhello world\r\nget k\r\nquit\r\n")
        .unwrap();
    let mut answers = String::new();
    unix.read_to_string(&mut answers).unwrap();
    assert_eq!(
        answers,
        "VALUE k 0 4\r\nbeta\r\nEND\r\nSERVER_ERROR object too large for cache\r\nEND\r\n"
    );
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    alpha.send("flush_all\r\n");
    let refused = "SERVER_ERROR flush_all is not allowed here (flush_all: false)";
    assert_eq!(alpha.line(), refused);
    beta.send("set x 0 0 1\r\n1\r\nflush_all\r\nget x\r\n");
    assert_eq!(
        (beta.line(), beta.line()),
        ("STORED".to_owned(), "OK".to_owned())
    );
    assert_eq!(beta.got("x"), Got::Miss);
    assert_eq!(alpha.get("k"), Got::Hit(b"alpha".to_vec()));
}

#[test]
fn the_admin_listener_tells_what_goes_on() {
    let server = Scripted::start(Fault::None);
    let ketch = proxy(&server, "");
    let mut client = Client::connect(ketch.address());
    assert_eq!(client.set("k", b"x"), "STORED");
    assert_eq!(client.get("k"), Got::Hit(b"x".to_vec()));
    assert_eq!(client.get("nothing"), Got::Miss);
    assert_eq!(ketch.ask("/healthz"), (200, "ok\n".to_owned()));
    assert_eq!(ketch.ask("/readyz"), (200, "ready\n".to_owned()));
    assert_eq!(ketch.ask("/nowhere").0, 404);
    assert!(ketch.ask("/config").1.contains("stall_timeout: 10s"));
    let of_server = format!("server=\"{}\"", server.address);
    for (name, labels, value) in [
        ("ketch_pool_requests_total", "command=\"get\"", 2.0),
        ("ketch_pool_requests_total", "command=\"set\"", 1.0),
        ("ketch_server_requests_total", of_server.as_str(), 3.0),
        ("ketch_server_hits_total", &of_server, 1.0),
        ("ketch_server_misses_total", &of_server, 1.0),
        ("ketch_server_up", &of_server, 1.0),
        ("ketch_server_in_flight", &of_server, 0.0),
        ("ketch_client_sessions", "", 1.0),
        ("ketch_server_request_duration_seconds_count", "", 3.0),
        ("ketch_server_failures_total", "", 0.0),
    ] {
        assert_eq!(ketch.metric(name, labels), value, "{name} {labels}");
    }
    let (status, servers) = ketch.ask("/servers");
    assert_eq!(status, 200);
    let servers: serde_json::Value = serde_json::from_str(&servers).unwrap();
    let of_one = &servers["pools"][0]["servers"][0];
    assert_eq!(of_one["state"], "active");
    assert_eq!(of_one["requests"], 3);
    let (status, route) = ketch.ask("/route?key=user%3A1");
    assert_eq!(status, 200);
    let route: serde_json::Value = serde_json::from_str(&route).unwrap();
    assert_eq!(route["key"], "user:1");
    assert_eq!(route["server"], server.address.to_string());
    assert_eq!(ketch.ask("/route").0, 400);
}

#[test]
fn the_proxy_reports_itself_to_stats() {
    let server = Scripted::start(Fault::None);
    let ketch = proxy(&server, "");
    let mut client = Client::connect(ketch.address());
    assert_eq!(client.set("k", b"x"), "STORED");
    let mut report = |what: &str| {
        client.send(format!("{what}\r\n"));
        let mut lines = Vec::new();
        loop {
            let line = client.line();
            if line == "END" {
                return lines;
            }
            assert!(line.starts_with("STAT "), "{line}");
            lines.push(line);
        }
    };
    let general = report("stats");
    assert!(
        general.contains(&"STAT cmd_set 1".to_owned()),
        "{general:?}"
    );
    assert!(general.contains(&"STAT curr_connections 1".to_owned()));
    let pools = report("stats pools");
    assert!(
        pools.contains(&"STAT main:servers_active 1".to_owned()),
        "{pools:?}"
    );
    let servers = report("stats servers");
    let state = format!("STAT main:{}:state active", server.address);
    assert!(servers.contains(&state), "{servers:?}");
    assert!(report("stats items").is_empty());
}

#[test]
fn the_caches_of_embedded_servers_are_told_one_by_one() {
    let ketch = Ketch::start(
        "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\npools:\n  main:\n    embedded_memory: 8MiB\n    servers: [{address: embedded, name: near}, {address: embedded, name: far}, '127.0.0.1:1']\n",
    );
    let mut client = Client::connect(ketch.address());
    let mut stored = 0.0;
    for number in 0..300 {
        stored += f64::from(u8::from(
            client.set(&format!("k{number}"), b"v") == "STORED",
        ));
    }
    let number = |name: &str, labels: &str| ketch.metric(&format!("ketch_cache_{name}"), labels);
    assert!(stored > 100.0);
    assert_eq!(number("items", "pool=\"main\""), stored);
    for server in ["near", "far"] {
        let labels = format!("pool=\"main\",server=\"{server}\"");
        assert!(number("items", &labels) > 10.0, "{server}");
        assert_eq!(number("memory_max_bytes", &labels), f64::from(8 << 20));
    }
    assert_eq!(number("memory_max_bytes", ""), f64::from(16 << 20));
    let (_, servers) = ketch.ask("/servers");
    assert_eq!(
        servers.matches("\"memory_bytes_max\":8388608").count(),
        2,
        "{servers}"
    );
}
