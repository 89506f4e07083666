//! Black-box tests: real sockets on loopback, ports the system chose, and no
//! sleeping for a fixed time: what must happen is waited for, with a deadline.
//!
//! One binary, because each further one is linked again; a module per subject.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed, and the panic says where"
)]

mod backend;
mod binary;
mod bounds;
mod cli;
mod client;
mod conformance;
mod drain;
mod faults;
mod frames;
mod health;
mod ketch;
mod layers;
mod load;
mod log;
mod memccapable;
mod missed;
mod outage;
mod peer;
mod reload;
mod remap;
mod replicas;
mod retries;
mod scripted;
mod sessions;
mod soak;
mod target;
mod watch;

use std::time::Instant;

/// What the system says of a process: the first number of a line of
/// `/proc/PID/status`, for sizes in KiB.
fn status(pid: impl std::fmt::Display, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let mut words = line.unwrap().trim_start_matches(':').split_whitespace();
    words.next().unwrap().parse().unwrap()
}

/// The present, for deadlines. The only reading of the clock in these tests.
#[expect(
    clippy::disallowed_methods,
    reason = "tests wait for real sockets, and a deadline needs the real time"
)]
fn now() -> Instant {
    Instant::now()
}
