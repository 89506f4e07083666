//! Giving freed memory back to the system.
#![expect(
    unsafe_code,
    reason = "calls into the C library, behind functions that cannot be misused"
)]

use std::sync::LazyLock;

#[cfg(target_os = "linux")]
use rustix::mm::MlockFlags;

/// From this size on the allocator takes memory of its own from the system for each
/// allocation, in bytes: the most that glibc lets itself be taught.
#[cfg(target_env = "gnu")]
const OWN_MAPPING_MIN: i32 = 32 << 20;

/// Free memory at the end of an arena that is not given back unasked, in bytes.
#[cfg(target_env = "gnu")]
const FREE_END_MAX: i32 = 2 * OWN_MAPPING_MIN;

/// Settles how the allocator treats large values, before there are threads.
///
/// glibc finds it out by itself: it raises the size from which on an allocation is
/// mapped for itself as it sees such ones freed. Asked once to give back the end of an
/// arena it stops learning, so it starts where it would end.
pub fn prepare() {
    #[cfg(target_env = "gnu")]
    {
        set(libc::M_MMAP_THRESHOLD, OWN_MAPPING_MIN);
        set(libc::M_TRIM_THRESHOLD, FREE_END_MAX);
    }
}

/// Gives free pages of the allocator back, those of the calling thread's arena to its
/// very end. Takes milliseconds where there is much to give: for idle moments only.
///
/// After a burst of a thousand clients the allocator holds tens of megabytes of free
/// pages between the few that are in use, and gives back only what happens to lie at
/// the end, if it is much. Measured with glibc: 43 MiB resident after such a burst, 5
/// MiB when it is asked to give back the rest. Other C libraries do it unasked.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: `malloc_trim` may be called at any time and from any thread; it
        // frees only pages that hold no live allocation.
        unsafe {
            libc::malloc_trim(0);
        }
        // That leaves the end of a thread's arena, which is looked at when something
        // large is freed.
        set(libc::M_TRIM_THRESHOLD, 0);
        drop(std::hint::black_box(Vec::<u8>::with_capacity(LARGE)));
        set(libc::M_TRIM_THRESHOLD, FREE_END_MAX);
    }
}

/// What is large enough for glibc to look at the end of the arena when it is freed.
#[cfg(target_env = "gnu")]
const LARGE: usize = 128 * 1024;

#[cfg(target_env = "gnu")]
fn set(what: i32, bytes: i32) {
    // SAFETY: `mallopt` takes numbers, locks what it changes, and may be called at any
    // time; what it refuses stays as it was.
    unsafe {
        libc::mallopt(what, bytes);
    }
}

/// Gives back the pages that lie whole within `bytes`, which stay usable: what was in
/// them is lost, and they are taken from the system again when they are written.
///
/// Says whether the system took them. Pages that are locked in memory are locked again as
/// they are written.
pub fn give_back(bytes: &mut [u8]) -> bool {
    let page = rustix::param::page_size();
    let before = bytes.as_ptr().align_offset(page);
    let whole = bytes.get_mut(before..).unwrap_or_default();
    let len = whole.len() / page * page;
    if len == 0 {
        return true;
    }
    let start = whole.as_mut_ptr();
    // SAFETY: the range is that of a slice nobody else can look at meanwhile, and holds
    // whole pages. Of memory that belongs to no file they read as zeros from then on,
    // of a file as the file does: all are bytes that `u8` can have.
    let advise = |advice| unsafe { libc::madvise(start.cast(), len, advice) } == 0;
    #[cfg(target_os = "linux")]
    return advise(libc::MADV_DONTNEED)
        || advise(libc::MADV_DONTNEED_LOCKED)
        || without_lock(&mut whole[..len], || advise(libc::MADV_DONTNEED));
    #[cfg(not(target_os = "linux"))]
    advise(libc::MADV_DONTNEED)
}

/// Calls `give` while whole pages that were locked are not, and has them locked again as they
/// are written: locked ones are not given back by Linux before 5.18.
#[cfg(target_os = "linux")]
fn without_lock(pages: &mut [u8], give: impl FnOnce() -> bool) -> bool {
    let (start, len) = (pages.as_mut_ptr().cast(), pages.len());
    // SAFETY: the range is that of a slice. Whether it is locked changes no byte.
    let is_unlocked = unsafe { rustix::mm::munlock(start, len) }.is_ok();
    let is_given = is_unlocked && give();
    // SAFETY: as above.
    let locked = unsafe { rustix::mm::mlock_with(start, len, MlockFlags::ONFAULT) };
    if let Err(error) = locked {
        tracing::trace!(%error, "pages stay unlocked");
    }
    is_given
}

