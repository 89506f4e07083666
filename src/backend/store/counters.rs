//! What a shard counts.

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What a shard has seen since it was made or its counters were reset.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            /// Adds what another shard has seen.
            pub fn add(&mut self, other: &Self) {
                // A time, not a number of things.
                let evicted_seconds = self.evicted_seconds.max(other.evicted_seconds);
                $(self.$name = self.$name.wrapping_add(other.$name);)*
                self.evicted_seconds = evicted_seconds;
            }
        }
    };
}

counters! {
    /// Keys retrieved.
    gets,
    /// Keys retrieved and found.
    get_hits,
    /// Keys retrieved and not found.
    get_misses,
    /// Items found expired when somebody asked for them.
    get_expired,
    /// Keys asked for that had been there before everything was dropped.
    get_flushed,
    /// Values to be stored that there was room for, whether they were stored then or not.
    sets,
    /// Times to live given anew, or meant to be.
    touches,
    /// Of those the key was found.
    touch_hits,
    /// Of those the key was not found.
    touch_misses,
    /// Items deleted.
    delete_hits,
    /// Deletions of what was not there.
    delete_misses,
    /// Numbers counted up.
    incr_hits,
    /// Of what was not there.
    incr_misses,
    /// Numbers counted down.
    decr_hits,
    /// Of what was not there.
    decr_misses,
    /// Values stored because their cas id fitted.
    cas_hits,
    /// Values not stored because it did not.
    cas_badval,
    /// Of what was not there.
    cas_misses,
    /// Meta commands of the debugging kind.
    meta_debugs,
    /// Values refused for their size.
    too_large,
    /// Retrievals cut short because their replies were too large together.
    oversized,
    /// Values refused because there was no memory.
    no_memory,
    /// Items that came into being.
    total_items,
    /// Items evicted to make room.
    evictions,
    /// Of those, items with a time to live.
    evicted_nonzero,
    /// Of those, items that had never been read.
    evicted_unfetched,
    /// Of those, items that had been used since they were last spared.
    evicted_active,
    /// How long ago, in seconds, the item evicted last had been used; of several shards
    /// the longest.
    evicted_seconds,
    /// Items whose memory was taken back because they had expired or everything was
    /// dropped.
    reclaimed,
    /// Expired items that had never been read.
    expired_unfetched,
    /// Expired items found by the janitor.
    swept,
    /// Items looked at by the janitor.
    swept_over,
    /// Items that outlived the queue of the young.
    promoted,
    /// Items spared once more because they had been used.
    spared,
    /// Items moved to close the gaps between them.
    compacted,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_add_up() {
        let mut sum = Counters::default();
        let one = Counters {
            gets: 1,
            compacted: 2,
            ..Counters::default()
        };
        sum.add(&one);
        sum.add(&one);
        assert_eq!((sum.gets, sum.compacted, sum.sets), (2, 4, 0));
    }

    #[test]
    fn of_times_the_longest_is_told() {
        let mut sum = Counters::default();
        for evicted_seconds in [5, 7, 6] {
            sum.add(&Counters {
                evicted_seconds,
                ..Counters::default()
            });
        }
        assert_eq!(sum.evicted_seconds, 7);
    }
}
