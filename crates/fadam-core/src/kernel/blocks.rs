//! 8-bit numbers in blocks of [`BLOCK`] with a power of two in common.
//!
//! A code is a small float: 3 bits of mantissa, 4 bits of exponent and a sign for m, 5 bits of exponent for f, which
//! has none. Its number is `scale · (2^(e − bias) (1 + mantissa/8) − 2^−bias)`: taking the least away makes code 0
//! the number 0 and the codes next to it evenly spaced, without a case of its own. Within a block m reaches down to
//! 2⁻¹⁵ and f to 2⁻³¹ of the largest.
//!
//! Why a power of two: the numbers that can be stored then do not move with the largest of the block, so a number
//! that does not change is stored as it was, and rounding is noise only for what changes. And why stochastic
//! rounding: f moves by a thousandth a step, which the nearest code would forget every time.

use super::lanes::STRIP;
use super::noise::Half;

/// Numbers to a block: one strip.
pub(crate) const BLOCK: usize = STRIP;

/// What the bits of a code mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    /// For m: a sign, 4 bits of exponent, 3 of mantissa.
    Signed,
    /// For f: 5 bits of exponent, 3 of mantissa.
    Positive,
}

impl Code {
    /// The largest code without its sign.
    const fn top(self) -> u32 {
        match self {
            Self::Signed => 0x7f,
            Self::Positive => 0xff,
        }
    }

    /// What is taken away from each number, so that code 0 is 0.
    const fn least(self) -> f32 {
        f32::from_bits(self.bias() << SHIFT)
    }

    /// What the bits of code 0 are as an f32, behind the shift.
    const fn bias(self) -> u32 {
        match self {
            Self::Signed => (127 - 15) << 3,
            Self::Positive => (127 - 31) << 3,
        }
    }
}

/// An f32 has 20 bits of mantissa more than a code.
const SHIFT: u32 = 20;

/// The number of a code, but for the scale.
#[inline(always)]
pub(super) fn decode(code: u8, of: Code) -> f32 {
    let magnitude = u32::from(code) & of.top();
    let sign = if of == Code::Signed { (u32::from(code) & 0x80) << 24 } else { 0 };
    let number = f32::from_bits((magnitude + of.bias()) << SHIFT) - of.least();
    f32::from_bits(number.to_bits() | sign)
}

/// The power of two that the numbers of a block are divided by: the least that brings the largest to at most the
/// number of the top code.
#[inline(always)]
fn scale(block: &[f32], of: Code) -> f32 {
    const EXPONENT: u32 = 0x7f80_0000;
    // The bits of positive floats are ordered as they are; integers have a maximum that vectorises.
    let largest = block.iter().fold(0, |most: u32, x| most.max(x.to_bits() & 0x7fff_ffff));
    if largest == 0 {
        return 1.0;
    }
    // Up to the next power of two, unless the mantissa is at most that of the top code.
    let top = decode(of.top() as u8, of).to_bits() & 0x007f_ffff;
    let bits = (largest + (0x007f_ffff - top)) & EXPONENT;
    // Neither subnormal nor infinite, so that its inverse is a number.
    f32::from_bits(bits.clamp(1 << 23, 254 << 23))
}

/// The codes of a block, rounded with the bits of `half` of `random`; returns its scale.
#[inline(always)]
pub(super) fn encode(
    block: &[f32],
    codes: &mut [u8],
    of: Code,
    random: &[u32; STRIP],
    half: Half,
) -> f32 {
    let scale = scale(block, of);
    let inverse = scale.recip();
    let n = block.len();
    let (codes, random) = (&mut codes[..n], &random[..n]);
    for i in 0..n {
        let x = block[i] * inverse;
        let magnitude = f32::from_bits(x.to_bits() & 0x7fff_ffff);
        let bits = (magnitude + of.least()).to_bits();
        // Random bits below the mantissa carry into it as often as what is cut off says.
        let rounded = bits.wrapping_add(half.of(random[i]) << 4) >> SHIFT;
        let code = rounded.wrapping_sub(of.bias()).min(of.top());
        codes[i] = match of {
            Code::Signed => (code | (x.to_bits() >> 24) & 0x80) as u8,
            // What is not 0 stays so: else g would be divided by ε̂ alone.
            Code::Positive => code.max(magnitude.to_bits().min(1)) as u8,
        };
    }
    scale
}

#[cfg(test)]
mod tests {
    use super::super::noise::Noise;
    use super::*;

    /// The scale and the codes of a block at step t.
    fn encoded(block: &[f32], of: Code, t: u64) -> (f32, Vec<u8>) {
        let (mut codes, mut random) = (vec![0; block.len()], [0; STRIP]);
        Noise::new("w", t).of_state(0, &mut random);
        let half = if of == Code::Signed { Half::Low } else { Half::High };
        (encode(block, &mut codes, of, &random, half), codes)
    }

    #[test]
    fn a_number_that_can_be_stored_stays() {
        for of in [Code::Signed, Code::Positive] {
            for scale_bits in [40, 90, 127, 200, 254] {
                let scale = f32::from_bits(scale_bits << 23);
                let numbers: Vec<f32> = (0..=255).map(|code| decode(code, of) * scale).collect();
                for t in 0..8 {
                    let (found, codes) = encoded(&numbers, of, t);
                    assert_eq!(found, scale);
                    for (code, back) in codes.into_iter().enumerate() {
                        assert_eq!(usize::from(back), code, "{of:?}, scale {scale:e}");
                    }
                }
            }
            assert_eq!(decode(0, of), 0.0);
            assert!((decode(127, Code::Signed) - 1.875).abs() < 1e-4);
        }
    }

    #[test]
    fn rounding_is_right_on_average() {
        let numbers: Vec<f32> = (0..256).map(|i| 1e-3 * 1.05f32.powi(i - 128)).collect();
        for of in [Code::Signed, Code::Positive] {
            let (s, _) = encoded(&numbers, of, 0);
            let mut mean = [0f64; 256];
            let rounds = 4000u32;
            for t in 0..rounds {
                let (_, codes) = encoded(&numbers, of, t.into());
                for (mean, code) in mean.iter_mut().zip(codes) {
                    *mean += f64::from(decode(code, of) * s) / f64::from(rounds);
                }
            }
            for (mean, x) in mean.iter().zip(&numbers) {
                // To the next code it is an eighth of x and of the least at most: a deviation of a sixteenth, by √4000
                // a thousandth, and five of them.
                let unit = f64::from(x + s * of.least());
                assert!(
                    (mean - f64::from(*x)).abs() < unit * 0.005,
                    "{of:?}: {x:e} becomes {mean:e}"
                );
            }
        }
    }

    #[test]
    fn the_scale_is_the_least_power_of_two() {
        for of in [Code::Signed, Code::Positive] {
            let cases = [(1.0, 1.0), (1.874, 1.0), (1.876, 2.0), (-3.0, 2.0), (0.0, 1.0)];
            for (largest, expected) in cases {
                assert_eq!(scale(&[0.0, largest], of), expected);
            }
            assert_eq!(scale(&[f32::MAX], of), f32::from_bits(254 << 23));
            assert_eq!(scale(&[1e-44], of), f32::MIN_POSITIVE);
        }
    }

    #[test]
    fn f_that_is_not_0_stays_so() {
        let (_, codes) = encoded(&[1.0, 1e-30, 0.0], Code::Positive, 1);
        assert!(codes[1] > 0 && codes[2] == 0);
    }
}
