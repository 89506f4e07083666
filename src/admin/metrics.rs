//! `/metrics`: every number the proxy keeps, summed over its threads.

use std::sync::atomic::{AtomicU64, Ordering};

use super::page::{Family, Kind, Page, Samples, families, seconds};
use super::reloads::Outcome;
use super::state::State;
use super::store::{self, Look};
use crate::pool::missed::{Counts, Missed};
use crate::pool::{Failure, Server, ServerStats, health};
use crate::proxy::Pool;
use crate::proxy::stats::{Command, Dialect, End, PoolCounters, PoolStats, WorkerStats};
use crate::stats::{Counter, HistogramSum};
use crate::{clock, log, usage};

families! {
    BUILD_INFO Gauge "ketch_build_info" ["version"] "1, labelled with the release";
    START_TIME Gauge "process_start_time_seconds" [] "when the process started, in seconds since the Unix epoch";
    CPU Counter "process_cpu_seconds_total" [] "processor time of the process, user and system";
    RESIDENT Gauge "process_resident_memory_bytes" [] "memory of the process that is in RAM";
    FDS Gauge "process_open_fds" [] "descriptors that the process has open";
    LOG_LINES_LOST Counter "ketch_log_lines_lost_total" [] "lines of the log lost because 8192 waited for whoever reads them";
    READY Gauge "ketch_ready" [] "1 while new clients are welcome";
    CONFIG_INFO Gauge "ketch_config_info" ["hash"] "1, labelled with the hash of the configuration in force (XXH3-64 of the file's text)";
    CONFIG_TIME Gauge "ketch_config_last_reload_success_timestamp_seconds" [] "when the configuration in force was read, in seconds since the Unix epoch";
    CONFIG_OK Gauge "ketch_config_last_reload_successful" [] "0 while the file that was read last is not in force because something is wrong with it";
    CONFIG_RELOADS Counter "ketch_config_reloads_total" ["outcome"] "times that the file was read again: applied, unchanged, or refused";
    WORKERS Gauge "ketch_workers" [] "worker threads";
    SESSIONS Gauge "ketch_client_sessions" [] "clients connected now";
    SESSIONS_MAX Gauge "ketch_client_sessions_max" [] "most clients at a time (clients.connections_max)";
    ACCEPTED Counter "ketch_client_sessions_accepted_total" [] "clients let in";
    REFUSED Counter "ketch_client_sessions_refused_total" [] "clients turned away because there were too many";
    DELAYED Counter "ketch_client_accepts_delayed_total" [] "times that letting clients in waited for its rate (clients.accept_rate)";
    ENDED Counter "ketch_client_sessions_ended_total" ["reason"] "sessions ended: by the client, for rubbish it sent, for idling, for not taking its replies, for the proxy's stop, for what it made the proxy hold (memory_max)";
    HELD Gauge "ketch_held_bytes" [] "bytes that clients and servers make the proxy hold, looked at twice a second";
    HELD_MAX Gauge "ketch_held_bytes_max" [] "most of them (memory_max)";
    CLIENT_RECEIVED Counter "ketch_client_received_bytes_total" [] "bytes of requests taken from clients";
    CLIENT_SENT Counter "ketch_client_sent_bytes_total" [] "bytes of replies sent to clients";
    BAD_REQUESTS Counter "ketch_client_bad_requests_total" [] "requests answered with an error for their form";
    PAUSES Counter "ketch_client_pauses_total" [] "times that reading from a client paused because it was owed too much";
    OVERSIZED Counter "ketch_client_multiget_oversized_total" [] "multi-key replies larger than clients.multiget_bytes_max";
    TOLD Counter "ketch_failures_told_total" [] "requests answered with SERVER_ERROR because of a server";
    MASKED Counter "ketch_failures_masked_total" [] "keys answered as misses although their server was not heard (miss_on_error)";
    UNTOLD Counter "ketch_failures_untold_total" [] "failed requests whose clients wanted no answer (noreply)";
    POOL_REQUESTS Counter "ketch_pool_requests_total" ["pool", "command", "protocol"] "requests of clients, by pool, command and what they came in: `text` (meta commands too) or `binary`";
    POOL_FAILOVERS Counter "ketch_pool_failovers_total" ["pool"] "reads that went on to another member of their shard after an error";
    POOL_REPAIRS Counter "ketch_pool_repairs_total" ["pool"] "items given to members of shards that did not hold them (read_miss)";
    POOL_CHANGES_CROSSED Counter "ketch_pool_changes_crossed_total" ["pool"] "changes of a shard's key that crossed another client's change of it on the way: replicas deleted what they held of it";
    POOL_REPAIRS_DENIED Counter "ketch_pool_repairs_denied_total" ["pool"] "repairs not begun because 1000 of the shard were under way in their worker";
    POOL_HEDGES Counter "ketch_pool_hedges_total" ["pool"] "second members asked because the first was slow (hedge)";
    POOL_HEDGES_WON Counter "ketch_pool_hedges_won_total" ["pool"] "second members that answered first";
    POOL_HEDGES_DENIED Counter "ketch_pool_hedges_denied_total" ["pool"] "second members not asked because hedge_budget was spent";
    SERVER_UP Gauge "ketch_server_up" ["pool", "server"] "1 while the server is asked, 0 while it is ejected";
    SERVER_EJECTIONS Counter "ketch_server_ejections_total" ["pool", "server"] "times that the server was ejected";
    SERVER_CHANGES Counter "ketch_server_state_changes_total" ["pool", "server", "state"] "times that the server came into a state: active, ejected, probing, returning";
    SERVER_WITHHELD Counter "ketch_server_ejections_withheld_total" ["pool", "server"] "times that the server was not ejected because too many others were (eject_max)";
    SERVER_CONNECTIONS Gauge "ketch_server_connections" ["pool", "server"] "connections to the server that are up";
    SERVER_CONNECTS Counter "ketch_server_connects_total" ["pool", "server"] "connections made to the server";
    SERVER_CONNECT_FAILURES Counter "ketch_server_connect_failures_total" ["pool", "server"] "attempts to connect to the server that failed";
    SERVER_IN_FLIGHT Gauge "ketch_server_in_flight" ["pool", "server"] "requests waiting for the server's reply";
    SERVER_REQUESTS Counter "ketch_server_requests_total" ["pool", "server"] "requests sent to the server; a multi-key retrieval counts once for each server";
    SERVER_HITS Counter "ketch_server_hits_total" ["pool", "server"] "keys retrieved and found";
    SERVER_MISSES Counter "ketch_server_misses_total" ["pool", "server"] "keys retrieved and not found";
    SERVER_FAILURES Counter "ketch_server_failures_total" ["pool", "server", "cause"] "requests the server did not answer, by cause";
    SERVER_ERRORS Counter "ketch_server_error_replies_total" ["pool", "server"] "replies of the server that are errors of its own";
    SERVER_LATE Counter "ketch_server_late_replies_total" ["pool", "server"] "replies that came after their request had timed out, and were dropped";
    SERVER_REMAPPED Counter "ketch_server_remapped_total" ["pool", "server"] "requests that another server was asked instead, which stands in for this one (on_eject)";
    SERVER_GUESTS Gauge "ketch_server_guest_keys" ["pool", "server"] "keys of other servers that the server holds because it stands in for them, or has yet to delete";
    SERVER_MISSED_KEYS Gauge "ketch_server_missed_keys" ["pool", "server"] "keys of which the server has missed changes, and which have yet to be deleted on it";
    SERVER_MISSED Counter "ketch_server_missed_total" ["pool", "server"] "failed changes whose keys were remembered, to be deleted on the server";
    SERVER_MISSED_REPLAYED Counter "ketch_server_missed_replayed_total" ["pool", "server"] "keys deleted on the server because it had missed changes of them";
    SERVER_MISSED_REPLACED Counter "ketch_server_missed_replaced_total" ["pool", "server"] "missed keys that clients have replaced before they were deleted";
    SERVER_MISSED_OVERFLOWS Counter "ketch_server_missed_overflows_total" ["pool", "server"] "failed changes beyond missed_keys_max";
    SERVER_MISSED_FLUSHES Counter "ketch_server_missed_flushes_total" ["pool", "server"] "times that the server was flushed because it had missed more than was remembered (on_return)";
    SERVER_MISSED_ABSENT Counter "ketch_server_missed_absent_total" ["pool", "server"] "keys answered for without asking the server, as if it did not hold them, because it had yet to delete them";
    SERVER_MISSED_ABANDONED Counter "ketch_server_missed_abandoned_total" ["pool", "server"] "broken connections that were no longer waited for although they may still carry changes";
    SERVER_RETRIES Counter "ketch_server_retries_total" ["pool", "server"] "requests sent once more because an idle connection ended under them (retries)";
    SERVER_RETRIES_REFUSED Counter "ketch_server_retries_refused_total" ["pool", "server"] "requests not sent once more because too many were (retries)";
    SERVER_MISSED_UNWRITTEN Gauge "ketch_server_missed_unwritten_bytes" ["pool", "server"] "records of missed keys that have yet to be written to missed_keys_dir";
    SERVER_MISSED_JOURNAL_ERRORS Counter "ketch_server_missed_journal_errors_total" ["pool", "server"] "writes to missed_keys_dir that failed";
    SERVER_SENT Counter "ketch_server_sent_bytes_total" ["pool", "server"] "bytes sent to the server";
    SERVER_RECEIVED Counter "ketch_server_received_bytes_total" ["pool", "server"] "bytes received from the server";
    SERVER_LATENCY Histogram "ketch_server_request_duration_seconds" ["pool", "server"] "time from handing a request to a connection to its reply";
    CACHE_OVERSIZED Counter "ketch_cache_oversized_total" ["pool", "server"] "retrievals of many keys cut short because their replies were larger than 64 MiB together";
}

