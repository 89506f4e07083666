use super::*;
use crate::protocol::request::Cut;
use crate::protocol::{Limits, text};

const NOW: u32 = 1_700_000_000;

fn store() -> Store {
    Store::new(crate::backend::Settings::default())
}

/// What a client is told that sends `requests` at the second `now`.
fn say_at(store: &Store, now: u32, requests: impl AsRef<[u8]>) -> String {
    let limits = Limits {
        value_bytes_max: 32 << 20,
        ..Limits::default()
    };
    let (mut rest, mut out) = (requests.as_ref(), Vec::new());
    while !rest.is_empty() {
        match text::cut(rest, 0, &limits) {
            Cut::Request { request, len } => {
                execute(store, &request, now, &mut out);
                rest = &rest[len..];
            }
            other => panic!("{other:?}"),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn say(store: &Store, requests: impl AsRef<[u8]>) -> String {
    say_at(store, NOW, requests)
}

#[test]
fn what_is_stored_is_told() {
    let store = store();
    assert_eq!(say(&store, "set k 5 0 3\r\nabc\r\n"), "STORED\r\n");
    assert_eq!(say(&store, "get k x\r\n"), "VALUE k 5 3\r\nabc\r\nEND\r\n");
    assert_eq!(say(&store, "add k 0 0 1\r\nx\r\n"), "NOT_STORED\r\n");
    assert_eq!(say(&store, "replace j 0 0 1\r\nx\r\n"), "NOT_STORED\r\n");
    assert_eq!(say(&store, "append k 0 0 2\r\nde\r\n"), "STORED\r\n");
    assert_eq!(say(&store, "prepend k 0 0 1\r\n_\r\n"), "STORED\r\n");
    assert_eq!(say(&store, "get k\r\n"), "VALUE k 5 6\r\n_abcde\r\nEND\r\n");
    assert_eq!(
        say(&store, "set q 0 0 1 noreply\r\nx\r\nget q\r\n"),
        "VALUE q 0 1\r\nx\r\nEND\r\n"
    );
    assert_eq!(
        say(&store, "delete k\r\ndelete k\r\n"),
        "DELETED\r\nNOT_FOUND\r\n"
    );
    assert_eq!(store.totals().items, 1);
}

#[test]
fn a_cas_id_decides_whether_a_value_is_stored() {
    let store = store();
    say(&store, "set k 0 0 1\r\na\r\n");
    let told = say(&store, "gets k\r\n");
    let cas = told.lines().next().unwrap().rsplit(' ').next().unwrap();
    assert_eq!(
        say(&store, format!("cas k 0 0 1 {cas}\r\nb\r\n")),
        "STORED\r\n"
    );
    assert_eq!(
        say(&store, format!("cas k 0 0 1 {cas}\r\nc\r\n")),
        "EXISTS\r\n"
    );
    assert_eq!(say(&store, "cas j 0 0 1 1\r\nc\r\n"), "NOT_FOUND\r\n");
    let counters = store.totals().counters;
    assert_eq!(
        (counters.cas_hits, counters.cas_badval, counters.cas_misses),
        (1, 1, 1)
    );
}

#[test]
fn numbers_are_counted_as_memcached_counts_them() {
    let store = store();
    say(&store, "set n 0 0 2\r\n10\r\n");
    assert_eq!(
        say(&store, "decr n 1\r\nget n\r\n"),
        "9\r\nVALUE n 0 2\r\n9 \r\nEND\r\n"
    );
    assert_eq!(
        say(&store, "incr n 991\r\nget n\r\n"),
        "1000\r\nVALUE n 0 4\r\n1000\r\nEND\r\n"
    );
    assert_eq!(say(&store, "decr n 2000\r\n"), "0\r\n");
    assert_eq!(
        say(&store, "incr n 18446744073709551615\r\nincr n 2\r\n"),
        "18446744073709551615\r\n1\r\n"
    );
    assert_eq!(say(&store, "incr x 1\r\n"), "NOT_FOUND\r\n");
    say(&store, "set t 0 0 1\r\nx\r\n");
    assert_eq!(
        say(&store, "incr t 1\r\n"),
        format!("{}\r\n", super::text::NOT_A_NUMBER)
    );
}

/// A value of so many bytes, filled with blanks.
fn padded(start: &str, len: usize) -> String {
    format!("{start}{}", " ".repeat(len - start.len()))
}

#[test]
fn a_number_may_begin_a_large_value() {
    let store = store();
    let not_a_number = format!("{}\r\n", super::text::NOT_A_NUMBER);
    // What memcached keeps in one piece, with its own 48 + 8 bytes, key and line end.
    const LONGEST: usize = (512 << 10) - 48 - 8 - 2 - 2;
    for len in [LARGE_BYTES_MIN - 1, LARGE_BYTES_MIN, 100_000, LONGEST] {
        // The number may lie anywhere, as long as blanks stand before it.
        for blanks in [0, len / 2] {
            let value = padded(&format!("{}9 x", " ".repeat(blanks)), len);
            say(&store, format!("set n 0 0 {len}\r\n{value}\r\n"));
            assert_eq!(say(&store, "ma n C99999\r\n"), "EX\r\n");
            assert_eq!(
                say(&store, "incr n 1\r\nma n MD D8 v\r\n"),
                "10\r\nVA 1\r\n2\r\n"
            );
            let told = say(&store, "get n\r\n");
            let value = padded("2", len);
            assert!(told == format!("VALUE n 0 {len}\r\n{value}\r\nEND\r\n"));
        }
    }
    for (flags, len) in [(0, LONGEST + 1), (5, LONGEST - 3)] {
        let value = padded("9", len);
        say(&store, format!("set n {flags} 0 {len}\r\n{value}\r\n"));
        assert_eq!(say(&store, "incr n 1\r\n"), not_a_number);
        assert_eq!(say(&store, "ma n C99999\r\n"), not_a_number);
    }
}

#[test]
fn what_is_added_must_fit_beside_the_flags_that_an_item_has() {
    let store = store();
    // With memcached's own 48 + 8 bytes, key and line end.
    const LONGEST: usize = (1 << 20) - 48 - 8 - 2 - 2;
    for (flags, longest, others) in [(0, LONGEST, 5), (5, LONGEST - 4, 0)] {
        let value = "x".repeat(longest - 10);
        let set = format!("set k {flags} 0 {}\r\n{value}\r\n", value.len());
        for (requests, stored, refused) in [
            (format!("append k {others} 0"), "STORED", "NOT_STORED"),
            (format!("ms k MA F{others}"), "HD", "NS"),
        ] {
            for (len, expected) in [(10, stored), (11, refused)] {
                say(&store, &set);
                let line = match requests.strip_prefix("ms k") {
                    Some(words) => format!("ms k {len}{words}"),
                    None => format!("{requests} {len}"),
                };
                let told = say(&store, format!("{line}\r\n{:<len$}\r\n", ""));
                assert_eq!(told, format!("{expected}\r\n"), "{line}");
            }
        }
    }
}

#[test]
fn items_expire() {
    let store = store();
    say(&store, "set k 0 10 1\r\na\r\nset old 0 -1 1\r\na\r\n");
    assert_eq!(say(&store, "get old\r\n"), "END\r\n");
    assert_eq!(
        say_at(&store, NOW + 9, "get k\r\n"),
        "VALUE k 0 1\r\na\r\nEND\r\n"
    );
    assert_eq!(
        say_at(&store, NOW + 9, "touch k 5\r\ntouch j 5\r\n"),
        "TOUCHED\r\nNOT_FOUND\r\n"
    );
    assert_eq!(
        say_at(&store, NOW + 13, "gat 0 k\r\n"),
        "VALUE k 0 1\r\na\r\nEND\r\n"
    );
    assert_eq!(
        say_at(&store, NOW + 99, "get k\r\n"),
        "VALUE k 0 1\r\na\r\nEND\r\n"
    );
    assert_eq!(
        say_at(&store, NOW + 99, format!("touch k {}\r\n", NOW + 100)),
        "TOUCHED\r\n"
    );
    assert_eq!(say_at(&store, NOW + 100, "get k\r\n"), "END\r\n");
}

#[test]
fn everything_goes_when_it_is_flushed() {
    let store = store();
    say(&store, "set a 0 0 1\r\na\r\n");
    assert_eq!(say(&store, "flush_all\r\nget a\r\n"), "OK\r\nEND\r\n");
    assert_eq!(store.totals().items, 0);
    say(&store, "set a 0 0 1\r\na\r\n");
    assert_eq!(
        say(&store, "flush_all x\r\n"),
        "CLIENT_ERROR invalid exptime argument\r\n"
    );
}

#[test]
fn a_later_flush_takes_all_of_the_second_before() {
    let store = store();
    let hit = "STORED\r\nVALUE a 0 1\r\na\r\nEND\r\n";
    let set_and_get = "set a 0 0 1\r\na\r\nget a\r\n";
    for (flush, seconds) in [
        ("flush_all 1\r\n".to_owned(), 0),
        ("flush_all 10\r\n".to_owned(), 9),
        (format!("flush_all {}\r\n", NOW + 10), 9),
    ] {
        say(&store, set_and_get);
        assert_eq!(say(&store, &flush), "OK\r\n");
        if seconds > 0 {
            assert_eq!(say_at(&store, NOW + seconds - 1, set_and_get), hit);
        }
        assert_eq!(say_at(&store, NOW + seconds, "get a\r\n"), "END\r\n");
        // Until it is over.
        for _ in 0..2 {
            let told = say_at(&store, NOW + seconds, set_and_get);
            assert_eq!(told, "STORED\r\nEND\r\n", "{flush}");
        }
        say_at(&store, NOW + seconds, "add a 0 0 1\r\na\r\n");
        let later = NOW + seconds + 1;
        assert_eq!(say_at(&store, later, "get a\r\n"), "END\r\n");
        assert_eq!(say_at(&store, later, set_and_get), hit);
    }
    // One at once puts an end to one that is under way.
    let told = say(&store, format!("flush_all 1\r\nflush_all\r\n{set_and_get}"));
    assert_eq!(told, format!("OK\r\nOK\r\n{hit}"));
}

#[test]
fn a_flush_for_a_time_before_the_start_takes_nothing() {
    let store = store();
    say(&store, "set a 0 0 1\r\na\r\nflush_all 5\r\n");
    // Not what was to be dropped before either.
    assert_eq!(say(&store, "flush_all 2592001\r\n"), "OK\r\n");
    let hit = "VALUE a 0 1\r\na\r\nEND\r\n";
    assert_eq!(say_at(&store, NOW + 10, "get a\r\n"), hit);
    // A time that has passed since takes everything.
    let now = store.now();
    say_at(&store, now, format!("flush_all {}\r\n", now - 1));
    assert_eq!(say_at(&store, now, "get a\r\n"), "END\r\n");
}

#[test]
fn a_value_too_large_takes_the_old_one_with_it() {
    let store = store();
    say(&store, "set k 0 0 1\r\na\r\n");
    let large = "x".repeat(1 << 20);
    let told = say(&store, format!("set k 0 0 {}\r\n{large}\r\n", large.len()));
    assert_eq!(told, "SERVER_ERROR object too large for cache\r\n");
    assert_eq!(say(&store, "get k\r\n"), "END\r\n");
}

#[test]
fn large_values_come_back_whole() {
    let store = store();
    const LEN: usize = LARGE_BYTES_MIN;
    for len in [LEN - 1, LEN, LEN + 1, LEN + 5000, 1_000_000] {
        let value: String = ('a'..='z').cycle().take(len).collect();
        assert_eq!(
            say(&store, format!("set k 0 0 {len}\r\n{value}\r\n")),
            "STORED\r\n"
        );
        let told = say(&store, "get k\r\n");
        assert!(
            told == format!("VALUE k 0 {len}\r\n{value}\r\nEND\r\n"),
            "{len}"
        );
    }
    say(
        &store,
        "append k 0 0 3\r\nend\r\nprepend k 0 0 5\r\nbegin\r\n",
    );
    let told = say(&store, "get k\r\n");
    assert!(told.starts_with("VALUE k 0 1000008\r\nbeginabc") && told.ends_with("end\r\nEND\r\n"));
    assert_eq!(
        say(&store, "incr k 1\r\n"),
        format!("{}\r\n", super::text::NOT_A_NUMBER)
    );
}

#[test]
fn a_value_does_not_go_as_soon_as_it_has_come() {
    let store = Store::new(crate::backend::Settings {
        memory_bytes: 8 << 20,
        ..crate::backend::Settings::default()
    });
    let all = "x".repeat(1_000_000);
    let mut random = fastrand::Rng::with_seed(1);
    let mut store_and_read = |number: usize, sizes: std::ops::Range<usize>| {
        let (key, len) = (number % 3000, random.usize(sizes));
        let value = &all[..len];
        let told = say(&store, format!("set k{key} 0 0 {len}\r\n{value}\r\n"));
        assert_eq!(told, "STORED\r\n");
        let told = say(&store, format!("get k{key}\r\n"));
        assert!(told.starts_with("VALUE"), "{number}");
    };
    // Used values fill the main queue. Then come some of which each is more than the
    // young may have.
    (0..2000).for_each(|number| store_and_read(number, 5_000..30_000));
    (2000..2500).for_each(|number| store_and_read(number, 850_000..1_000_000));
}

#[test]
fn without_eviction_there_is_an_end() {
    let store = Store::new(crate::backend::Settings {
        memory_bytes: 0,
        evicts: false,
        ..crate::backend::Settings::default()
    });
    let value = "x".repeat(100_000);
    let mut stored = 0;
    loop {
        let told = say(&store, format!("set k{stored} 0 0 100000\r\n{value}\r\n"));
        if told != "STORED\r\n" {
            assert_eq!(told, "SERVER_ERROR out of memory storing object\r\n");
            break;
        }
        stored += 1;
    }
    assert!(stored > 5);
    say(&store, "delete k0\r\n");
    assert_eq!(
        say(&store, format!("set n 0 0 100000\r\n{value}\r\n")),
        "STORED\r\n"
    );
    assert_eq!(store.totals().counters.evictions, 0);
}

/// What a binary client is told: the status, and what stands in the body.
fn say_binary(store: &Store, request: &frame::Request<'_>) -> (u16, String) {
    let mut out = Vec::new();
    execute_binary(store, request, None, NOW, &mut out);
    let (head, body) = out.split_at(24);
    let status = u16::from_be_bytes([head[6], head[7]]);
    (status, String::from_utf8_lossy(body).into_owned())
}

/// A request of the binary dialect without a value.
fn frame_of(opcode: frame::Opcode, key: &str) -> frame::Request<'_> {
    frame::Request {
        opcode,
        opaque: 0,
        cas: 0,
        extras: frame::Extras::None,
        key: key.as_bytes(),
        value: b"",
    }
}

#[test]
fn what_there_is_no_memory_to_add_to_stays() {
    const LEN: usize = 32_505_856;
    let store = Store::new(crate::backend::Settings {
        item_bytes_max: 32 << 20,
        ..crate::backend::Settings::default()
    });
    let value = "x".repeat(LEN);
    let told = say(&store, format!("set big 0 0 {LEN}\r\n{value}\r\n"));
    assert_eq!(told, "STORED\r\n");
    assert_eq!(say(&store, "ms big 1 MA\r\na\r\n"), "NS\r\n");
    assert_eq!(say(&store, "ms big 1 MP q\r\na\r\n"), "NS\r\n");
    assert_eq!(say(&store, "append big 0 0 1\r\na\r\n"), "NOT_STORED\r\n");
    let append = frame::Request {
        value: b"a",
        ..frame_of(frame::Opcode::Append, "big")
    };
    assert_eq!(say_binary(&store, &append), (5, "Not stored.".to_owned()));
    assert_eq!(store.totals().counters.no_memory, 4);
    assert_eq!(say(&store, "mg big s\r\n"), format!("HD s{LEN}\r\n"));
}

#[test]
fn what_there_is_no_memory_to_make_is_told_as_memcached_does() {
    let store = Store::new(crate::backend::Settings {
        memory_bytes: 0,
        evicts: false,
        ..crate::backend::Settings::default()
    });
    for key in ["one", "two"] {
        say(&store, format!("set {key} 0 0 1\r\n9\r\n"));
    }
    // To the last item that is as short as those to come.
    for len in [1000, 100, 1] {
        let value = "9".repeat(len);
        let stored = |number: &u32| {
            let set = format!("set {len}-{number} 0 0 {len}\r\n{value}\r\n");
            say(&store, set) == "STORED\r\n"
        };
        (0..).take_while(stored).for_each(drop);
    }
    assert_eq!(say(&store, "mg new N30 v k O1\r\n"), "EN knew O1\r\n");
    assert_eq!(say(&store, "mg new N30 v q\r\nmn\r\n"), "MN\r\n");
    let counters = store.totals().counters;
    assert_eq!((counters.gets, counters.get_misses), (2, 2));
    assert_eq!(
        say(&store, "ma new N30 v q\r\n"),
        "SERVER_ERROR Out of memory allocating new item\r\n"
    );
    let increment = frame::Request {
        extras: frame::Extras::Count {
            delta: 1,
            initial: 1,
            exptime: 0,
        },
        ..frame_of(frame::Opcode::IncrementQ, "new")
    };
    let told = say_binary(&store, &increment);
    assert_eq!(told, (0x82, "Out of memory allocating new item".to_owned()));
    // What there is has room for a digit more.
    assert_eq!(say(&store, "incr one 1\r\n"), "10\r\n");
    assert_eq!(
        say(&store, "ma two D9999999 T30 t v\r\n"),
        "VA 8 t30\r\n10000008\r\n"
    );
    // And for a time.
    assert_eq!(say(&store, "touch 1000-1 30\r\n"), "TOUCHED\r\n");
    assert_eq!(say(&store, "mg 1000-2 T30 N30 t\r\n"), "HD t30\r\n");
}

#[test]
fn a_meta_get_shows_what_is_asked_for() {
    let store = store();
    assert_eq!(say(&store, "mg k v\r\n"), "EN\r\n");
    assert_eq!(say(&store, "mg k v q\r\nmn\r\n"), "MN\r\n");
    assert_eq!(say(&store, "mg k Oab k v\r\n"), "EN Oab kk\r\n");
    assert_eq!(say(&store, "ms k 2 F7 T60\r\nhi\r\n"), "HD\r\n");
    assert_eq!(say(&store, "mg k\r\n"), "HD\r\n");
    assert_eq!(
        say(&store, "mg k s t f h l k O9 v\r\n"),
        "VA 2 s2 t60 f7 h1 l0 kk O9\r\nhi\r\n"
    );
    assert_eq!(say(&store, "mg k t T30 v\r\n"), "VA 2 t60\r\nhi\r\n");
    assert_eq!(say(&store, "mg k T0 t\r\n"), "HD t-1\r\n");
    assert_eq!(
        say_at(&store, NOW + 5, "mg k u l\r\nmg k l\r\nmg k l\r\n"),
        "HD l5\r\nHD l5\r\nHD l0\r\n"
    );
    let told = say(&store, "mg k c\r\n");
    let cas = told.trim_end().trim_start_matches("HD c");
    assert_eq!(say(&store, format!("mg k v s C{cas}\r\n")), "HD s2\r\n");
    assert_eq!(say(&store, "mg k v s C1234567\r\n"), "VA 2 s2\r\nhi\r\n");
}

#[test]
fn one_client_wins_the_right_to_refresh() {
    let store = store();
    assert_eq!(say(&store, "mg k v N30 t\r\n"), "VA 0 t30 W\r\n\r\n");
    assert_eq!(say(&store, "mg k v N30\r\n"), "VA 0 Z\r\n\r\n");
    assert_eq!(
        say(&store, "ms k 1 T10\r\na\r\nmg k v R30\r\n"),
        "HD\r\nVA 1 W\r\na\r\n"
    );
    assert_eq!(say(&store, "mg k v R30\r\n"), "VA 1 Z\r\na\r\n");
    assert_eq!(
        say(&store, "md k I T30\r\nmg k v t\r\n"),
        "HD\r\nVA 1 t30 X W\r\na\r\n"
    );
    assert_eq!(say(&store, "mg k v\r\n"), "VA 1 Z X\r\na\r\n");
    assert_eq!(
        say(&store, "ms k 1\r\nb\r\nmg k v\r\n"),
        "HD\r\nVA 1\r\nb\r\n"
    );
}

#[test]
fn a_late_value_may_be_stored_as_a_stale_one() {
    let store = store();
    say(&store, "ms k 1 E100\r\na\r\nmd k I E200\r\n");
    assert_eq!(say(&store, "ms k 1 C150 I\r\nb\r\n"), "HD\r\n");
    assert_eq!(say(&store, "mg k v\r\n"), "VA 1 X W\r\nb\r\n");
    assert_eq!(say(&store, "ms k 1 C9999999 I\r\nc\r\n"), "EX\r\n");
    assert_eq!(say(&store, "ms j 1 C1 I\r\nc\r\n"), "NF\r\n");
}

#[test]
fn a_meta_set_has_modes() {
    let store = store();
    assert_eq!(say(&store, "ms k 1 MA\r\na\r\n"), "NS\r\n");
    assert_eq!(
        say(&store, "ms k 1 MA N0\r\na\r\nms k 2 MA s\r\nbc\r\n"),
        "HD\r\nHD s3\r\n"
    );
    assert_eq!(
        say(&store, "ms k 1 MP k Ox\r\n_\r\nmg k v\r\n"),
        "HD kk Ox\r\nVA 4\r\n_abc\r\n"
    );
    assert_eq!(
        say(&store, "ms k 1 ME\r\na\r\nms j 1 MR\r\na\r\n"),
        "NS\r\nNS\r\n"
    );
    assert_eq!(
        say(&store, "ms k 1 q\r\na\r\nms j 1 MR q\r\na\r\n"),
        "NS\r\n"
    );
    assert_eq!(say(&store, "ms k 1 E77 c\r\na\r\n"), "HD c77\r\n");
    assert_eq!(
        say(&store, "ms Zm9v 1 b k\r\na\r\nget foo\r\n"),
        "HD kZm9v b\r\nVALUE foo 0 1\r\na\r\nEND\r\n"
    );
    assert_eq!(say(&store, "mg Zm9v b k v\r\n"), "VA 1 kZm9v b\r\na\r\n");
}

#[test]
fn a_meta_delete_may_keep_the_item() {
    let store = store();
    assert_eq!(say(&store, "md k Oa k q\r\n"), "NF Oa kk\r\n");
    say(&store, "ms k 1 E5 F3\r\na\r\n");
    assert_eq!(
        say(&store, "md k C4\r\nmd k C5 x T9 F1\r\n"),
        "EX\r\nHD\r\n"
    );
    assert_eq!(say(&store, "mg k v f t c\r\n"), "VA 0 f1 t9 c5\r\n\r\n");
    assert_eq!(say(&store, "md k q\r\nmg k\r\n"), "EN\r\n");
    say(&store, "ms Zm9v 1 b\r\na\r\nmd Zm9v b x\r\n");
    assert_eq!(say(&store, "mg Zm9v b k\r\n"), "HD kfoo\r\n");
}

#[test]
fn a_meta_count_may_make_the_item() {
    let store = store();
    assert_eq!(say(&store, "ma n\r\n"), "NF\r\n");
    assert_eq!(say(&store, "ma n N0 J13 v\r\n"), "VA 2\r\n13\r\n");
    assert_eq!(say(&store, "ma n v t D5 MD\r\n"), "VA 1 t-1\r\n8\r\n");
    assert_eq!(
        say(&store, "ma n T30 t v\r\nmg n t\r\n"),
        "VA 1 t30\r\n9\r\nHD t30\r\n"
    );
    assert_eq!(say(&store, "ma n q\r\nma n v C1\r\n"), "EX\r\n");
    assert_eq!(
        say(&store, "ma n E9 c\r\nma n C9 v\r\n"),
        "HD c9\r\nVA 2\r\n12\r\n"
    );
}

#[test]
fn a_meta_debug_tells_all() {
    let store = store();
    assert_eq!(say(&store, "me k\r\n"), "EN\r\n");
    say(&store, "ms k 1 E5 T60\r\na\r\n");
    assert_eq!(
        say_at(&store, NOW + 4, "me k\r\n"),
        "ME k exp=56 la=4 cas=5 fetch=no cls=1 size=24\r\n"
    );
    // Another thread may have used it in a second that has not come for this one.
    assert_eq!(say_at(&store, NOW - 1, "mg k u l\r\n"), "HD l0\r\n");
    let told = say_at(&store, NOW - 1, "me k\r\n");
    assert!(told.contains(" la=0 "), "{told}");
    assert_eq!(
        say(&store, "me !! b b\r\n"),
        "CLIENT_ERROR bad command line format\r\n"
    );
}

#[test]
fn a_retrieval_of_too_much_is_cut_short() {
    let store = store();
    let value = "x".repeat(16_000);
    say(&store, format!("set k 0 0 16000\r\n{value}\r\n"));
    let told = say(&store, format!("get{}\r\n", " k".repeat(5000)));
    let bound = super::text::RETRIEVED_BYTES_MAX;
    assert!((bound..bound + 20_000).contains(&told.len()));
    assert!(told.ends_with("\r\nSERVER_ERROR out of memory writing get response\r\n"));
    assert_eq!(store.totals().counters.oversized, 1);
    let told = say(&store, format!("get{}\r\n", " k".repeat(4000)));
    assert!(told.ends_with("\r\nEND\r\n"));
}

#[test]
fn without_cas_ids_none_is_looked_at_but_by_those_that_want_one() {
    let store = Store::new(crate::backend::Settings {
        cas: false,
        ..crate::backend::Settings::default()
    });
    // As memcached 1.6.45 with -C.
    assert_eq!(say(&store, "ms a 1 E5 c\r\n2\r\n"), "HD c0\r\n");
    assert_eq!(say(&store, "ms a 1 MA C77\r\n3\r\n"), "HD\r\n");
    assert_eq!(say(&store, "mg a c v\r\n"), "VA 2 c0\r\n23\r\n");
    assert_eq!(say(&store, "ms a 1 C5\r\n2\r\n"), "EX\r\n");
    assert_eq!(
        say(&store, "md a C0 I E9\r\nmg a c\r\n"),
        "HD\r\nHD c0 X W\r\n"
    );
    for opcode in [
        frame::Opcode::Set,
        frame::Opcode::Replace,
        frame::Opcode::Append,
    ] {
        let request = frame::Request {
            cas: 5,
            value: b"x",
            extras: match opcode {
                frame::Opcode::Append => frame::Extras::None,
                _ => frame::Extras::Item {
                    flags: 0,
                    exptime: 0,
                },
            },
            ..frame_of(opcode, "key")
        };
        assert_eq!(
            say_binary(&store, &request),
            (0, String::new()),
            "{opcode:?}"
        );
    }
    assert_eq!(say(&store, "get key\r\n"), "VALUE key 0 2\r\nxx\r\nEND\r\n");
}
