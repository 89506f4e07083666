//! Clients that watch what the bundled cache does.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use crate::client::{Client, Got};
use crate::now;
use crate::peer::Peer;
use crate::target::Version;

/// Longest wait for anything that must happen.
const DEADLINE: Duration = Duration::from_secs(20);

/// One that watches.
struct Watcher(BufReader<TcpStream>);

impl Watcher {
    fn connect(server: &Peer) -> Self {
        let stream = TcpStream::connect(server.target().address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        Self(BufReader::new(stream))
    }

    /// Says `watch` with these words. The answer.
    fn ask(&mut self, words: &str) -> String {
        let stream = self.0.get_mut();
        stream
            .write_all(format!("watch{words}\r\n").as_bytes())
            .unwrap();
        self.raw_line()
    }

    /// One that watches these kinds.
    fn start(server: &Peer, words: &str) -> Self {
        let mut watcher = Self::connect(server);
        assert_eq!(watcher.ask(words), "OK");
        watcher
    }

    fn raw_line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        assert!(line.ends_with('\n'), "no line: {line:?}");
        line.trim_end().to_owned()
    }

    /// The next line, without its time and number.
    fn line(&mut self) -> String {
        rest(&self.raw_line())
    }

    /// So many lines.
    fn lines(&mut self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.line()).collect()
    }
}

/// A line without its time and number, which every line has.
fn rest(line: &str) -> String {
    let (ts, rest) = line.split_once(' ').unwrap();
    let (gid, rest) = rest.split_once(' ').unwrap();
    let seconds = ts.strip_prefix("ts=").unwrap().parse::<f64>().unwrap();
    assert!(seconds > 1e9, "{line}");
    assert!(gid_of(gid) > 0, "{line}");
    rest.to_owned()
}

fn gid_of(word: &str) -> u64 {
    word.strip_prefix("gid=").unwrap().parse().unwrap()
}

/// The value of a field of a line.
fn field<'a>(line: &'a str, name: &str) -> &'a str {
    let mut words = line.split(' ');
    let value = words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    assert!(value.is_some(), "no {name} in {line:?}");
    value.unwrap()
}

fn client(server: &Peer) -> Client {
    Client::connect(server.target().address)
}

fn ask(client: &mut Client, request: &str) -> String {
    client.send(format!("{request}\r\n"));
    client.line()
}

/// All of `stats` with these words.
fn stats(client: &mut Client, words: &str) -> Vec<(String, String)> {
    client.send(format!("stats{words}\r\n"));
    let mut all = Vec::new();
    loop {
        let line = client.line();
        let Some(line) = line.strip_prefix("STAT ") else {
            return all;
        };
        let (name, value) = line.split_once(' ').unwrap();
        all.push((name.to_owned(), value.to_owned()));
    }
}

fn stat(client: &mut Client, name: &str) -> u64 {
    let all = stats(client, "");
    let found = all.iter().find(|(other, _)| other == name);
    found.unwrap().1.parse().unwrap()
}

/// Waits until `stats` says what is expected.
fn wait_for(client: &mut Client, name: &str, is_so: impl Fn(u64) -> bool) -> u64 {
    let deadline = now() + DEADLINE;
    loop {
        let value = stat(client, name);
        if is_so(value) {
            return value;
        }
        assert!(now() < deadline, "{name} is {value}");
    }
}

/// The number by which `stats conns` knows a client.
fn number_of(client: &mut Client) -> String {
    let address = format!("tcp:{}", client.sender().local_addr().unwrap());
    let all = stats(client, " conns");
    let found = all.iter().find(|(_, value)| *value == address);
    found.unwrap().0.split_once(':').unwrap().0.to_owned()
}

#[test]
fn fetchers_are_told_every_look() {
    let server = Peer::backend(&[]);
    let mut client = client(&server);
    let cfd = number_of(&mut client);
    let mut watcher = Watcher::start(&server, "");
    assert_eq!(client.set("k", b"value"), "STORED");
    client.send("get k n,foo\r\n");
    client.got_many();
    assert_eq!(ask(&mut client, "mg k s"), "HD s5");
    assert_eq!(
        ask(&mut client, "incr k 1").split(' ').next(),
        Some("CLIENT_ERROR")
    );
    let found = format!("type=item_get key=k status=found clsid=1 cfd={cfd} size=5");
    let missed = |key| format!("type=item_get key={key} status=not_found clsid=0 cfd={cfd} size=0");
    assert_eq!(
        watcher.lines(5),
        [
            missed("k"),
            found.clone(),
            missed("n%2Cfoo"),
            found.clone(),
            found
        ]
    );
}

