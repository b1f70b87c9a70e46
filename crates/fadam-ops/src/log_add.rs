//! Sums of probabilities by their logarithms, in f64: without a branch or a call, so that loops over them become vector
//! instructions.

use crate::lanes::{Vectorised, vectorise};

/// Below this, a probability counts as 0.
const LOWEST: f64 = -700.0;

/// `out = log(exp a + exp b)`, element by element; −∞ where both are.
pub(crate) fn log_add(out: &mut [f64], a: &[f64], b: &[f64]) {
    vectorise(LogAdd { out, a, b });
}

struct LogAdd<'a> {
    out: &'a mut [f64],
    a: &'a [f64],
    b: &'a [f64],
}

impl Vectorised for LogAdd<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (out, (&a, &b)) in self.out.iter_mut().zip(self.a.iter().zip(self.b)) {
            let (more, less) = if a > b { (a, b) } else { (b, a) };
            *out = more + log_of_one_and(exponential(less - more));
        }
    }
}

/// `x = exp(x + y)`, element by element; 0 where that is below e⁻⁷⁰⁰.
pub(crate) fn exponentials_of_sums(x: &mut [f64], y: &[f64]) {
    vectorise(Exponentials { x, y });
}

struct Exponentials<'a> {
    x: &'a mut [f64],
    y: &'a [f64],
}

impl Vectorised for Exponentials<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (x, &y) in self.x.iter_mut().zip(self.y) {
            let sum = *x + y;
            let power = exponential(sum);
            *x = if sum > LOWEST { power } else { 0.0 };
        }
    }
}

/// eˣ for x ≤ 700, with e⁻⁷⁰⁰ for what is less or NaN: x = n ln 2 + r with |r| ≤ ln 2 / 2, the Taylor series of eʳ up to
/// r¹³/13!, whose next term is below 2⁻⁵⁷, and n added to the exponent.
#[inline(always)]
fn exponential(x: f64) -> f64 {
    // 1.5 · 2⁵²: adding it leaves the nearest whole number in the lowest bits.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    // ln 2 in two parts, the first with 32 bits, so that n times it is exact.
    const LN_2_HIGH: f64 = 0.693_147_180_369_123_8;
    const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    /// 1/13! down to 1/0!
    const SERIES: [f64; 14] = [
        1.0 / 6_227_020_800.0,
        1.0 / 479_001_600.0,
        1.0 / 39_916_800.0,
        1.0 / 3_628_800.0,
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5_040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ];
    let x = if x > LOWEST { x } else { LOWEST };
    let rounded = x.mul_add(std::f64::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = n.mul_add(-LN_2_LOW, n.mul_add(-LN_2_HIGH, x));
    let p = SERIES.iter().fold(0.0, |p: f64, term| p.mul_add(r, *term));
    f64::from_bits(p.to_bits().wrapping_add(rounded.to_bits() << 52))
}

/// log(1 + e) for 0 ≤ e ≤ 1, to 2⁻⁵² absolute: `2 artanh s` with s = e/(2 + e), or, where e > 1/3, of half of 1 + e, plus ln 2.
/// Then |s| ≤ 1/5, and the first term of the series that is left out, 2 s²⁵/25, is below 2⁻⁶¹.
#[inline(always)]
fn log_of_one_and(e: f64) -> f64 {
    /// 2/23 down to 2/1
    const SERIES: [f64; 12] = [
        2.0 / 23.0,
        2.0 / 21.0,
        2.0 / 19.0,
        2.0 / 17.0,
        2.0 / 15.0,
        2.0 / 13.0,
        2.0 / 11.0,
        2.0 / 9.0,
        2.0 / 7.0,
        2.0 / 5.0,
        2.0 / 3.0,
        2.0,
    ];
    let halved = e > 1.0 / 3.0;
    let (above, below) = if halved { (e - 1.0, e + 3.0) } else { (e, e + 2.0) };
    let s = above / below;
    let square = s * s;
    let series = SERIES.iter().fold(0.0, |p: f64, term| p.mul_add(square, *term));
    series.mul_add(s, if halved { std::f64::consts::LN_2 } else { 0.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against the standard library, over all that comes up and lengths that are no multiple of a vector.
    #[test]
    fn sums_and_exponentials_are_those_of_the_standard_library() {
        let a: Vec<f64> = (0..100_003).map(|i| f64::from(i) * 0.000_5 - 30.0).collect();
        for offset in [-800.0, -41.3, -1.0, 0.0, 0.7, 50.0] {
            let b = vec![offset; a.len()];
            let (mut sums, mut powers) = (a.clone(), a.clone());
            log_add(&mut sums, &a, &b);
            let less = vec![offset.min(0.0) - 30.0; a.len()];
            exponentials_of_sums(&mut powers, &less);
            for (i, &a) in a.iter().enumerate() {
                let wanted = a.max(offset) + (-(a - offset).abs()).exp().ln_1p();
                assert!((sums[i] - wanted).abs() <= 2e-16 + 2e-16 * wanted.abs(), "{a} {offset}");
                let (x, wanted) = (a + less[i], (a + less[i]).exp());
                let wanted = if x > LOWEST { wanted } else { 0.0 };
                assert!((powers[i] - wanted).abs() <= 4e-16 * wanted, "{x}: {}", powers[i]);
            }
        }
    }

    #[test]
    fn nothing_is_minus_infinity() {
        let none = f64::NEG_INFINITY;
        let mut out = [0.0; 4];
        log_add(&mut out, &[none, none, 3.0, 0.0], &[none, -2.0, none, 0.0]);
        assert_eq!(out, [none, -2.0, 3.0, std::f64::consts::LN_2]);
        let mut x = [none, 0.0, none, -701.0];
        exponentials_of_sums(&mut x, &[1.0, 0.0, none, 0.0]);
        assert_eq!(x, [0.0, 1.0, 0.0, 0.0]);
    }
}
