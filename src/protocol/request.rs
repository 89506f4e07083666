//! A request, as slices of the bytes it was cut from.

use memchr::{Memchr, memchr, memchr_iter};

use super::error::Error;
use super::meta::Meta;
use super::number;

/// What was found at the start of a client's unread bytes.
#[derive(Debug)]
pub enum Cut<'a> {
    /// A whole request of `len` bytes.
    Request {
        /// The request.
        request: Request<'a>,
        /// How many bytes it takes up.
        len: usize,
    },
    /// The command line of a storage command whose value is long and not all there
    /// ([`Limits::announce_bytes_min`](super::Limits::announce_bytes_min)): who
    /// takes it reads the value into memory of its own choice.
    Announced {
        /// The request, with an empty value.
        request: Request<'a>,
        /// How many bytes its line takes up. The value follows, then a line end.
        len: usize,
        /// The length of the value.
        value_len: usize,
    },
    /// The bytes stop inside a request.
    More {
        /// The request is at least this many bytes long; always more than there
        /// are now. Exact once the command line is there.
        need: usize,
    },
    /// A request that is answered with an error, and how to get past it.
    Refused {
        /// What is wrong with it.
        error: Error,
        /// Whether the client asked not to hear about it (`noreply`).
        silent: bool,
        /// How many bytes of its line to pass over. A data block that memcached
        /// swallows too is counted in `swallow`.
        len: usize,
        /// How many bytes after `len` to drop; they may not be there yet.
        swallow: usize,
        /// The key whose old value has to go although the new one is refused:
        /// memcached removes it when a `set` is too large, lest it be read as
        /// current. For a meta command it is the key as sent.
        replaced: Option<Replaced<'a>>,
    },
    /// Not worth an answer: a line that is far too long, or HTTP. memcached
    /// closes the connection here, and so must we.
    Close,
}

/// A key that a refused storage command was to replace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replaced<'a> {
    /// The key as on the wire.
    pub key: &'a [u8],
    /// Whether that is base64.
    pub base64: bool,
}

/// One request in the text or meta dialect.
#[derive(Debug)]
pub enum Request<'a> {
    /// `get`, `gets`, `gat`, `gats`.
    Retrieve(Retrieve<'a>),
    /// `set`, `add`, `replace`, `append`, `prepend`, `cas`.
    Store(Store<'a>),
    /// `delete`, `touch`, `incr`, `decr`.
    Change(Change<'a>),
    /// `mg`, `ms`, `md`, `ma`, `me`.
    Meta(Meta<'a>),
    /// A command that is not about a key.
    Admin(Admin<'a>),
}

/// The retrieval commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetrieveVerb {
    /// Values.
    Get,
    /// Values with their cas ids.
    Gets,
    /// Values, and a new time to live for each.
    Gat,
    /// Both of the above.
    Gats,
}

impl RetrieveVerb {
    /// Whether the reply carries cas ids.
    pub fn with_cas(self) -> bool {
        matches!(self, Self::Gets | Self::Gats)
    }

    /// Whether the items' expiry is changed.
    pub fn touches(self) -> bool {
        matches!(self, Self::Gat | Self::Gats)
    }
}

/// A retrieval of one or more keys.
#[derive(Clone, Copy, Debug)]
pub struct Retrieve<'a> {
    /// Which command.
    pub verb: RetrieveVerb,
    /// The command as sent, up to the blank before its first key: `get`,
    /// `gat 60`.
    pub head: &'a [u8],
    /// New time to live in seconds, for the commands that touch; else 0.
    pub exptime: i32,
    /// The keys, none longer than 250 bytes.
    pub keys: Keys<'a>,
    /// The whole line with its end.
    pub whole: &'a [u8],
}

impl<'a> Retrieve<'a> {
    /// The bytes that ask one server for all the keys.
    #[inline]
    pub fn wire(&self) -> Wire<'a> {
        // Blanks in odd places and a bare LF are legal, but not every server is
        // as lenient as memcached.
        let tidy = self
            .head
            .len()
            .saturating_add(self.keys.all.len())
            .saturating_add(3);
        if tidy == self.whole.len() && self.whole.ends_with(b"\r\n") {
            return Wire::unchanged(self.whole);
        }
        let line = self.whole.strip_suffix(b"\n").unwrap_or(self.whole);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        Wire {
            line: [line, b"\r\n", b""],
            block: b"",
        }
    }
}

/// The words of a line that are keys.
#[derive(Clone, Copy, Debug)]
pub struct Keys<'a> {
    /// The first key.
    pub first: &'a [u8],
    /// From the first key to the end of the last.
    pub all: &'a [u8],
}

