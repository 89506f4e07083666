//! What a request does to the item of its key, and what memcached says to it if
//! there is no such item.

use super::meta::{self, Meta, Mode};
use super::reply::Outcome;
use super::request::{Change, ChangeVerb, Request, Store, StoreVerb, Words};

/// What becomes of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It stays as it is.
    Reads,
    /// It is replaced or removed, whatever it was.
    Replaces,
    /// It becomes something that depends on what it was.
    Changes,
}

impl Effect {
    /// The effect of a request.
    #[inline]
    pub fn of(request: &Request<'_>) -> Self {
        match request {
            Request::Retrieve(retrieve) if retrieve.verb.touches() => Self::Changes,
            Request::Retrieve(_) | Request::Admin(_) => Self::Reads,
            Request::Store(store) if store.verb == StoreVerb::Set => Self::Replaces,
            Request::Change(change) if change.verb == ChangeVerb::Delete => Self::Replaces,
            Request::Store(_) | Request::Change(_) => Self::Changes,
            Request::Meta(meta) => Self::of_meta(meta),
        }
    }

    fn of_meta(meta: &Meta<'_>) -> Self {
        match meta.verb {
            meta::Verb::Get if meta.exptime.is_some() || meta.vivify.is_some() => Self::Changes,
            meta::Verb::Get | meta::Verb::Debug => Self::Reads,
            meta::Verb::Set if meta.mode == Mode::Set && meta.cas.is_none() => Self::Replaces,
            // With `I` the item stays, marked as stale.
            meta::Verb::Delete if meta.cas.is_none() && !meta.flags.has(b'I') => Self::Replaces,
            meta::Verb::Set | meta::Verb::Delete | meta::Verb::Arithmetic => Self::Changes,
        }
    }
}

/// Appends what memcached answers to a request on one key that holds nothing, and
/// says what that means. `None` for requests that make an item then, and for
/// those that do not care.
pub fn absent(request: &Request<'_>, out: &mut Vec<u8>) -> Option<Outcome> {
    let (text, outcome): (&[u8], _) = match request {
        Request::Retrieve(_) => (b"END", Outcome::Miss),
        Request::Store(Store { verb, .. }) => match verb {
            StoreVerb::Set | StoreVerb::Add => return None,
            StoreVerb::Cas => (b"NOT_FOUND", Outcome::NotFound),
            StoreVerb::Replace | StoreVerb::Append | StoreVerb::Prepend => {
                (b"NOT_STORED", Outcome::NotStored)
            }
        },
        Request::Change(Change { verb, .. }) => match verb {
            ChangeVerb::Delete => return None,
            ChangeVerb::Touch(_) | ChangeVerb::Incr(_) | ChangeVerb::Decr(_) => {
                (b"NOT_FOUND", Outcome::NotFound)
            }
        },
        Request::Meta(meta) => return absent_meta(meta, out),
        Request::Admin(_) => return None,
    };
    out.extend_from_slice(text);
    out.extend_from_slice(b"\r\n");
    Some(outcome)
}

fn absent_meta(meta: &Meta<'_>, out: &mut Vec<u8>) -> Option<Outcome> {
    let (code, outcome): (&[u8], _) = match meta.verb {
        meta::Verb::Get | meta::Verb::Arithmetic if meta.vivify.is_some() => return None,
        meta::Verb::Get | meta::Verb::Debug => (b"EN", Outcome::Miss),
        meta::Verb::Set if meta.cas.is_some() => (b"NF", Outcome::NotFound),
        meta::Verb::Set if matches!(meta.mode, Mode::Set | Mode::Add) => return None,
        meta::Verb::Set => (b"NS", Outcome::NotStored),
        meta::Verb::Delete if meta.cas.is_none() && !meta.flags.has(b'I') => return None,
        meta::Verb::Delete | meta::Verb::Arithmetic => (b"NF", Outcome::NotFound),
    };
    out.extend_from_slice(code);
    if meta.verb != meta::Verb::Debug {
        for word in Words::new(meta.words) {
            match word {
                [b'O', ..] => {
                    out.push(b' ');
                    out.extend_from_slice(word);
                }
                [b'k', ..] => {
                    out.extend_from_slice(b" k");
                    out.extend_from_slice(meta.key);
                    if meta.flags.has(b'b') {
                        out.extend_from_slice(b" b");
                    }
                }
                _ => {}
            }
        }
    }
    out.extend_from_slice(b"\r\n");
    Some(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Limits;
    use crate::protocol::request::Cut;
    use crate::protocol::text;

    fn with<T>(bytes: &[u8], look: impl FnOnce(&Request<'_>) -> T) -> T {
        match text::cut(bytes, 0, &Limits::default()) {
            Cut::Request { request, .. } => look(&request),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_depends_on_the_item_changes_it() {
        for (request, effect) in [
            (&b"get k\r\n"[..], Effect::Reads),
            (b"gat 5 k\r\n", Effect::Changes),
            (b"set k 0 0 1\r\nx\r\n", Effect::Replaces),
            (b"append k 0 0 1\r\nx\r\n", Effect::Changes),
            (b"delete k\r\n", Effect::Replaces),
            (b"incr k 1\r\n", Effect::Changes),
            (b"mg k v\r\n", Effect::Reads),
            (b"mg k T5\r\n", Effect::Changes),
            (b"mg k N5\r\n", Effect::Changes),
            (b"ms k 1\r\nx\r\n", Effect::Replaces),
            (b"ms k 1 C5\r\nx\r\n", Effect::Changes),
            (b"ms k 1 MA\r\nx\r\n", Effect::Changes),
            (b"md k\r\n", Effect::Replaces),
            (b"md k I\r\n", Effect::Changes),
            (b"ma k\r\n", Effect::Changes),
            (b"me k\r\n", Effect::Reads),
        ] {
            assert_eq!(with(request, Effect::of), effect, "{request:?}");
        }
    }

    #[test]
    fn an_absent_item_is_told_as_memcached_tells_it() {
        for (request, answer) in [
            (&b"get k\r\n"[..], Some(&b"END\r\n"[..])),
            (b"set k 0 0 1\r\nx\r\n", None),
            (b"add k 0 0 1\r\nx\r\n", None),
            (b"replace k 0 0 1\r\nx\r\n", Some(b"NOT_STORED\r\n")),
            (b"cas k 0 0 1 5\r\nx\r\n", Some(b"NOT_FOUND\r\n")),
            (b"delete k\r\n", None),
            (b"touch k 5\r\n", Some(b"NOT_FOUND\r\n")),
            (b"incr k 1\r\n", Some(b"NOT_FOUND\r\n")),
            (b"mg k v Oab k t\r\n", Some(b"EN Oab kk\r\n")),
            (b"mg Zm9v b k O1\r\n", Some(b"EN kZm9v b O1\r\n")),
            (b"mg k N5\r\n", None),
            (b"me k\r\n", Some(b"EN\r\n")),
            (b"ms k 1 O7 ME\r\nx\r\n", None),
            (b"ms k 1 O7 MA\r\nx\r\n", Some(b"NS O7\r\n")),
            (b"ms k 1 C9 k\r\nx\r\n", Some(b"NF kk\r\n")),
            (b"md k\r\n", None),
            (b"md k C5 O1\r\n", Some(b"NF O1\r\n")),
            (b"ma k N0\r\n", None),
            (b"ma k O1\r\n", Some(b"NF O1\r\n")),
        ] {
            let mut out = Vec::new();
            let said = with(request, |request| absent(request, &mut out).is_some());
            assert_eq!(said.then_some(&out[..]), answer, "{request:?}");
        }
    }
}
