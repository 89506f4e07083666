//! Replies of servers: where one ends, and what it says.
//!
//! A reply is checked against the request it is taken for: its form must be one
//! that this command can have, and where it names a key or an opaque, those must
//! be the request's. Anything else means that requests and replies have come out
//! of step, and [`Desync`] tells the caller to give the connection up: a lost
//! reply is an error which the client sees, another's reply is one it does not.

use memchr::{memchr, memchr2};
use thiserror::Error;

use super::number::read_u64;
use super::request::{Change, ChangeVerb, Request, Words};
use super::{binary, limits, meta};

/// Longest line a server may answer with, in bytes. memcached's own lines stay
/// below 2 KiB; an error text of another server may be longer.
pub const REPLY_LINE_BYTES_MAX: usize = 8192;

/// Which replies a request can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// At most one `VALUE` block, then `END`: a retrieval of one key.
    Value,
    /// Any number of `VALUE` blocks, then `END`.
    Values,
    /// `STORED`, `NOT_STORED`, `EXISTS`, `NOT_FOUND`.
    Store,
    /// `DELETED`, `NOT_FOUND`.
    Delete,
    /// `TOUCHED`, `NOT_FOUND`.
    Touch,
    /// A number, `NOT_FOUND`.
    Number,
    /// `VA`, `HD`, `EN`.
    MetaGet,
    /// `HD`, `NS`, `EX`, `NF`.
    MetaSet,
    /// `HD`, `EX`, `NF`.
    MetaDelete,
    /// `VA`, `HD`, `NF`, `NS`, `EX`.
    MetaArithmetic,
    /// `ME`, `EN`.
    MetaDebug,
    /// `VERSION` and a text.
    Version,
    /// `OK`.
    Ok,
    /// The binary response to one request.
    Binary,
    /// Binary responses to quiet retrievals, as many as there are hits, and that
    /// to the `noop` behind them.
    BinaryBatch,
    /// `VA` for each hit of quiet `mg` commands, and `MN` to the `mn` behind them.
    MetaBatch,
}

impl Shape {
    /// The shape of the replies to a request that goes to a server.
    pub fn of(request: &Request<'_>) -> Self {
        match request {
            Request::Retrieve(retrieve) if retrieve.keys.is_single() => Self::Value,
            Request::Retrieve(_) => Self::Values,
            Request::Store(_) => Self::Store,
            Request::Change(Change { verb, .. }) => match verb {
                ChangeVerb::Delete => Self::Delete,
                ChangeVerb::Touch(_) => Self::Touch,
                ChangeVerb::Incr(_) | ChangeVerb::Decr(_) => Self::Number,
            },
            Request::Meta(meta) => match meta.verb {
                meta::Verb::Get => Self::MetaGet,
                meta::Verb::Set => Self::MetaSet,
                meta::Verb::Delete => Self::MetaDelete,
                meta::Verb::Arithmetic => Self::MetaArithmetic,
                meta::Verb::Debug => Self::MetaDebug,
            },
            Request::Admin(_) => Self::Ok,
        }
    }

    /// How many keys were asked for, if the reply is made of blocks. `expected`
    /// is what went with the request.
    #[inline]
    pub fn keys_asked(self, expected: u64) -> Option<u64> {
        match self {
            Self::Values => Some(expected),
            Self::BinaryBatch | Self::MetaBatch => Some(binary::reply::keys_of_batch(expected)),
            _ => None,
        }
    }

    /// Whether the request carried a data block.
    fn sent_data(self) -> bool {
        matches!(self, Self::Store | Self::MetaSet)
    }
}

/// What a reply says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A value, or its header alone (`VALUE`, `VA`, `HD` of `mg`, `ME`).
    Hit,
    /// No such item, said to a retrieval (`END`, `EN`).
    Miss,
    /// Stored, deleted, touched, counted (`HD` of the others).
    Done,
    /// No such item, said to a change (`NOT_FOUND`, `NF`).
    NotFound,
    /// A condition was not met (`NOT_STORED`, `NS`).
    NotStored,
    /// The item has changed (`EXISTS`, `EX`).
    Exists,
    /// `ERROR`: the server does not know the command.
    Unknown,
    /// `CLIENT_ERROR`.
    ClientError,
    /// `SERVER_ERROR`.
    ServerError,
}

