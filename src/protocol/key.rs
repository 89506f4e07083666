//! Keys: what the wire carries and what an item is called.
//!
//! With the `b` flag a meta command carries its key in base64. The item is called
//! by the decoded bytes, and it is by those that a key is placed: `mg Zm9v b`
//! and `get foo` must meet at the same server.

use super::limits::KEY_BYTES_MAX;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// A key decoded from base64, kept on the stack: routing needs it for a moment
/// only, and it is never longer than what the wire carried.
#[derive(Clone, Copy, Debug)]
pub struct KeyBuf {
    bytes: [u8; KEY_BYTES_MAX],
    len: usize,
}

impl KeyBuf {
    /// The key.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// Puts a byte behind the others; nothing happens when it is full, which a
    /// key within its bound cannot make it.
    fn push(&mut self, byte: u8) {
        if let Some(slot) = self.bytes.get_mut(self.len) {
            *slot = byte;
            self.len = self.len.saturating_add(1);
        }
    }
}

/// The value of one base64 character, `None` if it is none.
fn sextet(byte: u8) -> Option<u8> {
    match byte {
        b'A'..=b'Z' => byte.checked_sub(b'A'),
        b'a'..=b'z' => byte.checked_sub(b'a').and_then(|v| v.checked_add(26)),
        b'0'..=b'9' => byte.checked_sub(b'0').and_then(|v| v.checked_add(52)),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    }
}

/// Decodes the key of a meta command that has the `b` flag.
///
/// As lenient as memcached: characters outside the alphabet are passed over, and
/// whatever follows the first padded group is ignored. `None` where memcached
/// answers `CLIENT_ERROR error decoding key`: no characters at all, a number of
/// them that is not a multiple of four, more than two of padding in a group.
pub fn decode_base64(wire: &[u8]) -> Option<KeyBuf> {
    let mut key = KeyBuf {
        bytes: [0; KEY_BYTES_MAX],
        len: 0,
    };
    let mut symbols = wire.iter().filter_map(|&byte| {
        if byte == b'=' {
            Some(None)
        } else {
            sextet(byte).map(Some)
        }
    });
    let count = symbols.clone().count();
    if wire.len() > KEY_BYTES_MAX || count == 0 || !count.is_multiple_of(4) {
        return None;
    }
    while let (Some(a), Some(b), Some(c), Some(d)) = (
        symbols.next(),
        symbols.next(),
        symbols.next(),
        symbols.next(),
    ) {
        let group = [a, b, c, d];
        let padding = group.iter().filter(|symbol| symbol.is_none()).count();
        let [a, b, c, d] = group.map(|symbol| symbol.unwrap_or(0));
        let bytes = [(a << 2) | (b >> 4), (b << 4) | (c >> 2), (c << 6) | d];
        let whole = 3usize.checked_sub(padding).filter(|&len| len > 0)?;
        bytes.iter().take(whole).for_each(|&byte| key.push(byte));
        if padding > 0 {
            break;
        }
    }
    (key.len > 0).then_some(key)
}

/// Whether a key can stand in a text command as it is.
pub fn is_plain(key: &[u8]) -> bool {
    !key.is_empty()
        && !key
            .iter()
            .any(|byte| matches!(byte, b' ' | b'\r' | b'\n' | b'\0'))
}

/// Appends `key` in base64, padded.
pub fn encode_base64(out: &mut Vec<u8>, key: &[u8]) {
    for group in key.chunks(3) {
        let byte = |at: usize| group.get(at).copied().unwrap_or(0);
        let (a, b, c) = (byte(0), byte(1), byte(2));
        let symbols = [
            a >> 2,
            ((a & 3) << 4) | (b >> 4),
            ((b & 15) << 2) | (c >> 6),
            c & 63,
        ];
        // Three bytes make four characters, two make three, one makes two.
        let filled = group.len().saturating_add(1);
        for (at, &symbol) in symbols.iter().enumerate() {
            let letter = ALPHABET.get(usize::from(symbol)).copied().unwrap_or(b'=');
            out.push(if at < filled { letter } else { b'=' });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decoded(wire: &[u8]) -> Option<Vec<u8>> {
        decode_base64(wire).map(|key| key.as_bytes().to_vec())
    }

    #[test]
    fn padding_tells_how_many_bytes_the_last_group_holds() {
        assert_eq!(decoded(b"Zm9v"), Some(b"foo".to_vec()));
        assert_eq!(decoded(b"Zm8="), Some(b"fo".to_vec()));
        assert_eq!(decoded(b"Zg=="), Some(b"f".to_vec()));
    }

    #[test]
    fn memcached_passes_over_what_is_not_base64() {
        assert_eq!(decoded(b"Z!m9-v"), Some(b"foo".to_vec()));
        assert_eq!(decoded(b"Zg==Zm9v"), Some(b"f".to_vec()));
    }

    #[test]
    fn half_groups_and_too_much_padding_are_refused() {
        assert_eq!(decoded(b""), None);
        assert_eq!(decoded(b"!!!!"), None);
        assert_eq!(decoded(b"Zm9vZ"), None);
        assert_eq!(decoded(b"Z==="), None);
    }

    #[test]
    fn a_key_with_a_blank_is_not_for_text() {
        assert!(is_plain(b"foo") && is_plain("grün".as_bytes()));
        assert!(!is_plain(b"a b") && !is_plain(b"a\n") && !is_plain(b""));
    }

    proptest! {
        #[test]
        fn decoding_what_was_encoded_is_identity(key in proptest::collection::vec(any::<u8>(), 1..=186)) {
            let mut wire = Vec::new();
            encode_base64(&mut wire, &key);
            prop_assert_eq!(decoded(&wire), Some(key));
        }
    }
}
