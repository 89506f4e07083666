//! `stats items`, `slabs`, `sizes` and `cachedump`: what is in the store.
//!
//! Items are not sorted into classes by their size; they are told as one class.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::ControlFlow;

use super::Report;
use crate::backend::server::shared::Shared;
use crate::backend::store::{EXTENT_BYTES, UNIT};

/// Most bytes that `stats cachedump` answers, as in memcached.
const DUMP_BYTES_MAX: usize = 2 << 20;

/// Classes of memcached's allocator end below this number.
const CLASSES: u32 = 64;

/// Sizes are told in steps of so many bytes.
const SIZE_STEP: usize = 32;

pub(super) fn report_items(shared: &Shared, now: u32) -> String {
    let totals = shared.store.totals();
    let counters = totals.counters;
    let told = &shared.settings.told;
    let age = |since: Option<u32>| since.map_or(0, |since| now.saturating_sub(since));
    let [young, main] = totals.oldest;
    let mut report = Report::default();
    // As in memcached an empty class is not told, unless it has something to tell.
    if totals.items == 0 && counters.total_items == 0 {
        return report.finish();
    }
    let mut item = |name: &str, value: u64| report.line(&format!("items:1:{name}"), value);
    item("number", totals.items);
    if told.maintains {
        let [young, main] = totals.queue_items;
        item("number_hot", young);
        item("number_warm", main);
        item("number_cold", 0);
        item("age_hot", age(totals.oldest[0]).into());
        item("age_warm", age(totals.oldest[1]).into());
    }
    item("age", age(main.or(young)).into());
    item("mem_requested", totals.bytes);
    item("evicted", counters.evictions);
    item("evicted_nonzero", counters.evicted_nonzero);
    item("evicted_time", counters.evicted_seconds);
    item("outofmemory", counters.no_memory);
    item("tailrepairs", 0);
    item("reclaimed", counters.reclaimed);
    item("expired_unfetched", counters.expired_unfetched);
    item("evicted_unfetched", counters.evicted_unfetched);
    if told.maintains {
        item("evicted_active", counters.evicted_active);
    }
    item("crawler_reclaimed", counters.swept);
    item("crawler_items_checked", counters.swept_over);
    item("lrutail_reflocked", 0);
    if told.maintains {
        item("moves_to_cold", 0);
        item("moves_to_warm", counters.promoted);
        item("moves_within_lru", counters.spared);
        item("direct_reclaims", 0);
    }
    report.finish()
}

pub(super) fn report_slabs(shared: &Shared) -> String {
    let totals = shared.store.totals();
    let counters = totals.counters;
    let units = |bytes: u64| bytes / u64::try_from(UNIT).unwrap_or(1);
    let used = units(totals.bytes);
    let total = units(u64::try_from(shared.store.memory_bytes()).unwrap_or(0)).max(used);
    let mut report = Report::default();
    if totals.items > 0 {
        let mut slab = |name: &str, value: u64| report.line(&format!("1:{name}"), value);
        let per_page = u64::try_from(EXTENT_BYTES / UNIT).unwrap_or(1);
        slab("chunk_size", u64::try_from(UNIT).unwrap_or(1));
        slab("chunks_per_page", per_page);
        slab("total_pages", total / per_page);
        slab("total_chunks", total);
        slab("used_chunks", used);
        slab("free_chunks", total - used);
        slab("free_chunks_end", 0);
        slab("get_hits", counters.get_hits);
        slab("cmd_set", counters.sets);
        slab("delete_hits", counters.delete_hits);
        slab("incr_hits", counters.incr_hits);
        slab("decr_hits", counters.decr_hits);
        slab("cas_hits", counters.cas_hits);
        slab("cas_badval", counters.cas_badval);
        slab("touch_hits", counters.touch_hits);
    }
    report.line("active_slabs", u8::from(totals.items > 0));
    report.line("total_malloced", shared.store.memory_bytes());
    report.finish()
}

pub(super) fn report_sizes(shared: &Shared) -> String {
    let mut report = Report::default();
    if !shared.settings.told.tracks_sizes {
        report.line("sizes_status", "disabled");
        return report.finish();
    }
    let mut sizes: BTreeMap<usize, u64> = BTreeMap::new();
    shared.store.walk(|found| {
        let size = found.cost().next_multiple_of(SIZE_STEP);
        *sizes.entry(size).or_default() += 1;
        ControlFlow::Continue(())
    });
    for (size, count) in sizes {
        report.line(&size.to_string(), count);
    }
    report.finish()
}

/// `stats cachedump`: some of the keys.
pub(super) fn dump(shared: &Shared, class: u32, limit: u32, now: u32) -> String {
    if class >= CLASSES {
        return "CLIENT_ERROR Illegal slab id\r\n".to_owned();
    }
    let mut text = String::new();
    let mut left = if limit == 0 { u32::MAX } else { limit };
    shared.store.walk(|found| {
        let item = found.item;
        if class != 1 || left == 0 || text.len() >= DUMP_BYTES_MAX {
            return ControlFlow::Break(());
        }
        // A key that is no text cannot be told here.
        if let Ok(key) = str::from_utf8(item.key())
            && !item.is_expired(now)
        {
            left -= 1;
            let (bytes, exptime) = (found.value_len(), item.exptime());
            // Writing to a string cannot fail.
            let _ = write!(text, "ITEM {key} [{bytes} b; {exptime} s]\r\n");
        }
        ControlFlow::Continue(())
    });
    text.push_str("END\r\n");
    text
}