/// Bytes of a huge page, where we use them.
pub const HUGE_BYTES: usize = 2 << 20;

/// Whether the system gives huge pages of [`HUGE_BYTES`] to who asks for them.
pub fn has_huge_pages() -> bool {
    static HAS: LazyLock<bool> = LazyLock::new(|| {
        let read = |name| {
            let path = format!("/sys/kernel/mm/transparent_hugepage/{name}");
            std::fs::read_to_string(path).unwrap_or_default()
        };
        let enabled = read("enabled");
        let is_enabled = ["[always]", "[madvise]"]
            .iter()
            .any(|on| enabled.contains(on));
        is_enabled && read("hpage_pmd_size").trim().parse() == Ok(HUGE_BYTES)
    });
    *HAS
}

/// Takes huge pages for `bytes`, which are to begin and end with one; as many small ones
/// where the system has none left. What was in them is lost, and all of them are resident.
///
/// They stay huge until a part of them is given back. The system is not to make such of
/// small ones later, which would bring back what we have given back; so it is told to make
/// none again at once, as before. `is_fresh` says that there has never been anything in
/// them: else there are tables of small pages left, and it is asked to do without these.
pub fn take_huge(bytes: &mut [u8], is_fresh: bool) {
    let (start, len) = (bytes.as_mut_ptr(), bytes.len());
    // SAFETY: the range is that of a slice nobody else can look at meanwhile. No advice
    // given here changes a byte of it.
    let advise = |advice| unsafe { libc::madvise(start.cast(), len, advice) } == 0;
    #[cfg(target_os = "linux")]
    let is_asked = advise(libc::MADV_HUGEPAGE);
    for page in bytes.chunks_mut(rustix::param::page_size()) {
        // The first one makes the others resident where there is a huge page.
        page[..1].fill(0);
        std::hint::black_box(page);
    }
    #[cfg(target_os = "linux")]
    if is_asked {
        if !is_fresh {
            advise(libc::MADV_COLLAPSE);
        }
        advise(libc::MADV_NOHUGEPAGE);
    }
}

/// Has the system make a huge page of the small ones from `address` on, a multiple of
/// [`HUGE_BYTES`], whoever uses them meanwhile: no byte of them changes. All of them are
/// resident then. Says whether it did; Linux does from 6.1 on, if it has a huge page.
pub fn make_huge(address: usize) -> bool {
    #[cfg(target_os = "linux")]
    {
        let start = std::ptr::without_provenance_mut(address);
        // SAFETY: what these advices ask for changes no byte, wherever it is, and of what
        // is not mapped the system says so.
        let advise = |advice| unsafe { libc::madvise(start, HUGE_BYTES, advice) } == 0;
        let is_made = advise(libc::MADV_HUGEPAGE) && advise(libc::MADV_COLLAPSE);
        advise(libc::MADV_NOHUGEPAGE);
        is_made
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = address;
        false
    }
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
        map.lock().unwrap();
        assert!(give_back(&mut map) && map.iter().all(|&byte| byte == 0));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn pages_are_locked_again_when_they_have_been_given_back() {
        let page = rustix::param::page_size();
        let mut map = memmap2::MmapMut::map_anon(4 * page).unwrap();
        map.fill(7);
        let address = map.as_ptr().addr();
        let is_locked = || {
            let hex = |text: &str| usize::from_str_radix(text, 16).ok();
            let lies_in = |line: &str| {
                let ends = line.split([' ', '-']).map(hex).collect::<Vec<_>>();
                matches!(ends[..], [Some(start), Some(end), ..] if (start..end).contains(&address))
            };
            let all = std::fs::read_to_string("/proc/self/smaps").unwrap();
            let mut lines = all.lines().skip_while(|line| !lies_in(line));
            let flags = lines.find(|line| line.starts_with("VmFlags:")).unwrap();
            flags.split_whitespace().any(|flag| flag == "lo")
        };
        map.lock().unwrap();
        let mut was_locked = true;
        assert!(without_lock(&mut map, || {
            was_locked = is_locked();
            true
        }));
        assert!(!was_locked && is_locked() && map[0] == 7);
        assert!(!without_lock(&mut map, || false) && is_locked());
    }
}
