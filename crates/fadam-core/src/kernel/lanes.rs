//! Loops that become vector instructions, and sums in them.
//!
//! The loops of the fused step are plain Rust over slices, which the compiler turns into vector
//! instructions; `pulp` compiles them for each instruction set and picks one at run time. A sum of floats is
//! not reordered by the compiler, so it is written out: a strip of squares is folded in halves into
//! [`LANES`] accumulators, which become one f64 after every [`BLOCK`]. Its bits depend on neither the
//! instruction set nor the number of threads.

use super::number::Real;

/// Accumulators of a sum.
const LANES: usize = 16;

/// Elements that are added up in the compute type before their sum becomes f64.
pub(super) const BLOCK: usize = 4096;

/// Elements whose squares are computed before they are added.
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

/// Room for the squares of a strip, and what was added up so far.
pub(super) struct Sum<C> {
    strip: [C; STRIP],
    lanes: [C; LANES],
    total: f64,
}

impl<C: Real> Sum<C> {
    #[inline(always)]
    pub(super) fn new() -> Self {
        Self { strip: [C::zero(); STRIP], lanes: [C::zero(); LANES], total: 0.0 }
    }

    /// Room for the next `n` ≤ [`STRIP`] numbers.
    #[inline(always)]
    pub(super) fn strip(&mut self, n: usize) -> &mut [C] {
        &mut self.strip[..n]
    }

    /// Adds the `n` numbers in the strip: folds it in halves down to [`LANES`], loops that vectorise.
    #[inline(always)]
    pub(super) fn add(&mut self, n: usize) {
        let mut width = n.next_power_of_two().max(LANES);
        self.strip[n..width].fill(C::zero());
        while width > LANES {
            width /= 2;
            let (low, high) = self.strip.split_at_mut(width);
            for (low, high) in low.iter_mut().zip(&high[..width]) {
                *low = *low + *high;
            }
        }
        for (lane, x) in self.lanes.iter_mut().zip(&self.strip) {
            *lane = *lane + *x;
        }
    }

    /// Makes the lanes one f64; at the end of a block.
    #[inline(always)]
    pub(super) fn flush(&mut self) {
        self.total += self.lanes.iter().map(|lane| lane.f64()).sum::<f64>();
        self.lanes = [C::zero(); LANES];
    }

    /// The sum of all that was flushed.
    #[inline(always)]
    pub(super) fn total(&self) -> f64 {
        self.total
    }
}
