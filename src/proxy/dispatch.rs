//! From a request to the servers that are asked.

use std::rc::Rc;

use super::layout::{Pool, Route};
use super::merge::Merge;
use super::remap::Turned;
use super::session::{Reading, Session, token};
use super::settings::MissOnError;
use super::shard::owned::Owned;
use super::shard::{Question, Shard};
use super::slots::{Asked, Quiet, Slot};
use super::stats::Command;
use super::worker::{Embedded, Link, PoolView};
use crate::net::buffers;
use crate::pool::{Ask, Asker, Connection, Failure};
use crate::protocol::effect::{Effect, absent};
use crate::protocol::meta::{self, ItemKey};
use crate::protocol::reply::{self, Block, Shape};
use crate::protocol::request::{Change, ChangeVerb, Keys, Replaced, Request, Retrieve, Wire};

/// How a retrieval says that there is no such item.
const END: &[u8] = b"END\r\n";
const EN: &[u8] = b"EN\r\n";

/// A pool as it is configured and as this worker reaches it.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) pool: &'a Pool,
    pub(super) view: &'a PoolView,
}

impl Reading<'_> {
    /// The pool that requests of this listener go to.
    pub(super) fn target(&self) -> Option<Target<'_>> {
        let Route::Pool(at) = self.entry.route;
        Some(Target {
            pool: self.view.layout.pools.get(at)?,
            view: self.view.pools.get(at)?,
        })
    }
}

/// Which answers the client does not want to hear.
fn quiet_of(request: &Request<'_>) -> Quiet {
    match request {
        Request::Store(store) if store.noreply => Quiet::All,
        Request::Change(change) if change.noreply => Quiet::All,
        Request::Meta(meta) if meta.is_quiet() => match meta.verb {
            meta::Verb::Get => Quiet::Misses,
            _ => Quiet::Successes,
        },
        _ => Quiet::Not,
    }
}

