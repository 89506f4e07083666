//! Requests: from bytes to [`Request`] and back.

use super::header::{HEADER_BYTES, Header, MAGIC_REQUEST};
use super::opcode::Opcode;
use super::status::Status;
use crate::protocol::limits::{KEY_BYTES_MAX, Limits};

/// Longest body that is passed over, in bytes; memcached closes the connection
/// beyond it.
pub const BODY_BYTES_MAX: u32 = 1 << 30;

/// The time in an increment that says: do not make an item if there is none.
pub const NO_VIVIFY: u32 = u32::MAX;

/// What was found at the start of a client's unread bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut<'a> {
    /// A whole request of `len` bytes.
    Request {
        /// The request.
        request: Request<'a>,
        /// How many bytes it takes up.
        len: usize,
    },
    /// The bytes stop inside a request which is at least this long; always more
    /// than there are now. Exact once the header is there.
    More {
        /// Bytes from the start of the request.
        need: usize,
    },
    /// A request that is answered with an error, even if it is quiet.
    Refused(Refused<'a>),
    /// Not a request at all. memcached closes without a word.
    Close,
}

/// A refused request: what its client is told, and how to get past it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused<'a> {
    /// The opcode as sent; it goes into the answer.
    pub opcode: u8,
    /// The opaque as sent; it goes into the answer.
    pub opaque: u32,
    /// What is wrong.
    pub status: Status,
    /// How many bytes to pass over.
    pub len: usize,
    /// How many bytes after `len` to drop; they may not be there yet.
    pub swallow: usize,
    /// Whether the connection is closed after the answer.
    pub closes: bool,
    /// The key whose old value has to go although the new one is refused.
    pub replaced: Option<&'a [u8]>,
}

/// The numbers that stand before the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extras {
    /// None.
    None,
    /// Of `set`, `add`, `replace`.
    Item {
        /// The client's own number, given back with the value.
        flags: u32,
        /// Time to live in seconds, as on the wire; it has no sign.
        exptime: u32,
    },
    /// Of `increment`, `decrement`.
    Count {
        /// Amount.
        delta: u64,
        /// The number to begin with if there is no item.
        initial: u64,
        /// Time to live of an item made so, in seconds; [`NO_VIVIFY`] if none is
        /// to be made.
        exptime: u32,
    },
    /// Of `touch`, `gat` and their like, and of a `flush` that has a delay: in
    /// seconds, as on the wire.
    Exptime(u32),
}

impl Extras {
    /// Reads the extras of a request with `opcode`, whose length has been
    /// checked.
    #[inline]
    fn read(opcode: Opcode, bytes: &[u8]) -> Option<Self> {
        Some(match opcode.loud() {
            Opcode::Set | Opcode::Add | Opcode::Replace => {
                let (flags, rest) = take_u32(bytes)?;
                let (exptime, _) = take_u32(rest)?;
                Self::Item { flags, exptime }
            }
            Opcode::Increment | Opcode::Decrement => {
                let (delta, rest) = take_u64(bytes)?;
                let (initial, rest) = take_u64(rest)?;
                let (exptime, _) = take_u32(rest)?;
                Self::Count {
                    delta,
                    initial,
                    exptime,
                }
            }
            _ if bytes.is_empty() => Self::None,
            _ => Self::Exptime(take_u32(bytes)?.0),
        })
    }

    /// How many bytes they are on the wire.
    pub fn len(&self) -> u8 {
        match self {
            Self::None => 0,
            Self::Item { .. } => 8,
            Self::Count { .. } => 20,
            Self::Exptime(_) => 4,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        *self == Self::None
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Self::None => {}
            Self::Item { flags, exptime } => {
                out.extend_from_slice(&flags.to_be_bytes());
                out.extend_from_slice(&exptime.to_be_bytes());
            }
            Self::Count {
                delta,
                initial,
                exptime,
            } => {
                out.extend_from_slice(&delta.to_be_bytes());
                out.extend_from_slice(&initial.to_be_bytes());
                out.extend_from_slice(&exptime.to_be_bytes());
            }
            Self::Exptime(exptime) => out.extend_from_slice(&exptime.to_be_bytes()),
        }
    }
}

fn take_u32(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*number), rest))
}

fn take_u64(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*number), rest))
}

/// One request. Its form is that of its opcode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// What is asked.
    pub opcode: Opcode,
    /// Given back in the answer byte for byte.
    pub opaque: u32,
    /// The version that the item must have; 0 for any.
    pub cas: u64,
    /// The numbers before the key.
    pub extras: Extras,
    /// The key, at most 250 bytes; any bytes. For `stat` what to report.
    pub key: &'a [u8],
    /// The value.
    pub value: &'a [u8],
}

