//! What a thread has noted and not yet put on its shelf.
//!
//! A page belongs to the thread that writes it: noting takes no lock, and may be done
//! under that of a shard. It is opened for a batch of requests ([`open`]) if somebody
//! watches, and closed behind it ([`close`]); in between it takes no more than there
//! was room for on the shelf.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU64, Ordering};

use super::event::{Event, Kinds};
use crate::clock;

/// The number of the last event, over all threads.
static GID: AtomicU64 = AtomicU64::new(0);

/// The next number of an event.
pub(super) fn next_gid() -> u64 {
    GID.fetch_add(1, Ordering::Relaxed) + 1
}

/// An event, and when and for whom it happened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record {
    /// Its number: events have happened in the order of their numbers.
    pub(super) gid: u64,
    /// Microseconds since the Unix epoch.
    pub(super) micros: u64,
    /// The number of the client.
    pub(super) client: u64,
    pub(super) event: Event,
    /// Where what it is about ends in the text of the page.
    end: usize,
}

impl Record {
    /// One that was never noted.
    #[cfg(test)]
    pub(super) fn of_test(gid: u64, micros: u64, client: u64, event: Event) -> Self {
        let end = 0;
        Self {
            gid,
            micros,
            client,
            event,
            end,
        }
    }
}

/// Events, in the order of their numbers.
#[derive(Debug, Default)]
pub(super) struct Page {
    records: Vec<Record>,
    text: Vec<u8>,
}

impl Page {
    const fn new() -> Self {
        Self {
            records: Vec::new(),
            text: Vec::new(),
        }
    }

    /// What an event takes up that is about so many bytes.
    pub(super) const fn cost(about: usize) -> usize {
        size_of::<Record>() + about
    }

    /// What all of them take up.
    pub(super) fn bytes(&self) -> usize {
        self.records.len() * size_of::<Record>() + self.text.len()
    }

    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    fn push(&mut self, event: Event, client: u64, about: &[u8]) {
        self.text.extend_from_slice(about);
        self.records.push(Record {
            gid: next_gid(),
            micros: clock::unix_micros(),
            client,
            event,
            end: self.text.len(),
        });
    }

    /// Forgets all but the first `count`.
    fn truncate(&mut self, count: usize) {
        self.records.truncate(count);
        let end = self.records.last().map_or(0, |record| record.end);
        self.text.truncate(end);
    }

    pub(super) fn clear(&mut self) {
        self.records.clear();
        self.text.clear();
    }

    /// Takes what is on another page behind what is on this one.
    pub(super) fn append(&mut self, other: &mut Self) {
        if self.is_empty() {
            std::mem::swap(self, other);
        } else {
            let before = self.text.len();
            self.text.extend_from_slice(&other.text);
            self.records
                .extend(other.records.iter().map(|record| Record {
                    end: before + record.end,
                    ..*record
                }));
        }
        other.clear();
    }

    /// The event with that place, and what it is about.
    pub(super) fn get(&self, place: usize) -> Option<(&Record, &[u8])> {
        let record = self.records.get(place)?;
        let before = place
            .checked_sub(1)
            .and_then(|place| self.records.get(place));
        let start = before.map_or(0, |before| before.end);
        Some((record, self.text.get(start..record.end)?))
    }

    /// The numbers of its events.
    pub(super) fn gids(&self) -> impl Iterator<Item = u64> + '_ {
        self.records.iter().map(|record| record.gid)
    }
}

/// The page of a thread while a batch is under way.
struct Open {
    page: Page,
    /// Bytes there may be on it.
    room: usize,
    /// Whose batch it is.
    client: u64,
    /// Events that did not fit.
    dropped: u64,
}

thread_local! {
    /// What watchers want to know, while a page is open.
    static WANTED: Cell<Kinds> = const { Cell::new(Kinds::NONE) };

    static OPEN: RefCell<Open> = const {
        RefCell::new(Open { page: Page::new(), room: 0, client: 0, dropped: 0 })
    };
}

/// Opens this thread's page for what is done for a client.
pub(super) fn open(wanted: Kinds, client: u64, room: usize) {
    OPEN.with_borrow_mut(|open| (open.client, open.room, open.dropped) = (client, room, 0));
    WANTED.set(wanted);
}

/// Closes this thread's page: hands it to `take`, with the number of events that did
/// not fit on it.
pub(super) fn close(take: impl FnOnce(&mut Page, u64)) {
    WANTED.set(Kinds::NONE);
    OPEN.with_borrow_mut(|open| {
        take(&mut open.page, open.dropped);
        open.page.clear();
    });
}