impl Outcome {
    /// Whether the server refused rather than answered.
    pub fn is_error(self) -> bool {
        matches!(self, Self::Unknown | Self::ClientError | Self::ServerError)
    }
}

/// What was found at the start of a server's unread bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// A whole reply.
    Whole {
        /// Its length in bytes.
        len: usize,
        /// What it says.
        outcome: Outcome,
        /// Whether the connection can go on. After an error to a request with a
        /// data block nobody knows whether the server takes the block for
        /// commands.
        in_step: bool,
    },
    /// One `VALUE` block out of several; the reply goes on after it.
    Block(Block),
    /// The bytes stop inside a reply or block which is at least this long.
    More {
        /// Exact once a value's header is there.
        need: usize,
    },
}

/// One `VALUE` line and its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its length in bytes, with the line end after the data.
    pub len: usize,
    /// The length of its key.
    pub key_len: usize,
}

impl Block {
    /// The key, from the bytes of the block.
    #[inline]
    pub fn key<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        bytes
            .get(VALUE.len()..)
            .and_then(|rest| rest.get(..self.key_len))
            .unwrap_or_default()
    }
}

/// The server said something that cannot be the reply to the request.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("reply does not fit its request")]
pub struct Desync;

/// A short proof that a reply names the key or opaque of its request.
///
/// 0 stands for "nothing to compare". Not a cryptographic hash: it guards
/// against confusion, not against a hostile server.
#[inline]
pub fn fingerprint(bytes: &[u8]) -> u64 {
    const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |sum: u64, word: u64| (sum ^ word).wrapping_mul(MULTIPLIER).rotate_left(29);
    let mut sum = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    // The last eight bytes overlap those before: no loop over single bytes.
    if let Some(last) = bytes.last_chunk::<8>() {
        for chunk in bytes.chunks_exact(8) {
            sum = mix(
                sum,
                <[u8; 8]>::try_from(chunk).map_or(0, u64::from_le_bytes),
            );
        }
        sum = mix(sum, u64::from_le_bytes(*last));
    } else {
        let mut short = [0u8; 8];
        for (to, &from) in short.iter_mut().zip(bytes) {
            *to = from;
        }
        sum = mix(sum, u64::from_le_bytes(short));
    }
    sum | 1
}

/// The fingerprint that the reply to `request` must show, or 0.
#[inline]
pub fn expected_fingerprint(request: &Request<'_>) -> u64 {
    match request {
        Request::Retrieve(retrieve) if retrieve.keys.is_single() => {
            fingerprint(retrieve.keys.first)
        }
        Request::Meta(meta) if !meta.opaque.is_empty() => fingerprint(meta.opaque),
        _ => 0,
    }
}

/// Cuts the first reply, or the first block of a long one, out of `buf`.
///
/// `expected` is the [`fingerprint`] of the key or opaque that the reply must
/// name, 0 if none.
///
/// # Errors
///
/// [`Desync`] if these bytes cannot be the reply.
#[inline]
pub fn cut(shape: Shape, expected: u64, buf: &[u8]) -> Result<Part, Desync> {
    match (shape, buf.first()) {
        (Shape::Value, Some(b'V')) => return value(expected, buf),
        (Shape::Values, Some(b'V')) => return values(buf),
        (Shape::Binary, _) => return binary::reply::one(expected, buf),
        (Shape::BinaryBatch, _) => return binary::reply::batch(expected, buf),
        _ => {}
    }
    let Some(end) = memchr(b'\n', buf) else {
        return more_of_line(buf);
    };
    let (line, len) = match buf.get(..end) {
        Some([line @ .., b'\r']) => (line, end.saturating_add(1)),
        _ => return Err(Desync),
    };
    match shape {
        Shape::Value | Shape::Values => end_or_error(line, len),
        Shape::MetaGet | Shape::MetaArithmetic if line.starts_with(b"VA ") => {
            meta_value(shape, line, len, expected, buf)
        }
        Shape::MetaBatch => meta_batch(line, len, buf),
        _ => one_line(shape, line, len, expected),
    }
}

