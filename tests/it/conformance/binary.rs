//! The exchanges of the binary protocol, on memcached and through the proxy in
//! both ways that it asks servers in.

use super::play::Sentinel;
use super::play_all;
use crate::ketch::Ketch;
use crate::peer::Peer;
use crate::target::{Kind, Target};

/// Plays every binary exchange on `target`.
fn check(target: &Target) {
    play_all("tests/conformance/binary", Sentinel::BINARY, target);
}

fn check_proxy(name: &str, pool: &str, servers: &[Peer]) {
    let listed: String = servers
        .iter()
        .map(|server| format!("      - {}\n", server.target().address))
        .collect();
    let ketch = Ketch::start(&format!(
        "listen: 127.0.0.1:0\nadmin: off\nclients:\n  flush_all: true\npools:\n  main:\n    timeout: 10s\n    stall_timeout: 20s\n{pool}    servers:\n{listed}"
    ));
    let behind = servers[0].target();
    let release = (behind.kind == Kind::Memcached).then_some(behind.version);
    let name = format!("ketch proxy, {name}");
    check(&Target::proxy(&name, release, ketch.address()));
}

#[test]
fn memcached_answers_in_binary_as_recorded() {
    if let Some(peer) = Peer::start(&[]) {
        check(peer.target());
    }
}

#[test]
fn the_proxy_answers_in_binary_as_memcached() {
    if let Some(peers) = Peer::several(3) {
        check_proxy("as_client", "", &peers);
    }
}

#[test]
fn the_proxy_answers_in_binary_over_meta_as_memcached() {
    if let Some(peers) = Peer::several(3) {
        check_proxy("meta", "    server_protocol: meta\n", &peers);
    }
}

#[test]
fn the_proxy_answers_in_binary_over_replicas_as_memcached() {
    let Some(peers) = Peer::several(3) else {
        return;
    };
    let ketch = super::over_a_shard(&peers, "");
    let behind = Some(peers[0].target().version);
    check(&Target::proxy(
        "ketch proxy over replicas",
        behind,
        ketch.address(),
    ));
}

#[test]
fn the_bundled_cache_answers_in_binary_as_memcached() {
    check(Peer::backend(&[]).target());
}

#[test]
fn the_proxy_over_the_bundled_cache_answers_in_binary_both_ways() {
    let servers: Vec<_> = (0..3).map(|_| Peer::backend(&[])).collect();
    check_proxy("as_client over ketch backend", "", &servers);
    check_proxy(
        "meta over ketch backend",
        "    server_protocol: meta\n",
        &servers,
    );
}

#[test]
fn the_proxy_answers_in_binary_from_its_own_caches_as_memcached() {
    let ketch = Ketch::start(
        "listen: 127.0.0.1:0\nadmin: off\nclients:\n  flush_all: true\npools:\n  main:\n    servers: [embedded, embedded, embedded]\n",
    );
    check(&Target::proxy(
        "ketch proxy over embedded caches",
        None,
        ketch.address(),
    ));
}