/// Gives back the memory of this thread's page.
pub fn release() {
    OPEN.with_borrow_mut(|open| {
        if open.page.is_empty() {
            open.page = Page::default();
        }
    });
}

/// Whether somebody wants to know of such events in what this thread is doing.
#[inline]
pub fn wants(kinds: Kinds) -> bool {
    WANTED.get().meet(kinds)
}

/// Notes an event about a key or an address, if somebody wants to know.
#[inline]
pub fn note(event: Event, about: &[u8]) {
    if wants(event.kind()) {
        write(event, about);
    }
}

/// As [`note`], for an event that costs something to tell.
#[inline]
pub fn note_with(kinds: Kinds, about: &[u8], event: impl FnOnce() -> Event) {
    if wants(kinds) {
        write(event(), about);
    }
}

#[cold]
fn write(event: Event, about: &[u8]) {
    OPEN.with_borrow_mut(|open| {
        if open.page.bytes() + Page::cost(about.len()) > open.room {
            open.dropped += 1;
        } else {
            open.page.push(event, open.client, about);
        }
    });
}

/// How much had been noted.
#[derive(Clone, Copy, Debug)]
pub struct Mark(usize);

/// How much has been noted so far.
#[inline]
pub fn mark() -> Mark {
    if WANTED.get() == Kinds::NONE {
        Mark(0)
    } else {
        mark_page()
    }
}

#[cold]
fn mark_page() -> Mark {
    Mark(OPEN.with_borrow(|open| open.page.len()))
}

/// Forgets what was noted since: what was tried is going to be tried again.
#[cold]
pub fn retract(mark: Mark) {
    if WANTED.get() != Kinds::NONE {
        OPEN.with_borrow_mut(|open| open.page.truncate(mark.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::watch::event::Reason;

    const CLOSED: Event = Event::Closed(Reason::Normal);

    /// What is noted while `work` runs on a page of so many bytes.
    fn noted(room: usize, work: impl FnOnce()) -> (Page, u64) {
        open(Kinds::CONNEVENTS, 7, room);
        work();
        let mut got = (Page::default(), 0);
        close(|page, dropped| {
            got.0.append(page);
            got.1 = dropped;
        });
        got
    }

    fn abouts(page: &Page) -> Vec<&[u8]> {
        (0..page.len())
            .map(|place| page.get(place).unwrap().1)
            .collect()
    }

    #[test]
    fn only_what_is_wanted_is_noted_and_only_on_an_open_page() {
        note(Event::Opened, b"before");
        let (page, dropped) = noted(1000, || {
            note(Event::Opened, b"a");
            let bytes = 1;
            let deleted = || Event::Deleted {
                by: super::super::event::Removed::Meta,
                bytes,
            };
            note(deleted(), b"b");
            note_with(Kinds::DELETIONS, b"c", deleted);
            note_with(Kinds::CONNEVENTS, b"", || CLOSED);
        });
        note(Event::Opened, b"behind");
        assert_eq!((abouts(&page), dropped), (vec![&b"a"[..], b""], 0));
        let (first, second) = (page.get(0).unwrap().0, page.get(1).unwrap().0);
        assert!(first.gid < second.gid && first.micros <= second.micros);
        assert_eq!((first.client, second.event), (7, CLOSED));
        assert!(page.get(2).is_none());
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let (page, dropped) = noted(2 * Page::cost(3), || {
            for about in [b"one", b"two", b"six"] {
                note(CLOSED, about);
            }
        });
        assert_eq!((page.len(), dropped), (2, 1));
        assert_eq!(page.bytes(), 2 * Page::cost(3));
    }

    #[test]
    fn what_is_tried_again_is_noted_once() {
        let (page, _) = noted(1000, || {
            note(CLOSED, b"a");
            for about in [b"b", b"c"] {
                let mark = mark();
                note(CLOSED, about);
                if about == b"b" {
                    retract(mark);
                }
            }
        });
        assert_eq!(abouts(&page), [b"a", b"c"]);
    }

    #[test]
    fn pages_are_joined_in_order() {
        let (mut all, _) = noted(1000, || note(CLOSED, b"a"));
        let (mut more, _) = noted(1000, || {
            note(CLOSED, b"bc");
            note(CLOSED, b"d");
        });
        all.append(&mut more);
        assert!(more.is_empty());
        assert_eq!(abouts(&all), [&b"a"[..], b"bc", b"d"]);
        assert!(all.gids().is_sorted());
    }
}
