//! Numbers as they are computed with.

use super::factored::Work;
use super::power::single_power;

/// What a step is computed in: f32, or f64 for f64 parameters and for what f32 cannot hold.
pub(super) trait Real: num_traits::Float + Send + Sync + 'static {
    /// Whether this is the type for what f32 cannot hold.
    const CAREFUL: bool;
    fn of(x: f64) -> Self;
    fn f64(self) -> f64;
    /// Numbers that are stored as this type need no room of their own.
    fn of_f32s(x: &[f32]) -> Option<&[Self]>;
    fn of_f64s(x: &[f64]) -> Option<&[Self]>;
    fn of_f32s_mut(x: &mut [f32]) -> Option<&mut [Self]>;
    fn as_f32s(x: &[Self]) -> Option<&[f32]>;
    fn of_f64s_mut(x: &mut [f64]) -> Option<&mut [Self]>;
    /// The room for numbers of this type.
    fn work(work: &mut Work) -> &mut Vec<Self>;
    fn done(work: &Work) -> &[Self];
    /// `self^(whole + rest)` for self ≥ 0, with an exponent in two parts of which the first has at most
    /// 16 bits behind the point; 0 for 0.
    fn power(self, whole: Self, rest: Self) -> Self;
}

impl Real for f64 {
    const CAREFUL: bool = true;

    #[inline(always)]
    fn of(x: f64) -> Self {
        x
    }

    #[inline(always)]
    fn f64(self) -> f64 {
        self
    }

    #[inline(always)]
    fn of_f32s(_: &[f32]) -> Option<&[Self]> {
        None
    }

    #[inline(always)]
    fn of_f64s(x: &[f64]) -> Option<&[Self]> {
        Some(x)
    }

    #[inline(always)]
    fn of_f32s_mut(_: &mut [f32]) -> Option<&mut [Self]> {
        None
    }

    #[inline(always)]
    fn as_f32s(_: &[Self]) -> Option<&[f32]> {
        None
    }

    #[inline(always)]
    fn of_f64s_mut(x: &mut [f64]) -> Option<&mut [Self]> {
        Some(x)
    }

    fn work(work: &mut Work) -> &mut Vec<Self> {
        &mut work.double
    }

    fn done(work: &Work) -> &[Self] {
        &work.double
    }

    #[inline(always)]
    fn power(self, whole: Self, rest: Self) -> Self {
        self.powf(whole + rest)
    }
}

impl Real for f32 {
    const CAREFUL: bool = false;

    #[inline(always)]
    fn of(x: f64) -> Self {
        x as Self
    }

    #[inline(always)]
    fn f64(self) -> f64 {
        f64::from(self)
    }

    #[inline(always)]
    fn of_f32s(x: &[f32]) -> Option<&[Self]> {
        Some(x)
    }

    #[inline(always)]
    fn of_f64s(_: &[f64]) -> Option<&[Self]> {
        None
    }

    #[inline(always)]
    fn of_f32s_mut(x: &mut [f32]) -> Option<&mut [Self]> {
        Some(x)
    }

    #[inline(always)]
    fn as_f32s(x: &[Self]) -> Option<&[f32]> {
        Some(x)
    }

    #[inline(always)]
    fn of_f64s_mut(_: &mut [f64]) -> Option<&mut [Self]> {
        None
    }

    fn work(work: &mut Work) -> &mut Vec<Self> {
        &mut work.single
    }

    fn done(work: &Work) -> &[Self] {
        &work.single
    }

    #[inline(always)]
    fn power(self, whole: Self, rest: Self) -> Self {
        single_power(self, whole, rest)
    }
}

/// `1/d`, and 0 for 0: `x / 0` counts as 0.
#[inline(always)]
pub(super) fn inverse<C: Real>(d: C) -> C {
    if d > C::zero() { d.recip() } else { C::zero() }
}
