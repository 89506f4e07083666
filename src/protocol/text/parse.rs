//! Text and meta requests: from bytes to [`Request`].
//!
//! The rules are those of memcached 1.6.45: words are separated by blanks and by
//! nothing else, a line ends with LF with or without CR, commands are lower
//! case. Where an error comes before the data block is known, the block is not
//! swallowed and reads as commands, as it does in memcached.

use memchr::memchr;

use crate::protocol::error::Error;
use crate::protocol::limits::{
    DATA_BYTES_MAX, KEY_BYTES_MAX, LEADING_BLANKS_MAX, LINE_BYTES_MAX, LINE_WORDS_MAX, Limits,
};
use crate::protocol::meta;
use crate::protocol::number::{read_exptime, read_flags, read_i32, read_u64, skip_space};
use crate::protocol::request::{
    Admin, AdminVerb, Change, ChangeVerb, Cut, Keys, Replaced, Request, Retrieve, RetrieveVerb,
    Store, StoreVerb, Wire, Words,
};

/// The shortest line memcached looks at: two letters and CR LF.
const LINE_BYTES_MIN: usize = 4;

/// Cuts the first request out of `buf`.
///
/// `scanned` says how many of the first bytes are known to hold no line end from
/// an earlier call on the same bytes, so that a long line which arrives in small
/// pieces is not searched again and again; 0 is always right.
#[inline]
pub fn cut<'a>(buf: &'a [u8], scanned: usize, limits: &Limits) -> Cut<'a> {
    let Some(end) = buf.get(scanned..).and_then(|fresh| memchr(b'\n', fresh)) else {
        return without_end(buf, limits);
    };
    let len = end.saturating_add(scanned).saturating_add(1);
    let Some((whole, after)) = buf.split_at_checked(len) else {
        return Cut::Close;
    };
    // The line end is one or two of `whole`'s last bytes.
    let line = match whole {
        [line @ .., b'\r', b'\n'] | [line @ .., b'\n'] => line,
        _ => whole,
    };
    // The most common request is recognised before anything else is looked at.
    if let Some(keys) = line.strip_prefix(b"get ") {
        return retrieve(RetrieveVerb::Get, 0, line, keys, whole, limits);
    }
    if line_is_too_long(whole, LINE_BYTES_MAX) && !is_retrieval(line) {
        return Cut::Close;
    }
    if len < LINE_BYTES_MIN {
        return refuse(Error::BadFormat, len);
    }
    command(line, whole, after, limits)
}

/// Whether more than `bound` bytes came before the LF: then the connection would
/// have been given up on before the LF was seen, had it come byte by byte.
#[inline]
fn line_is_too_long(whole: &[u8], bound: usize) -> bool {
    whole.len() > bound.saturating_add(1)
}

/// The line has no end yet: wait for it, unless it is too long to be believed.
fn without_end<'a>(buf: &[u8], limits: &Limits) -> Cut<'a> {
    let bound = if is_retrieval(buf) {
        limits.line_bytes_max
    } else {
        LINE_BYTES_MAX
    };
    if buf.len() > bound {
        return Cut::Close;
    }
    Cut::More {
        need: buf.len().saturating_add(1),
    }
}

/// Whether a line may be longer than others: it asks for many keys.
fn is_retrieval(line: &[u8]) -> bool {
    let blanks = line.iter().take_while(|&&byte| byte == b' ').count();
    let Some(line) = line.get(blanks..) else {
        return false;
    };
    blanks <= LEADING_BLANKS_MAX
        && [&b"get "[..], b"gets ", b"gat ", b"gats "]
            .iter()
            .any(|verb| line.starts_with(verb))
}

#[inline]
fn refuse<'a>(error: Error, len: usize) -> Cut<'a> {
    Cut::Refused {
        error,
        silent: false,
        len,
        swallow: 0,
        replaced: None,
    }
}

