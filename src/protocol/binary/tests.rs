//! The dialect as a whole: what is encoded is decoded again, and what is refused
//! is refused as memcached does.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "a test that leaves its bounds has failed"
)]

use proptest::collection::vec;
use proptest::prelude::*;

use super::response;
use super::*;
use crate::protocol::Limits;
use crate::protocol::limits::KEY_BYTES_MAX;
use crate::protocol::reply::Desync;

const LIMITS: Limits = Limits {
    value_bytes_max: 300,
    announce_bytes_min: usize::MAX,
    line_bytes_max: 0,
    opaque_bytes_max: 0,
};

/// What a request of any opcode may hold, to be cut down to what it may.
#[derive(Clone, Debug)]
struct Parts {
    opcode: Opcode,
    opaque: u32,
    cas: u64,
    numbers: (u32, u32, u64, u64, bool),
    key: Vec<u8>,
    value: Vec<u8>,
}

impl Parts {
    fn request(&self) -> Request<'_> {
        let form = self.opcode.form();
        let (a, b, c, d, with) = self.numbers;
        let extras = match form.extras_len {
            4 if with || !form.extras_optional => Extras::Exptime(a),
            8 => Extras::Item {
                flags: a,
                exptime: b,
            },
            20 => Extras::Count {
                delta: c,
                initial: d,
                exptime: a,
            },
            _ => Extras::None,
        };
        let no = |part| part == opcode::Part::Never;
        Request {
            opcode: self.opcode,
            opaque: self.opaque,
            cas: self.cas,
            extras,
            key: if no(form.key) { b"" } else { &self.key },
            value: if no(form.value) { b"" } else { &self.value },
        }
    }
}

fn parts() -> impl Strategy<Value = Parts> {
    let served: Vec<_> = Opcode::ALL
        .into_iter()
        .filter(|&opcode| opcode != Opcode::Verbosity && !opcode.is_sasl())
        .collect();
    (
        proptest::sample::select(served),
        any::<u32>(),
        any::<u64>(),
        any::<(u32, u32, u64, u64, bool)>(),
        vec(any::<u8>(), 1..=KEY_BYTES_MAX),
        vec(any::<u8>(), 0..=LIMITS.value_bytes_max),
    )
        .prop_map(|(opcode, opaque, cas, numbers, key, value)| Parts {
            opcode,
            opaque,
            cas,
            numbers,
            key,
            value,
        })
}

