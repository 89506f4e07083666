//! Runs of pages that nobody uses, by where they lie and by how long they are.

use std::collections::{BTreeMap, BTreeSet};

use crate::net::span::Span;

/// Runs of pages. Those that lie side by side are one.
#[derive(Debug, Default)]
pub(super) struct Runs {
    by_start: BTreeMap<usize, Span>,
    /// Length and start of each.
    by_len: BTreeSet<(usize, usize)>,
    /// Bytes of all.
    bytes: usize,
}

impl Runs {
    /// Bytes of all.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a run.
    pub(super) fn add(&mut self, span: Span) {
        if span.is_empty() {
            return;
        }
        let start = span.address();
        let before = self.by_start.range(..start).next_back();
        let before = before.map(|(&start, _)| start);
        let mut whole = match before.and_then(|before| self.remove(before)) {
            None => span,
            Some(before) => before.join(span).unwrap_or_else(|(before, span)| {
                self.put(before);
                span
            }),
        };
        let end = whole.address() + whole.len();
        if let Some(next) = self.remove(end) {
            whole = whole.join(next).unwrap_or_else(|(whole, next)| {
                self.put(next);
                whole
            });
        }
        self.put(whole);
    }

    /// Takes as many as `bytes` of the run that begins at `after`; or `bytes` of the shortest
    /// that has `room`, or of the longest there is.
    pub(super) fn take(&mut self, bytes: usize, room: usize, after: Option<usize>) -> Option<Span> {
        let has_enough = |start: &usize| {
            let run = self.by_start.get(start);
            run.is_some_and(|run| run.len() >= bytes)
        };
        let roomy = || Some(self.by_len.range((room, 0)..).next()?.1);
        let longest = || Some(self.by_len.last()?.1).filter(has_enough);
        let next = after.filter(|start| self.by_start.contains_key(start));
        let start = next.or_else(roomy).or_else(longest)?;
        self.take_at(start, bytes)
    }

    /// Takes as many as `bytes` of the longest run, if that has `least`.
    pub(super) fn take_longest(&mut self, least: usize, bytes: usize) -> Option<Span> {
        let &(len, start) = self.by_len.last()?;
        (len >= least).then(|| self.take_at(start, bytes.min(len)))?
    }

    /// Takes the longest run that is no longer than `bytes`, or so many of the shortest.
    pub(super) fn take_within(&mut self, bytes: usize) -> Option<Span> {
        if bytes == 0 {
            return None;
        }
        let within = self.by_len.range(..=(bytes, usize::MAX)).next_back();
        let &(len, start) = within.or_else(|| self.by_len.first())?;
        self.take_at(start, bytes.min(len))
    }

    /// Takes `bytes` that begin at a multiple of as many, if some run has them.
    pub(super) fn take_aligned(&mut self, bytes: usize) -> Option<Span> {
        let start = self.by_len.range((bytes, 0)..).find_map(|&(len, start)| {
            let aligned = start.next_multiple_of(bytes);
            (aligned - start + bytes <= len).then_some(start)
        })?;
        let run = self.remove(start)?;
        let (before, run) = run.split_at(start.next_multiple_of(bytes) - start);
        let (taken, rest) = run.split_at(bytes);
        self.add(before);
        self.add(rest);
        Some(taken)
    }

    /// Bytes of the `len` from `start` on that belong to the last run among them.
    pub(super) fn overlap(&self, start: usize, len: usize) -> usize {
        let last = self.by_start.range(..start + len).next_back();
        last.map_or(0, |(&run, span)| {
            let end = (run + span.len()).min(start + len);
            end.saturating_sub(run.max(start))
        })
    }

    /// Takes the first `bytes` of the run that begins at `start`.
    fn take_at(&mut self, start: usize, bytes: usize) -> Option<Span> {
        let (taken, rest) = self.remove(start)?.split_at(bytes);
        self.add(rest);
        Some(taken)
    }

    fn put(&mut self, run: Span) {
        self.bytes += run.len();
        self.by_len.insert((run.len(), run.address()));
        self.by_start.insert(run.address(), run);
    }

    fn remove(&mut self, start: usize) -> Option<Span> {
        let run = self.by_start.remove(&start)?;
        self.by_len.remove(&(run.len(), start));
        self.bytes -= run.len();
        Some(run)
    }
}

#[cfg(test)]
mod tests {
    use memmap2::MmapMut;

    use super::*;

    fn span(len: usize) -> Span {
        MmapMut::map_anon(len).unwrap().into()
    }

