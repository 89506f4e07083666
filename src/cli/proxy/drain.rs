//! The way to the end.

use std::time::Duration;

use ketch::admin::state::Command;
use ketch::clock;
use ketch::proxy::Drain;

use super::{Proxy, Word};

/// Of `drain_timeout`, how much clients are waited for to be quiet; in the rest
/// those that never are get closed between two requests.
const QUIET_SHARE: u32 = 4;
const SHARES: u32 = 5;

/// How often it is looked whether all clients are gone.
const TICK: Duration = Duration::from_millis(5);

impl Proxy {
    /// Takes no more clients and lets those that are there finish, within
    /// `drain_timeout` or until told again to end.
    pub(super) async fn drain(&mut self) {
        let timeout = self.settings.drain_timeout;
        self.state.set_ready(false);
        self.listeners.close().await;
        if self.settings.shares_ports() {
            // Operators are to find the next proxy there.
            self.close_admin().await;
        }
        let start = clock::now();
        let clients = self.workers.sessions();
        let drain = &self.state.shared.drain;
        drain.send_replace(Drain::Quiet);
        while self.workers.sessions() > 0 {
            let spent = clock::now().since(start);
            if spent >= timeout {
                let cut = self.workers.sessions();
                tracing::warn!(clients = cut, "drain_timeout is over: clients are cut off");
                return;
            }
            if spent >= timeout * QUIET_SHARE / SHARES {
                drain.send_if_modified(|stage| std::mem::replace(stage, Drain::All) != Drain::All);
            }
            // A cancelled wait for a word forgets none.
            tokio::select! {
                () = clock::sleep(TICK) => {}
                word = self.told.next() => match word {
                    Word::End(by) => {
                        tracing::warn!(by, "told again: ending at once");
                        return;
                    }
                    Word::Order(order) => {
                        let answer = match order.command {
                            Command::Drain => Ok("draining already".to_owned()),
                            Command::Reload => Err("draining".to_owned()),
                        };
                        // Who asked may be gone.
                        let _ = order.answer.send(answer);
                    }
                    Word::Reload | Word::File => {}
                },
            }
        }
        let spent_ms = u64::try_from(clock::now().since(start).as_millis()).unwrap_or(u64::MAX);
        tracing::info!(clients, spent_ms, "drained");
    }

    /// Serves operators no longer.
    pub(super) async fn close_admin(&mut self) {
        self.stop_admin.cancel();
        if let Some(admin) = self.admin.take() {
            // A panic has been told.
            let _ = admin.await;
        }
    }
}
