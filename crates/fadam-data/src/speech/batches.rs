//! Training batches of speech: a pure function of the set, the settings and the batch index, so that
//! resuming is exact.
//!
//! Shapes: B clips of T frames, the longest's, of 80 features; shorter ones are padded with zeros, the
//! mean of each feature.

use std::sync::Arc;
use std::time::Duration;

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::plan::{Planner, samples_at};
use super::prefetch::{Feed, Job, Maker};
use super::set::SpeechSet;
use super::sound::RATE;
use super::{BINS, LogMel, SpecAugment};
use crate::feed::Ahead;
use crate::text::same;
use crate::{Error, Result};

/// The slowest and the fastest that a clip may be played.
const SPEEDS: std::ops::RangeInclusive<f64> = 0.5..=2.0;

/// What training batches look like.
#[derive(Debug, Clone, PartialEq)]
pub struct SpeechSpec {
    /// The most clips in a batch, B.
    pub batch: usize,
    /// The most seconds of sound in a batch with its padding, B times the longest; no bound unless
    /// given.
    pub batch_secs: Option<f64>,
    /// Of the order, the speeds and the masks.
    pub seed: u64,
    /// Each time that its turn comes, a clip is played so many times faster: one of these, drawn
    /// evenly. `[1.0]` leaves sound as it is.
    pub speeds: Vec<f64>,
    /// Masks over training features, drawn anew each time.
    pub spec_augment: Option<SpecAugment>,
    /// So many batches' clips are sorted by length together: the more, the less padding, and the less
    /// chance in which clips meet.
    pub bucket: usize,
}

impl SpeechSpec {
    /// Batches of `batch` clips, as they are: no other speed, no masks, and 32 batches sorted together.
    pub fn plain(batch: usize, seed: u64) -> Self {
        Self { batch, batch_secs: None, seed, speeds: vec![1.0], spec_augment: None, bucket: 32 }
    }

    fn check(&self, set: &SpeechSet) -> Result<()> {
        for (field, value) in [("train.batch", self.batch), ("data.bucket", self.bucket)] {
            if value == 0 {
                return Err(Error::Zero { field });
            }
        }
        let wrong = |field, value: String, expected: String| {
            Err(Error::SpeechSetting { field, value, expected })
        };
        if self.speeds.is_empty() || !self.speeds.iter().all(|speed| SPEEDS.contains(speed)) {
            let (from, to) = (SPEEDS.start(), SPEEDS.end());
            let expected = format!("at least one number, each from {from} to {to}");
            return wrong("data.speeds", format!("{:?}", self.speeds), expected);
        }
        let slowest = self.speeds.iter().copied().fold(f64::INFINITY, f64::min);
        let longest = set.clips().iter().map(|clip| samples_at(clip.samples, slowest)).max();
        let needed = longest.unwrap_or(0) as f64 / f64::from(RATE);
        if let Some(masks) = &self.spec_augment {
            masks.check()?;
        }
        match self.batch_secs {
            Some(secs) if secs < needed || secs.is_nan() => {
                let expected =
                    format!("at least {needed:.3}, which the longest clip takes at its slowest");
                wrong("data.batch_secs", secs.to_string(), expected)
            }
            _ => Ok(()),
        }
    }

    /// All but the seed and the batch as one text, to tell settings apart.
    fn describe(&self) -> String {
        let Self { batch: _, batch_secs, seed: _, speeds, spec_augment, bucket } = self;
        let masks = spec_augment.as_ref().map(|masks| {
            let SpecAugment { frequency_masks, frequency_width, time_masks, time_share, .. } =
                masks;
            format!("{frequency_masks} x {frequency_width}, {time_masks} x {time_share}")
        });
        let masks = masks.unwrap_or_else(|| "none".to_owned());
        let secs = batch_secs.map_or("any".to_owned(), |secs| secs.to_string());
        format!("batch_secs {secs}, speeds {speeds:?}, masks {masks}, bucket {bucket}")
    }
}

/// A position in the training data, to be saved with a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpeechCursor {
    /// The batch that comes next, from 0.
    pub batch_index: u64,
    batch: usize,
    seed: u64,
    settings: String,
    clips: usize,
    checksum: u32,
}