/// How the request's dialect says "no such item", if it retrieves.
fn miss_of(request: &Request<'_>) -> Option<&'static [u8]> {
    match request {
        Request::Retrieve(_) => Some(END),
        // The reply would have to show opaque and key: only a plain one can be
        // made up.
        Request::Meta(meta)
            if meta.verb == meta::Verb::Get && meta.opaque.is_empty() && !meta.flags.has(b'k') =>
        {
            Some(EN)
        }
        _ => None,
    }
}

impl Session {
    /// Sends a request on its way.
    #[inline]
    pub(super) fn dispatch(self: &Rc<Self>, request: &Request<'_>, reading: &Reading<'_>) {
        let Some(target) = reading.target() else {
            return self.answer(b"SERVER_ERROR no route\r\n");
        };
        match request {
            Request::Retrieve(retrieve) if retrieve.keys.is_single() => {
                target.view.stats.asked(Command::of(request));
                let key = retrieve.keys.first;
                self.ask_one(request, key, retrieve.wire(), target, reading);
            }
            Request::Retrieve(retrieve) => {
                target.view.stats.asked(Command::of(request));
                self.ask_several(retrieve, target, reading);
            }
            Request::Store(store) => {
                target.view.stats.asked(Command::of(request));
                self.ask_one(request, store.key, store.wire, target, reading);
            }
            Request::Change(change) => {
                target.view.stats.asked(Command::of(request));
                self.ask_one(request, change.key, change.wire, target, reading);
            }
            Request::Meta(meta) => {
                target.view.stats.asked(Command::of(request));
                let key = meta.item_key();
                self.ask_one(request, key.as_bytes(), meta.wire, target, reading);
            }
            Request::Admin(admin) => self.administer(admin, target, reading),
        }
    }

    /// Asks the one server of a request's key.
    #[inline]
    fn ask_one(
        self: &Rc<Self>,
        request: &Request<'_>,
        key: &[u8],
        wire: Wire<'_>,
        target: Target<'_>,
        reading: &Reading<'_>,
    ) {
        let masks = target.pool.miss_on_error == MissOnError::Always;
        let asked = Asked {
            quiet: quiet_of(request),
            miss: if masks { miss_of(request) } else { None },
        };
        let at = target.pool.placement.pick(key);
        if let Some(detour) = self.detour(target, key, at) {
            return self.ask_around(&detour, (request, key, wire), asked, target, reading);
        }
        match target.view.links.get(at) {
            Some(Link::Remote(connections)) => {
                let Some(connection) = self.pick(connections) else {
                    return;
                };
                if connection.server().missed.any()
                    && self.answer_behind(request, key, asked, connection)
                {
                    return;
                }
                self.ask_remote(connection, (request, key, wire), asked, reading);
            }
            Some(Link::Embedded(cache)) => {
                let mut reply = buffers::take();
                cache.serve(request, &mut reply);
                self.answer(&reply);
                buffers::give(reply);
            }
            Some(Link::Shard(shard)) => {
                self.ask_shard(shard, request, key, asked, Owned::new(wire));
            }
            None => self.answer(b"SERVER_ERROR no server for this key\r\n"),
        }
    }

    /// Asks over a connection.
    #[inline]
    pub(super) fn ask_remote(
        self: &Rc<Self>,
        connection: &Rc<Connection>,
        (request, key, wire): (&Request<'_>, &[u8], Wire<'_>),
        asked: Asked,
        reading: &Reading<'_>,
    ) {
        let number = self.slots.borrow_mut().push(Slot::Waiting(asked));
        let ask = Ask {
            wire,
            owner: reading.owner,
            shape: Shape::of(request),
            expected: reply::expected_fingerprint(request),
            changes: changed_key(request, key),
        };
        let asker: Rc<dyn Asker> = Rc::<Self>::clone(self);
        if let Err(failure) = connection.ask(ask, asker, token(number, 0), reading.now) {
            self.fail(number, asked, connection, failure);
        }
    }

    /// The connection of this client among those of a server: always the same, so
    /// that what it asks is done in the order it asks.
    #[inline]
    pub(super) fn pick<'a>(&self, connections: &'a [Rc<Connection>]) -> Option<&'a Rc<Connection>> {
        match connections {
            [only] => Some(only),
            several => {
                let count = u64::try_from(several.len()).ok()?;
                let at = self.number.checked_rem(count)?;
                several.get(usize::try_from(at).ok()?)
            }
        }
    }

    /// Has a task see to a request to a shard.
    fn ask_shard(
        self: &Rc<Self>,
        shard: &Rc<Shard>,
        request: &Request<'_>,
        key: &[u8],
        asked: Asked,
        owned: Owned,
    ) {
        let number = self.slots.borrow_mut().push(Slot::Waiting(asked));
        let asker: Rc<dyn Asker> = Rc::<Self>::clone(self);
        let question = Question {
            request: owned,
            key: key.into(),
            client: self.number,
            asker,
            token: token(number, 0),
        };
        shard.take_on(Effect::of(request), question);
    }

    /// Answers a request on a key whose changes the server has missed, as if the
    /// server did not hold it; says whether that was so. What replaces the item
    /// whatever it is goes to the server all the same.
    #[cold]
    fn answer_behind(
        &self,
        request: &Request<'_>,
        key: &[u8],
        asked: Asked,
        connection: &Connection,
    ) -> bool {
        let server = connection.server();
        let effect = Effect::of(request);
        if !server.missed.has(key) {
            return false;
        }
        if effect == Effect::Replaces {
            connection.note_replaced(key);
            return false;
        }
        if !server.health.is_active() {
            if effect == Effect::Changes {
                server.missed.miss(key);
            }
            self.fail_at_once(asked, connection, Failure::Ejected);
            return true;
        }
        server.missed.answered_absent();
        let mut reply = buffers::take();
        match absent(request, &mut reply) {
            Some(outcome) if asked.quiet.hides(outcome) => {}
            Some(_) => self.answer(&reply),
            // It would make an item, but not before the old one is gone.
            None => self.fail_at_once(asked, connection, Failure::Behind),
        }
        buffers::give(reply);
        true
    }

    /// Answers a request that its server must not be asked.
    pub(super) fn fail_at_once(&self, asked: Asked, connection: &Connection, failure: Failure) {
        connection.refused(failure);
        let number = self.slots.borrow_mut().push(Slot::Waiting(asked));
        self.fail(number, asked, connection, failure);
    }

    /// Answers a request that its server was not asked.
    fn fail(&self, number: u64, asked: Asked, connection: &Connection, failure: Failure) {
        let text = self.failure_text(asked, &connection.server().name, failure);
        let mut slots = self.slots.borrow_mut();
        slots.answer(number, &text, None, &self.outbox);
    }

    /// Asks each server once for all its keys.
    fn ask_several(
        self: &Rc<Self>,
        retrieve: &Retrieve<'_>,
        target: Target<'_>,
        reading: &Reading<'_>,
    ) {
        let bytes_max = reading.view.layout.sessions.multiget_bytes_max;
        let mut merge = Merge::take(retrieve.keys.all, target.pool.miss_on_error, bytes_max);
        // Which fragment a server has, by its place in the pool.
        let mut fragments: Vec<Option<u16>> = vec![None; target.view.links.len()];
        // The keys of each shard, by its fragment.
        let mut of_shards: Vec<Vec<Box<[u8]>>> = Vec::new();
        for (start, key) in retrieve.keys.iter() {
            let mut server = target.pool.placement.pick(key);
            if let Some(detour) = self.detour(target, key, server) {
                server = detour.at;
                let touches = retrieve.verb.touches();
                let effect = if touches {
                    Effect::Changes
                } else {
                    Effect::Reads
                };
                if let Turned::Absent = detour.turn(effect, key) {
                    if let Some(host) = self.host(&detour, target) {
                        host.server().missed.answered_absent();
                    }
                    continue;
                }
            }
            let (Some(known), Some(link)) =
                (fragments.get_mut(server), target.view.links.get(server))
            else {
                continue;
            };
            if let Link::Remote(connections) = link
                && let Some(connection) = self.pick(connections)
                && connection.server().missed.any()
                && connection.server().missed.has(key)
            {
                let server = connection.server();
                let is_asked = known.is_some_and(|fragment| merge.is_pending(fragment));
                if is_asked || server.health.is_active() {
                    // As if the server did not hold it.
                    server.missed.answered_absent();
                    continue;
                }
                if known.is_none() {
                    let fragment = merge.add_fragment();
                    connection.refused(Failure::Ejected);
                    merge.failed(fragment, &server.name, Failure::Ejected);
                    *known = Some(fragment);
                }
            }
            let fragment = match *known {
                Some(fragment) => fragment,
                None => {
                    let fragment = merge.add_fragment();
                    *known = Some(fragment);
                    self.begin_fragment(&mut merge, fragment, link, retrieve);
                    fragment
                }
            };
            merge.add_key(start, key.len(), fragment);
            let connection = match link {
                Link::Remote(connections) => self.pick(connections),
                Link::Embedded(_) => None,
                Link::Shard(_) => {
                    note_key(&mut of_shards, fragment, key);
                    None
                }
            };
            if let Some(connection) = connection {
                let touches = retrieve.verb.touches();
                if !merge.is_pending(fragment) {
                    if touches {
                        connection.server().missed.miss(key);
                    }
                    continue;
                }
                if touches {
                    connection.note_change(key);
                }
                // The blank before the key is there already, but for the first.
                let before = start.checked_sub(1);
                match before.and_then(|at| retrieve.keys.all.get(at..start + key.len())) {
                    Some(word) => connection.outbox().push(word),
                    None => connection.outbox().push_all(&[b" ", key]),
                }
            }
        }
        let mut slots = self.slots.borrow_mut();
        let number = slots.push(Slot::Waiting(Asked {
            quiet: Quiet::Not,
            miss: None,
        }));
        let mut shards = Vec::new();
        for (link, fragment) in target.view.links.iter().zip(fragments) {
            let Some(fragment) = fragment.filter(|&fragment| merge.is_pending(fragment)) else {
                continue;
            };
            match link {
                Link::Remote(connections) => {
                    if let Some(connection) = self.pick(connections) {
                        connection.outbox().push(b"\r\n");
                        let keys = merge.keys_of(fragment);
                        let asker: Rc<dyn Asker> = Rc::<Self>::clone(self);
                        let token = token(number, fragment);
                        connection.expect(Shape::Values, keys, asker, token, reading.now);
                    }
                }
                Link::Embedded(cache) => serve_fragment(&mut merge, fragment, cache, retrieve),
                Link::Shard(shard) => shards.push((Rc::clone(shard), fragment)),
            }
        }
        let complete = merge.is_complete();
        if complete {
            self.count(&merge);
        }
        if let Some(slot) = slots.get_mut(number) {
            *slot = Slot::Merging(merge);
        }
        if complete {
            slots.send_ready(&self.outbox);
        }
        drop(slots);
        for (shard, fragment) in shards {
            let keys = of_shards.get_mut(usize::from(fragment));
            let keys = keys.map(std::mem::take).unwrap_or_default();
            let asker: Rc<dyn Asker> = Rc::<Self>::clone(self);
            let token = token(number, fragment);
            shard.read_many(retrieve, keys, self.number, asker, token);
        }
    }

    /// Starts the request for one server's keys, or marks them failed.
    fn begin_fragment(
        &self,
        merge: &mut Merge,
        fragment: u16,
        link: &Link,
        retrieve: &Retrieve<'_>,
    ) {
        if let Link::Remote(connections) = link
            && let Some(connection) = self.pick(connections)
        {
            match connection.admit() {
                Ok(()) => connection.outbox().push(retrieve.head),
                Err(failure) => merge.failed(fragment, &connection.server().name, failure),
            }
        }
    }

    /// Deletes what a refused value was to replace, without telling.
    pub(super) fn delete_replaced(self: &Rc<Self>, replaced: Replaced<'_>, reading: &Reading<'_>) {
        let Some(target) = reading.target() else {
            return;
        };
        let key = ItemKey::new(replaced.key, replaced.base64);
        let (line, shape) = if replaced.base64 {
            ([&b"md "[..], replaced.key, b" b\r\n"], Shape::MetaDelete)
        } else {
            // The zero means nothing; without it a key named `noreply` would be
            // taken for the wish not to be answered.
            ([&b"delete "[..], replaced.key, b" 0\r\n"], Shape::Delete)
        };
        let wire = Wire { line, block: b"" };
        let mut at = target.pool.placement.pick(key.as_bytes());
        let mut cure = None;
        if let Some(detour) = self.detour(target, key.as_bytes(), at) {
            at = detour.at;
            if let Turned::Sent(hosted) = detour.turn(Effect::Replaces, key.as_bytes()) {
                cure = hosted;
            }
        }
        match target.view.links.get(at) {
            Some(Link::Remote(connections)) => {
                let Some(connection) = self.pick(connections) else {
                    return;
                };
                if let Some(cure) = cure {
                    connection.note_cure(key.as_bytes(), cure);
                }
                let asked = Asked {
                    quiet: Quiet::All,
                    miss: None,
                };
                let number = self.slots.borrow_mut().push(Slot::Waiting(asked));
                let ask = Ask {
                    wire,
                    owner: None,
                    shape,
                    expected: 0,
                    changes: key.as_bytes(),
                };
                let asker: Rc<dyn Asker> = Rc::<Self>::clone(self);
                if let Err(failure) = connection.ask(ask, asker, token(number, 0), reading.now) {
                    self.fail(number, asked, connection, failure);
                }
            }
            Some(Link::Embedded(cache)) => {
                let delete = Request::Change(Change {
                    verb: ChangeVerb::Delete,
                    key: key.as_bytes(),
                    noreply: true,
                    wire,
                });
                cache.serve(&delete, &mut Vec::new());
            }
            Some(Link::Shard(shard)) => {
                let asked = Asked {
                    quiet: Quiet::All,
                    miss: None,
                };
                let number = self.slots.borrow_mut().push(Slot::Waiting(asked));
                let question = Question {
                    request: Owned::new(wire),
                    key: key.as_bytes().into(),
                    client: self.number,
                    asker: Rc::<Self>::clone(self),
                    token: token(number, 0),
                };
                shard.take_on(Effect::Replaces, question);
            }
            None => {}
        }
    }
}

