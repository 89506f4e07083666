//! Binary requests as meta commands, and the replies back: for servers that are
//! not spoken to in the binary dialect.
//!
//! What cannot be said in meta commands: a key of more than 186 bytes that holds
//! blanks or control characters (the wire carries at most 250 bytes of base64),
//! and a time beyond the year 2038, which becomes the last second of it.

use super::opcode::Opcode;
use super::request::{Extras, NO_VIVIFY, Request};
use super::response::Response;
use super::status::Status;
use crate::protocol::key::encode_base64;
use crate::protocol::limits::KEY_BYTES_MAX;
use crate::protocol::number::{read_u32, read_u64, write_u64};
use crate::protocol::reply::{Outcome, Shape};
use crate::protocol::request::Words;

/// What ends a batch of quiet retrievals, and its answer.
pub const BATCH_END: &[u8] = b"mn\r\n";

/// Appends the command line that means the same as `request`, with `opaque` in
/// the place of its own; the value and a line end follow it if the answer is
/// [`Shape::MetaSet`]. The command is quiet only for `quiet`, which retrievals
/// may be. `None`, with nothing appended, if it cannot be said.
pub fn to_meta(
    request: &Request<'_>,
    opaque: u32,
    quiet: bool,
    out: &mut Vec<u8>,
) -> Option<Shape> {
    let plain = request.key.iter().all(|&byte| byte > b' ' && byte != 0x7f);
    if !plain && base64_len(request.key.len()) > KEY_BYTES_MAX {
        return None;
    }
    let (verb, shape): (&[u8], _) = match request.opcode.loud() {
        Opcode::Get | Opcode::GetK | Opcode::Gat | Opcode::GatK | Opcode::Touch => {
            (b"mg ", Shape::MetaGet)
        }
        Opcode::Set | Opcode::Add | Opcode::Replace | Opcode::Append | Opcode::Prepend => {
            (b"ms ", Shape::MetaSet)
        }
        Opcode::Delete => (b"md ", Shape::MetaDelete),
        Opcode::Increment | Opcode::Decrement => (b"ma ", Shape::MetaArithmetic),
        _ => return None,
    };
    out.extend_from_slice(verb);
    if plain {
        out.extend_from_slice(request.key);
    } else {
        encode_base64(out, request.key);
    }
    if shape == Shape::MetaSet {
        number(
            out,
            b" ",
            u64::try_from(request.value.len()).unwrap_or(u64::MAX),
        );
    }
    if !plain {
        out.extend_from_slice(b" b");
    }
    number(out, b" O", u64::from(opaque));
    if quiet {
        out.extend_from_slice(b" q");
    }
    flags(request, out);
    if request.cas != 0 && shape != Shape::MetaGet {
        number(out, b" C", request.cas);
    }
    out.extend_from_slice(b"\r\n");
    Some(shape)
}

/// The flags that say what the opcode and the extras say.
fn flags(request: &Request<'_>, out: &mut Vec<u8>) {
    let opcode = request.opcode.loud();
    match opcode {
        Opcode::Get | Opcode::GetK | Opcode::Gat | Opcode::GatK => {
            out.extend_from_slice(b" f c v");
        }
        Opcode::Touch => out.extend_from_slice(b" f c"),
        Opcode::Delete => {}
        _ => out.extend_from_slice(b" c"),
    }
    // One that names a version is stored where the item has it, whatever else it
    // asks: that is how memcached reads `add` and `replace`.
    let mode: &[u8] = match opcode {
        Opcode::Add if request.cas == 0 => b" ME",
        Opcode::Replace if request.cas == 0 => b" MR",
        Opcode::Append => b" MA",
        Opcode::Prepend => b" MP",
        Opcode::Increment => b" v MI",
        Opcode::Decrement => b" v MD",
        _ => b"",
    };
    out.extend_from_slice(mode);
    match request.extras {
        Extras::None => {}
        Extras::Item { flags, exptime } => {
            number(out, b" F", u64::from(flags));
            number(out, b" T", time(exptime));
        }
        Extras::Exptime(exptime) => number(out, b" T", time(exptime)),
        Extras::Count {
            delta,
            initial,
            exptime,
        } => {
            number(out, b" D", delta);
            if exptime != NO_VIVIFY {
                number(out, b" N", time(exptime));
                number(out, b" J", initial);
            }
        }
    }
}

