//! The bounds on all clients together: each is driven to, and told apart.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};

use crate::client::{Client, Got};
use crate::ketch::Ketch;
use crate::now;
use crate::peer::show;
use crate::scripted::{Fault, Scripted};

/// How long something that must happen may take.
const DEADLINE: Duration = Duration::from_secs(60);
/// The largest value that memcached stores by default, nearly.
const LARGE: usize = 1_000_000;

/// What the C library keeps after a burst beside a tenth more, in KiB: for each thread
/// up to seven free chunks of each size, and with each the page that it lies in.
const KEPT_KIB: u64 = 2048;

/// Clients that come and go, and for how long they say nothing: workers notice that
/// within half of it.
const CROWD: usize = 1000;
const QUIET: Duration = Duration::from_secs(2);

/// Large values that a client asks for which then stops reading.
const ASKED: usize = 8;

/// A number from the environment: the full form of a test takes more than every
/// machine has.
fn scaled(name: &str, default: usize) -> usize {
    let value = std::env::var(name).ok();
    value.map_or(default, |value| value.parse().unwrap())
}

/// Raises the limit of open files as far as the system lets it, and fails where
/// that is not enough for so many clients.
fn make_room(clients: usize) {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).unwrap();
    let room = limit.maximum.unwrap_or(u64::MAX);
    let needed = u64::try_from(clients).unwrap() + 256;
    assert!(
        room >= needed,
        "{room} files may be open, {needed} are needed"
    );
}

fn proxy(server: &Scripted, more: &str) -> Ketch {
    Ketch::start(&format!(
        "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\n{more}\npools:\n  main:\n    timeout: 20s\n    stall_timeout: 20s\n    servers: [{}]\n",
        server.address
    ))
}

#[test]
fn requests_beyond_those_of_all_clients_are_told_so() {
    let server = Scripted::start(Fault::Holding);
    let ketch = proxy(&server, "workers: 1\nin_flight_max: 3");
    let mut one = Client::connect(ketch.address());
    one.send("get a\r\nget b\r\n");
    ketch.wait_for_metric("ketch_server_in_flight", "", 2.0);
    let mut other = Client::connect(ketch.address());
    other.send("get c\r\n");
    ketch.wait_for_metric("ketch_server_in_flight", "", 3.0);
    let text = "is not asked while too many requests wait (in_flight_max)";
    let error = format!("SERVER_ERROR {} {text}", server.address);
    let mut third = Client::connect(ketch.address());
    assert_eq!(third.get("d"), Got::Error(error));
    let overload = "cause=\"overload\"";
    assert_eq!(ketch.metric("ketch_server_failures_total", overload), 1.0);
    server.set(Fault::None);
    assert_eq!(one.got("a"), Got::Miss);
    assert_eq!(one.got("b"), Got::Miss);
    assert_eq!(other.got("c"), Got::Miss);
    assert_eq!(third.get("d"), Got::Miss);
    assert_eq!(ketch.metric("ketch_server_ejections_total", ""), 0.0);
}

#[test]
fn requests_beyond_those_of_one_connection_are_told_so() {
    let server = Scripted::start(Fault::Holding);
    let address = server.address;
    let ketch = Ketch::start(&format!(
        "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\nworkers: 1\npools:\n  main:\n    in_flight_max: 2\n    servers: [{address}]\n"
    ));
    let mut client = Client::connect(ketch.address());
    client.send("get a\r\nget b\r\nget c\r\n");
    ketch.wait_for_metric("ketch_server_failures_total", "cause=\"queue_full\"", 1.0);
    server.set(Fault::None);
    assert_eq!(client.got("a"), Got::Miss);
    assert_eq!(client.got("b"), Got::Miss);
    let error = format!("SERVER_ERROR {address} has too many requests waiting");
    assert_eq!(client.got("c"), Got::Error(error));
}

#[test]
fn clients_are_let_in_at_their_rate() {
    let server = Scripted::start(Fault::None);
    let ketch = proxy(&server, "workers: 1\nclients: {accept_rate: 20}");
    let start = now();
    for _ in 0..8 {
        assert_eq!(Client::connect(ketch.address()).get("a"), Got::Miss);
    }
    // Three at once, and five at 50 ms each.
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(200), "{took:?}");
    assert!(ketch.metric("ketch_client_accepts_delayed_total", "") >= 5.0);
}

