//! The binary dialect of the bundled cache, over a socket.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use ketch::protocol::binary::{self, Extras, HEADER_BYTES, Header, Opcode, Request, Status};

use crate::peer::Peer;

/// How long an answer may take before a test fails.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// A connection that speaks binary.
struct Client(TcpStream);

/// A response, taken apart.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    opcode: Opcode,
    status: Status,
    opaque: u32,
    cas: u64,
    extras: Vec<u8>,
    key: Vec<u8>,
    value: Vec<u8>,
}

/// A request without anything.
fn bare(opcode: Opcode, key: &[u8]) -> Request<'_> {
    Request {
        opcode,
        opaque: 0xdead_beef,
        cas: 0,
        extras: Extras::None,
        key,
        value: b"",
    }
}

fn set<'a>(opcode: Opcode, key: &'a [u8], value: &'a [u8]) -> Request<'a> {
    Request {
        extras: Extras::Item {
            flags: 7,
            exptime: 0,
        },
        value,
        ..bare(opcode, key)
    }
}

impl Client {
    fn connect(server: &Peer) -> Self {
        let stream = TcpStream::connect(server.target().address).unwrap();
        stream.set_read_timeout(Some(ANSWER_MAX)).unwrap();
        Self(stream)
    }

    fn send(&mut self, request: &Request<'_>) {
        let mut bytes = Vec::new();
        request.encode(&mut bytes);
        self.0.write_all(&bytes).unwrap();
    }

    fn answer(&mut self) -> Answer {
        let mut frame = vec![0; HEADER_BYTES];
        self.0.read_exact(&mut frame).unwrap();
        let header = Header::read(&frame).unwrap();
        frame.resize(header.frame_len(), 0);
        self.0.read_exact(&mut frame[HEADER_BYTES..]).unwrap();
        let response = binary::Response::read(&header, &frame).unwrap();
        Answer {
            opcode: Opcode::from_byte(response.opcode).unwrap(),
            status: Status::from_code(response.status).unwrap(),
            opaque: response.opaque,
            cas: response.cas,
            extras: response.extras.to_vec(),
            key: response.key.to_vec(),
            value: response.value.to_vec(),
        }
    }

    fn ask(&mut self, request: &Request<'_>) -> Answer {
        self.send(request);
        let answer = self.answer();
        assert_eq!(
            (answer.opcode, answer.opaque),
            (request.opcode, request.opaque)
        );
        answer
    }

    fn status(&mut self, request: &Request<'_>) -> Status {
        self.ask(request).status
    }

    /// Sends a request that is not answered; what comes next is the answer to
    /// another.
    fn silent(&mut self, request: &Request<'_>) {
        self.send(request);
        assert_eq!(self.ask(&bare(Opcode::Noop, b"")).status, Status::Ok);
    }
}

#[test]
fn items_are_stored_and_told_with_flags_and_key() {
    let server = Peer::backend(&[]);
    let mut client = Client::connect(&server);
    assert_eq!(client.status(&bare(Opcode::Get, b"k")), Status::NotFound);
    let miss = client.ask(&bare(Opcode::GetK, b"k"));
    assert_eq!(
        (miss.status, &miss.key[..], miss.value.len()),
        (Status::NotFound, &b"k"[..], 0)
    );
    client.silent(&bare(Opcode::GetQ, b"k"));
    client.silent(&bare(Opcode::GetKQ, b"k"));
    let stored = client.ask(&set(Opcode::Set, b"k", b"value"));
    assert!(stored.status == Status::Ok && stored.cas > 0);
    for opcode in [Opcode::Get, Opcode::GetK, Opcode::GetQ, Opcode::GetKQ] {
        let got = client.ask(&bare(opcode, b"k"));
        let key: &[u8] = if opcode.returns_key() { b"k" } else { b"" };
        assert_eq!(
            (&got.key[..], &got.value[..]),
            (key, &b"value"[..]),
            "{opcode:?}"
        );
        assert_eq!((&got.extras[..], got.cas), (&[0, 0, 0, 7][..], stored.cas));
    }
}

