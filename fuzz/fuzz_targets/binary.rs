//! Binary requests and responses from raw bytes: nothing may panic, any cut of
//! the bytes gives the same, and what was decoded encodes to bytes that decode
//! to the same.
#![no_main]

use ketch::protocol::Limits;
use ketch::protocol::binary::{Cut, HEADER_BYTES, cut, response};
use libfuzzer_sys::fuzz_target;

const LIMITS: Limits = Limits {
    value_bytes_max: 100,
    announce_bytes_min: usize::MAX,
    line_bytes_max: 0,
    opaque_bytes_max: 0,
};

/// What a session makes of `stream` when it arrives in pieces of the given sizes.
fn told(stream: &[u8], mut sizes: impl Iterator<Item = usize>) -> Vec<String> {
    let (mut at, mut skip, mut until) = (0, 0, 0);
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
            match cut(have, &LIMITS) {
                Cut::Request { request, len } => {
                    let mut bytes = Vec::new();
                    request.encode(&mut bytes);
                    assert_eq!(bytes.len(), len);
                    assert_eq!(cut(&bytes, &LIMITS), Cut::Request { request, len });
                    out.push(format!("{request:?}"));
                    at += len;
                }
                Cut::Refused(refused) => {
                    assert!(refused.len >= HEADER_BYTES);
                    out.push(format!("{refused:?}"));
                    if refused.closes {
                        return out;
                    }
                    at += refused.len;
                    skip = refused.swallow;
                }
                Cut::More { need } => {
                    assert!(need > have.len());
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

fn respond(bytes: &[u8]) {
    match response::cut(bytes) {
        Ok(Ok((got, len))) => {
            let mut again = Vec::new();
            got.encode(&mut again);
            assert_eq!(response::cut(&again), Ok(Ok((got, len))));
            for end in 0..len.min(300) {
                match response::cut(&bytes[..end]) {
                    Ok(Err(need)) => assert!(need > end && need <= len),
                    other => panic!("cut at {end} of {len}: {other:?}"),
                }
            }
        }
        Ok(Err(need)) => assert!(need > bytes.len()),
        Err(_) => {}
    }
}

fuzz_target!(|input: (Vec<u8>, Vec<u8>)| {
    let (stream, sizes) = input;
    let whole = told(&stream, std::iter::empty());
    let cut = told(&stream, sizes.into_iter().map(usize::from));
    assert_eq!(whole, cut);
    respond(&stream);
});