/// The page.
pub fn render(state: &State) -> String {
    let mut page = Page::default();
    process(&mut page, state);
    config(&mut page, state);
    clients(&mut page, state);
    pools(&mut page, state);
    let mut text = page.finish();
    if let Some(events) = &state.events {
        text.push_str(&events.render());
    }
    text
}

fn process(page: &mut Page, state: &State) {
    page.family(&BUILD_INFO)
        .sample(&[env!("CARGO_PKG_VERSION")], 1);
    let age = clock::now().since(state.shared.started).as_secs();
    page.family(&START_TIME)
        .sample(&[], clock::unix_seconds().saturating_sub(age));
    // Where there is no /proc these families stay empty.
    let mut cpu = page.family(&CPU);
    if let Some((user, system)) = usage::cpu_micros() {
        cpu.sample(&[], seconds(user + system));
    }
    let mut resident = page.family(&RESIDENT);
    if let Some(bytes) = usage::resident_bytes() {
        resident.sample(&[], bytes);
    }
    let mut fds = page.family(&FDS);
    if let Some(count) = usage::open_descriptors() {
        fds.sample(&[], count);
    }
    page.family(&LOG_LINES_LOST).sample(&[], log::lines_lost());
    page.family(&READY).sample(&[], u8::from(state.is_ready()));
}