fn number(out: &mut Vec<u8>, letter: &[u8], number: u64) {
    out.extend_from_slice(letter);
    write_u64(out, number);
}

/// A time that has no sign as one that has 31 bits.
fn time(exptime: u32) -> u64 {
    u64::from(exptime.min(i32::MAX.unsigned_abs()))
}

fn base64_len(len: usize) -> usize {
    len.div_ceil(3).saturating_mul(4)
}

/// What a server has said, in the terms of the binary dialect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    /// How it went.
    pub status: Status,
    /// The version of the item.
    pub cas: u64,
    /// Client flags, if the answer has any.
    pub flags: Option<u32>,
    /// A counted number, if the answer has one.
    pub number: Option<u64>,
    /// A value, or the text of an error.
    pub value: &'a [u8],
    /// The opaque of the command; 0 if the reply does not name it.
    pub opaque: u32,
}

impl Answer<'_> {
    /// Appends the response to a request with `opcode` and `opaque`, without the
    /// value, which the caller puts behind it. `key` goes into the responses of
    /// opcodes that return it.
    pub fn encode_head(&self, opcode: Opcode, opaque: u32, key: &[u8], out: &mut Vec<u8>) {
        let flags = self.flags.map(u32::to_be_bytes);
        let number = self.number.map(u64::to_be_bytes);
        let has_key = opcode.returns_key() && matches!(self.status, Status::Ok | Status::NotFound);
        let mut header = Response {
            opcode: opcode.byte(),
            status: self.status.code(),
            opaque,
            cas: self.cas,
            extras: flags.as_ref().map_or(&[][..], |flags| flags),
            key: if has_key { key } else { b"" },
            value: number.as_ref().map_or(self.value, |number| number),
        };
        // memcached names the key of a miss, and then leaves the text out.
        if has_key && self.status == Status::NotFound {
            header.value = b"";
        }
        header.encode_head(out);
        if let Some(number) = number {
            out.extend_from_slice(&number);
        }
    }

    /// What follows the head.
    pub fn tail(&self, opcode: Opcode) -> &[u8] {
        let bare = opcode.returns_key() && self.status == Status::NotFound;
        if self.number.is_some() || bare {
            b""
        } else {
            self.value
        }
    }
}

/// Reads the reply of a server to the meta command of a request with `opcode`.
///
/// `reply` is whole and has been checked to be one to that command; `outcome` is
/// what it says.
pub fn from_meta(opcode: Opcode, outcome: Outcome, reply: &[u8]) -> Answer<'_> {
    let opcode = opcode.loud();
    let status = match outcome {
        Outcome::Hit | Outcome::Done => Status::Ok,
        Outcome::Miss | Outcome::NotFound => Status::NotFound,
        Outcome::Exists => Status::Exists,
        Outcome::NotStored => match opcode {
            Opcode::Add => Status::Exists,
            Opcode::Replace => Status::NotFound,
            _ => Status::NotStored,
        },
        Outcome::Unknown | Outcome::ClientError | Outcome::ServerError => {
            return refusal(opcode, outcome, reply);
        }
    };
    let mut answer = Answer {
        status,
        cas: 0,
        flags: None,
        number: None,
        value: status.text().as_bytes(),
        opaque: 0,
    };
    if status != Status::Ok {
        return answer;
    }
    let line_len = memchr::memchr(b'\n', reply).unwrap_or(reply.len());
    let (line, rest) = reply.split_at_checked(line_len).unwrap_or((reply, b""));
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let has_value = line.starts_with(b"VA ");
    for word in Words::new(line).skip(if has_value { 2 } else { 1 }) {
        match word.split_first() {
            Some((b'c', cas)) => answer.cas = read_u64(cas).unwrap_or(0),
            Some((b'f', flags)) => answer.flags = read_u32(flags),
            Some((b'O', opaque)) => answer.opaque = read_u32(opaque).unwrap_or(0),
            _ => {}
        }
    }
    if has_value {
        let value = rest.strip_prefix(b"\n").unwrap_or(rest);
        answer.value = value.strip_suffix(b"\r\n").unwrap_or(value);
    }
    if matches!(opcode, Opcode::Increment | Opcode::Decrement) {
        answer.number = read_u64(answer.value.trim_ascii_end());
    }
    answer
}

