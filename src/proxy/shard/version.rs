//! Versions of items (cas ids), which each member counts for itself.
//!
//! Two members may give the same number to different values of a key. So that a
//! client that compares is not taken in when another member has come to act for
//! the primary, the numbers of the replica at place `p` are shown increased by
//! `p * 2^56`, and what clients compare with is decreased by as much before that
//! replica sees it. Both wrap, so that any number may be given by flag `E`.
//! Servers count from 1 and never get as far as 2^56; the primary's numbers are
//! shown as they are.

use std::num::NonZeroU64;

use bytes::Bytes;

use super::leaf::{Found, Said};
use super::owned::Owned;
use crate::protocol::meta;
use crate::protocol::number::{read_u64, write_u64};
use crate::protocol::reply::Block;
use crate::protocol::request::{Request, StoreVerb, Words};

/// What lies between the numbers of one member and those of the next.
const APART: u64 = 1 << 56;

/// How the numbers of a replica differ from those that clients see.
#[derive(Clone, Copy, Debug)]
pub(super) struct Versions {
    ahead: NonZeroU64,
}

/// Where a reply has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Where {
    /// At the end of the lines before values.
    Blocks,
    /// Behind the flag `c`.
    Flag,
}

/// Replies that hold the numbers of a replica.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shown {
    versions: Versions,
    at: Where,
}

/// Whether the reply to a request names the version of the item.
pub(super) fn names_version(request: &Request<'_>) -> bool {
    place_in_reply(request).is_some()
}

fn place_in_reply(request: &Request<'_>) -> Option<Where> {
    match request {
        Request::Retrieve(retrieve) => retrieve.verb.with_cas().then_some(Where::Blocks),
        Request::Meta(meta) => {
            let has = meta.flags.has(b'c') || meta.verb == meta::Verb::Debug;
            has.then_some(Where::Flag)
        }
        _ => None,
    }
}

impl Versions {
    /// Those of the member at this place; `None` for the primary, whose numbers
    /// are shown as they are.
    pub(super) fn of(place: usize) -> Option<Self> {
        let ahead = u64::try_from(place).ok()?.wrapping_mul(APART);
        NonZeroU64::new(ahead).map(|ahead| Self { ahead })
    }

    fn shown(self, own: u64) -> u64 {
        own.wrapping_add(self.ahead.get())
    }

    fn own(self, shown: u64) -> u64 {
        shown.wrapping_sub(self.ahead.get())
    }

    /// The request with the number that it compares with as the member counts it;
    /// `None` if it compares with none.
    pub(super) fn asked(self, request: &Request<'_>, bytes: &Bytes) -> Option<Owned> {
        // Behind the names of command and key.
        let number: fn(usize, &[u8]) -> Option<usize> = match request {
            Request::Store(store) if store.verb == StoreVerb::Cas => {
                |place, _| (place == 5).then_some(0)
            }
            Request::Meta(meta) if meta.cas.is_some() => {
                |place, word| (place > 1 && word.first() == Some(&b'C')).then_some(1)
            }
            _ => return None,
        };
        let changed = renumbered(bytes, |shown| self.own(shown), number);
        Some(Owned::from_text(changed))
    }

    /// How the reply to a request is shown, if it names a version.
    pub(super) fn in_reply(self, request: &Request<'_>) -> Option<Shown> {
        let at = place_in_reply(request)?;
        Some(Shown { versions: self, at })
    }
}

impl Shown {
    /// What a client is told.
    pub(super) fn said(self, said: Said) -> Said {
        match said {
            Said::Reply { bytes, outcome } => Said::Reply {
                bytes: self.reply(&bytes).into(),
                outcome,
            },
            failed @ Said::Failed { .. } => failed,
        }
    }

    fn reply(self, bytes: &[u8]) -> Vec<u8> {
        let shown = |own| self.versions.shown(own);
        match self.at {
            Where::Blocks if bytes.starts_with(b"VALUE ") => {
                renumbered(bytes, shown, |place, _| (place == 4).then_some(0))
            }
            Where::Blocks => bytes.to_vec(),
            Where::Flag => renumbered(bytes, shown, |place, word| {
                (place > 0 && word.first() == Some(&b'c')).then_some(1)
            }),
        }
    }

    /// What a client is shown of what was found.
    pub(super) fn found(self, found: &Found) -> Found {
        let mut bytes = Vec::with_capacity(found.bytes.len());
        let mut blocks = Vec::with_capacity(found.blocks.len());
        let mut rest = &found.bytes[..];
        for block in &found.blocks {
            let Some((one, others)) = rest.split_at_checked(block.len) else {
                break;
            };
            rest = others;
            let one = self.reply(one);
            blocks.push(Block {
                len: one.len(),
                key_len: block.key_len,
            });
            bytes.extend_from_slice(&one);
        }
        Found {
            bytes: bytes.into(),
            blocks,
        }
    }
}

