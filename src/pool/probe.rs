//! Asking an ejected server whether it is back, and deleting what it has missed.

use std::sync::Arc;

use super::dial::{Dialect, dial};
use super::failure::Failure;
use super::missed;
use super::server::{Place, Server};
use crate::clock;

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
    loop {
        server.health.wait_until(false).await;
        let standing = server.health.standing();
        tracing::warn!(
            server = %server.name,
            cause = standing.cause.map(Failure::name),
            "server ejected"
        );
        // Who is slow is not better a moment later.
        let is_slow = standing.cause == Some(Failure::Slow);
        let mut attempt = if is_slow { u32::MAX } else { 0 };
        loop {
            let wait = settings.probe.wait(attempt, fastrand::f64());
            server.health.probe_at(clock::now().after(wait));
            clock::sleep(wait).await;
            server.health.probing();
            let answered = match dial(address, Dialect::Text, settings.connect_timeout).await {
                Ok(mut stream) => {
                    missed::replay(&mut stream, &server.missed, settings.timeout).await
                }
                Err(failure) => Err(failure),
            };
            match answered {
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
        if !settings.ramp.is_zero() {
            // Whichever is cancelled loses nothing: the health is a state.
            tokio::select! {
                () = clock::sleep(settings.ramp) => {
                    if server.health.settle(clock::now()) {
                        tracing::info!(server = %server.name, "server is trusted again");
                    }
                }
                () = server.health.wait_until(false) => {}
            }
        }
    }
}
