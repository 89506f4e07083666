//! Counters by prefix of key (`stats detail`).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Most prefixes that are counted; keys of others are not. memcached has no bound.
const PREFIXES_MAX: usize = 100_000;

/// What has been done to the keys of a prefix.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    gets: u64,
    hits: u64,
    sets: u64,
    deletes: u64,
}

/// Counters by prefix of key; off until somebody wants them.
#[derive(Debug)]
pub(super) struct Detail {
    delimiter: u8,
    enabled: AtomicBool,
    prefixes: Mutex<BTreeMap<Vec<u8>, Counts>>,
}

impl Detail {
    pub(super) fn new(delimiter: u8, enabled: bool) -> Self {
        Self {
            delimiter,
            enabled: AtomicBool::new(enabled),
            prefixes: Mutex::default(),
        }
    }

    #[inline]
    pub(super) fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::Relaxed)
    }

    pub(super) fn enable(&self, enabled: bool) {
        self.enabled.store(enabled, Ordering::Relaxed);
    }

    pub(super) fn record_get(&self, key: &[u8], hit: bool) {
        self.with(key, |counts| {
            counts.gets += 1;
            counts.hits += u64::from(hit);
        });
    }

    pub(super) fn record_set(&self, key: &[u8]) {
        self.with(key, |counts| counts.sets += 1);
    }

    pub(super) fn record_delete(&self, key: &[u8]) {
        self.with(key, |counts| counts.deletes += 1);
    }

    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    fn with(&self, key: &[u8], change: impl FnOnce(&mut Counts)) {
        let Some(end) = key.iter().position(|&byte| byte == self.delimiter) else {
            return;
        };
        let prefix = key.get(..end).unwrap_or_default();
        let mut prefixes = self.lock();
        if let Some(counts) = prefixes.get_mut(prefix) {
            change(counts);
        } else if prefixes.len() < PREFIXES_MAX {
            change(prefixes.entry(prefix.to_vec()).or_default());
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Vec<u8>, Counts>> {
        self.prefixes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All counters, as `stats detail dump` tells them.
    pub(super) fn dump(&self) -> String {
        let mut text = String::new();
        for (prefix, counts) in &*self.lock() {
            let prefix = String::from_utf8_lossy(prefix);
            // Writing to a string cannot fail.
            let _ = write!(
                text,
                "PREFIX {prefix} get {} hit {} set {} del {}\r\n",
                counts.gets, counts.hits, counts.sets, counts.deletes
            );
        }
        text.push_str("END\r\n");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_counted_by_what_stands_before_the_delimiter() {
        let detail = Detail::new(b':', true);
        detail.record_set(b"foo:123");
        detail.record_get(b"foo:123", true);
        detail.record_get(b"foo:124", false);
        detail.record_delete(b"bar:1");
        detail.record_get(b"foobar", true);
        assert_eq!(
            detail.dump(),
            "PREFIX bar get 0 hit 0 set 0 del 1\r\n\
             PREFIX foo get 2 hit 1 set 1 del 0\r\nEND\r\n"
        );
        detail.clear();
        assert_eq!(detail.dump(), "END\r\n");
    }
}
