//! Configurations that change under a running proxy.

use std::fs::{self, File};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::client::{Client, Got};
use crate::ketch::Ketch;
use crate::now;
use crate::scripted::{Fault, Scripted};

/// Reloads under load.
const RELOADS: usize = 50;
/// Reloads before memory and descriptors are counted: what grows once is no leak.
const WARM_UP: usize = 10;
/// Clients that ask meanwhile.
const CLIENTS: usize = 4;

const APPLIED: &str = "outcome=\"applied\"";
const REFUSED: &str = "outcome=\"refused\"";

/// A configuration of these servers.
fn config(servers: &[SocketAddr], more: &str) -> String {
    let servers: String = servers
        .iter()
        .map(|server| format!("      - {server}\n"))
        .collect();
    format!(
        "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\nworkers: 2\n{more}pools:\n  main:\n    servers:\n{servers}"
    )
}

/// The same with one value that tells versions apart.
fn version(server: &Scripted, in_flight_max: usize) -> String {
    let clients = format!("clients: {{in_flight_max: {in_flight_max}}}\n");
    Ketch::in_json(&config(&[server.address], &clients))
}

/// A directory of the test's own, gone with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let name = format!("ketch-reload-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Waits until so many configurations have been applied, and one of them in
/// force says `in_flight_max`; none must have been refused.
fn expect_applied(ketch: &Ketch, count: usize, in_flight_max: usize) {
    let count = u32::try_from(count).unwrap();
    ketch.wait_for_metric("ketch_config_reloads_total", APPLIED, f64::from(count));
    let (_, text) = ketch.ask("/config");
    let value = format!("in_flight_max: {in_flight_max}}}");
    assert!(text.contains(&value), "{text}");
    assert_eq!(ketch.metric("ketch_config_reloads_total", REFUSED), 0.0);
    assert_eq!(ketch.metric("ketch_config_last_reload_successful", ""), 1.0);
}

/// Changes a file in one way several times and expects each to be applied once.
fn check_writes(name: &str, write: impl Fn(&Path, &str)) {
    let folder = Folder::new(name);
    let server = Scripted::start(Fault::None);
    let file = folder.join("proxy.yaml");
    fs::write(&file, version(&server, 1)).unwrap();
    let ketch = Ketch::start_on(file.clone());
    for number in 2..5 {
        write(&file, &version(&server, number));
        expect_applied(&ketch, number - 1, number);
    }
    // The same text again is no change; a further one is noticed after it.
    write(&file, &version(&server, 4));
    write(&file, &version(&server, 9));
    expect_applied(&ketch, 4, 9);
    let mut client = Client::connect(ketch.address());
    assert_eq!(client.set("a", b"1"), "STORED");
}

#[test]
fn a_file_written_in_place_is_applied_once() {
    check_writes("place", |file, text| fs::write(file, text).unwrap());
}

#[test]
fn a_file_written_in_steps_is_applied_once() {
    check_writes("steps", |file, text| {
        // Empty, then a byte at a time: whoever looks early sees half a file.
        let mut file = File::create(file).unwrap();
        for byte in text.as_bytes() {
            file.write_all(&[*byte]).unwrap();
        }
    });
}

#[test]
fn a_file_renamed_into_place_is_applied_once() {
    check_writes("rename", |file, text| {
        let other = file.with_extension("swp");
        fs::write(&other, text).unwrap();
        fs::rename(&other, file).unwrap();
    });
}

#[test]
fn a_file_moved_away_and_written_anew_is_applied_once() {
    check_writes("backup", |file, text| {
        fs::rename(file, file.with_extension("yaml~")).unwrap();
        fs::write(file, text).unwrap();
    });
}