/// B clips of the set, as features and targets.
#[derive(Debug, Clone, PartialEq)]
pub struct SpeechBatch {
    /// [B, T, 80], row by row; 0 behind the end of a clip.
    pub features: Vec<f32>,
    /// T, the frames of the longest.
    pub max_frames: usize,
    /// The frames of each clip, at most T.
    pub frames: Vec<usize>,
    /// The labels of each clip, at least one.
    pub targets: Vec<Vec<u32>>,
    /// Which clips of the set they are.
    pub utterances: Vec<usize>,
    /// Seconds of sound in all of them, as they are played, without padding.
    pub seconds: f64,
}

impl SpeechBatch {
    /// B, the number of clips.
    pub fn batch(&self) -> usize {
        self.frames.len()
    }

    /// The features, [B, T, 80] of f32.
    ///
    /// # Errors
    /// When the device has no memory for them.
    pub fn tensor(&self, device: &Device) -> candle_core::Result<Tensor> {
        Tensor::from_slice(&self.features, (self.batch(), self.max_frames, BINS), device)
    }
}

/// What was given out, and how long it was waited for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BatchReport {
    /// Batches.
    pub batches: u64,
    /// Clips in them; those of later epochs count again.
    pub clips: u64,
    /// Their seconds, as they were played.
    pub seconds: f64,
    /// Frames of the batches, with padding.
    pub frames: u64,
    /// Those that are padding.
    pub padding: u64,
    /// Clips that could not be read when their turn came, and were left out.
    pub skipped: u64,
    /// The epoch of the last batch, from 0.
    pub epoch: u64,
    /// The time until the first batch was there.
    pub first_wait: Duration,
    /// The time that later batches were waited for.
    pub wait: Duration,
}

impl BatchReport {
    /// The share of frames that is padding, from 0 to 1; 0 before the first batch.
    pub fn padding_share(&self) -> f64 {
        if self.frames == 0 { 0.0 } else { self.padding as f64 / self.frames as f64 }
    }

    pub(super) fn count(&mut self, batch: &SpeechBatch, epoch: u64) {
        let (all, real) = super::plan::frames(&batch.frames);
        self.batches += 1;
        self.clips += batch.batch() as u64;
        self.seconds += batch.seconds;
        self.frames += all;
        self.padding += all - real;
        self.epoch = epoch;
    }
}

/// The endless sequence of training batches, made on background threads.
///
/// Batch i depends on the sounds and targets of the set, the [`SpeechSpec`] and i alone: an epoch has
/// every clip once, in an order drawn from seed and epoch, together with others of about its length;
/// its speed and its masks are drawn from seed, epoch and clip.
///
/// ```
/// use fadam_data::speech::{
///     SetSpec, SpeechBatches, SpeechSet, SpeechSource, SpeechSpec, Units, transcripts,
/// };
/// # let folder = tempfile::tempdir()?;
/// # let mut manifest = "path\ttext\n".to_owned();
/// # for n in 0..3 {
/// #     let beep: Vec<u8> = (0..16_000).flat_map(|i: i32| ((i % 40 * 500 + n) as i16).to_le_bytes()).collect();
/// #     let mut wav = b"RIFF\x24\x7d\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x80\x3e\0\0\0\x7d\0\0\x02\0\x10\0data\0\x7d\0\0".to_vec();
/// #     wav.extend(beep);
/// #     std::fs::write(folder.path().join(format!("{n}.wav")), wav)?;
/// #     manifest += &format!("{n}.wav\tone two\n");
/// # }
/// # let path = folder.path().join("train.tsv");
/// # std::fs::write(&path, manifest)?;
///
/// let spec = SetSpec::default();
/// let (utterances, _) = SpeechSource::Places(vec![path]).read()?;
/// let units = Units::characters(&transcripts(&utterances, spec.normalisation))?;
/// let set = SpeechSet::build(utterances, &units, &spec, &|_, _| {})?;
///
/// let mut batches = SpeechBatches::new(set.into(), SpeechSpec::plain(3, 0))?;
/// let batch = batches.next_batch()?;
/// assert_eq!(batch.tensor(&candle_core::Device::Cpu)?.dims(), [3, 101, 80]);
/// assert_eq!(units.decode(&batch.targets[0])?, "one two");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct SpeechBatches {
    set: Arc<SpeechSet>,
    spec: SpeechSpec,
    settings: String,
    checksum: u32,
    ahead: Ahead<SpeechBatch>,
    report: BatchReport,
}

