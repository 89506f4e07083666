//! What is told of a store: that of `ketch backend`, and those of embedded servers.

use std::any::Any;

use super::page::{Family, Kind, Page, families};
use crate::backend::store::Totals;
use crate::backend::{Embedded, Store};
use crate::proxy::Member;

families! {
    ITEMS Gauge "ketch_cache_items" [] "items there are";
    ITEM_BYTES Gauge "ketch_cache_item_bytes" [] "bytes of items, in the log and outside";
    INDEX_BYTES Gauge "ketch_cache_index_bytes" [] "bytes of the index";
    MEMORY Gauge "ketch_cache_memory_bytes" [] "memory in use for items and index";
    MEMORY_MAX Gauge "ketch_cache_memory_max_bytes" [] "most memory there may be for them (-m, embedded_memory)";
    PINNED Gauge "ketch_cache_pinned_bytes" [] "memory of large values that cannot be evicted: they are on their way in, or are still written to clients though no item keeps them";
    GETS Counter "ketch_cache_gets_total" [] "keys retrieved";
    HITS Counter "ketch_cache_hits_total" [] "keys retrieved and found";
    MISSES Counter "ketch_cache_misses_total" [] "keys retrieved and not found";
    SETS Counter "ketch_cache_sets_total" [] "values to be stored that there was room for, whether they were stored then or not";
    TOO_LARGE Counter "ketch_cache_too_large_total" [] "values refused for their size (-I, clients.value_bytes_max)";
    NO_MEMORY Counter "ketch_cache_no_memory_total" [] "values refused because there was no memory";
    EVICTIONS Counter "ketch_cache_evictions_total" [] "items evicted to make room";
    EXPIRED Counter "ketch_cache_expired_total" [] "items whose memory was taken back because they had expired or everything was dropped";
    SWEPT Counter "ketch_cache_swept_total" [] "expired items that the janitor found";
    PROMOTED Counter "ketch_cache_promoted_total" [] "items that outlived the queue of the young";
    SPARED Counter "ketch_cache_spared_total" [] "items spared in the main queue because they had been used";
    COMPACTED Counter "ketch_cache_compacted_total" [] "items moved to close the gaps between them";
}

/// A family and where its number comes from.
type Counted = (Family, fn(&Look) -> u64);

const NUMBERS: [Counted; 18] = [
    (ITEMS, |look| look.totals.items),
    (ITEM_BYTES, |look| look.totals.bytes),
    (INDEX_BYTES, |look| to_u64(look.totals.index_bytes)),
    (MEMORY, |look| look.memory_bytes),
    (MEMORY_MAX, |look| look.memory_bytes_max),
    (PINNED, |look| look.pinned_bytes),
    (GETS, |look| look.totals.counters.gets),
    (HITS, |look| look.totals.counters.get_hits),
    (MISSES, |look| look.totals.counters.get_misses),
    (SETS, |look| look.totals.counters.sets),
    (TOO_LARGE, |look| look.totals.counters.too_large),
    (NO_MEMORY, |look| look.totals.counters.no_memory),
    (EVICTIONS, |look| look.totals.counters.evictions),
    (EXPIRED, |look| look.totals.counters.reclaimed),
    (SWEPT, |look| look.totals.counters.swept),
    (PROMOTED, |look| look.totals.counters.promoted),
    (SPARED, |look| look.totals.counters.spared),
    (COMPACTED, |look| look.totals.counters.compacted),
];

/// A store as it is at a moment.
#[derive(Debug)]
pub struct Look {
    /// What its shards hold and have counted.
    pub totals: Totals,
    /// Memory in use.
    pub memory_bytes: u64,
    /// The most there may be.
    pub memory_bytes_max: u64,
    /// Memory that cannot be evicted.
    pub pinned_bytes: u64,
}

impl Look {
    /// Looks at a store.
    pub fn at(store: &Store) -> Self {
        Self {
            totals: store.totals(),
            memory_bytes: to_u64(store.memory_bytes()),
            memory_bytes_max: to_u64(store.memory_bytes_max()),
            pinned_bytes: to_u64(store.pinned_bytes()),
        }
    }

    /// Looks at the cache behind a server, if that is the bundled one in this process.
    pub fn at_embedded(member: &Member) -> Option<Self> {
        let cache: &dyn Any = &*member.embedded.as_ref()?.serve;
        Some(Self::at(cache.downcast_ref::<Embedded>()?.store()))
    }
}

/// The families, for stores that are told apart by `labels`.
pub fn families_by(labels: &'static [&'static str]) -> impl Iterator<Item = Family> {
    FAMILIES
        .iter()
        .map(move |&family| Family { labels, ..family })
}

/// Writes all families. Each store comes with the values of its labels.
pub fn sample(page: &mut Page, labels: &'static [&'static str], stores: &[(Vec<&str>, Look)]) {
    for (family, number) in NUMBERS {
        let mut samples = page.family(&Family { labels, ..family });
        for (values, look) in stores {
            samples.sample(values, number(look));
        }
    }
}

fn to_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
