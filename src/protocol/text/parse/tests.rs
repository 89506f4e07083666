use super::*;
use proptest::prelude::*;

fn cut_all(bytes: &[u8]) -> Cut<'_> {
    cut(bytes, 0, &Limits::default())
}

fn one(bytes: &[u8]) -> Request<'_> {
    match cut_all(bytes) {
        Cut::Request { request, len } => {
            assert_eq!(len, bytes.len());
            request
        }
        other => panic!("{other:?}"),
    }
}

/// Error, whether it is told, bytes to pass over, bytes to swallow.
fn refused(bytes: &[u8]) -> (Error, bool, usize, usize) {
    match cut_all(bytes) {
        Cut::Refused {
            error,
            silent,
            len,
            swallow,
            ..
        } => (error, !silent, len, swallow),
        other => panic!("{other:?}"),
    }
}

fn bytes(wire: Wire<'_>) -> Vec<u8> {
    [wire.line.concat(), wire.block.to_vec()].concat()
}

#[test]
fn a_retrieval_names_one_or_more_keys() {
    let Request::Retrieve(get) = one(b"get  a  bb \r\n") else {
        panic!();
    };
    assert_eq!(get.verb, RetrieveVerb::Get);
    assert_eq!(
        get.keys.iter().collect::<Vec<_>>(),
        [(0, &b"a"[..]), (3, b"bb")]
    );
    let Request::Retrieve(get) = one(b"gats -1 k\n") else {
        panic!();
    };
    assert!(get.keys.is_single());
    assert_eq!((get.head, get.exptime), (&b"gats -1"[..], -1));
    assert_eq!(bytes(get.wire()), b"gats -1 k\r\n");
}

#[test]
fn a_storage_command_carries_its_block() {
    let Request::Store(store) = one(b"set k 5 -1 2\r\nhi\r\n") else {
        panic!();
    };
    assert_eq!((store.key, store.value), (&b"k"[..], &b"hi"[..]));
    assert_eq!((store.flags, store.exptime, store.noreply), (5, -1, false));
    assert_eq!(bytes(store.wire), b"set k 5 -1 2\r\nhi\r\n");
    let Request::Store(store) = one(b"cas k 0 0 0 99\r\n\r\n") else {
        panic!();
    };
    assert_eq!((store.verb, store.cas), (StoreVerb::Cas, 99));
}

#[test]
fn a_server_is_always_asked_to_reply() {
    let Request::Store(store) = one(b"set k 0 0 2 noreply\r\nhi\r\n") else {
        panic!();
    };
    assert!(store.noreply);
    assert_eq!(bytes(store.wire), b"set k 0 0 2\r\nhi\r\n");
    let Request::Store(store) = one(b"cas k 0 0 2 7 x noreply\nhi\r\n") else {
        panic!();
    };
    assert!(store.noreply);
    assert_eq!(bytes(store.wire), b"cas k 0 0 2 7\r\nhi\r\n");
    let Request::Change(change) = one(b"delete k 0 noreply\r\n") else {
        panic!();
    };
    assert!(change.noreply);
    assert_eq!(bytes(change.wire), b"delete k\r\n");
    let Request::Change(change) = one(b"incr k 5 noreply\r\n") else {
        panic!();
    };
    assert_eq!(change.verb, ChangeVerb::Incr(5));
    assert_eq!(bytes(change.wire), b"incr k 5\r\n");
    let Request::Change(change) = one(b"delete noreply\r\n") else {
        panic!();
    };
    assert!(change.noreply && change.key == b"noreply");
    assert_eq!(bytes(change.wire), b"delete noreply 0\r\n");
}

#[test]
fn errors_before_the_length_leave_the_block_to_be_read_as_commands() {
    let bad = Error::BadFormat;
    assert_eq!(refused(b"set k 0 0 -1\r\n"), (bad, true, 14, 0));
    assert_eq!(
        refused(b"set k 0 0 99999999999999999999\r\n"),
        (bad, true, 32, 0)
    );
    assert_eq!(refused(b"set k 0 0\r\n"), (bad, true, 11, 0));
    assert_eq!(refused(b"set k 0 0 -1 noreply\r\n"), (bad, true, 22, 0));
}

#[test]
fn flags_and_exptime_are_read_from_where_they_begin_in_the_line() {
    let stored = |line: &[u8]| {
        let line = [line, b" 1\r\nx\r\n"].concat();
        let Request::Store(store) = one(&line) else {
            panic!();
        };
        assert_eq!(bytes(store.wire), line);
        (store.flags, store.exptime)
    };
    assert_eq!(stored(b"set k \t5 \x0b\x0c6"), (5, 6));
    assert_eq!(stored(b"set k \r5 0"), (5, 0));
    // To the next word, if there is nothing else in this one.
    assert_eq!(stored(b"set k \t 7"), (7, 7));
    assert_eq!(stored(b"set k 0 \t"), (0, 1));
    assert_eq!(stored(b"set k 5\0x 6\0"), (5, 6));
    let bad = Error::BadFormat;
    assert_eq!(refused(b"set k \0 0 1\r\n"), (bad, true, 13, 3));
    assert_eq!(refused(b"set k \tx 0 1\r\n"), (bad, true, 14, 3));
    assert_eq!(refused(b"set k - 5 1\r\n"), (bad, true, 13, 3));
}