/// `bytes` with numbers of their first line changed. `number` says where in a word,
/// of which it is told the place in the line, a number begins.
fn renumbered(
    bytes: &[u8],
    change: impl Fn(u64) -> u64,
    number: impl Fn(usize, &[u8]) -> Option<usize>,
) -> Vec<u8> {
    let end = memchr::memchr2(b'\r', b'\n', bytes).unwrap_or(bytes.len());
    let (line, rest) = bytes.split_at(end);
    // At most twenty digits where there was one.
    let mut out = Vec::with_capacity(bytes.len() + 20);
    for (place, word) in Words::new(line).enumerate() {
        if place > 0 {
            out.push(b' ');
        }
        let split = number(place, word).and_then(|start| word.split_at_checked(start));
        match split.and_then(|(before, digits)| Some((before, read_u64(digits)?))) {
            Some((before, number)) => {
                out.extend_from_slice(before);
                write_u64(&mut out, change(number));
            }
            None => out.extend_from_slice(word),
        }
    }
    out.extend_from_slice(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::reply::Outcome;

    /// What the member at place 1 is asked.
    fn asked(request: &'static [u8]) -> Option<String> {
        let versions = Versions::of(1).unwrap();
        let asked = Owned::from_text(request).with(|request, bytes| versions.asked(request, bytes));
        let text = asked.unwrap()?.with(|_, bytes| bytes.to_vec()).unwrap();
        Some(String::from_utf8(text).unwrap())
    }

    /// What a client is shown of what the member at place 2 answers.
    fn shown(request: &'static [u8], reply: &'static [u8]) -> Option<String> {
        let versions = Versions::of(2).unwrap();
        let shown = Owned::from_text(request).with(|request, _| versions.in_reply(request));
        let said = shown.unwrap()?.said(Said::Reply {
            bytes: Bytes::from_static(reply),
            outcome: Outcome::Hit,
        });
        let Said::Reply { bytes, .. } = said else {
            panic!("{said:?}");
        };
        Some(String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[test]
    fn the_primary_is_taken_at_its_word() {
        assert!(Versions::of(0).is_none());
    }

    #[test]
    fn a_replica_compares_with_its_own_number() {
        let text = asked(b"cas C9 1 2 3 72057594037927943 noreply\r\nabc\r\n");
        assert_eq!(text.unwrap(), "cas C9 1 2 3 7 noreply\r\nabc\r\n");
        let text = asked(b"ms C9 2 T0 C72057594037927943 OC8\r\nC1\r\n");
        assert_eq!(text.unwrap(), "ms C9 2 T0 C7 OC8\r\nC1\r\n");
        // The primary's number is none of its own.
        let text = asked(b"md k q C7\r\n").unwrap();
        assert_eq!(text, "md k q C18374686479671623687\r\n");
        for none in [
            &b"set k 0 0 1\r\nx\r\n"[..],
            b"ms k 1 c E5\r\nx\r\n",
            b"delete k\r\n",
        ] {
            assert_eq!(asked(none), None);
        }
    }

    #[test]
    fn a_replicas_number_is_shown_as_no_other_members() {
        let text = shown(b"gets k\r\n", b"VALUE k 0 3 5\r\n1 5\r\nEND\r\n");
        assert_eq!(
            text.unwrap(),
            "VALUE k 0 3 144115188075855877\r\n1 5\r\nEND\r\n"
        );
        assert_eq!(shown(b"gets k\r\n", b"END\r\n").unwrap(), "END\r\n");
        let text = shown(b"mg c1 v c k Oc2\r\n", b"VA 2 kc1 c5 Oc2\r\nc3\r\n");
        assert_eq!(text.unwrap(), "VA 2 kc1 c144115188075855877 Oc2\r\nc3\r\n");
        assert_eq!(shown(b"get k\r\n", b"VALUE k 0 1\r\nx\r\nEND\r\n"), None);
    }

    #[test]
    fn blocks_keep_their_lengths() {
        let block = |len| Block { len, key_len: 1 };
        let shown = Shown {
            versions: Versions::of(1).unwrap(),
            at: Where::Blocks,
        };
        let found = shown.found(&Found {
            bytes: Bytes::from_static(b"VALUE a 0 1 1\r\nx\r\nVALUE b 0 1 2\r\ny\r\n"),
            blocks: vec![block(18), block(18)],
        });
        let text = "VALUE a 0 1 72057594037927937\r\nx\r\nVALUE b 0 1 72057594037927938\r\ny\r\n";
        assert_eq!(found.bytes, text.as_bytes());
        assert_eq!(found.blocks, [block(34), block(34)]);
    }

    #[test]
    fn any_number_comes_back_as_it_was() {
        for place in 1..300 {
            let versions = Versions::of(place);
            for own in [0, 1, APART, u64::MAX] {
                assert!(versions.is_none_or(|all| all.own(all.shown(own)) == own));
            }
        }
    }
}
