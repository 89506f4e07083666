//! How many files and sockets the process may have open.

use ketch::config::Settings;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors for whatever is neither a client nor a server: standard streams,
/// timers and wakers of each thread, admin clients, probes.
const SPARE: usize = 256;

/// Raises the limit of open files to what the settings ask for, as far as the
/// system lets it. Returns how many clients there is room for.
pub(super) fn make_room(settings: &Settings, workers: usize) -> usize {
    room_for(settings.clients.connections_max, others(settings, workers))
}

/// As [`make_room`], for so many clients, and `others` besides.
pub(super) fn room_for(wanted: usize, others: usize) -> usize {
    let others = others.saturating_add(SPARE);
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

/// Descriptors that are not for clients.
fn others(settings: &Settings, workers: usize) -> usize {
    let connections = settings.pools.iter().map(|pool| {
        let each = pool.treatment.connections.saturating_mul(workers);
        let remote = pool.all_servers().filter(|server| !server.is_embedded());
        remote.count().saturating_mul(each)
    });
    let connections = connections.fold(0, usize::saturating_add);
    connections.saturating_add(settings.listen.len())
}

fn to_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
