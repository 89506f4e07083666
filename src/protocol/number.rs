//! Numbers as memcached reads and writes them.
//!
//! memcached has two readers. The older one is the C library's `strtol` family:
//! a sign is allowed and the result is cut to 32 bits. The newer one takes
//! digits only and refuses long words, leading zeros or not. Which one reads
//! which field decides whether odd input is answered with an error, so both are
//! here.

use smallvec::SmallVec;

/// Longest word the 32-bit reader looks at, sign included.
const WORD_32_MAX: usize = 11;
/// Longest word the 64-bit reader looks at.
const WORD_64_MAX: usize = 22;

/// Reads an unsigned number of digits only; `None` if it is anything else.
#[inline]
fn digits(word: &[u8]) -> Option<u64> {
    let mut sum = 0u64;
    for &byte in word {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        sum = sum.checked_mul(10)?.checked_add(u64::from(digit))?;
    }
    Some(sum)
}

/// Reads an unsigned 64-bit number: digits only, at most 22 of them.
///
/// Used for cas ids and deltas. An empty word reads as 0, as it does in memcached.
#[inline]
pub fn read_u64(word: &[u8]) -> Option<u64> {
    if word.len() > WORD_64_MAX {
        return None;
    }
    digits(word)
}

/// Reads an unsigned 32-bit number: digits only, at most 11 of them.
#[inline]
pub fn read_u32(word: &[u8]) -> Option<u32> {
    if word.len() > WORD_32_MAX {
        return None;
    }
    u32::try_from(digits(word)?).ok()
}

/// Reads a signed 32-bit number: an optional minus, then digits, at most 11
/// bytes in all.
///
/// Used for lengths, for `touch` and for the times of meta commands. A minus
/// alone reads as 0, as it does in memcached.
#[inline]
pub fn read_i32(word: &[u8]) -> Option<i32> {
    if word.len() > WORD_32_MAX {
        return None;
    }
    let value = match word.split_first() {
        Some((b'-', rest)) => 0i64.checked_sub_unsigned(digits(rest)?)?,
        _ => 0i64.checked_add_unsigned(digits(word)?)?,
    };
    i32::try_from(value).ok()
}

/// White space as C knows it.
#[inline]
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r')
}

/// What follows the white space at the start, which C passes over before it reads a
/// number.
pub fn skip_space(text: &[u8]) -> &[u8] {
    let start = text.iter().position(|&byte| !is_space(byte));
    text.get(start.unwrap_or(text.len())..).unwrap_or_default()
}

/// Sign and digits as C's `strtoul` takes them: the number's size may not pass
/// 64 bits, and after the digits comes white space, the end of the word, or a zero,
/// which is where C sees an end.
#[inline]
fn c_number(word: &[u8]) -> Option<(bool, u64)> {
    let (negative, rest) = match word.split_first() {
        Some((b'-', rest)) => (true, rest),
        Some((b'+', rest)) => (false, rest),
        _ => (false, word),
    };
    let end = rest
        .iter()
        .position(|byte| !byte.is_ascii_digit())
        .unwrap_or(rest.len());
    let (number, tail) = rest.split_at_checked(end)?;
    if number.is_empty() {
        return None;
    }
    match tail.first() {
        Some(&byte) if byte != 0 && !is_space(byte) => None,
        _ => Some((negative, digits(number)?)),
    }
}

/// Reads the client flags of a storage command: C's `strtoul`, cut to 32 bits.
#[inline]
pub fn read_flags(word: &[u8]) -> Option<u32> {
    let (negative, size) = c_number(word)?;
    let value = if negative { size.wrapping_neg() } else { size };
    if negative && value > i64::MAX.unsigned_abs() {
        return None;
    }
    Some(low_u32(value))
}

/// Reads the number that a value holds: C's `strtoull`, but a number that wraps
/// because of its sign is none.
///
/// White space may stand before it, and anything may stand behind it that is set
/// off by white space or a zero.
pub fn read_stored(value: &[u8]) -> Option<u64> {
    let (negative, size) = c_number(skip_space(value))?;
    let number = if negative { size.wrapping_neg() } else { size };
    (!negative || number <= i64::MAX.unsigned_abs()).then_some(number)
}

/// As [`read_stored`], of a value in pieces, of which it copies next to nothing.
pub fn read_stored_in<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Option<u64> {
    /// More digits are too many, whatever they are.
    const DIGITS_MAX: usize = 22;
    let bytes = pieces.flatten().copied();
    let mut bytes = bytes.skip_while(|&byte| is_space(byte)).peekable();
    let mut word: SmallVec<[u8; 2 + DIGITS_MAX]> = SmallVec::new();
    word.extend(bytes.next_if(|byte| matches!(byte, b'-' | b'+')));
    // One nought stands for all that lead.
    word.extend(std::iter::from_fn(|| bytes.next_if_eq(&b'0')).last());
    word.extend(bytes.take(DIGITS_MAX));
    read_stored(&word)
}

/// Reads the exptime of a storage command, in seconds: C's `strtol`, cut to 32
/// bits.
#[inline]
pub fn read_exptime(word: &[u8]) -> Option<i32> {
    let (negative, size) = c_number(word)?;
    let value = if negative {
        0i64.checked_sub_unsigned(size)?
    } else {
        i64::try_from(size).ok()?
    };
    Some(low_u32(value.cast_unsigned()).cast_signed())
}

