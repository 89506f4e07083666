//! Requests that the proxy answers itself.

use std::fmt::{Display, Write as _};
use std::rc::Rc;

use super::dispatch::Target;
use super::layout::Pool;
use super::session::{Reading, Session, token};
use super::slots::{Gather, Slot};
use super::stats::{Command, End, PoolCounters, WorkerStats};
use super::worker::{Embedded, Link};
use crate::clock;
use crate::pool::{Ask, Asker, ServerStats};
use crate::protocol::Error;
use crate::protocol::number::read_u32;
use crate::protocol::reply::Shape;
use crate::protocol::request::{Admin, AdminVerb, Request, Wire, Words, flush_delay};
use crate::stats::Counter;

/// The release of memcached whose dialects the proxy speaks, followed by its own
/// name and release: clients that compare versions look at the first part.
pub const VERSION: &str = concat!("1.6.45-ketch-", env!("CARGO_PKG_VERSION"));

/// What a client is told that may not flush.
pub(super) const FLUSH_REFUSED: &str = "flush_all is not allowed here (flush_all: false)";

impl Session {
    pub(super) fn administer(
        self: &Rc<Self>,
        admin: &Admin<'_>,
        target: Target<'_>,
        reading: &Reading<'_>,
    ) {
        match *admin {
            Admin::Noop => self.answer(b"MN\r\n"),
            Admin::Version => self.answer(format!("VERSION {VERSION}\r\n").as_bytes()),
            Admin::Quit => self.end(End::Client),
            Admin::Stats { args } => self.report(args, reading),
            Admin::Other {
                verb,
                args,
                noreply,
            } => {
                let text = match verb {
                    AdminVerb::FlushAll => {
                        return self.flush_all(args, noreply, target, reading);
                    }
                    AdminVerb::Verbosity => match Words::new(args).next().and_then(read_u32) {
                        // What the proxy logs is not for its clients to say.
                        Some(_) => "OK",
                        None => "CLIENT_ERROR bad command line format",
                    },
                    AdminVerb::Shutdown => "SERVER_ERROR: shutdown not enabled",
                    AdminVerb::CacheMemlimit
                    | AdminVerb::Lru
                    | AdminVerb::LruCrawler
                    | AdminVerb::Slabs
                    | AdminVerb::Watch => "SERVER_ERROR not available through the proxy",
                };
                if !noreply {
                    self.answer(format!("{text}\r\n").as_bytes());
                }
            }
        }
    }
}

/// Flushing.
impl Session {
    /// Tells every server of the listener's pool to drop everything, if the
    /// configuration lets clients do that.
    fn flush_all(
        self: &Rc<Self>,
        args: &[u8],
        noreply: bool,
        target: Target<'_>,
        reading: &Reading<'_>,
    ) {
        target.view.stats.asked(Command::FlushAll);
        let delay = match flush_delay(args, noreply) {
            Ok(delay) => delay.unwrap_or(0),
            Err(error) => return self.answer_unless(noreply, &error.to_string()),
        };
        if !reading.entry.flush_all {
            return self.answer_unless(noreply, &format!("SERVER_ERROR {FLUSH_REFUSED}"));
        }
        let args = delay.to_string();
        let line = format!("flush_all {args}\r\n");
        let wire = Wire::unchanged(line.as_bytes());
        let mut slots = self.slots.borrow_mut();
        let number = slots.push(Slot::Gathering(Box::new(Gather {
            pending: 0,
            answer: b"OK\r\n".to_vec(),
            failed: false,
            quiet: noreply,
            binary: None,
        })));
        let mut asked = 0;
        let mut refused = None;
        for link in &target.view.servers {
            match link {
                Link::Remote(connections) => {
                    let Some(connection) = self.pick(connections) else {
                        continue;
                    };
                    let ask = Ask {
                        wire,
                        owner: None,
                        shape: Shape::Ok,
                        expected: 0,
                        changes: b"",
                    };
                    let asker: Rc<dyn Asker> = Rc::<Self>::clone(self);
                    match connection.ask(ask, asker, token(number, 0), reading.now) {
                        Ok(()) => asked += 1,
                        Err(failure) => {
                            let server = &connection.server().name;
                            refused = Some(format!("SERVER_ERROR {server} {failure}\r\n"));
                        }
                    }
                }
                Link::Embedded(cache) => serve_flush(cache, delay),
                // Its members are among the servers.
                Link::Shard(_) => {}
            }
        }
        if let Some(Slot::Gathering(gather)) = slots.get_mut(number) {
            // One more for what was decided here and now.
            gather.pending = asked + 1;
            gather.answered(refused.map(String::into_bytes));
        }
        slots.send_ready(&self.outbox);
    }

