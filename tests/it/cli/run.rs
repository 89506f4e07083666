//! Running the proxy.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;

use rustix::process::Signal;

use super::{DEADLINE, Running, TempFile, ketch, output};

/// A server that has the value `there` under every key. Serves until the test
/// ends.
fn fake_memcached() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            thread::spawn(move || {
                let mut out = stream.try_clone().unwrap();
                for line in BufReader::new(stream).lines() {
                    let Ok(line) = line else { return };
                    let answer = match line.split_once(' ') {
                        Some((_, key)) => format!("VALUE {key} 0 5\r\nthere\r\nEND\r\n"),
                        None => "VERSION 1.6.0\r\n".to_owned(),
                    };
                    out.write_all(answer.as_bytes()).unwrap();
                }
            });
        }
    });
    port
}

fn start(config: &str) -> Running {
    Running::start(&mut ketch(&["proxy", "-c", config]))
}

fn ask(stream: &mut TcpStream, request: &str, answer: &str) {
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut got = vec![0; answer.len()];
    stream.read_exact(&mut got).unwrap();
    assert_eq!(String::from_utf8_lossy(&got), answer);
}

#[test]
fn the_proxy_serves_until_it_is_told_to_end() {
    for signal in [Signal::TERM, Signal::INT] {
        let server = fake_memcached();
        let file = TempFile::new(
            &format!("run-{}.yaml", signal.as_raw()),
            &format!(
                "listen: [127.0.0.1:0, 127.0.0.1:0]\nadmin: 127.0.0.1:0\nworkers: 2\n\
                 clients: {{connections_max: 100}}\n\
                 pools: {{main: {{servers: [127.0.0.1:{server}]}}}}\n"
            ),
        );
        let proxy = start(file.path());
        let admin = proxy.port();
        let ports = [proxy.port(), proxy.port()];
        proxy.line_with("ready");
        for port in ports {
            let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
            ask(&mut client, "get a\r\n", "VALUE a 0 5\r\nthere\r\nEND\r\n");
            let refused = "SERVER_ERROR flush_all is not allowed here (flush_all: false)\r\n";
            ask(&mut client, "flush_all\r\n", refused);
        }
        let mut client = TcpStream::connect(("127.0.0.1", admin)).unwrap();
        ask(
            &mut client,
            "GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n",
            "HTTP/1.1 200 OK\r\n",
        );
        assert_eq!(proxy.end(signal), 0);
    }
}

#[test]
fn the_bounds_of_clients_are_those_of_the_file() {
    let server = fake_memcached();
    let file = TempFile::new(
        "bounds.yaml",
        &format!(
            "listen: {{address: 127.0.0.1:0, value_bytes_max: 4B}}\nadmin: off\n\
             clients: {{connections_max: 1}}\n\
             pools: {{main: {{servers: [127.0.0.1:{server}]}}}}\n"
        ),
    );
    let proxy = start(file.path());
    let port = proxy.port();
    let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let too_large = "SERVER_ERROR object too large for cache\r\n";
    ask(&mut client, "set a 0 0 5\r\nabcde\r\n", too_large);
    let mut second = TcpStream::connect(("127.0.0.1", port)).unwrap();
    ask(&mut second, "", "ERROR Too many open connections\r\n");
    client.shutdown(Shutdown::Both).unwrap();
    assert_eq!(proxy.end(Signal::TERM), 0);
}

#[test]
fn a_log_of_json_has_an_object_in_each_line() {
    let file = TempFile::new(
        "json.yaml",
        "listen: 127.0.0.1:0\nadmin: off\nlog_format: json\n\
         pools: {main: {servers: [127.0.0.1:1]}}\n",
    );
    let proxy = start(file.path());
    let line = proxy.line_with("ready");
    let event: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(event["fields"]["message"], "ready");
    assert_eq!(proxy.end(Signal::TERM), 0);
}

#[test]
fn an_address_that_is_taken_is_told() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    for (listen, admin) in [(port, 0), (0, port)] {
        let file = TempFile::new(
            &format!("taken-{listen}.yaml"),
            &format!(
                "listen: 127.0.0.1:{listen}\nadmin: 127.0.0.1:{admin}\nlog: error\n\
                 pools: {{main: {{servers: [127.0.0.1:1]}}}}\n"
            ),
        );
        let (code, out, errors) = output(&["-c", file.path()]);
        assert_eq!((code, out.as_str()), (3, ""));
        let expected =
            format!("cannot listen on 127.0.0.1:{port}: Address already in use (os error 98)\n");
        assert_eq!(errors, expected);
    }
}

#[test]
fn a_bad_configuration_starts_nothing() {
    let file = TempFile::new("bad.yaml", "pools: {main: {servers: [127.0.0.1]}}");
    let (code, _, errors) = output(&["proxy", "--config", file.path()]);
    assert_eq!(code, 1);
    assert!(errors.contains(":1:26: pools.main.servers[0]: '127.0.0.1' has no port"));
}
