//! The bundled cache as a server of its own: its flags, its bounds, its end.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::client::{Client, Got};
use crate::now;
use crate::peer::Peer;

/// Longest wait for anything that must happen.
const DEADLINE: Duration = Duration::from_secs(20);

fn client(server: &Peer) -> Client {
    Client::connect(server.target().address)
}

/// The answer of one line to a request.
fn ask(client: &mut Client, request: &str) -> String {
    client.send(format!("{request}\r\n"));
    client.line()
}

/// A line of `stats` with its words.
fn stat(client: &mut Client, words: &str, name: &str) -> String {
    client.send(format!("stats{words}\r\n"));
    let mut value = String::new();
    loop {
        let line = client.line();
        if line == "END" {
            return value;
        }
        if let Some(rest) = line.strip_prefix(&format!("STAT {name} ")) {
            value = rest.to_owned();
        }
    }
}

/// Waits until `stats` says so.
fn wait_for(client: &mut Client, name: &str, value: &str) {
    let deadline = now() + DEADLINE;
    while stat(client, "", name) != value {
        assert!(now() < deadline, "{name} is not {value}");
    }
}

/// Reads to the end of the stream.
fn rest(address: std::net::SocketAddr, send: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(send.as_bytes()).unwrap();
    let mut got = String::new();
    stream.read_to_string(&mut got).unwrap();
    got
}

#[test]
fn signals_end_the_server_cleanly() {
    for signal in [Signal::TERM, Signal::INT, Signal::USR1] {
        let mut server = Peer::backend(&[]);
        let mut client = client(&server);
        assert_eq!(client.set("k", b"v"), "STORED");
        let pid = Pid::from_raw(server.id().try_into().unwrap()).unwrap();
        kill_process(pid, Signal::HUP).unwrap();
        assert_eq!(client.get("k"), Got::Hit(b"v".to_vec()));
        kill_process(pid, signal).unwrap();
        assert!(server.ended_well(), "{signal:?}");
    }
}

#[test]
fn clients_may_end_the_process_only_if_they_are_let() {
    let mut server = Peer::backend(&["-A"]);
    let mut one = client(&server);
    let refused = "CLIENT_ERROR invalid shutdown mode";
    assert_eq!(ask(&mut one, "shutdown now"), refused);
    one.send("shutdown\r\n");
    assert!(server.ended_well());
    let mut server = Peer::backend(&["-A"]);
    client(&server).send("shutdown graceful\r\n");
    assert!(server.ended_well());
    let server = Peer::backend(&[]);
    let mut one = client(&server);
    assert_eq!(
        ask(&mut one, "shutdown"),
        "SERVER_ERROR: shutdown not enabled"
    );
}

#[test]
fn too_many_clients_are_told_so() {
    let server = Peer::backend(&["-c", "2"]);
    let mut one = client(&server);
    let address = server.target().address;
    // The place of whoever looked whether the server listens is free a moment later.
    let other = let_in(address);
    let rejected = |one: &mut Client| -> u32 {
        let count = stat(one, "", "rejected_connections");
        count.parse().unwrap()
    };
    let before = rejected(&mut one);
    assert_eq!(rest(address, ""), "ERROR Too many open connections\r\n");
    assert_eq!(rejected(&mut one), before + 1);
    assert_eq!(stat(&mut one, "", "max_connections"), "2");
    drop(other);
    // So is its own.
    let_in(address);
}

/// Waits until a new client is served.
fn let_in(address: std::net::SocketAddr) -> TcpStream {
    let deadline = now() + DEADLINE;
    loop {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        // One that is turned away may find the connection reset.
        let mut answer = [0; 4];
        let asked = stream.write_all(b"mn\r\n");
        let answered = asked.and_then(|()| stream.read_exact(&mut answer));
        if answered.is_ok() && &answer == b"MN\r\n" {
            return stream;
        }
        assert!(now() < deadline, "there is no room for another");
    }
}

#[test]
fn who_says_nothing_is_let_go() {
    let server = Peer::backend(&["-o", "idle_timeout=1"]);
    let address = server.target().address;
    // One without a word, one in the middle of a line, one in that of a value.
    for start in ["", "get a", "set a 0 0 100000\r\nabc"] {
        assert_eq!(rest(address, start), "");
    }
    let mut client = client(&server);
    assert_eq!(stat(&mut client, "", "idle_kicks"), "3");
    assert_eq!(client.get("a"), Got::Miss);
    // One that has quit, and takes nothing of what it is owed.
    assert_eq!(client.set("large", &vec![b'v'; 1_000_000]), "STORED");
    let mut quit = Client::connect(address);
    quit.send(format!("get{}\r\nquit\r\n", " large".repeat(40)));
    wait_for(&mut client, "idle_kicks", "4");
}

