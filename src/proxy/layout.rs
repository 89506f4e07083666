//! What the configuration has made: pools, servers, and where requests of each
//! listener go. Immutable; a reload makes another.

use std::collections::HashSet;
use std::sync::Arc;

use super::settings::{ClientProtocol, MissOnError, OnEject, ServerProtocol, Settings};
use super::shard;
use crate::net::listener::Address;
use crate::pool::{Peers, Server};
use crate::protocol::Limits;
use crate::protocol::serve::Serve;
use crate::router::Placement;

/// A server as a member of a pool.
#[derive(Clone)]
pub struct Member {
    /// The server.
    pub server: Arc<Server>,
    /// The cache behind it, if it is in this process.
    pub embedded: Option<Cache>,
    /// The zone that it is in, if that is known.
    pub zone: Option<Box<str>>,
}

/// A cache in this process.
#[derive(Clone)]
pub struct Cache {
    /// The way to ask it.
    pub serve: Arc<dyn Serve>,
    /// The memory it was made for, in bytes: one of another size is another
    /// cache.
    pub memory_bytes: usize,
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Member").field(&self.server.name).finish()
    }
}

/// A named set of servers under one distribution.
#[derive(Debug)]
pub struct Pool {
    /// Its name in the configuration.
    pub name: Box<str>,
    /// Which server holds a key: an index into `members`.
    pub placement: Placement,
    /// The servers in the order listed; of shards the primaries.
    pub members: Vec<Member>,
    /// What makes the members primaries of shards; `None` if they are all there
    /// is.
    pub replication: Option<Replication>,
    /// What becomes of the keys of a server that is ejected.
    pub on_eject: OnEject,
    /// When a failure is told as a miss.
    pub miss_on_error: MissOnError,
    /// How its servers are asked for binary clients.
    pub server_protocol: ServerProtocol,
}

/// The replicas of a pool's members, and how they are used.
#[derive(Debug)]
pub struct Replication {
    /// The replicas of each member, in the order listed.
    pub replicas: Vec<Vec<Member>>,
    /// How members are asked.
    pub settings: shard::Settings,
    /// The zone that the proxy is in.
    pub zone: Option<Box<str>>,
    /// Changes under way, as all workers see them.
    pub changes: Arc<shard::Changes>,
}

impl Pool {
    /// All servers: each member, followed by its replicas.
    pub fn servers(&self) -> impl Iterator<Item = &Member> {
        self.shards()
            .flat_map(|(member, replicas)| std::iter::once(member).chain(replicas))
    }

    /// Each member with its replicas.
    pub fn shards(&self) -> impl Iterator<Item = (&Member, &[Member])> {
        let members = self.members.iter().enumerate();
        members.map(|(at, member)| (member, self.replicas(at)))
    }

    /// The replicas of the member at this place.
    pub fn replicas(&self, at: usize) -> &[Member] {
        let replication = self.replication.as_ref();
        let replicas = replication.and_then(|all| all.replicas.get(at));
        replicas.map_or(&[], Vec::as_slice)
    }

    /// The place of the server that takes `key` while its own, at place `home`, is
    /// away. A cache in this process stands in for nobody: what it holds is not
    /// deleted over a connection.
    pub fn stand_in(&self, key: &[u8], home: usize) -> Option<usize> {
        self.placement.stand_in(key, |at| {
            let member = self.members.get(at).filter(|_| at != home);
            member
                .is_some_and(|member| member.embedded.is_none() && member.server.health.is_active())
        })
    }

    /// Its servers behind sockets.
    pub fn remote_servers(&self) -> Vec<Arc<Server>> {
        let remote = self.servers().filter(|member| member.embedded.is_none());
        remote.map(|member| Arc::clone(&member.server)).collect()
    }
}

/// Where requests go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// To the pool with this place in [`Layout::pools`].
    Pool(usize),
}

/// One listener's part of the configuration.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Where it listens, which is what it is known by from one layout to the
    /// next.
    pub address: Address,
    /// What its clients speak.
    pub protocol: ClientProtocol,
    /// Where its requests go.
    pub route: Route,
    /// What its clients may send.
    pub limits: Limits,
    /// Whether they may flush all servers of the route.
    pub flush_all: bool,
}

/// Everything that a reload replaces at once.
#[derive(Debug)]
pub struct Layout {
    /// The pools in the order of the configuration.
    pub pools: Vec<Pool>,
    /// One for each listener, by the number its connections come with; `None`
    /// for a listener that is no more.
    pub entries: Vec<Option<Entry>>,
    /// Where each listener is or was, by the same number: one that comes back
    /// gets the number it had.
    pub addresses: Vec<Address>,
    /// The bounds of sessions.
    pub sessions: Settings,
    /// Most bytes that all peers together may make the workers hold.
    pub memory_max: usize,
    /// Most requests in flight, of all workers.
    pub in_flight_max: usize,
}

impl Layout {
    /// The servers of all pools, each once.
    pub fn servers(&self) -> Vec<Arc<Server>> {
        let members = self.pools.iter().flat_map(Pool::servers);
        let mut seen = HashSet::new();
        members
            .filter(|member| seen.insert(Arc::as_ptr(&member.server)))
            .map(|member| Arc::clone(&member.server))
            .collect()
    }

    /// Makes the servers of each pool known to each other.
    pub(super) fn introduce(&self) {
        for pool in &self.pools {
            Peers::introduce(&pool.remote_servers());
        }
    }

    /// The pool of this name.
    pub fn pool(&self, name: &str) -> Option<&Pool> {
        self.pools.iter().find(|pool| *pool.name == *name)
    }

    /// The part of a listener.
    pub fn entry(&self, listener: usize) -> Option<&Entry> {
        self.entries.get(listener)?.as_ref()
    }
}
