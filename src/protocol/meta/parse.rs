//! Meta requests: the flags and what they bring.
//!
//! Which mistake is reported when there are several follows memcached: an
//! unknown or repeated flag ends the reading at once, a bad number lets it go on
//! and the last such mistake is told.

use super::flags::Flags;
use super::{Meta, Mode, Verb};
use crate::protocol::error::Error;
use crate::protocol::key::decode_base64;
use crate::protocol::limits::{
    KEY_BYTES_MAX, LINE_WORDS_MAX, Limits, META_WORDS_MAX, OPAQUE_BYTES_MAX,
};
use crate::protocol::number::{read_i32, read_u32, read_u64};
use crate::protocol::request::{Cut, Replaced, Request, Wire, Words};
use crate::protocol::text::parse::{Block, block, read_length, trim_end};

/// `mg`, `md`, `ma`, `me`. `args` is what follows the name in `line`; `whole` is
/// the line with its end.
pub(in crate::protocol) fn without_data<'a>(
    verb: Verb,
    line: &'a [u8],
    args: &'a [u8],
    whole: &'a [u8],
) -> Cut<'a> {
    let mut words = Words::new(args);
    let refused = |error| refuse(error, whole.len(), 0, None);
    let Some(key) = words.next() else {
        return refused(Error::BadFormat);
    };
    let words = words.rest();
    if !starts_like_flags(words, 2) {
        return refused(Error::BadFormat);
    }
    match read(verb, key, words) {
        Ok(mut meta) => {
            meta.wire.line = line_for_server(&meta, line, whole);
            Cut::Request {
                request: Request::Meta(meta),
                len: whole.len(),
            }
        }
        Err(error) => refused(error),
    }
}

/// `ms`, the one with a data block, which starts at `after`.
pub(in crate::protocol) fn with_data<'a>(
    line: &'a [u8],
    args: &'a [u8],
    whole: &'a [u8],
    after: &'a [u8],
    limits: &Limits,
) -> Cut<'a> {
    let mut words = Words::new(args);
    let (key, length) = (words.next(), words.next().and_then(read_length));
    let words = words.rest();
    let (Some(key), Some(length)) = (key, length) else {
        return refuse(Error::BadFormat, whole.len(), 0, None);
    };
    if !starts_like_flags(words, 3) {
        return refuse(Error::BadFormat, whole.len(), 0, None);
    }
    let swallow = length.saturating_add(2);
    let mut meta = match read(Verb::Set, key, words) {
        Ok(meta) => meta,
        Err(error) => return refuse(error, whole.len(), swallow, None),
    };
    if length > limits.value_bytes_max {
        let replaced = Replaced {
            key,
            base64: meta.flags.has(b'b'),
        };
        return refuse(Error::TooLarge, whole.len(), swallow, Some(replaced));
    }
    if meta.opaque.len() > limits.opaque_bytes_max {
        return refuse(Error::OpaqueTooLong, whole.len(), swallow, None);
    }
    match block(after, length) {
        Block::Whole(value, block) => {
            meta.value = value;
            meta.wire.line = line_for_server(&meta, line, whole);
            meta.wire.block = block;
            Cut::Request {
                request: Request::Meta(meta),
                len: whole.len().saturating_add(block.len()),
            }
        }
        Block::Short(_) if length >= limits.announce_bytes_min => Cut::Announced {
            request: Request::Meta(meta),
            len: whole.len(),
            value_len: length,
        },
        Block::Short(total) => Cut::More {
            need: whole.len().saturating_add(total),
        },
        Block::Unterminated(total) => refuse(
            Error::BadDataChunk,
            whole.len().saturating_add(total),
            0,
            None,
        ),
    }
}

/// Errors of meta commands are told even to a client that asked for quiet.
fn refuse<'a>(error: Error, len: usize, swallow: usize, replaced: Option<Replaced<'a>>) -> Cut<'a> {
    Cut::Refused {
        error,
        silent: false,
        len,
        swallow,
        replaced,
    }
}

/// Whether every word could be a flag: it starts with a letter, a digit, or what
/// stands between the upper and the lower case letters. memcached finds out
/// while it splits the line, before it knows of a data block.
///
/// `before` words stand before `words` in the line; those beyond what memcached
/// splits are not looked at.
fn starts_like_flags(words: &[u8], before: usize) -> bool {
    let seen = LINE_WORDS_MAX.saturating_sub(before);
    Words::new(words).take(seen).all(|word| {
        word.first()
            .is_some_and(|&byte| matches!(byte, b'A'..=b'z' | b'0'..=b'9'))
    })
}

