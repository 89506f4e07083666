//! How servers are ejected, and how they come back.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use ketch::router::{Member, Placement, Settings};

use crate::client::{Client, Got};
use crate::ketch::Ketch;
use crate::now;
use crate::scripted::{Fault, Scripted};

/// How long something that must happen may take.
const DEADLINE: Duration = Duration::from_secs(20);

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

#[test]
fn a_server_that_is_back_is_trusted_step_by_step() {
    let server = Scripted::start(Fault::None);
    let ketch = proxy(&[&server], "ramp: 2s");
    let mut client = Client::connect(ketch.address());
    assert_eq!(client.set("a", b"1"), "STORED");
    let address = end(server, &ketch, "a");
    let server = Scripted::start_at(address, Fault::Holding);
    ketch.wait_for_log("server is back");
    assert!(ketch.ask("/servers").1.contains("\"state\":\"returning\""));
    // Sixty-four are let through, and more as it answers.
    let pipeline: String = (0..100).map(|at| format!("get k{at}\r\n")).collect();
    client.send(&pipeline);
    ketch.wait_for_metric("ketch_server_failures_total", "cause=\"ramp\"", 36.0);
    server.set(Fault::None);
    let text = "is coming back and takes few requests yet (ramp)";
    let error = format!("SERVER_ERROR {address} {text}");
    for at in 0..100 {
        let expected = if at < 64 {
            Got::Miss
        } else {
            Got::Error(error.clone())
        };
        assert_eq!(client.got(&format!("k{at}")), expected);
    }
    client.send(&pipeline);
    for at in 0..100 {
        assert_eq!(client.got(&format!("k{at}")), Got::Miss);
    }
    ketch.wait_for_log("server is trusted again");
    assert!(ketch.ask("/servers").1.contains("\"state\":\"active\""));
    let states = ["ejected", "returning", "active"].map(|state| entered(&ketch, state));
    assert_eq!(states, [1.0, 1.0, 1.0]);
    assert!(entered(&ketch, "probing") >= 1.0);
}

#[test]
fn one_failure_ejects_a_server_that_has_just_come_back() {
    let server = Scripted::start(Fault::None);
    let ketch = proxy(&[&server], "ramp: 1h");
    let mut client = Client::connect(ketch.address());
    assert_eq!(client.set("a", b"1"), "STORED");
    let address = end(server, &ketch, "a");
    let _server = Scripted::start_at(address, Fault::Silent);
    ketch.wait_for_log("server is back");
    let error = format!("SERVER_ERROR {address} timed out");
    assert_eq!(client.get("a"), Got::Error(error));
    ketch.wait_for_metric("ketch_server_ejections_total", "", 2.0);
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
