//! Two hashes of Bob Jenkins: one-at-a-time and lookup3.

use super::{len32, widen_signed};

/// One-at-a-time from seed 0, over signed bytes.
#[inline]
pub(super) fn one_at_a_time(key: &[u8]) -> u32 {
    let mut hash = key.iter().fold(0_u32, |hash, byte| {
        let hash = hash.wrapping_add(widen_signed(*byte));
        let hash = hash.wrapping_add(hash << 10);
        hash ^ (hash >> 6)
    });
    hash = hash.wrapping_add(hash << 3);
    hash ^= hash >> 11;
    hash.wrapping_add(hash << 15)
}

/// The initial value that libmemcached and twemproxy give to [`lookup3`].
const INITIAL: u32 = 13;

/// lookup3, little endian: three words of state take twelve bytes at a time.
/// The last block, 1 to 12 bytes, is padded with zeroes and mixed differently.
#[inline]
pub(super) fn lookup3(key: &[u8]) -> u32 {
    let start = 0xdead_beef_u32
        .wrapping_add(len32(key))
        .wrapping_add(INITIAL);
    let mut state = [start; 3];
    if key.is_empty() {
        return start;
    }
    let mut rest = key;
    while rest.len() > 12
        && let Some((block, after)) = rest.split_first_chunk::<12>()
    {
        add(&mut state, block);
        mix(&mut state);
        rest = after;
    }
    let mut last = [0; 12];
    for (place, byte) in last.iter_mut().zip(rest) {
        *place = *byte;
    }
    add(&mut state, &last);
    finish(state)
}

#[inline]
fn add(state: &mut [u32; 3], block: &[u8; 12]) {
    let (words, _) = block.as_chunks::<4>();
    for (part, word) in state.iter_mut().zip(words) {
        *part = part.wrapping_add(u32::from_le_bytes(*word));
    }
}

#[inline]
fn mix(state: &mut [u32; 3]) {
    let [mut a, mut b, mut c] = *state;
    a = a.wrapping_sub(c) ^ c.rotate_left(4);
    c = c.wrapping_add(b);
    b = b.wrapping_sub(a) ^ a.rotate_left(6);
    a = a.wrapping_add(c);
    c = c.wrapping_sub(b) ^ b.rotate_left(8);
    b = b.wrapping_add(a);
    a = a.wrapping_sub(c) ^ c.rotate_left(16);
    c = c.wrapping_add(b);
    b = b.wrapping_sub(a) ^ a.rotate_left(19);
    a = a.wrapping_add(c);
    c = c.wrapping_sub(b) ^ b.rotate_left(4);
    b = b.wrapping_add(a);
    *state = [a, b, c];
}

#[inline]
fn finish(state: [u32; 3]) -> u32 {
    let [mut a, mut b, mut c] = state;
    c = (c ^ b).wrapping_sub(b.rotate_left(14));
    a = (a ^ c).wrapping_sub(c.rotate_left(11));
    b = (b ^ a).wrapping_sub(a.rotate_left(25));
    c = (c ^ b).wrapping_sub(b.rotate_left(16));
    a = (a ^ c).wrapping_sub(c.rotate_left(4));
    b = (b ^ a).wrapping_sub(a.rotate_left(14));
    (c ^ b).wrapping_sub(b.rotate_left(24))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_gives_the_published_values() {
        assert_eq!(one_at_a_time(b"a"), 0xca2e_9442);
        assert_eq!(
            one_at_a_time(b"The quick brown fox jumps over the lazy dog"),
            0x519e_91f5
        );
    }

    #[test]
    fn lookup3_of_nothing_is_its_start() {
        assert_eq!(lookup3(b""), 0xdead_beef + 13);
    }
}
