//! A fused step allocates no tensors: next to nothing beside the tensors it goes through. Alone in its program, since
//! it counts what the whole program allocates.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::{DType, Device, Tensor, Var};
use fadam_core::{AnyConfig, AnyOptimizer, Gradients, NamedVars};

/// Counts the bytes asked of the system's allocator.
struct Counting;

static BYTES: AtomicUsize = AtomicUsize::new(0);

#[expect(unsafe_code, reason = "a global allocator cannot be had without")]
// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_step_allocates_next_to_nothing() {
    let shapes: [(&str, &[usize]); 4] =
        [("a", &[512, 1024]), ("b", &[100_001]), ("c", &[16, 3, 3]), ("d", &[])];
    let tensor = |shape: &[usize]| Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap();
    let vars: NamedVars = shapes
        .iter()
        .map(|(name, shape)| ((*name).to_owned(), Var::from_tensor(&tensor(shape)).unwrap()))
        .collect();
    let gradients: Gradients =
        shapes.iter().map(|(name, shape)| ((*name).to_owned(), tensor(shape))).collect();
    for name in AnyConfig::NAMES {
        let config = AnyConfig::named(name).unwrap();
        let mut optimizer = AnyOptimizer::from_named(vars.clone(), config).unwrap();
        optimizer.step_named(&gradients).unwrap(); // the scratch of factored tensors is made here
        let before = BYTES.load(Ordering::Relaxed);
        optimizer.step_named(&gradients).unwrap();
        let bytes = BYTES.load(Ordering::Relaxed) - before;
        // What is left are the lists of tasks and their sums.
        let all = 4 * vars.num_elements();
        assert!(bytes < all / 100, "{name}: a step allocated {bytes} of {all} bytes");
    }
}
