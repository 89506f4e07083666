//! Keys whose changes a server has missed, so that it does not serve what is
//! stale when it is back.
//!
//! A change that fails may not have reached its server, and what the server
//! holds under that key may be stale from then on. Such keys are remembered, for
//! each server, by all worker threads together. Until a key has been deleted on
//! the server it counts as holding nothing: whoever reads it misses. A key that
//! is missed again while it is being deleted stays.
//!
//! A change that has been sent and was not answered is *in doubt*: a server that
//! hangs may carry it out when it goes on, after a deletion that overtook it on
//! another connection. Its key stays until the change is known to be over: it
//! was answered after all, or the server has closed the connection that carried
//! it, which it does when it has read everything.
//!
//! Only failures come here; what works pays one load to see that there is
//! nothing.

mod disk;
pub mod guests;
pub mod journal;
mod lingering;
pub mod packed;
mod replay;
pub mod set;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::health;
use crate::clock;

pub use disk::keep;
use disk::{Disk, Unwritten};
use guests::Guests;
pub use guests::{Claim, Hosting};
use journal::Record;
pub(super) use lingering::Lingering;
pub use replay::{keep_up, replay};
use set::{Cursor, Due, Set};

/// How often a server that holds keys of others is looked at whether they have to
/// go.
const GUESTS_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// Most of them that go in one go: a request may be waiting for the lock.
const GUESTS_MAX: usize = 4096;

/// What is done about a server of which more keys were missed than are
/// remembered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnReturn {
    /// It is flushed before it serves again.
    #[default]
    Flush,
    /// It serves what it has: keys beyond the bound may be stale.
    Serve,
}

impl OnReturn {
    /// Every choice.
    pub const ALL: [Self; 2] = [Self::Flush, Self::Serve];

    /// The name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Flush => "flush",
            Self::Serve => "serve",
        }
    }
}

/// How much is remembered of what a server has missed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Most keys.
    pub keys_max: usize,
    /// What is done when there are more.
    pub on_return: OnReturn,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            keys_max: 1_000_000,
            on_return: OnReturn::default(),
        }
    }
}

/// What has been seen of missed keys. Written where something failed, so that
/// the threads may share it.
#[derive(Debug, Default)]
pub struct Counts {
    /// Changes that failed and whose keys were remembered.
    pub missed: AtomicU64,
    /// Keys deleted on the server.
    pub replayed: AtomicU64,
    /// Keys that a client has replaced before they were deleted.
    pub replaced: AtomicU64,
    /// Keys that were too many to be remembered.
    pub overflowed: AtomicU64,
    /// Times that the server was flushed instead.
    pub flushes: AtomicU64,
    /// Requests answered without asking the server, as if it did not hold the
    /// key.
    pub absent: AtomicU64,
    /// Changes in doubt that were given up on: too many connections were waited
    /// for.
    pub abandoned: AtomicU64,
}

impl Counts {
    fn add(counter: &AtomicU64, amount: u64) {
        counter.fetch_add(amount, Ordering::Relaxed);
    }
}

/// What one server has missed.
#[derive(Debug)]
pub struct Missed {
    /// A copy of whether there is anything, which costs a request one load.
    any: AtomicBool,
    state: Mutex<State>,
    /// Whether something can be deleted now.
    work: watch::Sender<bool>,
    /// Whether the server holds keys of others.
    hosts: watch::Sender<bool>,
    /// Where it is written to, if it is.
    disk: Option<Disk>,
    /// What has been seen so far.
    pub counts: Counts,
}

#[derive(Debug)]
struct State {
    settings: Settings,
    /// What has yet to be written to the disk, if anything is.
    unwritten: Option<Unwritten>,
    set: Set,
    /// Keys of other servers, for which this one stands in.
    guests: Guests,
    /// That everything has been missed, if more was than can be remembered.
    everything: Option<Everything>,
}

impl State {
    /// More has been missed than is remembered: everything counts as missed.
    fn overflow(&mut self, in_doubt: bool) {
        self.everything = Some(Everything {
            doubts: self.set.doubts() + u64::from(in_doubt),
            version: 0,
        });
        self.set.clear();
        if let Some(unwritten) = &mut self.unwritten {
            unwritten.push(&Record::Everything);
        }
    }
}

