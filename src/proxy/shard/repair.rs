//! Giving an item to members that should hold it and do not.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;

use super::leaf::Said;
use super::owned::Owned;
use super::{Shard, start};
use crate::clock;
use crate::protocol::key::{encode_base64, is_plain};
use crate::protocol::number::{read_u32, read_u64};
use crate::protocol::reply::Outcome;
use crate::protocol::request::Words;

/// Most repairs under way of one shard on one worker.
const REPAIRS_MAX: usize = 1000;

/// The largest `exptime` that counts from now, in seconds: 30 days.
const EXPTIME_RELATIVE_MAX: u64 = 60 * 60 * 24 * 30;

/// An item as a member holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Item {
    value: Bytes,
    flags: u32,
    /// Seconds it has left; 0 for ever.
    ttl: u64,
}

/// Adds the item that the member at `from` holds to those at `without`, unless
/// there are too many repairs already. `changes` is how often the key had been
/// changed before any of them was asked.
pub(super) fn begin(
    shard: &Rc<Shard>,
    key: &[u8],
    from: usize,
    without: Vec<usize>,
    changes: u32,
    client: u64,
) {
    if shard.repairs.get() >= REPAIRS_MAX {
        shard.stats.repairs_denied.increment();
        return;
    }
    shard.repairs.set(shard.repairs.get() + 1);
    let shard = Rc::clone(shard);
    let key: Box<[u8]> = key.into();
    start(async move {
        if let Some(item) = shard.item(&key, from, client).await {
            for at in without {
                shard.add(&key, at, &item, changes, client).await;
            }
        }
        shard.repairs.set(shard.repairs.get() - 1);
    });
}