fn config(page: &mut Page, state: &State) {
    let source = state.source.load();
    let hash = format!("{:016x}", source.hash);
    page.family(&CONFIG_INFO).sample(&[&hash], 1);
    page.family(&CONFIG_TIME).sample(&[], source.read_at);
    let is_in_force = state.reloads.refusal().is_none();
    page.family(&CONFIG_OK).sample(&[], u8::from(is_in_force));
    let mut reloads = page.family(&CONFIG_RELOADS);
    for outcome in Outcome::ALL {
        reloads.sample(&[outcome.name()], state.reloads.count(outcome));
    }
}

fn clients(page: &mut Page, state: &State) {
    let workers = state.shared.worker_stats();
    let gate = &state.shared.gate;
    let sum = |counter: fn(&WorkerStats) -> u64| -> u64 {
        workers.iter().map(|worker| counter(worker)).sum()
    };
    page.family(&WORKERS).sample(&[], workers.len());
    page.family(&SESSIONS)
        .sample(&[], sum(|worker| worker.sessions.get()));
    page.family(&SESSIONS_MAX).sample(&[], gate.sessions_max());
    page.family(&ACCEPTED).sample(&[], gate.accepted());
    page.family(&REFUSED).sample(&[], gate.refused());
    page.family(&DELAYED).sample(&[], gate.delayed());
    let mut ended = page.family(&ENDED);
    for end in End::ALL {
        let count: u64 = workers
            .iter()
            .map(|worker| worker.sessions_ended(end))
            .sum();
        ended.sample(&[end.name()], count);
    }
    page.family(&HELD)
        .sample(&[], sum(|worker| worker.held.get()));
    let max = state.shared.layout.load().memory_max;
    page.family(&HELD_MAX).sample(&[], max);
    let mut count = |family: &Family, counter: fn(&WorkerStats) -> u64| {
        page.family(family).sample(&[], sum(counter));
    };
    count(&CLIENT_RECEIVED, |worker| worker.bytes_received.get());
    count(&CLIENT_SENT, |worker| worker.bytes_sent.get());
    count(&BAD_REQUESTS, |worker| worker.bad_requests.get());
    count(&PAUSES, |worker| worker.pauses.get());
    count(&OVERSIZED, |worker| worker.oversized.get());
    count(&TOLD, |worker| worker.failures_told.get());
    count(&MASKED, |worker| worker.failures_masked.get());
    count(&UNTOLD, |worker| worker.failures_untold.get());
}

