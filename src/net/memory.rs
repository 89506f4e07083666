//! Giving freed memory back to the system.
#![expect(
    unsafe_code,
    reason = "two calls into the C library, behind functions that cannot be misused"
)]

/// Gives free pages of the allocator back. Takes milliseconds where there is much to
/// give: for idle moments only.
///
/// After a burst of a thousand clients the allocator holds tens of megabytes of free
/// pages between the few that are in use, and gives back only what happens to lie at
/// the end. Measured with glibc: 43 MiB resident after such a burst, 5 MiB when it is
/// asked to give back the rest. Other C libraries do it unasked.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: `malloc_trim` may be called at any time and from any thread; it
        // frees only pages that hold no live allocation.
        unsafe {
            libc::malloc_trim(0);
        }
    }
}

/// Gives back the pages that lie whole within `bytes`, which stay usable: what was in
/// them is lost, and they are taken from the system again when they are written.
///
/// Says whether the system took them. It does not take pages that are locked in memory.
pub fn give_back(bytes: &mut [u8]) -> bool {
    let page = rustix::param::page_size();
    let before = bytes.as_ptr().align_offset(page);
    let whole = bytes.get_mut(before..).unwrap_or_default();
    let len = whole.len() / page * page;
    if len == 0 {
        return true;
    }
    // SAFETY: the range is that of a slice nobody else can look at meanwhile, and holds
    // whole pages. Of memory that belongs to no file they read as zeros from then on,
    // of a file as the file does: all are bytes that `u8` can have.
    let done = unsafe { libc::madvise(whole.as_mut_ptr().cast(), len, libc::MADV_DONTNEED) };
    done == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_pages_are_given_back_and_stay_usable() {
        let page = rustix::param::page_size();
        let mut map = memmap2::MmapMut::map_anon(4 * page).unwrap();
        map.fill(7);
        // Part of the first and of the last page are kept.
        assert!(give_back(&mut map[1..4 * page - 1]));
        let (kept, rest) = map.split_at(page);
        assert!(kept.iter().all(|&byte| byte == 7));
        let (gone, kept) = rest.split_at(2 * page);
        assert!(gone.iter().all(|&byte| byte == 0) && kept.iter().all(|&byte| byte == 7));
        map[page] = 1;
        assert_eq!(map[page], 1);
        assert!(give_back(&mut map[..page - 1]) && map[0] == 7);
    }
}