/// The low 32 bits, as an assignment to a narrower C integer keeps them.
#[inline]
fn low_u32(value: u64) -> u32 {
    let [a, b, c, d, ..] = value.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// The decimal form of a number, kept where it was made.
///
/// Twenty bytes hold the largest `u64`; formatting through `core::fmt` costs
/// several times as much, and every reply with a number in it would pay.
#[derive(Clone, Copy)]
pub struct Decimal {
    bytes: [u8; 20],
    start: usize,
}

impl Decimal {
    /// Formats `value`.
    #[inline]
    pub fn new(mut value: u64) -> Self {
        let mut bytes = [0u8; 20];
        let mut start = bytes.len();
        for slot in bytes.iter_mut().rev() {
            // The remainder of ten fits a byte.
            *slot = b'0'.wrapping_add(u8::try_from(value % 10).unwrap_or(0));
            start = start.saturating_sub(1);
            value /= 10;
            if value == 0 {
                break;
            }
        }
        Self { bytes, start }
    }

    /// The digits.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }
}

/// Appends `value` in decimal.
#[inline]
pub fn write_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(Decimal::new(value).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_length_is_signed_and_at_most_eleven_bytes() {
        assert_eq!(read_i32(b"0"), Some(0));
        assert_eq!(read_i32(b"-1"), Some(-1));
        assert_eq!(read_i32(b"-"), Some(0));
        assert_eq!(read_i32(b"2147483647"), Some(i32::MAX));
        assert_eq!(read_i32(b"-2147483648"), Some(i32::MIN));
        assert_eq!(read_i32(b"2147483648"), None);
        assert_eq!(read_i32(b"00000000005"), Some(5));
        assert_eq!(read_i32(b"000000000005"), None);
        assert_eq!(read_i32(b"+5"), None);
        assert_eq!(read_i32(b"5a"), None);
        assert_eq!(read_i32(b"18446744073709551616"), None);
    }

    #[test]
    fn flags_are_read_as_c_reads_them() {
        assert_eq!(read_flags(b"4294967295"), Some(u32::MAX));
        assert_eq!(read_flags(b"4294967296"), Some(0));
        assert_eq!(read_flags(b"+7"), Some(7));
        assert_eq!(read_flags(b"-1"), None);
        assert_eq!(read_flags(b"-18446744073709551615"), Some(1));
        assert_eq!(read_flags(b"18446744073709551616"), None);
        assert_eq!(read_flags(b"5x"), None);
        assert_eq!(read_flags(b"5\tx"), Some(5));
        assert_eq!(read_flags(b"5\0x"), Some(5));
        assert_eq!(read_flags(b"\x005"), None);
        assert_eq!(read_flags(b""), None);
        assert_eq!(read_flags(b"-"), None);
    }

    #[test]
    fn an_exptime_is_cut_to_32_bits() {
        assert_eq!(read_exptime(b"0"), Some(0));
        assert_eq!(read_exptime(b"-1"), Some(-1));
        assert_eq!(read_exptime(b"4294967297"), Some(1));
        assert_eq!(read_exptime(b"9223372036854775807"), Some(-1));
        assert_eq!(read_exptime(b"9223372036854775808"), None);
        assert_eq!(read_exptime(b"-9223372036854775808"), Some(0));
        assert_eq!(read_exptime(b"x"), None);
    }

    #[test]
    fn a_value_that_starts_with_a_number_is_one() {
        assert_eq!(read_stored(b"12"), Some(12));
        assert_eq!(read_stored(b" \t12  "), Some(12));
        assert_eq!(read_stored(b"12 apples"), Some(12));
        assert_eq!(read_stored(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(read_stored(b"18446744073709551616"), None);
        assert_eq!(read_stored(b"12\0apples"), Some(12));
        assert_eq!(read_stored(b"\x0012"), None);
        assert_eq!(read_stored(b"12apples"), None);
        assert_eq!(read_stored(b"-1"), None);
        assert_eq!(read_stored(b"   "), None);
        assert_eq!(read_stored(b""), None);
    }

    #[test]
    fn a_number_in_pieces_is_the_same_as_in_one() {
        let noughts = "0".repeat(50);
        for value in [
            "",
            "   ",
            "12",
            " \t12  ",
            "-0 x",
            "-1",
            "+12 apples",
            "+ 1",
            "12apples",
            "0",
            "00 1",
            "18446744073709551615",
            "18446744073709551616",
            "1844674407370955161512345678",
            &format!("{noughts}18446744073709551615 x"),
            &format!(" -{noughts} "),
            &format!("{noughts}x"),
            &format!("{noughts}184467440737095516150"),
        ] {
            let value = value.as_bytes();
            for len in 1..=value.len().max(1) {
                let got = read_stored_in(value.chunks(len));
                assert_eq!(got, read_stored(value), "{value:?}, {len}");
            }
        }
    }

    proptest! {
        #[test]
        fn writing_then_reading_is_identity(value: u64) {
            let mut out = Vec::new();
            write_u64(&mut out, value);
            prop_assert_eq!(out.clone(), value.to_string().into_bytes());
            prop_assert_eq!(read_u64(&out), Some(value));
        }

        #[test]
        fn readers_agree_with_the_standard_library(word in "-?[0-9]{1,11}") {
            let want = word.parse::<i64>().ok().and_then(|v| i32::try_from(v).ok());
            if word.len() <= 11 {
                prop_assert_eq!(read_i32(word.as_bytes()), want);
            }
        }
    }
}