#[test]
fn who_takes_replies_is_not_let_go_and_who_takes_none_is() {
    const VALUES: usize = 40;
    let server = Peer::backend(&["-o", "idle_timeout=1"]);
    let value = vec![b'v'; 1_000_000];
    assert_eq!(client(&server).set("large", &value), "STORED");
    let [mut slow, mut stuck] = [client(&server), client(&server)];
    for client in [&mut slow, &mut stuck] {
        // One request: who has more of them is heard now and then.
        client.send(format!("get{}\r\n", " large".repeat(VALUES)));
    }
    // Three seconds and more for all of them.
    for _ in 0..VALUES {
        std::thread::sleep(Duration::from_millis(80));
        assert_eq!(slow.line(), "VALUE large 0 1000000");
        assert!(slow.block(value.len()) == value);
    }
    assert_eq!(slow.line(), "END");
    assert_eq!(stat(&mut slow, "", "idle_kicks"), "1");
}

#[test]
fn a_retrieval_that_is_carried_out_by_and_by_is_counted_by_prefix_too() {
    let server = Peer::backend(&["-D", ":"]);
    let mut client = client(&server);
    let value = vec![b'v'; 1_000_000];
    assert_eq!(client.set("a:k", &value), "STORED");
    client.send(format!("gat 0{}\r\n", " a:k".repeat(70)));
    let (found, end) = client.got_many();
    assert_eq!((found.len(), end.as_str()), (70, "END"));
    client.send("get a:x a:k b:k\r\n");
    let (found, end) = client.got_many();
    assert_eq!((found.len(), end.as_str()), (1, "END"));
    client.send("stats detail dump\r\n");
    assert_eq!(client.line(), "PREFIX a get 72 hit 71 set 1 del 0");
    assert_eq!(client.line(), "PREFIX b get 1 hit 0 set 0 del 0");
    assert_eq!(client.line(), "END");
}

#[test]
fn a_value_that_is_refused_is_counted_as_memcached_counts_it() {
    let server = Peer::backend(&["-D", ":"]);
    let mut client = client(&server);
    let large = "x".repeat(2_000_000);
    for (request, answer, sets) in [
        (
            format!("set a:1 0 0 2000000\r\n{large}"),
            "SERVER_ERROR object too large for cache",
            0,
        ),
        (
            "set a:1 0 0 1\r\nxyz".to_owned(),
            "CLIENT_ERROR bad data chunk",
            1,
        ),
        (
            format!("add a:1 0 0 20000\r\n{}", &large[..20_002]),
            "CLIENT_ERROR bad data chunk",
            2,
        ),
        (
            format!("ms b:1 2000000\r\n{large}"),
            "SERVER_ERROR object too large for cache",
            2,
        ),
        (
            "ms b:1 1\r\nxyz".to_owned(),
            "CLIENT_ERROR bad data chunk",
            3,
        ),
        (
            format!("ms b:1 1 O{}\r\nx", "o".repeat(40)),
            "CLIENT_ERROR opaque token too long",
            4,
        ),
        (
            "set c:1 x 0 1\r\nx".to_owned(),
            "CLIENT_ERROR bad command line format",
            4,
        ),
    ] {
        assert_eq!(ask(&mut client, &request), answer);
        // What is behind a block that goes on reads as a command.
        let mut told = ask(&mut client, "mn");
        while told != "MN" {
            told = client.line();
        }
        assert_eq!(
            stat(&mut client, "", "cmd_set"),
            sets.to_string(),
            "{answer}"
        );
    }
    let told = ask(&mut client, "stats detail dump");
    assert_eq!(told, "PREFIX a get 0 hit 0 set 3 del 0");
    assert_eq!(client.line(), "END");
}