fn pools(page: &mut Page, state: &State) {
    let layout = state.shared.layout.load();
    let counters = state.shared.pool_stats();
    let mut requests = page.family(&POOL_REQUESTS);
    for pool in &layout.pools {
        for command in Command::ALL {
            for dialect in Dialect::ALL {
                let of_pool = counters.iter().filter(|known| known.pool == pool.name);
                let count = |known: &PoolCounters| known.stats.requests_in(command, dialect);
                let count: u64 = of_pool.map(count).sum();
                if count > 0 {
                    requests.sample(&[&pool.name, command.name(), dialect.name()], count);
                }
            }
        }
    }
    shards(page, &layout.pools, &counters);
    servers(page, &layout.pools);
    caches(page, &layout.pools);
}

/// What embedded servers hold.
fn caches(page: &mut Page, pools: &[Pool]) {
    let members = pools
        .iter()
        .flat_map(|pool| pool.servers().map(move |member| (pool, member)));
    let looks: Vec<_> = members
        .filter_map(|(pool, member)| {
            let labels = vec![&*pool.name, &*member.server.name];
            Some((labels, Look::at_embedded(member)?))
        })
        .collect();
    let mut oversized = page.family(&CACHE_OVERSIZED);
    for (labels, look) in &looks {
        oversized.sample(labels, look.totals.counters.oversized);
    }
    store::sample(page, CACHE_OVERSIZED.labels, &looks);
}

