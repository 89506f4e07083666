//! CRC-32 as in zlib, and twemproxy's CRC-16 that keeps 32 bits.

/// The reflected polynomial of CRC-32 (IEEE 802.3).
const POLYNOMIAL_32: u32 = 0xedb8_8320;
/// The polynomial of CRC-16/XMODEM.
const POLYNOMIAL_16: u16 = 0x1021;

/// Bytes that [`crc32`] takes at a time, one table for each.
const STEP: usize = 8;

/// `TABLES[k][b]` is what byte `b` adds when `k` more bytes follow it.
static TABLES: [[u32; 256]; STEP] = tables_32();
static TABLE_16: [u16; 256] = table_16();

/// CRC-32 of `key`, eight bytes at a time.
#[inline]
pub(super) fn crc32(key: &[u8]) -> u32 {
    let (blocks, tail) = key.as_chunks::<STEP>();
    let mut crc = u32::MAX;
    for block in blocks {
        let [a, b, c, d, e, f, g, h] = *block;
        let [p, q, r, s] = (crc ^ u32::from_le_bytes([a, b, c, d])).to_le_bytes();
        crc = TABLES[7][usize::from(p)]
            ^ TABLES[6][usize::from(q)]
            ^ TABLES[5][usize::from(r)]
            ^ TABLES[4][usize::from(s)]
            ^ TABLES[3][usize::from(e)]
            ^ TABLES[2][usize::from(f)]
            ^ TABLES[1][usize::from(g)]
            ^ TABLES[0][usize::from(h)];
    }
    for byte in tail {
        crc = (crc >> 8) ^ TABLES[0][usize::from(crc.to_le_bytes()[0] ^ byte)];
    }
    !crc
}

/// CRC-16/XMODEM in a register of 32 bits: what leaves the low 16 bits stays
/// above them, as twemproxy never masks it.
#[inline]
pub(super) fn crc16(key: &[u8]) -> u32 {
    key.iter().fold(0, |crc: u32, byte| {
        let [_, second, ..] = crc.to_le_bytes();
        (crc << 8) ^ u32::from(TABLE_16[usize::from(second ^ byte)])
    })
}

#[expect(clippy::cast_possible_truncation, reason = "a byte is below 256")]
const fn tables_32() -> [[u32; 256]; STEP] {
    let mut tables = [[0; 256]; STEP];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ POLYNOMIAL_32
            } else {
                crc >> 1
            };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut k = 1;
    while k < STEP {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[k - 1][byte];
            tables[k][byte] = (before >> 8) ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        k += 1;
    }
    tables
}

#[expect(clippy::cast_possible_truncation, reason = "a byte is below 256")]
const fn table_16() -> [u16; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 {
                crc << 1
            } else {
                (crc << 1) ^ POLYNOMIAL_16
            };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_check_values_of_the_catalogue_are_met() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc16(b"123456789") & 0xffff, 0x31c3);
    }

    #[test]
    fn crc16_keeps_what_leaves_the_low_half() {
        assert_eq!(crc16(b"123456789"), 2_257_596_867);
    }

    proptest! {
        #[test]
        fn eight_bytes_at_a_time_is_one_at_a_time(key in prop::collection::vec(any::<u8>(), 0..64)) {
            let slow = key.iter().fold(u32::MAX, |crc, byte| {
                (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                    if crc & 1 == 1 { (crc >> 1) ^ POLYNOMIAL_32 } else { crc >> 1 }
                })
            });
            prop_assert_eq!(crc32(&key), !slow);
        }
    }
}