#[test]
fn what_has_gone_is_told_from_what_never_was() {
    let server = Peer::backend(&["-o", "relaxed_privileges"]);
    let mut client = client(&server);
    assert_eq!(ask(&mut client, "set a 0 0 1\r\n1"), "STORED");
    assert_eq!(ask(&mut client, "set b 0 10 1\r\n1"), "STORED");
    let mut watcher = Watcher::start(&server, " fetchers");
    // The janitor may be faster.
    assert_eq!(ask(&mut client, "debugtime 11"), "OK");
    assert_eq!(client.get("b"), Got::Miss);
    let line = watcher.line();
    assert!(["expired", "not_found"].contains(&field(&line, "status")));
    assert_eq!(ask(&mut client, "flush_all"), "OK");
    assert_eq!(client.get("a"), Got::Miss);
    assert_eq!(client.get("a"), Got::Miss);
    let status = |line: String| field(&line, "status").to_owned();
    assert_eq!(status(watcher.line()), "flushed");
    assert_eq!(status(watcher.line()), "not_found");
}

#[test]
fn mutations_are_told_with_their_outcome() {
    let server = Peer::backend(&["-I", "1m"]);
    let mut client = client(&server);
    let cfd = number_of(&mut client);
    let mut watcher = Watcher::start(&server, " mutations");
    let mut lines = Vec::new();
    let mut play = |request: &str, answer: &str, key: &str, told: &str| {
        assert_eq!(ask(&mut client, request), answer, "{request:.40}");
        lines.push(format!("type=item_store key={key} {told}"));
    };
    let told = |status: &str, cmd: &str, ttl: u32, size: usize| {
        format!("status={status} cmd={cmd} ttl={ttl} clsid=1 cfd={cfd} size={size}")
    };
    play(
        "set a 0 0 1\r\n1",
        "STORED",
        "a",
        &told("stored", "set", 0, 1),
    );
    play(
        "add a 0 0 1\r\n1",
        "NOT_STORED",
        "a",
        &told("not_stored", "add", 0, 1),
    );
    play(
        "add b 0 0 2\r\n22",
        "STORED",
        "b",
        &told("stored", "add", 0, 2),
    );
    play(
        "replace b 0 0 1\r\n1",
        "STORED",
        "b",
        &told("stored", "replace", 0, 1),
    );
    play(
        "append b 0 0 3\r\nxyz",
        "STORED",
        "b",
        &told("stored", "append", 0, 4),
    );
    play(
        "prepend c 0 0 1\r\n1",
        "NOT_STORED",
        "c",
        &told("not_stored", "prepend", 0, 1),
    );
    play(
        "cas a 0 0 1 0\r\n1",
        "EXISTS",
        "a",
        &told("exists", "cas", 0, 1),
    );
    play(
        "cas c 0 0 1 1\r\n1",
        "NOT_FOUND",
        "c",
        &told("not_found", "cas", 0, 1),
    );
    play(
        "ms Iw== 2 b\r\nhi",
        "HD",
        "%23",
        &told("stored", "set", 0, 2),
    );
    play("ms b 1 MA\r\n1", "HD", "b", &told("stored", "append", 0, 5));
    play("ms a 1 C0\r\n1", "EX", "a", &told("exists", "cas", 0, 1));
    play("ma n N0 J7 v", "VA 1", "n", &told("stored", "add", 0, 1));
    assert_eq!(client.line(), "7");
    // Values that are too large, and those that are too large by far.
    let refused = "SERVER_ERROR object too large for cache";
    for (command, cmd, len) in [
        ("set a 0 0", "set", 1 << 20),
        ("add q 0 0", "add", 1 << 20),
        ("append q 0 0", "append", 1_048_500 + 60),
        ("ms q", "set", 1 << 20),
    ] {
        let key = command.split(' ').nth(1).unwrap();
        client.send(format!("{command} {len}\r\n{}\r\n", "x".repeat(len)));
        assert_eq!(client.line(), refused);
        lines.push(format!(
            "type=item_store key={key} status=too_large cmd={cmd} ttl=0 clsid=0 cfd={cfd} size=0"
        ));
    }
    client.send(format!(
        "ms q {len} MP\r\n{}\r\n",
        "x".repeat(1 << 20),
        len = 1 << 20
    ));
    assert_eq!(client.line(), refused);
    lines.push(format!(
        "type=item_store key=q status=too_large cmd=prepend ttl=0 clsid=0 cfd={cfd} size=0"
    ));
    assert_eq!(watcher.lines(lines.len()), lines);
    // A time to live is told as what is left of it.
    assert_eq!(ask(&mut client, "set t 0 100 1\r\n1"), "STORED");
    assert_eq!(ask(&mut client, "append t 0 0 1\r\n1"), "STORED");
    for line in watcher.lines(2) {
        let ttl: u32 = field(&line, "ttl").parse().unwrap();
        assert!((98..=100).contains(&ttl), "{line}");
    }
}