#[inline]
fn request(request: Request<'_>, len: usize) -> Cut<'_> {
    Cut::Request { request, len }
}

fn command<'a>(line: &'a [u8], whole: &'a [u8], after: &'a [u8], limits: &Limits) -> Cut<'a> {
    let name_end = memchr(b' ', line).unwrap_or(line.len());
    let Some((name, args)) = line.split_at_checked(name_end) else {
        return refuse(Error::UnknownCommand, whole.len());
    };
    let store = |verb| store(verb, line, args, whole, after, limits);
    match name {
        b"gets" => retrieve(RetrieveVerb::Gets, 0, line, args, whole, limits),
        b"get" => retrieve(RetrieveVerb::Get, 0, line, args, whole, limits),
        b"gat" => retrieve_and_touch(RetrieveVerb::Gat, line, args, whole, limits),
        b"gats" => retrieve_and_touch(RetrieveVerb::Gats, line, args, whole, limits),
        b"set" => store(StoreVerb::Set),
        b"add" => store(StoreVerb::Add),
        b"replace" => store(StoreVerb::Replace),
        b"append" => store(StoreVerb::Append),
        b"prepend" => store(StoreVerb::Prepend),
        b"cas" => store(StoreVerb::Cas),
        b"incr" | b"decr" | b"delete" | b"touch" => change(name, line, args, whole),
        b"mg" => meta::parse::without_data(meta::Verb::Get, line, args, whole),
        b"md" => meta::parse::without_data(meta::Verb::Delete, line, args, whole),
        b"ma" => meta::parse::without_data(meta::Verb::Arithmetic, line, args, whole),
        b"me" => meta::parse::without_data(meta::Verb::Debug, line, args, whole),
        b"ms" => meta::parse::with_data(line, args, whole, after, limits),
        b"mn" => request(Request::Admin(Admin::Noop), whole.len()),
        b"quit" => request(Request::Admin(Admin::Quit), whole.len()),
        b"version" => request(Request::Admin(Admin::Version), whole.len()),
        b"stats" => request(Request::Admin(Admin::Stats { args }), whole.len()),
        b"watch" => other(AdminVerb::Watch, args, whole),
        _ => rare(line, whole),
    }
}

/// Commands that are looked up by their first word rather than by what precedes
/// the first blank: with blanks before them they are found all the same.
fn rare<'a>(line: &'a [u8], whole: &[u8]) -> Cut<'a> {
    let mut words = Words::new(line);
    let verb = match words.next() {
        Some(b"flush_all") => AdminVerb::FlushAll,
        Some(b"verbosity") => AdminVerb::Verbosity,
        Some(b"cache_memlimit") => AdminVerb::CacheMemlimit,
        Some(b"shutdown") => AdminVerb::Shutdown,
        Some(b"lru") => AdminVerb::Lru,
        Some(b"lru_crawler") => AdminVerb::LruCrawler,
        Some(b"slabs") => AdminVerb::Slabs,
        _ => {
            // Somebody speaks HTTP to us: end it at once, as memcached does, so
            // that a web page cannot smuggle commands in the lines that follow.
            let last = words.clone().last().unwrap_or_default();
            if last.starts_with(b"HTTP/") {
                return Cut::Close;
            }
            // The name is a word like any other here, and can be the last one.
            let silent = match words.rest() {
                args if Words::new(args).next().is_some() => is_noreply(args),
                _ => is_noreply(line),
            };
            return refuse_unless(silent, Error::UnknownCommand, whole.len());
        }
    };
    other(verb, words.rest(), whole)
}

fn other<'a>(verb: AdminVerb, args: &'a [u8], whole: &[u8]) -> Cut<'a> {
    let noreply = is_noreply(args);
    let admin = Admin::Other {
        verb,
        args,
        noreply,
    };
    request(Request::Admin(admin), whole.len())
}

fn refuse_unless<'a>(silent: bool, error: Error, len: usize) -> Cut<'a> {
    Cut::Refused {
        error,
        silent,
        len,
        swallow: 0,
        replaced: None,
    }
}

/// The last word of a command that wants no answer.
const NOREPLY: &[u8] = b"noreply";

/// Whether the last word that memcached looks at is `noreply`. Which words come
/// before does not matter: the key of `delete noreply` is silent too.
///
/// `args` are the words behind the name of the command.
#[inline]
fn is_noreply(args: &[u8]) -> bool {
    // With fewer bytes there cannot be more words.
    if args.len() > 2 * (LINE_WORDS_MAX - 1)
        && let Some(last) = Words::new(args).nth(LINE_WORDS_MAX - 2)
    {
        return last == NOREPLY;
    }
    match trim_end(args).strip_suffix(NOREPLY) {
        Some(before) => before.last().is_none_or(|&byte| byte == b' '),
        None => false,
    }
}