/// For a server that stands in for others.
impl State {
    /// Sees to it that another server's key is deleted, if there is room for it.
    fn leave(&mut self, key: &[u8]) {
        if self.everything.is_some() || self.set.len() >= self.settings.keys_max {
            return;
        }
        self.set.miss(key, false);
        if let Some(unwritten) = &mut self.unwritten {
            let in_doubt = false;
            unwritten.push(&Record::Missed { key, in_doubt });
        }
    }
}

/// All keys of a server, as one that has been missed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Everything {
    doubts: u64,
    version: u64,
}

/// What is to be deleted next.
#[derive(Debug, Default)]
struct Batch {
    keys: Vec<u8>,
    due: Vec<Due>,
    /// The whole server is to be flushed instead.
    everything: Option<Everything>,
}

impl Default for Missed {
    fn default() -> Self {
        Self::new(Settings::default())
    }
}

impl Missed {
    /// Nothing missed yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            disk: None,
            any: AtomicBool::new(false),
            state: Mutex::new(State {
                settings,
                unwritten: None,
                set: Set::new(fastrand::u64(..)),
                guests: Guests::new(fastrand::u64(..)),
                everything: None,
            }),
            work: watch::Sender::new(false),
            hosts: watch::Sender::new(false),
            counts: Counts::default(),
        }
    }

    /// What earlier processes have left in `folder` for the server at `place`. What
    /// is missed from now on is written there too.
    ///
    /// # Errors
    ///
    /// If the folder cannot be read or written.
    pub fn recover(settings: Settings, folder: &Path, place: &str) -> std::io::Result<Self> {
        let mut missed = Self::new(settings);
        let disk = Disk::open(folder, place, |record| {
            let mut state = missed.lock();
            match record {
                Record::Missed { key, in_doubt } => missed.add(&mut state, key, in_doubt),
                Record::Everything => state.overflow(false),
            }
        })?;
        let mut state = missed.lock();
        // All of it goes into the file of this process.
        state.unwritten = Some(Unwritten::all());
        missed.publish(&mut state);
        drop(state);
        disk.wake();
        missed.disk = Some(disk);
        Ok(missed)
    }

    /// Takes other settings; what is remembered stays.
    pub fn configure(&self, settings: Settings) {
        self.lock().settings = settings;
    }

    /// Whether any key has been missed.
    #[inline]
    pub fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// Whether the server counts as holding nothing under this key.
    pub fn has(&self, key: &[u8]) -> bool {
        if !self.any() {
            return false;
        }
        let state = self.lock();
        state.everything.is_some() || state.set.contains(key)
    }

    /// How many keys are remembered.
    pub fn len(&self) -> usize {
        self.lock().set.len()
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        !self.any()
    }

    /// Whether all keys of the server count as missed.
    pub fn is_everything(&self) -> bool {
        self.lock().everything.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After a change of `state`: what others look at without a lock.
    fn publish(&self, state: &mut State) {
        let any = state.everything.is_some() || !state.set.is_empty();
        let before = self.any.swap(any, Ordering::AcqRel);
        if let Some(unwritten) = &mut state.unwritten {
            if before && !any {
                unwritten.clear();
            }
            if let Some(disk) = self.disk.as_ref().filter(|_| unwritten.bytes() > 0) {
                disk.wake();
            }
        }
        let work = match state.everything {
            Some(everything) => everything.doubts == 0,
            None => state.set.due() > 0,
        };
        self.work
            .send_if_modified(|known| std::mem::replace(known, work) != work);
        let hosts = !state.guests.is_empty();
        self.hosts
            .send_if_modified(|known| std::mem::replace(known, hosts) != hosts);
    }

    /// Remembers one key of which a change has not been carried out.
    pub fn miss(&self, key: &[u8]) {
        let mut state = self.lock();
        self.add(&mut state, key, false);
        self.publish(&mut state);
    }

    /// Remembers packed keys. `in_doubt` says that their changes may still be
    /// carried out, until [`Self::settle`].
    pub(super) fn miss_all(&self, packed: &[u8], in_doubt: bool) {
        let mut state = self.lock();
        for key in packed::iter(packed) {
            self.add(&mut state, key, in_doubt);
        }
        self.publish(&mut state);
    }

    fn add(&self, state: &mut State, key: &[u8], in_doubt: bool) {
        Counts::add(&self.counts.missed, 1);
        if let Some(everything) = &mut state.everything {
            everything.version += 1;
            everything.doubts += u64::from(in_doubt);
            return;
        }
        if state.set.len() < state.settings.keys_max || state.set.contains(key) {
            state.set.miss(key, in_doubt);
            if let Some(unwritten) = &mut state.unwritten {
                unwritten.push(&Record::Missed { key, in_doubt });
            }
            return;
        }
        Counts::add(&self.counts.overflowed, 1);
        if state.settings.on_return == OnReturn::Flush {
            state.overflow(in_doubt);
        }
    }

    /// Notes that changes of packed keys that were in doubt are over.
    pub(super) fn settle(&self, packed: &[u8]) {
        let mut state = self.lock();
        for key in packed::iter(packed) {
            if let Some(everything) = &mut state.everything {
                everything.doubts = everything.doubts.saturating_sub(1);
                everything.version += 1;
            } else {
                // Absent if it was one too many to be remembered.
                state.set.settle(key);
            }
        }
        self.publish(&mut state);
    }

    /// Notes that changes of packed keys that are in doubt are no longer on their way
    /// before those that followed them.
    pub(super) fn unsettle(&self, packed: &[u8]) {
        let mut state = self.lock();
        for key in packed::iter(packed) {
            state.set.unsettle(key);
        }
    }

    /// What is to be deleted next, up to `max` keys from `cursor` on.
    fn batch(&self, cursor: &mut Cursor, max: usize, batch: &mut Batch) {
        batch.keys.clear();
        batch.due.clear();
        let state = self.lock();
        batch.everything = state.everything.filter(|everything| everything.doubts == 0);
        if state.everything.is_none() {
            state
                .set
                .take_due(cursor, max, &mut batch.keys, &mut batch.due);
        }
    }

    /// Forgets what has been deleted.
    fn deleted(&self, batch: &Batch) {
        let mut state = self.lock();
        if let Some(flushed) = batch.everything {
            Counts::add(&self.counts.flushes, 1);
            if state.everything == Some(flushed) {
                state.everything = None;
            }
        }
        let mut rest = &batch.keys[..];
        for due in &batch.due {
            let Some(key) = rest.split_off(..usize::from(due.len)) else {
                break;
            };
            // A set that was cleared meanwhile does not know the key.
            state.set.forget(key, *due);
        }
        let count = u64::try_from(batch.due.len()).unwrap_or(u64::MAX);
        Counts::add(&self.counts.replayed, count);
        self.publish(&mut state);
    }

    /// What a request that replaces the item of a key has to bring back to
    /// [`Self::replaced`]; `None` if that would not help. So many changes of the key
    /// that are in doubt go before it on its own connection: they are over before
    /// it is answered.
    pub(super) fn replaceable(&self, key: &[u8], before: u32) -> Option<Due> {
        self.lock().set.due_of(key, before)
    }

    /// Forgets a key whose item has been replaced or removed by a request that
    /// was sent when `due` was taken: unless the key was missed again since, what
    /// the server holds is right.
    pub fn replaced(&self, key: &[u8], due: Due) {
        let mut state = self.lock();
        if state.set.forget(key, due) {
            Counts::add(&self.counts.replaced, 1);
            self.publish(&mut state);
        }
    }

    /// Counts a request answered as if the server did not hold its key.
    pub fn answered_absent(&self) {
        Counts::add(&self.counts.absent, 1);
    }

    /// Waits until something can be deleted.
    async fn wait_for_work(&self) {
        let (mut work, mut hosts) = (self.work.subscribe(), self.hosts.subscribe());
        loop {
            self.dismiss_guests(health::turns());
            // The senders live as long as `self`: the waits cannot fail. Whichever
            // is cancelled loses nothing, for both are looked at again.
            tokio::select! {
                _ = work.wait_for(|work| *work) => return,
                () = async {
                    let _ = hosts.wait_for(|hosts| *hosts).await;
                    clock::sleep(GUESTS_PAUSE).await;
                } => {}
            }
        }
    }
}

