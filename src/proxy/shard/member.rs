//! One member of a shard, and client it.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use super::leaf::{Ear, Leaf, Said};
use super::owned::Owned;
use super::version::Versions;
use crate::clock;
use crate::pool::{Ask, Asker, Connection, Failure, Reply, Server};
use crate::protocol::effect::Effect;
use crate::protocol::key::{encode_base64, is_plain};
use crate::protocol::reply::{Block, Outcome, Shape, expected_fingerprint};
use crate::protocol::request::{Keys, Request, Retrieve};
use crate::proxy::worker::{Embedded, Link};

/// A server as a member of a shard.
pub struct Member {
    server: Arc<Server>,
    link: Link,
    near: bool,
    /// How its versions are shown, if not as they are.
    versions: Option<Versions>,
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Member").field(&self.server.name).finish()
    }
}

impl Member {
    /// A member at this place of its shard, 0 for the primary; `near` if it is in
    /// the proxy's own zone.
    pub fn new(server: Arc<Server>, link: Link, place: usize, near: bool) -> Self {
        Self {
            server,
            link,
            near,
            versions: Versions::of(place),
        }
    }

    /// One that there is no way to.
    #[cfg(test)]
    pub(super) fn unreachable(server: Arc<Server>, place: usize, near: bool) -> Self {
        Self::new(server, Link::Remote(Rc::new([])), place, near)
    }

    /// The server.
    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// The way to it.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// Whether it is in the proxy's own zone.
    pub fn is_near(&self) -> bool {
        self.near
    }

    /// Whether it is asked.
    pub fn is_active(&self) -> bool {
        self.server.health.is_active()
    }

    /// Whether what it holds under this key may be stale.
    pub fn is_behind(&self, key: &[u8]) -> bool {
        self.server.missed.has(key)
    }

    /// Whether all clients of the worker share one connection to it, or need none.
    pub(super) fn is_narrow(&self) -> bool {
        match &self.link {
            Link::Remote(connections) => connections.len() <= 1,
            Link::Embedded(_) | Link::Shard(_) => true,
        }
    }

    fn connection(&self, client: u64) -> Option<&Rc<Connection>> {
        let Link::Remote(connections) = &self.link else {
            return None;
        };
        let count = u64::try_from(connections.len()).ok()?;
        let at = client.checked_rem(count)?;
        connections.get(usize::try_from(at).ok()?)
    }

    fn failed(&self, failure: Failure) -> Leaf {
        Leaf::answered(Said::Failed {
            server: (&*self.server.name).into(),
            failure,
        })
    }

    /// Asks it, in the name of the client of this number, which decides the
    /// connection among several. The time-out counts from now, however long other
    /// members have been waited for. A change that cannot be delivered is
    /// remembered as missed.
    ///
    /// What a member that is behind holds is not looked at:
    /// [`Failure::Behind`].
    pub fn ask(&self, request: &Owned, key: &[u8], client: u64) -> Leaf {
        let asked = request.with(|parsed, owner| {
            let Some(versions) = self.versions else {
                return self.ask_as_is(parsed, owner, key, client);
            };
            let leaf = match versions.asked(parsed, owner) {
                Some(own) => own.with(|own, owner| self.ask_as_is(own, owner, key, client)),
                None => Some(self.ask_as_is(parsed, owner, key, client)),
            };
            let leaf = leaf.unwrap_or_else(|| self.failed(Failure::Protocol));
            leaf.showing(versions.in_reply(parsed))
        });
        asked.unwrap_or_else(|| self.failed(Failure::Protocol))
    }

    fn ask_as_is(&self, parsed: &Request<'_>, owner: &Bytes, key: &[u8], client: u64) -> Leaf {
        match &self.link {
            Link::Embedded(cache) => {
                let mut reply = Vec::new();
                let outcome = cache.serve(parsed, &mut reply);
                Leaf::answered(Said::Reply {
                    bytes: reply.into(),
                    outcome,
                })
            }
            Link::Remote(_) => self.ask_remote(parsed, owner, key, client),
            // Shards have no shards.
            Link::Shard(_) => self.failed(Failure::Removed),
        }
    }