/// The line has no end yet: wait for it, unless it is too long to be believed.
fn more_of_line(buf: &[u8]) -> Result<Part, Desync> {
    if buf.len() > REPLY_LINE_BYTES_MAX {
        return Err(Desync);
    }
    Ok(Part::More {
        need: buf.len().saturating_add(1),
    })
}

/// The first word of a value's header.
const VALUE: &[u8] = b"VALUE ";

/// What matters of a line `VALUE <key> <flags> <bytes> [<cas>]`.
struct Header<'a> {
    key: &'a [u8],
    /// Bytes of value.
    length: usize,
    /// Bytes of the line, with its end.
    line: usize,
}

impl<'a> Header<'a> {
    /// Reads the header at the start of `buf` in one pass; `None` if it goes on
    /// behind the end of `buf`.
    #[inline]
    fn read(buf: &'a [u8]) -> Result<Option<Self>, Desync> {
        let Some(words) = buf.strip_prefix(VALUE) else {
            return unless(VALUE.starts_with(buf));
        };
        let near = words.get(..=limits::KEY_BYTES_MAX).unwrap_or(words);
        let Some(end) = memchr2(b' ', b'\n', near) else {
            return unless(near.len() <= limits::KEY_BYTES_MAX);
        };
        let (Some(key), Some(numbers @ [b' ', ..])) = (words.get(..end), words.get(end..)) else {
            return Err(Desync);
        };
        let mut bytes = numbers.iter().skip(1);
        // The flags are the client's affair, but they must be a number.
        match number(&mut bytes)? {
            Some((_, b' ')) => {}
            Some(_) => return Err(Desync),
            None => return Ok(None),
        }
        let length = match number(&mut bytes)? {
            Some((length, b' ')) => match number(&mut bytes)? {
                Some((_, b'\r')) => length,
                Some(_) => return Err(Desync),
                None => return Ok(None),
            },
            Some((length, _)) => length,
            None => return Ok(None),
        };
        match bytes.next() {
            Some(b'\n') => {}
            Some(_) => return Err(Desync),
            None => return Ok(None),
        }
        match usize::try_from(length) {
            Ok(length) if length <= limits::VALUE_BYTES_CEILING => Ok(Some(Self {
                key,
                length,
                line: buf.len().saturating_sub(bytes.len()),
            })),
            _ => Err(Desync),
        }
    }
}

/// Nothing yet, unless it is clear already that it cannot be right.
fn unless<'a>(possible: bool) -> Result<Option<Header<'a>>, Desync> {
    if possible { Ok(None) } else { Err(Desync) }
}

/// Reads digits and the byte after them, a blank or CR; `None` if `bytes` end
/// before that.
#[inline]
fn number<'a>(bytes: &mut impl Iterator<Item = &'a u8>) -> Result<Option<(u64, u8)>, Desync> {
    let mut sum = 0u64;
    let mut any = false;
    for &byte in bytes {
        let digit = byte.wrapping_sub(b'0');
        if digit <= 9 {
            sum = sum.saturating_mul(10).saturating_add(u64::from(digit));
            any = true;
        } else if any && matches!(byte, b' ' | b'\r') {
            return Ok(Some((sum, byte)));
        } else {
            return Err(Desync);
        }
    }
    Ok(None)
}

