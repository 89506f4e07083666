//! `SpookyHash` V2, which mcrouter uses for weights and for fractions of keys.
//!
//! Bob Jenkins's public-domain function, of which only the first 32 of the 128
//! bits are ever needed here.

use super::low32;

/// A constant that is odd, not zero, and has no other meaning.
const FILLER: u64 = 0xdead_beef_dead_beef;
/// Words of state of the long form, which takes one word of each in turn.
const WORDS: usize = 12;
/// Bytes in a block of the long form.
const BLOCK: usize = WORDS * 8;

/// The low 32 bits of `SpookyHash` V2 of `key`, both its seeds being `seed`.
#[inline]
pub(in crate::router) fn spooky32(key: &[u8], seed: u32) -> u32 {
    let seed = u64::from(seed);
    if key.len() < 2 * BLOCK {
        low32(short(key, seed))
    } else {
        low32(long(key, seed))
    }
}

/// The form for fewer than 192 bytes.
fn short(key: &[u8], seed: u64) -> u64 {
    let [mut a, mut b, mut c, mut d] = [seed, seed, FILLER, FILLER];
    let (blocks, rest) = key.as_chunks::<32>();
    for block in blocks {
        let [w0, w1, w2, w3] = words(block);
        c = c.wrapping_add(w0);
        d = d.wrapping_add(w1);
        [a, b, c, d] = short_mix([a, b, c, d]);
        a = a.wrapping_add(w2);
        b = b.wrapping_add(w3);
    }
    let tail = match rest.split_first_chunk::<16>() {
        Some((half, tail)) => {
            let [w0, w1] = words(half);
            c = c.wrapping_add(w0);
            d = d.wrapping_add(w1);
            [a, b, c, d] = short_mix([a, b, c, d]);
            tail
        }
        None => rest,
    };
    // Only the low byte of the length stays within the word.
    d = d.wrapping_add((key.len() as u64) << 56);
    let [last_c, last_d] = if tail.is_empty() {
        [FILLER, FILLER]
    } else {
        words(&padded::<16>(tail))
    };
    c = c.wrapping_add(last_c);
    d = d.wrapping_add(last_d);
    short_end([a, b, c, d])
}

/// Four words, three rounds of four steps. A step turns one word, adds the
/// next to it and folds the sum into the one after that.
#[inline]
fn short_mix(mut h: [u64; 4]) -> [u64; 4] {
    const TURNS: [u32; 12] = [50, 52, 30, 41, 54, 48, 38, 37, 62, 34, 5, 36];
    for (step, turn) in TURNS.into_iter().enumerate() {
        // The steps start at word 2 and go round.
        let [this, next, after] = [(step + 2) % 4, (step + 3) % 4, step % 4];
        h[this] = h[this].rotate_left(turn).wrapping_add(h[next]);
        h[after] ^= h[this];
    }
    h
}

/// The end of the short form; its first word is the hash.
#[inline]
fn short_end(mut h: [u64; 4]) -> u64 {
    const TURNS: [u32; 11] = [15, 52, 26, 51, 28, 9, 47, 54, 32, 25, 63];
    for (step, turn) in TURNS.into_iter().enumerate() {
        let [this, next] = [(step + 2) % 4, (step + 3) % 4];
        h[next] ^= h[this];
        h[this] = h[this].rotate_left(turn);
        h[next] = h[next].wrapping_add(h[this]);
    }
    h[0]
}

/// The form for 192 bytes and more.
fn long(key: &[u8], seed: u64) -> u64 {
    const TURNS: [u32; WORDS] = [11, 32, 43, 31, 17, 28, 39, 57, 55, 54, 22, 46];
    // Seed, seed, filler, four times over.
    let mut h: [u64; WORDS] = std::array::from_fn(|i| if i % 3 == 2 { FILLER } else { seed });
    let (blocks, rest) = key.as_chunks::<BLOCK>();
    for block in blocks {
        let data: [u64; WORDS] = words(block);
        for (i, turn) in TURNS.into_iter().enumerate() {
            let [next, before] = [(i + 1) % WORDS, (i + 11) % WORDS];
            h[i] = h[i].wrapping_add(data[i]);
            h[(i + 2) % WORDS] ^= h[(i + 10) % WORDS];
            h[before] ^= h[i];
            h[i] = h[i].rotate_left(turn);
            h[before] = h[before].wrapping_add(h[next]);
        }
    }
    let mut last = padded::<BLOCK>(rest);
    // Fewer than 96 bytes are left, so their number fits the last byte.
    last[BLOCK - 1] = u8::try_from(rest.len()).unwrap_or(0);
    long_end(h, words(&last))
}

/// The end of the long form; its first word is the hash.
fn long_end(mut h: [u64; WORDS], data: [u64; WORDS]) -> u64 {
    const TURNS: [u32; WORDS] = [44, 15, 34, 21, 38, 33, 10, 13, 38, 53, 42, 54];
    for (part, word) in h.iter_mut().zip(data) {
        *part = part.wrapping_add(word);
    }
    for _ in 0..3 {
        for (i, turn) in TURNS.into_iter().enumerate() {
            let [before, next, after] = [(i + 11) % WORDS, (i + 1) % WORDS, (i + 2) % WORDS];
            h[before] = h[before].wrapping_add(h[next]);
            h[after] ^= h[before];
            h[next] = h[next].rotate_left(turn);
        }
    }
    h[0]
}

/// `bytes` as `N` little-endian words, of which there are as many as that.
#[inline]
fn words<const N: usize>(bytes: &[u8]) -> [u64; N] {
    let (words, _) = bytes.as_chunks::<8>();
    std::array::from_fn(|i| words.get(i).map_or(0, |word| u64::from_le_bytes(*word)))
}

/// `bytes` followed by zeroes up to `N`.
#[inline]
fn padded<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut whole = [0; N];
    for (place, byte) in whole.iter_mut().zip(bytes) {
        *place = *byte;
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lengths around every boundary of both forms, with seed 0 and with the
    /// seed of mcrouter's weights; values of folly's `SpookyHashV2::Hash32`.
    #[test]
    fn every_shape_of_message_gives_the_published_value() {
        let vectors = [
            (0, 1_811_220_761, 1_865_093_797),
            (1, 1_893_604_646, 3_002_962_656),
            (7, 4_193_362_483, 27_127),
            (8, 3_994_630_530, 3_818_735_355),
            (15, 2_213_282_297, 2_438_950_346),
            (16, 4_067_717_996, 4_201_188_288),
            (31, 41_667_196, 1_384_329_682),
            (32, 3_855_599_798, 2_282_308_532),
            (33, 3_456_227_799, 1_255_911_634),
            (47, 1_970_441_482, 3_019_387_826),
            (48, 957_243_356, 1_663_520_478),
            (64, 110_922_679, 661_490_425),
            (100, 3_729_430_047, 978_951_822),
            (191, 3_778_911_769, 2_258_540_656),
            (192, 2_011_173_565, 271_729_367),
            (193, 755_306_828, 1_760_314_514),
            (200, 527_397_218, 1_176_705_177),
            (288, 1_200_095_552, 644_180_039),
            (300, 937_603_546, 1_920_771_684),
        ];
        for (length, plain, seeded) in vectors {
            let message: Vec<u8> = (128..=255).chain(0..=127).cycle().take(length).collect();
            assert_eq!(spooky32(&message, 0), plain, "{length} bytes");
            assert_eq!(spooky32(&message, 0xface_2014), seeded, "{length} bytes");
        }
    }
}
