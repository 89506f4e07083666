//! Keeping memory in RAM (`-k`).

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, capabilities};

/// Addresses of a thread: 64 MiB that the allocator sets aside, its stack, and some to
/// spare.
const EACH_THREAD: u64 = 80 << 20;

/// Threads beside the workers, and as much again for the program itself.
const MORE_THREADS: u64 = 5;

/// Raises the limit of locked memory as far as the system lets. To be called before root
/// becomes another user, to whom it applies.
pub(super) fn raise_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Memlock);
    // Beyond the hard limit if the process may, else up to it.
    let _ = [None, maximum].into_iter().find(|&limit| {
        let raised = Rlimit {
            current: limit,
            maximum: limit,
        };
        setrlimit(Resource::Memlock, raised).is_ok()
    });
}

/// Has all memory locked from now on, or warns. Where the limit is too low nothing is
/// locked: at the limit threads cannot be started, and memory ends in the midst of work.
pub(super) fn lock_memory(memory_bytes: usize, threads: usize) {
    let needed = addresses(memory_bytes, threads);
    let limit = getrlimit(Resource::Memlock).current;
    if let Some(limit) = limit.filter(|limit| *limit < needed && !is_above_limits()) {
        tracing::warn!(
            limit_kib = limit >> 10,
            needed_kib = needed >> 10,
            "-k: memory is not locked, because the limit of locked memory (ulimit -l) is too low"
        );
        return;
    }
    // Pages as they are written first: the store has addresses behind which there is no
    // memory, and -m does not count them.
    let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    if let Err(error) = mlockall(flags) {
        tracing::warn!(%error, "-k: memory cannot be locked");
    }
}

/// Addresses that the process may come to have: the system counts these, whether or not
/// there is memory behind them. Under mixed loads of changing sizes those of the store
/// have been up to 1.7 times -m.
fn addresses(memory_bytes: usize, threads: usize) -> u64 {
    let count = |number| u64::try_from(number).unwrap_or(u64::MAX);
    let of_threads = count(threads)
        .saturating_add(MORE_THREADS)
        .saturating_mul(EACH_THREAD);
    count(memory_bytes)
        .saturating_mul(2)
        .saturating_add(of_threads)
}

/// Whether the process may lock whatever it likes.
fn is_above_limits() -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_grows_with_memory_and_threads() {
        assert_eq!(addresses(64 << 20, 4), (128 + 9 * 80) << 20);
        assert_eq!(addresses(usize::MAX, 1), u64::MAX);
    }
}
