//! What concerns several keys at once.

use super::error::{Fault, Misfit};
use super::grammar::{show_duration, show_size};
use super::keys::SERVERS_EXPECTED;
use super::path::Part;
use super::place::place;
use super::reader::{At, Report};
use super::settings::{Clients, Listen, Pool, Server, Settings};
use crate::net::listener::Address;
use crate::proxy::OnEject;
use crate::router::{Distribution, Placement};

/// Checks the file as a whole: the placement of each pool, and the pool of each
/// listener. Both are of use only if nothing is wrong.
pub(super) fn check(
    settings: &Settings,
    root: &At<'_>,
    report: &mut Report<'_>,
) -> (Vec<Placement>, Vec<usize>) {
    let listeners = listeners(settings, root, report);
    check_addresses(settings, &listeners, root, report);
    check_clients(settings, &root.down("clients"), report);
    let pools = root.down("pools");
    let placements = settings.pools.iter().filter_map(|pool| {
        let at = pools.down(&pool.name);
        check_pool(pool, &at, report);
        place(pool, &at, report)
    });
    let placements = placements.collect();
    let routes = routes(settings, &listeners, root, report);
    (placements, routes)
}

/// The listeners that could be read, each with its node.
fn listeners<'a, 'b>(
    settings: &'a Settings,
    root: &At<'b>,
    report: &Report<'_>,
) -> Vec<(&'a Listen, At<'b>)> {
    let nodes = match root.get("listen") {
        None => vec![root.clone()],
        Some(listen) => {
            let mut nodes = listen.items().unwrap_or_else(|| vec![listen]);
            nodes.retain(|at| report.is_sound(at));
            nodes
        }
    };
    settings.listen.iter().zip(nodes).collect()
}