/// What has been done for the members of shards.
fn shards(page: &mut Page, pools: &[Pool], counters: &[PoolCounters]) {
    type Count = fn(&PoolStats) -> &Counter;
    let counts: [(&Family, Count); 7] = [
        (&POOL_FAILOVERS, |stats| &stats.failovers),
        (&POOL_REPAIRS, |stats| &stats.repairs),
        (&POOL_REPAIRS_DENIED, |stats| &stats.repairs_denied),
        (&POOL_CHANGES_CROSSED, |stats| &stats.changes_crossed),
        (&POOL_HEDGES, |stats| &stats.hedges),
        (&POOL_HEDGES_WON, |stats| &stats.hedges_won),
        (&POOL_HEDGES_DENIED, |stats| &stats.hedges_denied),
    ];
    for (family, counter) in counts {
        let mut samples = page.family(family);
        let replicated = |pool: &&Pool| pool.replication.is_some();
        for pool in pools.iter().filter(replicated) {
            let of_pool = counters.iter().filter(|known| known.pool == pool.name);
            let count: u64 = of_pool.map(|known| counter(&known.stats).get()).sum();
            samples.sample(&[&pool.name], count);
        }
    }
}

/// A number among the counters of a server.
type Number = fn(&ServerStats) -> u64;

/// One server of one pool.
struct Row<'a> {
    pool: &'a str,
    server: &'a Server,
    stats: Vec<std::sync::Arc<ServerStats>>,
}

impl Row<'_> {
    fn sum(&self, counter: Number) -> u64 {
        self.stats.iter().map(|stats| counter(stats)).sum()
    }
}

fn servers(page: &mut Page, pools: &[Pool]) {
    let rows: Vec<_> = pools
        .iter()
        .flat_map(|pool| {
            pool.servers().map(|member| Row {
                pool: &pool.name,
                server: &member.server,
                stats: member.server.stats(),
            })
        })
        .collect();
    let mut each = |family: &Family, sample: &dyn Fn(&mut Samples<'_>, &Row<'_>, &[&str])| {
        let mut samples = page.family(family);
        for row in &rows {
            sample(&mut samples, row, &[row.pool, &row.server.name]);
        }
    };
    each(&SERVER_UP, &|samples, row, labels| {
        samples.sample(labels, u8::from(row.server.health.is_active()));
    });
    each(&SERVER_EJECTIONS, &|samples, row, labels| {
        samples.sample(labels, row.server.health.standing().ejections);
    });
    each(&SERVER_CHANGES, &|samples, row, _| {
        for state in health::State::ALL {
            let count = row.server.health.entered(state);
            samples.sample(&[row.pool, &row.server.name, state.name()], count);
        }
    });
    each(&SERVER_WITHHELD, &|samples, row, labels| {
        samples.sample(labels, row.server.health.withheld());
    });
    let counters: [(&Family, Number); 8] = [
        (&SERVER_CONNECTIONS, |stats| stats.connected.get()),
        (&SERVER_CONNECTS, |stats| stats.connects.get()),
        (&SERVER_CONNECT_FAILURES, |stats| {
            stats.connect_failures.get()
        }),
        (&SERVER_IN_FLIGHT, |stats| stats.in_flight.get()),
        (&SERVER_REQUESTS, |stats| stats.requests.get()),
        (&SERVER_HITS, |stats| stats.hits.get()),
        (&SERVER_MISSES, |stats| stats.misses.get()),
        (&SERVER_ERRORS, |stats| stats.error_replies.get()),
    ];
    for (family, counter) in counters {
        each(family, &|samples, row, labels| {
            samples.sample(labels, row.sum(counter))
        });
    }
    each(&SERVER_FAILURES, &|samples, row, _| {
        for failure in Failure::ALL {
            let count = row
                .stats
                .iter()
                .filter_map(|stats| stats.failures.get(failure.index()));
            let count: u64 = count.map(Counter::get).sum();
            samples.sample(&[row.pool, &row.server.name, failure.name()], count);
        }
    });
    missed(page, &rows);
    let mut each = |family: &Family, sample: &dyn Fn(&mut Samples<'_>, &Row<'_>, &[&str])| {
        let mut samples = page.family(family);
        for row in &rows {
            sample(&mut samples, row, &[row.pool, &row.server.name]);
        }
    };
    let bytes: [(&Family, Number); 6] = [
        (&SERVER_REMAPPED, |stats| stats.remapped.get()),
        (&SERVER_LATE, |stats| stats.late_replies.get()),
        (&SERVER_RETRIES, |stats| stats.retries.get()),
        (&SERVER_RETRIES_REFUSED, |stats| stats.retries_refused.get()),
        (&SERVER_SENT, |stats| stats.bytes_sent.get()),
        (&SERVER_RECEIVED, |stats| stats.bytes_received.get()),
    ];
    for (family, counter) in bytes {
        each(family, &|samples, row, labels| {
            samples.sample(labels, row.sum(counter))
        });
    }
    each(&SERVER_LATENCY, &|samples, row, labels| {
        let mut sum = HistogramSum::default();
        row.stats.iter().for_each(|stats| sum.add(&stats.latency));
        samples.histogram(labels, &sum);
    });
}

