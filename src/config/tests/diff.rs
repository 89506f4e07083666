//! Tests of what differs between two files.

use super::*;
use crate::config::diff::Diff;

fn diff(old: &str, new: &str) -> Diff {
    Diff::new(&good(old), &good(new))
}

const THREE: &str = "pools: {main: {servers: [192.0.2.1:1, 192.0.2.2:1, 192.0.2.3:1]}}";

fn percent(diff: &Diff) -> f64 {
    let [moved] = &diff.moves[..] else {
        panic!("{:?}", diff.moves);
    };
    moved.percent.unwrap()
}

#[test]
fn equal_files_do_not_differ() {
    let same = diff(THREE, THREE);
    assert!(same.is_empty(), "{same:?}");
    assert_eq!(percent(&same), 0.0);
}

#[test]
fn a_server_that_comes_takes_its_share() {
    let four = "pools: {main: {servers: [192.0.2.1:1, 192.0.2.2:1, 192.0.2.3:1, 192.0.2.4:1]}}";
    let diff = diff(THREE, four);
    assert_eq!(diff.servers_added, ["main: 192.0.2.4:1"]);
    assert!((20.0..30.0).contains(&percent(&diff)), "{diff:?}");
    assert!(!diff.is_empty());
}

#[test]
fn another_order_of_a_ring_moves_nothing_and_another_address_does() {
    let turned = "pools: {main: {servers: [192.0.2.3:1, 192.0.2.1:1, 192.0.2.2:1]}}";
    assert_eq!(percent(&diff(THREE, turned)), 0.0);
    let named = "pools: {main: {servers: [192.0.2.1:1:1 a, 192.0.2.2:1:1 b]}}";
    let moved = "pools: {main: {servers: [192.0.2.1:1:1 a, 192.0.2.9:1:1 b]}}";
    let diff = diff(named, moved);
    assert!((40.0..60.0).contains(&percent(&diff)), "{diff:?}");
    assert_eq!(diff.servers_added, ["main: b (192.0.2.9:1)"]);
    assert_eq!(diff.servers_removed, ["main: b (192.0.2.2:1)"]);
}

#[test]
fn a_listener_that_leads_to_another_pool_moves_its_keys() {
    let pools = "pools: {a: {servers: [192.0.2.1:1]}, b: {servers: [192.0.2.2:1]}}";
    let old = format!("listen: [127.0.0.1:1, 127.0.0.1:2]\nroute: a\n{pools}");
    let new = format!("listen: [127.0.0.1:2, 127.0.0.1:3]\nroute: b\n{pools}");
    let diff = diff(&old, &new);
    assert_eq!(diff.listeners_added, ["127.0.0.1:3"]);
    assert_eq!(diff.listeners_removed, ["127.0.0.1:1"]);
    let [moved] = &diff.moves[..] else {
        panic!("{:?}", diff.moves);
    };
    assert_eq!((moved.from.as_str(), moved.to.as_str()), ("a", "b"));
    assert_eq!(moved.listeners, ["127.0.0.1:2"]);
    assert_eq!(moved.percent, Some(100.0));
}

#[test]
fn values_and_weights_are_told_and_what_waits_for_a_restart() {
    let old = "workers: 1\npools: {main: {timeout: 2s, servers: [192.0.2.1:1:1, 192.0.2.2:1:1]}}";
    let new = "workers: 2\npools: {main: {failures: 5, servers: [192.0.2.1:1:3, 192.0.2.2:1:1]}}";
    let diff = diff(old, new);
    let told: Vec<_> = diff
        .values
        .iter()
        .map(|value| format!("{}: {} -> {}", value.path, value.old, value.new))
        .collect();
    assert_eq!(
        told,
        [
            "pools.main.failures: 3 -> 5",
            "pools.main.timeout: 2s -> 1s",
            "workers: 1 -> 2",
            "pools.main: weight of 192.0.2.1:1: 1 -> 3",
        ]
    );
    assert_eq!(diff.after_restart, ["workers"]);
}

#[test]
fn sockets_that_stay_are_as_they_were_made() {
    let text =
        |listen: &str| format!("listen: [{listen}]\npools: {{main: {{servers: [192.0.2.1:1:1]}}}}");
    let old = text("{address: 127.0.0.1:1}, {address: /run/k.sock, mode: 600}, 127.0.0.1:2");
    let same = diff(
        &old,
        &text("127.0.0.1:1, {address: 127.0.0.1:3, reuse_port: true}"),
    );
    assert!(same.after_restart.is_empty(), "one goes, one comes");
    let new = diff(
        &old,
        &text("{address: 127.0.0.1:1, reuse_port: true}, {address: /run/k.sock, mode: 660}"),
    );
    assert_eq!(new.after_restart, ["listen.mode", "listen.reuse_port"]);
}

#[test]
fn random_pools_have_no_place_that_a_key_could_leave() {
    let random = "pools: {main: {distribution: random, servers: [192.0.2.1:1, 192.0.2.2:1]}}";
    let diff = diff(random, random);
    assert_eq!(diff.moves[0].percent, None);
}
