//! What `ketch backend` tells operators: `/metrics` and `/healthz`.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};

use super::http::{Answer, PROMETHEUS, Site, not_allowed, plain, with_type};
use super::page::{Family, Kind, Page, families, seconds};
use super::store::{self, Look};
use crate::backend::server::{Shared, WorkerStats};
use crate::{clock, log, usage};

families! {
    BUILD_INFO Gauge "ketch_build_info" ["version"] "1, labelled with the release";
    START_TIME Gauge "process_start_time_seconds" [] "when the process started, in seconds since the Unix epoch";
    CPU Counter "process_cpu_seconds_total" [] "processor time of the process, user and system";
    RESIDENT Gauge "process_resident_memory_bytes" [] "memory of the process that is in RAM";
    FDS Gauge "process_open_fds" [] "descriptors that the process has open";
    LOG_LINES_LOST Counter "ketch_log_lines_lost_total" [] "lines of the log lost because 8192 waited for whoever reads them";
    SESSIONS Gauge "ketch_client_sessions" [] "clients connected now";
    SESSIONS_MAX Gauge "ketch_client_sessions_max" [] "most clients at a time (-c)";
    ACCEPTED Counter "ketch_client_sessions_accepted_total" [] "clients let in";
    REFUSED Counter "ketch_client_sessions_refused_total" [] "clients turned away because there were too many";
    IDLE Counter "ketch_client_sessions_idle_total" [] "clients let go because they said nothing (-o idle_timeout)";
    RECEIVED Counter "ketch_client_received_bytes_total" [] "bytes of requests taken from clients";
    SENT Counter "ketch_client_sent_bytes_total" [] "bytes of replies sent to clients";
    BAD_REQUESTS Counter "ketch_client_bad_requests_total" [] "requests answered with an error for their form";
    PAUSES Counter "ketch_client_pauses_total" [] "times that reading from a client paused because it was owed too much";
    YIELDS Counter "ketch_client_yields_total" [] "times that the requests of a client waited for those of others (-R)";
    LOGIN_FAILURES Counter "ketch_client_login_failures_total" [] "failed attempts to log in (-Y)";
    WATCHERS Gauge "ketch_watchers" [] "clients that watch";
    WATCH_EVENTS Counter "ketch_watch_events_total" [] "events noted for them";
    WATCH_EVENTS_DROPPED Counter "ketch_watch_events_dropped_total" [] "events left out because too many waited (-o worker_logbuf_size)";
    WATCH_LINES Counter "ketch_watch_lines_total" [] "lines handed to them";
    WATCH_LINES_SKIPPED Counter "ketch_watch_lines_skipped_total" [] "lines left out because too much waited for a watcher (-o watcher_logbuf_size)";
}

/// A family and where its number comes from.
type Counted<T> = (Family, fn(&T) -> u64);

/// What is counted about clients.
const OF_CLIENTS: [Counted<WorkerStats>; 8] = [
    (SESSIONS, |worker| worker.sessions.get()),
    (IDLE, |worker| worker.idle_kicks.get()),
    (RECEIVED, |worker| worker.bytes_received.get()),
    (SENT, |worker| worker.bytes_sent.get()),
    (BAD_REQUESTS, |worker| worker.bad_requests.get()),
    (PAUSES, |worker| worker.pauses.get()),
    (YIELDS, |worker| worker.yields.get()),
    (LOGIN_FAILURES, |worker| worker.login_failures.get()),
];

/// A cache that is looked at.
#[derive(Debug)]
pub struct Cache(pub Arc<Shared>);

impl Site for Cache {
    async fn answer(&self, request: &Request<Incoming>) -> Answer {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return not_allowed("GET, HEAD");
        }
        match request.uri().path() {
            "/" => plain(StatusCode::OK, "ketch backend\n\n/metrics\n/healthz\n"),
            "/metrics" => with_type(StatusCode::OK, PROMETHEUS, render(&self.0)),
            "/healthz" => plain(StatusCode::OK, "ok\n"),
            _ => plain(StatusCode::NOT_FOUND, "no such page; see /\n"),
        }
    }
}

/// The page.
fn render(shared: &Shared) -> String {
    let mut page = Page::default();
    page.family(&BUILD_INFO)
        .sample(&[env!("CARGO_PKG_VERSION")], 1);
    let age = clock::now().since(shared.started).as_secs();
    page.family(&START_TIME)
        .sample(&[], clock::unix_seconds().saturating_sub(age));
    // Where there is no /proc these are left out.
    if let Some((user, system)) = usage::cpu_micros() {
        page.family(&CPU).sample(&[], seconds(user + system));
    }
    if let Some(bytes) = usage::resident_bytes() {
        page.family(&RESIDENT).sample(&[], bytes);
    }
    if let Some(count) = usage::open_descriptors() {
        page.family(&FDS).sample(&[], count);
    }
    page.family(&LOG_LINES_LOST).sample(&[], log::lines_lost());
    let workers = shared.workers();
    for (family, counter) in OF_CLIENTS {
        let sum: u64 = workers.iter().map(|worker| counter(worker)).sum();
        page.family(&family).sample(&[], sum);
    }
    let gate = &shared.gate;
    page.family(&SESSIONS_MAX).sample(&[], gate.sessions_max());
    page.family(&ACCEPTED).sample(&[], gate.accepted());
    page.family(&REFUSED).sample(&[], gate.refused());
    let watch = shared.watch.counts();
    page.family(&WATCHERS).sample(&[], watch.watchers);
    page.family(&WATCH_EVENTS).sample(&[], watch.written);
    page.family(&WATCH_EVENTS_DROPPED)
        .sample(&[], watch.dropped);
    page.family(&WATCH_LINES).sample(&[], watch.sent);
    page.family(&WATCH_LINES_SKIPPED).sample(&[], watch.skipped);
    store::sample(&mut page, &[], &[(Vec::new(), Look::at(&shared.store))]);
    page.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::server::Settings;
    use crate::backend::{self, Store};
    use crate::net::listener::Gate;

    fn all_families() -> Vec<Family> {
        let of_store = store::families_by(&[]);
        FAMILIES.iter().copied().chain(of_store).collect()
    }

    #[test]
    fn every_family_is_on_the_page() {
        let store = Arc::new(Store::new(backend::Settings::default()));
        let gate = Arc::new(Gate::new(77));
        let shared = Shared::new(store, Settings::default(), gate, Vec::new());
        let page = render(&shared);
        for family in all_families() {
            let kind = format!("# TYPE {} {}\n", family.name, family.kind.name());
            assert_eq!(page.matches(&kind).count(), 1, "{kind}");
        }
        assert!(page.contains("ketch_client_sessions_max 77\n"));
    }

    #[test]
    fn every_family_is_documented() {
        super::super::page::check_table("backend.md", &all_families(), false);
    }
}
