//! One worker thread of the proxy: its connections to servers, its clients.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::binary::{self, Way};
use super::drain::Drain;
use super::layout::{Cache, Layout, Member, Pool, Replication};
use super::merge::Merge;
use super::session::Session;
use super::shard::{self, Shard};
use super::stats::{End, PoolCounters, PoolStats, WorkerStats};
use crate::clock::{self, Moment};
use crate::net::buffers;
use crate::net::held;
use crate::net::listener::Gate;
use crate::net::memory;
use crate::net::stream::Stream;
use crate::net::turn::Turn;
use crate::net::worker::{Handler, Place};
use crate::pool::{Connection, Deadlines, Dialect, Server, ServerStats, health};
use crate::protocol::Request;
use crate::protocol::reply::Outcome;
use crate::protocol::serve::Serve;

/// How often a worker looks for idle clients and memory to give back.
const SWEEP: Duration = Duration::from_millis(500);

/// What all workers share.
#[derive(Debug)]
pub struct Shared {
    /// The configuration in force. Workers take a look at every batch.
    pub layout: ArcSwap<Layout>,
    /// Tells idle workers that there is another.
    replaced: watch::Sender<()>,
    /// How far the proxy is on its way to its end.
    pub drain: watch::Sender<Drain>,
    /// How many clients there are and may be.
    pub gate: Arc<Gate>,
    /// How many workers share the bounds on all.
    worker_count: usize,
    /// When the proxy started.
    pub started: Moment,
    workers: Mutex<Vec<Arc<WorkerStats>>>,
    pools: Mutex<Vec<PoolCounters>>,
}

impl Shared {
    /// Shares `layout` among so many workers yet to come.
    pub fn new(layout: Layout, gate: Arc<Gate>, worker_count: usize) -> Arc<Self> {
        layout.introduce();
        Arc::new(Self {
            worker_count: worker_count.max(1),
            layout: ArcSwap::from_pointee(layout),
            replaced: watch::Sender::new(()),
            drain: watch::Sender::default(),
            gate,
            started: clock::now(),
            workers: Mutex::default(),
            pools: Mutex::default(),
        })
    }

    /// Puts another configuration in force, for all workers at once. Requests in
    /// flight end as they began.
    pub fn install(&self, layout: Layout) {
        layout.introduce();
        self.layout.store(Arc::new(layout));
        // Keys may have another server, and another one to stand in for it.
        health::turn();
        let layout = self.layout.load();
        lock(&self.pools).retain(|counters| layout.pool(&counters.pool).is_some());
        self.replaced.send_replace(());
    }

    /// The counters of all workers.
    pub fn worker_stats(&self) -> Vec<Arc<WorkerStats>> {
        lock(&self.workers).clone()
    }

    /// Shows a worker's counters for a pool to those who read them, again if the
    /// pool was gone for a while that the worker did not notice.
    fn show(&self, counters: &PoolCounters) {
        let mut pools = lock(&self.pools);
        let shown = |known: &PoolCounters| Arc::ptr_eq(&known.stats, &counters.stats);
        if !pools.iter().any(shown) {
            pools.push(counters.clone());
        }
    }

