//! Proxies that are told to end, and others that take their place.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use socket2::{Domain, Socket, Type};

use crate::client::{Client, Got};
use crate::ketch::Ketch;
use crate::now;
use crate::peer::show;
use crate::scripted::{Fault, Scripted};

/// How long something that must happen may take.
const DEADLINE: Duration = Duration::from_secs(20);

/// Proxies that take each other's place under load.
const RESTARTS: usize = 4;

fn config(server: &Scripted, more: &str) -> String {
    format!(
        "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\nworkers: 2\n{more}pools:\n  main:\n    timeout: 10s\n    stall_timeout: 10s\n    servers: [{}]\n",
        server.address
    )
}

/// Waits until nobody listens at `address` any more.
fn wait_until_refused(address: SocketAddr) {
    let deadline = now() + DEADLINE;
    while TcpStream::connect(address).is_ok() {
        assert!(now() < deadline, "still listening");
        thread::yield_now();
    }
}

#[test]
fn what_is_in_flight_is_finished_and_nobody_is_taken_any_more() {
    for by_signal in [true, false] {
        let server = Scripted::start(Fault::Holding);
        let mut ketch = Ketch::start(&config(&server, ""));
        let address = ketch.address();
        let mut idle = Client::connect(address);
        let mut client = Client::connect(address);
        client.send("set a 0 0 1\r\n1\r\nget a\r\n");
        ketch.wait_for_metric("ketch_server_in_flight", "", 2.0);
        assert_eq!(ketch.ask("/readyz").0, 200);
        if by_signal {
            ketch.signal(Signal::TERM);
            ketch.wait_for_log("ending");
        } else {
            assert_eq!(ketch.post("/drain"), (200, "draining\n".to_owned()));
        }
        wait_until_refused(address);
        assert_eq!(ketch.ask("/readyz").0, 503);
        assert_eq!(ketch.metric("ketch_ready", ""), 0.0);
        assert_eq!(ketch.post("/reload"), (409, "draining\n".to_owned()));
        idle.expect_end();
        // Whoever is still waiting may still ask.
        client.send("get a\r\n");
        server.set(Fault::None);
        assert_eq!(client.line(), "STORED");
        assert_eq!(client.got("a"), Got::Hit(b"1".to_vec()));
        assert_eq!(client.got("a"), Got::Hit(b"1".to_vec()));
        client.expect_end();
        assert_eq!(ketch.wait(), Some(0));
    }
}

#[test]
fn a_client_in_the_middle_of_a_value_may_finish_it() {
    let server = Scripted::start(Fault::None);
    let mut ketch = Ketch::start(&config(&server, "drain_timeout: 1h\n"));
    let mut client = Client::connect(ketch.address());
    client.send("set a 0 0 20000\r\n");
    ketch.wait_for_metric("ketch_client_sessions", "", 1.0);
    ketch.signal(Signal::TERM);
    wait_until_refused(ketch.address());
    client.send([&[b'x'; 20_000][..], b"\r\n"].concat());
    assert_eq!(client.line(), "STORED");
    client.expect_end();
    assert_eq!(ketch.wait(), Some(0));
}

#[test]
fn what_never_ends_is_cut_off_in_time() {
    let server = Scripted::start(Fault::Silent);
    let mut ketch = Ketch::start(&config(&server, "drain_timeout: 500ms\n"));
    let mut client = Client::connect(ketch.address());
    client.send("get a\r\n");
    ketch.wait_for_metric("ketch_server_in_flight", "", 1.0);
    let start = now();
    ketch.signal(Signal::TERM);
    assert_eq!(ketch.wait(), Some(0));
    let took = start.elapsed();
    assert!(
        took >= Duration::from_millis(500) && took < Duration::from_secs(5),
        "{took:?}"
    );
    ketch.wait_for_log("drain_timeout is over: clients are cut off");
}