/// No address is listened on twice, and only files have modes.
fn check_addresses(
    settings: &Settings,
    listeners: &[(&Listen, At<'_>)],
    root: &At<'_>,
    report: &mut Report<'_>,
) {
    // What could not be read is its default here, and is told already.
    let admin_is_sound = report.is_sound(&root.down("admin")) || root.get("admin").is_none();
    let admin = settings.admin.as_ref().filter(|_| admin_is_sound);
    for (place, (listen, at)) in listeners.iter().enumerate() {
        let chosen_later = matches!(listen.address, Address::Tcp { port: 0, .. });
        if chosen_later {
            continue;
        }
        let address = listen.address.to_string();
        if admin == Some(&listen.address) {
            report.fault(at, Fault::AdminAddress { address });
            continue;
        }
        let mut earlier = listeners.iter().take(place);
        if let Some((_, first)) = earlier.find(|(earlier, _)| earlier.address == listen.address) {
            let fault = Fault::AddressTaken { address, first: 0 };
            report.repeated(at, Part::Value, first, fault);
        }
    }
    for (listen, at) in listeners {
        let address = || listen.address.to_string();
        match listen.address {
            Address::Tcp { .. } if listen.mode.is_some() => {
                let address = address();
                report.fault(&at.down("mode"), Fault::ModeOfTcp { address });
            }
            Address::Unix(_) if listen.reuse_port => {
                let address = address();
                report.fault(&at.down("reuse_port"), Fault::NoPort { address });
            }
            _ => {}
        }
    }
}

/// Notes that the value of `key` is less than that of `other`, if it is.
fn at_least<V: PartialOrd + Copy>(
    (key, value): (&'static str, V),
    (other, least): (&'static str, V),
    show: impl Fn(V) -> String,
    at: &At<'_>,
    report: &mut Report<'_>,
) {
    let given: Vec<_> = [key, other].iter().filter_map(|key| at.get(key)).collect();
    // One that could not be read is its default here, and is told already.
    if value < least && given.iter().all(|at| report.is_sound(at)) {
        let fault = Fault::Less {
            key,
            value: show(value),
            other,
            least: show(least),
        };
        report.fault(given.first().unwrap_or(at), fault);
    }
}

fn check_clients(settings: &Settings, at: &At<'_>, report: &mut Report<'_>) {
    let Clients { sessions, .. } = &settings.clients;
    let show = |bytes| show_size(u64::try_from(bytes).unwrap_or(u64::MAX));
    let owed = ("owed_bytes_max", sessions.owed_bytes_max);
    let limits = |listen: &Listen| listen.limits(&settings.clients).value_bytes_max;
    let value_bytes_max = settings.listen.iter().map(limits).max().unwrap_or(0);
    for least in [
        ("pause_bytes", sessions.pause_bytes),
        ("multiget_bytes_max", sessions.multiget_bytes_max),
        ("value_bytes_max", value_bytes_max),
    ] {
        at_least(owed, least, show, at, report);
    }
}

/// Keys of a pool that only shards make use of.
const OF_SHARDS: [&str; 6] = [
    "read",
    "read_miss",
    "repair_ttl",
    "replication",
    "hedge",
    "hedge_budget",
];

fn check_pool(pool: &Pool, at: &At<'_>, report: &mut Report<'_>) {
    match (at.get("servers"), at.get("shards")) {
        (None, None) if at.entries().is_some() => {
            let expected = SERVERS_EXPECTED.to_owned();
            let key = "servers";
            report.key_fault(at, Fault::MissingKey { key, expected });
        }
        (Some(_), Some(shards)) => report.key_fault(&shards, Fault::ServersAndShards),
        (Some(_), None) => {
            for key in OF_SHARDS {
                if let Some(at) = at.get(key) {
                    report.warn(&at, Part::Key, "the pool has no shards");
                }
            }
        }
        // Without any keys it has been told already.
        (None, _) => {}
    }
    if pool.on_eject == OnEject::Remap {
        let random = pool.placement.distribution == Distribution::Random;
        let remap = at.down("on_eject");
        if at.get("shards").is_some() {
            report.fault(&remap, Fault::NoRemap("shards, whose replicas stand in"));
        } else if random {
            let why = "'distribution: random', under which keys have no server of their own";
            report.fault(&remap, Fault::NoRemap(why));
        }
    }
    let treatment = &pool.treatment;
    let stall = ("stall_timeout", treatment.stall_timeout);
    let timeout = ("timeout", treatment.timeout);
    at_least(stall, timeout, show_duration, at, report);
    let max = ("probe_max", treatment.probe.max);
    let first = ("probe_first", treatment.probe.first);
    at_least(max, first, show_duration, at, report);
    if let Some(memory) = at.get("embedded_memory")
        && !pool.all_servers().any(Server::is_embedded)
    {
        report.warn(&memory, Part::Value, "no server of the pool is embedded");
    }
}

/// The pool of each listener.
fn routes(
    settings: &Settings,
    listeners: &[(&Listen, At<'_>)],
    root: &At<'_>,
    report: &mut Report<'_>,
) -> Vec<usize> {
    let pools = &settings.pools;
    if pools.is_empty() {
        // A fault already, and every name would be unknown.
        return Vec::new();
    }
    let names: Vec<_> = pools.iter().map(|pool| pool.name.as_str()).collect();
    let find = |name: &str, at: At<'_>, report: &mut Report<'_>| {
        let found = names.iter().position(|known| *known == name);
        if found.is_none() {
            let misfit = Misfit::NoSuchPool(name.to_owned());
            let expected = format!("one of {}", names.join(", "));
            report.misfit(&at, misfit, expected);
        }
        found
    };
    let common = match &settings.route {
        Some(name) => find(name, root.down("route"), report),
        None => (pools.len() == 1).then_some(0),
    };
    let mut routes = Vec::with_capacity(listeners.len());
    for (listen, at) in listeners {
        let route = match &listen.route {
            Some(own) => find(own, at.down("route"), report),
            None => common,
        };
        if route.is_none() && listen.route.is_none() && root.get("route").is_none() {
            let fault = Fault::NoRoute {
                address: listen.address.to_string(),
                pools: names.join(", "),
            };
            report.fault(at, fault);
        }
        routes.extend(route);
    }
    for (place, pool) in pools.iter().enumerate() {
        if !routes.contains(&place) {
            let at = root.down("pools").down(&pool.name);
            report.warn(&at, Part::Key, "no listener leads to this pool");
        }
    }
    routes
}
