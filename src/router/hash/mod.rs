//! From the bytes of a key to a number.
//!
//! Every function is a pure function of its bytes, allocates nothing and gives
//! the same number on every machine: where the original reads `char`, which is
//! signed on x86 and unsigned on ARM, the x86 result is the one reproduced.

mod crc;
mod fnv;
mod hsieh;
mod jenkins;
mod murmur;
mod spooky;

use md5::{Digest, Md5};
use xxhash_rust::xxh3::xxh3_64_with_seed;

pub(super) use murmur::{MURMUR64A_SEED, hash_pair, murmur64a, rehash};
pub(super) use spooky::spooky32;

/// A function from the bytes of a key to a number.
///
/// The first twelve are twemproxy's, bit for bit, under twemproxy's names; ten
/// of them are libmemcached's too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hash {
    /// `one_at_a_time`: Jenkins's, 32 bits. Reads signed bytes.
    OneAtATime,
    /// `md5`: the first four bytes of the digest, little endian.
    Md5,
    /// `crc16`: the XMODEM polynomial in a register of 32 bits that twemproxy
    /// never cuts down to 16.
    Crc16,
    /// `crc32`: bits 16 to 30 of CRC-32, as libmemcached takes them. Never
    /// above 32 767, hence of no use under ketama.
    Crc32,
    /// `crc32a`: CRC-32 as in zlib.
    Crc32a,
    /// `fnv1_64`: the low 32 bits of FNV-1 of 64 bits. Reads signed bytes.
    Fnv1_64,
    /// `fnv1a_64`: FNV-1a with the constants of 64 bits cut to 32, which for
    /// ASCII is the low half of real FNV-1a of 64 bits. Reads signed bytes.
    Fnv1a64,
    /// `fnv1_32`: FNV-1 of 32 bits. Reads signed bytes.
    Fnv1_32,
    /// `fnv1a_32`: FNV-1a of 32 bits. Reads signed bytes.
    Fnv1a32,
    /// `hsieh`: `SuperFastHash` that starts from 0 instead of the length. Only
    /// the last of three trailing bytes is read as signed.
    Hsieh,
    /// `murmur`: MurmurHash2, seeded by a multiple of the key's length.
    Murmur,
    /// `jenkins`: Bob Jenkins's lookup3 with the initial value 13.
    Jenkins,
    /// `xxh3_64`: XXH3, 64 bits; the default of memcached's own proxy. The only
    /// one that takes a seed.
    Xxh3_64,
    /// `murmur64a`: MurmurHash64A, 64 bits, with the seed of mcrouter's furc.
    Murmur64a,
    /// `spooky32`: the low 32 bits of `SpookyHash` V2 with seed 0, by which
    /// mcrouter chooses the share of keys to shadow or to migrate.
    Spooky32,
    /// `crc32_mcrouter`: the low 31 bits of CRC-32, which mcrouter's `Crc32`
    /// takes modulo the number of servers.
    Crc32Mcrouter,
}

impl Hash {
    /// Every function, twemproxy's twelve first and in its order.
    pub const ALL: [Hash; 16] = [
        Hash::OneAtATime,
        Hash::Md5,
        Hash::Crc16,
        Hash::Crc32,
        Hash::Crc32a,
        Hash::Fnv1_64,
        Hash::Fnv1a64,
        Hash::Fnv1_32,
        Hash::Fnv1a32,
        Hash::Hsieh,
        Hash::Murmur,
        Hash::Jenkins,
        Hash::Xxh3_64,
        Hash::Murmur64a,
        Hash::Spooky32,
        Hash::Crc32Mcrouter,
    ];

