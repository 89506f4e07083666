//! Which part of a key is hashed.

use memchr::memchr;
use memchr::memmem::Finder;

use super::error::Error;
use super::settings::Settings;

/// The longest marker of a hash stop, in bytes. mcrouter's has 3, memcached's
/// proxy allows 5; a longer one than this is taken for a mistake.
pub const HASH_STOP_BYTES_MAX: usize = 16;

/// Cuts out the part of a key that is hashed.
#[derive(Clone, Debug)]
pub(super) enum Rule {
    /// All of it.
    Whole,
    /// What stands between two characters.
    Tag { open: u8, close: u8 },
    /// What precedes a marker. Boxed: the prepared search is far larger than
    /// the other rules, which are the usual ones.
    Stop(Box<Finder<'static>>),
}

impl Rule {
    /// The rule that `settings` ask for.
    ///
    /// # Errors
    ///
    /// A tag that is not two bytes, a marker of no or too many bytes, and both
    /// at once: peers know only one or the other, so that nobody can say which
    /// would come first.
    pub(super) fn new(settings: &Settings) -> Result<Rule, Error> {
        match (&settings.hash_tag, &settings.hash_stop) {
            (None, None) => Ok(Rule::Whole),
            (Some(_), Some(_)) => Err(Error::TagAndStop),
            (Some(tag), None) => match *tag.as_bytes() {
                [open, close] => Ok(Rule::Tag { open, close }),
                _ => Err(Error::HashTag { tag: tag.clone() }),
            },
            (None, Some(marker)) if (1..=HASH_STOP_BYTES_MAX).contains(&marker.len()) => {
                Ok(Rule::Stop(Box::new(Finder::new(marker).into_owned())))
            }
            (None, Some(marker)) => Err(Error::HashStop {
                length: marker.len(),
            }),
        }
    }

    /// The part of `key` that is hashed.
    ///
    /// A tag is twemproxy's: only the first opening character counts, and the
    /// next closing one; an empty part or a missing character means the whole
    /// key. A stop is mcrouter's and memcached's proxy's: it may leave nothing.
    ///
    /// Source: twemproxy `src/nc_server.c`, `server_pool_idx`.
    #[inline]
    pub(super) fn part<'key>(&self, key: &'key [u8]) -> &'key [u8] {
        match self {
            Rule::Whole => key,
            Rule::Tag { open, close } => tagged(key, *open, *close).unwrap_or(key),
            Rule::Stop(finder) => match finder.find(key) {
                Some(end) => key.get(..end).unwrap_or(key),
                None => key,
            },
        }
    }
}

#[inline]
fn tagged(key: &[u8], open: u8, close: u8) -> Option<&[u8]> {
    let (_, after) = key.split_at_checked(memchr(open, key)? + 1)?;
    let part = after.get(..memchr(close, after)?)?;
    (!part.is_empty()).then_some(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tag(tag: &str) -> Result<Rule, Error> {
        Rule::new(&Settings {
            hash_tag: Some(tag.to_owned()),
            ..Settings::default()
        })
    }

    fn stop(marker: &str) -> Result<Rule, Error> {
        Rule::new(&Settings {
            hash_stop: Some(marker.to_owned()),
            ..Settings::default()
        })
    }

    #[test]
    fn a_tag_counts_only_where_both_characters_enclose_something() {
        let rule = tag("{}").unwrap();
        let cases: [(&[u8], &[u8]); 9] = [
            (b"user:{42}:name", b"42"),
            (b"{42}", b"42"),
            (b"user:42", b"user:42"),
            (b"user:{42", b"user:{42"),
            (b"user}42{", b"user}42{"),
            (b"a{}b", b"a{}b"),
            // Only the first opening character is looked at.
            (b"a{}b{42}", b"a{}b{42}"),
            (b"a{{42}}", b"{42"),
            (b"}a{42}", b"42"),
        ];
        for (key, part) in cases {
            assert_eq!(rule.part(key), part, "{}", key.escape_ascii());
        }
    }

    #[test]
    fn both_characters_of_a_tag_may_be_the_same() {
        let rule = tag("$$").unwrap();
        assert_eq!(rule.part(b"a$42$b$"), b"42");
        assert_eq!(rule.part(b"a$$42$"), b"a$$42$");
        assert_eq!(rule.part(b"a$42"), b"a$42");
    }

    #[test]
    fn a_stop_hashes_what_precedes_its_first_marker() {
        let rule = stop("|#|").unwrap();
        assert_eq!(rule.part(b"foo:bar|#|rest"), b"foo:bar");
        assert_eq!(rule.part(b"foo|#|bar|#|rest"), b"foo");
        assert_eq!(rule.part(b"foo|#bar"), b"foo|#bar");
        assert_eq!(rule.part(b"|#|bar"), b"");
        assert_eq!(stop(":").unwrap().part(b"foo:bar"), b"foo");
    }

    #[test]
    fn malformed_rules_are_refused() {
        for malformed in ["", "{", "{}}", "é}"] {
            assert!(
                matches!(tag(malformed), Err(Error::HashTag { .. })),
                "{malformed}"
            );
        }
        assert!(matches!(stop(""), Err(Error::HashStop { length: 0 })));
        assert!(stop("0123456789abcdef").is_ok());
        assert!(matches!(
            stop("0123456789abcdefg"),
            Err(Error::HashStop { length: 17 })
        ));
        let both = Settings {
            hash_tag: Some("{}".to_owned()),
            hash_stop: Some("|#|".to_owned()),
            ..Settings::default()
        };
        assert!(matches!(Rule::new(&both), Err(Error::TagAndStop)));
    }

    proptest! {
        #[test]
        fn keys_with_one_tagged_part_go_together(
            before in "[a-z]{0,8}", part in "[a-z]{1,8}", after in "[a-z{}]{0,8}",
        ) {
            let key = format!("{before}{{{part}}}{after}");
            let rule = tag("{}").unwrap();
            prop_assert_eq!(rule.part(key.as_bytes()), part.as_bytes());
        }
    }
}
