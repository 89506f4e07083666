//! Changing a key of a shard: on the primary, and so that no other member is left
//! with something else.

use std::rc::Rc;

use super::changes::{Sent, UnderWay};
use super::leaf::{Leaf, Leaves, Said};
use super::member::deletion;
use super::owned::Owned;
use super::settings::Copies;
use super::version::names_version;
use super::{Question, Shard, start};
use crate::protocol::effect::Effect;
use crate::protocol::meta;
use crate::protocol::reply::Outcome;
use crate::protocol::request::{ChangeVerb, Request, StoreVerb};

/// How the other members follow a change that depends on the item, once it has
/// been made.
#[derive(Clone, Debug)]
enum Follow {
    /// They do the same: it sets a time to live, whatever the value is.
    Same(Owned),
    /// They add the item, or delete what they hold instead.
    Add(Owned),
    /// They delete the item. The result may be known, but not in which order
    /// results of several clients arrive: what is deleted is never different.
    Delete,
}

fn follow(request: &Owned) -> Follow {
    let known = request.with(|parsed, _| match parsed {
        Request::Retrieve(retrieve) => {
            let mut text = b"touch ".to_vec();
            text.extend_from_slice(retrieve.keys.first);
            text.extend_from_slice(format!(" {}\r\n", retrieve.exptime).as_bytes());
            Follow::Same(Owned::from_text(text))
        }
        Request::Change(change) if matches!(change.verb, ChangeVerb::Touch(_)) => {
            Follow::Same(request.clone())
        }
        Request::Store(store) if store.verb == StoreVerb::Add => Follow::Add(request.clone()),
        Request::Meta(meta) => match meta.verb {
            meta::Verb::Get if meta.vivify.is_none() => Follow::Same(request.clone()),
            meta::Verb::Set if meta.mode == meta::Mode::Add && meta.cas.is_none() => {
                Follow::Add(request.clone())
            }
            _ => Follow::Delete,
        },
        _ => Follow::Delete,
    });
    known.unwrap_or(Follow::Delete)
}

/// How many have done as told.
fn good(said: &[Option<Said>]) -> usize {
    said.iter().flatten().filter(|said| said.is_good()).count()
}

/// What all said together: the first that is no success if there is one. Else what
/// the first said, who holds what the others may have deleted.
fn worst(said: &[Option<Said>]) -> Option<Said> {
    let mut all = said.iter().flatten();
    let failed = all.clone().find(|said| !said.is_good());
    failed.or_else(|| all.next()).cloned()
}

impl Shard {
    /// Changes a key, and tells whoever asks what came of it.
    pub(super) fn change(self: &Rc<Self>, effect: Effect, question: Question) {
        self.changes.count(&question.key);
        let shard = Rc::clone(self);
        start(async move {
            let Question {
                request,
                key,
                client,
                asker,
                token,
            } = question;
            let tell = |said: &Said| said.tell(&*asker, token);
            if effect == Effect::Replaces {
                shard.replace(&request, &key, client, tell).await;
            } else {
                shard.adjust(&request, &key, client, tell).await;
            }
        });
    }

    /// What replaces the item is sent to all members at once, so that each has
    /// it in the order in which this worker's clients asked.
    async fn replace(&self, request: &Owned, key: &[u8], client: u64, tell: impl Fn(&Said)) {
        let acting = self.acting(key, false);
        let copies = self.settings.copies;
        let under_way = self.changes.begin(key, self.lane(client), Sent::AtOnce);
        let cross = || self.cross(under_way, acting, key, client);
        // The acting primary is the first of them.
        let mut members = vec![acting];
        if copies != Copies::None {
            members.extend((0..self.members.len()).filter(|&at| at != acting));
        }
        let mut leaves = Leaves::default();
        for member in members.iter().filter_map(|&at| self.members.get(at)) {
            leaves.push(member.ask(request, key, client));
        }
        let first = |said: &[Option<Said>]| said.first().cloned().flatten();
        match copies {
            Copies::Async | Copies::None => {
                leaves.until(|said| first(said).is_some()).await;
                first(leaves.said()).iter().for_each(tell);
                leaves.until(|_| false).await;
                cross();
            }
            Copies::Sync => {
                leaves.until(|_| false).await;
                cross();
                worst(leaves.said()).iter().for_each(tell);
            }
            Copies::Majority => {
                let most = self.members.len() / 2 + 1;
                let versioned = request.with(|request, _| names_version(request));
                // A version must be the one that will be compared with.
                let early = versioned != Some(true);
                leaves
                    .until(|said| good(said) >= most && (early || first(said).is_some()))
                    .await;
                let said = leaves.said();
                let answer = if good(said) >= most {
                    // The primary's if it is among them.
                    let mut good = said.iter().flatten().filter(|said| said.is_good());
                    good.next().cloned()
                } else {
                    worst(said)
                };
                answer.iter().for_each(tell);
                leaves.until(|_| false).await;
                cross();
            }
        }
        // Whoever refused may still hold what was there before.
        for (&at, said) in members.iter().zip(leaves.said()) {
            let refused = said.as_ref().and_then(Said::outcome);
            if refused.is_some_and(Outcome::is_error)
                && let Some(member) = self.members.get(at)
            {
                member.forget(key, client);
            }
        }
    }

