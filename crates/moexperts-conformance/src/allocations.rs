//! An allocator that counts, for tests of code that must not allocate.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering},
};

/// The system's allocator, and the number of times that memory was requested from it.
///
/// It counts for the whole process, so a test with it is the only test of its binary:
///
/// ```
/// use moexperts_conformance::CountingAllocator;
///
/// #[global_allocator]
/// static ALLOCATOR: CountingAllocator = CountingAllocator::new();
///
/// let before = ALLOCATOR.allocations();
/// let values = vec![1.0_f32; 1000];
/// assert!(ALLOCATOR.allocations() > before, "{}", values.len());
/// ```
#[derive(Debug, Default)]
pub struct CountingAllocator {
    allocations: AtomicUsize,
}

impl CountingAllocator {
    /// An allocator that has counted nothing yet.
    pub const fn new() -> Self {
        Self { allocations: AtomicUsize::new(0) }
    }

    /// Allocations and reallocations so far, on all threads.
    pub fn allocations(&self) -> usize {
        self.allocations.load(Ordering::Relaxed)
    }

    fn count(&self) {
        self.allocations.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: every method calls the same method of `System`, which upholds the contract of
// `GlobalAlloc`, with the arguments it was given and returns its result; counting is an atomic
// addition, which neither allocates nor unwinds.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.count();
        // SAFETY: the contract of this method, which `System.alloc` shares: `layout` is not empty.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.count();
        // SAFETY: the contract of this method, which `System.alloc_zeroed` shares: `layout` is not
        // empty.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from this allocator with this `layout`, and so from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        self.count();
        // SAFETY: `pointer` came from this allocator with this `layout`, and so from `System`;
        // `size` is not 0 and, rounded up to the alignment, at most `isize::MAX`, as for
        // `System.realloc`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}