/// A refusal of a server's. What memcached refuses in both dialects has the
/// status and the words it has in this one; others keep their words.
fn refusal(opcode: Opcode, outcome: Outcome, reply: &[u8]) -> Answer<'_> {
    let text = reply.trim_ascii_end();
    let (status, text) = match outcome {
        Outcome::Unknown => (Status::UnknownCommand, None),
        Outcome::ClientError if matches!(opcode, Opcode::Increment | Opcode::Decrement) => {
            (Status::NotANumber, None)
        }
        Outcome::ClientError => (
            Status::InvalidArguments,
            text.strip_prefix(b"CLIENT_ERROR "),
        ),
        _ => match text.strip_prefix(b"SERVER_ERROR ") {
            Some(b"object too large for cache") => (Status::TooLarge, None),
            Some(text) if contains_ignoring_case(text, b"out of memory") => {
                (Status::OutOfMemory, None)
            }
            text => (Status::TemporaryFailure, text),
        },
    };
    Answer {
        status,
        cas: 0,
        flags: None,
        number: None,
        value: text.unwrap_or(status.text().as_bytes()),
        opaque: 0,
    }
}

fn contains_ignoring_case(text: &[u8], wanted: &[u8]) -> bool {
    text.windows(wanted.len())
        .any(|window| window.eq_ignore_ascii_case(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::limits::Limits;
    use crate::protocol::{Cut, Request as AnyRequest, text};

    fn request<'a>(opcode: Opcode, extras: Extras, key: &'a [u8], value: &'a [u8]) -> Request<'a> {
        Request {
            opcode,
            opaque: 1,
            cas: 0,
            extras,
            key,
            value,
        }
    }

    fn line(request: &Request<'_>, quiet: bool) -> String {
        let mut out = Vec::new();
        let shape = to_meta(request, 7, quiet, &mut out).unwrap();
        let mut whole = out.clone();
        if shape == Shape::MetaSet {
            whole.extend_from_slice(request.value);
            whole.extend_from_slice(b"\r\n");
        }
        match text::cut(&whole, 0, &Limits::default()) {
            Cut::Request {
                request: AnyRequest::Meta(meta),
                len,
            } => {
                assert_eq!((len, meta.is_quiet()), (whole.len(), quiet));
                assert_eq!(meta.item_key().as_bytes(), request.key);
                assert_eq!(Shape::of(&AnyRequest::Meta(meta)), shape);
            }
            other => panic!("{other:?}"),
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn each_opcode_has_its_command() {
        let item = Extras::Item {
            flags: 5,
            exptime: 60,
        };
        let count = |exptime| Extras::Count {
            delta: 3,
            initial: 9,
            exptime,
        };
        for (opcode, extras, expected) in [
            (Opcode::GetK, Extras::None, "mg k O7 f c v\r\n"),
            (Opcode::GatQ, Extras::Exptime(60), "mg k O7 f c v T60\r\n"),
            (
                Opcode::Touch,
                Extras::Exptime(u32::MAX),
                "mg k O7 f c T2147483647\r\n",
            ),
            (Opcode::Set, item, "ms k 2 O7 c F5 T60\r\n"),
            (Opcode::AddQ, item, "ms k 2 O7 c ME F5 T60\r\n"),
            (Opcode::Replace, item, "ms k 2 O7 c MR F5 T60\r\n"),
            (Opcode::Append, Extras::None, "ms k 2 O7 c MA\r\n"),
            (Opcode::Prepend, Extras::None, "ms k 2 O7 c MP\r\n"),
            (Opcode::Delete, Extras::None, "md k O7\r\n"),
            (Opcode::Increment, count(0), "ma k O7 c v MI D3 N0 J9\r\n"),
            (Opcode::Decrement, count(NO_VIVIFY), "ma k O7 c v MD D3\r\n"),
        ] {
            assert_eq!(line(&request(opcode, extras, b"k", b"hi"), false), expected);
        }
        let mut add = request(Opcode::Add, item, b"k", b"hi");
        add.cas = 12;
        assert_eq!(line(&add, false), "ms k 2 O7 c F5 T60 C12\r\n");
    }

    #[test]
    fn a_key_that_is_no_word_goes_in_base64() {
        let get = |key| request(Opcode::GetQ, Extras::None, key, b"");
        assert_eq!(line(&get(b"a b"), true), "mg YSBi b O7 q f c v\r\n");
        assert_eq!(line(&get(b"\0"), true), "mg AA== b O7 q f c v\r\n");
        let mut out = Vec::new();
        assert_eq!(
            to_meta(&get(&[b' '; 186]), 7, true, &mut out),
            Some(Shape::MetaGet)
        );
        out.clear();
        assert_eq!(to_meta(&get(&[b' '; 187]), 7, true, &mut out), None);
        assert!(out.is_empty());
        assert!(to_meta(&get(&[b'x'; 250]), 7, true, &mut out).is_some());
    }

    #[test]
    fn replies_come_back_in_binary() {
        let answer = from_meta(Opcode::Get, Outcome::Hit, b"VA 2 f5 c77 O7\r\nhi\r\n");
        assert_eq!(
            (answer.status, answer.cas, answer.flags),
            (Status::Ok, 77, Some(5))
        );
        assert_eq!((answer.value, answer.opaque), (&b"hi"[..], 7));
        let answer = from_meta(Opcode::Increment, Outcome::Done, b"VA 2 c7 O7\r\n12\r\n");
        assert_eq!((answer.number, answer.cas), (Some(12), 7));
        for (opcode, outcome, reply, status) in [
            (
                Opcode::AddQ,
                Outcome::NotStored,
                &b"NS\r\n"[..],
                Status::Exists,
            ),
            (
                Opcode::Replace,
                Outcome::NotStored,
                b"NS\r\n",
                Status::NotFound,
            ),
            (
                Opcode::Append,
                Outcome::NotStored,
                b"NS\r\n",
                Status::NotStored,
            ),
            (Opcode::Set, Outcome::Exists, b"EX\r\n", Status::Exists),
            (Opcode::Get, Outcome::Miss, b"EN\r\n", Status::NotFound),
            (
                Opcode::Set,
                Outcome::ServerError,
                b"SERVER_ERROR object too large for cache\r\n",
                Status::TooLarge,
            ),
            (
                Opcode::Set,
                Outcome::ServerError,
                b"SERVER_ERROR out of memory storing object\r\n",
                Status::OutOfMemory,
            ),
            (
                Opcode::Increment,
                Outcome::ClientError,
                b"CLIENT_ERROR cannot increment or decrement non-numeric value\r\n",
                Status::NotANumber,
            ),
            (
                Opcode::Get,
                Outcome::Unknown,
                b"ERROR\r\n",
                Status::UnknownCommand,
            ),
        ] {
            let answer = from_meta(opcode, outcome, reply);
            assert_eq!(
                (answer.status, answer.value),
                (status, status.text().as_bytes())
            );
        }
        let answer = from_meta(Opcode::Get, Outcome::ServerError, b"SERVER_ERROR busy\r\n");
        assert_eq!(
            (answer.status, answer.value),
            (Status::TemporaryFailure, &b"busy"[..])
        );
    }

    #[test]
    fn a_miss_names_the_key_if_that_was_asked_for() {
        let answer = from_meta(Opcode::GetK, Outcome::Miss, b"EN\r\n");
        let mut out = Vec::new();
        answer.encode_head(Opcode::GetK, 3, b"key", &mut out);
        out.extend_from_slice(answer.tail(Opcode::GetK));
        let expected = Response {
            opcode: Opcode::GetK.byte(),
            status: Status::NotFound.code(),
            opaque: 3,
            key: b"key",
            ..Response::default()
        };
        assert_eq!(
            super::super::response::cut(&out),
            Ok(Ok((expected, out.len())))
        );
    }
}
