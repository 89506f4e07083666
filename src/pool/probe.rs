//! Asking an ejected server whether it is back, and deleting what it has missed.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use super::dial::{Dialect, dial, exchange};
use super::failure::Failure;
use super::missed;
use super::server::{Place, Server};
use crate::clock;
use crate::net::listener::Address;
use crate::net::stream::Stream;
use crate::protocol::reply::Shape;

/// How long a server must have served, if it does not say how long it is on
/// probation, to be probed as soon as before when it fails again.
const SERVED_MIN: Duration = Duration::from_secs(1);

/// Watches over one server for as long as it is part of the configuration.
///
/// One probe at a time, over a connection of its own: what worker threads have
/// in flight neither delays it nor passes for an answer. A server that answers
/// is told to delete what it has missed before it serves again.
pub async fn watch_over(server: Arc<Server>) {
    tokio::join!(
        bring_back(&server),
        missed::keep_up(&server),
        missed::keep(&server)
    );
}

async fn bring_back(server: &Server) {
    let Place::Remote(address) = &server.place else {
        return;
    };
    let settings = &server.settings;
    let mut attempt = 0;
    loop {
        server.health.wait_until(false).await;
        let standing = server.health.standing();
        tracing::warn!(
            server = %server.name,
            cause = standing.cause.map(Failure::name),
            "server ejected"
        );
        // Who is slow is not better a moment later.
        if standing.cause == Some(Failure::Slow) {
            attempt = u32::MAX;
        }
        let mut begun = clock::now();
        loop {
            // From the beginning of one to the beginning of the next: what a probe waits
            // for in vain does not add to how long a server is away.
            let next = begun.after(settings.probe.wait(attempt, fastrand::f64()));
            server.health.probe_at(next);
            clock::sleep_until(next).await;
            begun = clock::now();
            server.health.probing();
            match probe(server, address).await {
                Ok(()) => break,
                Err(failure) => {
                    tracing::debug!(server = %server.name, attempt, cause = failure.name(), "probe failed");
                }
            }
            attempt = attempt.saturating_add(1);
        }
        let now = clock::now();
        let away = now.since(standing.since);
        server.health.restore(now);
        tracing::info!(
            server = %server.name,
            away_ms = u64::try_from(away.as_millis()).unwrap_or(u64::MAX),
            "server is back"
        );
        attempt = if lasts(server).await {
            0
        } else {
            // It comes and goes: every time costs clients some requests.
            attempt.saturating_add(1)
        };
    }
}

/// Waits until a server that is back has served long enough to be trusted as
/// before, or is ejected again; says which.
async fn lasts(server: &Server) -> bool {
    let ramp = server.settings.ramp;
    let served = if ramp.is_zero() { SERVED_MIN } else { ramp };
    // Whichever is cancelled loses nothing: the health is a state.
    tokio::select! {
        () = clock::sleep(served) => {}
        () = server.health.wait_until(false) => return false,
    }
    if server.health.settle(clock::now()) {
        tracing::info!(server = %server.name, "server is trusted again");
    }
    true
}

/// Finds out whether the server can be used, and makes it so: it has to answer a
/// request as clients make them, and to delete what it has missed.
async fn probe(server: &Server, address: &Address) -> Result<(), Failure> {
    let settings = &server.settings;
    let mut stream = dial(address, Dialect::Text, settings.connect_timeout).await?;
    let asking = async {
        match &mut stream {
            Stream::Tcp(stream) => ask(stream).await,
            Stream::Unix(stream) => ask(stream).await,
        }
    };
    // A dropped attempt loses a connection that nobody else uses.
    let asked = clock::timeout(settings.timeout, asking).await;
    asked.unwrap_or(Err(Failure::TimedOut))?;
    missed::replay(&mut stream, &server.missed, settings.timeout).await
}

/// Asks for a key that nobody has: a server may know its version and still be
/// unable to serve. Whatever is a reply to that will do.
async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Result<(), Failure> {
    let request = format!("get ketch-probe-{:016x}\r\n", fastrand::u64(..));
    let asked = exchange(stream, request.as_bytes(), Shape::Value, 0).await;
    asked.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn asked(answer: &'static [u8]) -> Result<(), Failure> {
        let (mut ours, mut theirs) = tokio::io::duplex(64 * 1024);
        let server = async move {
            let mut request = [0; b"get ketch-probe-0123456789abcdef\r\n".len()];
            theirs.read_exact(&mut request).await.unwrap();
            assert!(request.starts_with(b"get ketch-probe-") && request.ends_with(b"\r\n"));
            theirs.write_all(answer).await.unwrap();
        };
        tokio::join!(ask(&mut ours), server).0
    }

    #[tokio::test]
    async fn whatever_answers_can_be_asked() {
        for answer in [&b"END\r\n"[..], b"SERVER_ERROR out of memory\r\n"] {
            assert_eq!(asked(answer).await, Ok(()), "{answer:?}");
        }
        for answer in [&b"STORED\r\n"[..], b"END\r\nEND\r\n", b"EN\r\n"] {
            assert_eq!(asked(answer).await, Err(Failure::Protocol), "{answer:?}");
        }
        assert_eq!(asked(b"EN").await, Err(Failure::Closed));
    }
}
