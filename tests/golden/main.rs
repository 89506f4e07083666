//! Placement against what the originals answered.
//!
//! Each file beside this one holds the servers that a peer picked for 100 000
//! keys; README.md says how they were recorded. A release build checks all of
//! them; a debug build, ten times slower, the first tenth of each pool.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a file that cannot be read or a pick that differs fails the test"
)]

mod file;
mod keys;

use std::path::Path;

use file::{Pool, Recorded};
use ketch::router::{Distribution, Hash, Placement, ServerOrder, Settings};

/// Picks that one digest covers.
const BLOCK: usize = 1_000;
/// Blocks of each pool that are checked.
const BLOCKS: usize = if cfg!(debug_assertions) { 10 } else { 100 };

#[test]
fn nutcracker_picks_the_same_servers() {
    // Twelve hashes, two distributions and six lists of servers, and more.
    assert!(check_all("twemproxy") >= 144);
}

#[test]
fn libmemcached_picks_the_same_servers() {
    assert!(check_all("libmemcached") >= 90);
}

#[test]
fn memcacheds_proxy_picks_the_same_servers() {
    assert!(check_all("memcached") >= 22);
}

/// Checks every file of a directory; returns how many pools there were.
fn check_all(directory: &str) -> usize {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(directory);
    let keys: Vec<Vec<u8>> = (0..BLOCKS * BLOCK).map(keys::key).collect();
    let mut pools = 0;
    for entry in path.read_dir().unwrap() {
        let path = entry.unwrap().path();
        let recorded = Recorded::read(&path);
        for pool in &recorded.pools {
            let name = format!("{}, {:?}", path.display(), pool.options);
            check(&placement(&recorded, pool), pool, &keys, &name);
            pools += 1;
        }
    }
    pools
}

/// The placement that a recorded pool describes.
fn placement(recorded: &Recorded, pool: &Pool) -> Placement {
    let mut settings = Settings::default();
    for (option, value) in &pool.options {
        match option.as_str() {
            "distribution" => settings.distribution = Distribution::from_name(value).unwrap(),
            "hash" => settings.hash = Some(Hash::from_name(value).unwrap()),
            "hash_tag" => settings.hash_tag = Some(value.clone()),
            "hash_stop" => settings.hash_stop = Some(value.clone()),
            "server_order" => settings.server_order = Some(ServerOrder::from_name(value).unwrap()),
            "seed" => settings.seed = Some(value.clone()),
            other => panic!("no such option: {other}"),
        }
    }
    let (placement, _) = Placement::new(&settings, &recorded.members).unwrap();
    placement.rebuild(&recorded.alive).unwrap()
}

/// Checks the first picks one by one, which tells which key differs, and all by
/// their digests.
fn check(placement: &Placement, pool: &Pool, keys: &[Vec<u8>], name: &str) {
    let picks: Vec<usize> = keys.iter().map(|key| placement.pick(key)).collect();
    for (number, (pick, expected)) in picks.iter().zip(&pool.first).enumerate() {
        let key = keys[number].escape_ascii();
        assert_eq!(pick, expected, "{name}: key {number}, '{key}'");
    }
    for (number, (block, expected)) in picks.chunks(BLOCK).zip(&pool.blocks).enumerate() {
        let digest = block
            .iter()
            .fold(0xcbf2_9ce4_8422_2325, |digest: u64, pick| {
                (digest ^ *pick as u64).wrapping_mul(0x0100_0000_01b3)
            });
        assert_eq!(digest, *expected, "{name}: keys {} on", number * BLOCK);
    }
}