/// Reads the flags of a command.
fn read<'a>(verb: Verb, key: &'a [u8], words: &'a [u8]) -> Result<Meta<'a>, Error> {
    if key.len() > KEY_BYTES_MAX {
        // `ma` has one text for whatever is wrong.
        return Err(match verb {
            Verb::Arithmetic => Error::InvalidOrDuplicateFlag,
            _ => Error::BadFormat,
        });
    }
    let mut meta = Meta {
        verb,
        key,
        words,
        flags: Flags::default(),
        mode: Mode::Set,
        exptime: None,
        vivify: None,
        recache: None,
        cas: None,
        new_cas: None,
        client_flags: 0,
        initial: 0,
        delta: 1,
        opaque: b"",
        value: b"",
        wire: Wire::default(),
    };
    if verb == Verb::Debug {
        // Looks at no flag but this one, and takes it for one only where another
        // word follows.
        let mut words = Words::new(words);
        if words.next() == Some(b"b") && words.next().is_some() {
            meta.flags.add(b'b');
        }
        return Ok(meta);
    }
    let mode = read_flags(&mut meta).map_err(|error| match verb {
        Verb::Arithmetic => Error::InvalidOrDuplicateFlag,
        _ => error,
    })?;
    meta.mode = match (verb, mode) {
        (Verb::Arithmetic, None | Some(b'I' | b'+')) => Mode::Incr,
        (Verb::Arithmetic, Some(b'D' | b'-')) => Mode::Decr,
        (Verb::Arithmetic, Some(_)) => return Err(Error::InvalidArithmeticMode),
        (Verb::Set, None | Some(b'S')) => Mode::Set,
        (Verb::Set, Some(b'E')) => Mode::Add,
        (Verb::Set, Some(b'A')) => Mode::Append,
        (Verb::Set, Some(b'P')) => Mode::Prepend,
        (Verb::Set, Some(b'R')) => Mode::Replace,
        (Verb::Set, Some(_)) => return Err(Error::InvalidSetMode),
        _ => Mode::Set,
    };
    // For `ms` the size of the value is looked at first.
    if verb != Verb::Set && meta.opaque.len() > OPAQUE_BYTES_MAX {
        return Err(Error::OpaqueTooLong);
    }
    Ok(meta)
}

/// Reads all flags; returns the letter of the mode flag, a blank if it has none.
fn read_flags(meta: &mut Meta<'_>) -> Result<Option<u8>, Error> {
    // Name and key, and for `ms` the length, count as words too.
    let words_before = if meta.verb == Verb::Set { 3usize } else { 2 };
    let count = Words::new(meta.words).count();
    if words_before.saturating_add(count) > META_WORDS_MAX {
        return Err(Error::TooManyFlags);
    }
    let mut mode = None;
    let mut mistake = None;
    for word in Words::new(meta.words) {
        let Some((&letter, argument)) = word.split_first() else {
            continue;
        };
        if letter.is_ascii_alphabetic() && !meta.flags.add(letter) {
            return Err(Error::DuplicateFlag);
        }
        // A flag without its number is as wrong as one with letters in it.
        let time = || (!argument.is_empty()).then(|| read_i32(argument)).flatten();
        let number = || (!argument.is_empty()).then(|| read_u64(argument)).flatten();
        let mut bad = |error| mistake = Some(error);
        match letter {
            b'b' => {
                if decode_base64(meta.key).is_none() {
                    bad(Error::KeyNotBase64);
                }
            }
            b'T' => meta.exptime = time().or_else(|| none(bad, Error::BadToken)),
            b'N' => meta.vivify = time().or_else(|| none(bad, Error::BadToken)),
            b'R' => meta.recache = time().or_else(|| none(bad, Error::BadToken)),
            b'C' => meta.cas = number().or_else(|| none(bad, Error::BadToken)),
            b'E' => meta.new_cas = number().or_else(|| none(bad, Error::BadToken)),
            b'J' => match number() {
                Some(initial) => meta.initial = initial,
                None => bad(Error::InvalidInitialFlag),
            },
            b'D' => match number() {
                Some(delta) => meta.delta = delta,
                None => bad(Error::InvalidDeltaFlag),
            },
            b'F' => match (!argument.is_empty()).then(|| read_u32(argument)).flatten() {
                Some(flags) => meta.client_flags = flags,
                // The one mistake that does not name itself.
                None => mistake = mistake.or(Some(Error::BadFormat)),
            },
            // A zero is what memcached has where there is no such flag.
            b'M' => {
                mode = Some(argument.first().copied().unwrap_or(b' ')).filter(|&mode| mode != 0);
            }
            b'O' => meta.opaque = word,
            b'l' | b'P' | b'L' | b'k' | b's' | b't' | b'c' | b'f' | b'v' | b'h' | b'u' | b'q'
            | b'x' | b'I' => {}
            _ => return Err(Error::InvalidFlag),
        }
    }
    match mistake {
        Some(error) => Err(error),
        None => Ok(mode),
    }
}

/// Notes a mistake where a value was wanted.
fn none<T>(mut note: impl FnMut(Error), error: Error) -> Option<T> {
    note(error);
    None
}

/// The command line as a server gets it: without the quiet flag, so that there
/// is always an answer, and with a proper end.
fn line_for_server<'a>(meta: &Meta<'a>, line: &'a [u8], whole: &'a [u8]) -> [&'a [u8]; 3] {
    if !meta.is_quiet() {
        return if whole.ends_with(b"\r\n") {
            [whole, b"", b""]
        } else {
            [line, b"\r\n", b""]
        };
    }
    let mut words = Words::new(meta.words);
    while let Some(word) = words.next() {
        if word.first() == Some(&b'q') {
            let after = words.rest();
            let until = line
                .len()
                .saturating_sub(after.len())
                .saturating_sub(word.len());
            let before = line.get(..until).unwrap_or_default();
            // The blank before the flag goes with it; `after` has its own.
            return [trim_end(before), trim_end(after), b"\r\n"];
        }
    }
    [line, b"\r\n", b""]
}

