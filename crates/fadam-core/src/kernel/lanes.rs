//! Numbers as they are stored and as they are computed with, and sums of them.
//!
//! The loops of the fused step are plain Rust over slices, which the compiler turns into vector
//! instructions; `pulp` compiles them for each instruction set and picks one at run time. A sum of floats is
//! not reordered by the compiler, so it is written out: one accumulator for each of [`LANES`], which become
//! one f64 after every [`BLOCK`]. Its bits depend on neither the instruction set nor the number of threads.

use candle_core::{CpuStorage, WithDType};
use half::{bf16, f16};
use num_traits::Float;

use super::factored::Work;

/// Accumulators of a sum.
const LANES: usize = 16;

/// Elements that are added up in the compute type before their sum becomes f64.
pub(super) const BLOCK: usize = 4096;

/// Elements whose squares are computed before they are added.
pub(super) const STRIP: usize = 256;

/// What a step is computed in: f32, or f64 for f64 parameters and for what f32 cannot hold.
pub(super) trait Real: Float + Send + Sync + 'static {
    /// Whether this is the type for what f32 cannot hold.
    const CAREFUL: bool;
    fn of(x: f64) -> Self;
    /// The room for numbers of this type.
    fn work(work: &mut Work) -> &mut Vec<Self>;
    fn done(work: &Work) -> &[Self];
    fn f64(self) -> f64;
    /// `self^(whole + rest)` for self ≥ 0, with an exponent in two parts of which the first has at most
    /// 16 bits behind the point; 0 for 0.
    fn power(self, whole: Self, rest: Self) -> Self;
}

impl Real for f64 {
    const CAREFUL: bool = true;

    fn work(work: &mut Work) -> &mut Vec<Self> {
        &mut work.double
    }

    fn done(work: &Work) -> &[Self] {
        &work.double
    }

    #[inline(always)]
    fn of(x: f64) -> Self {
        x
    }

    #[inline(always)]
    fn f64(self) -> f64 {
        self
    }

    #[inline(always)]
    fn power(self, whole: Self, rest: Self) -> Self {
        self.powf(whole + rest)
    }
}

impl Real for f32 {
    const CAREFUL: bool = false;

    fn work(work: &mut Work) -> &mut Vec<Self> {
        &mut work.single
    }

    fn done(work: &Work) -> &[Self] {
        &work.single
    }

    #[inline(always)]
    fn of(x: f64) -> Self {
        x as Self
    }

    #[inline(always)]
    fn f64(self) -> f64 {
        f64::from(self)
    }

    /// `2^(ρ log2 x)` without a branch or a call, so that it vectorises; within 5e-7. Subnormal x count
    /// as 0.
    ///
    /// `x = 2^e m` with m in [√½, √2). `ρ e` is exact but for the exponent's rest, and its whole part goes into
    /// the bits of the result. `log2 m = (2/ln 2) artanh s` with `s = (m − 1)/(m + 1)`; artanh and exp by
    /// their series.
    #[inline(always)]
    fn power(self, whole: Self, rest: Self) -> Self {
        const SQRT_HALF: u32 = 0x3f35_04f3;
        let bits = self.to_bits().wrapping_sub(SQRT_HALF);
        let e = (bits.cast_signed() >> 23) as Self;
        let m = Self::from_bits((bits & 0x007f_ffff) + SQRT_HALF);
        let s = (m - 1.0) / (m + 1.0);
        let s2 = s * s;
        let series = 1.0 / 3.0 + s2 * (0.2 + s2 * (1.0 / 7.0 + s2 * (1.0 / 9.0)));
        let log2_m = 2.0 * std::f32::consts::LOG2_E * s * (1.0 + s2 * series);
        let exact = whole * e;
        let power = (exact + ROUND) - ROUND;
        let r = (exact - power) + (rest * e + (whole + rest) * log2_m);
        // |r| is at most 1/2 + ρ/2: a second rounding keeps the series short.
        let more = (r + ROUND) - ROUND;
        let r = (r - more) * std::f32::consts::LN_2;
        let series = 1.0 / 24.0 + r * (1.0 / 120.0 + r * (1.0 / 720.0));
        let exp = 1.0 + r * (1.0 + r * (0.5 + r * (1.0 / 6.0 + r * series)));
        // In the bits of a rounded number stands its whole part: no conversion, which would not vectorise.
        let power = (power + more).clamp(-126.0, 127.0) + ROUND;
        let exponent = power.to_bits().wrapping_sub(ROUND.to_bits());
        let two = Self::from_bits(exponent.wrapping_add(127) << 23);
        if self < Self::MIN_POSITIVE {
            0.0
        } else {
            two * exp
        }
    }
}

/// Adding and taking away 1.5 · 2^23 rounds an f32 to a whole number.
const ROUND: f32 = 12_582_912.0;

/// A number as a parameter or state stores it.
pub(super) trait Element: WithDType + Send + Sync {
    fn load<C: Real>(self) -> C;
    fn store<C: Real>(x: C) -> Self;
    fn finite(self) -> bool;
    fn slice_mut(storage: &mut CpuStorage) -> Option<&mut [Self]>;
}

impl Element for f32 {
    #[inline(always)]
    fn load<C: Real>(self) -> C {
        C::of(f64::from(self))
    }

    #[inline(always)]
    fn store<C: Real>(x: C) -> Self {
        x.f64() as Self
    }

    #[inline(always)]
    fn finite(self) -> bool {
        self.is_finite()
    }

    fn slice_mut(storage: &mut CpuStorage) -> Option<&mut [Self]> {
        if let CpuStorage::F32(data) = storage {
            Some(data)
        } else {
            None
        }
    }
}

