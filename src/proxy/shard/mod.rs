//! Replicated shards: who of a primary and its replicas is asked, and in which
//! order; changes that reach all of them.
//!
//! A request to a shard is a task of the worker over [`leaf`] operations. Plain
//! pools know nothing of it.

mod change;
mod changes;
mod hedge;
pub mod leaf;
mod many;
pub mod member;
pub mod owned;
mod read;
mod repair;
pub mod settings;
mod version;

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};

pub use changes::Changes;
pub use member::Member;
pub use settings::{Copies, OnMiss, ReadFrom, Settings};

use super::stats::PoolStats;
use crate::pool::Asker;
use crate::protocol::effect::Effect;
use changes::Lane;
use hedge::Hedge;
use owned::Owned;

/// A request on one key, and who asks.
pub struct Question {
    /// The request.
    pub request: Owned,
    /// The key that it is about.
    pub key: Box<[u8]>,
    /// The number of the client.
    pub client: u64,
    /// Who is told.
    pub asker: Rc<dyn Asker>,
    /// What the asker knows it by.
    pub token: u64,
}

/// A shard as one worker reaches it.
#[derive(Debug)]
pub struct Shard {
    /// The primary, and then the replicas in the order listed.
    members: Vec<Member>,
    settings: Settings,
    changes: Arc<Changes>,
    /// The number of this worker among those that make changes.
    worker: u32,
    /// Whether all clients of this worker share one connection to each member.
    is_narrow: bool,
    stats: Arc<PoolStats>,
    hedge: Hedge,
    /// Where the next read in turn begins.
    turn: Cell<usize>,
    /// Repairs under way.
    repairs: Cell<usize>,
}

impl Shard {
    /// A shard of these members, the primary first. `changes` is shared by all
    /// workers.
    pub fn new(
        members: Vec<Member>,
        settings: Settings,
        changes: Arc<Changes>,
        stats: Arc<PoolStats>,
    ) -> Rc<Self> {
        Rc::new(Self {
            hedge: Hedge::new(members.len()),
            is_narrow: members.iter().all(Member::is_narrow),
            worker: changes.join(),
            members,
            settings,
            changes,
            stats,
            turn: Cell::new(0),
            repairs: Cell::new(0),
        })
    }

    /// Starts to see to a request of this effect. Whoever asks is told what
    /// came of it.
    pub fn take_on(self: &Rc<Self>, effect: Effect, question: Question) {
        match effect {
            Effect::Reads => self.read(question),
            Effect::Replaces | Effect::Changes => self.change(effect, question),
        }
    }

    /// The members, the primary first.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The lane of what this client sends to all members at once.
    fn lane(&self, client: u64) -> Lane {
        Lane {
            worker: self.worker,
            client: if self.is_narrow { 0 } else { client },
        }
    }

    /// The places of the members in the order in which they are read from.
    fn read_order(&self, from: ReadFrom) -> Vec<usize> {
        let count = self.members.len();
        let listed = 0..count;
        let turned = |first: usize, count: usize| {
            let turn = self.turn.get();
            self.turn.set(turn.wrapping_add(1));
            (0..count).map(move |at| first + turn.wrapping_add(at).checked_rem(count).unwrap_or(0))
        };
        match from {
            ReadFrom::Primary => listed.collect(),
            ReadFrom::Replica => turned(1, count.saturating_sub(1)).chain([0]).collect(),
            ReadFrom::Spread => turned(0, count).collect(),
            ReadFrom::Nearest => {
                let near = |at: &usize| self.members.get(*at).is_some_and(Member::is_near);
                let (mut order, far): (Vec<_>, Vec<_>) = listed.partition(near);
                order.extend(far);
                order
            }
        }
    }

    /// Who takes the primary's place for changes of a key: the first in the
    /// order listed that is asked and, if what it holds matters, holds what is
    /// right.
    fn acting(&self, key: &[u8], depends: bool) -> usize {
        let active = |member: &Member| member.is_active();
        let right = |member: &Member| member.is_active() && !(depends && member.is_behind(key));
        let mut members = self.members.iter();
        members
            .position(right)
            .or_else(|| self.members.iter().position(active))
            .unwrap_or(0)
    }
}

/// Starts a task of this worker. It runs up to its first wait at once, so that
/// what tasks ask leaves in the order in which they are started; it ends by
/// itself, for every leaf has its time-out.
fn start(task: impl Future<Output = ()> + 'static) {
    let mut task: Pin<Box<dyn Future<Output = ()>>> = Box::pin(task);
    // Spawning polls it once more, with a waker that counts.
    let mut nobody = Context::from_waker(Waker::noop());
    if task.as_mut().poll(&mut nobody).is_pending() {
        tokio::task::spawn_local(task);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Moment;
    use crate::net::listener::Address;
    use crate::pool::server::{Place, Server};
    use crate::pool::{Failure, Settings as Treatment};

    fn shard(zones: &[bool]) -> Rc<Shard> {
        let member = |(at, near): (usize, &bool)| {
            let place = Place::Remote(Address::Unix(format!("/{at}").into()));
            let server = Server::new(&at.to_string(), place, Treatment::default(), Arc::default());
            Member::unreachable(Arc::new(server), at, *near)
        };
        let members = zones.iter().enumerate().map(member).collect();
        Shard::new(members, Settings::default(), Arc::default(), Arc::default())
    }

    #[test]
    fn reads_have_an_order() {
        let shard = shard(&[false, true, false]);
        assert_eq!(shard.read_order(ReadFrom::Primary), [0, 1, 2]);
        assert_eq!(shard.read_order(ReadFrom::Nearest), [1, 0, 2]);
        assert_eq!(shard.read_order(ReadFrom::Replica), [1, 2, 0]);
        assert_eq!(shard.read_order(ReadFrom::Replica), [2, 1, 0]);
        assert_eq!(shard.read_order(ReadFrom::Spread), [2, 0, 1]);
        assert_eq!(shard.read_order(ReadFrom::Spread), [0, 1, 2]);
    }

    #[test]
    fn the_first_that_is_right_acts_for_the_primary() {
        let shard = shard(&[false, false, false]);
        assert_eq!(shard.acting(b"k", true), 0);
        shard.members[0].server().missed.miss(b"k");
        assert_eq!(shard.acting(b"k", true), 1);
        assert_eq!(shard.acting(b"k", false), 0, "it is replaced anyway");
        assert_eq!(shard.acting(b"other", true), 0);
        let eject = |at: usize| {
            let health = &shard.members[at].server().health;
            health.failed(Failure::Refused, Moment::default());
        };
        eject(1);
        assert_eq!(shard.acting(b"k", true), 2);
        eject(2);
        assert_eq!(shard.acting(b"k", true), 0);
        eject(0);
        assert_eq!(shard.acting(b"k", true), 0);
    }
}