impl<'a> Keys<'a> {
    /// Just one key.
    pub fn one(key: &'a [u8]) -> Self {
        Self {
            first: key,
            all: key,
        }
    }

    /// Whether there is just one key.
    #[inline]
    pub fn is_single(&self) -> bool {
        self.first.len() == self.all.len()
    }

    /// The keys of a line from the first key to the end of the last.
    pub fn of(all: &'a [u8]) -> Self {
        let end = memchr(b' ', all).unwrap_or(all.len());
        Self {
            first: all.get(..end).unwrap_or_default(),
            all,
        }
    }

    /// All keys in the order asked, each with its place in [`Self::all`].
    #[inline]
    pub fn iter(&self) -> KeyIter<'a> {
        KeyIter {
            all: self.all,
            blanks: memchr_iter(b' ', self.all),
            at: Some(0),
        }
    }
}

/// Walks the keys of a retrieval. There may be a hundred of them, so that one
/// vector search over the line pays where it does not for single words.
#[derive(Clone, Debug)]
pub struct KeyIter<'a> {
    all: &'a [u8],
    blanks: Memchr<'a>,
    /// Where the next key may begin; `None` behind the last.
    at: Option<usize>,
}

impl<'a> Iterator for KeyIter<'a> {
    type Item = (usize, &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let start = self.at?;
            let blank = self.blanks.next();
            self.at = blank.map(|blank| blank.saturating_add(1));
            let key = self.all.get(start..blank.unwrap_or(self.all.len()))?;
            if !key.is_empty() {
                return Some((start, key));
            }
        }
    }
}

/// The words of a line: runs of anything but blanks.
#[derive(Clone, Debug)]
pub struct Words<'a> {
    rest: &'a [u8],
}

impl<'a> Words<'a> {
    /// Walks `line`, which has no line end.
    #[inline]
    pub fn new(line: &'a [u8]) -> Self {
        Self { rest: line }
    }

    /// What has not been walked yet.
    #[inline]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let start = self.rest.iter().position(|&byte| byte != b' ')?;
        let word = self.rest.get(start..)?;
        // Words are short: a plain loop beats a vector search here.
        let end = word
            .iter()
            .position(|&byte| byte == b' ')
            .unwrap_or(word.len());
        let (word, rest) = word.split_at_checked(end)?;
        self.rest = rest;
        Some(word)
    }
}

/// The storage commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreVerb {
    /// Store always.
    Set,
    /// Store if the key holds nothing.
    Add,
    /// Store if the key holds something.
    Replace,
    /// Put behind what the key holds.
    Append,
    /// Put before what the key holds.
    Prepend,
    /// Store if the item was not changed since it was read.
    Cas,
}

/// A storage command with its data block.
#[derive(Clone, Copy, Debug)]
pub struct Store<'a> {
    /// Which command.
    pub verb: StoreVerb,
    /// The key.
    pub key: &'a [u8],
    /// The client's own number, given back with the value.
    pub flags: u32,
    /// Time to live as on the wire, in seconds.
    pub exptime: i32,
    /// The id to compare with, for `cas`; else 0.
    pub cas: u64,
    /// Whether the client wants no answer.
    pub noreply: bool,
    /// The value.
    pub value: &'a [u8],
    /// The bytes for a server.
    pub wire: Wire<'a>,
}

/// What a [`Change`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeVerb {
    /// Remove the item.
    Delete,
    /// Give the item a new time to live, in seconds.
    Touch(i32),
    /// Add to the number the item holds.
    Incr(u64),
    /// Take from the number the item holds, down to 0.
    Decr(u64),
}

