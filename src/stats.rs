//! Counters and histograms that cost a request next to nothing.
//!
//! Each is written by one thread only and read by any: an addition is a plain
//! load and store, no locked instruction and no cache line that threads pull
//! from each other. A reader sums over the threads.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that one thread counts up and others read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `amount`. Only the owning thread may call it.
    #[inline]
    pub fn add(&self, amount: u64) {
        let sum = self.0.load(Ordering::Relaxed).wrapping_add(amount);
        self.0.store(sum, Ordering::Relaxed);
    }

    /// Adds one. Only the owning thread may call it.
    #[inline]
    pub fn increment(&self) {
        self.add(1);
    }

    /// The sum so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down, written by one thread and read by others.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Sets the number. Only the owning thread may call it.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The number now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Steps within each doubling of a [`Histogram`]'s range: a value is known to
/// within a quarter.
const STEPS: usize = 4;
/// Doublings covered: 2^27 microseconds are more than two minutes.
const DOUBLINGS: usize = 28;
/// Buckets of a histogram.
const BUCKETS: usize = STEPS * DOUBLINGS;

/// How often values of each size were seen; sizes in microseconds.
#[derive(Debug)]
pub struct Histogram {
    buckets: [Counter; BUCKETS],
    sum: Counter,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: std::array::from_fn(|_| Counter::default()),
            sum: Counter::default(),
        }
    }
}

/// The bucket a value falls into.
#[inline]
fn bucket_of(micros: u64) -> usize {
    let value = micros | 1;
    let doubling = 63 - value.leading_zeros();
    // The two bits below the highest one tell the step.
    let step = if doubling >= 2 {
        (value >> (doubling - 2)) & 3
    } else {
        0
    };
    let doubling = usize::try_from(doubling).unwrap_or(DOUBLINGS);
    let step = usize::try_from(step).unwrap_or(0);
    (doubling * STEPS + step).min(BUCKETS - 1)
}

/// The smallest value above all those of a bucket.
fn bucket_end(bucket: usize) -> u64 {
    let (doubling, step) = (bucket / STEPS, bucket % STEPS);
    let start = 1u64 << doubling;
    let step = u64::try_from(step).unwrap_or(0) + 1;
    if doubling >= 2 {
        start + (start / 4) * step
    } else {
        start * 2
    }
}

impl Histogram {
    /// Counts one value. Only the owning thread may call it.
    #[inline]
    pub fn record(&self, micros: u64) {
        if let Some(bucket) = self.buckets.get(bucket_of(micros)) {
            bucket.increment();
        }
        self.sum.add(micros);
    }
}

/// The sum of several histograms at one point in time.
#[derive(Clone, Debug)]
pub struct HistogramSum {
    buckets: [u64; BUCKETS],
    sum: u64,
}

impl Default for HistogramSum {
    fn default() -> Self {
        Self {
            buckets: [0; BUCKETS],
            sum: 0,
        }
    }
}

impl HistogramSum {
    /// Adds what one histogram holds.
    pub fn add(&mut self, histogram: &Histogram) {
        for (mine, theirs) in self.buckets.iter_mut().zip(&histogram.buckets) {
            *mine = mine.wrapping_add(theirs.get());
        }
        self.sum = self.sum.wrapping_add(histogram.sum.get());
    }

    /// What has been seen since `earlier`, a sum of the same histograms.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut since = self.clone();
        for (mine, theirs) in since.buckets.iter_mut().zip(earlier.buckets) {
            *mine = mine.wrapping_sub(theirs);
        }
        since.sum = since.sum.wrapping_sub(earlier.sum);
        since
    }

    /// How many values were seen.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The sum of all values, in microseconds.
    pub fn sum_micros(&self) -> u64 {
        self.sum
    }

    /// For each doubling, an upper bound in microseconds and how many values
    /// were below it. The bounds are the same for every histogram.
    pub fn cumulative(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let mut seen = 0u64;
        self.buckets
            .chunks(STEPS)
            .enumerate()
            .map(move |(doubling, steps)| {
                seen = seen.wrapping_add(steps.iter().sum());
                (2u64 << doubling, seen)
            })
    }

    /// The value, in microseconds, below which `share` (0 to 1) of all values
    /// lie, to within a quarter; `None` if there are none.
    pub fn quantile(&self, share: f64) -> Option<u64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rank within the count, rounded up; clamped to it"
        )]
        let rank = ((count as f64 * share.clamp(0.0, 1.0)).ceil() as u64).clamp(1, count);
        let mut seen = 0u64;
        self.buckets
            .iter()
            .enumerate()
            .find_map(|(bucket, &values)| {
                seen = seen.wrapping_add(values);
                (seen >= rank).then(|| bucket_end(bucket))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quantiles_are_right_to_within_a_quarter() {
        let histogram = Histogram::default();
        for micros in 1..=1000 {
            histogram.record(micros);
        }
        let mut sum = HistogramSum::default();
        sum.add(&histogram);
        assert_eq!((sum.count(), sum.sum_micros()), (1000, 500_500));
        assert_eq!(sum.since(&sum).count(), 0);
        assert_eq!(sum.since(&HistogramSum::default()).sum_micros(), 500_500);
        let median = sum.quantile(0.5).unwrap();
        assert!((500..=640).contains(&median), "{median}");
        let last = sum.quantile(1.0).unwrap();
        assert!((1000..=1280).contains(&last), "{last}");
        assert_eq!(HistogramSum::default().quantile(0.5), None);
    }

    #[test]
    fn cumulative_counts_end_with_all_values() {
        let histogram = Histogram::default();
        for micros in [0, 1, 3, 100, u64::MAX] {
            histogram.record(micros);
        }
        let mut sum = HistogramSum::default();
        sum.add(&histogram);
        let steps: Vec<_> = sum.cumulative().collect();
        assert_eq!(steps.first(), Some(&(2, 2)));
        assert_eq!(steps.last().map(|step| step.1), Some(5));
        assert!(steps.windows(2).all(|pair| pair[0].1 <= pair[1].1));
    }

    proptest! {
        #[test]
        fn a_value_lies_below_the_end_of_its_bucket(micros in 0u64..(1 << 27)) {
            let bucket = bucket_of(micros);
            prop_assert!(micros < bucket_end(bucket));
            prop_assert!(bucket == 0 || micros.max(1) >= bucket_end(bucket) / 2);
        }
    }
}
