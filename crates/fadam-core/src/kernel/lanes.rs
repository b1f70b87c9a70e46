//! Loops that become vector instructions, and sums in them.
//!
//! The loops of the fused step are plain Rust over slices, which the compiler turns into vector
//! instructions; `pulp` compiles them for each instruction set and picks one at run time. A sum of floats is
//! not reordered by the compiler, so it is written out: into [`STRIP`] accumulators, which are
//! folded in halves and become one f64 after every [`BLOCK`]. Its bits depend on neither the
//! instruction set nor the number of threads.

use super::number::Real;

/// Accumulators that are folded no further, but added as f64.
const LANES: usize = 16;

/// Elements that are added up in the compute type before their sum becomes f64.
pub(super) const BLOCK: usize = 4096;

/// Accumulators of a sum: enough that the loop over them is one of vectors.
pub(super) const STRIP: usize = 256;

/// Work to be compiled for each instruction set. A trait and not a closure, because only what is inlined into
/// pulp's dispatch is compiled for its instruction set, and a closure cannot be told to be.
pub(super) trait Vectorised {
    type Output;
    /// Implementations are `#[inline(always)]`, and so is all that they call.
    fn run(self) -> Self::Output;
}

/// Runs work with the widest vectors that this machine has.
pub(super) fn vectorise<V: Vectorised>(work: V) -> V::Output {
    struct Dispatched<V>(V);
    impl<V: Vectorised> pulp::WithSimd for Dispatched<V> {
        type Output = V::Output;

        #[inline(always)]
        fn with_simd<S: pulp::Simd>(self, _simd: S) -> V::Output {
            self.0.run()
        }
    }
    pulp::Arch::new().dispatch(Dispatched(work))
}

/// A sum of squares, added up strip upon strip and then folded.
pub(super) struct Sum<C> {
    strip: [C; STRIP],
    used: usize,
    total: f64,
}

impl<C: Real> Sum<C> {
    #[inline(always)]
    pub(super) fn new() -> Self {
        Self { strip: [C::zero(); STRIP], used: 0, total: 0.0 }
    }

    /// The accumulators that the next `n` ≤ [`STRIP`] numbers are to be added to.
    #[inline(always)]
    pub(super) fn strip(&mut self, n: usize) -> &mut [C] {
        self.used = self.used.max(n);
        &mut self.strip[..n]
    }

    /// Folds the accumulators in halves and adds them to the total: at least after every [`BLOCK`] numbers.
    #[inline(always)]
    pub(super) fn flush(&mut self) {
        let mut width = self.used.next_power_of_two();
        while width > LANES {
            width /= 2;
            let (low, high) = self.strip.split_at_mut(width);
            for (low, high) in low.iter_mut().zip(&mut high[..width]) {
                *low = *low + *high;
                *high = C::zero();
            }
        }
        self.total += self.strip[..width].iter().map(|x| x.f64()).sum::<f64>();
        self.strip[..width].fill(C::zero());
        self.used = 0;
    }

    /// The sum of all that was flushed.
    #[inline(always)]
    pub(super) fn total(&self) -> f64 {
        self.total
    }
}