#[test]
fn a_slow_reader_holds_little_memory() {
    let server = Peer::backend(&["-t", "1"]);
    let mut fast = client(&server);
    let value: Vec<u8> = (0u32..250_000).flat_map(u32::to_le_bytes).collect();
    assert_eq!(fast.set("large", &value), "STORED");
    let before = resident(&server);
    let mut slow: Vec<_> = (0..8).map(|_| client(&server)).collect();
    for client in &mut slow {
        client.send("get large\r\n".repeat(100));
    }
    for client in &mut slow {
        // Each has been heard when the first byte of its answers is there.
        assert_eq!(client.got("large"), Got::Hit(value.clone()));
    }
    assert_eq!(fast.get("large"), Got::Hit(value.clone()));
    // Eight hundred megabytes are asked for.
    assert!(resident(&server) < before + (32 << 20));
    for _ in 1..100 {
        assert_eq!(slow[0].got("large"), Got::Hit(value.clone()));
    }
}

/// A cache of 16 MiB full of small items, and how many there are.
fn full_cache() -> (Peer, Client, u64) {
    let server = Peer::backend(&["-m", "16", "-t", "1"]);
    let mut client = client(&server);
    for number in 0..20_000 {
        client.send(format!("set small-{number} 0 0 1000 noreply\r\n"));
        client.send([b'v'; 1000]);
        client.send("\r\n");
    }
    let items = items(&mut client);
    assert!(items > 10_000, "{items}");
    (server, client, items)
}

fn items(client: &mut Client) -> u64 {
    stat(client, "", "curr_items").parse().unwrap()
}

#[test]
fn nothing_is_evicted_for_what_is_only_announced() {
    let (server, mut client, before) = full_cache();
    let begun: Vec<_> = (0..300)
        .map(|number| {
            let mut begun = Client::connect(server.target().address);
            begun.send(format!("mn\r\nset large-{number} 0 0 1000000\r\nabc"));
            assert_eq!(begun.line(), "MN");
            begun
        })
        .collect();
    assert_eq!(items(&mut client), before);
    drop(begun);
}

#[test]
fn who_stops_halfway_leaves_half_of_the_memory_to_others() {
    let (server, mut client, before) = full_cache();
    let mut begun: Vec<_> = (0..40)
        .map(|number| {
            let mut begun = Client::connect(server.target().address);
            begun.send(format!("set large-{number} 0 0 1000000\r\n"));
            begun.send(vec![b'v'; 900_000]);
            begun
        })
        .collect();
    // Those that are too many are told as soon as they are.
    let refused = |client: &mut Client| stat(client, "", "store_no_memory") != "0";
    let deadline = now() + DEADLINE;
    while !refused(&mut client) {
        assert!(now() < deadline, "nobody is refused");
    }
    let mut stored = 0;
    for begun in &mut begun {
        assert_eq!(client.set("small", b"v"), "STORED");
        begun.send(vec![b'v'; 100_000]);
        begun.send("\r\n");
        match begun.line().as_str() {
            "STORED" => stored += 1,
            told => assert_eq!(told, "SERVER_ERROR out of memory storing object"),
        }
    }
    assert!((5..40).contains(&stored), "{stored}");
    // What they have stored has taken the place of others, as it must.
    let left = items(&mut client);
    assert!(left > before * 4 / 10, "{left} of {before}");
    assert_eq!(client.set("large", &vec![b'v'; 1_000_000]), "STORED");
}

#[test]
fn values_that_are_replaced_while_they_are_read_leave_half_of_the_memory_to_others() {
    const FULL: &str = "SERVER_ERROR out of memory storing object";
    let (server, mut client, before) = full_cache();
    let value = vec![b'v'; 1_000_000];
    let mut readers = Vec::new();
    let mut refused = 0;
    for _ in 0..40 {
        let stored = client.set("large", &value);
        refused += u64::from(stored == FULL);
        assert!(stored == "STORED" || stored == FULL, "{stored}");
        // Much more than fits into the buffers of the system.
        let mut reader = Client::connect(server.target().address);
        reader.send(format!("get{}\r\n", " large".repeat(20)));
        assert_eq!(client.set("small", b"v"), "STORED");
        readers.push(reader);
    }
    assert!(refused > 0);
    let left = items(&mut client);
    assert!(left > before * 4 / 10, "{left} of {before}");
    drop(readers);
    let deadline = now() + DEADLINE;
    while client.set("large", &value) == FULL {
        assert!(now() < deadline, "their memory is not free");
    }
}