#[test]
fn conditions_are_told_by_their_status() {
    let server = Peer::backend(&[]);
    let mut client = Client::connect(&server);
    assert_eq!(
        client.status(&set(Opcode::Replace, b"k", b"1")),
        Status::NotFound
    );
    assert_eq!(client.status(&set(Opcode::Add, b"k", b"1")), Status::Ok);
    assert_eq!(client.status(&set(Opcode::Add, b"k", b"1")), Status::Exists);
    assert_eq!(
        client.status(&set(Opcode::AddQ, b"k", b"1")),
        Status::Exists
    );
    let cas = client.ask(&bare(Opcode::Get, b"k")).cas;
    let with = |cas, key| Request {
        cas,
        ..set(Opcode::Set, key, b"2")
    };
    assert_eq!(client.status(&with(cas + 1, b"k")), Status::Exists);
    assert_eq!(client.status(&with(cas, b"j")), Status::NotFound);
    assert_eq!(client.status(&with(cas, b"k")), Status::Ok);
    let append = |opcode, key| Request {
        value: b"x",
        ..bare(opcode, key)
    };
    assert_eq!(
        client.status(&append(Opcode::Append, b"j")),
        Status::NotStored
    );
    client.silent(&append(Opcode::AppendQ, b"k"));
    assert_eq!(client.status(&append(Opcode::Prepend, b"k")), Status::Ok);
    assert_eq!(client.ask(&bare(Opcode::Get, b"k")).value, b"x2x");
    let delete = Request {
        cas,
        ..bare(Opcode::Delete, b"k")
    };
    assert_eq!(client.status(&delete), Status::Exists);
    client.silent(&bare(Opcode::DeleteQ, b"k"));
    assert_eq!(
        client.status(&bare(Opcode::DeleteQ, b"k")),
        Status::NotFound
    );
}

#[test]
fn numbers_are_counted_and_made() {
    let server = Peer::backend(&[]);
    let mut client = Client::connect(&server);
    let count = |opcode, exptime| Request {
        extras: Extras::Count {
            delta: 5,
            initial: 100,
            exptime,
        },
        ..bare(opcode, b"n")
    };
    assert_eq!(
        client.status(&count(Opcode::Increment, u32::MAX)),
        Status::NotFound
    );
    let made = client.ask(&count(Opcode::Increment, 0));
    assert_eq!(
        (made.status, &made.value[..]),
        (Status::Ok, &100u64.to_be_bytes()[..])
    );
    assert_eq!(
        client.ask(&count(Opcode::Increment, 0)).value,
        105u64.to_be_bytes()
    );
    client.silent(&count(Opcode::DecrementQ, 0));
    assert_eq!(client.ask(&bare(Opcode::Get, b"n")).value, b"100");
    client.ask(&set(Opcode::Set, b"n", b"ten"));
    assert_eq!(
        client.status(&count(Opcode::IncrementQ, 0)),
        Status::NotANumber
    );
}

#[test]
fn items_get_new_times_to_live() {
    let server = Peer::backend(&["-o", "relaxed_privileges"]);
    let mut client = Client::connect(&server);
    let touch = |opcode, key, seconds| Request {
        extras: Extras::Exptime(seconds),
        ..bare(opcode, key)
    };
    assert_eq!(
        client.status(&touch(Opcode::Touch, b"k", 9)),
        Status::NotFound
    );
    client.silent(&touch(Opcode::GatQ, b"k", 9));
    client.silent(&touch(Opcode::GatKQ, b"k", 9));
    client.ask(&set(Opcode::Set, b"k", b"value"));
    let touched = client.ask(&touch(Opcode::Touch, b"k", 60));
    assert_eq!((touched.extras.len(), touched.value.len()), (4, 0));
    assert_eq!(client.ask(&touch(Opcode::Gat, b"k", 10)).value, b"value");
    let got = client.ask(&touch(Opcode::GatK, b"k", 10));
    assert_eq!((&got.key[..], &got.value[..]), (&b"k"[..], &b"value"[..]));
    let mut text = crate::client::Client::connect(server.target().address);
    text.send("debugtime 11\r\n");
    assert_eq!(text.line(), "OK");
    assert_eq!(client.status(&bare(Opcode::Get, b"k")), Status::NotFound);
}

#[test]
fn the_server_itself_answers() {
    let server = Peer::backend(&[]);
    let mut client = Client::connect(&server);
    let version = client.ask(&bare(Opcode::Version, b"")).value;
    assert!(version.starts_with(b"1.6.45"));
    client.ask(&set(Opcode::Set, b"k", b"value"));
    client.send(&bare(Opcode::Stat, b""));
    let mut stats = Vec::new();
    loop {
        let line = client.answer();
        assert_eq!((line.opcode, line.opaque), (Opcode::Stat, 0xdead_beef));
        if line.key.is_empty() {
            break;
        }
        stats.push((line.key, line.value));
    }
    assert!(stats.contains(&(b"curr_items".to_vec(), b"1".to_vec())));
    let nothing = bare(Opcode::Stat, b"nonsense");
    assert_eq!(client.status(&nothing), Status::NotFound);
    for opcode in [Opcode::SaslListMechs, Opcode::Verbosity] {
        assert_eq!(client.status(&bare(opcode, b"")), Status::UnknownCommand);
    }
    assert_eq!(
        client.status(&bare(Opcode::SaslAuth, b"PLAIN")),
        Status::UnknownCommand
    );
    client.silent(&bare(Opcode::FlushQ, b""));
    assert_eq!(client.status(&bare(Opcode::Get, b"k")), Status::NotFound);
    assert_eq!(client.status(&bare(Opcode::Flush, b"")), Status::Ok);
    client.send(&bare(Opcode::QuitQ, b""));
    let mut rest = Vec::new();
    client.0.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty());
}