impl Shard {
    /// The item that a member holds: with the time it has left where the member
    /// knows meta commands, else with the time that is configured.
    async fn item(&self, key: &[u8], from: usize, client: u64) -> Option<Item> {
        let member = self.members.get(from)?;
        let mut text = b"mg ".to_vec();
        push_key(key, &mut text);
        text.extend_from_slice(b" f t v");
        push_base64_flag(key, &mut text);
        text.extend_from_slice(b"\r\n");
        match member.ask(&Owned::from_text(text), key, client).await {
            Said::Reply {
                bytes,
                outcome: Outcome::Hit,
            } => item_of_meta(&bytes),
            Said::Reply {
                outcome: Outcome::Unknown,
                ..
            } if is_plain(key) => {
                let text = [b"get ", key, b"\r\n"].concat();
                match member.ask(&Owned::from_text(text), key, client).await {
                    Said::Reply {
                        bytes,
                        outcome: Outcome::Hit,
                    } => item_of_text(&bytes, self.settings.repair_ttl),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// Adds an item to a member that does not hold it.
    async fn add(&self, key: &[u8], at: usize, item: &Item, changes: u32, client: u64) {
        let Some(member) = self.members.get(at) else {
            return;
        };
        if self.changes.of(key) != changes || member.is_behind(key) {
            return;
        }
        let said = member.ask(&addition(key, item), key, client).await;
        if said.outcome() != Some(Outcome::Done) {
            return;
        }
        self.stats.repairs.increment();
        // A change that came in between has perhaps passed this member before
        // the old item was added.
        if self.changes.of(key) != changes {
            member.forget(key, client);
        }
    }
}

fn push_key(key: &[u8], text: &mut Vec<u8>) {
    if is_plain(key) {
        text.extend_from_slice(key);
    } else {
        encode_base64(text, key);
    }
}

fn push_base64_flag(key: &[u8], text: &mut Vec<u8>) {
    if !is_plain(key) {
        text.extend_from_slice(b" b");
    }
}

/// The request that adds an item where there is none.
fn addition(key: &[u8], item: &Item) -> Owned {
    let Item { value, flags, ttl } = item;
    let exptime = match *ttl {
        ttl if ttl > EXPTIME_RELATIVE_MAX => clock::unix_seconds().saturating_add(ttl),
        ttl => ttl,
    };
    let len = value.len();
    let mut text = Vec::with_capacity(key.len() + len + 64);
    if is_plain(key) {
        text.extend_from_slice(b"add ");
        text.extend_from_slice(key);
        text.extend_from_slice(format!(" {flags} {exptime} {len}\r\n").as_bytes());
    } else {
        text.extend_from_slice(b"ms ");
        encode_base64(&mut text, key);
        text.extend_from_slice(format!(" {len} b ME F{flags} T{exptime}\r\n").as_bytes());
    }
    text.extend_from_slice(value);
    text.extend_from_slice(b"\r\n");
    Owned::from_text(text)
}

/// The line of a reply, and the value behind it.
fn split(bytes: &Bytes) -> Option<(&[u8], Bytes)> {
    let end = memchr::memchr(b'\n', bytes)?;
    let line = bytes.get(..end)?.strip_suffix(b"\r")?;
    Some((line, bytes.slice(end + 1..)))
}

/// Reads `VA <len> f<flags> t<ttl>` and the value.
fn item_of_meta(bytes: &Bytes) -> Option<Item> {
    let (line, mut value) = split(bytes)?;
    let mut words = Words::new(line).skip(1);
    let len = usize::try_from(read_u64(words.next()?)?).ok()?;
    let (mut flags, mut ttl) = (None, None);
    for word in words {
        match word {
            [b'f', number @ ..] => flags = read_u32(number),
            b"t-1" => ttl = Some(0),
            // It dies within this second.
            b"t0" => return None,
            // Marked as stale: a copy would pass for fresh.
            b"X" => return None,
            [b't', number @ ..] => ttl = read_u64(number),
            _ => {}
        }
    }
    value.truncate(len);
    Some(Item {
        value,
        flags: flags?,
        ttl: ttl?,
    })
}

/// Reads `VALUE <key> <flags> <len>` and the value.
fn item_of_text(bytes: &Bytes, ttl: Duration) -> Option<Item> {
    let (line, mut value) = split(bytes)?;
    let mut words = Words::new(line).skip(2);
    let flags = read_u32(words.next()?)?;
    let len = usize::try_from(read_u64(words.next()?)?).ok()?;
    value.truncate(len);
    Some(Item {
        value,
        flags,
        ttl: ttl.as_secs().max(1),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(ttl: u64) -> Item {
        Item {
            value: Bytes::from_static(b"a\r\nb"),
            flags: 7,
            ttl,
        }
    }

    #[test]
    fn an_item_is_read_from_either_dialect() {
        let meta = |line: &str| item_of_meta(&Bytes::from(format!("{line}\r\na\r\nb\r\n")));
        assert_eq!(meta("VA 4 f7 t60"), Some(item(60)));
        assert_eq!(meta("VA 4 f7 t-1"), Some(item(0)));
        assert_eq!(meta("VA 4 f7 t0"), None);
        assert_eq!(meta("VA 4 f7"), None);
        let text = Bytes::from_static(b"VALUE k 7 4\r\na\r\nb\r\nEND\r\n");
        let read = item_of_text(&text, Duration::from_secs(30));
        assert_eq!(read, Some(item(30)));
    }

    #[test]
    fn an_item_is_added_as_it_was() {
        let text = |key: &[u8], ttl| {
            let request = addition(key, &item(ttl));
            let bytes = request.with(|_, bytes| bytes.clone()).unwrap();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        assert_eq!(text(b"k", 60), "add k 7 60 4\r\na\r\nb\r\n");
        assert_eq!(text(b"a b", 0), "ms YSBi 4 b ME F7 T0\r\na\r\nb\r\n");
        // What is longer than 30 days would be taken for a date long past.
        let text = text(b"k", EXPTIME_RELATIVE_MAX + 1);
        let exptime: u64 = text.split(' ').nth(3).unwrap().parse().unwrap();
        assert!(exptime > EXPTIME_RELATIVE_MAX * 2);
    }
}
