//! `/servers`: every server, its state and what it has done.

use serde_json::{Map, Value, json};

use super::page::seconds;
use super::state::State;
use super::store::Look;
use crate::clock::{self, Moment};
use crate::pool::Failure;
use crate::proxy::{Member, Pool};
use crate::stats::{Counter, HistogramSum};

/// All pools with their servers.
pub fn report(state: &State) -> Value {
    let now = clock::now();
    let layout = state.shared.layout.load();
    let pools = layout.pools.iter().map(|pool| pool_report(pool, now));
    json!({ "pools": pools.collect::<Vec<_>>() })
}

fn pool_report(pool: &Pool, now: Moment) -> Value {
    let mut servers = Vec::new();
    for (primary, replicas) in pool.shards() {
        let report = |member: &Member, primary: Option<&Member>| {
            let primary = primary.map(|primary| &*primary.server.name);
            server_report(member, primary, now)
        };
        servers.push(report(primary, None));
        servers.extend(replicas.iter().map(|member| report(member, Some(primary))));
    }
    json!({ "name": pool.name, "servers": servers })
}

/// `replica_of` is the primary's name, for replicas.
fn server_report(member: &Member, replica_of: Option<&str>, now: Moment) -> Value {
    let server = &member.server;
    let standing = server.health.standing();
    let stats = server.stats();
    let sum = |counter: fn(&crate::pool::ServerStats) -> u64| -> u64 {
        stats.iter().map(|stats| counter(stats)).sum()
    };
    let mut latency = HistogramSum::default();
    stats.iter().for_each(|stats| latency.add(&stats.latency));
    let quantile = |share| latency.quantile(share).map(seconds);
    let failures: Map<String, Value> = Failure::ALL
        .into_iter()
        .map(|failure| {
            let count = stats
                .iter()
                .filter_map(|stats| stats.failures.get(failure.index()));
            let count: u64 = count.map(Counter::get).sum();
            (failure.name().to_owned(), count.into())
        })
        .collect();
    json!({
        "name": server.name,
        "address": server.place.to_string(),
        "replica_of": replica_of,
        "zone": member.zone,
        "state": standing.state.name(),
        "state_seconds": now.since(standing.since).as_secs_f64(),
        "ejected_for": standing.cause.map(Failure::name),
        "next_probe_seconds": standing.next_probe.map(|at| at.since(now).as_secs_f64()),
        "ejections": standing.ejections,
        "remapped": sum(|stats| stats.remapped.get()),
        "guest_keys": server.missed.guests(),
        "missed_keys": server.missed.len(),
        "missed_everything": server.missed.is_everything(),
        "connections": sum(|stats| stats.connected.get()),
        "connects": sum(|stats| stats.connects.get()),
        "connect_failures": sum(|stats| stats.connect_failures.get()),
        "in_flight": sum(|stats| stats.in_flight.get()),
        "requests": sum(|stats| stats.requests.get()),
        "hits": sum(|stats| stats.hits.get()),
        "misses": sum(|stats| stats.misses.get()),
        "failures": failures,
        "error_replies": sum(|stats| stats.error_replies.get()),
        "late_replies": sum(|stats| stats.late_replies.get()),
        "sent_bytes": sum(|stats| stats.bytes_sent.get()),
        "received_bytes": sum(|stats| stats.bytes_received.get()),
        "latency_seconds": {
            "p50": quantile(0.5),
            "p99": quantile(0.99),
            "p999": quantile(0.999),
        },
        "cache": Look::at_embedded(member).map(|look| json!({
            "items": look.totals.items,
            "memory_bytes": look.memory_bytes,
            "memory_bytes_max": look.memory_bytes_max,
            "evictions": look.totals.counters.evictions,
        })),
    })
}
