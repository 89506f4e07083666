//! Keys one behind the other, each with its length in a byte before it: a key is
//! at most 250 bytes long.

/// Appends a key.
pub fn push(bytes: &mut Vec<u8>, key: &[u8]) {
    let key = key.get(..usize::from(u8::MAX)).unwrap_or(key);
    bytes.push(u8::try_from(key.len()).unwrap_or(u8::MAX));
    bytes.extend_from_slice(key);
}

/// The key at `at`, and where the next begins.
pub fn at(bytes: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let start = at.checked_add(1)?;
    let end = start.checked_add(usize::from(*bytes.get(at)?))?;
    Some((bytes.get(start..end)?, end))
}

/// All keys.
pub fn iter(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut next = 0;
    std::iter::from_fn(move || {
        let (key, end) = at(bytes, next)?;
        next = end;
        Some(key)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_comes_out() {
        let mut bytes = Vec::new();
        for key in [&b"one"[..], b"", b"three"] {
            push(&mut bytes, key);
        }
        assert!(iter(&bytes).eq([&b"one"[..], b"", b"three"]));
        bytes.pop();
        assert_eq!(iter(&bytes).count(), 2, "a torn key is none");
    }
}
