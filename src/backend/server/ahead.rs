//! What pipelined requests are about to ask for.
//!
//! A client that sends many requests at a time, as a proxy does for many others, has all
//! of their keys known before the first is looked for. Looked for one by one each of them
//! waits for memory twice; so the processor is told about some of them beforehand.

use memchr::memchr;
use smallvec::SmallVec;

use crate::backend::execute::GROUP_KEYS;
use crate::backend::store::Store;
use crate::protocol::binary;

/// Has the processor fetch what the retrievals at the start of `bytes` will look at, if they
/// are several. Returns how many bytes of requests were seen for that.
pub(super) fn fetch_ahead<'a>(
    store: &Store,
    bytes: &'a [u8],
    next: impl Fn(&'a [u8]) -> Option<(&'a [u8], &'a [u8])>,
) -> usize {
    let mut rest = bytes;
    let mut keys: SmallVec<[_; GROUP_KEYS]> = SmallVec::new();
    while keys.len() < GROUP_KEYS
        && let Some((key, more)) = next(rest)
    {
        keys.push(key);
        rest = more;
    }
    if keys.len() > 1 {
        let homes: SmallVec<[_; GROUP_KEYS]> = keys.iter().map(|key| store.home(key)).collect();
        store.fetch_ahead(homes.iter());
    }
    bytes.len() - rest.len()
}

/// The first key of the retrieval that `bytes` begins with, and what follows the line. `None`
/// if it is something else, or not all there.
#[inline]
pub(super) fn of_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let ([b'g', b'e', b't', b' ', words @ ..]
    | [b'g', b'e', b't', b's', b' ', words @ ..]
    | [b'm', b'g', b' ', words @ ..]) = bytes
    else {
        return None;
    };
    let end = memchr(b'\n', words)?;
    let (line, rest) = words.split_at_checked(end + 1)?;
    let len = line.iter().position(|&byte| byte <= b' ')?;
    Some((line.get(..len)?, rest))
}

/// The key of the frame that `bytes` begins with, and what follows the frame. `None` if that
/// is not all there.
#[inline]
pub(super) fn of_frame(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (header, body) = bytes.split_first_chunk::<{ binary::HEADER_BYTES }>()?;
    let &[_, _, key_high, key_low, extras, _, _, _, len @ ..] = header;
    let len = u32::from_be_bytes(*len.first_chunk()?);
    let (body, rest) = body.split_at_checked(usize::try_from(len).ok()?)?;
    let key_len = usize::from(u16::from_be_bytes([key_high, key_low]));
    let key = body.get(usize::from(extras)..)?.get(..key_len)?;
    Some((key, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::store::Settings;

    #[test]
    fn retrievals_in_a_row_are_seen_and_no_other_lines() {
        let store = Store::new(Settings::default());
        let seen = |bytes: &[u8]| fetch_ahead(&store, bytes, of_line);
        assert_eq!(
            seen(b"get a\r\ngets b c\r\nmg d v\r\nset e 0 0 1\r\n1\r\n"),
            25
        );
        assert_eq!(seen(b"set e 0 0 1\r\n1\r\nget a\r\n"), 0);
        assert_eq!(seen(b"get a\r\nget b"), 7);
        assert_eq!((seen(b"get \n"), seen(b"get"), seen(b"")), (5, 0, 0));
        assert_eq!(seen(&b"get a\n".repeat(40)), GROUP_KEYS * 6);
    }

    #[test]
    fn the_key_of_a_request_is_found() {
        assert_eq!(of_line(b"get key\r\nmn"), Some((&b"key"[..], &b"mn"[..])));
        assert_eq!(of_line(b"mg key v\r\n"), Some((&b"key"[..], &b""[..])));
        assert_eq!(of_line(b"gets a b\n"), Some((&b"a"[..], &b""[..])));
        assert_eq!(of_line(b"getq a\n"), None);
        let mut frame = vec![0; binary::HEADER_BYTES];
        (frame[0], frame[3], frame[4], frame[11]) = (0x80, 3, 4, 8);
        frame.extend_from_slice(b"xxxxkeyv");
        assert_eq!(of_frame(&frame), Some((&b"key"[..], &b""[..])));
        assert_eq!(of_frame(&frame[..31]), None);
        frame[3] = 5;
        assert_eq!(of_frame(&frame), None, "longer than what there is");
    }
}