#[test]
fn errors_after_the_length_swallow_the_block() {
    let bad = Error::BadFormat;
    assert_eq!(refused(b"set k x 0 5\r\n"), (bad, true, 13, 7));
    assert_eq!(refused(b"set k x 0 5 noreply\r\n"), (bad, false, 21, 7));
    assert_eq!(refused(b"cas k 0 0 6\r\n"), (bad, true, 13, 8));
    assert_eq!(
        refused(b"set k 0 0 1048577\r\n"),
        (Error::TooLarge, true, 19, 1_048_579)
    );
    let long = [&b"set "[..], &[b'k'; 251], b" 0 0 2\r\nhi\r\n"].concat();
    assert_eq!(refused(&long), (bad, true, long.len() - 4, 4));
}

#[test]
fn a_set_too_large_names_the_key_that_must_go() {
    let Cut::Refused { replaced, .. } = cut_all(b"set k 0 0 2000000\r\n") else {
        panic!();
    };
    assert_eq!(replaced.map(|replaced| replaced.key), Some(&b"k"[..]));
    let Cut::Refused { replaced, .. } = cut_all(b"add k 0 0 2000000\r\n") else {
        panic!();
    };
    assert_eq!(replaced, None);
}

#[test]
fn a_block_without_its_end_is_passed_over_by_its_length() {
    assert_eq!(
        refused(b"set k 0 0 2\r\nhiya"),
        (Error::BadDataChunk, true, 17, 0)
    );
    assert_eq!(
        refused(b"set k 0 0 2\r\nhi\n\n"),
        (Error::BadDataChunk, true, 17, 0)
    );
}

#[test]
fn lines_memcached_does_not_know() {
    assert_eq!(refused(b"x\r\n"), (Error::BadFormat, true, 3, 0));
    assert_eq!(refused(b"\r\n"), (Error::BadFormat, true, 2, 0));
    assert_eq!(refused(b"GET k\r\n"), (Error::UnknownCommand, true, 7, 0));
    assert_eq!(
        refused(b"frob noreply\r\n"),
        (Error::UnknownCommand, false, 14, 0)
    );
    for line in [&b"noreply\r\n"[..], b"  noreply \r\n"] {
        assert_eq!(refused(line), (Error::UnknownCommand, false, line.len(), 0));
    }
    assert!(refused(b"xnoreply\r\n").1);
    assert_eq!(refused(b" get k\r\n"), (Error::UnknownCommand, true, 8, 0));
    assert!(matches!(cut_all(b"POST / HTTP/1.1\r\n"), Cut::Close));
}

#[test]
fn numbers_that_are_none_have_errors_of_their_own() {
    assert_eq!(refused(b"touch k x\r\n").0, Error::InvalidExptime);
    assert_eq!(refused(b"gat x k\r\n").0, Error::InvalidExptime);
    assert_eq!(refused(b"incr k -1\r\n").0, Error::InvalidDelta);
    assert_eq!(
        refused(b"incr k noreply\r\n"),
        (Error::InvalidDelta, false, 16, 0)
    );
    assert_eq!(refused(b"incr k\r\n").0, Error::BadFormat);
}

#[test]
fn one_key_too_long_spoils_a_retrieval() {
    let line = [&b"get a "[..], &[b'k'; 251], b" b\r\n"].concat();
    assert_eq!(refused(&line).0, Error::BadFormat);
    let line = [&b"get "[..], &[b'k'; 250], b" b\r\n"].concat();
    assert!(matches!(one(&line), Request::Retrieve(_)));
}

#[test]
fn a_line_is_believed_up_to_its_bound() {
    let line = vec![b'x'; LINE_BYTES_MAX];
    assert!(matches!(cut_all(&line), Cut::More { need } if need == LINE_BYTES_MAX + 1));
    let ended = [&line[..], b"\n"].concat();
    assert_eq!(refused(&ended).0, Error::UnknownCommand);
    let longer = [&line[..], b"x"].concat();
    assert!(matches!(cut_all(&longer), Cut::Close));
    assert!(matches!(
        cut_all(&[&longer[..], b"\n"].concat()),
        Cut::Close
    ));
}

#[test]
fn a_long_value_is_announced_with_its_line() {
    let limits = Limits {
        announce_bytes_min: 4,
        ..Limits::default()
    };
    for line in [&b"set k 1 2 4\r\n"[..], b"ms k 4 F1 T2\r\n"] {
        let start = [line, b"abcd\r"].concat();
        let Cut::Announced { len, value_len, .. } = cut(&start, 0, &limits) else {
            panic!();
        };
        assert_eq!((len, value_len), (line.len(), 4));
        let whole = [line, b"abcd\r\n"].concat();
        assert!(matches!(cut(&whole, 0, &limits), Cut::Request { .. }));
    }
    let short = cut(b"set k 1 2 3\r\n", 0, &limits);
    assert!(matches!(short, Cut::More { .. }));
}