#[test]
fn deletions_are_told() {
    let server = Peer::backend(&[]);
    let mut client = client(&server);
    let mut watcher = Watcher::start(&server, " deletions");
    assert_eq!(client.set("k", b"1234"), "STORED");
    assert_eq!(ask(&mut client, "delete k"), "DELETED");
    assert_eq!(ask(&mut client, "delete k"), "NOT_FOUND");
    assert_eq!(client.set("k", b"12"), "STORED");
    // One that stays, though stale, is not deleted.
    assert_eq!(ask(&mut client, "md k I"), "HD");
    assert_eq!(ask(&mut client, "md k"), "HD");
    assert_eq!(client.set("k", b"12"), "STORED");
    assert_eq!(ask(&mut client, "md k x"), "HD");
    let deleted = |cmd, size| format!("type=deleted key=k cmd={cmd} clsid=1 size={size}");
    assert_eq!(
        watcher.lines(3),
        [deleted("delete", 4), deleted("md", 2), deleted("md", 0)]
    );
}

#[test]
fn evictions_are_told_of_items_of_all_sizes() {
    let server = Peer::backend(&["-m", "8", "-I", "1m", "-t", "1"]);
    let mut client = client(&server);
    let mut watcher = Watcher::start(&server, " evictions");
    let reader = watcher.0.get_ref().try_clone().unwrap();
    // Lines that are there; those that are under way come with the next look.
    reader
        .set_read_timeout(Some(Duration::from_millis(1)))
        .unwrap();
    let (mut small, mut large, mut read) = (None, None, None);
    let deadline = now() + DEADLINE;
    let value = vec![b'x'; 100_000];
    let mut line = String::new();
    for number in 0.. {
        assert!(now() < deadline, "{small:?} {large:?} {read:?}");
        assert_eq!(client.set(&format!("large-{number}"), &value), "STORED");
        client.send(format!(
            "set small-{number} 0 1000 9 noreply\r\n012345678\r\n"
        ));
        // Those that are read soon fill the main queue.
        let key = format!("read-{number}");
        assert_eq!(client.set(&key, b"some value"), "STORED");
        assert_eq!(client.get(&key), Got::Hit(b"some value".to_vec()));
        while watcher.0.read_line(&mut line).is_ok_and(|count| count > 0) {
            let told = rest(line.trim_end());
            match field(&told, "key").split_once('-').unwrap().0 {
                "small" => small = Some(told),
                "large" => large = Some(told),
                _ => read = Some(told),
            }
            line.clear();
        }
        if small.is_some() && large.is_some() && (read.is_some() || number > 300) {
            break;
        }
    }
    let (small, large) = (small.unwrap(), large.unwrap());
    for (told, size) in [(&small, "9"), (&large, "100000")] {
        assert_eq!(field(told, "type"), "eviction");
        assert_eq!((field(told, "fetch"), field(told, "size")), ("no", size));
        assert_eq!(field(told, "clsid"), "1");
        assert!(field(told, "la").parse::<u64>().unwrap() < 100, "{told}");
    }
    assert_eq!(field(&large, "ttl"), "-1");
    assert!(
        field(&small, "ttl").parse::<i64>().unwrap() > 900,
        "{small}"
    );
    if let Some(read) = read {
        assert_eq!(field(&read, "fetch"), "yes");
    }
}

#[test]
fn what_large_values_evict_on_their_way_in_is_told() {
    let server = Peer::backend(&["-m", "8", "-t", "1"]);
    let _watcher = Watcher::start(&server, " evictions");
    let mut client = client(&server);
    let value = vec![b'v'; 500_000];
    for number in 0..40 {
        assert_eq!(client.set(&format!("key-{number}"), &value), "STORED");
    }
    let told = stat(&mut client, "log_worker_written") + stat(&mut client, "log_worker_dropped");
    assert!(told > 20);
    assert_eq!(told, stat(&mut client, "evictions"));
}

