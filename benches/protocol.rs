//! What it costs to cut requests and replies out of a buffer.
//!
//! `cargo bench --bench protocol`; a filter such as `meta` may follow `--`. The
//! time shown is that of one pass over a buffer which holds [`PIPELINED`]
//! requests or replies; the rate beside it counts those.

#![expect(
    clippy::panic,
    reason = "a bench whose input is not understood measures nothing"
)]

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use ketch::protocol::reply::{self, Part, Shape, fingerprint};
use ketch::protocol::{Cut, Limits, text};

fn main() {
    divan::main();
}

/// As many as a client with a deep pipeline has under way.
const PIPELINED: usize = 64;

/// Repeats what `one` makes of each number.
fn pipeline(one: impl Fn(usize) -> Vec<u8>) -> Vec<u8> {
    (0..PIPELINED).flat_map(one).collect()
}

/// Keys of 32 bytes, as applications make them.
fn key(number: usize) -> String {
    format!("session:{number:014}:profile:p")
}

/// Cuts all requests out of `stream`.
fn requests(bencher: Bencher<'_, '_>, stream: &[u8]) {
    let limits = Limits::default();
    bencher.counter(ItemsCount::new(PIPELINED)).bench_local(|| {
        let mut rest = black_box(stream);
        while !rest.is_empty() {
            let Cut::Request { len, request } = text::cut(rest, 0, &limits) else {
                panic!("not a request: {rest:?}");
            };
            black_box(request);
            rest = &rest[len..];
        }
    });
}

/// Cuts all replies of a shape out of `stream`, each checked against the key or
/// the opaque of its request.
fn replies(bencher: Bencher<'_, '_>, shape: Shape, expected: &[u64], stream: &[u8]) {
    bencher.counter(ItemsCount::new(PIPELINED)).bench_local(|| {
        let mut rest = black_box(stream);
        for expected in expected {
            let len = match reply::cut(shape, *expected, rest) {
                Ok(Part::Whole { len, .. }) => len,
                other => panic!("not a reply: {other:?}"),
            };
            rest = &rest[len..];
        }
    });
}

#[divan::bench]
fn request_get(bencher: Bencher<'_, '_>) {
    requests(bencher, &pipeline(|n| format!("get {}\r\n", key(n)).into()));
}

#[divan::bench]
fn request_get_of_ten_keys(bencher: Bencher<'_, '_>) {
    let ten = |n| {
        (0..10)
            .map(|i| key(n * 10 + i))
            .collect::<Vec<_>>()
            .join(" ")
    };
    requests(bencher, &pipeline(|n| format!("get {}\r\n", ten(n)).into()));
}

#[divan::bench(args = [32, 1024, 10 * 1024])]
fn request_set(bencher: Bencher<'_, '_>, value_bytes: usize) {
    let value = "v".repeat(value_bytes);
    let set = |n| format!("set {} 0 3600 {value_bytes}\r\n{value}\r\n", key(n));
    requests(bencher, &pipeline(|n| set(n).into()));
}

#[divan::bench]
fn request_meta_get(bencher: Bencher<'_, '_>) {
    let mg = |n| format!("mg {} v f k O{n}\r\n", key(n));
    requests(bencher, &pipeline(|n| mg(n).into()));
}

#[divan::bench]
fn request_incr(bencher: Bencher<'_, '_>) {
    requests(
        bencher,
        &pipeline(|n| format!("incr {} 1\r\n", key(n)).into()),
    );
}

#[divan::bench(args = [32, 1024, 10 * 1024])]
fn reply_hit(bencher: Bencher<'_, '_>, value_bytes: usize) {
    let value = "v".repeat(value_bytes);
    let hit = |n| format!("VALUE {} 0 {value_bytes}\r\n{value}\r\nEND\r\n", key(n));
    let expected: Vec<u64> = (0..PIPELINED)
        .map(|n| fingerprint(key(n).as_bytes()))
        .collect();
    replies(
        bencher,
        Shape::Value,
        &expected,
        &pipeline(|n| hit(n).into()),
    );
}

#[divan::bench]
fn reply_miss(bencher: Bencher<'_, '_>) {
    let stream = pipeline(|_| b"END\r\n".to_vec());
    replies(bencher, Shape::Value, &[0; PIPELINED], &stream);
}

#[divan::bench]
fn reply_stored(bencher: Bencher<'_, '_>) {
    let stream = pipeline(|_| b"STORED\r\n".to_vec());
    replies(bencher, Shape::Store, &[0; PIPELINED], &stream);
}
