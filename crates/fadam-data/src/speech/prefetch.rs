//! Sounds to features, and features to batches: what the thread of the [feed](crate::feed) does for
//! speech.

use std::sync::Arc;

use super::batches::SpeechBatch;
use super::plan::{Planned, Use, rng};
use super::set::SpeechSet;
use super::sound::RATE;
use super::store::widen;
use super::{BINS, Features, LogMel, SpecAugment, change_speed};
use crate::{Error, Result, feed};

/// Batches of speech that are made ahead.
pub(super) type Feed = feed::Feed<SpeechBatch>;

/// A batch of speech to make.
pub(super) type Job = feed::Job<Planned>;

/// What the thread works with.
pub(super) struct Maker {
    pub(super) set: Arc<SpeechSet>,
    pub(super) mel: LogMel,
    /// Masks, and the seed that they are drawn from.
    pub(super) masks: Option<(SpecAugment, u64)>,
}

/// The features of a clip, and the seconds that it plays.
pub(super) struct Sounded {
    clip: usize,
    features: Features,
    seconds: f64,
}

impl feed::Make for Maker {
    type Planned = Planned;
    type Example = Sounded;
    type Batch = SpeechBatch;

    fn number(planned: &Planned) -> usize {
        planned.clip
    }

    fn name(&self, clip: usize) -> String {
        format!("utterance {}", self.set.clips()[clip].utterance.id)
    }

    fn example(&self, epoch: u64, planned: &Planned) -> Result<Sounded> {
        let Planned { clip, speed } = *planned;
        let mut samples = widen(&self.set.samples(clip)?);
        if speed != 1.0 {
            samples = change_speed(&samples, speed)?;
        }
        let mut features = self.mel.compute(&samples);
        features.normalise();
        if let Some((masks, seed)) = &self.masks {
            masks.apply(&mut features, &mut rng(*seed, Use::Mask, epoch, clip));
        }
        Ok(Sounded { clip, features, seconds: samples.len() as f64 / f64::from(RATE) })
    }

    fn gather(&self, clips: Vec<Sounded>) -> SpeechBatch {
        let frames: Vec<usize> = clips.iter().map(|clip| clip.features.frames).collect();
        let max_frames = frames.iter().max().copied().unwrap_or(0);
        let mut features = vec![0.0; clips.len() * max_frames * BINS];
        for (row, clip) in features.chunks_exact_mut(max_frames * BINS).zip(&clips) {
            row[..clip.features.values.len()].copy_from_slice(&clip.features.values);
        }
        SpeechBatch {
            features,
            max_frames,
            frames,
            targets: clips.iter().map(|c| self.set.clips()[c.clip].targets.clone()).collect(),
            utterances: clips.iter().map(|clip| clip.clip).collect(),
            seconds: clips.iter().map(|clip| clip.seconds).sum(),
        }
    }

    fn gone(&self, clips: usize, reason: String) -> Error {
        Error::SpeechGone { clips, reason }
    }
}