    #[test]
    fn the_shortest_run_that_is_long_enough_is_taken_first() {
        let mut runs = Runs::default();
        let (long, rest) = span(20 << 12).split_at(10 << 12);
        let (used, short) = rest.split_at(6 << 12);
        let (start, _) = (short.address(), runs.add(short));
        runs.add(long);
        assert_eq!(runs.take(3 << 12, 3 << 12, None).unwrap().address(), start);
        assert_eq!(runs.take(3 << 12, 3 << 12, None).unwrap().len(), 3 << 12);
        assert_eq!(runs.bytes(), 8 << 12);
        assert!(runs.take(8 << 12, 8 << 12, None).is_none());
        drop(used);
    }

    #[test]
    fn what_comes_back_is_one_run_again_in_any_order() {
        let mut random = fastrand::Rng::with_seed(3);
        let mut runs = Runs::default();
        runs.add(span(64 << 12));
        for _ in 0..200 {
            let mut taken: Vec<_> =
                std::iter::from_fn(|| runs.take(random.usize(1..9) << 12, 1 << 12, None)).collect();
            random.shuffle(&mut taken);
            assert_eq!(
                runs.bytes() + taken.iter().map(|span| span.len()).sum::<usize>(),
                64 << 12
            );
            taken.into_iter().for_each(|span| runs.add(span));
            assert_eq!((runs.by_start.len(), runs.by_len.len()), (1, 1));
        }
        assert_eq!(runs.take_longest(1, usize::MAX).unwrap().len(), 64 << 12);
        assert_eq!(runs.bytes(), 0);
    }

    #[test]
    fn who_will_need_more_gets_room_for_it() {
        let mut runs = Runs::default();
        let lens = [3, 8, 20].map(|pages: usize| pages << 12);
        lens.iter().for_each(|&len| runs.add(span(len)));
        let mut left = |bytes, room| {
            runs.take(bytes, room, None);
            runs.by_len
                .iter()
                .map(|(len, _)| len >> 12)
                .collect::<Vec<_>>()
        };
        assert_eq!(left(1 << 12, 5 << 12), [3, 7, 20]);
        assert_eq!(left(1 << 12, 99 << 12), [3, 7, 19]);
        assert_eq!(left(1 << 12, 1 << 12), [2, 7, 19]);
        assert_eq!(left(20 << 12, 99 << 12), [2, 7, 19]);
    }

    #[test]
    fn it_is_known_where_runs_lie() {
        let mut runs = Runs::default();
        let (first, rest) = span(9 << 12).split_at(3 << 12);
        let (second, third) = rest.split_at(3 << 12);
        let [start, middle, end] = [&first, &second, &third].map(Span::address);
        runs.add(second);
        assert_eq!(runs.overlap(start, 3 << 12), 0);
        assert_eq!(runs.overlap(start, 4 << 12), 1 << 12);
        assert_eq!(runs.overlap(middle, 3 << 12), 3 << 12);
        assert_eq!(runs.overlap(middle + 4096, 9 << 12), 2 << 12);
        assert_eq!(runs.overlap(end, 3 << 12), 0);
        drop((first, third));
    }

    #[test]
    fn what_follows_is_preferred() {
        let mut runs = Runs::default();
        let (first, rest) = span(30 << 12).split_at(10 << 12);
        let end = first.address() + first.len();
        runs.add(rest);
        runs.add(span(5 << 12));
        let next = runs.take(4 << 12, 4 << 12, Some(end)).unwrap();
        assert_eq!(first.join(next).unwrap().len(), 14 << 12);
        assert_ne!(
            runs.take(4 << 12, 4 << 12, Some(end)).unwrap().address(),
            end
        );
        let (gap, rest) = span(9 << 12).split_at(6 << 12);
        let start = rest.address();
        runs.add(rest);
        let next = runs.take(5 << 12, 5 << 12, Some(start)).unwrap();
        assert_eq!((next.address(), next.len()), (start, 3 << 12));
        drop(gap);
    }

    #[test]
    fn aligned_bytes_are_cut_out_of_a_run() {
        let mut runs = Runs::default();
        assert!(runs.take_aligned(4 << 12).is_none());
        runs.add(span(11 << 12));
        let taken = runs.take_aligned(4 << 12).unwrap();
        assert!(taken.address().is_multiple_of(4 << 12));
        assert_eq!((taken.len(), runs.bytes()), (4 << 12, 7 << 12));
        let short = span(4 << 12);
        let (_, unaligned) = short.split_at(1 << 12);
        let mut runs = Runs::default();
        runs.add(unaligned);
        assert!(runs.take_aligned(4 << 12).is_none());
        assert!(runs.take_longest(4 << 12, usize::MAX).is_none());
        assert_eq!(runs.take_longest(1, 2 << 12).unwrap().len(), 2 << 12);
        runs.add(span(7 << 12));
        assert_eq!(runs.take_within(5 << 12).unwrap().len(), 1 << 12);
        assert_eq!(runs.take_within(5 << 12).unwrap().len(), 5 << 12);
        runs.add(span(1 << 12));
        assert_eq!(runs.take_within(5 << 12).unwrap().len(), 2 << 12);
    }
}