#[test]
fn a_retrieval_of_very_many_keys_holds_little_memory() {
    const KEYS: usize = 20_000;
    let server = Peer::backend(&["-t", "1"]);
    let mut fast = client(&server);
    let mut line = "gets".to_owned();
    for number in 0..KEYS {
        // Some are missing, and blanks lie between them.
        if number % 7 > 0 {
            let value = vec![b'v'; 1000 + number % 3000];
            fast.send(format!("set k{number} 0 0 {} noreply\r\n", value.len()));
            fast.send(value);
            fast.send("\r\n");
        }
        line += &format!(" {}k{number}", if number % 3 == 0 { " " } else { "" });
    }
    assert_eq!(ask(&mut fast, "mn"), "MN");
    let before = resident(&server);
    let mut slow: Vec<_> = (0..8).map(|_| client(&server)).collect();
    for client in &mut slow {
        client.send(format!("{line}\r\nmn\r\n"));
    }
    for client in &mut slow[1..] {
        // Each has been heard when the first of its answers is there.
        assert!(client.line().starts_with("VALUE k1 0 1001 "));
    }
    // Four hundred megabytes are asked for.
    assert!(resident(&server) < before + (32 << 20));
    let (found, end) = slow[0].got_many();
    assert_eq!(end, "END");
    let mut expected = (0..KEYS).filter(|number| number % 7 > 0);
    for (key, value) in found {
        let number = expected.next().unwrap();
        assert_eq!(
            (key, value.len()),
            (format!("k{number}"), 1000 + number % 3000)
        );
    }
    assert_eq!(expected.next(), None);
    assert_eq!(slow[0].line(), "MN");
    let gets: usize = stat(&mut fast, "", "get_hits").parse().unwrap();
    assert!((KEYS * 6 / 7..KEYS * 2).contains(&gets), "{gets}");
}

#[test]
fn a_value_for_which_memory_ends_is_passed_over() {
    const FULL: &str = "SERVER_ERROR out of memory storing object";
    const PAGE: usize = 4096;
    let server = Peer::backend(&["-m", "8", "-M", "-t", "1"]);
    let mut client = client(&server);
    // More than is read at once. No byte of it may be taken for a request.
    let bad = "\r\nset bad 0 0 3\r\nbad\r\n".repeat(9000);
    // Each time some other number of pages is left.
    for pages in 4..12 {
        assert_eq!(ask(&mut client, "flush_all"), "OK");
        assert_eq!(client.set("first", &vec![b'v'; pages * PAGE]), "STORED");
        let mut fill = 0;
        while client.set(&format!("fill-{fill}"), &[b'v'; 4 * PAGE]) == "STORED" {
            fill += 1;
        }
        assert!(fill > 300, "{fill}");
        client.send(format!("set k 0 0 {}\r\n{bad}\r\nmn\r\n", bad.len()));
        assert_eq!([client.line(), client.line()], [FULL, "MN"], "{pages}");
        assert_eq!(client.get("bad"), Got::Miss);
    }
}

#[test]
fn large_values_of_changing_sizes_stay_within_the_limit() {
    const LIMIT: u64 = 32 << 20;
    let server = Peer::backend(&["-m", "32", "-t", "1", "-I", "4m"]);
    let mut client = client(&server);
    let all: Vec<u8> = (0u32..600_000).flat_map(u32::to_le_bytes).collect();
    // The program itself, and the buffers of one client.
    let beside = resident(&server) + (2 << 20);
    let mut random = fastrand::Rng::with_seed(5);
    let kinds = [
        16_384..20_000,
        60_000..140_000,
        16_384..2_000_000,
        5_000..30_000,
        1_000_000..1_200_000,
        16_384..20_000,
    ];
    for sizes in kinds {
        let mut written = 0;
        for number in 0.. {
            let value = &all[..random.usize(sizes.clone())];
            let key = format!("key-{}", number % 5_000);
            assert_eq!(client.set(&key, value), "STORED");
            assert!(client.get(&key) == Got::Hit(value.to_vec()), "{key}");
            written += u64::try_from(value.len()).unwrap();
            if number % 64 == 0 {
                let resident = resident(&server);
                assert!(resident < LIMIT + beside, "{resident} and {beside}");
            }
            if written > 2 * LIMIT {
                break;
            }
        }
        let bytes: u64 = stat(&mut client, "", "bytes").parse().unwrap();
        assert!(bytes > LIMIT * 8 / 10, "{bytes} of values of {sizes:?}");
    }
}

/// Memory of the server that is in RAM, in bytes.
fn resident(server: &Peer) -> u64 {
    crate::status(server.id(), "VmRSS") << 10
}