#[test]
fn connevents_are_told_with_their_reason() {
    let server = Peer::backend(&["-o", "idle_timeout=1"]);
    let mut watcher = Watcher::start(&server, " connevents");
    // Those that looked whether it listens may still be going.
    let mut next = |port: &str| loop {
        let line = watcher.line();
        if field(&line, "rport") == port {
            return line;
        }
    };
    for (says, reason) in [
        ("quit\r\n", "normal"),
        ("GET / HTTP/1.1\r\n", "error"),
        ("get a", "idle_timeout"),
    ] {
        let mut stream = TcpStream::connect(server.target().address).unwrap();
        let port = stream.local_addr().unwrap().port().to_string();
        stream.write_all(says.as_bytes()).unwrap();
        let opened = next(&port);
        let cfd = field(&opened, "cfd");
        assert_eq!(
            opened,
            format!("type=conn_new rip=127.0.0.1 rport={port} transport=tcp cfd={cfd}")
        );
        assert_eq!(
            next(&port),
            format!(
                "type=conn_close rip=127.0.0.1 rport={port} transport=tcp reason={reason} cfd={cfd}"
            )
        );
    }
    // The watcher itself has said nothing for as long, and is still there.
    let mut client = client(&server);
    assert_eq!(stat(&mut client, "log_watchers"), 1);
    let conns = stats(&mut client, " conns");
    let watching = conns.iter().filter(|(_, value)| value == "conn_watch");
    assert_eq!(watching.count(), 1);
}

/// A cache that listens on a unix socket, ended when dropped.
struct OnSocket(Child, PathBuf);

impl Drop for OnSocket {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
        let _ = std::fs::remove_file(&self.1);
    }
}

#[test]
fn clients_of_a_unix_socket_are_told_as_local() {
    let path = std::env::temp_dir().join(format!("ketch-watch-{}.sock", std::process::id()));
    let child = Command::new(env!("CARGO_BIN_EXE_ketch"))
        .args(["backend", "-u", "root", "-s", path.to_str().unwrap()])
        .spawn()
        .unwrap();
    let server = OnSocket(child, path);
    let deadline = now() + DEADLINE;
    let stream = loop {
        match UnixStream::connect(&server.1) {
            Ok(stream) => break stream,
            Err(error) => assert!(now() < deadline, "{error}"),
        }
        std::thread::yield_now();
    };
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut lines = BufReader::new(stream);
    lines.get_mut().write_all(b"watch connevents\r\n").unwrap();
    let mut next = || {
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    };
    assert_eq!(next(), "OK");
    drop(UnixStream::connect(&server.1).unwrap());
    let (opened, closed) = (rest(&next()), rest(&next()));
    let cfd = field(&opened, "cfd");
    let peer = "rip=unix rport=0 transport=local";
    assert_eq!(opened, format!("type=conn_new {peer} cfd={cfd}"));
    assert_eq!(
        closed,
        format!("type=conn_close {peer} reason=normal cfd={cfd}")
    );
}

#[test]
fn what_has_no_counterpart_is_taken_and_silent() {
    let server = Peer::backend(&[]);
    let mut silent = Watcher::start(
        &server,
        " rawcmds sysevents proxyreqs proxyevents proxyuser",
    );
    let mut client = client(&server);
    assert_eq!(client.set("k", b"v"), "STORED");
    assert_eq!(stat(&mut client, "log_watchers"), 1);
    assert_eq!(stat(&mut client, "log_worker_written"), 0);
    // Kinds are known by how they begin.
    let mut other = Watcher::start(&server, " m");
    assert_eq!(client.set("k", b"v"), "STORED");
    assert_eq!(field(&other.line(), "cmd"), "set");
    silent
        .0
        .get_ref()
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    assert!(silent.0.read_line(&mut String::new()).is_err());
}