#[cfg(test)]
mod tests {
    use crate::protocol::error::Error;
    use crate::protocol::limits::Limits;
    use crate::protocol::meta::{Meta, Mode};
    use crate::protocol::request::{Cut, Request};
    use crate::protocol::text::cut;

    fn meta(bytes: &[u8]) -> Meta<'_> {
        match cut(bytes, 0, &Limits::default()) {
            Cut::Request {
                request: Request::Meta(meta),
                len,
            } => {
                assert_eq!(len, bytes.len());
                meta
            }
            other => panic!("{other:?}"),
        }
    }

    fn error(bytes: &[u8]) -> (Error, usize) {
        match cut(bytes, 0, &Limits::default()) {
            Cut::Refused { error, swallow, .. } => (error, swallow),
            other => panic!("{other:?}"),
        }
    }

    fn wire(bytes: &[u8]) -> Vec<u8> {
        let wire = meta(bytes).wire;
        [wire.line.concat(), wire.block.to_vec()].concat()
    }

    #[test]
    fn flags_bring_their_numbers() {
        let got = meta(b"mg k t T60 N0 R-5 C7 E18446744073709551615 Oab v\r\n");
        assert_eq!(got.key, b"k");
        assert_eq!(
            (got.exptime, got.vivify, got.recache),
            (Some(60), Some(0), Some(-5))
        );
        assert_eq!((got.cas, got.new_cas), (Some(7), Some(u64::MAX)));
        assert_eq!(got.opaque, b"Oab");
        let got = meta(b"ma k MD J5 D9\r\n");
        assert_eq!((got.mode, got.initial, got.delta), (Mode::Decr, 5, 9));
        assert_eq!(meta(b"ma k M\0\r\n").mode, Mode::Incr);
        assert_eq!(meta(b"ms k 2 M\0\r\nhi\r\n").mode, Mode::Set);
        let got = meta(b"ms k 2 F5 MA\r\nhi\r\n");
        assert_eq!(
            (got.mode, got.client_flags, got.value),
            (Mode::Append, 5, &b"hi"[..])
        );
    }

    #[test]
    fn a_server_never_sees_the_quiet_flag() {
        assert_eq!(wire(b"mg k v\r\n"), b"mg k v\r\n");
        assert_eq!(wire(b"mg k v\n"), b"mg k v\r\n");
        assert_eq!(wire(b"mg k q\r\n"), b"mg k\r\n");
        assert_eq!(wire(b"mg k v q k Oq\r\n"), b"mg k v k Oq\r\n");
        assert_eq!(wire(b"ms k 2 q T0\r\nhi\r\n"), b"ms k 2 T0\r\nhi\r\n");
        assert_eq!(wire(b"md  k  q  \n"), b"md  k\r\n");
    }

    #[test]
    fn mistakes_are_told_as_memcached_tells_them() {
        assert_eq!(error(b"mg\r\n"), (Error::BadFormat, 0));
        assert_eq!(error(b"mg k v v\r\n"), (Error::DuplicateFlag, 0));
        assert_eq!(error(b"mg k !\r\n"), (Error::BadFormat, 0));
        assert_eq!(error(b"mg k 5\r\n"), (Error::InvalidFlag, 0));
        assert_eq!(error(b"mg k S100\r\n"), (Error::InvalidFlag, 0));
        assert_eq!(error(b"mg k T\r\n"), (Error::BadToken, 0));
        assert_eq!(meta(b"mg k T-\r\n").exptime, Some(0));
        assert_eq!(error(b"mg !!! b\r\n"), (Error::KeyNotBase64, 0));
        assert_eq!(error(b"ma k MZ\r\n"), (Error::InvalidArithmeticMode, 0));
        assert_eq!(error(b"ma k Dx\r\n"), (Error::InvalidOrDuplicateFlag, 0));
        assert_eq!(error(b"ms k 2 MZ\r\nhi\r\n"), (Error::InvalidSetMode, 4));
        assert_eq!(error(b"ms k 2 Fx\r\nhi\r\n"), (Error::BadFormat, 4));
        assert_eq!(error(b"ms k -1\r\nhi\r\n"), (Error::BadFormat, 0));
        assert_eq!(error(b"ms k 2 !\r\nhi\r\n"), (Error::BadFormat, 0));
        assert_eq!(error(b"ms k 1\r\nhi\r\n"), (Error::BadDataChunk, 0));
        let long = [&b"mg k O"[..], &[b'x'; 32], b"\r\n"].concat();
        assert_eq!(error(&long), (Error::OpaqueTooLong, 0));
        let many = [&b"mg k"[..], &b" P1".repeat(19), b"\r\n"].concat();
        assert_eq!(error(&many), (Error::TooManyFlags, 0));
    }
}
