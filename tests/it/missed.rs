//! No stale data on return: a server that was away serves nothing of what was
//! changed, or tried to be changed, meanwhile.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::client::{Client, Got};
use crate::ketch::Ketch;
use crate::now;
use crate::peer::Peer;

/// Keys that are changed while a server is away. `MISSED_KEYS` sets another
/// number: 100000 is the full test.
fn key_count() -> usize {
    std::env::var("MISSED_KEYS").map_or(4000, |count| count.parse().unwrap())
}

/// How long a server may take to be back.
const BACK_MAX: Duration = Duration::from_secs(60);

/// Requests in flight of a client of these tests.
const DEPTH: usize = 500;

fn proxy(servers: &[SocketAddr], top: &str, pool: &str) -> Ketch {
    let servers: Vec<_> = servers.iter().map(|server| format!("'{server}'")).collect();
    Ketch::start(&format!(
        "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\nworkers: 2\n{top}pools:\n  main:\n    timeout: 150ms\n    probe_first: 20ms\n    probe_max: 40ms\n    ramp: 0\n{pool}    servers: [{}]\n",
        servers.join(", "),
    ))
}

fn key(number: usize) -> String {
    format!("some:key:{number}")
}

/// Sends a request for each number and reads the line that answers each.
fn each(address: SocketAddr, count: usize, request: impl Fn(usize) -> String) -> Vec<String> {
    let mut client = Client::connect(address);
    let mut answers = Vec::with_capacity(count);
    for start in (0..count).step_by(DEPTH) {
        let numbers = start..count.min(start + DEPTH);
        let requests: String = numbers.clone().map(&request).collect();
        client.send(requests);
        answers.extend(numbers.map(|_| client.line()));
    }
    answers
}

fn set(number: usize, version: &str) -> String {
    let value = format!("{}={version}", key(number));
    format!("set {} 0 0 {}\r\n{value}\r\n", key(number), value.len())
}

/// What is read under each key.
fn read_all(address: SocketAddr, count: usize) -> Vec<Got> {
    let mut client = Client::connect(address);
    let mut values = Vec::with_capacity(count);
    for start in (0..count).step_by(DEPTH) {
        let numbers = start..count.min(start + DEPTH);
        let requests: String = numbers
            .clone()
            .map(|number| format!("get {}\r\n", key(number)))
            .collect();
        client.send(requests);
        values.extend(numbers.map(|number| client.got(&key(number))));
    }
    values
}

/// What was read must be what was written last, or nothing.
fn assert_fresh(values: &[Got], may_be: impl Fn(usize) -> &'static str) {
    let stale: Vec<_> = values
        .iter()
        .enumerate()
        .filter(|(number, got)| {
            let fresh = format!("{}={}", key(*number), may_be(*number)).into_bytes();
            !matches!(got, Got::Miss) && **got != Got::Hit(fresh)
        })
        .collect();
    assert!(
        stale.is_empty(),
        "{} of {}: {:?}",
        stale.len(),
        values.len(),
        &stale[..stale.len().min(5)]
    );
}

/// Waits until all servers are asked and nothing is left to be deleted.
fn wait_until_clean(proxy: &Ketch, servers: usize) {
    let deadline = now() + BACK_MAX;
    while proxy.metric("ketch_server_up", "") < servers as f64
        || proxy.metric("ketch_server_missed_keys", "") > 0.0
    {
        assert!(now() < deadline, "{:#?}", proxy.log_lines());
        thread::sleep(Duration::from_millis(5));
    }
}

fn wait_for(proxy: &Ketch, name: &str, at_least: f64) {
    let deadline = now() + BACK_MAX;
    while proxy.metric(name, "") < at_least {
        assert!(now() < deadline, "{name}: {:#?}", proxy.log_lines());
        thread::sleep(Duration::from_millis(5));
    }
}

/// Reads keys one after another for as long as `watching`, and panics on a value
/// of the first version.
fn watch(address: SocketAddr, count: usize, watching: &AtomicBool) -> usize {
    let mut client = Client::connect(address);
    let mut reads = 0;
    while watching.load(Ordering::SeqCst) {
        let number = reads * 31 % count;
        let old = format!("{}=old", key(number)).into_bytes();
        assert_ne!(client.get(&key(number)), Got::Hit(old), "{number}");
        reads += 1;
    }
    reads
}

/// Stops one of three servers, changes all keys, lets it go on.
fn changed_while_one_hangs(pool: &str, before_return: impl Fn(&Ketch)) {
    let Some(peers) = Peer::several(3) else {
        return;
    };
    let count = key_count();
    let servers: Vec<_> = peers.iter().map(|peer| peer.target().address).collect();
    let proxy = proxy(&servers, "", pool);
    let address = proxy.address();
    let stored = each(address, count, |number| set(number, "old"));
    assert!(stored.iter().all(|line| line == "STORED"));

    peers[1].pause();
    let answers = each(address, count, |number| match number % 4 {
        0 => format!("delete {}\r\n", key(number)),
        _ => set(number, "new"),
    });
    let failed = answers
        .iter()
        .filter(|line| line.starts_with("SERVER_ERROR"))
        .count();
    assert!(failed > count / 10, "{failed}");
    before_return(&proxy);

    let watching = AtomicBool::new(true);
    thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(address, count, &watching));
        peers[1].resume();
        wait_until_clean(&proxy, 3);
        watching.store(false, Ordering::SeqCst);
        assert!(watcher.join().unwrap() > 0);
    });
    assert_fresh(&read_all(address, count), |_| "new");
    // A deleted key that still holds something holds what was set too late.
    let deleted = read_all(address, count).into_iter().step_by(4);
    assert!(deleted.eq(std::iter::repeat_n(Got::Miss, count.div_ceil(4))));
    assert!(proxy.metric("ketch_server_missed_replayed_total", "") > 0.0);

    // Nothing that is still under way may replace what is written from now on.
    let stored = each(address, count, |number| set(number, "newer"));
    assert!(stored.iter().all(|line| line == "STORED"));
    let values = read_all(address, count);
    assert_fresh(&values, |_| "newer");
    assert!(values.iter().all(|got| *got != Got::Miss));
}

