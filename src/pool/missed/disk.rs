//! Writing what is remembered to the disk, away from the worker threads.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::journal::{Journal, Opened, Record};
use super::lingering::served;
use super::set::Cursor;
use super::{Missed, packed};
use crate::clock;
use crate::pool::server::Server;

/// Most bytes of records that wait to be written. Beyond it the whole file is
/// written anew from what is remembered.
const UNWRITTEN_BYTES_MAX: usize = 4 << 20;

/// A pause between two writes, in which records come together.
const PAUSE: Duration = Duration::from_millis(2);

/// How long what was written may not be on the disk yet; and how long to wait
/// after an error.
const SYNC: Duration = Duration::from_secs(1);

/// Keys copied under the lock at a time.
const COPIED_MAX: usize = 4096;

/// What has yet to be written.
#[derive(Debug, Default)]
pub(super) struct Unwritten {
    records: Vec<u8>,
    /// The whole file is to be written anew.
    all: bool,
    /// The file is to be emptied first.
    clear: bool,
}

impl Unwritten {
    /// That everything has yet to be written.
    pub(super) fn all() -> Self {
        Self {
            all: true,
            ..Self::default()
        }
    }

    /// Adds a record.
    pub(super) fn push(&mut self, record: &Record<'_>) {
        if self.records.len() >= UNWRITTEN_BYTES_MAX {
            *self = Self::all();
        }
        if !self.all {
            record.encode(&mut self.records);
        }
    }

    /// Nothing is remembered any more.
    pub(super) fn clear(&mut self) {
        *self = Self {
            clear: true,
            ..Self::default()
        };
    }

    /// About how much there is to do, in bytes; 0 if there is nothing.
    pub(super) fn bytes(&self) -> usize {
        self.records.len() + usize::from(self.all) + usize::from(self.clear)
    }
}

/// The journal of one server.
#[derive(Debug)]
pub(super) struct Disk {
    journal: Mutex<Journal>,
    /// Files of earlier processes, until what they say is in ours.
    leftovers: Mutex<Vec<PathBuf>>,
    /// Keys that an earlier process was in doubt about.
    doubts: Mutex<Vec<u8>>,
    wanted: Notify,
    /// Bytes that are being written.
    writing: AtomicUsize,
    errors: AtomicU64,
}

impl Disk {
    /// Opens the journal, and shows what it says.
    pub(super) fn open(
        folder: &Path,
        place: &str,
        mut each: impl FnMut(Record<'_>),
    ) -> io::Result<Self> {
        let mut doubts = Vec::new();
        let Opened {
            journal,
            leftovers,
            torn,
        } = Journal::open(folder, place, |record| {
            if let Record::Missed {
                key,
                in_doubt: true,
            } = record
            {
                packed::push(&mut doubts, key);
            }
            each(record);
        })?;
        if torn > 0 {
            tracing::warn!(server = place, torn, "journals of missed keys end abruptly");
        }
        Ok(Self {
            journal: Mutex::new(journal),
            leftovers: Mutex::new(leftovers),
            doubts: Mutex::new(doubts),
            wanted: Notify::new(),
            writing: AtomicUsize::new(0),
            errors: AtomicU64::new(0),
        })
    }

    /// There is something to be written.
    pub(super) fn wake(&self) {
        self.wanted.notify_one();
    }
}

impl Missed {
    /// Writes that failed.
    pub fn journal_errors(&self) -> u64 {
        let disk = self.disk.as_ref();
        disk.map_or(0, |disk| disk.errors.load(Ordering::Relaxed))
    }

    /// Bytes that have yet to be written to the disk.
    pub fn unwritten_bytes(&self) -> usize {
        let waiting = {
            let state = self.lock();
            state.unwritten.as_ref().map_or(0, Unwritten::bytes)
        };
        let disk = self.disk.as_ref();
        let writing = disk.map_or(0, |disk| disk.writing.load(Ordering::Relaxed));
        waiting + writing
    }