    /// Ends a change. If members may have got it and another of the same key in
    /// different orders, all but one delete what they hold: nobody can tell which of
    /// them has what the acting primary has.
    fn cross(&self, under_way: UnderWay<'_>, acting: usize, key: &[u8], client: u64) {
        if self.settings.copies == Copies::None || !under_way.has_crossed() {
            return;
        }
        self.stats.changes_crossed.increment();
        let others = (0..).zip(&self.members).filter(|&(at, _)| at != acting);
        others.for_each(|(_, member)| member.forget(key, client));
    }

    /// What depends on the item is asked of one member; the others follow.
    async fn adjust(&self, request: &Owned, key: &[u8], client: u64, tell: impl Fn(&Said)) {
        let acting = self.acting(key, true);
        let Some(member) = self.members.get(acting) else {
            return;
        };
        let follow = follow(request);
        let sent = match follow {
            Follow::Same(_) | Follow::Add(_) => Sent::InSteps,
            // Whatever is deleted between the steps is not left different.
            Follow::Delete => Sent::AtOnce,
        };
        let mut under_way = self.changes.begin(key, self.lane(client), sent);
        let said = member.ask(request, key, client).await;
        let changed = matches!(said.outcome(), Some(Outcome::Done | Outcome::Hit));
        let copies = self.settings.copies;
        let waits = matches!(copies, Copies::Sync | Copies::Majority);
        if !changed || !waits {
            tell(&said);
        }
        if !changed || copies == Copies::None {
            return;
        }
        // Counted again: whoever copied the item since has what was there before.
        self.changes.count(key);
        let others = self.others_follow(&follow, acting, key, client);
        under_way.take_last_step();
        let others = others.await;
        self.cross(under_way, acting, key, client);
        if waits {
            let enough = match copies {
                Copies::Majority => self.members.len() / 2,
                _ => others.len(),
            };
            let done = others.iter().filter(|said| said.is_good()).count();
            let failed = others.iter().find(|said| !said.is_good());
            match failed.filter(|_| done < enough) {
                Some(failed) => tell(failed),
                None => tell(&said),
            }
        }
    }

    /// Sends the other members what follows; the future returns what each said in the
    /// end.
    fn others_follow<'a>(
        &'a self,
        follow: &'a Follow,
        acting: usize,
        key: &'a [u8],
        client: u64,
    ) -> impl Future<Output = Vec<Said>> + 'a {
        let request = match follow {
            Follow::Same(request) | Follow::Add(request) => request.clone(),
            Follow::Delete => deletion(key),
        };
        let others: Vec<_> = (0..self.members.len())
            .filter(|&at| at != acting)
            .filter_map(|at| self.members.get(at))
            .collect();
        let leaves: Vec<Leaf> = others
            .iter()
            .map(|member| member.ask(&request, key, client))
            .collect();
        async move {
            let mut all = Vec::with_capacity(leaves.len());
            for (member, leaf) in others.iter().zip(leaves) {
                let mut said = leaf.await;
                if said.is_behind() && member.is_active() {
                    // It holds nothing of the key, and will have deleted what it did.
                    said = Said::nothing();
                }
                let kept = match follow {
                    Follow::Add(_) => said.outcome() != Some(Outcome::Done),
                    Follow::Same(_) | Follow::Delete => {
                        said.outcome().is_some_and(Outcome::is_error)
                    }
                };
                if kept && said.outcome().is_some() {
                    said = member.ask(&deletion(key), key, client).await;
                    if said.outcome().is_some_and(Outcome::is_error) {
                        member.forget(key, client);
                    }
                }
                all.push(said);
            }
            all
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_others_follow_as_far_as_it_is_safe() {
        let name = |request: &'static [u8]| match follow(&Owned::from_text(request)) {
            Follow::Same(request) => {
                let text = request.with(|_, bytes| bytes.clone()).unwrap();
                format!("same {}", String::from_utf8_lossy(&text).trim_end())
            }
            Follow::Add(_) => "add".to_owned(),
            Follow::Delete => "delete".to_owned(),
        };
        for (request, how) in [
            (&b"gat 60 k\r\n"[..], "same touch k 60"),
            (b"touch k 60\r\n", "same touch k 60"),
            (b"mg k T60\r\n", "same mg k T60"),
            (b"add k 0 0 1\r\nx\r\n", "add"),
            (b"ms k 1 ME\r\nx\r\n", "add"),
            (b"incr k 1\r\n", "delete"),
            (b"append k 0 0 1\r\nx\r\n", "delete"),
            (b"cas k 0 0 1 7\r\nx\r\n", "delete"),
            (b"replace k 0 0 1\r\nx\r\n", "delete"),
            (b"ms k 1 MA\r\nx\r\n", "delete"),
            (b"mg k N5\r\n", "delete"),
            (b"ma k\r\n", "delete"),
            (b"md k I\r\n", "delete"),
        ] {
            assert_eq!(name(request), how, "{request:?}");
        }
    }
}
