//! The thread that makes batches ahead: sounds to features, in parallel.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use rayon::prelude::*;

use super::batches::SpeechBatch;
use super::plan::{Planned, Use, rng};
use super::set::SpeechSet;
use super::sound::RATE;
use super::store::widen;
use super::{BINS, Features, LogMel, SpecAugment, change_speed};
use crate::{Error, Result};

/// Batches that are made ahead; one more is being made.
const BATCHES_AHEAD: usize = 2;

/// A batch to make.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) epoch: u64,
    /// The index of the batch after it.
    pub(super) next: u64,
    pub(super) clips: Vec<Planned>,
    /// After so many batches of which nothing could be read there is nothing to hope for.
    pub(super) in_a_row: usize,
}

/// A batch that was made, and the position behind it.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) batch: SpeechBatch,
    pub(super) epoch: u64,
    pub(super) next: u64,
}

/// A batch, or the end.
type Item = Result<Option<Made>>;

/// The receiving end of the thread, which ends when this is dropped, at the latest with its present
/// batch.
#[derive(Debug)]
pub(super) struct Feed {
    items: Receiver<Item>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    met: Mutex<Met>,
}

/// Clips that could not be read.
#[derive(Debug, Default)]
struct Met {
    skipped: u64,
    told: HashSet<usize>,
    /// What was wrong with the last of them.
    last: String,
    notes: Vec<String>,
}

impl Feed {
    /// Makes the batches that `jobs` gives on its thread; masks are drawn from the seed beside them.
    pub(super) fn start<J: Iterator<Item = Job>>(
        set: Arc<SpeechSet>,
        masks: Option<(SpecAugment, u64)>,
        jobs: impl FnOnce() -> J + Send + 'static,
    ) -> Self {
        let shared = Arc::new(Shared::default());
        let (to, items) = sync_channel(BATCHES_AHEAD);
        let maker = Maker { set, mel: LogMel::new(), masks, shared: shared.clone() };
        thread::spawn(move || maker.make_all(jobs(), &to));
        Self { items, shared }
    }

    pub(super) fn next(&mut self) -> Item {
        // Without an answer the thread has panicked, and has said so.
        self.items.recv().unwrap_or(Err(Error::Stopped))
    }

    pub(super) fn skipped(&self) -> u64 {
        self.shared.met.lock().unwrap_or_else(PoisonError::into_inner).skipped
    }

    pub(super) fn take_notes(&self) -> Vec<String> {
        let mut met = self.shared.met.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut met.notes)
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

/// What the thread works with.
struct Maker {
    set: Arc<SpeechSet>,
    mel: LogMel,
    masks: Option<(SpecAugment, u64)>,
    shared: Arc<Shared>,
}

/// The features of a clip, and the seconds that it plays.
struct Sounded {
    clip: usize,
    features: Features,
    seconds: f64,
}

impl Maker {
    /// Sends batches until nobody takes them, or they are at an end.
    fn make_all(&self, jobs: impl Iterator<Item = Job>, to: &SyncSender<Item>) {
        let (mut empty, mut made) = (0, 0);
        for Job { epoch, next, clips, in_a_row } in jobs {
            if self.shared.stop.load(Ordering::Relaxed) {
                return;
            }
            let item = match self.make(epoch, &clips) {
                Some(batch) => {
                    empty = 0;
                    made += 1;
                    Ok(Some(Made { batch, epoch, next }))
                }
                None if empty < in_a_row => {
                    empty += 1;
                    continue;
                }
                None => Err(self.nothing_left()),
            };
            let failed = item.is_err();
            if to.send(item).is_err() || failed {
                return;
            }
        }
        // Where nobody waits for the end any more, nobody need know.
        let _ = to.send(if empty > 0 && made == 0 { Err(self.nothing_left()) } else { Ok(None) });
    }

    /// The batch of those clips that can be read, if there are any.
    fn make(&self, epoch: u64, clips: &[Planned]) -> Option<SpeechBatch> {
        let sounded: Vec<(usize, Result<Sounded>)> =
            clips.par_iter().map(|planned| (planned.clip, self.features(epoch, planned))).collect();
        let mut kept = Vec::with_capacity(sounded.len());
        for (clip, sounded) in sounded {
            match sounded {
                Ok(sounded) => kept.push(sounded),
                Err(error) => self.skip(clip, &error),
            }
        }
        (!kept.is_empty()).then(|| self.gather(&kept))
    }

    fn features(&self, epoch: u64, planned: &Planned) -> Result<Sounded> {
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

    fn gather(&self, clips: &[Sounded]) -> SpeechBatch {
        let frames: Vec<usize> = clips.iter().map(|clip| clip.features.frames).collect();
        let max_frames = frames.iter().max().copied().unwrap_or(0);
        let mut features = vec![0.0; clips.len() * max_frames * BINS];
        for (row, clip) in features.chunks_exact_mut(max_frames * BINS).zip(clips) {
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

    fn skip(&self, clip: usize, error: &Error) {
        let mut met = self.shared.met.lock().unwrap_or_else(PoisonError::into_inner);
        met.skipped += 1;
        met.last = error.to_string();
        if met.told.insert(clip) {
            let id = &self.set.clips()[clip].utterance.id;
            met.notes.push(format!("utterance {id} is left out: {error}"));
        }
    }

    /// Why there will be no batch.
    fn nothing_left(&self) -> Error {
        let met = self.shared.met.lock().unwrap_or_else(PoisonError::into_inner);
        Error::SpeechGone { clips: met.told.len(), reason: met.last.clone() }
    }
}