    /// The counters of all workers for all pools that there are.
    pub fn pool_stats(&self) -> Vec<PoolCounters> {
        lock(&self.pools).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The way from this worker to one server of a pool.
#[derive(Clone)]
pub enum Link {
    /// Over sockets; a client's requests always take the same one.
    Remote(Rc<[Rc<Connection>]>),
    /// By a function call.
    Embedded(Embedded),
    /// To whichever members of a shard a request is for.
    Shard(Rc<Shard>),
}

/// A cache in this process, as a worker uses it.
#[derive(Clone)]
pub struct Embedded {
    cache: Arc<dyn Serve>,
    stats: Arc<ServerStats>,
}

impl Embedded {
    /// Carries out a request on one key and counts it. Returns what the reply
    /// says.
    pub fn serve(&self, request: &Request<'_>, out: &mut Vec<u8>) -> Outcome {
        let outcome = self.cache.serve(request, out);
        self.stats.requests.increment();
        match outcome {
            Outcome::Hit => self.stats.hits.increment(),
            Outcome::Miss => self.stats.misses.increment(),
            outcome if outcome.is_error() => self.stats.error_replies.increment(),
            _ => {}
        }
        outcome
    }
}

/// A pool as this worker sees it.
pub struct PoolView {
    /// The way to each member, in the order of the pool's.
    pub links: Vec<Link>,
    /// The way to each server, replicas and all.
    pub servers: Vec<Link>,
    /// The binary way to each of them, but for those in this process.
    pub binary: Vec<Option<Rc<Way>>>,
    /// This worker's counters for it.
    pub stats: Arc<PoolStats>,
}

/// The configuration in force, with this worker's connections.
pub struct View {
    /// The configuration.
    pub layout: Arc<Layout>,
    /// Its pools, in the same order.
    pub pools: Vec<PoolView>,
}

/// A server that this worker is connected to.
struct Linked {
    server: Arc<Server>,
    link: Link,
    binary: Option<Rc<Way>>,
}

/// One worker thread of the proxy.
pub struct Worker {
    shared: Arc<Shared>,
    view: RefCell<Rc<View>>,
    linked: RefCell<Vec<Linked>>,
    counters: RefCell<Vec<PoolCounters>>,
    /// Flushes what has been queued, once a turn.
    pub turn: Rc<Turn>,
    deadlines: Rc<Deadlines>,
    sessions: RefCell<Vec<Weak<Session>>>,
    session_count: Cell<u64>,
    /// What this worker counts.
    pub stats: Arc<WorkerStats>,
}

impl Worker {
    /// A worker without clients. Made in its own thread.
    pub fn new(shared: Arc<Shared>) -> Self {
        let stats = Arc::new(WorkerStats::default());
        lock(&shared.workers).push(Arc::clone(&stats));
        let empty = View {
            layout: shared.layout.load_full(),
            pools: Vec::new(),
        };
        Self {
            shared,
            view: RefCell::new(Rc::new(empty)),
            linked: RefCell::default(),
            counters: RefCell::default(),
            turn: Rc::default(),
            deadlines: Rc::default(),
            sessions: RefCell::default(),
            session_count: Cell::new(0),
            stats,
        }
    }

    /// What all workers share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The configuration in force.
    #[inline]
    pub fn view(&self) -> Rc<View> {
        let current = self.shared.layout.load();
        {
            let view = self.view.borrow();
            if Arc::ptr_eq(&view.layout, &current) && !view.pools.is_empty() {
                return Rc::clone(&view);
            }
        }
        self.adopt(&Arc::clone(&current))
    }

    /// Builds the view of a new configuration. Servers that were there before
    /// keep their connections, others retire.
    fn adopt(&self, layout: &Arc<Layout>) -> Rc<View> {
        let mut counters = self.counters.borrow_mut();
        counters.retain(|counters| layout.pool(&counters.pool).is_some());
        drop(counters);
        let pools = layout
            .pools
            .iter()
            .map(|pool| {
                let members = pool.members.iter();
                let stats = self.counters_for(&pool.name);
                let (links, binary): (Vec<_>, _) = members.map(|member| self.link(member)).unzip();
                let servers = pool.servers().map(|member| self.link(member).0).collect();
                let links = match &pool.replication {
                    Some(replication) => self.shards(pool, replication, &stats),
                    None => links,
                };
                PoolView {
                    links,
                    servers,
                    binary,
                    stats,
                }
            })
            .collect();
        self.linked.borrow_mut().retain(|linked| {
            let stays = layout
                .pools
                .iter()
                .flat_map(Pool::servers)
                .any(|member| Arc::ptr_eq(&member.server, &linked.server));
            if let Link::Remote(connections) = &linked.link
                && !stays
            {
                linked.binary.iter().for_each(|way| way.retire());
                connections
                    .iter()
                    .for_each(|connection| connection.retire());
            }
            stays
        });
        for session in self.live_sessions() {
            if layout.entry(session.listener()).is_none() {
                session.finish();
            }
        }
        let workers = self.shared.worker_count;
        // Clients are let go from three quarters on: what comes in until they are,
        // and what the allocator cannot give back at once, is to fit in too.
        held::set_max(layout.memory_max / workers / 4 * 3);
        self.deadlines
            .set_in_flight_max(layout.in_flight_max / workers);
        let view = Rc::new(View {
            layout: Arc::clone(layout),
            pools,
        });
        self.view.replace(Rc::clone(&view));
        view
    }

    /// The ways to the shards of a pool.
    fn shards(&self, pool: &Pool, replication: &Replication, stats: &Arc<PoolStats>) -> Vec<Link> {
        let member = |(place, member): (usize, &Member)| {
            let near = member.zone.is_some() && member.zone == replication.zone;
            let link = self.link(member).0;
            shard::Member::new(Arc::clone(&member.server), link, place, near)
        };
        let shards = pool.members.iter().zip(&replication.replicas);
        shards
            .map(|(primary, replicas)| {
                Link::Shard(Shard::new(
                    std::iter::once(primary)
                        .chain(replicas)
                        .enumerate()
                        .map(member)
                        .collect(),
                    replication.settings.clone(),
                    Arc::clone(&replication.changes),
                    Arc::clone(stats),
                ))
            })
            .collect()
    }

    fn link(&self, member: &Member) -> (Link, Option<Rc<Way>>) {
        let known = self
            .linked
            .borrow()
            .iter()
            .find(|linked| Arc::ptr_eq(&linked.server, &member.server))
            .map(|linked| (linked.link.clone(), linked.binary.clone()));
        if let Some(link) = known {
            return link;
        }
        let server = &member.server;
        let (link, binary) = match &member.embedded {
            Some(Cache { serve, .. }) => {
                let link = Link::Embedded(Embedded {
                    cache: Arc::clone(serve),
                    stats: server.new_stats(),
                });
                (link, None)
            }
            None => {
                let connections: Rc<[_]> = (0..server.settings.connections.max(1))
                    .map(|_| {
                        let server = Arc::clone(server);
                        Connection::new(server, Dialect::Text, &self.turn, &self.deadlines)
                    })
                    .collect();
                for connection in &*connections {
                    tokio::task::spawn_local(Rc::clone(connection).run());
                }
                let way = Way::new(Arc::clone(server), &self.turn, &self.deadlines);
                (Link::Remote(connections), Some(way))
            }
        };
        self.linked.borrow_mut().push(Linked {
            server: Arc::clone(server),
            link: link.clone(),
            binary: binary.clone(),
        });
        (link, binary)
    }

    fn counters_for(&self, pool: &str) -> Arc<PoolStats> {
        let mut mine = self.counters.borrow_mut();
        if let Some(known) = mine.iter().find(|known| *known.pool == *pool) {
            self.shared.show(known);
            return Arc::clone(&known.stats);
        }
        let counters = PoolCounters {
            pool: pool.into(),
            stats: Arc::default(),
        };
        let stats = Arc::clone(&counters.stats);
        self.shared.show(&counters);
        mine.push(counters);
        stats
    }

    /// Gives memory back: the worker has had nothing to do for a while.
    fn release(&self) {
        buffers::release();
        Merge::release();
        binary::Batch::release();
        for linked in &*self.linked.borrow() {
            if let Link::Remote(connections) = &linked.link {
                connections
                    .iter()
                    .for_each(|connection| connection.shrink());
            }
            let in_binary = linked.binary.iter().flat_map(|way| way.made());
            in_binary.for_each(|connection| connection.shrink());
        }
        self.sessions.borrow_mut().shrink_to_fit();
        memory::trim();
    }

    /// Bytes that have come from clients and servers: those who asked may be gone when
    /// the last replies come.
    fn received(&self) -> u64 {
        let of_servers = |linked: &Linked| {
            let connections: &[_] = match &linked.link {
                Link::Remote(connections) => connections,
                Link::Embedded(_) | Link::Shard(_) => &[],
            };
            let in_binary = linked.binary.iter().flat_map(|way| way.made());
            let all = connections.iter().chain(in_binary);
            all.map(|connection| connection.received()).sum::<u64>()
        };
        let of_servers: u64 = self.linked.borrow().iter().map(of_servers).sum();
        self.stats.bytes_received.get().wrapping_add(of_servers)
    }

    pub(super) fn live_sessions(&self) -> Vec<Rc<Session>> {
        let mut sessions = self.sessions.borrow_mut();
        sessions.retain(|session| session.strong_count() > 0);
        sessions.iter().filter_map(Weak::upgrade).collect()
    }

    /// Gives idle clients up and their memory back.
    fn sweep(&self) {
        let idle_timeout = self.view().layout.sessions.idle_timeout;
        let now = clock::now();
        for session in self.live_sessions() {
            let idle = now.since(session.last_active());
            if idle >= SWEEP {
                session.shrink();
            }
            if !idle_timeout.is_zero() && idle >= idle_timeout {
                session.end(End::Idle);
            }
        }
    }
}

impl Worker {
    /// Adopts configurations as they come, whether or not there are clients: the
    /// first connects to the servers before the first client comes.
    async fn follow(self: Rc<Self>) {
        let mut replaced = self.shared.replaced.subscribe();
        loop {
            self.view();
            // Fails only when the proxy is gone.
            if replaced.changed().await.is_err() {
                return;
            }
        }
    }
}

impl Handler for Worker {
    type Origin = usize;

    async fn serve(self: Rc<Self>, stream: Stream, origin: usize, _place: Place) {
        let number = self.session_count.get();
        self.session_count.set(number.wrapping_add(1));
        let (read, write) = stream.into_split();
        let session = Session::new(Rc::clone(&self), write, number, origin);
        self.sessions.borrow_mut().push(Rc::downgrade(&session));
        self.stats.sessions.set(self.stats.sessions.get() + 1);
        let end = session.run(read).await;
        self.stats.sessions.set(self.stats.sessions.get() - 1);
        self.stats.ended(end);
    }

    async fn background(self: Rc<Self>) {
        tokio::task::spawn_local(Rc::clone(&self.turn).run());
        tokio::task::spawn_local(Rc::clone(&self.deadlines).run());
        tokio::task::spawn_local(Rc::clone(&self).follow());
        tokio::task::spawn_local(Rc::clone(&self).let_go());
        tokio::task::spawn_local(Rc::clone(&self).relieve());
        let mut activity = (0, 0);
        let mut released = false;
        loop {
            clock::sleep(SWEEP).await;
            self.sweep();
            self.stats
                .held
                .set(u64::try_from(held::total()).unwrap_or(u64::MAX));
            // Clients that go free memory without a word.
            let now = (self.received(), self.stats.sessions.get());
            let idle = std::mem::replace(&mut activity, now) == now;
            if idle && !released {
                self.release();
            }
            released = idle;
        }
    }
}
