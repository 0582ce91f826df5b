//! An experts forward allocates nothing once its buffers have grown. A file of its own: the counter
//! sees the whole process.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    num::NonZero,
    sync::atomic::{AtomicUsize, Ordering},
};

use moexperts_conformance::{Layer, cases};
use moexperts_core::{Device, Experts, ExpertsCall, Scratch, Tensor};
use moexperts_cpu::{Cpu, CpuOptions};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as the caller owes.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller owes.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as the caller owes.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn a_forward_after_the_first_allocates_nothing() {
    let mut measured = 0;
    for threads in 1..=3 {
        let cpu = Cpu::new(CpuOptions { threads: NonZero::new(threads), isa: None })
            .expect("threads can be made");
        let backends = Cpu::built_in_experts();
        // Few tokens, and enough that experts have panels.
        for case in cases().iter().filter(|case| ["big", "shape"].contains(&case.name)) {
            let Layer { experts, x, routing } = Layer::new(case);
            let experts = Experts::load(&cpu, case.spec, experts).expect("the case is right");
            let mut out = Tensor::zeros(x.rows(), x.cols());
            for backend in &backends {
                let scratch = &mut Scratch::default();
                let mut forward = || {
                    let call = ExpertsCall {
                        device: &cpu,
                        experts: &experts,
                        x: &x,
                        routing: &routing,
                        scratch,
                    };
                    // Inside, as in a model: the way into the pool has a queue of its own.
                    cpu.enter(|| {
                        let before = ALLOCATIONS.load(Ordering::Relaxed);
                        backend.forward(call, &mut out).expect("the case is right");
                        ALLOCATIONS.load(Ordering::Relaxed) - before
                    })
                };
                assert!(forward() > 0, "the first grows the buffers");
                for _ in 0..10 {
                    assert_eq!(forward(), 0, "{case}: {}, {threads} threads", backend.name());
                }
                measured += 1;
            }
        }
    }
    assert!(measured > 0);
}
