//! Asking a second member when the first is slow.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use super::Shard;
use super::leaf::{Leaf, Said};
use crate::clock::{self, Moment};
use crate::protocol::reply::Outcome;
use crate::stats::HistogramSum;

/// How often it is computed what slow means.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Answers of a member that must be known to say what is slow.
const ANSWERS_MIN: u64 = 100;

/// Second questions saved up while none was needed.
const SAVED_MAX: f64 = 20.0;

/// What is known about how fast the members answer, and what may still be spent
/// on second questions.
#[derive(Debug)]
pub(super) struct Hedge {
    members: Vec<Pace>,
    saved: Cell<f64>,
}

/// How fast a member answers.
#[derive(Debug, Default)]
struct Pace {
    looked_at: Cell<Option<Moment>>,
    before: RefCell<HistogramSum>,
    /// Slower than this is slow.
    slow: Cell<Option<Duration>>,
}

impl Pace {
    /// From when on an answer of the member is slow; `None` while too few are
    /// known.
    fn slow(
        &self,
        now: Moment,
        share: f64,
        sum: impl FnOnce() -> HistogramSum,
    ) -> Option<Duration> {
        let due = |at: Moment| now.since(at) >= LOOK_AGAIN;
        if self.looked_at.get().is_none_or(due) {
            let all = sum();
            let lately = all.since(&self.before.borrow());
            // Too few: what was known before still counts, and these are
            // counted again next time.
            if lately.count() >= ANSWERS_MIN {
                let micros = lately.quantile(share);
                self.slow.set(micros.map(Duration::from_micros));
                self.before.replace(all);
            }
            self.looked_at.set(Some(now));
        }
        self.slow.get()
    }
}

impl Hedge {
    pub(super) fn new(members: usize) -> Self {
        Self {
            members: (0..members).map(|_| Pace::default()).collect(),
            saved: Cell::new(0.0),
        }
    }

    /// Earns a share of a second question: one read has been asked.
    fn earn(&self, percent: u8) {
        let saved = self.saved.get() + f64::from(percent) / 100.0;
        self.saved.set(saved.min(SAVED_MAX));
    }

    fn spend(&self) -> bool {
        let saved = self.saved.get();
        if saved < 1.0 {
            return false;
        }
        self.saved.set(saved - 1.0);
        true
    }

    /// Waits for the answer of the member at `at`; if that is slow and there is
    /// something left to spend, asks `other` too and takes the first answer: of the
    /// second member only a hit. Says whether it was the first member's.
    pub(super) async fn race(
        &self,
        shard: &Shard,
        at: usize,
        mut first: Leaf,
        other: impl FnOnce() -> Option<Leaf>,
    ) -> (bool, Said) {
        let Some(percent) = shard.settings.hedge else {
            return (true, first.await);
        };
        self.earn(shard.settings.hedge_budget);
        let pace = self.members.get(at).zip(shard.members.get(at));
        let slow = pace.and_then(|(pace, member)| {
            pace.slow(clock::now(), f64::from(percent) / 100.0, || {
                let mut sum = HistogramSum::default();
                let stats = member.server().stats();
                stats.iter().for_each(|stats| sum.add(&stats.latency));
                sum
            })
        });
        let Some(slow) = slow else {
            return (true, first.await);
        };
        // Neither branch loses anything: the leaf goes on below.
        tokio::select! {
            said = &mut first => return (true, said),
            () = clock::sleep(slow) => {}
        }
        if !self.spend() {
            shard.stats.hedges_denied.increment();
            return (true, first.await);
        }
        let Some(mut second) = other() else {
            return (true, first.await);
        };
        shard.stats.hedges.increment();
        // The loser's reply is dropped when it comes; one that fails leaves the
        // race to the other.
        let (is_first, said) = tokio::select! {
            said = &mut first => (true, said),
            said = &mut second => (false, said),
        };
        // The second may be one that just does not hold the item.
        let wins = match is_first {
            true => said.is_good(),
            false => said.outcome() == Some(Outcome::Hit),
        };
        if wins {
            shard.stats.hedges_won.add(u64::from(!is_first));
            return (is_first, said);
        }
        let rest = if is_first { second } else { first };
        let other = rest.await;
        if other.rank() <= said.rank() {
            (!is_first, other)
        } else {
            (is_first, said)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Histogram;

    #[test]
    fn what_is_slow_is_learnt_and_relearnt() {
        let pace = Pace::default();
        let histogram = Histogram::default();
        let sum = || {
            let mut sum = HistogramSum::default();
            sum.add(&histogram);
            sum
        };
        let at = |seconds: u64| Moment::from_micros(seconds * 1_000_000);
        (0..50).for_each(|_| histogram.record(100));
        assert_eq!(pace.slow(at(1), 0.95, sum), None, "too few");
        (0..1000).for_each(|_| histogram.record(100));
        let slow = pace.slow(at(2), 0.95, sum).unwrap();
        assert!((100..=150).contains(&slow.as_micros()), "{slow:?}");
        (0..1000).for_each(|_| histogram.record(10_000));
        assert_eq!(pace.slow(at(2), 0.95, sum), Some(slow), "not yet");
        let slow = pace.slow(at(3), 0.95, sum).unwrap();
        assert!((10_000..=15_000).contains(&slow.as_micros()), "{slow:?}");
    }

    #[test]
    fn the_budget_is_a_share_of_reads() {
        let hedge = Hedge::new(2);
        assert!(!hedge.spend());
        (0..100).for_each(|_| hedge.earn(5));
        let spent = (0..100).filter(|_| hedge.spend()).count();
        assert!((4..=5).contains(&spent), "{spent}");
        (0..100_000).for_each(|_| hedge.earn(5));
        assert_eq!((0..100).filter(|_| hedge.spend()).count(), 20);
    }
}
