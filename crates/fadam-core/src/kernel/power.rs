//! f^ρ, with ρ = ½ and ρ = 1 as cases of their own.

use super::number::Real;

/// ρ.
#[derive(Clone, Copy)]
pub(super) enum Exponent {
    Half,
    One,
    /// Any other, in the two parts that [`Real::power`] takes.
    Other(f64, f64),
}

impl Exponent {
    pub(super) fn of(rho: f64) -> Self {
        if rho == 0.5 {
            Self::Half
        } else if rho == 1.0 {
            Self::One
        } else {
            let whole = (rho * 65536.0).round() / 65536.0;
            Self::Other(whole, rho - whole)
        }
    }

    pub(super) fn apply(self, f: f64) -> f64 {
        match self {
            Self::Half => f.sqrt(),
            Self::One => f,
            Self::Other(whole, rest) => f.powf(whole + rest),
        }
    }
}

/// x^ρ for x ≥ 0 in the compute type: a type for each case, so that a loop is compiled for it.
pub(super) trait Power<C>: Copy {
    fn of(self, x: C) -> C;
}

/// ρ = ½.
#[derive(Clone, Copy)]
pub(super) struct SquareRoot;

/// ρ = 1.
#[derive(Clone, Copy)]
pub(super) struct Identity;

/// Any other ρ, in two parts.
#[derive(Clone, Copy)]
pub(super) struct General<C>(pub(super) C, pub(super) C);

impl<C: Real> Power<C> for SquareRoot {
    #[inline(always)]
    fn of(self, x: C) -> C {
        x.sqrt()
    }
}

impl<C: Real> Power<C> for Identity {
    #[inline(always)]
    fn of(self, x: C) -> C {
        x
    }
}

impl<C: Real> Power<C> for General<C> {
    #[inline(always)]
    fn of(self, x: C) -> C {
        x.power(self.0, self.1)
    }
}

/// `2^(ρ log2 x)` without a branch or a call, so that it vectorises; within 5e-7. Subnormal x count
/// as 0.
///
/// `x = 2^e m` with m in [√½, √2). `ρ e` is exact but for the exponent's rest, and its whole part goes into
/// the bits of the result. `log2 m = (2/ln 2) artanh s` with `s = (m − 1)/(m + 1)`; artanh and exp by
/// their series.
#[inline(always)]
pub(super) fn single_power(x: f32, whole: f32, rest: f32) -> f32 {
    const SQRT_HALF: u32 = 0x3f35_04f3;
    let bits = x.to_bits().wrapping_sub(SQRT_HALF);
    let e = (bits.cast_signed() >> 23) as f32;
    let m = f32::from_bits((bits & 0x007f_ffff) + SQRT_HALF);
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
    let two = f32::from_bits(exponent.wrapping_add(127) << 23);
    if x < f32::MIN_POSITIVE { 0.0 } else { two * exp }
}

/// Adding and taking away 1.5 · 2^23 rounds an f32 to a whole number.
const ROUND: f32 = 12_582_912.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn power_is_close_to_powf() {
        for rho in [0.3f64, 0.4, 0.6, 0.7, 0.8, 0.9, 1.3] {
            let Exponent::Other(whole, rest) = Exponent::of(rho) else { panic!() };
            let power = |x: f32| single_power(x, whole as f32, rest as f32);
            for k in -120..120 {
                for step in 0..8 {
                    let x = (2f64.powi(k) * (1.0 + f64::from(step) / 8.0)) as f32;
                    let exact = f64::from(x).powf(rho);
                    if !(1e-37..1e37).contains(&exact) {
                        continue;
                    }
                    let ours = power(x);
                    let off = (f64::from(ours) / exact - 1.0).abs();
                    assert!(off < 5e-7, "{x:e}^{rho} is off by {off:e}");
                }
            }
            assert_eq!(power(0.0), 0.0);
        }
    }
}