/// A hit in a reply to a retrieval of one key.
#[inline]
fn value(expected: u64, buf: &[u8]) -> Result<Part, Desync> {
    let Some(header) = Header::read(buf)? else {
        return more_of_line(buf);
    };
    if expected != 0 && fingerprint(header.key) != expected {
        return Err(Desync);
    }
    const TAIL: &[u8] = b"\r\nEND\r\n";
    let data_end = header.line.saturating_add(header.length);
    let total = data_end.saturating_add(TAIL.len());
    match buf.get(data_end..total) {
        None => Ok(Part::More { need: total }),
        Some(TAIL) => Ok(Part::Whole {
            len: total,
            outcome: Outcome::Hit,
            in_step: true,
        }),
        Some(_) => Err(Desync),
    }
}

/// A block of a reply to a retrieval of many keys.
#[inline]
fn values(buf: &[u8]) -> Result<Part, Desync> {
    let Some(header) = Header::read(buf)? else {
        return more_of_line(buf);
    };
    let data_end = header.line.saturating_add(header.length);
    let total = data_end.saturating_add(2);
    match buf.get(data_end..total) {
        None => Ok(Part::More { need: total }),
        Some(b"\r\n") => Ok(Part::Block(Block {
            len: total,
            key_len: header.key.len(),
        })),
        Some(_) => Err(Desync),
    }
}

fn end_or_error(line: &[u8], len: usize) -> Result<Part, Desync> {
    if line == b"END" {
        return Ok(Part::Whole {
            len,
            outcome: Outcome::Miss,
            in_step: true,
        });
    }
    error_line(line, len, true)
}

fn meta_value(
    shape: Shape,
    line: &[u8],
    len: usize,
    expected: u64,
    buf: &[u8],
) -> Result<Part, Desync> {
    let mut words = Words::new(line);
    let length = words.nth(1).and_then(read_u64).ok_or(Desync)?;
    let length = usize::try_from(length).map_err(|_| Desync)?;
    if length > limits::VALUE_BYTES_CEILING || !opaque_fits(words.rest(), expected) {
        return Err(Desync);
    }
    let data_end = len.saturating_add(length);
    let total = data_end.saturating_add(2);
    let outcome = match shape {
        Shape::MetaGet => Outcome::Hit,
        _ => Outcome::Done,
    };
    match buf.get(data_end..total) {
        None => Ok(Part::More { need: total }),
        Some(b"\r\n") => Ok(Part::Whole {
            len: total,
            outcome,
            in_step: true,
        }),
        Some(_) => Err(Desync),
    }
}

/// A hit of a batch of quiet `mg` commands, or its end. An error would have to
/// say which of them it is about, and none does.
fn meta_batch(line: &[u8], len: usize, buf: &[u8]) -> Result<Part, Desync> {
    if line == b"MN" {
        return Ok(Part::Whole {
            len,
            outcome: Outcome::Miss,
            in_step: true,
        });
    }
    if !line.starts_with(b"VA ") {
        return Err(Desync);
    }
    match meta_value(Shape::MetaGet, line, len, 0, buf)? {
        // Which key it is, its opaque tells.
        Part::Whole { len, .. } => Ok(Part::Block(Block { len, key_len: 0 })),
        part => Ok(part),
    }
}

/// Whether the flags of a meta reply show the opaque that was sent.
fn opaque_fits(words: &[u8], expected: u64) -> bool {
    expected == 0
        || Words::new(words)
            .find(|word| word.first() == Some(&b'O'))
            .is_some_and(|opaque| fingerprint(opaque) == expected)
}

