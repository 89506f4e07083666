//! How servers are ejected, and how they come back.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use ketch::router::{Member, Placement, Settings};

use crate::client::{Client, Got};
use crate::ketch::Ketch;
use crate::now;
use crate::scripted::{Fault, Scripted};

/// How long these proxies wait for a server, if a test does not say otherwise.
const TIMEOUT: Duration = Duration::from_millis(300);

/// How long something that must happen may take.
const DEADLINE: Duration = Duration::from_secs(20);
/// How long it takes to believe that nothing comes: less than the time-out.
const NOTHING: Duration = Duration::from_millis(30);

fn proxy(servers: &[&Scripted], more: &str) -> Ketch {
    let mut list = String::new();
    for server in servers {
        writeln!(list, "      - {}", server.address).unwrap();
    }
    Ketch::start(&format!(
        "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\nworkers: 1\npools:\n  main:\n    probe_first: 20ms\n    probe_max: 40ms\n    timeout: 300ms\n    {more}\n    servers:\n{list}"
    ))
}

/// A key on each of the servers.
fn keys(servers: &[&Scripted]) -> Vec<String> {
    let member = |server: &&Scripted| {
        Member::new(server.address.ip().to_string(), Some(server.address.port()))
    };
    let members: Vec<_> = servers.iter().map(member).collect();
    let (placement, _) = Placement::new(&Settings::default(), &members).unwrap();
    let key_of = |place: usize| {
        let mut keys = (0..).map(|number| format!("k{number}"));
        keys.find(|key| placement.pick(key.as_bytes()) == place)
            .unwrap()
    };
    (0..servers.len()).map(key_of).collect()
}

/// How often a server came into a state.
fn entered(ketch: &Ketch, state: &str) -> f64 {
    let label = format!("state=\"{state}\"");
    ketch.metric("ketch_server_state_changes_total", &label)
}

/// Ends a server and waits until it is ejected.
fn end(server: Scripted, ketch: &Ketch, key: &str) -> SocketAddr {
    let address = server.address;
    server.close_connections();
    drop(server);
    let mut client = Client::connect(ketch.address());
    let ejected = format!("SERVER_ERROR {address} is ejected");
    let deadline = now() + DEADLINE;
    while client.get(key) != Got::Error(ejected.clone()) {
        assert!(now() < deadline, "not ejected: {:#?}", ketch.log_lines());
    }
    address
}

/// Accepts a connection and answers so many requests of one line on it, the first
/// of which is `version`.
fn accept(listener: &TcpListener, requests: usize) -> BufReader<TcpStream> {
    let mut stream = BufReader::new(listener.accept().unwrap().0);
    for at in 0..requests {
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        let is_version = line == "version\r\n";
        assert_eq!(is_version, at == 0, "{line:?}");
        let answer = if is_version {
            "VERSION 1.6.45\r\n"
        } else {
            "END\r\n"
        };
        stream.get_mut().write_all(answer.as_bytes()).unwrap();
    }
    stream
}

/// Reads `count` lines, and sees that no more are there for now.
fn read_lines(stream: &mut BufReader<TcpStream>, count: usize) {
    let mut line = String::new();
    for at in 0..count {
        line.clear();
        assert!(stream.read_line(&mut line).unwrap() > 0, "{at}");
        assert!(line.starts_with("get k"), "{line:?}");
    }
    assert_eq!(stream.buffer(), b"");
    stream.get_ref().set_read_timeout(Some(NOTHING)).unwrap();
    let more = stream.fill_buf().map(<[u8]>::len);
    assert!(more.is_err(), "{more:?} bytes more");
    stream.get_ref().set_read_timeout(Some(DEADLINE)).unwrap();
}

/// A proxy whose only server has ended and come back, a client of it, and what
/// listens in the server's place: it has been asked as a client would, and is next
/// asked by clients.
fn on_probation(pool: &str) -> (Ketch, Client, TcpListener) {
    let server = Scripted::start(Fault::None);
    let ketch = proxy(&[&server], pool);
    let mut client = Client::connect(ketch.address());
    assert_eq!(client.set("a", b"1"), "STORED");
    let address = end(server, &ketch, "a");
    let server = TcpListener::bind(address).unwrap();
    drop(accept(&server, 2));
    ketch.wait_for_log("server is back");
    (ketch, client, server)
}

#[test]
fn a_server_that_is_back_is_trusted_step_by_step() {
    let (ketch, mut client, server) = on_probation("ramp: 2s");
    assert!(ketch.ask("/servers").1.contains("\"state\":\"returning\""));
    // Sixty-four are let through, and one more for each that is answered. Nobody
    // is told anything of it.
    let pipeline: String = (0..100).map(|at| format!("get k{at}\r\n")).collect();
    client.send(&pipeline);
    let mut server = accept(&server, 1);
    read_lines(&mut server, 64);
    server.get_mut().write_all(b"END\r\n").unwrap();
    read_lines(&mut server, 2);
    server.get_mut().write_all(&b"END\r\n".repeat(10)).unwrap();
    read_lines(&mut server, 20);
    server.get_mut().write_all(&b"END\r\n".repeat(75)).unwrap();
    read_lines(&mut server, 14);
    server.get_mut().write_all(&b"END\r\n".repeat(14)).unwrap();
    for at in 0..100 {
        assert_eq!(client.got(&format!("k{at}")), Got::Miss);
    }
    ketch.wait_for_log("server is trusted again");
    client.send(&pipeline);
    read_lines(&mut server, 100);
    server.get_mut().write_all(&b"END\r\n".repeat(100)).unwrap();
    assert_eq!(client.got("k0"), Got::Miss);
    assert!(ketch.ask("/servers").1.contains("\"state\":\"active\""));
    let states = ["ejected", "returning", "active"].map(|state| entered(&ketch, state));
    assert_eq!(states, [1.0, 1.0, 1.0]);
    assert!(entered(&ketch, "probing") >= 1.0);
}