/// Standing in for other servers.
impl Missed {
    /// What the server holds of a key of another one, `turn` being the present one
    /// ([`health::turns`]).
    pub fn hosting(&self, key: &[u8], turn: u64) -> Hosting {
        let state = self.lock();
        if state.everything.is_some() {
            return Hosting::Full;
        }
        if state.set.contains(key) {
            let due = state.set.due_of(key, 0);
            return Hosting::Unknown(due.map_or(Claim::Never, Claim::Missed));
        }
        if state.guests.has(key, turn) {
            Hosting::Holds
        } else if state.guests.len() >= state.settings.keys_max {
            Hosting::Full
        } else {
            Hosting::Unknown(Claim::Fresh)
        }
    }

    /// Notes that a request which replaces the item of another server's key has
    /// succeeded, as was hoped for at `turn`.
    pub(super) fn hosted(&self, key: &[u8], turn: u64, claim: Claim) {
        let mut state = self.lock();
        let is_right = match claim {
            Claim::Fresh => state.everything.is_none() && !state.set.contains(key),
            Claim::Missed(due) => state.set.forget(key, due),
            Claim::Never => false,
        };
        if !is_right {
            return;
        }
        if state.guests.len() < state.settings.keys_max {
            state.guests.take(key, turn);
        } else {
            // Others have come while this one was on its way. It is deleted again, or
            // left to expire: in no case it counts.
            state.leave(key);
        }
        self.publish(&mut state);
    }