    fn answer_unless(&self, noreply: bool, text: &str) {
        if !noreply {
            self.answer(format!("{text}\r\n").as_bytes());
        }
    }
}

/// Has a cache in this process drop everything after `delay` seconds.
pub(super) fn serve_flush(cache: &Embedded, delay: impl Display) {
    let args = delay.to_string();
    let request = Request::Admin(Admin::Other {
        verb: AdminVerb::FlushAll,
        args: args.as_bytes(),
        noreply: false,
    });
    cache.serve(&request, &mut Vec::new());
}

/// A report, or why there is none.
pub(super) enum Reported {
    /// Lines of `STAT name value`, then `END`.
    Lines(String),
    /// It is not for clients to ask.
    Refused(&'static str),
    /// There is no report of this name.
    Unknown,
}

/// Reports.
impl Session {
    /// Answers `stats`: about the proxy, its pools or its servers. What memcached
    /// reports of its store has no meaning here and is empty.
    fn report(&self, args: &[u8], reading: &Reading<'_>) {
        match self.report_on(args, reading) {
            Reported::Lines(report) => self.answer(report.as_bytes()),
            Reported::Refused(text) => self.answer(format!("SERVER_ERROR {text}\r\n").as_bytes()),
            Reported::Unknown => self.answer(format!("{}\r\n", Error::UnknownCommand).as_bytes()),
        }
    }

    /// The report that `args` ask for.
    pub(super) fn report_on(&self, args: &[u8], reading: &Reading<'_>) -> Reported {
        let mut report = Report::default();
        match Words::new(args).next() {
            None => self.report_general(&mut report, reading),
            Some(b"pools") => self.report_pools(&mut report, reading),
            Some(b"servers") => report_servers(&mut report, reading),
            Some(b"items" | b"slabs" | b"sizes" | b"settings" | b"conns") => {}
            Some(b"reset") => {
                return Reported::Refused("counters of the proxy are not reset");
            }
            Some(_) => return Reported::Unknown,
        }
        Reported::Lines(report.finish())
    }

    fn report_general(&self, report: &mut Report, reading: &Reading<'_>) {
        let shared = self.worker.shared();
        let workers = shared.worker_stats();
        let servers = ServerSums::over(reading.view.layout.pools.iter());
        let asked = |commands: &[Command]| -> u64 {
            let pools = shared.pool_stats();
            let of_pool = |pool: &PoolCounters| -> u64 {
                commands
                    .iter()
                    .map(|&command| pool.stats.requests(command))
                    .sum()
            };
            pools.iter().map(of_pool).sum()
        };
        let sum = |counter: fn(&WorkerStats) -> u64| -> u64 {
            workers.iter().map(|worker| counter(worker)).sum()
        };
        report.line("pid", std::process::id());
        report.line("uptime", reading.now.since(shared.started).as_secs());
        report.line("time", clock::unix_seconds());
        report.line("version", VERSION);
        report.line("pointer_size", usize::BITS);
        report.line("max_connections", shared.gate.sessions_max());
        report.line("curr_connections", sum(|worker| worker.sessions.get()));
        report.line("total_connections", shared.gate.accepted());
        report.line("rejected_connections", shared.gate.refused());
        report.line("threads", workers.len());
        report.line(
            "cmd_get",
            asked(&[Command::Get, Command::Gets, Command::Mg]),
        );
        report.line(
            "cmd_set",
            asked(&[
                Command::Set,
                Command::Add,
                Command::Replace,
                Command::Append,
                Command::Prepend,
                Command::Cas,
                Command::Ms,
            ]),
        );
        report.line(
            "cmd_touch",
            asked(&[Command::Touch, Command::Gat, Command::Gats]),
        );
        report.line("cmd_flush", asked(&[Command::FlushAll]));
        report.line("get_hits", servers.hits);
        report.line("get_misses", servers.misses);
        report.line("bytes_read", sum(|worker| worker.bytes_received.get()));
        report.line("bytes_written", sum(|worker| worker.bytes_sent.get()));
        report.line("bad_requests", sum(|worker| worker.bad_requests.get()));
        report.line("failures_told", sum(|worker| worker.failures_told.get()));
        report.line(
            "failures_masked",
            sum(|worker| worker.failures_masked.get()),
        );
        report.line(
            "failures_untold",
            sum(|worker| worker.failures_untold.get()),
        );
        report.line("client_pauses", sum(|worker| worker.pauses.get()));
        report.line("server_requests", servers.requests);
        report.line("server_failures", servers.failures);
        report.line("server_in_flight", servers.in_flight);
    }

