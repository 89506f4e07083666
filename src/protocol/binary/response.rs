//! Responses: from bytes to [`Response`] and back.

use super::header::{HEADER_BYTES, Header, MAGIC_RESPONSE};
use super::status::Status;
use crate::protocol::limits::{KEY_BYTES_MAX, VALUE_BYTES_CEILING};
use crate::protocol::reply::Desync;

/// Longest body of a response that is believed, in bytes: the largest value with
/// its key and more extras than there are.
const BODY_BYTES_MAX: usize = VALUE_BYTES_CEILING + KEY_BYTES_MAX + 255;

/// One response. The status is the number on the wire: servers may have others
/// than we know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Response<'a> {
    /// The opcode of the request, as sent.
    pub opcode: u8,
    /// How it went: [`Status::code`].
    pub status: u16,
    /// The opaque of the request.
    pub opaque: u32,
    /// The version of the item; 0 for none.
    pub cas: u64,
    /// Client flags of a value, else nothing.
    pub extras: &'a [u8],
    /// The key, if it was asked for; the name of a statistic.
    pub key: &'a [u8],
    /// A value, a number of eight bytes, or the text of an error.
    pub value: &'a [u8],
}

impl<'a> Response<'a> {
    /// A response that carries nothing but a status and its usual text.
    pub fn of_status(opcode: u8, opaque: u32, status: Status) -> Self {
        Self {
            opcode,
            status: status.code(),
            opaque,
            value: status.text().as_bytes(),
            ..Self::default()
        }
    }

    /// Its header. Lengths that do not fit are cut off.
    #[inline]
    pub fn header(&self) -> Header {
        let body = self
            .extras
            .len()
            .saturating_add(self.key.len())
            .saturating_add(self.value.len());
        Header {
            magic: MAGIC_RESPONSE,
            opcode: self.opcode,
            key_len: u16::try_from(self.key.len()).unwrap_or(u16::MAX),
            extras_len: u8::try_from(self.extras.len()).unwrap_or(u8::MAX),
            data_type: 0,
            status: self.status,
            body_len: u32::try_from(body).unwrap_or(u32::MAX),
            opaque: self.opaque,
            cas: self.cas,
        }
    }

    /// Appends everything but the value, which may be large and shared instead.
    #[inline]
    pub fn encode_head(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.header().to_bytes());
        out.extend_from_slice(self.extras);
        out.extend_from_slice(self.key);
    }

    /// Appends the response.
    #[inline]
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.encode_head(out);
        out.extend_from_slice(self.value);
    }

    /// Takes a whole frame apart; `header` is its header.
    ///
    /// # Errors
    ///
    /// [`Desync`] if the lengths do not fit the bytes.
    pub fn read(header: &Header, frame: &'a [u8]) -> Result<Self, Desync> {
        let body = frame.get(HEADER_BYTES..).ok_or(Desync)?;
        let (extras, rest) = body
            .split_at_checked(usize::from(header.extras_len))
            .ok_or(Desync)?;
        let (key, value) = rest
            .split_at_checked(usize::from(header.key_len))
            .ok_or(Desync)?;
        Ok(Self {
            opcode: header.opcode,
            status: header.status,
            opaque: header.opaque,
            cas: header.cas,
            extras,
            key,
            value,
        })
    }
}

/// Reads the header at the start of `buf` and checks that it can be that of a
/// response; `None` if it is not whole yet.
///
/// # Errors
///
/// [`Desync`] if it cannot.
#[inline]
pub fn header(buf: &[u8]) -> Result<Option<Header>, Desync> {
    match buf.first() {
        None | Some(&MAGIC_RESPONSE) => {}
        Some(_) => return Err(Desync),
    }
    let Some(header) = Header::read(buf) else {
        return Ok(None);
    };
    let body = header.body_len();
    if header.before_value() > body || body > BODY_BYTES_MAX {
        return Err(Desync);
    }
    Ok(Some(header))
}

/// Cuts the first response out of `buf`: it and its length; `Err(need)` in the
/// inner result if the bytes stop inside one that is at least so long.
///
/// # Errors
///
/// [`Desync`] if these bytes cannot be a response.
pub fn cut(buf: &[u8]) -> Result<Result<(Response<'_>, usize), usize>, Desync> {
    let Some(header) = header(buf)? else {
        return Ok(Err(HEADER_BYTES));
    };
    let len = header.frame_len();
    match buf.get(..len) {
        Some(frame) => Ok(Ok((Response::read(&header, frame)?, len))),
        None => Ok(Err(len)),
    }
}