/// What servers have missed.
fn missed(page: &mut Page, rows: &[Row<'_>]) {
    type Count = fn(&Counts) -> &AtomicU64;
    type Own = fn(&Missed) -> u64;
    let mut guests = page.family(&SERVER_GUESTS);
    for row in rows {
        guests.sample(&[row.pool, &row.server.name], row.server.missed.guests());
    }
    let mut keys = page.family(&SERVER_MISSED_KEYS);
    for row in rows {
        keys.sample(&[row.pool, &row.server.name], row.server.missed.len());
    }
    let numbers: [(&Family, Own); 2] = [
        (&SERVER_MISSED_UNWRITTEN, |missed| {
            u64::try_from(missed.unwritten_bytes()).unwrap_or(u64::MAX)
        }),
        (&SERVER_MISSED_JOURNAL_ERRORS, Missed::journal_errors),
    ];
    for (family, number) in numbers {
        let mut samples = page.family(family);
        for row in rows {
            let number = number(&row.server.missed);
            samples.sample(&[row.pool, &row.server.name], number);
        }
    }
    let counters: [(&Family, Count); 7] = [
        (&SERVER_MISSED, |counts| &counts.missed),
        (&SERVER_MISSED_REPLAYED, |counts| &counts.replayed),
        (&SERVER_MISSED_REPLACED, |counts| &counts.replaced),
        (&SERVER_MISSED_OVERFLOWS, |counts| &counts.overflowed),
        (&SERVER_MISSED_FLUSHES, |counts| &counts.flushes),
        (&SERVER_MISSED_ABSENT, |counts| &counts.absent),
        (&SERVER_MISSED_ABANDONED, |counts| &counts.abandoned),
    ];
    for (family, counter) in counters {
        let mut samples = page.family(family);
        for row in rows {
            let count = counter(&row.server.missed.counts).load(Ordering::Relaxed);
            samples.sample(&[row.pool, &row.server.name], count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn all_families() -> Vec<Family> {
        let of_caches = store::families_by(CACHE_OVERSIZED.labels);
        FAMILIES.iter().copied().chain(of_caches).collect()
    }

    #[test]
    fn names_are_unique_and_follow_the_conventions() {
        let families = all_families();
        let names: HashSet<_> = families.iter().map(|family| family.name).collect();
        assert_eq!(names.len(), families.len());
        for family in families {
            let total = family.name.ends_with("_total");
            assert_eq!(total, family.kind == Kind::Counter, "{}", family.name);
            assert!(
                family
                    .name
                    .bytes()
                    .all(|byte| byte == b'_' || byte.is_ascii_lowercase())
            );
            assert!(
                !family.help.ends_with('.') && !family.help.is_empty(),
                "{}",
                family.name
            );
        }
    }

    #[test]
    fn every_family_is_documented() {
        super::super::page::check_table("operations.md", &all_families(), true);
    }
}