#[test]
fn what_an_authentication_brings_is_passed_over_without_being_kept() {
    const PIECES: usize = 300;
    let piece = [0; 64 * 1024];
    let server = Peer::backend(&["-m", "128", "-I", "64m"]);
    let mut client = Client::connect(&server);
    let mut frame = Vec::new();
    bare(Opcode::SaslAuth, b"PLAIN").encode(&mut frame);
    let body = u32::try_from(5 + PIECES * piece.len()).unwrap();
    frame[8..12].copy_from_slice(&body.to_be_bytes());
    // Answered before any of it is there.
    client.0.write_all(&frame).unwrap();
    assert_eq!(client.answer().status, Status::UnknownCommand);
    let resident_kib = || crate::status(server.id(), "VmRSS");
    let before = resident_kib();
    for _ in 0..PIECES - 1 {
        client.0.write_all(&piece).unwrap();
    }
    let grown = resident_kib().saturating_sub(before);
    assert!(grown < 4096, "{grown} KiB");
    client.0.write_all(&piece).unwrap();
    assert_eq!(client.status(&bare(Opcode::Noop, b"")), Status::Ok);
}

#[test]
fn large_values_are_whole_however_they_come() {
    let server = Peer::backend(&[]);
    let mut client = Client::connect(&server);
    for len in [16_383, 16_384, 70_000, 1_000_000] {
        let value: Vec<u8> = (0..len).map(|at: u32| at.to_le_bytes()[0] ^ 0x5a).collect();
        let mut bytes = Vec::new();
        set(Opcode::SetQ, b"large", &value).encode(&mut bytes);
        bare(Opcode::Get, b"large").encode(&mut bytes);
        // In pieces that end in the header, the key and the value.
        let mut rest = &bytes[..];
        for cut in [10, 20, 5, 4096, 12_000] {
            let (piece, later) = rest.split_at(cut.min(rest.len()));
            client.0.write_all(piece).unwrap();
            rest = later;
        }
        client.0.write_all(rest).unwrap();
        let got = client.answer();
        assert_eq!((got.opcode, got.status), (Opcode::Get, Status::Ok), "{len}");
        assert!(got.value == value, "{len}");
    }
    let large = vec![0; 1 << 20];
    assert_eq!(
        client.status(&set(Opcode::SetQ, b"large", &large)),
        Status::TooLarge
    );
    assert_eq!(
        client.status(&bare(Opcode::Get, b"large")),
        Status::NotFound
    );
}

#[test]
fn a_value_that_is_too_large_is_counted_by_prefix() {
    let server = Peer::backend(&["-D", ":"]);
    let mut client = Client::connect(&server);
    for (opcode, len) in [(Opcode::Set, 2_000_000), (Opcode::AddQ, 1_048_550)] {
        let value = vec![0; len];
        assert_eq!(
            client.status(&set(opcode, b"a:1", &value)),
            Status::TooLarge
        );
    }
    let mut text = TcpStream::connect(server.target().address).unwrap();
    text.write_all(b"stats detail dump\r\nquit\r\n").unwrap();
    let mut told = String::new();
    text.read_to_string(&mut told).unwrap();
    assert_eq!(told, "PREFIX a get 0 hit 0 set 2 del 0\r\nEND\r\n");
}

#[test]
fn the_first_byte_decides_unless_a_dialect_is_named() {
    let server = Peer::backend(&["-B", "ascii"]);
    let mut client = Client::connect(&server);
    client.0.write_all(b"\x80abc\r\n").unwrap();
    let mut answer = [0; 7];
    client.0.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"ERROR\r\n");
    let server = Peer::backend(&["-B", "binary"]);
    let mut client = Client::connect(&server);
    assert_eq!(client.status(&bare(Opcode::Noop, b"")), Status::Ok);
    let mut client = Client::connect(&server);
    client.0.write_all(b"version\r\n").unwrap();
    // Closed without a word.
    let mut rest = Vec::new();
    let read = client.0.read_to_end(&mut rest);
    assert!(read.is_err() || rest.is_empty());
}