    /// Notes that keys of others which came before `turn` are to be deleted, as far
    /// as there is room for them among those that have been missed.
    fn dismiss_guests(&self, turn: u64) {
        let mut keys = Vec::new();
        let mut state = self.lock();
        let State {
            settings,
            set,
            guests,
            ..
        } = &mut *state;
        if guests.is_empty() {
            return;
        }
        guests.turn_to(turn);
        let room = settings.keys_max.saturating_sub(set.len());
        guests.dismiss(room.min(GUESTS_MAX), &mut keys);
        for key in packed::iter(&keys) {
            state.leave(key);
        }
        self.publish(&mut state);
    }

    /// How many keys of other servers this one holds.
    pub fn guests(&self) -> usize {
        self.lock().guests.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missed(keys_max: usize, on_return: OnReturn) -> Missed {
        Missed::new(Settings {
            keys_max,
            on_return,
        })
    }

    fn next(missed: &Missed) -> Batch {
        let mut batch = Batch::default();
        missed.batch(&mut Cursor::default(), 100, &mut batch);
        batch
    }

    fn packed(key: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        packed::push(&mut bytes, key);
        bytes
    }

    #[test]
    fn a_missed_key_counts_as_absent_until_it_is_deleted() {
        let missed = missed(10, OnReturn::Flush);
        assert!(!missed.any());
        missed.miss(b"k");
        assert!(missed.any() && missed.has(b"k") && !missed.has(b"l"));
        let batch = next(&missed);
        assert_eq!(batch.keys, b"k");
        assert!(missed.has(b"k"), "not before the server has said so");
        missed.deleted(&batch);
        assert!(!missed.any() && !missed.has(b"k"));
    }

    #[test]
    fn a_key_that_was_replaced_is_right_unless_it_was_missed_since() {
        let missed = missed(10, OnReturn::Flush);
        missed.miss_all(&packed(b"k"), true);
        assert_eq!(
            missed.replaceable(b"k", 0),
            None,
            "a doubt would come after it"
        );
        missed.settle(&packed(b"k"));
        let early = missed.replaceable(b"k", 0).unwrap();
        missed.miss(b"k");
        missed.replaced(b"k", early);
        assert!(missed.has(b"k"));
        missed.replaced(b"k", missed.replaceable(b"k", 0).unwrap());
        assert!(!missed.any());
    }

    #[test]
    fn what_comes_after_all_doubts_is_right() {
        let missed = missed(10, OnReturn::Flush);
        missed.miss_all(&packed(b"k"), true);
        missed.miss_all(&packed(b"k"), true);
        assert_eq!(missed.replaceable(b"k", 1), None, "of another connection");
        let due = missed.replaceable(b"k", 2).unwrap();
        missed.settle(&packed(b"k"));
        missed.replaced(b"k", due);
        assert!(missed.has(b"k"), "one is left");
        missed.settle(&packed(b"k"));
        missed.replaced(b"k", due);
        assert!(!missed.any());
        // Not if they have left the connection.
        missed.miss_all(&packed(b"k"), true);
        let due = missed.replaceable(b"k", 1).unwrap();
        missed.unsettle(&packed(b"k"));
        missed.settle(&packed(b"k"));
        missed.replaced(b"k", due);
        assert!(missed.has(b"k"));
        // Whatever was missed since is not made right by it.
        missed.miss_all(&packed(b"k"), true);
        let due = missed.replaceable(b"k", 1).unwrap();
        missed.miss(b"k");
        missed.settle(&packed(b"k"));
        missed.replaced(b"k", due);
        assert!(missed.has(b"k"));
    }

    #[test]
    fn too_many_keys_are_all_keys() {
        let missed = missed(2, OnReturn::Flush);
        for key in [b"a", b"b", b"a", b"c"] {
            missed.miss(key);
        }
        assert!(missed.has(b"never seen"));
        assert_eq!(missed.counts.overflowed.load(Ordering::Relaxed), 1);
        let batch = next(&missed);
        assert!(batch.everything.is_some() && batch.due.is_empty());
        missed.miss(b"d");
        missed.deleted(&batch);
        assert!(missed.has(b"x"), "missed again while it was flushed");
        missed.deleted(&next(&missed));
        assert!(!missed.any());
    }

    #[test]
    fn too_many_keys_are_forgotten_if_that_is_wanted() {
        let missed = missed(1, OnReturn::Serve);
        missed.miss(b"a");
        missed.miss(b"b");
        assert!(missed.has(b"a") && !missed.has(b"b"));
        assert_eq!(missed.counts.overflowed.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn nothing_is_flushed_while_any_change_is_in_doubt() {
        let missed = missed(2, OnReturn::Flush);
        missed.miss_all(&packed(b"a"), true);
        missed.miss_all(&packed(b"b"), false);
        missed.miss_all(&packed(b"c"), true);
        assert!(next(&missed).everything.is_none());
        missed.settle(&packed(b"c"));
        assert!(next(&missed).everything.is_none());
        missed.settle(&packed(b"a"));
        assert!(next(&missed).everything.is_some());
    }

    fn claim(missed: &Missed, key: &[u8], turn: u64) -> Claim {
        match missed.hosting(key, turn) {
            Hosting::Unknown(claim) => claim,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_key_of_another_server_counts_once_it_was_stored() {
        let missed = missed(10, OnReturn::Flush);
        let fresh = claim(&missed, b"k", 5);
        missed.hosted(b"k", 5, fresh);
        assert_eq!(missed.hosting(b"k", 5), Hosting::Holds);
        assert!(!missed.any(), "it costs the server's own keys nothing");
        // Not after a change that failed, nor in another turn.
        missed.miss(b"k");
        assert!(matches!(claim(&missed, b"k", 5), Claim::Missed(_)));
        missed.hosted(b"l", 5, fresh);
        assert_eq!(claim(&missed, b"l", 6), Claim::Fresh);
        missed.dismiss_guests(6);
        assert!(missed.has(b"k") && missed.has(b"l") && missed.guests() == 0);
        assert_eq!(next(&missed).keys, b"kl");
    }

    #[test]
    fn a_failure_on_the_way_spoils_what_is_stored() {
        let missed = missed(10, OnReturn::Flush);
        let fresh = claim(&missed, b"k", 5);
        missed.miss(b"k");
        missed.hosted(b"k", 5, fresh);
        let due = claim(&missed, b"k", 5);
        missed.miss_all(&packed(b"k"), true);
        missed.hosted(b"k", 5, due);
        assert_eq!(claim(&missed, b"k", 5), Claim::Never);
        missed.hosted(b"k", 5, Claim::Never);
        missed.settle(&packed(b"k"));
        let due = claim(&missed, b"k", 5);
        // A deletion that was under way does not make it forgotten.
        let batch = next(&missed);
        missed.hosted(b"k", 5, due);
        missed.deleted(&batch);
        assert_eq!(missed.hosting(b"k", 5), Hosting::Holds);
    }

    #[test]
    fn keys_of_others_never_flush_a_server() {
        let missed = missed(2, OnReturn::Flush);
        let fresh = claim(&missed, b"a", 5);
        for key in [b"a", b"b", b"c"] {
            missed.hosted(key, 5, fresh);
        }
        assert_eq!(missed.hosting(b"d", 5), Hosting::Full);
        assert_eq!((missed.guests(), missed.len()), (2, 1));
        missed.dismiss_guests(6);
        assert_eq!((missed.len(), missed.is_everything()), (2, false));
        missed.deleted(&next(&missed));
        missed.dismiss_guests(6);
        missed.deleted(&next(&missed));
        assert!(!missed.any() && missed.guests() == 0);
    }

    #[tokio::test]
    async fn whoever_deletes_is_woken_when_a_doubt_is_over() {
        let missed = missed(2, OnReturn::Flush);
        missed.miss_all(&packed(b"a"), true);
        tokio::join!(missed.wait_for_work(), async {
            tokio::task::yield_now().await;
            assert!(!*missed.work.borrow());
            missed.settle(&packed(b"a"));
        });
    }
}
