//! Prefetches.

/// Prefetches a cache line that is read soon, into the second-level cache: the first is too small
/// for rows that are read a whole block later. Any address is allowed.
#[inline(always)]
pub(super) fn prefetch<T>(address: *const T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: a prefetch reads nothing the program can see and never faults; SSE is part of
        // every x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
