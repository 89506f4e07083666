//! The thread that takes back what has expired, and mends huge pages.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::store::Store;
use super::watch::Desk;

/// Items looked at under one lock: some ten microseconds.
const SLICE: usize = 256;

/// Slices between two pauses.
const SLICES: usize = 32;

/// A pause while there is work: at most a tenth of a core is spent, and a million
/// items are gone in seconds.
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// A pause while there is none. Times to live are whole seconds.
const IDLE_PAUSE: Duration = Duration::from_millis(250);

/// Keeps a store tidy until it is dropped.
#[derive(Debug)]
pub struct Janitor {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Janitor {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// If the system has none.
    pub fn start(store: Arc<Store>) -> io::Result<Self> {
        Self::start_at(store, None)
    }

    /// As [`Self::start`], for a store that can be watched: at the desk it notes what it
    /// evicts.
    ///
    /// # Errors
    ///
    /// As [`Self::start`].
    pub fn start_at(store: Arc<Store>, desk: Option<Desk>) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name("janitor".to_owned())
            .spawn(move || {
                while !seen.load(Ordering::Relaxed) {
                    if round(&store, desk.as_ref(), &seen) {
                        thread::park_timeout(BUSY_PAUSE);
                    } else {
                        thread::park_timeout(IDLE_PAUSE);
                        // One at a time: it takes a millisecond, in which whoever needs
                        // memory may wait.
                        store.memory().mend();
                    }
                }
            })?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            if thread.join().is_err() {
                tracing::error!("the janitor has panicked");
            }
        }
    }
}

/// Goes over all shards once, with pauses. Returns whether there was work.
fn round(store: &Store, desk: Option<&Desk>, stop: &AtomicBool) -> bool {
    let mut slices = 0;
    let mut worked = false;
    for shard in 0..store.shards() {
        while tidy(store, shard, desk) {
            worked = true;
            slices += 1;
            if slices == SLICES {
                slices = 0;
                thread::park_timeout(BUSY_PAUSE);
            }
            if stop.load(Ordering::Relaxed) {
                return false;
            }
        }
    }
    worked
}

/// Takes a slice of the work on a shard. Returns whether there may be more.
fn tidy(store: &Store, shard: usize, desk: Option<&Desk>) -> bool {
    let _working = desk.and_then(|desk| desk.work(0));
    store.tidy(shard, SLICE, store.now())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Settings;
    use crate::backend::execute;
    use crate::clock;
    use crate::protocol::request::{Request, Store as Set, StoreVerb, Wire};

    #[test]
    fn what_has_expired_goes_without_being_asked_for() {
        let store = Arc::new(Store::new(Settings::default()));
        for number in 0..10_000 {
            let key = format!("key-{number}");
            let set = Request::Store(Set {
                verb: StoreVerb::Set,
                key: key.as_bytes(),
                flags: 0,
                exptime: 100,
                cas: 0,
                noreply: true,
                value: b"value",
                wire: Wire::default(),
            });
            execute::execute(&store, &set, store.now(), &mut Vec::new());
        }
        assert_eq!(store.totals().items, 10_000);
        let _janitor = Janitor::start(Arc::clone(&store)).unwrap();
        store.advance_clock(101);
        let deadline = clock::now().after(Duration::from_secs(20));
        while store.totals().items > 0 {
            assert!(clock::now() < deadline);
            thread::yield_now();
        }
        assert_eq!(store.totals().bytes, 0);
        assert_eq!(store.totals().counters.expired_unfetched, 10_000);
    }
}
