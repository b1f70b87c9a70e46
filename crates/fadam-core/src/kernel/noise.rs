//! Random bits for stochastic rounding, counted and not drawn: the same for an element at a step whatever the
//! number of threads, and after a resume.

use super::lanes::STRIP;

/// The random bits of one parameter at one step.
#[derive(Clone, Copy)]
pub(crate) struct Noise(u32);

impl Noise {
    /// Of a parameter at step t.
    pub(crate) fn new(name: &str, t: u64) -> Self {
        // FNV-1a, 64 bits.
        let bytes = name.as_bytes().iter().copied().chain(t.to_le_bytes());
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Self((hash ^ (hash >> 32)) as u32)
    }

    /// 32 bits for each of the elements of a strip from element `first` on: for m, for f, or for θ.
    #[inline(always)]
    fn strip(self, first: usize, strip: &mut [u32; STRIP]) {
        let mut weyl = (first as u32).wrapping_mul(WEYL).wrapping_add(self.0);
        for bits in strip {
            // Half a `mix`, of a sequence whose neighbours differ in many bits already.
            let x = (weyl ^ (weyl >> 16)).wrapping_mul(0x7feb_352d);
            *bits = x ^ (x >> 15);
            weyl = weyl.wrapping_add(WEYL);
        }
    }

    /// The bits for m and f of a strip, which share them.
    #[inline(always)]
    pub(super) fn of_state(self, first: usize, strip: &mut [u32; STRIP]) {
        self.strip(first, strip);
    }

    /// The bits for θ of a strip.
    #[inline(always)]
    pub(super) fn of_theta(self, first: usize, strip: &mut [u32; STRIP]) {
        Self(mix(self.0 ^ WEYL)).strip(first, strip);
    }
}

/// 2³² over the golden ratio, odd: its multiples are spread evenly over 32 bits.
const WEYL: u32 = 0x9e37_79b9;

/// Which 16 of 32 random bits a tensor takes: m and θ the low ones, f the high ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Half {
    Low,
    High,
}

impl Half {
    #[inline(always)]
    pub(super) fn of(self, bits: u32) -> u32 {
        match self {
            Self::Low => bits & 0xffff,
            Self::High => bits >> 16,
        }
    }
}

/// A bijection of 32 bits in which each bit of the argument changes each bit of the result about half the time.
/// The multipliers are from Chris Wellons's search for such functions ("lowbias32").
#[inline(always)]
fn mix(x: u32) -> u32 {
    let x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
    let x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_uniform_and_differ_by_tensor_and_step() {
        let bits = |noise: Noise, theta: bool, half: Half| -> Vec<u32> {
            let mut all = Vec::new();
            for first in (0..65_536).step_by(STRIP) {
                let mut strip = [0; STRIP];
                let fill = if theta { Noise::of_theta } else { Noise::of_state };
                fill(noise, first, &mut strip);
                all.extend(strip.map(|bits| half.of(bits)));
            }
            all
        };
        let w = Noise::new("w", 1);
        let all = [
            bits(w, false, Half::Low),
            bits(w, false, Half::High),
            bits(w, true, Half::Low),
            bits(Noise::new("w", 2), false, Half::Low),
            bits(Noise::new("v", 1), false, Half::Low),
        ];
        for (k, a) in all.iter().enumerate() {
            let mean = a.iter().map(|&x| f64::from(x)).sum::<f64>() / 65_536.0 / 65_536.0;
            assert!((mean - 0.5).abs() < 0.005, "{mean}: the deviation of the mean is 0.0011");
            for b in &all[..k] {
                let same = a.iter().zip(b).filter(|(a, b)| a == b).count();
                assert!(same < 8, "{same} of 65536 are the same; 1 is expected");
            }
        }
    }
}
