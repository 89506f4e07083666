//! Where a thread works: its page while it does, its shelf for what is done.

use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::event::Kinds;
use super::hub::Hub;
use super::page::{self, Page};

/// What a thread has noted and nobody has taken yet, and what it has counted.
#[derive(Debug, Default)]
struct Held {
    page: Page,
    written: u64,
    dropped: u64,
}

/// The shelf of one thread. Its owner only adds to it; the thread that serves watchers
/// only takes.
#[derive(Debug, Default)]
pub(super) struct Shelf(Mutex<Held>);

impl Shelf {
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Exchanges what is there for an empty page.
    pub(super) fn take(&self, page: &mut Page) {
        page.clear();
        std::mem::swap(&mut self.lock().page, page);
    }

    /// Events put here, and those that did not fit.
    pub(super) fn counts(&self) -> (u64, u64) {
        let held = self.lock();
        (held.written, held.dropped)
    }

    /// Counts from nothing.
    pub(super) fn reset(&self) {
        let mut held = self.lock();
        (held.written, held.dropped) = (0, 0);
    }
}

/// Where one thread works. Belongs to that thread.
#[derive(Debug)]
pub struct Desk {
    hub: Arc<Hub>,
    shelf: Arc<Shelf>,
}

impl Desk {
    pub(super) fn new(hub: Arc<Hub>, shelf: Arc<Shelf>) -> Self {
        Self { hub, shelf }
    }

    /// Begins to note what this thread does for a client, if somebody watches; until
    /// what it returns is dropped. One at a time.
    #[inline]
    pub fn work(&self, client: u64) -> Option<Working<'_>> {
        let wanted = self.hub.wanted();
        if wanted == Kinds::NONE {
            return None;
        }
        Some(self.open(wanted, client))
    }

    #[cold]
    fn open(&self, wanted: Kinds, client: u64) -> Working<'_> {
        let taken = self.shelf.lock().page.bytes();
        let room = self.hub.settings().worker_bytes.saturating_sub(taken);
        page::open(wanted, client, room);
        Working {
            shelf: &self.shelf,
            of_thread: PhantomData,
        }
    }
}

/// A thread notes what it does.
#[derive(Debug)]
pub struct Working<'a> {
    shelf: &'a Shelf,
    /// The page is this thread's.
    of_thread: PhantomData<*const ()>,
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        page::close(|page, dropped| {
            let mut held = self.shelf.lock();
            held.written += u64::try_from(page.len()).unwrap_or(u64::MAX);
            held.dropped += dropped;
            held.page.append(page);
        });
    }
}
