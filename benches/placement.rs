//! What it costs to find the server of a key.
//!
//! `cargo bench --bench placement`; a filter such as `hash` or `ketama` may
//! follow `--`. The time shown is that of one key, of 32 bytes unless it says
//! otherwise; each iteration takes the next of 1 024 keys, so that branches are
//! not learnt by heart.

#![expect(
    clippy::unwrap_used,
    reason = "a pool that cannot be built ends the bench"
)]

use divan::{Bencher, black_box};
use ketch::router::{Distribution, Hash, Member, Placement, Settings};

fn main() {
    divan::main();
}

const SERVERS: [usize; 3] = [4, 25, 100];

/// Keys as applications make them: words, numbers and colons.
fn keys(length: usize) -> Vec<Vec<u8>> {
    (0..1024_u64)
        .map(|number| {
            let number = Hash::Xxh3_64.hash(&number.to_le_bytes());
            let mut key = format!("session:{number:020}:profile:").into_bytes();
            key.resize(length, b'x');
            key
        })
        .collect()
}

/// Hands out the keys one after another, for ever.
fn next<'a>(keys: &'a [Vec<u8>], place: &mut usize) -> &'a [u8] {
    *place = (*place + 1) % keys.len();
    black_box(&keys[*place])
}

fn placement(settings: &Settings, servers: usize) -> Placement {
    let mut members: Vec<Member> = (0..servers)
        .map(|i| Member::new(format!("10.0.{}.{}", i / 250, i % 250), Some(11211)))
        .collect();
    if settings.distribution == Distribution::Range {
        for (place, member) in members.iter_mut().enumerate().skip(1) {
            member.range_start = Some(format!("session:{place:03}").into_bytes());
        }
    }
    Placement::new(settings, &members).unwrap().0
}

fn pick(bencher: Bencher<'_, '_>, placement: &Placement) {
    let keys = keys(32);
    let mut place = 0;
    bencher.bench_local(|| placement.pick(next(&keys, &mut place)));
}

#[divan::bench(args = Hash::ALL)]
fn hash_32_bytes(bencher: Bencher<'_, '_>, hash: Hash) {
    let keys = keys(32);
    let mut place = 0;
    bencher.bench_local(|| hash.hash(next(&keys, &mut place)));
}

#[divan::bench(args = Hash::ALL)]
fn hash_200_bytes(bencher: Bencher<'_, '_>, hash: Hash) {
    let keys = keys(200);
    let mut place = 0;
    bencher.bench_local(|| hash.hash(next(&keys, &mut place)));
}

#[divan::bench(args = Distribution::ALL, consts = SERVERS)]
fn pick_natural<const N: usize>(bencher: Bencher<'_, '_>, distribution: Distribution) {
    let settings = Settings {
        distribution,
        ..Settings::default()
    };
    pick(bencher, &placement(&settings, N));
}

/// With the fastest hash, so that the distribution itself shows.
#[divan::bench(args = [Distribution::Ketama, Distribution::Modula, Distribution::Jump], consts = SERVERS)]
fn pick_xxh3<const N: usize>(bencher: Bencher<'_, '_>, distribution: Distribution) {
    let settings = Settings {
        distribution,
        hash: Some(Hash::Xxh3_64),
        ..Settings::default()
    };
    pick(bencher, &placement(&settings, N));
}

#[divan::bench(args = [None, Some("{}"), Some("::")])]
fn pick_with_tag(bencher: Bencher<'_, '_>, tag: Option<&str>) {
    let settings = Settings {
        hash_tag: tag.map(str::to_owned),
        ..Settings::default()
    };
    pick(bencher, &placement(&settings, 25));
}

#[divan::bench(args = ["|#|", ":p"])]
fn pick_with_stop(bencher: Bencher<'_, '_>, stop: &str) {
    let settings = Settings {
        hash_stop: Some(stop.to_owned()),
        ..Settings::default()
    };
    pick(bencher, &placement(&settings, 25));
}

#[divan::bench(args = SERVERS)]
fn build_ketama(bencher: Bencher<'_, '_>, servers: usize) {
    bencher.bench(|| placement(&Settings::default(), servers));
}
