//! Who watches, and what they want to know.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};

use super::desk::{Desk, Shelf};
use super::event::Kinds;
use super::output::{Output, Told};
use super::{page, turn};

/// Most watchers at a time, as in memcached.
pub const WATCHERS_MAX: usize = 20;

/// How much may wait for watchers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Bytes of lines that wait for one watcher (`-o watcher_logbuf_size`).
    pub watcher_bytes: usize,
    /// Bytes of events that wait on the shelf of one thread
    /// (`-o worker_logbuf_size`).
    pub worker_bytes: usize,
}

impl Default for Settings {
    /// memcached's.
    fn default() -> Self {
        Self {
            watcher_bytes: 256 << 10,
            worker_bytes: 64 << 10,
        }
    }
}

/// Why somebody cannot watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There are too many watchers.
    TooMany,
    /// The system has no thread for it.
    Failed,
}

/// What has become of events and lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events left out because the shelf of their thread was full.
    pub dropped: u64,
    /// Events noted.
    pub written: u64,
    /// Lines left out because a watcher did not read.
    pub skipped: u64,
    /// Lines handed to watchers.
    pub sent: u64,
    /// Watchers there are.
    pub watchers: usize,
}

/// One that watches.
#[derive(Clone, Copy, Debug)]
struct Seated {
    number: u64,
    kinds: Kinds,
}

/// Who watches. Locked for a few instructions at a time.
#[derive(Debug, Default)]
struct Seats {
    seated: Vec<Seated>,
    /// Those that the thread does not know yet.
    joining: Vec<Output>,
    /// The number of the last.
    last: u64,
    /// The thread that serves them, while there are any.
    thread: Option<Thread>,
}

/// The place where those who work on a cache and those who watch it meet.
#[derive(Debug, Default)]
pub struct Hub {
    /// What any of them wants to know.
    wanted: AtomicU8,
    settings: Settings,
    shelves: Mutex<Vec<Arc<Shelf>>>,
    seats: Mutex<Seats>,
    sent: AtomicU64,
    skipped: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hub {
    /// A place without watchers.
    pub fn new(settings: Settings) -> Arc<Self> {
        Arc::new(Self {
            settings,
            ..Self::default()
        })
    }

    /// How much may wait.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// A place for a thread that works on the cache.
    pub fn desk(self: &Arc<Self>) -> Desk {
        let shelf = Arc::<Shelf>::default();
        lock(&self.shelves).push(Arc::clone(&shelf));
        Desk::new(Arc::clone(self), shelf)
    }

    /// What watchers want to know.
    #[inline]
    pub(super) fn wanted(&self) -> Kinds {
        Kinds::from_bits(self.wanted.load(Ordering::Relaxed))
    }

    /// Lets somebody watch, until what it returns is dropped. Lines go to `to`, which
    /// must not block, beginning with `OK`.
    ///
    /// # Errors
    ///
    /// [`Refused`] if there are too many, or no thread for it.
    pub fn join(
        self: &Arc<Self>,
        kinds: Kinds,
        to: Box<dyn Write + Send>,
    ) -> Result<Seat, Refused> {
        let mut seats = lock(&self.seats);
        if seats.seated.len() >= WATCHERS_MAX {
            return Err(Refused::TooMany);
        }
        match &seats.thread {
            Some(thread) => thread.unpark(),
            None => seats.thread = Some(self.start().map_err(|_| Refused::Failed)?),
        }
        seats.last += 1;
        let number = seats.last;
        let after = page::next_gid();
        let bytes_max = self.settings.watcher_bytes;
        let output = Output::new(number, kinds, after, bytes_max, to);
        seats.joining.push(output);
        seats.seated.push(Seated { number, kinds });
        self.set_wanted(&seats);
        Ok(Seat {
            hub: Arc::clone(self),
            number,
        })
    }

    fn start(self: &Arc<Self>) -> io::Result<Thread> {
        let hub = Arc::clone(self);
        let named = thread::Builder::new().name("watchers".to_owned());
        let handle = named.spawn(move || turn::run(&hub))?;
        Ok(handle.thread().clone())
    }

    fn set_wanted(&self, seats: &Seats) {
        let seated = seats.seated.iter();
        let wanted = seated.fold(Kinds::NONE, |wanted, seated| wanted | seated.kinds);
        self.wanted.store(wanted.bits(), Ordering::Relaxed);
    }

    /// Frees a seat.
    pub(super) fn leave(&self, number: u64) {
        let mut seats = lock(&self.seats);
        seats.seated.retain(|seated| seated.number != number);
        self.set_wanted(&seats);
    }

    /// Brings what the thread knows of watchers up to date. Returns whether there are
    /// any; if not the thread is to end, and what is left on the shelves goes.
    pub(super) fn renew(&self, outputs: &mut Vec<Output>) -> bool {
        let mut seats = lock(&self.seats);
        outputs.append(&mut seats.joining);
        outputs.retain(|output| {
            let mut seated = seats.seated.iter();
            seated.any(|seated| seated.number == output.number)
        });
        if seats.seated.is_empty() {
            seats.thread = None;
            for shelf in self.shelves() {
                shelf.take(&mut page::Page::default());
            }
        }
        !seats.seated.is_empty()
    }

    pub(super) fn shelves(&self) -> Vec<Arc<Shelf>> {
        lock(&self.shelves).clone()
    }

    pub(super) fn count(&self, told: Told) {
        self.sent.fetch_add(told.sent, Ordering::Relaxed);
        self.skipped.fetch_add(told.skipped, Ordering::Relaxed);
    }

    /// What has become of events and lines since this was last reset.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts {
            watchers: lock(&self.seats).seated.len(),
            sent: self.sent.load(Ordering::Relaxed),
            skipped: self.skipped.load(Ordering::Relaxed),
            ..Counts::default()
        };
        for shelf in self.shelves() {
            let (written, dropped) = shelf.counts();
            counts.written += written;
            counts.dropped += dropped;
        }
        counts
    }

    /// Counts events and lines from nothing.
    pub fn reset_counts(&self) {
        self.sent.store(0, Ordering::Relaxed);
        self.skipped.store(0, Ordering::Relaxed);
        self.shelves().iter().for_each(|shelf| shelf.reset());
    }
}

/// The place of one that watches; free when dropped.
#[derive(Debug)]
pub struct Seat {
    hub: Arc<Hub>,
    number: u64,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.hub.leave(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nowhere() -> Box<dyn Write + Send> {
        Box::new(io::sink())
    }

    #[test]
    fn only_what_somebody_wants_is_noted() {
        let hub = Hub::new(Settings::default());
        let desk = hub.desk();
        assert!(desk.work(1).is_none());
        let one = hub.join(Kinds::FETCHERS, nowhere()).unwrap();
        let other = hub.join(Kinds::EVICTIONS, nowhere()).unwrap();
        assert_eq!(hub.wanted(), Kinds::FETCHERS | Kinds::EVICTIONS);
        assert!(desk.work(1).is_some());
        drop(one);
        assert_eq!(hub.wanted(), Kinds::EVICTIONS);
        assert_eq!(hub.counts().watchers, 1);
        drop(other);
        assert!(desk.work(1).is_none());
    }

    #[test]
    fn seats_are_bounded_and_free_again() {
        let hub = Hub::new(Settings::default());
        let join = || hub.join(Kinds::NONE, nowhere());
        let mut seats: Vec<Seat> = (0..WATCHERS_MAX).map(|_| join().unwrap()).collect();
        assert_eq!(join().unwrap_err(), Refused::TooMany);
        seats.pop();
        assert!(join().is_ok());
    }
}