impl Element for f64 {
    #[inline(always)]
    fn load<C: Real>(self) -> C {
        C::of(self)
    }

    #[inline(always)]
    fn store<C: Real>(x: C) -> Self {
        x.f64()
    }

    #[inline(always)]
    fn finite(self) -> bool {
        self.is_finite()
    }

    fn slice_mut(storage: &mut CpuStorage) -> Option<&mut [Self]> {
        if let CpuStorage::F64(data) = storage {
            Some(data)
        } else {
            None
        }
    }
}

impl Element for bf16 {
    #[inline(always)]
    fn load<C: Real>(self) -> C {
        f32::from_bits(u32::from(self.to_bits()) << 16).load()
    }

    /// To the nearest, ties to even, without `half`'s branch on NaN: what is stored is finite.
    #[inline(always)]
    fn store<C: Real>(x: C) -> Self {
        let bits = (x.f64() as f32).to_bits();
        let rounded = bits + 0x7fff + ((bits >> 16) & 1);
        Self::from_bits((rounded >> 16) as u16)
    }

    #[inline(always)]
    fn finite(self) -> bool {
        self.is_finite()
    }

    fn slice_mut(storage: &mut CpuStorage) -> Option<&mut [Self]> {
        if let CpuStorage::BF16(data) = storage {
            Some(data)
        } else {
            None
        }
    }
}

impl Element for f16 {
    #[inline(always)]
    fn load<C: Real>(self) -> C {
        self.to_f32().load()
    }

    #[inline(always)]
    fn store<C: Real>(x: C) -> Self {
        Self::from_f32(x.f64() as f32)
    }

    #[inline(always)]
    fn finite(self) -> bool {
        self.is_finite()
    }

    fn slice_mut(storage: &mut CpuStorage) -> Option<&mut [Self]> {
        if let CpuStorage::F16(data) = storage {
            Some(data)
        } else {
            None
        }
    }
}

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
        Self {
            strip: [C::zero(); STRIP],
            lanes: [C::zero(); LANES],
            total: 0.0,
        }
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

/// Whether numbers are finite once they are stored.
pub(super) fn all_finite<C: Real, T: Element>(numbers: &[C]) -> bool {
    // `store` of a bf16 does not look for infinities, hence both.
    numbers
        .iter()
        .all(|x| x.is_finite() && T::store(*x).finite())
}

/// `1/d`, and 0 for 0: `x / 0` counts as 0.
#[inline(always)]
pub(super) fn inverse<C: Real>(d: C) -> C {
    if d > C::zero() { d.recip() } else { C::zero() }
}

/// `f^ρ`.
#[derive(Clone, Copy)]
pub(super) enum Exponent {
    Half,
    One,
    Other(f64),
}

impl Exponent {
    pub(super) fn of(rho: f64) -> Self {
        if rho == 0.5 {
            Self::Half
        } else if rho == 1.0 {
            Self::One
        } else {
            Self::Other(rho)
        }
    }

    pub(super) fn apply(self, f: f64) -> f64 {
        match self {
            Self::Half => f.sqrt(),
            Self::One => f,
            Self::Other(rho) => f.powf(rho),
        }
    }
}

/// f^ρ in the compute type: a type for each case, so that a loop is compiled for it.
pub(super) trait Power<C>: Copy + Send + Sync {
    fn apply(self, f: C) -> C;
}

/// ρ = ½.
#[derive(Clone, Copy)]
pub(super) struct SquareRoot;

/// ρ = 1.
#[derive(Clone, Copy)]
pub(super) struct Identity;

/// Any other ρ, in the two parts that [`Real::power`] takes.
#[derive(Clone, Copy)]
pub(super) struct General<C>(C, C);

impl<C: Real> General<C> {
    pub(super) fn new(rho: f64) -> Self {
        let whole = (rho * 65536.0).round() / 65536.0;
        Self(C::of(whole), C::of(rho - whole))
    }
}

impl<C: Real> Power<C> for SquareRoot {
    #[inline(always)]
    fn apply(self, f: C) -> C {
        f.sqrt()
    }
}

impl<C: Real> Power<C> for Identity {
    #[inline(always)]
    fn apply(self, f: C) -> C {
        f
    }
}

impl<C: Real> Power<C> for General<C> {
    #[inline(always)]
    fn apply(self, f: C) -> C {
        f.power(self.0, self.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn power_is_close_to_powf() {
        for rho in [0.3f64, 0.4, 0.6, 0.7, 0.8, 0.9, 1.3] {
            for k in -120..120 {
                for step in 0..8 {
                    let x = (2f64.powi(k) * (1.0 + f64::from(step) / 8.0)) as f32;
                    let exact = f64::from(x).powf(rho);
                    if !(1e-37..1e37).contains(&exact) {
                        continue;
                    }
                    let ours = General::new(rho).apply(x);
                    let off = (f64::from(ours) / exact - 1.0).abs();
                    assert!(off < 5e-7, "{x:e}^{rho} is off by {off:e}");
                }
            }
            assert_eq!(General::new(rho).apply(0f32), 0.0);
        }
    }
    #[test]
    fn bf16_is_stored_to_the_nearest() {
        for bits in (0..=u32::MAX).step_by(9973) {
            let x = f32::from_bits(bits);
            if x.is_finite() {
                assert_eq!(
                    bf16::store(x).to_bits(),
                    bf16::from_f32(x).to_bits(),
                    "{x:e}"
                );
                assert_eq!(
                    bf16::from_f32(x).load::<f32>().to_bits(),
                    bf16::from_f32(x).to_f32().to_bits()
                );
            }
        }
    }
}