/// Takes the blanks off the end; other white space is part of a word.
#[inline]
pub(in crate::protocol) fn trim_end(mut line: &[u8]) -> &[u8] {
    while let [rest @ .., b' '] = line {
        line = rest;
    }
    line
}

fn retrieve_and_touch<'a>(
    verb: RetrieveVerb,
    line: &'a [u8],
    args: &'a [u8],
    whole: &'a [u8],
    limits: &Limits,
) -> Cut<'a> {
    let mut words = Words::new(args);
    let time = words.next().unwrap_or_default();
    let keys = words.rest();
    if words.next().is_none() {
        return refuse(Error::BadFormat, whole.len());
    }
    match read_i32(time) {
        Some(exptime) => retrieve(verb, exptime, line, keys, whole, limits),
        None => refuse(Error::InvalidExptime, whole.len()),
    }
}

/// `args` is the end of `line` that holds the keys; `whole` is the line with its
/// end.
#[inline]
fn retrieve<'a>(
    verb: RetrieveVerb,
    exptime: i32,
    line: &'a [u8],
    args: &'a [u8],
    whole: &'a [u8],
    limits: &Limits,
) -> Cut<'a> {
    if line_is_too_long(whole, limits.line_bytes_max) {
        return Cut::Close;
    }
    let mut words = Words::new(args);
    let Some(first) = words.next() else {
        return refuse(Error::BadFormat, whole.len());
    };
    let before_first = args
        .len()
        .saturating_sub(words.rest().len())
        .saturating_sub(first.len());
    let all = trim_end(args.get(before_first..).unwrap_or_default());
    let keys = Keys { first, all };
    // One key too long spoils the whole request, as in memcached. Words can only
    // be that long where there are that many bytes.
    if all.len() > KEY_BYTES_MAX && keys.iter().any(|(_, key)| key.len() > KEY_BYTES_MAX) {
        return refuse(Error::BadFormat, whole.len());
    }
    let before_keys = line.len().saturating_sub(args.len());
    request(
        Request::Retrieve(Retrieve {
            verb,
            head: trim_end(line.get(..before_keys).unwrap_or_default()),
            exptime,
            keys,
            whole,
        }),
        whole.len(),
    )
}

/// The length word of a storage command and the data block it announces.
///
/// Shared by the text and the meta dialect; both count the line end into the
/// block.
pub(in crate::protocol) enum Block<'a> {
    /// All there: value and value with line end.
    Whole(&'a [u8], &'a [u8]),
    /// All there, but not ended by CR LF.
    Unterminated(usize),
    /// So many bytes from the start of the block are still needed.
    Short(usize),
}

/// Reads a length word: bytes of value. `None` is answered as a malformed line,
/// and whatever follows reads as a command.
#[inline]
pub(in crate::protocol) fn read_length(word: &[u8]) -> Option<usize> {
    let length = u32::try_from(read_i32(word)?).ok()?;
    if length > DATA_BYTES_MAX {
        return None;
    }
    usize::try_from(length).ok()
}

/// Cuts a block of `length` bytes of value from the start of `after`.
#[inline]
pub(in crate::protocol) fn block(after: &[u8], length: usize) -> Block<'_> {
    let total = length.saturating_add(2);
    let Some(block) = after.get(..total) else {
        return Block::Short(total);
    };
    match block {
        [value @ .., b'\r', b'\n'] => Block::Whole(value, block),
        _ => Block::Unterminated(total),
    }
}