#[test]
fn who_cannot_watch_is_told_why_and_served_on() {
    let server = Peer::backend(&[]);
    let mut watcher = Watcher::connect(&server);
    assert_eq!(watcher.ask(" nonsense"), "ERROR");
    assert_eq!(watcher.ask(" fetchers noreply"), "ERROR");
    let mut client = client(&server);
    client.send("mn\r\nwatch fetchers\r\nmn\r\n");
    assert_eq!(client.line(), "MN");
    assert_eq!(
        client.line(),
        "ERROR cannot pipeline other commands before watch"
    );
    assert_eq!(client.line(), "MN");
    assert_eq!(stat(&mut client, "log_watchers"), 0);
    assert_eq!(watcher.ask(""), "OK");
}

#[test]
fn what_a_watcher_says_is_not_listened_to() {
    let server = Peer::backend(&[]);
    let mut watcher = Watcher::connect(&server);
    let mut client = client(&server);
    assert_eq!(watcher.ask(" mutations\r\nset a 0 0 1\r\n1"), "OK");
    watcher
        .0
        .get_mut()
        .write_all(b"set b 0 0 1\r\n1\r\nquit\r\n")
        .unwrap();
    assert_eq!(client.set("c", b"1"), "STORED");
    assert_eq!(field(&watcher.line(), "key"), "c");
    assert_eq!(stat(&mut client, "curr_items"), 1);
}

#[test]
fn watchers_are_told_what_each_wants_in_order() {
    let server = Peer::backend(&["-t", "2"]);
    let mut both = Watcher::start(&server, " fetchers mutations");
    let mut one = Watcher::start(&server, " mutations");
    let mut clients: Vec<Client> = (0..4).map(|_| client(&server)).collect();
    for round in 0..50 {
        for (number, client) in clients.iter_mut().enumerate() {
            assert_eq!(client.set(&format!("{number}-{round}"), b"v"), "STORED");
        }
    }
    let stored: Vec<String> = one.lines(200);
    assert!(
        stored
            .iter()
            .all(|line| field(line, "type") == "item_store")
    );
    let lines: Vec<String> = (0..400).map(|_| both.raw_line()).collect();
    let mut gids: Vec<u64> = lines
        .iter()
        .map(|line| field(line, "gid").parse().unwrap())
        .collect();
    gids.sort_unstable();
    gids.dedup();
    assert_eq!(gids.len(), 400, "every line has a number of its own");
    // Each client asked one thing at a time: by the numbers its lines are in order.
    let mut lines: Vec<(u64, &String)> = lines
        .iter()
        .map(|line| (field(line, "gid").parse().unwrap(), line))
        .collect();
    lines.sort_unstable();
    for number in 0..4 {
        let prefix = format!("{number}-");
        let of_client = lines
            .iter()
            .filter(|(_, line)| field(line, "key").starts_with(&prefix));
        let told: Vec<(String, String)> = of_client
            .map(|(_, line)| {
                (
                    field(line, "type").to_owned(),
                    field(line, "key").to_owned(),
                )
            })
            .collect();
        let wanted: Vec<(String, String)> = (0..50)
            .flat_map(|round| {
                let key = format!("{number}-{round}");
                [
                    ("item_get".to_owned(), key.clone()),
                    ("item_store".to_owned(), key),
                ]
            })
            .collect();
        assert_eq!(told, wanted);
    }
    let mut client = client(&server);
    assert_eq!(stat(&mut client, "log_watcher_sent"), 600);
    assert_eq!(stat(&mut client, "log_worker_written"), 400);
    assert_eq!(stat(&mut client, "log_watcher_skipped"), 0);
    assert_eq!(ask(&mut client, "stats reset"), "RESET");
    assert_eq!(stat(&mut client, "log_watcher_sent"), 0);
    assert_eq!(stat(&mut client, "log_watchers"), 2);
}

#[test]
fn a_watcher_that_leaves_costs_nothing_more() {
    let server = Peer::backend(&["-t", "1"]);
    let mut client = client(&server);
    let watcher = Watcher::start(&server, " fetchers");
    let mut other = Watcher::start(&server, " mutations");
    assert_eq!(stat(&mut client, "log_watchers"), 2);
    drop(watcher);
    wait_for(&mut client, "log_watchers", |count| count == 1);
    let before = stat(&mut client, "log_worker_written");
    // Nobody wants to know of it any more.
    assert_eq!(client.get("a"), Got::Miss);
    assert_eq!(client.set("a", b"1"), "STORED");
    assert_eq!(field(&other.line(), "type"), "item_store");
    assert_eq!(stat(&mut client, "log_worker_written"), before + 1);
    drop(other);
    wait_for(&mut client, "log_watchers", |count| count == 0);
    assert_eq!(client.set("a", b"1"), "STORED");
    assert_eq!(stat(&mut client, "log_worker_written"), before + 1);
    // The thread that served them ends, and another begins with the next.
    let tasks = format!("/proc/{}/task", server.id());
    let is_served = || {
        let mut threads = std::fs::read_dir(&tasks).unwrap();
        threads.any(|thread| {
            let name = std::fs::read_to_string(thread.unwrap().path().join("comm"));
            name.is_ok_and(|name| name.trim() == "watchers")
        })
    };
    let deadline = now() + DEADLINE;
    while is_served() {
        assert!(now() < deadline, "the thread stays");
        std::thread::yield_now();
    }
    let mut next = Watcher::start(&server, " fetchers");
    assert!(is_served());
    assert_eq!(client.get("b"), Got::Miss);
    assert_eq!(field(&next.line(), "key"), "b");
}