#[test]
fn what_waits_for_a_server_on_probation_fails_when_that_fails() {
    let (_ketch, mut client, server) = on_probation("ramp: 1h");
    let address = server.local_addr().unwrap();
    let get = |at: usize| format!("get k{at}\r\n");
    client.send((0..64).map(get).collect::<String>());
    let mut server = accept(&server, 1);
    read_lines(&mut server, 64);
    // These have some time left when those fail.
    let asked = now();
    client.send((64..100).map(get).collect::<String>());
    read_lines(&mut server, 0);
    let told = |cause: &str| Got::Error(format!("SERVER_ERROR {address} {cause}"));
    for at in 0..100 {
        let got = client.got(&format!("k{at}"));
        // On a busy machine those may have had their time, too.
        if at < 64 || asked.elapsed() >= TIMEOUT && got == told("timed out") {
            assert_eq!(got, told("timed out"), "{at}");
        } else {
            assert_eq!(got, told("is ejected"), "{at}");
        }
    }
}

#[test]
fn one_failure_ejects_a_server_that_has_just_come_back() {
    let (ketch, mut client, server) = on_probation("ramp: 1h");
    let address = server.local_addr().unwrap();
    client.send("get a\r\n");
    let _server = accept(&server, 1);
    let error = format!("SERVER_ERROR {address} timed out");
    assert_eq!(client.got("a"), Got::Error(error));
    ketch.wait_for_metric("ketch_server_ejections_total", "", 2.0);
}

#[test]
fn probes_come_at_their_times_however_long_they_wait_for_answers() {
    let server = Scripted::start(Fault::None);
    let ketch = Ketch::start(&format!(
        "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\nworkers: 1\npools:\n  main:\n    connect_timeout: 300ms\n    probe_first: 600ms\n    probe_max: 600ms\n    servers: [{}]\n",
        server.address
    ));
    let address = end(server, &ketch, "a");
    let server = TcpListener::bind(address).unwrap();
    let mut silent = Vec::new();
    let mut times = Vec::new();
    for _ in 0..4 {
        silent.push(server.accept().unwrap());
        times.push(now());
    }
    let between = times.windows(2).map(|pair| pair[1] - pair[0]);
    let shortest = between.min().unwrap();
    assert!(shortest < Duration::from_millis(850), "{shortest:?}");
}

#[test]
fn no_more_servers_than_their_share_are_ejected() {
    let servers = [Scripted::start(Fault::None), Scripted::start(Fault::None)];
    let all: Vec<_> = servers.iter().collect();
    let ketch = proxy(&all, "eject_max: 50%");
    let keys = keys(&all);
    let [first, second] = servers;
    end(first, &ketch, &keys[0]);
    let address = second.address;
    second.close_connections();
    drop(second);
    let mut client = Client::connect(ketch.address());
    let deadline = now() + DEADLINE;
    let refused = format!("SERVER_ERROR {address} refused the connection");
    while client.get(&keys[1]) != Got::Error(refused.clone()) {
        assert!(now() < deadline);
    }
    assert!(ketch.metric("ketch_server_ejections_withheld_total", "") >= 1.0);
    assert_eq!(ketch.metric("ketch_server_ejections_total", ""), 1.0);
    // It is asked as soon as it is back: no probe has to find out.
    let _second = Scripted::start_at(address, Fault::None);
    while client.get(&keys[1]) != Got::Miss {
        assert!(now() < deadline);
    }
}

#[test]
fn a_server_that_is_much_slower_than_the_others_is_ejected() {
    let servers: Vec<_> = (0..3).map(|_| Scripted::start(Fault::None)).collect();
    let all: Vec<_> = servers.iter().collect();
    let ketch = proxy(&all, "slow_after: 4");
    let keys = keys(&all);
    servers[2].set(Fault::Slow);
    let mut client = Client::connect(ketch.address());
    let ejected = format!("SERVER_ERROR {} is ejected", servers[2].address);
    let deadline = now() + DEADLINE;
    loop {
        assert!(now() < deadline, "not ejected");
        assert_eq!(client.get(&keys[0]), Got::Miss);
        assert_eq!(client.get(&keys[1]), Got::Miss);
        match client.get(&keys[2]) {
            Got::Error(error) => {
                assert_eq!(error, ejected);
                break;
            }
            other => assert_eq!(other, Got::Miss),
        }
        thread::yield_now();
    }
    assert!(ketch.ask("/servers").1.contains("\"ejected_for\":\"slow\""));
}
