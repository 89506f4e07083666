//! `stats`: the counters.

use std::process;
use std::sync::atomic::Ordering;

use super::Report;
use crate::backend::execute::VERSION;
use crate::backend::server::shared::Shared;
use crate::{clock, usage};

/// Counters of memcached's allocator, which moves pages between slabs.
const SLABS: [&str; 6] = [
    "slab_reassign_rescues",
    "slab_reassign_chunk_rescues",
    "slab_reassign_inline_reclaim",
    "slab_reassign_busy_items",
    "slab_reassign_busy_deletes",
    "slab_reassign_busy_nomem",
];

pub(super) fn report(shared: &Shared, now: u32) -> String {
    let mut report = Report::default();
    process(&mut report, shared, now);
    connections(&mut report, shared);
    commands(&mut report, shared);
    memory(&mut report, shared);
    report.finish()
}

fn process(report: &mut Report, shared: &Shared, now: u32) {
    report.line("pid", process::id());
    report.line("uptime", clock::now().since(shared.started).as_secs());
    report.line("time", now);
    report.line("version", VERSION);
    report.line("libevent", "none");
    report.line("pointer_size", usize::BITS);
    let (user, system) = usage::cpu_micros().unwrap_or_default();
    for (name, micros) in [("rusage_user", user), ("rusage_system", system)] {
        let seconds = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
        report.line(name, seconds);
    }
}

fn connections(report: &mut Report, shared: &Shared) {
    let gate = &shared.gate;
    let workers = shared.workers();
    let sessions: u64 = workers.iter().map(|worker| worker.sessions.get()).sum();
    let clients = shared.clients();
    report.line("max_connections", gate.sessions_max());
    report.line("curr_connections", sessions);
    report.line("total_connections", clients.accepted);
    report.line("rejected_connections", clients.refused);
    report.line("connection_structures", sessions);
    report.zeros(&[
        "response_obj_oom",
        "response_obj_count",
        "response_obj_bytes",
        "read_buf_count",
        "read_buf_bytes",
        "read_buf_bytes_free",
        "read_buf_oom",
        "reserved_fds",
    ]);
}

fn commands(report: &mut Report, shared: &Shared) {
    let counters = shared.store.totals().counters;
    report.line("cmd_get", counters.gets);
    report.line("cmd_set", counters.sets);
    report.line("cmd_flush", shared.flushes.load(Ordering::Relaxed));
    report.line("cmd_touch", counters.touches);
    report.line("cmd_meta", counters.meta_debugs);
    report.line("get_hits", counters.get_hits);
    report.line("get_misses", counters.get_misses);
    report.line("get_expired", counters.get_expired);
    report.line("get_flushed", counters.get_flushed);
    report.line("delete_misses", counters.delete_misses);
    report.line("delete_hits", counters.delete_hits);
    report.line("incr_misses", counters.incr_misses);
    report.line("incr_hits", counters.incr_hits);
    report.line("decr_misses", counters.decr_misses);
    report.line("decr_hits", counters.decr_hits);
    report.line("cas_misses", counters.cas_misses);
    report.line("cas_hits", counters.cas_hits);
    report.line("cas_badval", counters.cas_badval);
    report.line("touch_hits", counters.touch_hits);
    report.line("touch_misses", counters.touch_misses);
    report.line("store_too_large", counters.too_large);
    report.line("store_no_memory", counters.no_memory);
    let clients = shared.clients();
    report.line("auth_cmds", clients.logins);
    report.line("auth_errors", clients.login_failures);
    if !shared.settings.idle_timeout.is_zero() {
        report.line("idle_kicks", clients.idle_kicks);
    }
    report.line("bytes_read", clients.bytes_received);
    report.line("bytes_written", clients.bytes_sent);
}

fn memory(report: &mut Report, shared: &Shared) {
    let totals = shared.store.totals();
    let counters = totals.counters;
    let told = &shared.settings.told;
    report.line("limit_maxbytes", shared.store.memory_bytes_max());
    report.line("accepting_conns", 1);
    report.zeros(&["listen_disabled_num", "time_in_listen_disabled_us"]);
    report.line("threads", shared.settings.threads);
    report.line("conn_yields", shared.clients().yields);
    let slots = (totals.index_bytes / size_of::<u64>()).max(1);
    report.line("hash_power_level", slots.ilog2());
    report.line("hash_bytes", totals.index_bytes);
    report.line("hash_is_expanding", 0);
    report.zeros(&SLABS);
    report.line("slab_reassign_last_busy_status", "none");
    report.zeros(&["slab_reassign_running", "slabs_moved"]);
    if told.crawls {
        report.zeros(&["lru_crawler_running", "lru_crawler_starts"]);
    }
    if told.maintains {
        report.line("lru_maintainer_juggles", 0);
    }
    report.line("malloc_fails", 0);
    let watch = shared.watch.counts();
    report.line("log_worker_dropped", watch.dropped);
    report.line("log_worker_written", watch.written);
    report.line("log_watcher_skipped", watch.skipped);
    report.line("log_watcher_sent", watch.sent);
    report.line("log_watchers", watch.watchers);
    report.zeros(&["unexpected_napi_ids", "round_robin_fallback"]);
    report.line("bytes", totals.bytes);
    report.line("curr_items", totals.items);
    report.line("total_items", counters.total_items);
    report.line("slab_global_page_pool", 0);
    report.line("expired_unfetched", counters.expired_unfetched);
    report.line("evicted_unfetched", counters.evicted_unfetched);
    if told.maintains {
        report.line("evicted_active", counters.evicted_active);
    }
    report.line("evictions", counters.evictions);
    report.line("reclaimed", counters.reclaimed);
    report.line("crawler_reclaimed", counters.swept);
    report.line("crawler_items_checked", counters.swept_over);
    report.line("lrutail_reflocked", 0);
    if told.maintains {
        report.line("moves_to_cold", 0);
        report.line("moves_to_warm", counters.promoted);
        report.line("moves_within_lru", counters.spared);
        report.zeros(&["direct_reclaims", "lru_bumps_dropped"]);
    }
}