#[test]
fn a_retrieval_may_be_long_within_its_own_bound() {
    let limits = Limits {
        line_bytes_max: 5000,
        ..Limits::default()
    };
    let long = [&b"get"[..], &b" key".repeat(1000)].concat();
    assert!(matches!(cut(&long, 0, &limits), Cut::More { .. }));
    let ended = [&long[..], b"\r\n"].concat();
    assert!(matches!(cut(&ended, 0, &limits), Cut::Request { .. }));
    let longer = [&b"get"[..], &b" key".repeat(1300)].concat();
    assert!(matches!(cut(&longer, 0, &limits), Cut::Close));
    assert!(matches!(
        cut(&[&longer[..], b"\r\n"].concat(), 0, &limits),
        Cut::Close
    ));
}

/// Something that is or resembles a stream of requests.
fn traffic() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"get a b\r\n".to_vec()),
        Just(b"set k 1 2 3\r\nabc\r\n".to_vec()),
        Just(b"set k 1 2 3 noreply\r\nabcd\r\n".to_vec()),
        Just(b"set k x 2 3\r\n".to_vec()),
        Just(b"ms k 3 q T5\r\nabc\r\n".to_vec()),
        Just(b"mg k v Oa q\n".to_vec()),
        Just(b"cas k 0 0 1 5 noreply\r\n\n\r\n".to_vec()),
        Just(b"quit\r\n".to_vec()),
        proptest::collection::vec(any::<u8>(), 0..20),
        "(get|set|ms|mg|incr|gat|flush_all|stats) [a-z 0-9]{0,12}\r?\n"
            .prop_map(String::into_bytes),
    ];
    proptest::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

/// What a session makes of a stream that arrives in the given pieces.
fn told(stream: &[u8], mut cuts: Vec<usize>) -> Vec<String> {
    let limits = Limits {
        value_bytes_max: 64,
        ..Limits::default()
    };
    cuts.push(stream.len());
    cuts.sort_unstable();
    let (mut at, mut skip, mut scanned, mut out) = (0usize, 0usize, 0usize, Vec::new());
    for until in cuts {
        loop {
            let have = stream.get(at..until).unwrap_or_default();
            let passed = skip.min(have.len());
            (at, skip) = (at + passed, skip - passed);
            let have = stream.get(at..until).unwrap_or_default();
            if have.is_empty() {
                break;
            }
            match cut(have, scanned, &limits) {
                Cut::Request { request, len } => {
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
                    at += len;
                    skip = swallow;
                    scanned = 0;
                }
                Cut::More { need } => {
                    assert!(need > have.len());
                    if memchr(b'\n', have).is_none() {
                        scanned = have.len();
                    }
                    break;
                }
                Cut::Announced { .. } => unreachable!("not asked for"),
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
    fn any_cut_of_the_bytes_gives_the_same_result(
        stream in traffic(),
        cuts in proptest::collection::vec(0usize..200, 0..12),
    ) {
        let cuts = cuts.into_iter().map(|cut| cut.min(stream.len())).collect();
        prop_assert_eq!(told(&stream, cuts), told(&stream, Vec::new()));
    }

    #[test]
    fn what_goes_to_a_server_means_the_same_and_is_answered(stream in traffic()) {
        if let Cut::Request { request, .. } = cut_all(&stream) {
            let wire = match &request {
                Request::Retrieve(retrieve) => retrieve.wire(),
                Request::Store(store) => store.wire,
                Request::Change(change) => change.wire,
                Request::Meta(meta) => meta.wire,
                Request::Admin(_) => return Ok(()),
            };
            let sent = bytes(wire);
            prop_assert_eq!(sent.len(), wire.len());
            let Cut::Request { request: again, len } = cut_all(&sent) else {
                return Err(TestCaseError::fail("not a request"));
            };
            prop_assert_eq!(len, sent.len());
            match (&request, &again) {
                (Request::Retrieve(a), Request::Retrieve(b)) => {
                    let keys = |keys: Keys<'_>| keys.iter().map(|(_, key)| key.to_vec()).collect::<Vec<_>>();
                    prop_assert_eq!(keys(a.keys), keys(b.keys));
                    prop_assert_eq!((a.verb, a.exptime), (b.verb, b.exptime));
                }
                (Request::Store(a), Request::Store(b)) => {
                    prop_assert_eq!((a.verb, a.key, a.flags, a.exptime, a.cas, a.value),
                        (b.verb, b.key, b.flags, b.exptime, b.cas, b.value));
                    prop_assert!(!b.noreply);
                }
                (Request::Change(a), Request::Change(b)) => {
                    prop_assert_eq!((a.verb, a.key), (b.verb, b.key));
                    prop_assert!(!b.noreply);
                }
                (Request::Meta(a), Request::Meta(b)) => {
                    prop_assert_eq!((a.verb, a.key, a.value, a.opaque), (b.verb, b.key, b.value, b.opaque));
                    prop_assert!(!b.is_quiet());
                }
                _ => return Err(TestCaseError::fail("another kind of request")),
            }
        }
    }
}
