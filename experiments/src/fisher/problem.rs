//! The questions that are asked of real data: 1,797 images of hand-written digits, 8×8 pixels of 17 levels.
//!
//! Two of them are the same question with the two losses of section 3.3.1: the pixels of the lower half of an image,
//! given the upper half, as levels (cross-entropy) or as numbers (L2). Images, hidden layer and its first weights are the
//! same; what differs is the distribution. The third is the classification of the digit.

use std::fmt;

use candle_core::{Device, Result, Tensor};
use serde::{Deserialize, Serialize};

use super::likelihood::Likelihood;
use super::network::with_ones;

/// E. Alpaydin and C. Kaynak (1998), CC BY 4.0: see the README beside it.
const DIGITS: &[u8] = include_bytes!("../../../crates/fadam-core/tests/data/digits.u8");

/// Pixels of an image, and of a half of it; an image and its label.
const PIXELS: usize = 64;
const HALF: usize = PIXELS / 2;
const RECORD: usize = PIXELS + 1;

/// Pixels are 0 to 16.
const LEVELS: usize = 17;

/// A question and the loss that it is learnt with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Problem {
    /// The digit, of 10, from all pixels; cross-entropy.
    DigitCe,
    /// Each lower pixel's level, of 17, from the upper pixels; cross-entropy.
    PixelsCe,
    /// Each lower pixel's value, 0 to 1, from the upper pixels; L2.
    PixelsL2,
}

/// All examples of a problem.
#[derive(Debug)]
pub struct Examples {
    /// Pixels in 0..=1 and a last column of ones, `[N, D + 1]`.
    pub x: Tensor,
    /// Labels, `[N, J]`: levels, or values.
    pub y: Tensor,
}

impl Problem {
    /// All.
    pub const ALL: [Self; 3] = [Self::DigitCe, Self::PixelsCe, Self::PixelsL2];

    /// The images as examples of it.
    ///
    /// # Errors
    /// Only if candle fails.
    pub fn examples(self) -> Result<Examples> {
        let n = DIGITS.len() / RECORD;
        let (mut x, mut y) = (Vec::new(), Vec::new());
        for image in DIGITS.chunks_exact(RECORD) {
            let value = |level: &u8| f64::from(*level) / (LEVELS - 1) as f64;
            let inputs = if self == Self::DigitCe { PIXELS } else { HALF };
            x.extend(image[..inputs].iter().map(value));
            match self {
                Self::DigitCe => y.push(f64::from(image[PIXELS])),
                Self::PixelsCe => y.extend(image[HALF..PIXELS].iter().map(|l| f64::from(*l))),
                Self::PixelsL2 => y.extend(image[HALF..PIXELS].iter().map(value)),
            }
        }
        let rows = |values: Vec<f64>| {
            let width = values.len() / n;
            Tensor::from_vec(values, (n, width), &Device::Cpu)
        };
        Ok(Examples { x: with_ones(&rows(x)?)?, y: rows(y)? })
    }

    /// Inputs without the ones, and outputs.
    pub fn sizes(self) -> (usize, usize) {
        match self {
            Self::DigitCe => (PIXELS, 10),
            Self::PixelsCe => (HALF, HALF * LEVELS),
            Self::PixelsL2 => (HALF, HALF),
        }
    }

    /// The distribution that it is trained with; σ does not matter to where L2 leads.
    pub fn likelihood(self) -> Likelihood {
        match self {
            Self::DigitCe => Likelihood::Categorical { levels: 10 },
            Self::PixelsCe => Likelihood::Categorical { levels: LEVELS },
            Self::PixelsL2 => Likelihood::Gaussian { sigma: 1.0 },
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::DigitCe => "digit, cross-entropy",
            Self::PixelsCe => "pixels, cross-entropy",
            Self::PixelsL2 => "pixels, L2",
        })
    }
}
