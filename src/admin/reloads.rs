//! What came of reading the configuration again.

use std::sync::{Mutex, PoisonError};

/// How a reload ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The new configuration is in force.
    Applied,
    /// The file says what is in force.
    Unchanged,
    /// The file is not in force, and what was before still is.
    Refused,
}

impl Outcome {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Applied, Self::Unchanged, Self::Refused];

    /// The name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Unchanged => "unchanged",
            Self::Refused => "refused",
        }
    }
}

/// Why a file is not in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// When it was read, in seconds since the Unix epoch.
    pub at: u64,
    /// What is wrong with it, one problem in a line.
    pub problem: String,
}

/// What came of all reloads since the start.
#[derive(Debug, Default)]
pub struct Reloads {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    counts: [u64; Outcome::ALL.len()],
    refusal: Option<Refusal>,
}

impl Reloads {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a file that is in force.
    pub fn succeeded(&self, changed: bool) {
        let outcome = if changed {
            Outcome::Applied
        } else {
            Outcome::Unchanged
        };
        let mut inner = self.lock();
        inner.count(outcome);
        inner.refusal = None;
    }

    /// Notes a file that is not in force.
    pub fn refused(&self, refusal: Refusal) {
        let mut inner = self.lock();
        inner.count(Outcome::Refused);
        inner.refusal = Some(refusal);
    }

    /// How often a reload ended so.
    pub fn count(&self, outcome: Outcome) -> u64 {
        let inner = self.lock();
        inner.counts.get(outcome as usize).copied().unwrap_or(0)
    }

    /// Why the file that was read last is not in force; `None` if it is.
    pub fn refusal(&self) -> Option<Refusal> {
        self.lock().refusal.clone()
    }
}

impl Inner {
    fn count(&mut self, outcome: Outcome) {
        if let Some(count) = self.counts.get_mut(outcome as usize) {
            *count += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_lasts_until_a_file_is_in_force() {
        let reloads = Reloads::default();
        assert_eq!(reloads.refusal(), None);
        let refusal = Refusal {
            at: 7,
            problem: "a.yaml:1:1: bad".to_owned(),
        };
        reloads.refused(refusal.clone());
        assert_eq!(reloads.refusal(), Some(refusal));
        reloads.succeeded(false);
        assert_eq!(reloads.refusal(), None);
        reloads.succeeded(true);
        let counts = Outcome::ALL.map(|outcome| reloads.count(outcome));
        assert_eq!(counts, [1, 1, 1]);
    }
}
