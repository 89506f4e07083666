//! What the servers of a pool know of each other.

use std::sync::{Arc, Weak};

use super::server::Server;

/// The servers of one pool, as each of them sees it.
#[derive(Debug)]
pub struct Peers {
    members: Vec<Weak<Server>>,
    /// How many of a hundred of them may be ejected at a time.
    eject_max_percent: u32,
}

impl Peers {
    /// Makes the servers of a pool known to each other, in place of those they
    /// knew before. One that is in several pools knows those of the last.
    pub fn introduce(members: &[Arc<Server>]) {
        for server in members {
            let peers = Self {
                members: members.iter().map(Arc::downgrade).collect(),
                eject_max_percent: server.settings.eject_max_percent,
            };
            server.peers.store(Some(Arc::new(peers)));
        }
    }

    /// Whether one more of them may be ejected. Where most seem to be down it may
    /// be us, or the network: asking on is then better than failing at once.
    pub fn may_lose_one(&self) -> bool {
        if self.eject_max_percent >= 100 {
            return true;
        }
        let members = self.members.iter().filter_map(Weak::upgrade);
        let down = members.filter(|server| !server.health.is_active()).count();
        let max = u64::from(self.eject_max_percent);
        to_u64(down + 1) * 100 <= max * to_u64(self.members.len())
    }
}

fn to_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Moment;
    use crate::pool::server::Place;
    use crate::pool::{Failure, Settings};

    #[test]
    fn no_more_than_their_share_is_ejected() {
        let settings = Settings {
            eject_max_percent: 50,
            ..Settings::default()
        };
        let new = |name: &str| {
            Arc::new(Server::new(
                name,
                Place::Embedded,
                settings.clone(),
                Arc::default(),
            ))
        };
        let servers: Vec<_> = ["a", "b", "c", "d", "e"].map(new).into();
        Peers::introduce(&servers);
        let now = Moment::default();
        let eject = |server: &Server| server.failed(Failure::Refused, now);
        let ejected: Vec<_> = servers.iter().map(|server| eject(server)).collect();
        assert_eq!(ejected, [true, true, false, false, false]);
        assert_eq!(servers[2].health.withheld(), 1);
        servers[0].health.restore(now);
        assert!(eject(&servers[4]), "there is room again");
    }
}
