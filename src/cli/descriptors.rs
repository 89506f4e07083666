//! How many files and sockets the process may have open.

use ketch::config::Settings;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors of the program itself: 11 of the cache and 14 of the proxy have been
/// counted. The others are for what is open for a moment: files that are read again,
/// names that are looked up, a client whose end is being told.
const BASE: usize = 24;

/// Descriptors of a worker thread and its runtime, counted.
const EACH_WORKER: usize = 4;

/// Descriptors of an address: its socket, and a client that is being turned away.
const EACH_LISTENER: usize = 2;

/// Descriptors of the admin listener: its socket, and as many clients as it lets in.
const ADMIN: usize = 65;

/// Descriptors of a server beside connections: its probe, and the journal of what it
/// has missed.
const EACH_SERVER: usize = 2;

/// Descriptors of a proxy for what passes: connections to servers that were given up
/// on, listeners and servers of a configuration that has been replaced.
const PASSING: usize = 64;

/// What takes descriptors beside clients.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Others {
    /// Worker threads.
    pub(super) workers: usize,
    /// Addresses that are listened on.
    pub(super) listeners: usize,
    /// Whether operators are listened to.
    pub(super) has_admin: bool,
    /// Whatever else there is.
    pub(super) more: usize,
}

impl Others {
    fn of_proxy(settings: &Settings, workers: usize) -> Self {
        let servers = settings.pools.iter().map(|pool| {
            let each = pool.treatment.connections.saturating_mul(workers);
            let remote = pool.all_servers().filter(|server| !server.is_embedded());
            remote
                .count()
                .saturating_mul(each.saturating_add(EACH_SERVER))
        });
        Self {
            workers,
            // A name mostly has an address of IPv4 and one of IPv6.
            listeners: settings.listen.len().saturating_mul(2),
            has_admin: settings.admin.is_some(),
            more: servers.fold(PASSING, usize::saturating_add),
        }
    }

    fn descriptors(self) -> usize {
        let admin = if self.has_admin { ADMIN } else { 0 };
        BASE.saturating_add(self.workers.saturating_mul(EACH_WORKER))
            .saturating_add(self.listeners.saturating_mul(EACH_LISTENER))
            .saturating_add(admin)
            .saturating_add(self.more)
    }
}

/// Raises the limit of open files to what the settings ask for, as far as the
/// system lets it. Returns how many clients there is room for.
pub(super) fn make_room(settings: &Settings, workers: usize) -> usize {
    let others = Others::of_proxy(settings, workers);
    room_for(settings.clients.connections_max, others)
}

/// As [`make_room`], for so many clients, and `others` besides.
pub(super) fn room_for(wanted: usize, others: Others) -> usize {
    let others = others.descriptors();
    let needed = to_u64(wanted.saturating_add(others));
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= needed) {
        return wanted;
    }
    let possible = maximum.map_or(needed, |maximum| maximum.min(needed));
    // Beyond the hard limit if the process may, else up to it.
    let limit = [needed, possible].into_iter().find(|limit| {
        let raised = Rlimit {
            current: Some(*limit),
            maximum: maximum.map(|maximum| maximum.max(*limit)),
        };
        setrlimit(Resource::Nofile, raised).is_ok()
    });
    let limit = limit.or(current).unwrap_or(needed);
    let room = usize::try_from(limit).unwrap_or(usize::MAX);
    let clients = room.saturating_sub(others).clamp(1, wanted);
    if clients < wanted {
        tracing::warn!(
            limit,
            needed,
            connections_max = clients,
            "the limit of open files leaves room for fewer clients than configured"
        );
    }
    clients
}

fn to_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_and_operators_take_descriptors() {
        let cache = Others {
            workers: 4,
            listeners: 2,
            ..Others::default()
        };
        assert_eq!(cache.descriptors(), 44);
        let large = Others {
            workers: 200,
            has_admin: true,
            ..cache
        };
        assert_eq!(large.descriptors(), 44 + 196 * 4 + 65);
    }
}
