//! Decoded samples: kept in memory as far as that goes, decoded again beyond it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use super::sound::Decoded;
use super::utterance::Audio;
use crate::{Error, Result};

/// 16-bit samples at [`RATE`](super::RATE). Sound is rounded to them wherever it comes from, so that
/// what is kept in memory changes nothing.
pub(super) type Samples = Arc<[i16]>;

/// g · x · 2¹⁵ to the nearest whole number. The gain g is 1, and 1 / max |x| for a sound that goes beyond
/// ±1 (of floating-point numbers, or resampled at full scale): it is turned down, not cut off.
pub(super) fn round(decoded: &Decoded) -> Samples {
    let samples = decoded.sound.samples();
    let peak = samples.iter().fold(1f32, |peak, x| peak.max(x.abs()));
    let scale = 32768.0 / peak;
    let round = |&x: &f32| (x * scale).round().min(32767.0) as i16;
    samples.iter().map(round).collect()
}

/// The other way, exact.
pub(super) fn widen(samples: &[i16]) -> Vec<f32> {
    samples.iter().map(|&x| f32::from(x) / 32768.0).collect()
}

/// Samples of the clips of a set by number.
#[derive(Debug)]
pub(super) struct Store {
    slots: Vec<OnceLock<Samples>>,
    /// Bytes that may still be kept.
    free: AtomicUsize,
}

impl Store {
    /// For so many clips, at most `bytes` of samples.
    pub(super) fn new(clips: usize, bytes: usize) -> Self {
        let slots = (0..clips).map(|_| OnceLock::new()).collect();
        Self { slots, free: AtomicUsize::new(bytes) }
    }

    /// Keeps the samples of a clip if there is room for them.
    pub(super) fn offer(&self, clip: usize, samples: &Samples) {
        let bytes = size_of_val::<[i16]>(samples);
        let take = |free: usize| free.checked_sub(bytes);
        let order = Ordering::Relaxed;
        if self.free.fetch_update(order, order, take).is_ok()
            && self.slots[clip].set(samples.clone()).is_err()
        {
            // Another thread was first.
            self.free.fetch_add(bytes, order);
        }
    }

    /// The samples of a clip, decoded if they are not kept; `expected` of them.
    pub(super) fn get(&self, clip: usize, audio: &Audio, expected: usize) -> Result<Samples> {
        if let Some(kept) = self.slots[clip].get() {
            return Ok(kept.clone());
        }
        let samples = round(&audio.decode()?);
        if samples.len() != expected {
            let (name, here) = (audio.to_string(), samples.len());
            return Err(Error::SoundChanged { name, expected, here });
        }
        self.offer(clip, &samples);
        Ok(samples)
    }

    /// Clips that are kept.
    pub(super) fn kept(&self) -> usize {
        self.slots.iter().filter(|slot| slot.get().is_some()).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::speech::sound::Sound;

    fn decoded(samples: Vec<f32>) -> Decoded {
        Decoded { sound: Sound::from_samples(samples), rate: 16_000, channels: 1 }
    }

    #[test]
    fn sixteen_bits_come_back_exactly() {
        let all: Vec<i16> = (i16::MIN..=i16::MAX).collect();
        assert_eq!(*round(&decoded(widen(&all))), all);
        let near = round(&decoded(vec![-1.0, 1.0, 0.4 / 32768.0, 0.6 / 32768.0]));
        assert_eq!(*near, [-32768, 32767, 0, 1]);
        // Floats at the scale of 16-bit integers keep their shape.
        let loud = round(&decoded(vec![30_000.0, -15_000.0, 7_500.0, 0.0]));
        assert_eq!(*loud, [32767, -16384, 8192, 0]);
    }

    #[test]
    fn no_more_is_kept_than_there_is_room_for() {
        let store = Store::new(4, 25);
        let clip: Samples = vec![1i16; 5].into();
        (0..4).for_each(|n| store.offer(n, &clip));
        assert_eq!(store.kept(), 2);
        store.offer(0, &clip);
        assert_eq!(store.free.load(Ordering::Relaxed), 5, "a clip that is kept takes room once");
        let gone = Audio::File("/nowhere/at/all.wav".into());
        assert_eq!(*store.get(1, &gone, 5).unwrap(), *clip);
        assert!(store.get(2, &gone, 5).is_err());
    }
}
