//! Giving freed memory back to the system.
//!
//! After a burst of a thousand clients the allocator holds tens of megabytes of
//! free pages between the few that are in use, and gives back only what happens
//! to lie at the end. Measured with glibc: 43 MiB resident after such a burst,
//! 5 MiB when it is asked to give back the rest. Other C libraries do it unasked.
#![cfg_attr(
    target_env = "gnu",
    expect(
        unsafe_code,
        reason = "a call into the C library that takes no pointers"
    )
)]

/// Gives free pages back. Takes milliseconds where there is much to give: for
/// idle moments only.
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
