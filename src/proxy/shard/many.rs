//! Reading several keys of one shard at once.

use std::rc::Rc;

use bytes::Bytes;

use super::leaf::{Found, Said};
use super::owned::Owned;
use super::settings::OnMiss;
use super::{ReadFrom, Shard, repair, start};
use crate::pool::{Asker, Failure, Reply};
use crate::protocol::reply::{Block, Outcome};
use crate::protocol::request::{Retrieve, RetrieveVerb};

/// What is known of one key.
#[derive(Debug)]
struct Wanted {
    key: Box<[u8]>,
    /// How often it had been changed before.
    changes: u32,
    /// The members that do not hold it.
    without: Vec<usize>,
    found: Option<(Bytes, Block)>,
    /// Nobody needs to be asked any more.
    settled: bool,
}

impl Shard {
    /// Reads `keys` as `retrieve` asks for them and others, and tells `asker`: what
    /// was found in the order of `keys`, and then whether all was well.
    pub fn read_many(
        self: &Rc<Self>,
        retrieve: &Retrieve<'_>,
        keys: Vec<Box<[u8]>>,
        client: u64,
        asker: Rc<dyn Asker>,
        token: u64,
    ) {
        let shard = Rc::clone(self);
        let head: Box<[u8]> = retrieve.head.into();
        let (verb, exptime) = (retrieve.verb, retrieve.exptime);
        start(async move {
            let mut wanted: Vec<_> = keys
                .into_iter()
                .map(|key| Wanted {
                    changes: shard.changes.of(&key),
                    key,
                    without: Vec::new(),
                    found: None,
                    settled: false,
                })
                .collect();
            let failure = shard.gather(verb, &head, &mut wanted, client).await;
            if verb.touches() {
                shard.touch_others(&wanted, exptime, client);
            }
            for (bytes, block) in wanted.iter().filter_map(|wanted| wanted.found.as_ref()) {
                let _ = asker.reply(
                    token,
                    Reply::Blocks {
                        bytes,
                        blocks: &[*block],
                        owner: Some(bytes),
                    },
                );
            }
            failure.tell(&*asker, token);
        });
    }

    /// Asks one member after another for what is still wanted. Returns how it
    /// ended.
    async fn gather(
        self: &Rc<Self>,
        verb: RetrieveVerb,
        head: &[u8],
        wanted: &mut [Wanted],
        client: u64,
    ) -> Said {
        let end = Said::Reply {
            bytes: Bytes::from_static(b"END\r\n"),
            outcome: Outcome::Miss,
        };
        let from = match verb {
            RetrieveVerb::Get => self.settings.read,
            // Versions are the primary's, and so are changes.
            _ => ReadFrom::Primary,
        };
        let mut trouble = None;
        for at in self.read_order(from) {
            let Some(member) = self.members.get(at).filter(|member| member.is_active()) else {
                continue;
            };
            let asked: Vec<usize> = (0..wanted.len())
                .filter(|&place| {
                    wanted
                        .get(place)
                        .is_some_and(|wanted| !wanted.settled && !member.is_behind(&wanted.key))
                })
                .collect();
            if asked.is_empty() {
                continue;
            }
            let mut text = head.to_vec();
            for wanted in asked.iter().filter_map(|&place| wanted.get(place)) {
                text.push(b' ');
                text.extend_from_slice(&wanted.key);
            }
            text.extend_from_slice(b"\r\n");
            let mut leaf = member.ask_many(&Owned::from_text(text), client);
            let said = (&mut leaf).await;
            for found in leaf.take_found() {
                take(&found, wanted, &asked, self, at, client);
            }
            let is_end = said.is_good();
            if let Said::Reply {
                bytes,
                outcome: Outcome::Hit,
            } = &said
            {
                // The only key of a retrieval of one.
                take_single(bytes, wanted, &asked, self, at, client);
            }
            for &place in &asked {
                if let Some(wanted) = wanted.get_mut(place)
                    && wanted.found.is_none()
                    && is_end
                {
                    wanted.without.push(at);
                    wanted.settled = self.settings.on_miss == OnMiss::Answer;
                }
            }
            if !is_end && verb.touches() {
                // Who knows how far it came.
                let keys = asked.iter().filter_map(|&place| wanted.get(place));
                keys.for_each(|wanted| member.forget(&wanted.key, client));
            }
            if !is_end {
                self.stats.failovers.increment();
                trouble = Some(said);
            }
            if wanted.iter().all(|wanted| wanted.settled) {
                return end;
            }
        }
        // A key that some member does not hold is a miss, even if others could not
        // be asked.
        let unknown = |wanted: &Wanted| {
            !wanted.settled && wanted.without.is_empty() && !self.is_absent(wanted)
        };
        if !wanted.iter().any(unknown) {
            return end;
        }
        trouble.unwrap_or_else(|| Said::Failed {
            server: self
                .members
                .first()
                .map_or("", |member| &member.server().name)
                .into(),
            failure: Failure::Ejected,
        })
    }

    /// Whether a member that is asked has yet to delete the key: it counts as
    /// holding nothing.
    fn is_absent(&self, wanted: &Wanted) -> bool {
        let mut members = self.members.iter();
        members.any(|member| member.is_active() && member.is_behind(&wanted.key))
    }

    /// Gives what was found the new time to live on the other members too.
    fn touch_others(&self, wanted: &[Wanted], exptime: i32, client: u64) {
        for wanted in wanted.iter().filter(|wanted| wanted.found.is_some()) {
            let mut text = b"touch ".to_vec();
            text.extend_from_slice(&wanted.key);
            text.extend_from_slice(format!(" {exptime}\r\n").as_bytes());
            let request = Owned::from_text(text);
            for member in &self.members {
                // Touched twice where it was found: the same time.
                drop(member.ask(&request, &wanted.key, client));
            }
        }
    }
}

/// Takes blocks that a member has found, in the order asked.
fn take(
    found: &Found,
    wanted: &mut [Wanted],
    asked: &[usize],
    shard: &Rc<Shard>,
    at: usize,
    client: u64,
) {
    let mut start = 0;
    for block in &found.blocks {
        let end = start + block.len;
        if end > found.bytes.len() {
            return;
        }
        let bytes = found.bytes.slice(start..end);
        start = end;
        let key = block.key(&bytes);
        let is_it = |place: &&usize| {
            wanted
                .get(**place)
                .is_some_and(|wanted| !wanted.settled && *wanted.key == *key)
        };
        let Some(&place) = asked.iter().find(is_it) else {
            continue;
        };
        if let Some(wanted) = wanted.get_mut(place) {
            wanted.settled = true;
            wanted.found = Some((bytes.clone(), *block));
            if !wanted.without.is_empty() {
                let without = std::mem::take(&mut wanted.without);
                repair::begin(shard, &wanted.key, at, without, wanted.changes, client);
            }
        }
    }
}

/// Takes the reply to a retrieval of a single key.
fn take_single(
    bytes: &Bytes,
    wanted: &mut [Wanted],
    asked: &[usize],
    shard: &Rc<Shard>,
    at: usize,
    client: u64,
) {
    const END: &[u8] = b"END\r\n";
    let Some(place) = asked.first() else {
        return;
    };
    let key_len = wanted.get(*place).map_or(0, |wanted| wanted.key.len());
    let len = bytes.len().saturating_sub(END.len());
    let found = Found {
        bytes: bytes.slice(..len),
        blocks: vec![Block { len, key_len }],
    };
    take(&found, wanted, asked, shard, at, client);
}
