//! The numbers that kernels compute with: f32, and f64 for checks.

use candle_core::WithDType;
use num_traits::Float;

use crate::lanes::{self, Lanes};

/// f32 or f64.
pub(crate) trait Number: WithDType + Float + Lanes {
    fn of(x: f64) -> Self;
    fn double(self) -> f64;
    /// eˣ; 0 for −∞, NaN for NaN. For f32 within 2 units in the last place, and 0 below e⁻⁸⁷.
    fn exponential(self) -> Self;
    /// The larger of two numbers, or the one that is not NaN.
    fn or_larger(self, other: Self) -> Self;
    /// Σ aᵢ bᵢ over slices of one length.
    fn dot(a: &[Self], b: &[Self]) -> Self;
    fn total(a: &[Self]) -> Self;
    /// The largest number, −∞ of none; NaN is passed over.
    fn largest(a: &[Self]) -> Self;
}

impl Number for f64 {
    #[inline(always)]
    fn of(x: f64) -> Self {
        x
    }

    #[inline(always)]
    fn double(self) -> f64 {
        self
    }

    #[inline(always)]
    fn exponential(self) -> Self {
        self.exp()
    }

    #[inline(always)]
    fn or_larger(self, other: Self) -> Self {
        self.max(other)
    }

    fn dot(a: &[Self], b: &[Self]) -> Self {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    fn total(a: &[Self]) -> Self {
        a.iter().sum()
    }

    fn largest(a: &[Self]) -> Self {
        a.iter().copied().fold(Self::NEG_INFINITY, Self::max)
    }
}

impl Number for f32 {
    #[inline(always)]
    fn of(x: f64) -> Self {
        x as Self
    }

    #[inline(always)]
    fn double(self) -> f64 {
        f64::from(self)
    }

    #[inline(always)]
    fn exponential(self) -> Self {
        exponential(self)
    }

    #[inline(always)]
    fn or_larger(self, other: Self) -> Self {
        self.max(other)
    }

    fn dot(a: &[Self], b: &[Self]) -> Self {
        lanes::dot(a, b)
    }

    fn total(a: &[Self]) -> Self {
        lanes::sum(a)
    }

    fn largest(a: &[Self]) -> Self {
        lanes::largest(a)
    }
}

/// eˣ without a branch, so that loops over it become vector instructions: x = n ln 2 + r with |r| ≤ ln 2 / 2, a polynomial
/// for eʳ (the Taylor series up to r⁷/7!, whose next term is below 2⁻²⁷), and n added to the exponent.
#[inline(always)]
fn exponential(x: f32) -> f32 {
    // 1.5 · 2²³: adding it leaves the nearest whole number in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts, the first with 9 bits, so that n times it is exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    const LOWEST: f32 = -87.0;
    let inside = x.clamp(LOWEST, 88.0);
    let rounded = inside.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = n.mul_add(-LN_2_LOW, n.mul_add(-LN_2_HIGH, inside));
    let p = r.mul_add(1.0 / 5040.0, 1.0 / 720.0);
    let p = r.mul_add(p, 1.0 / 120.0);
    let p = r.mul_add(p, 1.0 / 24.0);
    let p = r.mul_add(p, 1.0 / 6.0);
    let p = r.mul_add(p, 0.5);
    let p = r.mul_add(p, 1.0);
    let p = r.mul_add(p, 1.0);
    let power = f32::from_bits(p.to_bits().wrapping_add(rounded.to_bits() << 23));
    let power = if x < LOWEST { 0.0 } else { power };
    let power = if x > 88.0 { x * f32::MAX } else { power };
    if x.is_nan() { x } else { power }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_are_right_to_two_units_in_the_last_place() {
        let mut worst = 0.0f64;
        for i in 0..=2_000_000 {
            let x = -87.0 + 175.0 * (i as f32 / 2e6);
            let exact = f64::from(x).exp();
            let unit = exact.log2().floor().exp2() * 2f64.powi(-23);
            worst = worst.max((f64::from(x.exponential()) - exact).abs() / unit);
        }
        assert!(worst < 2.0, "{worst} units in the last place");
    }

    #[test]
    fn exponentials_at_the_ends() {
        assert_eq!(0f32.exponential(), 1.0);
        assert_eq!(f32::NEG_INFINITY.exponential(), 0.0);
        assert_eq!((-1e30f32).exponential(), 0.0);
        assert_eq!(f32::INFINITY.exponential(), f32::INFINITY);
        assert_eq!(100f32.exponential(), f32::INFINITY);
        assert!(f32::NAN.exponential().is_nan());
    }
}