#[test]
fn a_config_map_that_is_switched_is_applied_once() {
    let folder = Folder::new("map");
    let server = Scripted::start(Fault::None);
    let put = |number: usize| {
        let name = format!("..2026_{number}");
        fs::create_dir(folder.join(&name)).unwrap();
        let file = folder.join(&name).join("proxy.yaml");
        fs::write(file, version(&server, number)).unwrap();
        symlink(&name, folder.join("..data_tmp")).unwrap();
        fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    };
    put(1);
    symlink("..data/proxy.yaml", folder.join("proxy.yaml")).unwrap();
    let ketch = Ketch::start_on(folder.join("proxy.yaml"));
    for number in 2..5 {
        put(number);
        fs::remove_dir_all(folder.join(&format!("..2026_{}", number - 1))).unwrap();
        expect_applied(&ketch, number - 1, number);
    }
}

#[test]
fn a_file_is_read_again_when_asked_although_it_is_not_watched() {
    let server = Scripted::start(Fault::None);
    let text = |number: usize| {
        let clients = format!("watch: false\nclients: {{in_flight_max: {number}}}\n");
        config(&[server.address], &clients)
    };
    let ketch = Ketch::start(&text(1));
    let (status, body) = ketch.reload(&text(2));
    assert_eq!(
        (status, body.as_str()),
        (200, "applied; 0.00 % of the keys of main move\n")
    );
    expect_applied(&ketch, 1, 2);
    fs::write(ketch.file(), Ketch::in_json(&text(3))).unwrap();
    ketch.signal(Signal::HUP);
    expect_applied(&ketch, 2, 3);
    assert_eq!(ketch.post("/reload"), (200, "unchanged\n".to_owned()));
    assert_eq!(ketch.ask("/reload").0, 405);
    assert_eq!(ketch.post("/servers").0, 405);
}

#[test]
fn a_bad_file_changes_nothing_and_is_told() {
    let server = Scripted::start(Fault::None);
    let good = config(&[server.address], "");
    let ketch = Ketch::start(&good);
    let mut client = Client::connect(ketch.address());
    assert_eq!(client.set("a", b"1"), "STORED");
    let bad = good
        .replace("127.0.0.1:0", "127.0.0.1:x")
        .replace("servers", "severs");
    let (status, problem) = ketch.reload(&bad);
    assert_eq!(status, 409);
    assert!(problem.contains("did you mean 'servers'?"), "{problem}");
    assert_eq!(ketch.metric("ketch_config_last_reload_successful", ""), 0.0);
    assert_eq!(ketch.metric("ketch_config_reloads_total", REFUSED), 1.0);
    let (_, page) = ketch.ask("/config");
    assert!(page.contains("# a newer file was refused"), "{page}");
    assert!(page.ends_with(&Ketch::in_json(&good)), "{page}");
    assert_eq!(client.get("a"), Got::Hit(b"1".to_vec()));
    // An address that cannot be had is as bad as a file that cannot be read.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    let (status, problem) = ketch.reload(&good.replacen("127.0.0.1:0", &taken.to_string(), 1));
    assert_eq!(status, 409, "{problem}");
    assert!(
        problem.starts_with(&format!("cannot listen on {taken}")),
        "{problem}"
    );
    assert_eq!(client.get("a"), Got::Hit(b"1".to_vec()));
    // What was in force is good again.
    assert_eq!(ketch.reload(&good), (200, "unchanged\n".to_owned()));
    assert_eq!(ketch.metric("ketch_config_last_reload_successful", ""), 1.0);
}

#[test]
fn what_waits_for_a_restart_is_told() {
    let server = Scripted::start(Fault::None);
    let text = config(&[server.address], "");
    let ketch = Ketch::start(&text);
    let (status, told) = ketch.reload(&text.replace("workers: 2", "workers: 3"));
    assert_eq!(status, 200);
    assert!(told.ends_with("only with a restart: workers\n"), "{told}");
    assert_eq!(ketch.metric("ketch_workers", ""), 2.0);
}

