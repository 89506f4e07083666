//! Requests that meet the end of an idle connection.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::client::{Client, Got};
use crate::ketch::Ketch;
use crate::scripted::{Fault, Scripted};

/// A server that reads a request and closes instead of answering, on its first
/// so many connections that are asked something; those after them it serves.
fn closes_first(times: usize) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let closed = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&closed);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let count = Arc::clone(&count);
            thread::spawn(move || {
                let mut out = stream.unwrap();
                let reader = BufReader::new(out.try_clone().unwrap());
                for line in reader.lines().map_while(Result::ok) {
                    let words: Vec<_> = line.split(' ').collect();
                    let answer = match words[..] {
                        ["version"] => "VERSION 1.6.45\r\n".to_owned(),
                        _ if count.load(Ordering::SeqCst) < times => {
                            count.fetch_add(1, Ordering::SeqCst);
                            return;
                        }
                        ["get", key] => format!("VALUE {key} 0 1\r\nx\r\nEND\r\n"),
                        ["set", ..] => continue,
                        _ => "STORED\r\n".to_owned(),
                    };
                    if out.write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, closed)
}

fn proxy(server: SocketAddr, more: &str) -> Ketch {
    Ketch::start(&format!(
        "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\nworkers: 1\npools:\n  main:\n    {more}\n    servers: [{server}]\n"
    ))
}

fn retries(ketch: &Ketch) -> (f64, f64) {
    (
        ketch.metric("ketch_server_retries_total", ""),
        ketch.metric("ketch_server_retries_refused_total", ""),
    )
}

#[test]
fn a_get_that_meets_the_end_of_its_connection_is_sent_once_more() {
    let (server, closed) = closes_first(1);
    let ketch = proxy(server, "failures: 1");
    let mut client = Client::connect(ketch.address());
    // A pipeline is sent again as a whole, and answered in order.
    client.send("get a\r\nget b\r\nget c\r\n");
    for key in ["a", "b", "c"] {
        assert_eq!(client.got(key), Got::Hit(b"x".to_vec()));
    }
    assert_eq!(closed.load(Ordering::SeqCst), 1);
    assert_eq!(retries(&ketch), (3.0, 0.0));
    // Nobody was to blame.
    assert_eq!(ketch.metric("ketch_server_ejections_total", ""), 0.0);
}

#[test]
fn what_may_not_be_done_twice_fails_and_the_rest_does_not() {
    let (server, _) = closes_first(1);
    let ketch = proxy(server, "");
    let mut client = Client::connect(ketch.address());
    client.send("get a\r\nset b 0 0 1\r\nb\r\nget c\r\n");
    assert_eq!(client.got("a"), Got::Hit(b"x".to_vec()));
    assert_eq!(
        client.line(),
        format!("SERVER_ERROR {server} closed the connection")
    );
    assert_eq!(client.got("c"), Got::Hit(b"x".to_vec()));
    assert_eq!(retries(&ketch), (2.0, 0.0));
    assert_eq!(client.set("b", b"b"), "STORED");
}

#[test]
fn a_request_is_sent_no_more_than_twice() {
    let (server, closed) = closes_first(2);
    let ketch = proxy(server, "failures: 9");
    let mut client = Client::connect(ketch.address());
    let error = format!("SERVER_ERROR {server} closed the connection");
    assert_eq!(client.get("a"), Got::Error(error));
    assert_eq!(closed.load(Ordering::SeqCst), 2);
    assert_eq!(client.get("a"), Got::Hit(b"x".to_vec()));
}

#[test]
fn without_a_budget_nothing_is_sent_again() {
    let (server, _) = closes_first(1);
    let ketch = proxy(server, "retries: 0%");
    let mut client = Client::connect(ketch.address());
    let error = format!("SERVER_ERROR {server} closed the connection");
    assert_eq!(client.get("a"), Got::Error(error));
    assert_eq!(retries(&ketch), (0.0, 0.0));
}

#[test]
fn no_more_than_the_budget_is_sent_again() {
    let (server, _) = closes_first(1);
    let ketch = proxy(server, "retries: 1%");
    let mut client = Client::connect(ketch.address());
    let pipeline: String = (0..100).map(|at| format!("get k{at}\r\n")).collect();
    client.send(pipeline);
    let hits = (0..100).filter(|at| {
        let got = client.got(&format!("k{at}"));
        got == Got::Hit(b"x".to_vec())
    });
    assert_eq!(hits.count(), 32);
    assert_eq!(retries(&ketch), (32.0, 68.0));
}

#[test]
fn a_server_that_closes_idle_connections_costs_nobody_anything() {
    let server = Scripted::start(Fault::None);
    let ketch = proxy(server.address, "failures: 1");
    let mut client = Client::connect(ketch.address());
    assert_eq!(client.set("a", b"1"), "STORED");
    for _ in 0..200 {
        // The request may be on its way already, or not.
        server.close_connections();
        assert_eq!(client.get("a"), Got::Hit(b"1".to_vec()));
    }
    assert_eq!(ketch.metric("ketch_server_ejections_total", ""), 0.0);
    assert_eq!(ketch.metric("ketch_failures_told_total", ""), 0.0);
}