impl Request<'_> {
    /// Its header. Lengths that do not fit are cut off; those of a request that
    /// came out of [`cut`] fit.
    #[inline]
    pub fn header(&self) -> Header {
        let body = self
            .key
            .len()
            .saturating_add(self.value.len())
            .saturating_add(usize::from(self.extras.len()));
        Header {
            magic: MAGIC_REQUEST,
            opcode: self.opcode.byte(),
            key_len: u16::try_from(self.key.len()).unwrap_or(u16::MAX),
            extras_len: self.extras.len(),
            data_type: 0,
            status: 0,
            body_len: u32::try_from(body).unwrap_or(u32::MAX),
            opaque: self.opaque,
            cas: self.cas,
        }
    }

    /// Appends everything but the value, which may be large and shared instead.
    pub fn encode_head(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.header().to_bytes());
        self.extras.encode(out);
        out.extend_from_slice(self.key);
    }

    /// Appends the request.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.encode_head(out);
        out.extend_from_slice(self.value);
    }
}

/// Cuts the first request out of `buf`.
///
/// Nothing is decided by bytes that are not there yet: however a stream is cut,
/// the same comes out of it.
#[inline]
pub fn cut<'a>(buf: &'a [u8], limits: &Limits) -> Cut<'a> {
    match buf.first() {
        None | Some(&MAGIC_REQUEST) => {}
        Some(_) => return Cut::Close,
    }
    let Some(header) = Header::read(buf) else {
        return Cut::More { need: HEADER_BYTES };
    };
    let opcode = match judge(&header) {
        Ok(opcode) => opcode,
        Err((status, closes)) => {
            return Cut::Refused(Refused {
                opcode: header.opcode,
                opaque: header.opaque,
                status,
                len: HEADER_BYTES,
                swallow: if closes { 0 } else { header.body_len() },
                closes,
                replaced: None,
            });
        }
    };
    let value_len = header.body_len().saturating_sub(header.before_value());
    let too_large = value_len > limits.value_bytes_max;
    let head_len = HEADER_BYTES.saturating_add(header.before_value());
    let need = if too_large {
        head_len
    } else {
        header.frame_len()
    };
    let Some(frame) = buf.get(HEADER_BYTES..need) else {
        return Cut::More { need };
    };
    let parts = frame
        .split_at_checked(usize::from(header.extras_len))
        .and_then(|(extras, rest)| {
            let (key, value) = rest.split_at_checked(usize::from(header.key_len))?;
            Some((Extras::read(opcode, extras)?, key, value))
        });
    let Some((extras, key, value)) = parts else {
        // The lengths have been checked against each other and the form.
        return Cut::Close;
    };
    if too_large {
        return Cut::Refused(Refused {
            opcode: header.opcode,
            opaque: header.opaque,
            status: Status::TooLarge,
            len: head_len,
            swallow: value_len,
            closes: false,
            // memcached removes what the value was to replace, lest it be read
            // as current.
            replaced: (opcode.loud() == Opcode::Set).then_some(key),
        });
    }
    Cut::Request {
        request: Request {
            opcode,
            opaque: header.opaque,
            cas: header.cas,
            extras,
            key,
            value,
        },
        len: need,
    }
}

/// A storage request whose value has not come yet: the request without it, how many
/// bytes it takes up so far, and the length of its value.
///
/// For whoever does not want to wait for a large value; asks for no more than its
/// header and key to be there.
pub fn announced<'a>(buf: &'a [u8], limits: &Limits) -> Option<(Request<'a>, usize, usize)> {
    let header = Header::read(buf)?;
    let opcode = judge(&header).ok()?;
    let value_len = header.body_len().checked_sub(header.before_value())?;
    if value_len < limits.announce_bytes_min || value_len > limits.value_bytes_max {
        return None;
    }
    let len = HEADER_BYTES.checked_add(header.before_value())?;
    let head = buf.get(HEADER_BYTES..len)?;
    let (extras, key) = head.split_at_checked(usize::from(header.extras_len))?;
    let request = Request {
        opcode,
        opaque: header.opaque,
        cas: header.cas,
        extras: Extras::read(opcode, extras)?,
        key,
        value: b"",
    };
    request
        .opcode
        .has_item()
        .then_some((request, len, value_len))
}

/// Looks at the numbers of a header in memcached's order. An error says what the
/// client is told and whether the connection is closed.
#[inline]
fn judge(header: &Header) -> Result<Opcode, (Status, bool)> {
    let Some(value_len) = header.body_len().checked_sub(header.before_value()) else {
        return Err((Status::UnknownCommand, true));
    };
    if header.body_len > BODY_BYTES_MAX || usize::from(header.key_len) > KEY_BYTES_MAX {
        return Err((Status::InvalidArguments, true));
    }
    let opcode = Opcode::from_byte(header.opcode).ok_or((Status::UnknownCommand, false))?;
    // In the specification, but memcached does not know it, whatever its form.
    if opcode == Opcode::Verbosity {
        return Err((Status::UnknownCommand, false));
    }
    let form = opcode.form();
    if !form.admits(header.extras_len, usize::from(header.key_len), value_len) {
        return Err((Status::InvalidArguments, true));
    }
    // As in a memcached without SASL: nobody waits for what they bring.
    if opcode.is_sasl() {
        return Err((Status::UnknownCommand, false));
    }
    Ok(opcode)
}