fn one_line(shape: Shape, line: &[u8], len: usize, expected: u64) -> Result<Part, Desync> {
    let is_meta = matches!(
        shape,
        Shape::MetaGet | Shape::MetaSet | Shape::MetaDelete | Shape::MetaArithmetic
    );
    let code = if is_meta || shape == Shape::MetaDebug {
        line.get(..2).unwrap_or(line)
    } else {
        line
    };
    let outcome = match (shape, code) {
        (Shape::Store, b"STORED") => Outcome::Done,
        (Shape::Store, b"NOT_STORED") => Outcome::NotStored,
        (Shape::Store, b"EXISTS") => Outcome::Exists,
        (Shape::Store | Shape::Delete | Shape::Touch | Shape::Number, b"NOT_FOUND") => {
            Outcome::NotFound
        }
        (Shape::Delete, b"DELETED") | (Shape::Touch, b"TOUCHED") | (Shape::Ok, b"OK") => {
            Outcome::Done
        }
        (Shape::MetaGet, b"HD") | (Shape::MetaDebug, b"ME") => Outcome::Hit,
        (Shape::MetaGet | Shape::MetaDebug, b"EN") => Outcome::Miss,
        (Shape::MetaSet | Shape::MetaDelete | Shape::MetaArithmetic, b"HD") => Outcome::Done,
        (Shape::MetaSet | Shape::MetaDelete | Shape::MetaArithmetic, b"NF") => Outcome::NotFound,
        (Shape::MetaSet | Shape::MetaArithmetic, b"NS") => Outcome::NotStored,
        (Shape::MetaSet | Shape::MetaDelete | Shape::MetaArithmetic, b"EX") => Outcome::Exists,
        (Shape::Number, number) if is_number(number) => Outcome::Done,
        (Shape::Version, text) if text.starts_with(b"VERSION ") => Outcome::Done,
        _ => return error_line(line, len, !shape.sent_data()),
    };
    // After the two letters comes a blank or nothing: `HDX` is no reply.
    let flags = line.get(2..).unwrap_or_default();
    if is_meta && (flags.first().is_some_and(|&byte| byte != b' ') || !opaque_fits(flags, expected))
    {
        return Err(Desync);
    }
    Ok(Part::Whole {
        len,
        outcome,
        in_step: true,
    })
}

/// Digits; blanks may follow where a server shows the room a longer number had.
fn is_number(line: &[u8]) -> bool {
    let digits = super::text::parse::trim_end(line);
    !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
}