fn store<'a>(
    verb: StoreVerb,
    line: &'a [u8],
    args: &'a [u8],
    whole: &'a [u8],
    after: &'a [u8],
    limits: &Limits,
) -> Cut<'a> {
    let mut words = Words::new(args);
    let (key, from_flags) = (words.next(), words.rest());
    let (flags, from_exptime) = (words.next(), words.rest());
    let (Some(key), Some(flags), Some(exptime), Some(length)) =
        (key, flags, words.next(), words.next())
    else {
        return refuse(Error::BadFormat, whole.len());
    };
    let Some(length) = read_length(length) else {
        return refuse(Error::BadFormat, whole.len());
    };
    let cas = match verb {
        StoreVerb::Cas => words.next().map(read_u64),
        _ => Some(Some(0)),
    };
    let extra = words.rest();
    let noreply = is_noreply(args);
    let refused = |error, replaced| Cut::Refused {
        error,
        silent: noreply,
        len: whole.len(),
        swallow: length.saturating_add(2),
        replaced,
    };
    // memcached has C read these two where they begin in the line, so that what is
    // white space but no blank is passed over, to the next word if need be.
    let flags = read_flags(flags).or_else(|| read_flags(skip_space(from_flags)));
    let exptime = read_exptime(exptime).or_else(|| read_exptime(skip_space(from_exptime)));
    let (Some(flags), Some(exptime), Some(Some(cas))) = (flags, exptime, cas) else {
        return refused(Error::BadFormat, None);
    };
    if key.len() > KEY_BYTES_MAX {
        return refused(Error::BadFormat, None);
    }
    if length > limits.value_bytes_max {
        // The value that could not be stored was to take the place of another,
        // which memcached removes lest it be read as current.
        let replaced = (verb == StoreVerb::Set).then_some(Replaced { key, base64: false });
        return refused(Error::TooLarge, replaced);
    }
    let (value, block, announced) = match block(after, length) {
        Block::Whole(value, block) => (value, block, false),
        Block::Short(_) if length >= limits.announce_bytes_min => (&b""[..], &b""[..], true),
        Block::Short(total) => {
            return Cut::More {
                need: whole.len().saturating_add(total),
            };
        }
        Block::Unterminated(total) => {
            return Cut::Refused {
                error: Error::BadDataChunk,
                silent: noreply,
                len: whole.len().saturating_add(total),
                swallow: 0,
                replaced: None,
            };
        }
    };
    let wire = Wire {
        line: line_for_server(line, extra, whole),
        block,
    };
    let store = Request::Store(Store {
        verb,
        key,
        flags,
        exptime,
        cas,
        noreply,
        value,
        wire,
    });
    if announced {
        return Cut::Announced {
            request: store,
            len: whole.len(),
            value_len: length,
        };
    }
    request(store, whole.len().saturating_add(block.len()))
}

/// The line as a server gets it: the words it needs and no others. What else
/// stands in `extra` is `noreply`, which would leave us without an answer, or
/// something that memcached ignores and older releases refuse.
#[inline]
fn line_for_server<'a>(line: &'a [u8], extra: &[u8], whole: &'a [u8]) -> [&'a [u8]; 3] {
    if extra.is_empty() && whole.ends_with(b"\r\n") {
        return [whole, b"", b""];
    }
    let needed = line.len().saturating_sub(extra.len());
    [line.get(..needed).unwrap_or_default(), b"\r\n", b""]
}

/// How to delete the key `noreply` and be answered: as the last word of the line
/// it would silence the reply. A zero behind the key means nothing, in releases
/// old and new.
const DELETE_NOREPLY: &[u8] = b"delete noreply 0\r\n";

fn change<'a>(name: &[u8], line: &'a [u8], args: &'a [u8], whole: &'a [u8]) -> Cut<'a> {
    let len = whole.len();
    let mut words = Words::new(args);
    let Some(key) = words.next() else {
        return refuse(Error::BadFormat, len);
    };
    let after_key = words.rest();
    let argument = words.next();
    let noreply = is_noreply(args);
    let refused = |error| refuse_unless(noreply, error, len);
    let takes_argument = name != b"delete";
    if takes_argument && argument.is_none() {
        return refuse(Error::BadFormat, len);
    }
    if key.len() > KEY_BYTES_MAX {
        return refused(Error::BadFormat);
    }
    let argument = argument.unwrap_or_default();
    let verb = match name {
        b"delete" => ChangeVerb::Delete,
        b"touch" => match read_i32(argument) {
            Some(exptime) => ChangeVerb::Touch(exptime),
            None => return refused(Error::InvalidExptime),
        },
        _ => match read_u64(argument) {
            Some(delta) if name == b"incr" => ChangeVerb::Incr(delta),
            Some(delta) => ChangeVerb::Decr(delta),
            None => return refused(Error::InvalidDelta),
        },
    };
    let extra = if takes_argument {
        words.rest()
    } else {
        after_key
    };
    let line = if verb == ChangeVerb::Delete && key == NOREPLY {
        [DELETE_NOREPLY, b"", b""]
    } else {
        line_for_server(line, extra, whole)
    };
    let wire = Wire { line, block: b"" };
    request(
        Request::Change(Change {
            verb,
            key,
            noreply,
            wire,
        }),
        len,
    )
}

#[cfg(test)]
#[expect(
    clippy::arithmetic_side_effects,
    reason = "offsets within a short test stream"
)]
mod tests;