#[test]
fn a_watcher_that_does_not_read_is_told_what_it_missed() {
    let server = Peer::backend(&["-t", "1", "-o", "watcher_logbuf_size=8"]);
    let mut client = client(&server);
    let mut slow = Watcher::start(&server, " fetchers");
    let before = crate::status(server.id(), "VmRSS");
    let key = "k".repeat(200);
    let many = format!("get {key}\r\n").repeat(100);
    let deadline = now() + 3 * DEADLINE;
    // Until the kernel takes no more for it, and neither do we.
    while stat(&mut client, "log_watcher_skipped") < 1000 {
        assert!(now() < deadline, "it takes everything");
        client.send(&many);
        (0..100).for_each(|_| assert_eq!(client.line(), "END"));
    }
    let grown = crate::status(server.id(), "VmRSS").saturating_sub(before);
    assert!(grown < 4 << 10, "{grown} KiB for lines");
    // Lines come again when it reads again and something happens.
    let mut lines = 0u64;
    let skipped = loop {
        if lines.is_multiple_of(100) {
            assert_eq!(client.get("more"), Got::Miss);
        }
        let line = slow.raw_line();
        match line.strip_prefix("skipped=") {
            Some(count) => break count.parse::<u64>().unwrap(),
            None => assert_eq!(field(&rest(&line), "type"), "item_get"),
        }
        lines += 1;
    };
    assert!(
        skipped >= 1000 && lines > 0,
        "{skipped} skipped behind {lines}"
    );
    assert_eq!(field(&slow.line(), "type"), "item_get");
    let told = stat(&mut client, "log_watcher_skipped");
    assert!(told >= skipped, "{told}");
    // Everything that was noted has become a line that was sent, or was skipped.
    let written = stat(&mut client, "log_worker_written");
    let deadline = now() + DEADLINE;
    let total = |client: &mut Client| {
        stat(client, "log_watcher_sent") + stat(client, "log_watcher_skipped")
    };
    while total(&mut client) != written {
        assert!(now() < deadline, "not all lines are accounted for");
    }
}

#[test]
fn events_that_do_not_fit_are_dropped_and_counted() {
    let server = Peer::backend(&["-t", "1", "-o", "worker_logbuf_size=2"]);
    let mut client = client(&server);
    let mut watcher = Watcher::start(&server, " fetchers");
    let keys: Vec<String> = (0..1000).map(|number| format!("key{number}")).collect();
    client.send(format!("get {}\r\n", keys.join(" ")));
    assert_eq!(client.line(), "END");
    let dropped = stat(&mut client, "log_worker_dropped");
    let written = stat(&mut client, "log_worker_written");
    assert!(written > 0 && dropped > 0, "{written} of {dropped}");
    assert_eq!(written + dropped, 1000);
    // What did fit is told, from the first on.
    for key in &keys[..usize::try_from(written).unwrap()] {
        assert_eq!(field(&watcher.line(), "key"), key);
    }
    wait_for(&mut client, "log_watcher_sent", |sent| sent == written);
    let settings = stats(&mut client, " settings");
    assert!(settings.contains(&("worker_logbuf_size".into(), "2048".into())));
    assert!(settings.contains(&("watcher_logbuf_size".into(), "262144".into())));
}