/// A change of one item that carries no value.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    /// What to do.
    pub verb: ChangeVerb,
    /// The key.
    pub key: &'a [u8],
    /// Whether the client wants no answer.
    pub noreply: bool,
    /// The bytes for a server.
    pub wire: Wire<'a>,
}

/// The bytes that carry a request to a server, in a form that is always
/// answered: without `noreply`, without the quiet flag.
///
/// Up to four pieces of the client's own bytes, so that nothing is copied to
/// leave a word out. The last piece may be a data block, and a large one can be
/// shared instead of copied.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wire<'a> {
    /// The command line.
    pub line: [&'a [u8]; 3],
    /// The data block with its line end, if it is a piece of its own.
    pub block: &'a [u8],
}

impl<'a> Wire<'a> {
    /// Bytes that can go as they came.
    #[inline]
    pub fn unchanged(bytes: &'a [u8]) -> Self {
        Self {
            line: [bytes, b"", b""],
            block: b"",
        }
    }

    /// How many bytes there are in all.
    #[inline]
    pub fn len(&self) -> usize {
        let [a, b, c] = self.line;
        // Slices of one buffer: their sum cannot overflow.
        a.len()
            .saturating_add(b.len())
            .saturating_add(c.len())
            .saturating_add(self.block.len())
    }

    /// Whether there is nothing at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A command that is not about a key.
#[derive(Clone, Copy, Debug)]
pub enum Admin<'a> {
    /// `mn`: answers when everything before it has been answered.
    Noop,
    /// `version`.
    Version,
    /// `quit`.
    Quit,
    /// `stats` and the words after it.
    Stats {
        /// What to report; empty for the general report.
        args: &'a [u8],
    },
    /// Any other: `flush_all`, `verbosity`, `cache_memlimit`, `shutdown`, and
    /// those about memcached's own store. What they mean differs between the
    /// proxy and the cache.
    Other {
        /// Which command.
        verb: AdminVerb,
        /// The words after its name, `noreply` included.
        args: &'a [u8],
        /// Whether the last word is `noreply`.
        noreply: bool,
    },
}

/// Commands about the server itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminVerb {
    /// Drop everything, now or later.
    FlushAll,
    /// How much is logged.
    Verbosity,
    /// Change the memory bound.
    CacheMemlimit,
    /// End the process.
    Shutdown,
    /// Tune or run memcached's LRU.
    Lru,
    /// Tune or run memcached's crawler.
    LruCrawler,
    /// Tune memcached's allocator.
    Slabs,
    /// Turn the connection into a log stream.
    Watch,
}

/// The arguments of `flush_all`: seconds to wait, if any.
///
/// # Errors
///
/// [`Error::InvalidExptime`] if the delay is no number.
pub fn flush_delay(args: &[u8], noreply: bool) -> Result<Option<i32>, Error> {
    let mut words = Words::new(args);
    let (Some(first), second) = (words.next(), words.next()) else {
        return Ok(None);
    };
    // `flush_all noreply` has no delay; in `flush_all 0 noreply` it is the first.
    if noreply && second.is_none() {
        return Ok(None);
    }
    number::read_i32(first)
        .map(Some)
        .ok_or(Error::InvalidExptime)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &[u8]) -> Vec<&[u8]> {
        Words::new(line).collect()
    }

    #[test]
    fn words_are_what_stands_between_blanks() {
        assert_eq!(words(b""), Vec::<&[u8]>::new());
        assert_eq!(words(b"   "), Vec::<&[u8]>::new());
        assert_eq!(words(b" a  bc "), vec![&b"a"[..], b"bc"]);
    }

    #[test]
    fn a_flush_may_have_a_delay() {
        assert_eq!(flush_delay(b"", false), Ok(None));
        assert_eq!(flush_delay(b"noreply", true), Ok(None));
        assert_eq!(flush_delay(b"10", false), Ok(Some(10)));
        assert_eq!(flush_delay(b"10 noreply", true), Ok(Some(10)));
        assert_eq!(flush_delay(b"x", false), Err(Error::InvalidExptime));
    }
}