    fn report_pools(&self, report: &mut Report, reading: &Reading<'_>) {
        let counters = self.worker.shared().pool_stats();
        for pool in &reading.view.layout.pools {
            let name = &pool.name;
            let sums = ServerSums::over(std::iter::once(pool));
            let active = pool.servers();
            let active = active
                .filter(|member| member.server.health.is_active())
                .count();
            report.line(&format!("{name}:servers"), pool.servers().count());
            report.line(&format!("{name}:servers_active"), active);
            for command in Command::ALL {
                let mine = counters.iter().filter(|known| known.pool == *name);
                let count: u64 = mine.map(|known| known.stats.requests(command)).sum();
                if count > 0 {
                    report.line(&format!("{name}:cmd_{}", command.name()), count);
                }
            }
            sums.report(report, name);
        }
    }
}

fn report_servers(report: &mut Report, reading: &Reading<'_>) {
    for pool in &reading.view.layout.pools {
        for member in pool.servers() {
            let server = &member.server;
            let name = format!("{}:{}", pool.name, server.name);
            let standing = server.health.standing();
            let since = reading.now.since(standing.since).as_secs();
            report.line(&format!("{name}:state"), standing.state.name());
            report.line(&format!("{name}:state_seconds"), since);
            if let Some(cause) = standing.cause {
                report.line(&format!("{name}:ejected_for"), cause.name());
            }
            if let Some(at) = standing.next_probe {
                let wait = at.since(reading.now).as_millis();
                report.line(&format!("{name}:next_probe_ms"), wait);
            }
            report.line(&format!("{name}:ejections"), standing.ejections);
            let mut sums = ServerSums::default();
            server.stats().iter().for_each(|stats| sums.add(stats));
            sums.report(report, &name);
        }
    }
}

/// Counters of servers, summed.
#[derive(Debug, Default)]
struct ServerSums {
    requests: u64,
    hits: u64,
    misses: u64,
    failures: u64,
    error_replies: u64,
    in_flight: u64,
    connected: u64,
    bytes_sent: u64,
    bytes_received: u64,
}

impl ServerSums {
    fn over<'a>(pools: impl Iterator<Item = &'a Pool>) -> Self {
        let mut sums = Self::default();
        for member in pools.flat_map(Pool::servers) {
            member
                .server
                .stats()
                .iter()
                .for_each(|stats| sums.add(stats));
        }
        sums
    }

    fn add(&mut self, stats: &ServerStats) {
        self.requests += stats.requests.get();
        self.hits += stats.hits.get();
        self.misses += stats.misses.get();
        self.failures += stats.failures.iter().map(Counter::get).sum::<u64>();
        self.error_replies += stats.error_replies.get();
        self.in_flight += stats.in_flight.get();
        self.connected += stats.connected.get();
        self.bytes_sent += stats.bytes_sent.get();
        self.bytes_received += stats.bytes_received.get();
    }

    fn report(&self, report: &mut Report, name: &str) {
        report.line(&format!("{name}:requests"), self.requests);
        report.line(&format!("{name}:hits"), self.hits);
        report.line(&format!("{name}:misses"), self.misses);
        report.line(&format!("{name}:failures"), self.failures);
        report.line(&format!("{name}:error_replies"), self.error_replies);
        report.line(&format!("{name}:in_flight"), self.in_flight);
        report.line(&format!("{name}:connections"), self.connected);
        report.line(&format!("{name}:bytes_sent"), self.bytes_sent);
        report.line(&format!("{name}:bytes_received"), self.bytes_received);
    }
}

/// Lines of `STAT name value`.
#[derive(Debug, Default)]
struct Report(String);

impl Report {
    fn line(&mut self, name: &str, value: impl Display) {
        // Names of pools and servers may hold blanks; a reader splits at them.
        let name = name.replace(' ', "_");
        // Writing to a string cannot fail.
        let _ = write!(self.0, "STAT {name} {value}\r\n");
    }

    fn finish(mut self) -> String {
        self.0.push_str("END\r\n");
        self.0
    }
}