#[test]
fn a_second_signal_ends_at_once() {
    let server = Scripted::start(Fault::Silent);
    let mut ketch = Ketch::start(&config(&server, "drain_timeout: 1h\n"));
    let mut client = Client::connect(ketch.address());
    client.send("get a\r\n");
    ketch.wait_for_metric("ketch_server_in_flight", "", 1.0);
    ketch.signal(Signal::TERM);
    wait_until_refused(ketch.address());
    ketch.signal(Signal::TERM);
    assert_eq!(ketch.wait(), Some(0));
    ketch.wait_for_log("told again: ending at once");
}

#[test]
fn a_client_that_never_pauses_is_closed_between_two_requests() {
    let server = Scripted::start(Fault::None);
    let mut ketch = Ketch::start(&config(&server, "drain_timeout: 1s\n"));
    let mut client = Client::connect(ketch.address());
    assert_eq!(client.set("a", b"1"), "STORED");
    ketch.signal(Signal::TERM);
    let mut stream = client.sender();
    let answer = b"VALUE a 0 1\r\n1\r\nEND\r\n";
    let mut rounds = 0_u64;
    loop {
        match ask_whole(&mut stream, b"get a\r\n", answer.len()) {
            Ok(Some(got)) => assert_eq!(got, answer),
            Ok(None) => break,
            Err(error) => unreachable!("{error}"),
        }
        rounds += 1;
    }
    assert!(rounds > 100, "{rounds}");
    assert_eq!(ketch.wait(), Some(0));
}

/// Sends and reads an answer of this length. `None` if the connection was closed
/// before its first byte; a part of an answer is a failure.
fn ask_whole(stream: &mut TcpStream, request: &[u8], len: usize) -> io::Result<Option<Vec<u8>>> {
    let mut answer = vec![0; len];
    let mut got = 0;
    let closed = |error: &io::Error| {
        matches!(
            error.kind(),
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
        )
    };
    match stream.write_all(request) {
        Err(error) if closed(&error) => return Ok(None),
        sent => sent?,
    }
    while got < len {
        match stream.read(&mut answer[got..]) {
            Ok(0) if got == 0 => return Ok(None),
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => got += count,
            Err(error) if got == 0 && closed(&error) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Ok(Some(answer))
}

/// What clients have seen.
#[derive(Debug, Default)]
struct Seen {
    answered: AtomicU64,
    connected: AtomicU64,
    /// Requests that met the end of their connection.
    met_the_end: AtomicU64,
}

impl Seen {
    fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::SeqCst)
    }
}

/// How a client behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Habit {
    /// It asks without a pause, and connects anew when it is closed.
    Busy,
    /// It pauses for longer than a drain waits, between requests.
    Calm,
    /// It connects for every few requests.
    Fleeting,
}

/// A client that asks until `stop` ends. No connection may be refused, and no
/// answer be wrong or cut.
fn run(address: SocketAddr, habit: Habit, stop: &Receiver<()>, seen: &Seen) {
    let pause = match habit {
        Habit::Busy => Duration::ZERO,
        Habit::Calm => Duration::from_millis(250),
        Habit::Fleeting => Duration::from_millis(2),
    };
    let connect = || {
        seen.connected.fetch_add(1, Ordering::SeqCst);
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    };
    let mut stream = connect();
    let answer = b"VALUE a 0 1\r\n1\r\nEND\r\n";
    let mut asked = 0;
    loop {
        match stop.recv_timeout(pause) {
            Err(RecvTimeoutError::Timeout) => {}
            _ => return,
        }
        // As connection pools do before they lend one.
        stream.set_nonblocking(true).unwrap();
        let closed = matches!(stream.peek(&mut [0]), Ok(0));
        stream.set_nonblocking(false).unwrap();
        if closed || (habit == Habit::Fleeting && asked == 3) {
            stream = connect();
            asked = 0;
        }
        asked += 1;
        let mut got = ask_whole(&mut stream, b"get a\r\n", answer.len()).unwrap();
        if got.is_none() {
            seen.met_the_end.fetch_add(1, Ordering::SeqCst);
            assert_eq!(habit, Habit::Busy, "only who never pauses is closed so");
            stream = connect();
            got = ask_whole(&mut stream, b"get a\r\n", answer.len()).unwrap();
        }
        assert_eq!(got.as_deref(), Some(&answer[..]));
        seen.answered.fetch_add(1, Ordering::SeqCst);
    }
}