/// Adds a key to those of its shard's fragment.
fn note_key(of_shards: &mut Vec<Vec<Box<[u8]>>>, fragment: u16, key: &[u8]) {
    let place = usize::from(fragment);
    if of_shards.len() <= place {
        of_shards.resize_with(place + 1, Vec::new);
    }
    if let Some(keys) = of_shards.get_mut(place) {
        keys.push(key.into());
    }
}

/// The key that a request changes, if it changes any.
#[inline]
fn changed_key<'a>(request: &Request<'_>, key: &'a [u8]) -> &'a [u8] {
    match Effect::of(request) {
        Effect::Reads => b"",
        Effect::Replaces | Effect::Changes => key,
    }
}

/// Asks a cache in this process for its keys of a multi-key retrieval.
fn serve_fragment(merge: &mut Merge, fragment: u16, cache: &Embedded, retrieve: &Retrieve<'_>) {
    let mut reply = buffers::take();
    while let Some(range) = merge.next_key(fragment) {
        let key = retrieve.keys.all.get(range).unwrap_or_default();
        reply.clear();
        cache.serve(&Request::Retrieve(one_key(retrieve, key)), &mut reply);
        match reply.strip_suffix(END) {
            Some(b"") => merge.pass_over(fragment),
            Some(bytes) => {
                let block = Block {
                    len: bytes.len(),
                    key_len: key.len(),
                };
                merge.blocks(fragment, bytes, &[block], None);
            }
            None => return merge.refused(fragment, &reply),
        }
    }
    merge.answered(fragment);
    buffers::give(reply);
}

/// A retrieval of one of the keys of another.
fn one_key<'a>(retrieve: &Retrieve<'a>, key: &'a [u8]) -> Retrieve<'a> {
    Retrieve {
        keys: Keys::one(key),
        ..*retrieve
    }
}