#[test]
fn there_are_at_most_twenty_watchers() {
    let server = Peer::backend(&[]);
    let mut all: Vec<Watcher> = (0..20).map(|_| Watcher::start(&server, "")).collect();
    let mut next = Watcher::connect(&server);
    assert_eq!(next.ask(""), "WATCHER_TOO_MANY log watcher limit reached");
    all.pop();
    let mut client = client(&server);
    wait_for(&mut client, "log_watchers", |count| count == 19);
    assert_eq!(next.ask(""), "OK");
    assert_eq!(client.get("k"), Got::Miss);
    all.push(next);
    for watcher in &mut all {
        assert_eq!(field(&watcher.line(), "key"), "k");
    }
}

#[test]
fn what_binary_clients_do_is_told() {
    use ketch::protocol::binary::{Extras, Opcode, Request};
    let server = Peer::backend(&[]);
    let mut watcher = Watcher::start(&server, " fetchers mutations deletions");
    let request = |opcode, extras, value| Request {
        opcode,
        opaque: 0,
        cas: 0,
        extras,
        key: b"k",
        value,
    };
    let item = Extras::Item {
        flags: 0,
        exptime: 0,
    };
    let mut bytes = Vec::new();
    request(Opcode::Set, item, b"value").encode(&mut bytes);
    request(Opcode::Get, Extras::None, b"").encode(&mut bytes);
    request(Opcode::Append, Extras::None, b"!").encode(&mut bytes);
    request(Opcode::Delete, Extras::None, b"").encode(&mut bytes);
    let mut stream = TcpStream::connect(server.target().address).unwrap();
    stream.write_all(&bytes).unwrap();
    let lines = watcher.lines(7);
    let cfd = field(&lines[0], "cfd");
    let found = |size| format!("type=item_get key=k status=found clsid=1 cfd={cfd} size={size}");
    let stored = |cmd, size| {
        format!("type=item_store key=k status=stored cmd={cmd} ttl=0 clsid=1 cfd={cfd} size={size}")
    };
    assert_eq!(
        lines,
        [
            format!("type=item_get key=k status=not_found clsid=0 cfd={cfd} size=0"),
            stored("set", 5),
            found(5),
            found(5),
            stored("append", 6),
            found(6),
            "type=deleted key=k cmd=delete clsid=1 size=6".to_owned(),
        ]
    );
}

/// What is played on memcached and on our cache.
const PLAYED: &str = "set a 0 0 1\r\n1\r\nadd a 0 0 1\r\n1\r\nadd b 0 100 2\r\n22\r\n\
    replace zz 0 0 1\r\n1\r\nreplace b 0 0 1\r\n3\r\nappend b 0 50 1\r\n4\r\n\
    prepend zz 0 0 1\r\n1\r\ncas a 0 0 1 999999\r\n1\r\ncas nope 0 0 1 1\r\n1\r\n\
    set n 0 0 1\r\n5\r\nincr n 1\r\ndecr nn 1\r\nincr a 99999\r\ntouch n 10\r\ngat 0 n\r\n\
    get a b zz\r\ndelete a\r\ndelete a\r\nset a 0 0 1 noreply\r\n1\r\ndelete a noreply\r\n\
    ms m 2\r\nhi\r\nmg m v\r\nms m 2 ME\r\nhi\r\nms m 2 MA\r\nhi\r\nms m 2 C1\r\nhi\r\n\
    ms q 2 MA N30\r\nhi\r\nmg auto N30 v\r\nma nonum\r\nmd m I\r\nmd m\r\nmd m\r\nme q\r\n\
    ms YSBiJX4= 2 b\r\nhi\r\nmg YSBiJX4= b v\r\nmn\r\n";

/// The lines of what is played, without times, numbers and classes.
fn lines_of(server: &Peer) -> Vec<String> {
    let mut watcher = Watcher::start(server, " fetchers mutations deletions");
    let mut client = Client::connect(server.target().address);
    client.send(PLAYED);
    while client.line() != "MN" {}
    assert_eq!(client.get("last"), Got::Miss);
    let mut lines = Vec::new();
    loop {
        let line = watcher.line();
        if field(&line, "key") == "last" {
            return lines;
        }
        let words = line.split(' ');
        let words = words.filter(|word| !word.starts_with("cfd=") && !word.starts_with("clsid="));
        lines.push(words.collect::<Vec<_>>().join(" "));
    }
}

#[test]
fn lines_are_those_of_memcached() {
    let Some(peer) = Peer::start(&[]) else {
        return;
    };
    // Older releases tell less of an item.
    if peer.target().version < Version::NEWEST {
        return;
    }
    assert_eq!(lines_of(&Peer::backend(&[])), lines_of(&peer));
}