#[test]
fn what_is_switched_off_is_refused() {
    let server = Peer::backend(&["-F", "-X", "-C", "-W"]);
    let mut client = client(&server);
    assert_eq!(
        ask(&mut client, "flush_all"),
        "CLIENT_ERROR flush_all not allowed"
    );
    assert_eq!(
        ask(&mut client, "stats cachedump 1 1"),
        "CLIENT_ERROR stats cachedump not allowed"
    );
    assert_eq!(
        ask(&mut client, "stats detail on"),
        "CLIENT_ERROR stats detail not allowed"
    );
    assert_eq!(
        ask(&mut client, "watch fetchers"),
        "CLIENT_ERROR watch commands not allowed"
    );
    assert_eq!(client.set("k", b"v"), "STORED");
    assert_eq!(ask(&mut client, "gets k"), "VALUE k 0 1 0");
}

#[test]
fn everything_is_dropped_at_its_time() {
    let server = Peer::backend(&["-o", "relaxed_privileges"]);
    let mut client = client(&server);
    assert_eq!(client.set("a", b"1"), "STORED");
    assert_eq!(ask(&mut client, "flush_all 5"), "OK");
    assert_eq!(client.get("a"), Got::Hit(b"1".to_vec()));
    assert_eq!(ask(&mut client, "debugtime 6"), "OK");
    assert_eq!(client.get("a"), Got::Miss);
    assert_eq!(client.set("a", b"2"), "STORED");
    assert_eq!(client.get("a"), Got::Hit(b"2".to_vec()));
    assert_eq!(stat(&mut client, "", "cmd_flush"), "1");
    // What was dropped made room, as what has expired does.
    assert_eq!(stat(&mut client, "", "reclaimed"), "1");
}

#[test]
fn memory_can_be_given_and_taken() {
    let server = Peer::backend(&["-m", "32", "-t", "1"]);
    let mut client = client(&server);
    let value = vec![b'v'; 1000];
    for number in 0..20_000 {
        assert_eq!(client.set(&format!("key-{number}"), &value), "STORED");
    }
    let items: u64 = stat(&mut client, "", "curr_items").parse().unwrap();
    assert_eq!(items, 20_000);
    let small = "MEMLIMIT_TOO_SMALL cannot set maxbytes to less than 8m";
    assert_eq!(ask(&mut client, "cache_memlimit 7"), small);
    assert_eq!(ask(&mut client, "cache_memlimit 8"), "OK");
    assert_eq!(
        stat(&mut client, "", "limit_maxbytes"),
        (8 << 20).to_string()
    );
    let deadline = now() + DEADLINE;
    while stat(&mut client, "", "bytes").parse::<u64>().unwrap() > 8 << 20 {
        assert!(now() < deadline);
    }
}

#[test]
fn counters_begin_anew_when_a_client_asks_for_it() {
    let server = Peer::backend(&[]);
    let mut client = client(&server);
    let value = vec![b'v'; 100_000];
    assert_eq!(client.set("k", &value), "STORED");
    assert_eq!(client.get("k"), Got::Hit(value));
    let number = |client: &mut Client, name| stat(client, "", name).parse::<u64>().unwrap();
    for name in ["bytes_read", "bytes_written"] {
        assert!(number(&mut client, name) >= 100_000, "{name}");
    }
    assert!(number(&mut client, "total_connections") >= 1);
    assert_eq!(ask(&mut client, "stats reset"), "RESET");
    for name in ["cmd_set", "get_hits", "total_items", "total_connections"] {
        assert_eq!(number(&mut client, name), 0, "{name}");
    }
    for name in ["bytes_read", "bytes_written"] {
        assert!(number(&mut client, name) < 100_000, "{name}");
    }
    // What there is, is there.
    for name in ["curr_items", "curr_connections"] {
        assert_eq!(number(&mut client, name), 1, "{name}");
    }
}

#[test]
fn a_client_with_many_requests_waits_for_others() {
    let server = Peer::backend(&["-R", "3", "-t", "1"]);
    let mut client = client(&server);
    // Ten at once are four turns.
    client.send("mn\r\n".repeat(10));
    for _ in 0..10 {
        assert_eq!(client.line(), "MN");
    }
    assert_eq!(stat(&mut client, "", "conn_yields"), "3");
    let large = vec![b'v'; 200_000];
    for _ in 0..4 {
        client.send([&b"set k 0 0 200000\r\n"[..], &large, b"\r\nget k\r\n"].concat());
    }
    for _ in 0..4 {
        assert_eq!(client.line(), "STORED");
        assert_eq!(client.got("k"), Got::Hit(large.clone()));
    }
    assert_eq!(stat(&mut client, " settings", "reqs_per_event"), "3");
}