    fn ask_remote(&self, parsed: &Request<'_>, owner: &Bytes, key: &[u8], client: u64) -> Leaf {
        let Some(connection) = self.connection(client) else {
            return self.failed(Failure::Removed);
        };
        let effect = Effect::of(parsed);
        if self.server.missed.any() && self.is_behind(key) {
            if effect != Effect::Replaces {
                if effect == Effect::Changes && !self.is_active() {
                    self.server.missed.miss(key);
                }
                connection.refused(Failure::Behind);
                return self.failed(Failure::Behind);
            }
            connection.note_replaced(key);
        }
        let wire = match parsed {
            Request::Retrieve(retrieve) => retrieve.wire(),
            Request::Store(store) => store.wire,
            Request::Change(change) => change.wire,
            Request::Meta(meta) => meta.wire,
            Request::Admin(_) => return self.failed(Failure::Protocol),
        };
        let ask = Ask {
            wire,
            owner: Some(owner),
            shape: Shape::of(parsed),
            expected: match parsed {
                Request::Retrieve(retrieve) if !retrieve.keys.is_single() => {
                    u64::try_from(retrieve.keys.iter().count()).unwrap_or(u64::MAX)
                }
                _ => expected_fingerprint(parsed),
            },
            changes: if effect == Effect::Reads { b"" } else { key },
        };
        let ear = Rc::new(Ear::default());
        match connection.ask(ask, Rc::<Ear>::clone(&ear), 0, clock::now()) {
            Ok(()) => Leaf::new(ear),
            Err(failure) => self.failed(failure),
        }
    }

    /// Asks it for several keys, none of which it is behind with.
    pub fn ask_many(&self, request: &Owned, client: u64) -> Leaf {
        match &self.link {
            Link::Embedded(cache) => request
                .with(|parsed, _| {
                    let versions = self.versions;
                    let shown = versions.and_then(|versions| versions.in_reply(parsed));
                    serve_many(cache, parsed).showing(shown)
                })
                .unwrap_or_else(|| self.failed(Failure::Protocol)),
            Link::Remote(_) => self.ask(request, b"", client),
            Link::Shard(_) => self.failed(Failure::Removed),
        }
    }

    /// Sees to it that it does not serve what it holds under a key.
    pub fn forget(&self, key: &[u8], client: u64) {
        match &self.link {
            // It is deleted there, and counts as absent until then.
            Link::Remote(_) => self.server.missed.miss(key),
            Link::Embedded(_) | Link::Shard(_) => {
                // Done when it returns.
                drop(self.ask(&deletion(key), key, client));
            }
        }
    }
}

/// Asks a cache in this process for one key after another.
fn serve_many(cache: &Embedded, request: &Request<'_>) -> Leaf {
    let Request::Retrieve(retrieve) = request else {
        return Leaf::answered(Said::Reply {
            bytes: Bytes::new(),
            outcome: Outcome::Unknown,
        });
    };
    let ear = Rc::new(Ear::default());
    let mut reply = Vec::new();
    for (_, key) in retrieve.keys.iter() {
        reply.clear();
        let one = Retrieve {
            keys: Keys::one(key),
            ..*retrieve
        };
        cache.serve(&Request::Retrieve(one), &mut reply);
        let Some(bytes) = reply.strip_suffix(b"END\r\n") else {
            break;
        };
        if !bytes.is_empty() {
            let block = Block {
                len: bytes.len(),
                key_len: key.len(),
            };
            let blocks = Reply::Blocks {
                bytes,
                blocks: &[block],
                owner: None,
            };
            // What the cache found is what it was asked for.
            let _ = ear.reply(0, blocks);
        }
        reply.clear();
        reply.extend_from_slice(b"END\r\n");
    }
    let outcome = match &reply[..] {
        b"END\r\n" => Outcome::Miss,
        _ => Outcome::ServerError,
    };
    let whole = Reply::Whole {
        bytes: &reply,
        owner: None,
        outcome,
    };
    let _ = ear.reply(0, whole);
    Leaf::new(ear)
}

/// The request that deletes a key.
pub(super) fn deletion(key: &[u8]) -> Owned {
    let mut text = Vec::with_capacity(key.len() + 16);
    if is_plain(key) {
        text.extend_from_slice(b"delete ");
        text.extend_from_slice(key);
        text.extend_from_slice(b" 0\r\n");
    } else {
        text.extend_from_slice(b"md ");
        encode_base64(&mut text, key);
        text.extend_from_slice(b" b\r\n");
    }
    Owned::from_text(text)
}