/// What a session makes of `stream` when it arrives in pieces that end at
/// `ends`.
fn told(stream: &[u8], ends: impl Iterator<Item = usize>) -> Vec<String> {
    let (mut at, mut skip, mut out) = (0usize, 0usize, Vec::new());
    for until in ends.chain([stream.len()]) {
        loop {
            let passed = skip.min(until.saturating_sub(at));
            at += passed;
            skip -= passed;
            let have = stream.get(at..until).unwrap_or_default();
            if have.is_empty() {
                break;
            }
            match cut(have, &LIMITS) {
                Cut::Request { request, len } => {
                    out.push(format!("{request:?}"));
                    at += len;
                }
                Cut::More { need } => {
                    assert!(need > have.len());
                    break;
                }
                Cut::Refused(refused) => {
                    out.push(format!("{refused:?}"));
                    if refused.closes {
                        return out;
                    }
                    at += refused.len;
                    skip = refused.swallow;
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

proptest! {
    #[test]
    fn decoding_what_was_encoded_is_identity(parts in parts()) {
        let mut bytes = Vec::new();
        let request = parts.request();
        request.encode(&mut bytes);
        let len = bytes.len();
        prop_assert_eq!(cut(&bytes, &LIMITS), Cut::Request { request, len });
        for end in 0..len {
            match cut(bytes.get(..end).unwrap_or_default(), &LIMITS) {
                Cut::More { need } => prop_assert!(need > end && need <= len),
                other => panic!("{end}: {other:?}"),
            }
        }
    }

    #[test]
    fn any_cut_of_a_pipeline_gives_the_same(
        requests in vec(parts(), 1..6),
        damage in proptest::option::of((any::<prop::sample::Index>(), any::<u8>())),
        mut ends in vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let mut bytes = Vec::new();
        requests.iter().for_each(|parts| parts.request().encode(&mut bytes));
        if let Some((at, byte)) = damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let mut ends: Vec<_> = ends.drain(..).map(|end| end.index(bytes.len() + 1)).collect();
        ends.sort_unstable();
        prop_assert_eq!(told(&bytes, std::iter::empty()), told(&bytes, ends.into_iter()));
    }

    #[test]
    fn responses_come_back_whatever_the_cut(
        numbers in any::<(u8, u16, u32, u64)>(),
        extras in vec(any::<u8>(), 0..30),
        key in vec(any::<u8>(), 0..=KEY_BYTES_MAX),
        value in vec(any::<u8>(), 0..300),
    ) {
        let (opcode, status, opaque, cas) = numbers;
        let response = Response { opcode, status, opaque, cas, extras: &extras, key: &key, value: &value };
        let mut bytes = Vec::new();
        response.encode(&mut bytes);
        prop_assert_eq!(response::cut(&bytes), Ok(Ok((response, bytes.len()))));
        for end in 0..bytes.len() {
            match response::cut(bytes.get(..end).unwrap_or_default()) {
                Ok(Err(need)) => prop_assert!(need > end && need <= bytes.len()),
                other => panic!("{end}: {other:?}"),
            }
        }
    }
}

#[test]
fn a_byte_is_one_opcode() {
    for byte in 0..=u8::MAX {
        let known = Opcode::ALL.into_iter().find(|opcode| opcode.byte() == byte);
        assert_eq!(Opcode::from_byte(byte), known);
    }
}

#[test]
fn a_quiet_opcode_has_one_loud_form() {
    for opcode in Opcode::ALL {
        assert!(!opcode.loud().is_quiet());
        assert_eq!(opcode.form(), opcode.loud().form());
        assert_eq!(
            opcode.is_quiet(),
            opcode.name().ends_with('q'),
            "{opcode:?}"
        );
        if let Some(quiet) = opcode.quiet() {
            assert_eq!(quiet.loud(), opcode.loud());
        }
    }
    assert_eq!(Opcode::GetK.quiet(), Some(Opcode::GetKQ));
    assert_eq!(Opcode::Touch.quiet(), None);
}

#[test]
fn a_code_is_one_status() {
    for status in Status::ALL {
        assert_eq!(Status::from_code(status.code()), Some(status));
    }
}

/// The answer to a request whose header is `change`d from that of a `get k`.
fn refused(change: impl FnOnce(&mut Header)) -> (Status, usize, bool) {
    let mut header = Header {
        magic: MAGIC_REQUEST,
        key_len: 1,
        body_len: 1,
        opaque: 7,
        ..Header::default()
    };
    change(&mut header);
    match cut(&header.to_bytes(), &LIMITS) {
        Cut::Refused(refused) => {
            assert_eq!((refused.opaque, refused.opcode), (7, header.opcode));
            assert_eq!((refused.len, refused.replaced), (HEADER_BYTES, None));
            (refused.status, refused.swallow, refused.closes)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn lengths_that_contradict_each_other_are_refused_by_the_header_alone() {
    let unknown = (Status::UnknownCommand, 0, true);
    assert_eq!(refused(|header| header.key_len = 2), unknown);
    assert_eq!(refused(|header| header.extras_len = 1), unknown);
    let invalid = (Status::InvalidArguments, 0, true);
    assert_eq!(refused(|header| header.body_len = u32::MAX), invalid);
    assert_eq!(
        refused(|header| {
            header.key_len = 251;
            header.body_len = 251;
        }),
        invalid
    );
    // A get has neither extras nor value.
    assert_eq!(refused(|header| header.body_len = 2), invalid);
    assert_eq!(
        refused(|header| {
            header.extras_len = 4;
            header.body_len = 5;
        }),
        invalid
    );
    assert_eq!(refused(|header| header.opcode = 0x0a), invalid);
}

#[test]
fn an_unknown_opcode_is_passed_over() {
    let body_too = (Status::UnknownCommand, 1, false);
    assert_eq!(refused(|header| header.opcode = 0xee), body_too);
    assert_eq!(refused(|header| header.opcode = 0x1b), body_too);
}

#[test]
fn nobody_waits_for_what_an_authentication_brings() {
    for opcode in [0x21, 0x22] {
        for body in [1, 300, 1 << 30] {
            let told = refused(|header| {
                (header.opcode, header.body_len) = (opcode, body);
            });
            assert_eq!(told, (Status::UnknownCommand, body as usize, false));
        }
        let without_key = refused(|header| (header.opcode, header.key_len) = (opcode, 0));
        assert_eq!(without_key, (Status::InvalidArguments, 0, true));
    }
}

#[test]
fn a_value_over_the_bound_is_refused_before_it_comes() {
    let value = [0; 301];
    let request = |opcode, extras| Request {
        opcode,
        opaque: 1,
        cas: 0,
        extras,
        key: b"key",
        value: &value,
    };
    let item = Extras::Item {
        flags: 0,
        exptime: 0,
    };
    for (opcode, extras, replaced) in [
        (Opcode::SetQ, item, Some(&b"key"[..])),
        (Opcode::Add, item, None),
        (Opcode::Append, Extras::None, None),
    ] {
        let mut head = Vec::new();
        request(opcode, extras).encode_head(&mut head);
        let Cut::Refused(refused) = cut(&head, &LIMITS) else {
            panic!("{opcode:?}");
        };
        assert_eq!(refused.status, Status::TooLarge);
        assert_eq!((refused.len, refused.swallow), (head.len(), 301));
        assert_eq!((refused.closes, refused.replaced), (false, replaced));
        head.pop();
        let need = head.len() + 1;
        assert_eq!(cut(&head, &LIMITS), Cut::More { need });
    }
}

#[test]
fn what_does_not_begin_with_the_magic_is_no_frame() {
    assert_eq!(cut(b"get k\r\n", &LIMITS), Cut::Close);
    assert_eq!(cut(&[MAGIC_RESPONSE], &LIMITS), Cut::Close);
    assert_eq!(response::cut(&[MAGIC_REQUEST]), Err(Desync));
    let mut header = Response::default().header();
    header.key_len = 1;
    assert_eq!(response::cut(&header.to_bytes()), Err(Desync));
    header.key_len = 0;
    header.body_len = u32::MAX;
    assert_eq!(response::cut(&header.to_bytes()), Err(Desync));
}
