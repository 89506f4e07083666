//! Any live server, as twemproxy's `random`: a key may go to another one each
//! time, so that this serves identical replicas only.

use std::cell::Cell;
use std::hash::{BuildHasher as _, RandomState};

use super::selector::{Server, listed};

thread_local! {
    /// The state of the generator; 0 until the first draw of the thread. One
    /// for each thread, so that workers share nothing.
    static STATE: Cell<u64> = const { Cell::new(0) };
}

/// The live servers, one as good as the other.
#[derive(Debug)]
pub(in crate::router) struct Random {
    servers: Box<[u32]>,
}

impl Random {
    pub(super) fn new(live: &[&Server]) -> Random {
        Random {
            servers: listed(live.iter().copied()),
        }
    }

    /// One of the servers; weights do not count.
    #[inline]
    pub(super) fn pick(&self) -> u32 {
        // The upper half of the product is an even draw below the length.
        let scaled = u128::from(draw()) * self.servers.len() as u128;
        let number = usize::try_from(scaled >> 64).unwrap_or(0);
        self.servers.get(number).copied().unwrap_or(0)
    }

    pub(super) fn shares(&self, add: &mut impl FnMut(u32, f64)) {
        for server in &self.servers {
            add(*server, 1.0 / self.servers.len() as f64);
        }
    }
}

/// A random number by splitmix64, seeded by the standard library's random keys
/// when a thread first draws.
#[inline]
fn draw() -> u64 {
    // Without the thread's state, at its very end, any server is as good.
    STATE
        .try_with(|state| {
            let before = match state.get() {
                0 => RandomState::new().hash_one(0),
                before => before,
            };
            let now = before.wrapping_add(0x9e37_79b9_7f4a_7c15);
            state.set(now);
            let mixed = (now ^ (now >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31)
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::distribution::selector::servers_for_tests;

    #[test]
    fn every_server_gets_its_part() {
        let servers = servers_for_tests([("", 1.0); 5]);
        let random = Random::new(&servers.iter().collect::<Vec<_>>());
        let mut counts = [0_u32; 5];
        for _ in 0..50_000 {
            counts[random.pick() as usize] += 1;
        }
        // Twelve standard deviations: a good generator never fails this.
        assert!(
            counts.iter().all(|count| count.abs_diff(10_000) < 1_100),
            "{counts:?}"
        );
    }
}