#[test]
fn connections_sizes_and_settings_are_told() {
    let server = Peer::backend(&["-o", "track_sizes", "-I", "2m", "-c", "77"]);
    let mut client = client(&server);
    client.set("k", &[b'v'; 90]);
    assert_eq!(stat(&mut client, " sizes", "128"), "1");
    let address = server.target().address;
    assert_eq!(
        stat(&mut client, " conns", "0:addr"),
        format!("tcp:{address}")
    );
    assert_eq!(stat(&mut client, " conns", "0:state"), "conn_listening");
    let settings = [
        ("item_size_max", "2097152"),
        ("maxconns", "77"),
        ("cas_enabled", "yes"),
        ("hot_lru_pct", "10"),
        ("slab_chunk_max", "0"),
        ("temp_lru", "no"),
    ];
    for (name, value) in settings {
        assert_eq!(stat(&mut client, " settings", name), value);
    }
    assert_eq!(stat(&mut client, " items", "items:1:number"), "1");
}

#[test]
fn users_log_in() {
    let file = std::env::temp_dir().join(format!("ketch-users-{}", std::process::id()));
    fs::write(&file, "joe:secret\n").unwrap();
    let server = Peer::backend(&["-Y", file.to_str().unwrap()]);
    let mut client = client(&server);
    assert_eq!(
        ask(&mut client, "get a b c d e"),
        "CLIENT_ERROR unauthenticated"
    );
    let failed = "CLIENT_ERROR authentication failure";
    assert_eq!(client.set("x", b"joe wrong"), failed);
    assert_eq!(client.set("x", b"joe secret"), "STORED");
    assert_eq!(client.set("k", b"v"), "STORED");
    assert_eq!(client.get("k"), Got::Hit(b"v".to_vec()));
    // The file is read again when the server is told to; who is in stays.
    fs::write(&file, "ann:other\n").unwrap();
    let pid = Pid::from_raw(server.id().try_into().unwrap()).unwrap();
    kill_process(pid, Signal::HUP).unwrap();
    let login = |word: &[u8]| Client::connect(server.target().address).set("x", word);
    let deadline = now() + DEADLINE;
    while login(b"ann other") != "STORED" {
        assert!(now() < deadline, "the file is not read again");
    }
    assert_eq!(login(b"joe secret"), failed);
    assert_eq!(client.get("k"), Got::Hit(b"v".to_vec()));
    // One that cannot be read changes nothing.
    fs::remove_file(&file).unwrap();
    kill_process(pid, Signal::HUP).unwrap();
    assert_eq!(login(b"ann other"), "STORED");
}

#[test]
fn a_unix_socket_has_the_permissions_asked_for() {
    let path = std::env::temp_dir().join(format!("ketch-backend-{}.sock", std::process::id()));
    let pid_file = path.with_extension("pid");
    let (socket, pid) = (path.to_str().unwrap(), pid_file.to_str().unwrap());
    // In the background; it is ready when the command returns.
    let started = Command::new(env!("CARGO_BIN_EXE_ketch"))
        .args([
            "backend", "-d", "-u", "root", "-s", socket, "-a", "720", "-P", pid,
        ])
        .status()
        .unwrap();
    assert!(started.success());
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o720);
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.write_all(b"mn\r\n").unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"MN\r\n");
    let id: i32 = fs::read_to_string(&pid_file)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    kill_process(Pid::from_raw(id).unwrap(), Signal::TERM).unwrap();
    let deadline = now() + DEADLINE;
    while path.exists() || pid_file.exists() {
        assert!(now() < deadline, "not ended");
        std::thread::yield_now();
    }
}

#[test]
fn what_cannot_be_had_is_said() {
    let refused = [
        (&["-e", "/x"][..], "items do not outlive the process"),
        (&["-S"], "there is no SASL"),
        (&["-o", "ext_path=/x:1G"], "there is no external storage"),
        (&["-I", "40m"], "half of the memory"),
        (&["-l", "fooble"], "cannot listen on fooble:11211"),
    ];
    for (args, why) in refused {
        let run = Command::new(env!("CARGO_BIN_EXE_ketch"));
        let output = { run }.arg("backend").args(args).output().unwrap();
        assert!(!output.status.success(), "{args:?}");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(errors.contains(why), "{args:?}: {errors}");
    }
}
