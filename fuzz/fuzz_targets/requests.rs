//! Text and meta requests from raw bytes: nothing may panic, any cut of the
//! bytes gives the same requests, and what would go to a server is a request
//! again that means the same and is answered.
#![no_main]

use ketch::protocol::request::Wire;
use ketch::protocol::{Cut, Limits, Request, text};
use libfuzzer_sys::fuzz_target;

/// What a session makes of `stream` when it arrives in pieces of the given sizes.
fn told(stream: &[u8], mut sizes: impl Iterator<Item = usize>) -> Vec<String> {
    let limits = Limits {
        value_bytes_max: 100,
        line_bytes_max: 3000,
        ..Limits::default()
    };
    let (mut at, mut skip, mut scanned, mut until) = (0, 0, 0, 0);
    let mut out = Vec::new();
    while until < stream.len() {
        until = (until + sizes.next().unwrap_or(stream.len()).max(1)).min(stream.len());
        loop {
            let passed = skip.min(until - at);
            at += passed;
            skip -= passed;
            let have = &stream[at..until];
            if have.is_empty() {
                break;
            }
            match text::cut(have, scanned, &limits) {
                Cut::Request { request, len } => {
                    check_wire(&request);
                    out.push(format!("{request:?}"));
                    at += len;
                    scanned = 0;
                }
                Cut::Refused {
                    error,
                    silent,
                    len,
                    swallow,
                    replaced,
                } => {
                    out.push(format!("{error:?} {silent} {replaced:?}"));
                    assert!(len > 0);
                    at += len;
                    skip = swallow;
                    scanned = 0;
                }
                Cut::Announced { .. } => unreachable!("no value is announced"),
                Cut::More { need } => {
                    assert!(need > have.len());
                    scanned = if have.contains(&b'\n') { 0 } else { have.len() };
                    break;
                }
                Cut::Close => {
                    out.push("close".to_owned());
                    return out;
                }
            }
        }
    }
    out
}

fn check_wire(request: &Request<'_>) {
    let wire: Wire<'_> = match request {
        Request::Retrieve(retrieve) => retrieve.wire(),
        Request::Store(store) => store.wire,
        Request::Change(change) => change.wire,
        Request::Meta(meta) => meta.wire,
        Request::Admin(_) => return,
    };
    let sent = [wire.line.concat(), wire.block.to_vec()].concat();
    match text::cut(&sent, 0, &Limits::default()) {
        Cut::Request { request, len } => {
            assert_eq!(len, sent.len());
            let quiet = match &request {
                Request::Store(store) => store.noreply,
                Request::Change(change) => change.noreply,
                Request::Meta(meta) => meta.is_quiet(),
                _ => false,
            };
            assert!(!quiet, "{request:?}");
        }
        other => panic!("{other:?}"),
    }
}

fuzz_target!(|input: (Vec<u8>, Vec<u8>)| {
    let (stream, sizes) = input;
    let whole = told(&stream, std::iter::empty());
    let cut = told(&stream, sizes.into_iter().map(usize::from));
    assert_eq!(whole, cut);
});