/// `keep` says whether an error that may have come before the data block was
/// read leaves the connection in step.
fn error_line(line: &[u8], len: usize, keep: bool) -> Result<Part, Desync> {
    let (outcome, in_step) = if line == b"ERROR" || line.starts_with(b"ERROR ") {
        (Outcome::Unknown, keep)
    } else if line.starts_with(b"CLIENT_ERROR") {
        (Outcome::ClientError, keep)
    } else if line.starts_with(b"SERVER_ERROR") {
        // Too large, out of memory: the server knew the length and swallows.
        (Outcome::ServerError, true)
    } else {
        return Err(Desync);
    };
    Ok(Part::Whole {
        len,
        outcome,
        in_step,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(shape: Shape, buf: &[u8]) -> (usize, Outcome) {
        match cut(shape, 0, buf) {
            Ok(Part::Whole { len, outcome, .. }) => (len, outcome),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_hit_ends_behind_its_end_line() {
        let reply = b"VALUE k 0 5\r\nhello\r\nEND\r\n";
        assert_eq!(whole(Shape::Value, reply), (reply.len(), Outcome::Hit));
        assert_eq!(whole(Shape::Value, b"END\r\nEND\r\n"), (5, Outcome::Miss));
        for cut_at in 0..reply.len() {
            let (start, _) = reply.split_at(cut_at);
            let Ok(Part::More { need }) = cut(Shape::Value, 0, start) else {
                panic!("{cut_at}");
            };
            assert!(need > cut_at && need <= reply.len());
        }
    }

    #[test]
    fn a_reply_for_another_key_is_out_of_step() {
        let reply = b"VALUE k 0 5\r\nhello\r\nEND\r\n";
        assert!(cut(Shape::Value, fingerprint(b"k"), reply).is_ok());
        assert_eq!(cut(Shape::Value, fingerprint(b"l"), reply), Err(Desync));
    }

    #[test]
    fn a_value_that_is_not_followed_by_its_end_is_out_of_step() {
        for reply in [
            &b"VALUE k 0 5\r\nhello there\r\nEND\r\n"[..],
            b"VALUE k 0 1\r\na\r\nVALUE k 0 1\r\na\r\nEND\r\n",
            b"VALUE k 0 x\r\n",
            b"VALUE k\r\n",
            b"STORED\r\n",
            b"END\n",
            b"\r\n",
        ] {
            assert_eq!(cut(Shape::Value, 0, reply), Err(Desync), "{reply:?}");
        }
    }

    #[test]
    fn many_values_come_block_by_block() {
        let reply = b"VALUE a 0 1\r\nx\r\nVALUE b 0 0 77\r\n\r\nEND\r\n";
        assert_eq!(
            cut(Shape::Values, 0, reply),
            Ok(Part::Block(Block {
                len: 16,
                key_len: 1
            }))
        );
        assert_eq!(
            cut(Shape::Values, 0, &reply[16..]),
            Ok(Part::Block(Block {
                len: 18,
                key_len: 1
            }))
        );
        assert_eq!(whole(Shape::Values, &reply[34..]), (5, Outcome::Miss));
    }

    #[test]
    fn a_reply_fits_its_command_or_is_out_of_step() {
        assert_eq!(whole(Shape::Store, b"STORED\r\n").1, Outcome::Done);
        assert_eq!(whole(Shape::Number, b"42\r\n").1, Outcome::Done);
        assert_eq!(whole(Shape::Number, b"42  \r\n").1, Outcome::Done);
        assert_eq!(whole(Shape::Delete, b"NOT_FOUND\r\n").1, Outcome::NotFound);
        assert_eq!(whole(Shape::MetaGet, b"EN\r\n").1, Outcome::Miss);
        assert_eq!(whole(Shape::MetaGet, b"HD t-1\r\n").1, Outcome::Hit);
        assert_eq!(whole(Shape::MetaSet, b"NS k1\r\n").1, Outcome::NotStored);
        assert_eq!(
            whole(Shape::MetaArithmetic, b"VA 2\r\n10\r\n"),
            (10, Outcome::Done)
        );
        for (shape, reply) in [
            (Shape::Store, &b"DELETED\r\n"[..]),
            (Shape::Delete, b"STORED\r\n"),
            (Shape::Number, b"\r\n"),
            (Shape::Number, b"4x\r\n"),
            (Shape::MetaGet, b"HDX\r\n"),
            (Shape::MetaGet, b"NF\r\n"),
            (Shape::MetaSet, b"VA 1\r\na\r\n"),
            (Shape::MetaGet, b"VA x\r\n"),
            (Shape::Store, b"END\r\n"),
        ] {
            assert_eq!(cut(shape, 0, reply), Err(Desync), "{reply:?}");
        }
    }

    #[test]
    fn an_opaque_must_come_back() {
        let sent = fingerprint(b"O17");
        assert!(cut(Shape::MetaGet, sent, b"HD O17 t5\r\n").is_ok());
        assert_eq!(cut(Shape::MetaGet, sent, b"HD O18 t5\r\n"), Err(Desync));
        assert_eq!(cut(Shape::MetaGet, sent, b"EN\r\n"), Err(Desync));
        assert!(cut(Shape::MetaGet, sent, b"SERVER_ERROR busy\r\n").is_ok());
    }

    #[test]
    fn an_error_to_a_data_block_leaves_the_connection_in_doubt() {
        let in_step = |shape, reply: &[u8]| match cut(shape, 0, reply) {
            Ok(Part::Whole { in_step, .. }) => in_step,
            other => panic!("{other:?}"),
        };
        assert!(!in_step(Shape::Store, b"ERROR\r\n"));
        assert!(!in_step(Shape::MetaSet, b"CLIENT_ERROR bad data chunk\r\n"));
        assert!(in_step(
            Shape::Store,
            b"SERVER_ERROR object too large for cache\r\n"
        ));
        assert!(in_step(Shape::Value, b"ERROR\r\n"));
        assert!(in_step(Shape::Number, b"CLIENT_ERROR cannot increment\r\n"));
    }

    #[test]
    fn a_line_without_end_is_given_up_on() {
        let line = vec![b'x'; REPLY_LINE_BYTES_MAX + 1];
        assert_eq!(cut(Shape::Value, 0, &line), Err(Desync));
    }
}
