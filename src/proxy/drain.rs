//! Letting clients go before the proxy ends.
//!
//! The protocol has no word for "go elsewhere": all a server can do is to close,
//! and a request that is on its way then is lost to its client. So a client is
//! closed when it has said nothing for a while, which most do many times a
//! second; only those that never pause are closed between two requests in the
//! end.

use std::rc::Rc;
use std::time::Duration;

use super::worker::Worker;
use crate::clock;

/// How long a client must have been quiet: longer than its next request is on
/// its way, within a data centre and between two of them.
const QUIET: Duration = Duration::from_millis(100);

/// How often clients are looked at meanwhile.
const TICK: Duration = Duration::from_millis(20);

/// How far the proxy is on its way to its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Drain {
    /// It serves.
    #[default]
    Not,
    /// Clients that are quiet are closed.
    Quiet,
    /// All clients are closed as soon as they have what they asked for.
    All,
}

impl Worker {
    /// Lets clients go when it is time. Never ends.
    pub(super) async fn let_go(self: Rc<Self>) {
        let mut drain = self.shared().drain.subscribe();
        loop {
            let stage = *drain.borrow_and_update();
            match stage {
                // An error means that the proxy is gone, and so is this task.
                Drain::Not => match drain.changed().await {
                    Ok(()) => continue,
                    Err(_) => return,
                },
                Drain::Quiet => {
                    let now = clock::now();
                    for session in self.live_sessions() {
                        if session.has_been_quiet(now, QUIET) {
                            session.finish();
                        }
                    }
                }
                Drain::All => {
                    self.live_sessions()
                        .iter()
                        .for_each(|session| session.finish());
                }
            }
            clock::sleep(TICK).await;
        }
    }
}
