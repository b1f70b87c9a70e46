//! The allocator of the programs: mimalloc, told to keep what was freed.
//!
//! Training allocates and frees large tensors all the time. The system's allocator gives their pages back, mimalloc does after a
//! while, and each time they are wanted again the system must find and clear them: some 5 % of a training step of the small decoder.

pub use mimalloc::MiMalloc as Allocator;

/// `mi_option_purge_delay` of mimalloc's C header, 2.x and 3.x; its Rust bindings do not name it.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// Freed memory stays with the process from now on. `MIMALLOC_PURGE_DELAY` in the environment has the last word.
///
/// Call it first in `main`.
#[allow(unsafe_code)]
pub fn keep_freed_memory() {
    if std::env::var_os("MIMALLOC_PURGE_DELAY").is_none() {
        // SAFETY: not thread-safe, and there is no other thread yet (the contract above). The option exists, and −1 is its
        // documented value for never.
        unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, -1) };
    }
}
