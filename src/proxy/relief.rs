//! What happens when clients make a worker hold more than it may.
//!
//! Somebody has to go, and it is whoever has not moved for longest: a client that
//! takes its replies, however slowly, stands behind one that takes nothing.

use std::rc::Rc;
use std::time::Duration;

use super::stats::End;
use super::worker::Worker;
use crate::clock;
use crate::net::held;
use crate::net::memory;

/// How long to wait before looking again, if nobody could be let go.
const PAUSE: Duration = Duration::from_millis(20);

impl Worker {
    /// Lets clients go while they make this worker hold too much. Never ends.
    pub(super) async fn relieve(self: Rc<Self>) {
        loop {
            held::full().await;
            while held::is_full() {
                if !self.relieve_once() {
                    held::set_short(true);
                    clock::sleep(PAUSE).await;
                }
                // What was held is freed by those who held it.
                tokio::task::yield_now().await;
            }
            held::set_short(false);
        }
    }

    /// Cuts clients off until an eighth of what may be held is free. Says whether
    /// there were any.
    fn relieve_once(&self) -> bool {
        let goal = held::max() / 8 * 7;
        let mut holders: Vec<_> = self
            .live_sessions()
            .into_iter()
            .filter(|session| session.held() > 0)
            .collect();
        holders.sort_by_cached_key(|session| session.stands_still_since());
        let mut left = held::total();
        let mut cut_off = 0_u32;
        for session in holders {
            if left <= goal {
                break;
            }
            left = left.saturating_sub(session.held());
            session.cut_off(End::Memory);
            cut_off += 1;
        }
        if cut_off > 0 {
            // The allocator would keep what they held for others like them.
            memory::trim();
            tracing::warn!(
                clients = cut_off,
                "memory_max is reached: clients are cut off"
            );
        }
        cut_off > 0
    }
}
