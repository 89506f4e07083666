//! Servers that answer, but so slowly that they are better left alone.
//!
//! What slow is depends on what is asked and over which network, so a server is
//! measured against the others of its pool.

use std::sync::Arc;
use std::time::Duration;

use super::failure::Failure;
use super::server::Server;
use crate::clock;
use crate::stats::HistogramSum;

/// How long requests are looked at before servers are compared.
const WINDOW: Duration = Duration::from_secs(2);

/// Fewest requests by which a server is judged.
const REQUESTS_MIN: u64 = 50;

/// Fewest servers by which one of them is judged.
const SERVERS_MIN: usize = 3;

/// The part of its requests by which a server is judged: nine of ten are faster.
const SHARE: f64 = 0.9;

/// What is fast enough whatever the others are, in microseconds.
const FAST_MICROS: u64 = 1000;

/// Compares the servers of a pool and ejects those that are slow: `times` as slow
/// as the median. Never ends; whoever spawns it aborts it.
pub async fn compare(servers: Vec<Arc<Server>>, times: u32) {
    let sums = || servers.iter().map(|server| latency(server));
    let mut before: Vec<_> = sums().collect();
    loop {
        clock::sleep(WINDOW).await;
        let now: Vec<_> = sums().collect();
        let seen = now.iter().zip(&before).map(|(now, before)| {
            let seen = now.since(before);
            let is_enough = seen.count() >= REQUESTS_MIN;
            seen.quantile(SHARE).filter(|_| is_enough)
        });
        let seen: Vec<_> = seen.collect();
        for (server, _) in servers
            .iter()
            .zip(too_slow(&seen, times))
            .filter(|(_, is_slow)| *is_slow)
        {
            server.failed(Failure::Slow, clock::now());
        }
        before = now;
    }
}

fn latency(server: &Server) -> HistogramSum {
    let mut sum = HistogramSum::default();
    server
        .stats()
        .iter()
        .for_each(|stats| sum.add(&stats.latency));
    sum
}

/// Which of these are slow against the median; in microseconds, `None` for those
/// of which too little is known.
fn too_slow(micros: &[Option<u64>], times: u32) -> Vec<bool> {
    let mut known: Vec<_> = micros.iter().flatten().copied().collect();
    known.sort_unstable();
    // The lower one of two: a slow server must not be its own measure.
    let median = known.get(known.len().saturating_sub(1) / 2).copied();
    let bound = match median {
        Some(median) if known.len() >= SERVERS_MIN => {
            median.saturating_mul(u64::from(times)).max(FAST_MICROS)
        }
        _ => u64::MAX,
    };
    let is_slow = |micros: &Option<u64>| micros.is_some_and(|micros| micros > bound);
    micros.iter().map(is_slow).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_is_what_takes_many_times_as_long_as_the_median() {
        let some = |micros: &[u64]| micros.iter().copied().map(Some).collect::<Vec<_>>();
        let slow = |micros: &[u64]| too_slow(&some(micros), 5);
        assert_eq!(slow(&[400, 500, 9000]), [false, false, true]);
        assert_eq!(
            slow(&[2000, 9000, 2000, 10_100]),
            [false, false, false, true]
        );
        // Nobody is slow where all are, or where all are fast.
        assert_eq!(slow(&[9000, 9000, 9000]), [false; 3]);
        assert_eq!(slow(&[10, 20, 900]), [false; 3]);
        // Two of which one is slow could as well be one that is fast.
        assert_eq!(slow(&[100, 90_000]), [false; 2]);
        assert_eq!(too_slow(&[Some(1), None, Some(90_000)], 2), [false; 3]);
    }
}
