//! Binary clients of a proxy whose servers misbehave, do not speak binary, or are
//! gone.

use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use crate::client::{Client, Got};
use crate::ketch::Ketch;
use crate::peer::Peer;
use crate::scripted::{Fault, Scripted};

const GET: u8 = 0x00;
const SET: u8 = 0x01;
const NOOP: u8 = 0x0a;
const VERSION: u8 = 0x0b;
const GETKQ: u8 = 0x0d;
const APPEND: u8 = 0x0e;

const OK: u16 = 0;
const NOT_FOUND: u16 = 1;
const TEMPORARY_FAILURE: u16 = 0x86;

/// How long an answer may take before a test fails.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// A frame that has been read.
#[derive(Debug, PartialEq, Eq)]
struct Frame {
    opcode: u8,
    status: u16,
    opaque: u32,
    key: Vec<u8>,
    value: Vec<u8>,
}

/// Reads a frame; `None` at the end of the stream.
fn read(stream: &mut impl Read) -> Option<Frame> {
    let mut head = [0; 24];
    stream.read_exact(&mut head).ok()?;
    let number = |at: usize, len: usize| {
        let bytes = head[at..at + len].iter();
        bytes.fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte))
    };
    let (key_len, extras_len) = (number(2, 2), number(4, 1));
    let mut body = vec![0; number(8, 4)];
    stream.read_exact(&mut body).unwrap();
    let value = body.split_off(extras_len + key_len);
    Some(Frame {
        opcode: head[1],
        status: u16::try_from(number(6, 2)).unwrap(),
        opaque: u32::try_from(number(12, 4)).unwrap(),
        key: body.split_off(extras_len),
        value,
    })
}

/// The bytes of a frame.
fn frame(magic: u8, opcode: u8, opaque: u32, extras: &[u8], key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![magic, opcode];
    bytes.extend(u16::try_from(key.len()).unwrap().to_be_bytes());
    bytes.extend([u8::try_from(extras.len()).unwrap(), 0, 0, 0]);
    let body = extras.len() + key.len() + value.len();
    bytes.extend(u32::try_from(body).unwrap().to_be_bytes());
    bytes.extend(opaque.to_be_bytes());
    bytes.extend([0; 8]);
    bytes.extend([extras, key, value].concat());
    bytes
}

struct Binary {
    stream: BufReader<TcpStream>,
}

impl Binary {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(ANSWER_MAX)).unwrap();
        Self {
            stream: BufReader::new(stream),
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).unwrap();
    }

    fn ask(&mut self, opcode: u8, key: &[u8]) -> Frame {
        self.send(&frame(0x80, opcode, 7, b"", key, b""));
        self.next()
    }

    fn next(&mut self) -> Frame {
        read(&mut self.stream).unwrap()
    }

    fn set(&mut self, key: &str) {
        let value = format!("of {key}");
        self.send(&frame(
            0x80,
            SET,
            7,
            &[0; 8],
            key.as_bytes(),
            value.as_bytes(),
        ));
        assert_eq!(self.next().status, OK, "{key}");
    }
}

