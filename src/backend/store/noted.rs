//! What watchers are told of a shard's work.

use super::change::{Mode, Store, Stored};
use super::hash::Tag;
use super::shard::{At, Put, Shard};
use crate::backend::watch::{self, Event, Fetched, How, Kinds, Removed, Status};

impl From<Mode> for How {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Set => Self::Set,
            Mode::Add => Self::Add,
            Mode::Replace => Self::Replace,
            Mode::Cas => Self::Cas,
            Mode::Append => Self::Append,
            Mode::Prepend => Self::Prepend,
        }
    }
}

impl Shard {
    /// As [`Shard::find`], and tells what came of it.
    #[cold]
    pub(super) fn find_and_note(&mut self, tag: Tag, key: &[u8], now: u32) -> Option<At> {
        let before = self.counters;
        let found = self.look_up(tag, key, now);
        let status = match found {
            Some(_) => Fetched::Found,
            None if self.counters.get_flushed > before.get_flushed => Fetched::Flushed,
            None if self.counters.get_expired > before.get_expired => Fetched::Expired,
            None => Fetched::Missing,
        };
        let bytes = found.map_or(0, |at| self.get(at).value_len());
        watch::note(Event::Fetched { status, bytes }, key);
        found
    }

    /// Tells what became of a value that was to be stored.
    #[inline]
    pub(super) fn note_store(&mut self, tag: Tag, store: &Store<'_>, stored: Stored, now: u32) {
        if watch::wants(Kinds::MUTATIONS) {
            self.tell_store(tag, store, stored, now);
        }
    }

    #[cold]
    fn tell_store(&mut self, tag: Tag, store: &Store<'_>, stored: Stored, now: u32) {
        let (status, bytes) = match stored {
            Stored::Stored { len, .. } => (Status::Stored, len),
            Stored::NotStored => (Status::NotStored, store.value.len()),
            Stored::Exists => (Status::Exists, store.value.len()),
            Stored::NotFound => (Status::NotFound, store.value.len()),
        };
        let how = How::from(store.mode);
        let mut exptime = store.exptime;
        // What is added to an item, or comes too late, goes with its time.
        let keeps_time = matches!(store.mode, Mode::Append | Mode::Prepend) || store.stale_allowed;
        if status == Status::Stored
            && keeps_time
            && let Some(at) = self.look_up(tag, store.key, now)
        {
            exptime = self.get(at).item.exptime();
        }
        watch::note(stored_event(status, how, exptime, bytes, now), store.key);
    }

    /// Tells that an item is stored which was not there, though not by
    /// [`Shard::store`].
    pub fn note_new(&self, put: &Put<'_>, how: How, now: u32) {
        watch::note_with(Kinds::MUTATIONS, put.key, || {
            stored_event(Status::Stored, how, put.exptime, put.value.len(), now)
        });
    }

    /// Tells that an item is about to be deleted.
    #[inline]
    pub fn note_removal(&self, at: At, by: Removed) {
        if watch::wants(Kinds::DELETIONS) {
            self.tell_removal(at, by);
        }
    }

    #[cold]
    fn tell_removal(&self, at: At, by: Removed) {
        let found = self.get(at);
        let bytes = found.value_len();
        watch::note(Event::Deleted { by, bytes }, found.item.key());
    }

    /// Tells that an item is about to be evicted.
    #[inline]
    pub(super) fn note_eviction(&self, at: At, now: u32) {
        if watch::wants(Kinds::EVICTIONS) {
            self.tell_eviction(at, now);
        }
    }

    #[cold]
    fn tell_eviction(&self, at: At, now: u32) {
        let found = self.get(at);
        let item = found.item;
        let ttl = match item.exptime() {
            0 => -1,
            exptime => i64::from(exptime) - i64::from(now),
        };
        let event = Event::Evicted {
            fetched: item.word().state().fetched,
            ttl,
            idle: now.saturating_sub(item.accessed()),
            bytes: found.value_len(),
        };
        watch::note(event, item.key());
    }
}

/// `exptime` is in seconds as items count them.
fn stored_event(status: Status, how: How, exptime: u32, bytes: usize, now: u32) -> Event {
    Event::Stored {
        status,
        how,
        // memcached counts back, and round, from what has passed.
        ttl: if exptime == 0 {
            0
        } else {
            exptime.wrapping_sub(now)
        },
        bytes,
    }
}
