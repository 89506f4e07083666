//! Reading one key from a shard.

use std::rc::Rc;

use super::leaf::{Leaf, Said};
use super::owned::Owned;
use super::settings::OnMiss;
use super::version::names_version;
use super::{Question, ReadFrom, Shard, repair, start};
use crate::protocol::effect::absent;
use crate::protocol::reply::Outcome;

impl Shard {
    /// Reads a key, and tells whoever asks.
    pub(super) fn read(self: &Rc<Self>, question: Question) {
        let shard = Rc::clone(self);
        start(async move {
            let said = shard
                .read_one(&question.request, &question.key, question.client)
                .await;
            said.tell(&*question.asker, question.token);
        });
    }

    /// The places of members in the order in which this request is put to them:
    /// first those that are asked and right.
    fn readers(&self, by_version: bool, key: &[u8]) -> Vec<usize> {
        let from = match by_version {
            // A comparison will be made by the primary.
            true => ReadFrom::Primary,
            false => self.settings.read,
        };
        let mut order = self.read_order(from);
        order.retain(|&at| {
            let member = self.members.get(at);
            member.is_some_and(|member| member.is_active() && !member.is_behind(key))
        });
        order
    }

    async fn read_one(self: &Rc<Self>, request: &Owned, key: &[u8], client: u64) -> Said {
        let changes = self.changes.of(key);
        let by_version = request.with(|request, _| names_version(request)) == Some(true);
        let readers = self.readers(by_version, key);
        // Those that held nothing, and the worst that was said.
        let mut without = Vec::new();
        let mut told: Option<Said> = None;
        let mut left = &readers[..];
        while let Some((&at, rest)) = left.split_first() {
            left = rest;
            let Some(leaf) = self.ask(at, request, key, client) else {
                continue;
            };
            let (at, said) = match rest.first() {
                Some(&second) if !by_version => {
                    let other = || self.ask(second, request, key, client);
                    let (first, said) = self.hedge.race(self, at, leaf, other).await;
                    (if first { at } else { second }, said)
                }
                _ => (at, leaf.await),
            };
            match said.outcome() {
                Some(Outcome::Hit) => {
                    if !without.is_empty() {
                        repair::begin(self, key, at, without, changes, client);
                    }
                    return said;
                }
                Some(Outcome::Miss) => {
                    without.push(at);
                    if self.settings.on_miss == OnMiss::Answer {
                        return said;
                    }
                }
                // Not the server's fault: another would say the same.
                Some(Outcome::ClientError | Outcome::Unknown) => return said,
                _ => self.stats.failovers.increment(),
            }
            // A miss is said rather than an error.
            if told.as_ref().is_none_or(|told| said.rank() < told.rank()) {
                told = Some(said);
            }
        }
        match told {
            Some(told) => told,
            None => self.nobody(request, key, client).await,
        }
    }

    fn ask(&self, at: usize, request: &Owned, key: &[u8], client: u64) -> Option<Leaf> {
        let member = self.members.get(at)?;
        Some(member.ask(request, key, client))
    }

    /// What is said when no member can be asked for the key.
    async fn nobody(&self, request: &Owned, key: &[u8], client: u64) -> Said {
        if let Some(member) = self.members.iter().find(|member| member.is_active()) {
            // It has yet to delete the key.
            let mut reply = Vec::new();
            let outcome = request.with(|request, _| absent(request, &mut reply));
            if let Some(Some(outcome)) = outcome {
                member.server().missed.answered_absent();
                return Said::Reply {
                    bytes: reply.into(),
                    outcome,
                };
            }
        }
        match self.ask(0, request, key, client) {
            Some(leaf) => leaf.await,
            None => Said::Reply {
                bytes: "SERVER_ERROR the shard has no members\r\n".into(),
                outcome: Outcome::ServerError,
            },
        }
    }
}