/// Has proxies take each other's place while clients ask. `start` starts the
/// next one.
fn restart_under_load(address: SocketAddr, server: &Scripted, start: impl Fn() -> Ketch) {
    let mut ketch = start();
    assert_eq!(Client::connect(address).set("a", b"1"), "STORED");
    assert_eq!(server.value(b"a"), Some(b"1".to_vec()));
    let habits = [
        Habit::Busy,
        Habit::Busy,
        Habit::Calm,
        Habit::Calm,
        Habit::Fleeting,
    ];
    let seen = habits.map(|_| Seen::default());
    let failed = AtomicBool::new(false);
    thread::scope(|scope| {
        let mut stops = Vec::new();
        let clients: Vec<_> = habits
            .into_iter()
            .zip(&seen)
            .map(|(habit, seen)| {
                let (stop, stopped) = mpsc::sync_channel(1);
                stops.push(stop);
                scope.spawn(move || run(address, habit, &stopped, seen))
            })
            .collect();
        let sum = |seen: &[Seen]| {
            seen.iter()
                .map(|seen| Seen::get(&seen.answered))
                .sum::<u64>()
        };
        for _ in 0..RESTARTS {
            let next = start();
            ketch.signal(Signal::TERM);
            assert_eq!(ketch.wait(), Some(0), "{:#?}", ketch.log_lines());
            ketch = next;
            // The next one has some work before it goes too.
            let enough = sum(&seen) + 500;
            while sum(&seen) < enough {
                if clients.iter().any(|client| client.is_finished()) {
                    failed.store(true, Ordering::SeqCst);
                    break;
                }
                thread::yield_now();
            }
        }
        drop(stops);
        clients
            .into_iter()
            .for_each(|client| client.join().unwrap());
    });
    assert!(!failed.load(Ordering::SeqCst));
    for (habit, seen) in habits.iter().zip(&seen) {
        show(&format!("{habit:?}: {seen:?}"));
        let met = Seen::get(&seen.met_the_end);
        assert!(met <= RESTARTS as u64, "{habit:?}: {seen:?}");
    }
}

#[test]
fn proxies_that_share_a_port_take_each_others_place() {
    let server = Scripted::start(Fault::None);
    // Holds the port, and takes no connections: it does not listen.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket
        .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let text = config(&server, "drain_timeout: 2s\n").replacen(
        "127.0.0.1:0",
        &format!("{{address: '{address}', reuse_port: true}}"),
        1,
    );
    restart_under_load(address, &server, || Ketch::start(&text));
}

#[test]
fn proxies_that_are_passed_a_socket_take_each_others_place() {
    let server = Scripted::start(Fault::None);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let text =
        config(&server, "drain_timeout: 2s\n").replacen("127.0.0.1:0", &address.to_string(), 1);
    let number = AtomicU64::new(0);
    restart_under_load(address, &server, || {
        let number = number.fetch_add(1, Ordering::SeqCst);
        let name = format!("ketch-passed-{}-{number}.yaml", std::process::id());
        let file = std::env::temp_dir().join(name);
        fs::write(&file, Ketch::in_json(&text)).unwrap();
        // As a service manager does it: descriptor 3 is the socket.
        let mut command = Command::new("sh");
        command
            .args(["-c", "exec \"$0\" proxy -c \"$1\" 3<&0 </dev/null"])
            .arg(env!("CARGO_BIN_EXE_ketch"))
            .arg(&file)
            .env("LISTEN_FDS", "1")
            .stdin(Stdio::from(OwnedFd::from(listener.try_clone().unwrap())));
        Ketch::spawn(command, file)
    });
}