    /// The function of that name, as the configuration writes it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Hash> {
        Hash::ALL.into_iter().find(|hash| hash.name() == name)
    }

    /// The name of this function in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Hash::OneAtATime => "one_at_a_time",
            Hash::Md5 => "md5",
            Hash::Crc16 => "crc16",
            Hash::Crc32 => "crc32",
            Hash::Crc32a => "crc32a",
            Hash::Fnv1_64 => "fnv1_64",
            Hash::Fnv1a64 => "fnv1a_64",
            Hash::Fnv1_32 => "fnv1_32",
            Hash::Fnv1a32 => "fnv1a_32",
            Hash::Hsieh => "hsieh",
            Hash::Murmur => "murmur",
            Hash::Jenkins => "jenkins",
            Hash::Xxh3_64 => "xxh3_64",
            Hash::Murmur64a => "murmur64a",
            Hash::Spooky32 => "spooky32",
            Hash::Crc32Mcrouter => "crc32_mcrouter",
        }
    }

    /// The largest number this function gives. All numbers up to it are taken
    /// to be equally likely where shares of the key space are computed.
    #[must_use]
    pub fn max(self) -> u64 {
        match self {
            Hash::Crc32 => 0x7fff,
            Hash::Crc32Mcrouter => 0x7fff_ffff,
            Hash::Xxh3_64 | Hash::Murmur64a => u64::MAX,
            _ => u64::from(u32::MAX),
        }
    }

    /// The number of `key`; functions of 32 bits leave the upper half zero.
    #[inline]
    #[must_use]
    pub fn hash(self, key: &[u8]) -> u64 {
        self.hash_seeded(key, 0)
    }

    /// [`Hash::hash`] with a seed, which [`Hash::Xxh3_64`] alone takes into
    /// account; 0 is no seed.
    #[inline]
    #[must_use]
    pub fn hash_seeded(self, key: &[u8], seed: u64) -> u64 {
        match self {
            Hash::OneAtATime => u64::from(jenkins::one_at_a_time(key)),
            Hash::Md5 => u64::from(md5_points(key)[0]),
            Hash::Crc16 => u64::from(crc::crc16(key)),
            Hash::Crc32 => u64::from((crc::crc32(key) >> 16) & 0x7fff),
            Hash::Crc32a => u64::from(crc::crc32(key)),
            Hash::Fnv1_64 => u64::from(fnv::fnv1_64(key)),
            Hash::Fnv1a64 => u64::from(fnv::fnv1a_64(key)),
            Hash::Fnv1_32 => u64::from(fnv::fnv1_32(key)),
            Hash::Fnv1a32 => u64::from(fnv::fnv1a_32(key)),
            Hash::Hsieh => u64::from(hsieh::hsieh(key)),
            Hash::Murmur => u64::from(murmur::murmur2(key)),
            Hash::Jenkins => u64::from(jenkins::lookup3(key)),
            Hash::Xxh3_64 => xxh3_64_with_seed(key, seed),
            Hash::Murmur64a => murmur64a(key, MURMUR64A_SEED),
            Hash::Spooky32 => u64::from(spooky32(key, 0)),
            Hash::Crc32Mcrouter => u64::from(crc::crc32(key) & 0x7fff_ffff),
        }
    }
}

impl std::fmt::Display for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// The MD5 digest of `bytes` as four little-endian numbers: the first is the
/// `md5` hash, and all four are points of a ketama ring.
#[inline]
pub(super) fn md5_points(bytes: &[u8]) -> [u32; 4] {
    let digest: [u8; 16] = Md5::digest(bytes).into();
    let (words, _) = digest.as_chunks::<4>();
    std::array::from_fn(|i| words.get(i).map_or(0, |word| u32::from_le_bytes(*word)))
}

/// The low 32 bits of a number.
#[inline]
pub(super) fn low32(number: u64) -> u32 {
    (number & 0xffff_ffff) as u32
}

/// The low 32 bits of a length, which is what C's `(uint32_t)length` keeps.
#[inline]
fn len32(bytes: &[u8]) -> u32 {
    low32(bytes.len() as u64)
}