impl SpeechBatches {
    /// Begins with batch 0.
    ///
    /// # Errors
    /// A number of 0, speeds that are none, or fewer seconds a batch than the longest clip takes.
    pub fn new(set: Arc<SpeechSet>, spec: SpeechSpec) -> Result<Self> {
        spec.check(&set)?;
        let (settings, checksum) = (spec.describe(), set.checksum());
        let (ahead, report) = (Ahead::default(), BatchReport::default());
        Ok(Self { set, spec, settings, checksum, ahead, report })
    }

    /// Begins to work ahead, if that has not begun: otherwise the first batch does.
    pub fn start(&mut self) {
        self.ahead.start(|from| feed(&self.set, &self.spec, from));
    }

    /// The next batch. A clip that cannot be read any more is left out of it, with a
    /// [note](SpeechBatches::take_notes); a batch of which nothing is left is passed over.
    ///
    /// # Errors
    /// When not one clip can be read any more.
    pub fn next_batch(&mut self) -> Result<SpeechBatch> {
        let made = self.ahead.take(|from| feed(&self.set, &self.spec, from))?;
        self.report.count(&made.batch, made.epoch);
        Ok(made.batch)
    }

    /// Where the next batch is.
    pub fn cursor(&self) -> SpeechCursor {
        SpeechCursor {
            batch_index: self.ahead.next(),
            batch: self.spec.batch,
            seed: self.spec.seed,
            settings: self.settings.clone(),
            clips: self.set.clips().len(),
            checksum: self.checksum,
        }
    }

    /// Goes on from a position that [`SpeechBatches::cursor`] gave, with the very batches that would
    /// have followed there.
    ///
    /// # Errors
    /// A position made with other settings or another set, or one that cannot be; nothing has changed
    /// then.
    pub fn restore(&mut self, cursor: &SpeechCursor) -> Result<()> {
        let here = self.cursor();
        same("train.batch", &cursor.batch, &here.batch)?;
        same("train.seed", &cursor.seed, &here.seed)?;
        same("the batches' settings", &cursor.settings, &here.settings)?;
        same("the number of training clips", &cursor.clips, &here.clips)?;
        same("the checksum of the training clips", &cursor.checksum, &here.checksum)?;
        self.ahead.go_to(cursor.batch_index)
    }

    /// What was given out so far. Clips are counted as skipped when the threads meet them, which is
    /// ahead of that.
    pub fn report(&self) -> BatchReport {
        let [first_wait, wait] = self.ahead.waits();
        let skipped = self.ahead.skipped();
        BatchReport { skipped, first_wait, wait, ..self.report.clone() }
    }

    /// What happened since the last call, in lines for a person: clips that could not be read, each the
    /// first time.
    pub fn take_notes(&mut self) -> Vec<String> {
        self.ahead.take_notes()
    }
}

/// The thread that makes the batches from `from` on.
fn feed(set: &Arc<SpeechSet>, spec: &SpeechSpec, from: u64) -> Feed {
    let samples = set.clips().iter().map(|clip| clip.samples).collect();
    let spec = spec.clone();
    let masks = spec.spec_augment.map(|masks| (masks, spec.seed));
    // The plan is drawn on the thread: going to a late epoch takes a while.
    let jobs = move || jobs(Planner::new(samples, spec), from);
    Feed::start(Maker { set: set.clone(), mel: LogMel::new(), masks }, jobs)
}

/// The batches to make, from batch `next` on.
fn jobs(mut planner: Planner, mut next: u64) -> impl Iterator<Item = Job> {
    std::iter::from_fn(move || {
        let (epoch, clips) = planner.at(next);
        let planned = clips.to_vec();
        next += 1;
        Some(Job { epoch, next, planned, in_a_row: planner.len() })
    })
}