#[test]
fn what_changed_while_a_server_hung_is_not_read_from_it() {
    changed_while_one_hangs("    stall_timeout: 60s\n", |_| {});
}

#[test]
fn changes_left_on_connections_that_were_given_up_do_not_come_back() {
    // The connections stall and are closed; the server still has their bytes.
    changed_while_one_hangs("    stall_timeout: 200ms\n", |proxy| {
        let deadline = now() + BACK_MAX;
        while proxy.metric("ketch_server_connections", "") > 5.0 {
            assert!(now() < deadline);
            thread::sleep(Duration::from_millis(5));
        }
    });
}

/// A folder that is removed when dropped.
struct Folder(std::path::PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_proxy_that_was_killed_forgets_nothing() {
    let Some(peer) = Peer::start(&[]) else {
        return;
    };
    let count = key_count();
    let servers = [peer.target().address];
    let name = format!("ketch-missed-{}", std::process::id());
    let folder = Folder(std::env::temp_dir().join(name));
    let top = format!("missed_keys_dir: {}\n", folder.0.display());
    let start = || proxy(&servers, &top, "");
    let first = start();
    let stored = each(first.address(), count, |number| set(number, "old"));
    assert!(stored.iter().all(|line| line == "STORED"));
    peer.pause();
    let answers = each(first.address(), count, |number| match number % 4 {
        0 => format!("delete {}\r\n", key(number)),
        _ => set(number, "new"),
    });
    assert!(answers.iter().all(|line| line.starts_with("SERVER_ERROR")));
    let deadline = now() + BACK_MAX;
    while first.metric("ketch_server_missed_unwritten_bytes", "") > 0.0 {
        assert!(now() < deadline);
        thread::sleep(Duration::from_millis(2));
    }
    // SIGKILL: it has no chance to say good-bye.
    drop(first);

    peer.resume();
    let second = start();
    // Reads begin at once, before everything is deleted.
    assert_fresh(&read_all(second.address(), count), |_| "new");
    wait_until_clean(&second, 1);
    assert_fresh(&read_all(second.address(), count), |_| "new");
    let stored = each(second.address(), count, |number| set(number, "newer"));
    assert!(stored.iter().all(|line| line == "STORED"));
    assert_fresh(&read_all(second.address(), count), |_| "newer");
    let replayed = second.metric("ketch_server_missed_replayed_total", "");
    assert!(replayed >= count as f64, "{replayed}");

    // And what is done is done.
    drop(second);
    let third = start();
    assert_eq!(third.metric("ketch_server_missed_total", ""), 0.0);
    let values = read_all(third.address(), count);
    assert!(values.iter().all(|got| *got != Got::Miss));
    assert_eq!(
        third.metric("ketch_server_missed_journal_errors_total", ""),
        0.0
    );
}

#[test]
fn more_keys_than_are_remembered_flush_the_server() {
    let Some(peer) = Peer::start(&[]) else {
        return;
    };
    let proxy = proxy(
        &[peer.target().address],
        "missed_keys_max: 10\n",
        "    stall_timeout: 60s\n",
    );
    let address = proxy.address();
    let count = 200;
    each(address, count, |number| set(number, "old"));
    peer.pause();
    each(address, count / 2, |number| set(number, "new"));
    peer.resume();
    wait_until_clean(&proxy, 1);
    assert!(read_all(address, count).iter().all(|got| *got == Got::Miss));
    assert_eq!(proxy.metric("ketch_server_missed_flushes_total", ""), 1.0);
    assert!(proxy.metric("ketch_server_missed_overflows_total", "") > 0.0);
}

#[test]
fn more_keys_than_are_remembered_are_stale_if_that_is_wanted() {
    let Some(peer) = Peer::start(&[]) else {
        return;
    };
    let proxy = proxy(
        &[peer.target().address],
        "missed_keys_max: 10\non_return: serve\n",
        "    stall_timeout: 60s\n",
    );
    let address = proxy.address();
    let count = 200;
    each(address, count, |number| set(number, "old"));
    peer.pause();
    each(address, 1, |number| set(number, "new"));
    wait_for(&proxy, "ketch_server_missed_total", 1.0);
    let failed = each(address, count, |number| {
        format!("delete {}\r\n", key(number))
    });
    assert!(failed.iter().all(|line| line.starts_with("SERVER_ERROR")));
    peer.resume();
    wait_until_clean(&proxy, 1);
    assert_eq!(proxy.metric("ketch_server_missed_flushes_total", ""), 0.0);
    assert_eq!(proxy.metric("ketch_server_missed_replayed_total", ""), 10.0);
}
