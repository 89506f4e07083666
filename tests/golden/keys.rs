//! The keys that were asked for; `common.py` makes the same ones.

const PLAIN: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789:_-.";

/// The key of that number: 1 to 200 bytes without blanks and control bytes. A
/// quarter is of [`PLAIN`] letters, half of printable ASCII, a quarter of that
/// and bytes from 0x80.
pub(crate) fn key(number: usize) -> Vec<u8> {
    let mut numbers = SplitMix64((number as u64).wrapping_mul(0xd134_2543_de82_ef95));
    let length = 1 + numbers.next() % 200;
    let any: Vec<u8> = (0x21..0x7f).chain(0x80..=0xff).collect();
    let alphabet = match numbers.next() % 4 {
        0 => PLAIN,
        1 | 2 => &any[..0x7f - 0x21],
        _ => &any,
    };
    let raw = std::iter::repeat_with(|| numbers.next().to_le_bytes()).flatten();
    raw.take(usize::try_from(length).unwrap())
        .map(|byte| alphabet[usize::from(byte) % alphabet.len()])
        .collect()
}

struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
