//! `stats settings`: how the server was started.

use std::sync::atomic::Ordering;

use super::{Report, yes};
use crate::backend::server::shared::Shared;

pub(super) fn report(shared: &Shared) -> String {
    let settings = &shared.settings;
    let told = &settings.told;
    let store = shared.store.settings();
    let mut report = Report::default();
    report.line("maxbytes", shared.store.memory_bytes_max());
    report.line("maxconns", shared.gate.sessions_max());
    report.line("tcpport", told.tcp_port);
    report.line("udpport", told.udp_port);
    report.line("inter", told.interface.as_deref().unwrap_or("NULL"));
    report.line("verbosity", shared.verbosity.load(Ordering::Relaxed));
    report.line("oldest", 0);
    report.line("evictions", if store.evicts { "on" } else { "off" });
    report.line("domain_socket", told.socket.as_deref().unwrap_or("NULL"));
    report.line("umask", format!("{:o}", told.socket_mode));
    report.line("shutdown_command", yes(settings.shutdown));
    report.line("growth_factor", format!("{:.2}", told.growth_factor));
    report.line("chunk_size", told.chunk_bytes);
    report.line("num_threads", settings.threads);
    report.line("num_threads_per_udp", 0);
    report.line("stat_key_prefix", char::from(settings.prefix_delimiter));
    report.line("detail_enabled", yes(shared.detail.is_enabled()));
    report.line("reqs_per_event", settings.requests_per_turn);
    report.line("cas_enabled", yes(store.cas));
    report.line("tcp_backlog", told.backlog);
    report.line("binding_protocol", settings.dialect.name());
    report.line("auth_enabled_sasl", "no");
    report.line("auth_enabled_ascii", yes(settings.users.is_some()));
    report.line("item_size_max", store.item_bytes_max);
    report.line("maxconns_fast", "yes");
    report.line("hashpower_init", 0);
    report.line("slab_reassign", "no");
    report.line("slab_automove", 0);
    report.line("slab_automove_ratio", "0.00");
    report.line("slab_automove_window", 0);
    report.line("slab_chunk_max", 0);
    report.line("lru_crawler", yes(told.crawls));
    report.line("lru_crawler_sleep", 0);
    report.line("lru_crawler_tocrawl", 0);
    report.line("tail_repair_time", 0);
    report.line("flush_enabled", yes(settings.flush));
    report.line("dump_enabled", yes(settings.dump));
    report.line("hash_algorithm", "xxh3");
    report.line("lru_maintainer_thread", yes(told.maintains));
    report.line("lru_segmented", yes(told.maintains));
    // What `stats items` tells as hot are the young, as warm the others.
    report.line("hot_lru_pct", 10);
    report.line("warm_lru_pct", 90);
    report.line("hot_max_factor", "0.00");
    report.line("warm_max_factor", "0.00");
    report.line("temp_lru", "no");
    report.line("temporary_ttl", 0);
    report.line("idle_timeout", settings.idle_timeout.as_secs());
    let room = &settings.watch_room;
    report.line("watcher_logbuf_size", room.watcher_bytes);
    report.line("worker_logbuf_size", room.worker_bytes);
    report.line("read_buf_mem_limit", 0);
    report.line("track_sizes", yes(told.tracks_sizes));
    report.line("inline_ascii_response", "no");
    report.line("slab_automove_freeratio", "0.000");
    report.line("num_napi_ids", 0);
    report.line("memory_file", "(null)");
    report.line("client_flags_size", size_of::<u32>());
    report.finish()
}
