//! Replies of servers from raw bytes: nothing may panic, a reply does not reach
//! beyond the bytes there are, and what was cut out of a longer buffer is cut
//! out of itself alone too.
#![no_main]

use ketch::protocol::reply::{Part, Shape, cut, fingerprint};
use libfuzzer_sys::fuzz_target;

const SHAPES: [Shape; 13] = [
    Shape::Value,
    Shape::Values,
    Shape::Store,
    Shape::Delete,
    Shape::Touch,
    Shape::Number,
    Shape::MetaGet,
    Shape::MetaSet,
    Shape::MetaDelete,
    Shape::MetaArithmetic,
    Shape::MetaDebug,
    Shape::Version,
    Shape::Ok,
];

fuzz_target!(|input: (u8, bool, Vec<u8>)| {
    let (shape, named, bytes) = input;
    let shape = SHAPES[usize::from(shape) % SHAPES.len()];
    let expected = if named { fingerprint(b"key") } else { 0 };
    let part = cut(shape, expected, &bytes);
    let len = match part {
        Ok(Part::Whole { len, .. }) => len,
        Ok(Part::Block(block)) => {
            assert_eq!(block.key(&bytes).len(), block.key_len);
            block.len
        }
        Ok(Part::More { need }) => {
            assert!(need > bytes.len());
            return;
        }
        Err(_) => return,
    };
    assert!(len > 0 && len <= bytes.len());
    assert_eq!(cut(shape, expected, &bytes[..len]), part);
    // Anything shorter is not yet a reply, and never another one.
    for end in 0..len.min(300) {
        match cut(shape, expected, &bytes[..end]) {
            Ok(Part::More { need }) => assert!(need <= len),
            Err(_) | Ok(_) => panic!("cut at {end} of {len}"),
        }
    }
});
