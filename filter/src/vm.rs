//! What a VM of Envoy's is to the program in it: one thread, one heap, and an end at a panic.
//!
//! The module is built without the standard library, of which the filter has no use: it would bring files, the
//! environment, and a panic that formats a message for a standard error that nobody reads.
#![allow(unsafe_code, reason = "a value for one thread is unsafe where there are several, and a VM has one")]

use core::cell::RefCell;

/// A value that a VM has one of. Envoy runs each VM in one thread, and its memory is its own.
pub struct PerVm<T>(RefCell<T>);

// SAFETY: a VM has one thread, and wasm32-wasip1 has no way to start another.
unsafe impl<T> Sync for PerVm<T> {}

impl<T> PerVm<T> {
    pub const fn new(value: T) -> Self {
        Self(RefCell::new(value))
    }

    /// Runs `work` with the value; `None` while it is in use further out.
    pub fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> Option<R> {
        self.0.try_borrow_mut().ok().map(|mut value| work(&mut value))
    }
}

#[cfg(target_family = "wasm")]
mod alone {
    /// The heap: two-level segregated fit. Freed neighbours become one, so that a configuration's parts make room for
    /// its index, and every call takes constant time. A tenth of the size of `wasi-libc`'s.
    #[global_allocator]
    static HEAP: rlsf::GlobalTlsf<Heap> = rlsf::GlobalTlsf::new();

    struct Heap;

    impl rlsf::GlobalTlsfOptions for Heap {
        const ENABLE_REALLOCATION: bool = false;
        const COALESCE_POOLS: bool = true;
    }

    /// The filter has no panic that anyone knows of. One that is there ends the VM; Envoy's log says so and counts it
    /// (`wasm.meshward.vm_reload`).
    #[panic_handler]
    fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
        core::arch::wasm32::unreachable()
    }

    /// What the compiler calls to compare bytes; eight at a time, since most are the same.
    ///
    /// # Safety
    /// Both have `length` bytes.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcmp(one: *const u8, other: *const u8, length: usize) -> i32 {
        let mut at = 0;
        while at + 8 <= length {
            // SAFETY: eight bytes from `at` are within both.
            let (a, b) = unsafe {
                (one.add(at).cast::<u64>().read_unaligned(), other.add(at).cast::<u64>().read_unaligned())
            };
            if a != b {
                break;
            }
            at += 8;
        }
        while at < length {
            // SAFETY: `at` is within both.
            let (a, b) = unsafe { (*one.add(at), *other.add(at)) };
            if a != b {
                return i32::from(a) - i32::from(b);
            }
            at += 1;
        }
        0
    }
}