/// A server that answers `version` in both dialects, and any `get` with a miss
/// whose opaque is too large by what is asked of it.
fn shifting_server(by: Arc<AtomicU32>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let by = Arc::clone(&by);
            // Ends with its connection, and that with the proxy.
            thread::spawn(move || {
                let mut writer = stream.try_clone().unwrap();
                let mut first = [0];
                while stream.peek(&mut first).is_ok_and(|len| len == 1) {
                    if first[0] == b'v' {
                        let mut hello = [0; 9];
                        (&stream).read_exact(&mut hello).unwrap();
                        writer.write_all(b"VERSION 1.6.45\r\n").unwrap();
                        continue;
                    }
                    let Some(asked) = read(&mut &stream) else {
                        return;
                    };
                    let answer = match asked.opcode {
                        VERSION => frame(0x81, VERSION, asked.opaque, b"", b"", b"1.6.45"),
                        opcode => {
                            let opaque = asked.opaque.wrapping_add(by.load(Ordering::SeqCst));
                            let mut miss = frame(0x81, opcode, opaque, b"", b"", b"Not found");
                            miss[7] = 1;
                            miss
                        }
                    };
                    // The proxy may have given up on the connection.
                    if writer.write_all(&answer).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[test]
fn a_response_to_another_request_closes_the_connection() {
    let by = Arc::new(AtomicU32::new(1));
    let server = shifting_server(Arc::clone(&by));
    let proxy = Ketch::start(&format!(
        "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\nworkers: 1\npools: {{main: {{servers: ['{server}']}}}}\n"
    ));
    let mut client = Binary::connect(proxy.address());
    let answer = client.ask(GET, b"k");
    assert_eq!((answer.status, answer.opaque), (TEMPORARY_FAILURE, 7));
    let text = String::from_utf8(answer.value).unwrap();
    assert_eq!(text, format!("{server} broke the protocol"));
    by.store(0, Ordering::SeqCst);
    assert_eq!(client.ask(GET, b"k").status, NOT_FOUND);
    assert_eq!(
        proxy.metric("ketch_server_failures_total", "cause=\"protocol\""),
        1.0
    );
    // One in text, and two in binary.
    assert_eq!(proxy.metric("ketch_server_connects_total", ""), 3.0);
}

#[test]
fn a_server_that_does_not_speak_binary_is_not_ejected_for_it() {
    let server = Scripted::start(Fault::None);
    let proxy = Ketch::start(&format!(
        "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\nworkers: 1\npools:\n  main:\n    timeout: 5s\n    connect_timeout: 100ms\n    failures: 1\n    servers: ['{}']\n",
        server.address
    ));
    let mut text = Client::connect(proxy.address());
    assert_eq!(text.set("k", b"v"), "STORED");
    let mut binary = Binary::connect(proxy.address());
    for _ in 0..3 {
        let answer = binary.ask(GET, b"k");
        assert_eq!(answer.status, TEMPORARY_FAILURE);
        let told = String::from_utf8(answer.value).unwrap();
        assert!(
            told.contains("does not speak the binary protocol"),
            "{told}"
        );
    }
    assert_eq!(text.get("k"), Got::Hit(b"v".to_vec()));
    assert_eq!(proxy.metric("ketch_server_up", ""), 1.0);
    assert_eq!(proxy.metric("ketch_server_ejections_total", ""), 0.0);
}

#[test]
fn binary_connections_are_made_for_binary_clients_only() {
    let Some(peer) = Peer::start(&[]) else {
        return;
    };
    let proxy = Ketch::start(&format!(
        "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\nworkers: 1\npools: {{main: {{servers: ['{}']}}}}\n",
        peer.target().address
    ));
    let mut text = Client::connect(proxy.address());
    assert_eq!(text.set("k", b"v"), "STORED");
    assert_eq!(proxy.metric("ketch_server_connects_total", ""), 1.0);
    let mut binary = Binary::connect(proxy.address());
    assert_eq!(binary.ask(GET, b"k").value, b"v");
    assert_eq!(proxy.metric("ketch_server_connects_total", ""), 2.0);
    for (command, protocol) in [("set", "text"), ("get", "binary")] {
        let labels = format!("command=\"{command}\",protocol=\"{protocol}\"");
        assert_eq!(proxy.metric("ketch_pool_requests_total", &labels), 1.0);
    }
}

#[test]
fn a_run_over_a_dead_server_answers_what_the_others_have() {
    let Some(peer) = Peer::start(&[]) else {
        return;
    };
    // Refuses connections: nobody has listened there since.
    let gone = TcpListener::bind("127.0.0.1:0").unwrap();
    let dead = gone.local_addr().unwrap();
    drop(gone);
    let alive = peer.target().address;
    let start = |miss: &str, protocol: &str| {
        Ketch::start(&format!(
            "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\nworkers: 1\npools:\n  main:\n    miss_on_error: {miss}\n    server_protocol: {protocol}\n    servers: ['{alive}', '{dead}']\n"
        ))
    };
    for protocol in ["as_client", "meta"] {
        let proxy = start("multiget", protocol);
        let mut client = Binary::connect(proxy.address());
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        for number in 0..30 {
            // The number first: what follows a difference scatters the keys.
            let key = format!("{number}:{protocol}");
            let answer = client.ask(GET, key.as_bytes());
            match answer.status {
                NOT_FOUND => good.push(key),
                status => {
                    assert_eq!(status, TEMPORARY_FAILURE);
                    bad.push(key);
                }
            }
        }
        assert!(!good.is_empty() && !bad.is_empty());
        good.iter().for_each(|key| client.set(key));
        let keys: Vec<_> = good.iter().chain(&bad).collect();
        let ask = |client: &mut Binary| {
            let mut run = Vec::new();
            for (number, key) in (0..).zip(&keys) {
                run.extend(frame(0x80, GETKQ, number, b"", key.as_bytes(), b""));
            }
            run.extend(frame(0x80, NOOP, 1000, b"", b"", b""));
            client.send(&run);
            for (number, key) in (0..).zip(&good) {
                let hit = client.next();
                assert_eq!((hit.opcode, hit.status, hit.opaque), (GETKQ, OK, number));
                assert_eq!(hit.key, key.as_bytes());
                assert_eq!(hit.value, format!("of {key}").as_bytes());
            }
        };
        ask(&mut client);
        assert_eq!(client.next().opcode, NOOP);
        let masked = f64::from(u32::try_from(bad.len()).unwrap());
        assert_eq!(proxy.metric("ketch_failures_masked_total", ""), masked);

        let proxy = start("never", protocol);
        let mut client = Binary::connect(proxy.address());
        ask(&mut client);
        for _ in &bad {
            let told = client.next();
            assert_eq!((told.opcode, told.status), (GETKQ, TEMPORARY_FAILURE));
        }
        assert_eq!(client.next().opcode, NOOP);
    }
}

#[test]
fn the_keys_of_a_server_that_is_away_are_asked_for_where_they_are_now() {
    let Some(peer) = Peer::start(&[]) else {
        return;
    };
    let gone = TcpListener::bind("127.0.0.1:0").unwrap();
    let (alive, dead) = (peer.target().address, gone.local_addr().unwrap());
    drop(gone);
    for protocol in ["as_client", "meta"] {
        let proxy = Ketch::start(&format!(
            "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\nworkers: 1\npools:\n  main:\n    on_eject: remap\n    server_protocol: {protocol}\n    servers: ['{alive}', '{dead}']\n"
        ));
        let name = |number: u32| format!("{number}:{protocol}");
        // Of an earlier time.
        for number in 0..30 {
            let stored = Client::connect(alive).set(&name(number), b"stale");
            assert_eq!(stored, "STORED");
        }
        proxy.wait_for_log("server ejected");
        let mut client = Binary::connect(proxy.address());
        let is_moved = |number: &u32| {
            let (_, route) = proxy.ask(&format!("/route?key={}", name(*number)));
            route.contains(&format!("\"stand_in\":\"{alive}\""))
        };
        let moved: Vec<_> = (0..30).filter(is_moved).map(name).collect();
        assert!(!moved.is_empty() && moved.len() < 30);
        let run = |client: &mut Binary| {
            let mut run = Vec::new();
            for (number, key) in (0..).zip(&moved) {
                run.extend(frame(0x80, GETKQ, number, b"", key.as_bytes(), b""));
            }
            run.extend(frame(0x80, NOOP, 1000, b"", b"", b""));
            client.send(&run);
        };
        for key in &moved {
            assert_eq!(client.ask(GET, key.as_bytes()).status, NOT_FOUND);
        }
        run(&mut client);
        assert_eq!(client.next().opcode, NOOP);
        let append = frame(0x80, APPEND, 7, b"", moved[0].as_bytes(), b"x");
        client.send(&append);
        assert_eq!(client.next().status, TEMPORARY_FAILURE);
        moved.iter().for_each(|key| client.set(key));
        client.send(&append);
        assert_eq!(client.next().status, OK);
        for key in &moved[1..] {
            let got = client.ask(GET, key.as_bytes());
            assert_eq!(got.value, format!("of {key}").as_bytes());
        }
        run(&mut client);
        let first = client.next();
        assert_eq!(first.value, format!("of {}x", moved[0]).as_bytes());
        for key in &moved[1..] {
            assert_eq!(client.next().value, format!("of {key}").as_bytes());
        }
        assert_eq!(client.next().opcode, NOOP);
    }
}

#[test]
fn a_listener_takes_what_it_is_told_to() {
    let proxy = Ketch::start(
        "listen:\n  - {address: '127.0.0.1:0', protocol: text}\n  - {address: '127.0.0.1:0', protocol: binary}\nadmin: off\npools: {main: {servers: [embedded]}}\n",
    );
    let mut text = Client::connect(proxy.listeners[0]);
    text.send([&frame(0x80, GET, 0, b"", b"k", b"")[..], b"\r\n"].concat());
    assert_eq!(text.line(), "ERROR");
    assert_eq!(text.get("k"), Got::Miss);
    let mut binary = Binary::connect(proxy.listeners[1]);
    assert_eq!(binary.ask(NOOP, b"").opcode, NOOP);
    let mut binary = Binary::connect(proxy.listeners[1]);
    binary.send(b"get k\r\n");
    assert_eq!(read(&mut binary.stream), None);
}
