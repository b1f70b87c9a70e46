//! Stand-in until augmentation is merged.

use rand::Rng;

use super::Features;
use crate::Result;

/// Masks of frequencies and of time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SpecAugment {
    /// How many.
    pub frequency_masks: usize,
    /// At most so many bins each.
    pub frequency_width: usize,
    /// How many.
    pub time_masks: usize,
    /// At most this share of the length each.
    pub time_share: f64,
}

impl SpecAugment {
    /// Whether the numbers make sense.
    ///
    /// # Errors
    /// None here.
    pub fn check(&self) -> Result<()> {
        Ok(())
    }

    /// Masks with 0.
    pub fn apply(&self, features: &mut Features, rng: &mut impl Rng) {
        for _ in 0..self.frequency_masks {
            let width = rng.random_range(0..=self.frequency_width);
            let from = rng.random_range(0..=80 - width);
            for frame in features.values.chunks_exact_mut(80) {
                frame[from..from + width].fill(0.0);
            }
        }
        for _ in 0..self.time_masks {
            let most = (features.frames as f64 * self.time_share) as usize;
            let width = rng.random_range(0..=most);
            let from = rng.random_range(0..=features.frames - width);
            features.values[from * 80..(from + width) * 80].fill(0.0);
        }
    }
}

/// Plays `factor` times faster.
///
/// # Errors
/// None here.
pub fn change_speed(samples: &[f32], factor: f64) -> Result<Vec<f32>> {
    Ok(super::sound::stretch(samples, factor))
}
