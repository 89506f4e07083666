//! The set of flags of a meta command.

/// Which letters a meta command carries as flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// One bit a letter, `A` lowest; the letters span 58 places.
    bits: u64,
}

impl Flags {
    /// The bit of a letter; 0 for what is none.
    #[inline]
    const fn bit(letter: u8) -> u64 {
        match letter.checked_sub(b'A') {
            Some(place) if place < 58 => 1 << place,
            _ => 0,
        }
    }

    /// Whether the letter is there.
    #[inline]
    pub const fn has(self, letter: u8) -> bool {
        self.bits & Self::bit(letter) != 0
    }

    /// Adds a letter. Says whether it is new.
    #[inline]
    pub(super) fn add(&mut self, letter: u8) -> bool {
        let bit = Self::bit(letter);
        let new = self.bits & bit == 0;
        self.bits |= bit;
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_is_new_once() {
        let mut flags = Flags::default();
        assert!(!flags.has(b'v'));
        assert!(flags.add(b'v'));
        assert!(!flags.add(b'v'));
        assert!(flags.has(b'v') && !flags.has(b'V'));
        assert!(flags.add(b'A') && flags.add(b'z'));
    }
}