#[test]
fn a_server_that_is_removed_answers_what_it_was_asked_and_is_left() {
    let (stays, goes) = (
        Scripted::start(Fault::None),
        Scripted::start(Fault::Holding),
    );
    let ketch = Ketch::start(&config(&[goes.address], ""));
    let mut client = Client::connect(ketch.address());
    client.send("set a 0 0 1\r\n1\r\n");
    ketch.wait_for_metric("ketch_server_in_flight", "", 1.0);
    assert_eq!(ketch.reload(&config(&[stays.address], "")).0, 200);
    let mut other = Client::connect(ketch.address());
    assert_eq!(other.set("a", b"2"), "STORED");
    goes.set(Fault::None);
    assert_eq!(client.line(), "STORED");
    let deadline = now() + Duration::from_secs(10);
    while goes.connections() > 0 {
        assert!(now() < deadline, "{} connections", goes.connections());
        thread::yield_now();
    }
    assert_eq!(goes.value(b"a"), Some(b"1".to_vec()));
    assert_eq!(stays.value(b"a"), Some(b"2".to_vec()));
}

#[test]
fn listeners_come_and_go_and_lead_elsewhere() {
    let folder = Folder::new("listeners");
    let (one, other) = (Scripted::start(Fault::None), Scripted::start(Fault::None));
    let socket = folder.join("ketch.sock");
    let text = |listen: &str| {
        format!(
            "listen: {listen}\nadmin: 127.0.0.1:0\nroute: a\npools:\n  a: {{servers: [{}]}}\n  b: {{servers: [{}]}}\n",
            one.address, other.address
        )
    };
    let only = text("[127.0.0.1:0]");
    let ketch = Ketch::start(&only);
    let mut client = Client::connect(ketch.address());
    assert_eq!(client.set("k", b"1"), "STORED");
    assert_eq!(one.value(b"k"), Some(b"1".to_vec()));
    let both = text(&format!(
        "[{{address: 127.0.0.1:0, route: b}}, {{address: 'unix:{}'}}]",
        socket.display()
    ));
    assert_eq!(ketch.reload(&both).0, 200);
    assert_eq!(
        client.set("k", b"2"),
        "STORED",
        "the same client, elsewhere"
    );
    assert_eq!(other.value(b"k"), Some(b"2".to_vec()));
    let mut local = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    local.write_all(b"get k\r\n").unwrap();
    let mut answer = vec![0; b"VALUE k 0 1\r\n1\r\nEND\r\n".len()];
    std::io::Read::read_exact(&mut local, &mut answer).unwrap();
    assert_eq!(answer, b"VALUE k 0 1\r\n1\r\nEND\r\n");
    assert_eq!(ketch.reload(&only).0, 200);
    // Its clients are let go, and its file is.
    assert_eq!(std::io::Read::read(&mut local, &mut answer).unwrap(), 0);
    assert!(!socket.exists());
    assert_eq!(client.set("k", b"3"), "STORED");
    assert_eq!(one.value(b"k"), Some(b"3".to_vec()));
}

/// Asks until `done`, and fails at the first answer that is none.
fn ask(address: SocketAddr, client: usize, done: &AtomicBool, asked: &AtomicU64) {
    let mut connection = Client::connect(address);
    let mut round = 0_u64;
    while !done.load(Ordering::SeqCst) {
        let keys: Vec<_> = (0..16).map(|at| format!("c{client}k{at}")).collect();
        let mut pipeline = String::new();
        for key in &keys {
            let value = format!("{key}={round}");
            pipeline += &format!("set {key} 0 0 {}\r\n{value}\r\nget {key}\r\n", value.len());
        }
        connection.send(&pipeline);
        for key in &keys {
            assert_eq!(connection.line(), "STORED", "{key}");
            match connection.got(key) {
                // A key may have moved, and may have been there before.
                Got::Miss => {}
                Got::Hit(value) => {
                    let mine = format!("{key}=");
                    assert!(value.starts_with(mine.as_bytes()), "{key}: {value:?}");
                }
                Got::Error(error) => unreachable!("{key}: {error}"),
            }
        }
        connection.send(format!("get {}\r\n", keys.join(" ")));
        let (_, end) = connection.got_many();
        assert_eq!(end, "END");
        asked.fetch_add(33, Ordering::SeqCst);
        round += 1;
    }
}

