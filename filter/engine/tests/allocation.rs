//! A decision allocates nothing, whatever the policies are and whether it is allowed or denied.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::unwrap_used, reason = "a test")]
#![allow(unsafe_code, reason = "an allocator that counts is a `GlobalAlloc`, whose methods are unsafe")]

#[path = "../benches/workload/mod.rs"]
mod workload;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use meshward_engine::policy::Policy;
use workload::{Kind, calls, config};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call is handed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of `alloc`, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`, which is the same.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations of this thread during a call.
fn allocations(call: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.get();
    call();
    ALLOCATIONS.get() - before
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(vec![0u8; 16]))), 1);
}

#[test]
fn no_allocation_per_decision() {
    for kind in [Kind::Exact, Kind::Mixed] {
        let policy = Policy::compile(&config(kind, 1_000)).unwrap();
        let calls = calls(kind, 1_000, 2_000);
        let (mut allowed, mut denied) = (0, 0);
        for call in &calls {
            let mut request = call.request();
            // Neither parameters to strip, nor a host to fold, nor a header that comes twice.
            let path = format!("{};v=1", call.path);
            for path in [call.path.as_bytes(), path.as_bytes()] {
                request.path = Some(path);
                request.authority = Some(b"API.example:8080");
                let mut decision = None;
                assert_eq!(allocations(|| decision = Some(policy.decide(&request))), 0, "{call:?}");
                if decision.unwrap().is_allowed() { allowed += 1 } else { denied += 1 }
            }
        }
        assert!(allowed > 500 && denied > 500, "{kind:?}: {allowed} allowed, {denied} denied");
    }
}
