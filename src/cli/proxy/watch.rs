//! Noticing that the configuration's file has changed.
//!
//! Files are changed in many ways: written in place, in one step or several;
//! replaced by a renamed one, as editors do; or left alone while a symbolic link
//! on the way is turned to another directory, as Kubernetes does with its
//! ConfigMaps. So the directories of all names on the way are watched, and what
//! counts is what the file says when it has been left alone for a moment.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ketch::clock;
use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

use super::links::{Name, names_to};

/// How long the file must be left alone: who writes in several steps makes a
/// shorter pause between them.
const SETTLE: Duration = Duration::from_millis(100);

/// How long it may take to be left alone; then it is read as it is.
const SETTLE_MAX: Duration = Duration::from_secs(2);

/// Watches one file.
#[derive(Debug)]
pub(super) struct Watch {
    path: PathBuf,
    /// `None` where the system cannot watch.
    watcher: Option<RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
    seen: Arc<Seen>,
    /// Something has changed that has not been reported yet.
    pending: bool,
}

/// What the watching thread and the waiting task share.
#[derive(Debug, Default)]
struct Seen {
    names: Mutex<Vec<Name>>,
    changed: Notify,
}

impl Seen {
    fn take(&self, event: &Event) {
        // Reading is no change, and we read ourselves.
        let is_read = match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
            EventKind::Access(_) => true,
            _ => false,
        };
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let is_ours = |path: &PathBuf| {
            let (directory, name) = (path.parent(), path.file_name());
            let is_it =
                |known: &Name| Some(&*known.directory) == directory && Some(&*known.name) == name;
            // A directory that goes takes its names with it.
            names
                .iter()
                .any(|known| is_it(known) || known.directory == *path)
        };
        if !is_read && (event.need_rescan() || event.paths.iter().any(is_ours)) {
            self.changed.notify_one();
        }
    }
}

impl Watch {
    /// Watches `path`. What has changed since it was read first is noticed too,
    /// if it was read before.
    pub(super) fn start(path: &Path) -> Self {
        let seen = Arc::new(Seen::default());
        let of_thread = Arc::clone(&seen);
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            // An error may hide a change.
            match event {
                Ok(event) => of_thread.take(&event),
                Err(_) => of_thread.changed.notify_one(),
            }
        });
        let watcher = match watcher {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                tracing::warn!(%error, "changes of the configuration's file go unnoticed");
                None
            }
        };
        let mut watch = Self {
            path: path.to_owned(),
            watcher,
            watched: BTreeSet::new(),
            seen,
            pending: true,
        };
        watch.follow();
        watch
    }

    /// Watches the directories of all names that lead to the file now.
    fn follow(&mut self) {
        let names = names_to(&self.path);
        let wanted: BTreeSet<_> = names.iter().map(|name| name.directory.clone()).collect();
        *self
            .seen
            .names
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = names;
        let Some(watcher) = &mut self.watcher else {
            return;
        };
        for gone in self.watched.difference(&wanted) {
            // It may be gone for good; then nothing is left to forget.
            let _ = watcher.unwatch(gone);
        }
        for directory in &wanted {
            // Again for those known: another may have taken the name.
            if let Err(error) = watcher.watch(directory, RecursiveMode::NonRecursive) {
                let directory = directory.display();
                tracing::warn!(%error, %directory, "the configuration's directory is not watched");
            }
        }
        self.watched = wanted;
    }

    /// Waits until the file may have changed and has been left alone. A wait that
    /// is cancelled forgets nothing.
    pub(super) async fn changed(&mut self) {
        if !self.pending {
            self.seen.changed.notified().await;
            self.pending = true;
        }
        let give_up = clock::now().after(SETTLE_MAX);
        let more = || clock::timeout(SETTLE, self.seen.changed.notified());
        while more().await.is_ok() && clock::now() < give_up {}
        self.follow();
        self.pending = false;
    }
}