/// A byte as C on x86 widens a `char`: 0x80 and above come out negative.
#[inline]
fn widen_signed(byte: u8) -> u32 {
    i32::from(byte.cast_signed()).cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PANGRAM: &[u8] = b"The quick brown fox jumps over the lazy dog";
    const NOT_ASCII: &[u8] = b"cl\xc3\xa9";

    /// `apple` is twemproxy's own unit test; the pangram is libmemcached's
    /// fixture for all but crc16 and crc32a; the last column was computed with
    /// signed bytes and is confirmed by the golden files.
    const TWEMPROXY: [(Hash, u32, u32, u32); 12] = [
        (
            Hash::OneAtATime,
            2_297_466_611,
            1_369_346_549,
            1_968_136_217,
        ),
        (Hash::Md5, 3_195_025_439, 2_642_219_166, 1_925_876_898),
        (Hash::Crc16, 3_662_830_516, 581_169_352, 4_083_502_016),
        (Hash::Crc32, 10_542, 16_719, 1_735),
        (Hash::Crc32a, 2_838_417_488, 1_095_738_169, 113_715_828),
        (Hash::Fnv1_64, 473_199_127, 2_112_060_110, 4_044_155_928),
        (Hash::Fnv1a64, 1_488_911_807, 3_890_508_048, 503_911_478),
        (Hash::Fnv1_32, 67_176_023, 3_922_226_286, 2_864_616_632),
        (Hash::Fnv1a32, 280_767_167, 76_545_936, 1_733_572_406),
        (Hash::Hsieh, 3_738_850_110, 471_461_527, 386_485_210),
        (Hash::Murmur, 4_142_305_122, 818_385_189, 558_373_031),
        (Hash::Jenkins, 1_442_444_624, 314_054_204, 3_774_723_105),
    ];

    #[test]
    fn twemproxys_functions_give_its_numbers() {
        for (hash, apple, pangram, not_ascii) in TWEMPROXY {
            assert_eq!(hash.hash(b"apple"), u64::from(apple), "{hash} of apple");
            assert_eq!(
                hash.hash(PANGRAM),
                u64::from(pangram),
                "{hash} of the pangram"
            );
            assert_eq!(
                hash.hash(NOT_ASCII),
                u64::from(not_ascii),
                "{hash} of bytes above 0x7f"
            );
        }
    }

    #[test]
    fn the_first_twelve_are_twemproxys() {
        assert_eq!(Hash::ALL[..12], TWEMPROXY.map(|row| row.0));
    }

    #[test]
    fn names_lead_back_to_their_function() {
        for hash in Hash::ALL {
            assert_eq!(Hash::from_name(hash.name()), Some(hash));
        }
        assert_eq!(Hash::from_name("FNV1A_64"), None);
        assert_eq!(Hash::from_name(""), None);
    }

    #[test]
    fn no_number_is_above_the_maximum() {
        let mut key = Vec::new();
        for byte in 0..=255 {
            for hash in Hash::ALL {
                assert!(hash.hash(&key) <= hash.max(), "{hash} of {key:?}");
            }
            key.push(byte);
        }
    }

    #[test]
    fn xxh3_is_the_published_function() {
        // The empty input's value stands in the specification's test vectors.
        assert_eq!(Hash::Xxh3_64.hash(b""), 0x2d06_8005_38d3_94c2);
        assert_eq!(
            Hash::Xxh3_64.hash_seeded(b"key", 0),
            Hash::Xxh3_64.hash(b"key")
        );
        assert_ne!(
            Hash::Xxh3_64.hash_seeded(b"key", 1),
            Hash::Xxh3_64.hash(b"key")
        );
    }

    #[test]
    fn a_seed_changes_no_other_function() {
        for hash in Hash::ALL.into_iter().filter(|hash| *hash != Hash::Xxh3_64) {
            assert_eq!(hash.hash_seeded(b"key", 1), hash.hash(b"key"), "{hash}");
        }
    }

    #[test]
    fn crc32_mcrouter_modulo_gives_mcrouters_numbers() {
        // The vectors of mcrouter's own unit test.
        let rising: Vec<u8> = (-128..=127_i8).map(i8::cast_unsigned).collect();
        let falling: Vec<u8> = rising.iter().rev().copied().collect();
        let crc = |key: &[u8], servers: u64| Hash::Crc32Mcrouter.hash(key) % servers;
        assert_eq!(crc(b"sample", 100), 7);
        assert_eq!(crc(b"", 100), 0);
        assert_eq!(crc(b"sample", (1 << 30) - 1), 822_834_884);
        assert_eq!(crc(&rising, 99_999), 11_697);
        assert_eq!(crc(&falling, 99_999), 97_630);
        assert_eq!(crc(b"key1", 5), 1);
    }

    #[test]
    fn md5_points_are_the_digest_in_order() {
        // The first and the last stand in twemproxy's own unit test.
        let points = [3_853_726_576, 1_491_449_930, 639_619_849, 2_667_054_752];
        assert_eq!(md5_points(b"server1-8"), points);
    }
}