/// Connects with a small receive buffer: what it does not read stays with the
/// proxy.
fn small(address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&address.into()).unwrap();
    socket.into()
}

/// Whether the other side has closed, without waiting for it.
fn is_cut_off(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let mut buffer = vec![0; 64 * 1024];
    let end = loop {
        match stream.read(&mut buffer) {
            Ok(0) => break true,
            Ok(_) => {}
            Err(error) => break error.kind() != ErrorKind::WouldBlock,
        }
    };
    stream.set_nonblocking(false).unwrap();
    end
}

#[test]
fn clients_that_stop_reading_are_cut_off_before_they_cost_the_others_anything() {
    // The full form: KETCH_CLIENTS=10000 KETCH_STOPPING=1000 KETCH_MEMORY_MIB=256.
    let count = scaled("KETCH_CLIENTS", 400);
    let stopping = scaled("KETCH_STOPPING", 100);
    let memory_max = scaled("KETCH_MEMORY_MIB", 128) << 20;
    make_room(count);
    let server = Scripted::start(Fault::None);
    let ketch = proxy(
        &server,
        &format!("workers: 2\nmemory_max: {memory_max}B\nclients: {{connections_max: 20000}}"),
    );
    let address = ketch.address();
    let large = vec![b'x'; LARGE];
    assert_eq!(Client::connect(address).set("large", &large), "STORED");
    let mut others: Vec<_> = (0..count - stopping)
        .map(|_| Client::connect(address))
        .collect();
    for (number, client) in others.iter_mut().enumerate() {
        let key = format!("k{number}");
        assert_eq!(client.set(&key, key.as_bytes()), "STORED");
    }
    ketch.wait_for_metric("ketch_client_sessions", "", (count - stopping) as f64);
    let before = ketch.status("VmRSS");
    // Pages of the program's own file that are in memory by now are not its memory.
    let taken = ketch.status("RssAnon");
    let mut most = 0;
    let mut stopped = Vec::new();
    for number in 0..stopping {
        let mut stream = small(address);
        // The kernel takes half a megabyte for each; the proxy is left with the rest.
        stream.write_all(&b"get large\r\n".repeat(ASKED)).unwrap();
        // Some bytes of it, so that it is under way.
        stream.read_exact(&mut [0; 32]).unwrap();
        stopped.push(stream);
        if number % 10 == 0 {
            // One who reads gets large values too, and small ones.
            let turn = number % others.len();
            let client = &mut others[turn];
            assert_eq!(client.get("large"), Got::Hit(large.clone()));
            most = most.max(ketch.status("VmRSS"));
        }
    }
    // Nobody else notices anything.
    for (number, client) in others.iter_mut().enumerate() {
        let key = format!("k{number}");
        assert_eq!(client.get(&key), Got::Hit(key.clone().into_bytes()));
    }
    most = most.max(ketch.status("VmRSS"));
    let label = "reason=\"memory\"";
    let cut_off = ketch.metric("ketch_client_sessions_ended_total", label);
    show(&format!(
        "{count} clients, {stopping} of which stop reading: {before} KiB resident before, {most} \
         at most, bound {} KiB; {cut_off} cut off",
        memory_max >> 10
    ));
    assert!(cut_off > 0.0);
    let bound = before + u64::try_from(memory_max >> 10).unwrap();
    assert!(most <= bound, "{most} KiB > {bound} KiB");
    // The first that went gets what the kernel holds for it, and no more.
    let mut rest = Vec::new();
    stopped[0].set_read_timeout(Some(DEADLINE)).unwrap();
    let _ = stopped[0].read_to_end(&mut rest);
    assert!(rest.len() < ASKED * LARGE);
    drop(stopped);
    // Everything is given back.
    let deadline = now() + DEADLINE;
    loop {
        let after = ketch.status("RssAnon");
        if after <= taken + taken / 10 + KEPT_KIB {
            let all = ketch.status("VmRSS");
            show(&format!(
                "{all} KiB resident afterwards; without files {taken} before and {after} afterwards"
            ));
            return;
        }
        assert!(now() < deadline, "{taken} KiB before, {after} after");
        thread::yield_now();
    }
}