    /// Writes what has yet to be written. Blocks.
    fn write(&self, disk: &Disk) -> io::Result<()> {
        let mut journal = disk.journal.lock().unwrap_or_else(PoisonError::into_inner);
        let (unwritten, live) = {
            let mut state = self.lock();
            let live = state.set.bytes() + state.set.len() * 6;
            let unwritten = state.unwritten.as_mut().map(std::mem::take);
            let unwritten = unwritten.unwrap_or_default();
            disk.writing.store(unwritten.bytes(), Ordering::Relaxed);
            (unwritten, live)
        };
        let wasteful = journal.is_wasteful(u64::try_from(live).unwrap_or(u64::MAX));
        let done = if unwritten.all || (wasteful && !unwritten.clear) {
            journal.replace(&self.records())
        } else {
            let cleared = if unwritten.clear {
                journal.clear()
            } else {
                Ok(())
            };
            cleared.and_then(|()| journal.append(&unwritten.records))
        };
        disk.writing.store(0, Ordering::Relaxed);
        if done.is_err() {
            disk.errors.fetch_add(1, Ordering::Relaxed);
            // Who knows what the file holds now.
            let mut state = self.lock();
            state.unwritten = Some(Unwritten::all());
            return done;
        }
        let mut leftovers = disk
            .leftovers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for path in leftovers.drain(..) {
            // It does no harm: its keys would be deleted once more.
            let _ = std::fs::remove_file(path);
        }
        Ok(())
    }

    /// All that is remembered, as records. What is missed meanwhile may be among
    /// them or not; it is among what has yet to be written.
    fn records(&self) -> Vec<u8> {
        let mut records = Vec::new();
        let mut cursor = Cursor::default();
        loop {
            let state = self.lock();
            if state.everything.is_some() {
                Record::Everything.encode(&mut records);
                return records;
            }
            let more = state.set.each(&mut cursor, COPIED_MAX, |key, in_doubt| {
                Record::Missed { key, in_doubt }.encode(&mut records);
            });
            if !more {
                return records;
            }
        }
    }

    fn sync(&self, disk: &Disk) -> io::Result<()> {
        let journal = disk.journal.lock().unwrap_or_else(PoisonError::into_inner);
        let done = journal.sync();
        if done.is_err() {
            disk.errors.fetch_add(1, Ordering::Relaxed);
        }
        done
    }
}

/// Keeps the journal of a server up to date, for as long as the server is part
/// of the configuration.
pub async fn keep(server: &Server) {
    if let Some(disk) = &server.missed.disk {
        tokio::join!(
            keep_written(server, disk),
            keep_synced(server),
            settle_doubts(server, disk)
        );
    }
}

async fn keep_written(server: &Server, disk: &Disk) {
    loop {
        disk.wanted.notified().await;
        match blocking(&server.missed, Missed::write).await {
            Ok(()) => clock::sleep(PAUSE).await,
            Err(error) => {
                tracing::warn!(server = %server.name, %error, "cannot write missed keys");
                clock::sleep(SYNC).await;
                disk.wake();
            }
        }
    }
}

async fn keep_synced(server: &Server) {
    loop {
        clock::sleep(SYNC).await;
        if server.missed.any()
            && let Err(error) = blocking(&server.missed, Missed::sync).await
        {
            tracing::warn!(server = %server.name, %error, "cannot sync missed keys");
        }
    }
}

/// What an earlier process had in flight is over when the server has served for a
/// while: its connections went with the process.
async fn settle_doubts(server: &Server, disk: &Disk) {
    let doubts = {
        let mut doubts = disk.doubts.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *doubts)
    };
    if !doubts.is_empty() {
        served(&server.health).await;
        server.missed.settle(&doubts);
    }
}

/// Has a thread for such things do what blocks.
async fn blocking(
    missed: &Arc<Missed>,
    what: fn(&Missed, &Disk) -> io::Result<()>,
) -> io::Result<()> {
    let missed = Arc::clone(missed);
    let done = tokio::task::spawn_blocking(move || match &missed.disk {
        Some(disk) => what(&missed, disk),
        None => Ok(()),
    });
    done.await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
}
