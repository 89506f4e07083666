//! Which requests may be sent once more, and how many.
//!
//! A server may close a connection that has been idle for a while just as a
//! request is written to it. Nothing is wrong with either, so the request is
//! sent again on the next connection, if doing it twice does no harm.

/// Requests that may be repeated at once, however few have been asked: a share of
/// nothing would be nothing.
const BURST: u64 = 32;

/// Whether doing this twice is the same as doing it once, and its reply too.
///
/// Plain retrievals only. A repeated `set` may overwrite what another client has stored
/// in between, a repeated `delete` finds nothing to delete.
pub(super) fn is_idempotent(request: &[u8]) -> bool {
    let verb = request.split(|&byte| byte == b' ').next();
    match verb.unwrap_or_default() {
        b"get" | b"gets" => true,
        // A retrieval that makes an item (`N`) or is told to renew it (`R`) wins
        // only once.
        b"mg" => {
            let line = request.split(|&byte| byte == b'\r').next();
            let words = line.unwrap_or_default().split(|&byte| byte == b' ');
            let mut flags = words.skip(2).filter_map(|word| word.first());
            !flags.any(|flag| matches!(flag, b'N' | b'R'))
        }
        _ => false,
    }
}

/// How many requests may be repeated: a share of all, so that a server in trouble
/// is not asked twice as much.
#[derive(Debug, Default)]
pub(super) struct Budget {
    /// Hundredths of a request that may be repeated.
    hundredths: u64,
    /// Requests that have been counted.
    counted: u64,
}

impl Budget {
    /// Takes one, of `percent` of the `requests` made so far; says whether there
    /// was one left.
    pub(super) fn take(&mut self, requests: u64, percent: u32) -> bool {
        let fresh = requests.wrapping_sub(self.counted);
        let first = self.counted == 0;
        self.counted = requests;
        let earned = fresh.saturating_mul(u64::from(percent));
        let start = if first { BURST * 100 } else { 0 };
        let saved = self.hundredths.saturating_add(earned).saturating_add(start);
        // What is not used up does not add up to a storm.
        self.hundredths = saved.min(BURST * 100);
        if percent == 0 || self.hundredths < 100 {
            return false;
        }
        self.hundredths -= 100;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changes_nothing_may_be_done_twice() {
        for request in ["get a\r\n", "gets a b\r\n", "mg N\r\n", "mg a v t O1\r\n"] {
            assert!(is_idempotent(request.as_bytes()), "{request}");
        }
        for request in [
            "set get 0 0 1\r\nx\r\n",
            "delete a\r\n",
            "incr a 1\r\n",
            "mg a v N30\r\n",
            "mg a R30 v\r\n",
            "ms a 1\r\nx\r\n",
            "touch a 0\r\n",
            "gat 0 a\r\n",
            "",
        ] {
            assert!(!is_idempotent(request.as_bytes()), "{request}");
        }
    }

    #[test]
    fn retries_are_a_share_of_requests() {
        let mut budget = Budget::default();
        let taken = (0..100).filter(|_| budget.take(10, 10)).count();
        assert_eq!(taken, 32, "the burst");
        let taken = (0..100).filter(|_| budget.take(60, 10)).count();
        assert_eq!(taken, 5);
        let taken = (0..100).filter(|_| budget.take(1_000_000, 10)).count();
        assert_eq!(taken, 32, "no more than a burst is saved up");
        assert!(!Budget::default().take(1000, 0));
    }
}