#[test]
fn memory_of_clients_that_leave_without_a_word_is_given_back() {
    let server = Scripted::start(Fault::None);
    let ketch = proxy(&server, "workers: 2");
    make_room(CROWD);
    let crowd = || -> Vec<_> {
        (0..CROWD)
            .map(|_| Client::connect(ketch.address()))
            .collect()
    };
    let answered = |mut clients: Vec<Client>| {
        for client in &mut clients {
            assert_eq!(client.get("a"), Got::Miss);
        }
        clients
    };
    let before = ketch.status("RssAnon");
    let clients = answered(crowd());
    let most = ketch.status("RssAnon");
    // Workers with nothing to do have given back what they could before any client goes.
    let mut listening = TcpStream::connect(ketch.address()).unwrap();
    listening.set_read_timeout(Some(QUIET)).unwrap();
    assert!(listening.read(&mut [0]).is_err());
    drop(clients);
    let bound = before + (most - before) / 2;
    let deadline = now() + DEADLINE;
    while ketch.status("RssAnon") > bound {
        assert!(now() < deadline, "{before} KiB before, {most} with clients");
        thread::yield_now();
    }
}

#[test]
fn clients_that_stop_sending_are_cut_off_too() {
    let server = Scripted::start(Fault::None);
    let ketch = proxy(&server, "workers: 1\nmemory_max: 4MiB");
    let address = ketch.address();
    let mut half = format!("set a 0 0 {LARGE}\r\n").into_bytes();
    half.resize(half.len() + LARGE / 2, b'x');
    let mut stopped: Vec<_> = (0..12)
        .map(|_| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(&half).unwrap();
            stream
        })
        .collect();
    let label = "reason=\"memory\"";
    let deadline = now() + DEADLINE;
    while ketch.metric("ketch_client_sessions_ended_total", label) < 1.0 {
        assert!(now() < deadline, "{:#?}", ketch.log_lines());
        thread::yield_now();
    }
    assert!(is_cut_off(&mut stopped[0]), "it stood still for longest");
    assert!(!is_cut_off(&mut stopped[11]));
    let mut client = Client::connect(address);
    assert_eq!(client.set("b", b"1"), "STORED");
    assert_eq!(client.get("b"), Got::Hit(b"1".to_vec()));
    let mut last = stopped.pop().unwrap();
    let rest = vec![b'x'; LARGE - LARGE / 2];
    last.write_all(&[&rest[..], b"\r\n"].concat()).unwrap();
    let mut answer = [0; 8];
    last.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"STORED\r\n");
}

#[test]
fn what_waits_for_a_server_counts_and_is_told() {
    let server = Scripted::start(Fault::None);
    let ketch = proxy(&server, "workers: 1\nmemory_max: 1MiB");
    let address = server.address;
    let mut client = Client::connect(ketch.address());
    assert_eq!(client.set("a", b"1"), "STORED");
    // A server that reads nothing any more: values pile up before it.
    server.set(Fault::Holding);
    let value = vec![b'x'; 100_000];
    let mut refused = 0;
    let mut writers = Vec::new();
    let text = "is not asked while memory is short (memory_max)";
    let error = format!("SERVER_ERROR {address} {text}");
    let deadline = now() + DEADLINE;
    while refused == 0 {
        assert!(now() < deadline);
        let mut writer = TcpStream::connect(ketch.address()).unwrap();
        for _ in 0..8 {
            let head = format!("set b 0 0 {}\r\n", value.len());
            // It may be cut off meanwhile, in the middle of a value.
            let _ = writer.write_all(&[head.as_bytes(), &value, b"\r\n"].concat());
        }
        writers.push(writer);
        if ketch.metric("ketch_server_failures_total", "cause=\"memory\"") > 0.0 {
            let mut client = Client::connect(ketch.address());
            refused += usize::from(client.get("c") == Got::Error(error.clone()));
        }
    }
    server.set(Fault::None);
    drop(writers);
    let mut client = Client::connect(ketch.address());
    while client.get("a") != Got::Hit(b"1".to_vec()) {
        assert!(now() < deadline, "memory is not given back");
    }
}
