//! Augmentation: other speeds, and masks over the features.

use rand::Rng;

use super::features::{BINS, Features};
use super::resample::resample;
use crate::{Error, Result};

/// `SpecAugment` (arXiv 1904.08779) without time warping: bands of mel bins and stretches of time
/// are hidden, for this utterance and this time.
///
/// | field | default | what |
/// |---|---|---|
/// | `frequency_masks` | 2 | bands of bins |
/// | `frequency_width` | 27 | bins that one band has at most |
/// | `time_masks` | 10 | stretches of frames |
/// | `time_share` | 0.05 | share of the utterance that one stretch has at most |
///
/// ```
/// use fadam_data::speech::{LogMel, SpecAugment};
/// use rand::SeedableRng;
///
/// let tone: Vec<f32> = (0..16_000).map(|n| (n as f32 * 0.3).sin()).collect();
/// let mut features = LogMel::new().compute(&tone);
/// features.normalise();
/// let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(7);
/// SpecAugment::default().apply(&mut features, &mut rng);
/// assert!(features.values.iter().filter(|&&y| y == 0.0).count() > 101);
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SpecAugment {
    /// Bands of mel bins that are hidden.
    pub frequency_masks: usize,
    /// F: the most bins that one of them has.
    pub frequency_width: usize,
    /// Stretches of time that are hidden.
    pub time_masks: usize,
    /// p: the most that one of them has, as a share of the utterance.
    pub time_share: f64,
}

impl Default for SpecAugment {
    fn default() -> Self {
        Self { frequency_masks: 2, frequency_width: 27, time_masks: 10, time_share: 0.05 }
    }
}

impl SpecAugment {
    /// Whether the numbers make sense.
    ///
    /// # Errors
    /// A `time_share` that is not between 0 and 1. (A `frequency_width` above [`BINS`] is as good
    /// as that.)
    pub fn check(&self) -> Result<()> {
        if (0.0..=1.0).contains(&self.time_share) {
            return Ok(());
        }
        Err(Error::TimeShare { value: self.time_share })
    }

    /// Hides parts of normalised features: sets them to 0, the mean of each bin.
    ///
    /// The width of a band is uniform over 0 … F, that of a stretch over 0 … ⌊p·frames⌋, and each
    /// begins anywhere that it fits, uniformly; they may overlap. The same generator gives the same
    /// masks.
    pub fn apply(&self, features: &mut Features, rng: &mut impl Rng) {
        for _ in 0..self.frequency_masks {
            let bins = draw(BINS, self.frequency_width, rng);
            for frame in features.values.chunks_exact_mut(BINS) {
                frame[bins.clone()].fill(0.0);
            }
        }
        let longest = (self.time_share * features.frames as f64) as usize;
        for _ in 0..self.time_masks {
            let frames = draw(features.frames, longest, rng);
            features.values[frames.start * BINS..frames.end * BINS].fill(0.0);
        }
    }
}

/// A range within 0 … length, of at most `longest`.
fn draw(length: usize, longest: usize, rng: &mut impl Rng) -> std::ops::Range<usize> {
    let width = rng.random_range(0..=longest.min(length));
    let begin = rng.random_range(0..=length - width);
    begin..begin + width
}

/// The same sound, `factor` times as fast and by so much higher: ⌈n/factor⌉ samples, as if it had
/// been recorded at `factor` times its rate. 0.9, 1.0 and 1.1 are what speech recognition uses.
///
/// ```
/// use fadam_data::speech::change_speed;
///
/// let sound = vec![0.25; 16_000];
/// assert_eq!(change_speed(&sound, 0.9)?.len(), 17_778);
/// assert_eq!(change_speed(&sound, 1.1)?.len(), 14_546);
/// assert_eq!(change_speed(&sound, 1.0)?, sound);
/// # Ok::<(), fadam_data::Error>(())
/// ```
///
/// # Errors
/// A factor that is not between 0.5 and 2. It is rounded to a thousandth.
pub fn change_speed(samples: &[f32], factor: f64) -> Result<Vec<f32>> {
    if !(0.5..=2.0).contains(&factor) {
        return Err(Error::Speed { factor });
    }
    Ok(resample(samples.to_vec(), (1000.0 * factor).round() as u32, 1000))
}