#[test]
fn fifty_reloads_under_load_cost_nobody_anything() {
    let folder = Folder::new("fifty");
    let stay: Vec<_> = (0..3).map(|_| Scripted::start(Fault::None)).collect();
    let comes = Scripted::start(Fault::None);
    let socket = folder.join("ketch.sock");
    let text = |round: usize| {
        let mut servers: Vec<_> = stay.iter().map(|server| server.address).collect();
        let turn = round % servers.len();
        servers.rotate_left(turn);
        let mut servers: Vec<_> = servers
            .iter()
            .enumerate()
            .map(|(at, server)| format!("{server}:{}", if at == 0 { 1 + round % 4 } else { 1 }))
            .collect();
        if round % 2 == 1 {
            servers.insert(round % 3, comes.address.to_string());
        }
        let second = match round % 3 {
            0 => format!(", 'unix:{}'", socket.display()),
            _ => String::new(),
        };
        format!(
            "listen: [127.0.0.1:0{second}]\nadmin: 127.0.0.1:0\nworkers: 2\nwatch: false\npools: {{main: {{servers: [{}]}}}}\n",
            servers.join(", ")
        )
    };
    let ketch = Ketch::start(&text(0));
    let address = ketch.address();
    let connects = |ketch: &Ketch| -> Vec<f64> {
        let of = |server: &Scripted| {
            let label = format!("server=\"{}\"", server.address);
            ketch.metric("ketch_server_connects_total", &label)
        };
        stay.iter().map(of).collect()
    };
    for server in &stay {
        let label = format!("server=\"{}\"", server.address);
        ketch.wait_for_metric("ketch_server_connects_total", &label, 2.0);
    }
    let (done, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let (done, asked) = (&done, &asked);
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| scope.spawn(move || ask(address, client, done, asked)))
            .collect();
        let mut before = (0, 0, 0);
        for round in 1..=WARM_UP + RELOADS {
            if clients.iter().any(|client| client.is_finished()) {
                break;
            }
            // Some requests of each configuration.
            let until = asked.load(Ordering::SeqCst) + 500;
            let deadline = now() + Duration::from_secs(10);
            while asked.load(Ordering::SeqCst) < until && now() < deadline {
                thread::yield_now();
            }
            let (status, told) = ketch.reload(&text(round));
            assert_eq!(status, 200, "{told}");
            if round == WARM_UP {
                before = (
                    ketch.status("VmRSS"),
                    ketch.status("Threads"),
                    ketch.descriptors(),
                );
            }
        }
        let after = (
            ketch.status("VmRSS"),
            ketch.status("Threads"),
            ketch.descriptors(),
        );
        done.store(true, Ordering::SeqCst);
        for client in clients {
            client.join().unwrap();
        }
        println!(
            "{} requests; KiB resident, threads, descriptors: {before:?} -> {after:?}",
            asked.load(Ordering::SeqCst)
        );
        // Configurations differ by a server and a listener, and a reload may be
        // going on.
        assert!(
            after.0 <= before.0 + 2048,
            "memory: {before:?} -> {after:?}"
        );
        assert!(after.1 <= before.1 + 1, "threads: {before:?} -> {after:?}");
        assert!(
            after.2 <= before.2 + 6,
            "descriptors: {before:?} -> {after:?}"
        );
    });
    assert_eq!(connects(&ketch), [2.0, 2.0, 2.0], "reconnects");
    assert_eq!(ketch.metric("ketch_failures_told_total", ""), 0.0);
    assert_eq!(ketch.metric("ketch_server_failures_total", ""), 0.0);
}
