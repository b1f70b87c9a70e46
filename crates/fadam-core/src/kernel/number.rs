//! Numbers as they are stored and as they are computed with.

use candle_core::{CpuStorage, WithDType};
use half::{bf16, f16};
use num_traits::Float;

use super::factored::Work;
use super::power::single_power;

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

    #[inline(always)]
    fn power(self, whole: Self, rest: Self) -> Self {
        single_power(self, whole, rest)
    }
}

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
        if let CpuStorage::F32(data) = storage { Some(data) } else { None }
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
        if let CpuStorage::F64(data) = storage { Some(data) } else { None }
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
        if let CpuStorage::BF16(data) = storage { Some(data) } else { None }
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
        if let CpuStorage::F16(data) = storage { Some(data) } else { None }
    }
}

/// Whether numbers are finite once they are stored.
pub(super) fn all_finite<C: Real, T: Element>(numbers: &[C]) -> bool {
    // `store` of a bf16 does not look for infinities, hence both.
    numbers.iter().all(|x| x.is_finite() && T::store(*x).finite())
}

/// `1/d`, and 0 for 0: `x / 0` counts as 0.
#[inline(always)]
pub(super) fn inverse<C: Real>(d: C) -> C {
    if d > C::zero() { d.recip() } else { C::zero() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_is_stored_to_the_nearest() {
        for bits in (0..=u32::MAX).step_by(9973) {
            let x = f32::from_bits(bits);
            if x.is_finite() {
                assert_eq!(bf16::store(x).to_bits(), bf16::from_f32(x).to_bits(), "{x:e}");
                assert_eq!(
                    bf16::from_f32(x).load::<f32>().to_bits(),
                    bf16::from_f32(x).to_f32().to_bits()
                );
            }
        }
    }
}
