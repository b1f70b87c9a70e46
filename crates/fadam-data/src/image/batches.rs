//! Training batches of pictures: a pure function of the set, the settings and the batch index, so that
//! resuming is exact.
//!
//! Shapes: B pictures of S × S pixels, as planes of red, green and blue.

use std::sync::Arc;
use std::time::Duration;

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::plan::Planner;
use super::prefetch::{Feed, Job, Maker};
use super::set::ImageSet;
use crate::feed::Ahead;
use crate::text::same;
use crate::{Error, Result};

/// What training batches look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageSpec {
    /// Pictures in a batch, B.
    pub batch: usize,
    /// Of the order, the crops and the mirrors.
    pub seed: u64,
    /// Each time that its turn comes, another square of a picture is seen, each as likely; otherwise that
    /// in the middle.
    pub random_crop: bool,
    /// And every other time it is mirrored, left to right.
    pub flip: bool,
}

impl ImageSpec {
    /// The middles of pictures, not mirrored.
    pub fn plain(batch: usize, seed: u64) -> Self {
        Self { batch, seed, random_crop: false, flip: false }
    }

    /// Random squares, mirrored every other time.
    pub fn augmented(batch: usize, seed: u64) -> Self {
        Self { batch, seed, random_crop: true, flip: true }
    }

    /// All but the seed and the batch as one text, to tell settings apart.
    fn describe(&self, size: usize) -> String {
        let Self { batch: _, seed: _, random_crop, flip } = self;
        format!("size {size}, random_crop {random_crop}, flip {flip}")
    }
}

/// A position in the training data, to be saved with a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageCursor {
    /// The batch that comes next, from 0.
    pub batch_index: u64,
    batch: usize,
    seed: u64,
    settings: String,
    pictures: usize,
    checksum: u32,
}

/// B pictures of the set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageBatch {
    /// [B, 3, S, S]: of each picture all red, all green, all blue, row by row from the top.
    pub pixels: Vec<u8>,
    /// S.
    pub size: usize,
    /// Which pictures of the set they are.
    pub pictures: Vec<usize>,
}

impl ImageBatch {
    /// B, the number of pictures.
    pub fn batch(&self) -> usize {
        self.pictures.len()
    }

    /// The pixels, [B, 3, S, S] of u8.
    ///
    /// # Errors
    /// When the device has no memory for them.
    pub fn tensor(&self, device: &Device) -> candle_core::Result<Tensor> {
        Tensor::from_slice(&self.pixels, (self.batch(), 3, self.size, self.size), device)
    }
}

/// What was given out, and how long it was waited for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BatchReport {
    /// Batches.
    pub batches: u64,
    /// Pictures in them; those of later epochs count again.
    pub pictures: u64,
    /// Pictures that could not be read when their turn came, and were left out.
    pub skipped: u64,
    /// The epoch of the last picture, from 0.
    pub epoch: u64,
    /// The time until the first batch was there.
    pub first_wait: Duration,
    /// The time that later batches were waited for.
    pub wait: Duration,
}

impl BatchReport {
    pub(super) fn count(&mut self, batch: &ImageBatch, epoch: u64) {
        self.batches += 1;
        self.pictures += batch.batch() as u64;
        self.epoch = epoch;
    }
}

/// The endless sequence of training batches, made on background threads.
///
/// Batch i depends on the pictures of the set, the [`ImageSpec`] and i alone: the epochs follow each other
/// without a gap, and each has every picture once, in an order drawn from seed and epoch; what is seen of a
/// picture is drawn from seed, epoch and picture.
///
/// ```
/// use fadam_data::image::{ImageBatches, ImageSet, ImageSource, ImageSpec, SetSpec};
///
/// let (emoji, _) = ImageSource::Embedded.read()?;
/// let set = ImageSet::build(emoji, &SetSpec::new(32), &|_, _| {})?;
/// let mut batches = ImageBatches::new(set.into(), ImageSpec::augmented(16, 0))?;
/// let batch = batches.next_batch()?;
/// assert_eq!(batch.tensor(&candle_core::Device::Cpu)?.dims(), [16, 3, 32, 32]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct ImageBatches {
    set: Arc<ImageSet>,
    spec: ImageSpec,
    checksum: u32,
    ahead: Ahead<ImageBatch>,
    report: BatchReport,
}

impl ImageBatches {
    /// Begins with batch 0.
    ///
    /// # Errors
    /// A batch of 0.
    pub fn new(set: Arc<ImageSet>, spec: ImageSpec) -> Result<Self> {
        if spec.batch == 0 {
            return Err(Error::Zero { field: "train.batch" });
        }
        let checksum = set.checksum();
        Ok(Self { set, spec, checksum, ahead: Ahead::default(), report: BatchReport::default() })
    }

    /// Begins to work ahead, if that has not begun: otherwise the first batch does.
    pub fn start(&mut self) {
        self.ahead.start(|from| feed(&self.set, self.spec, from));
    }

    /// The next batch. A picture that cannot be read any more is left out of it, with a
    /// [note](ImageBatches::take_notes); a batch of which nothing is left is passed over.
    ///
    /// # Errors
    /// When not one picture can be read any more.
    pub fn next_batch(&mut self) -> Result<ImageBatch> {
        let made = self.ahead.take(|from| feed(&self.set, self.spec, from))?;
        self.report.count(&made.batch, made.epoch);
        Ok(made.batch)
    }

    /// Where the next batch is.
    pub fn cursor(&self) -> ImageCursor {
        ImageCursor {
            batch_index: self.ahead.next(),
            batch: self.spec.batch,
            seed: self.spec.seed,
            settings: self.spec.describe(self.set.size()),
            pictures: self.set.pictures().len(),
            checksum: self.checksum,
        }
    }

    /// Goes on from a position that [`ImageBatches::cursor`] gave, with the very batches that would have
    /// followed there.
    ///
    /// # Errors
    /// A position made with other settings or another set, or one that cannot be; nothing has changed
    /// then.
    pub fn restore(&mut self, cursor: &ImageCursor) -> Result<()> {
        let here = self.cursor();
        same("train.batch", &cursor.batch, &here.batch)?;
        same("train.seed", &cursor.seed, &here.seed)?;
        same("the batches' settings", &cursor.settings, &here.settings)?;
        same("the number of training pictures", &cursor.pictures, &here.pictures)?;
        same("the checksum of the training pictures", &cursor.checksum, &here.checksum)?;
        self.ahead.go_to(cursor.batch_index)
    }

    /// What was given out so far. Pictures are counted as skipped when the threads meet them, which is
    /// ahead of that.
    pub fn report(&self) -> BatchReport {
        let [first_wait, wait] = self.ahead.waits();
        let skipped = self.ahead.skipped();
        BatchReport { skipped, first_wait, wait, ..self.report.clone() }
    }

    /// What happened since the last call, in lines for a person: pictures that could not be read, each the
    /// first time.
    pub fn take_notes(&mut self) -> Vec<String> {
        self.ahead.take_notes()
    }
}

/// The thread that makes the batches from `from` on.
fn feed(set: &Arc<ImageSet>, spec: ImageSpec, from: u64) -> Feed {
    let ImageSpec { batch, seed, random_crop, flip } = spec;
    let pictures = set.pictures().len();
    let jobs = move || jobs(Planner::new(pictures, batch, seed), pictures, from);
    Feed::start(Maker { set: set.clone(), seed, random_crop, flip }, jobs)
}

/// The batches to make, from batch `next` on.
fn jobs(mut planner: Planner, pictures: usize, mut next: u64) -> impl Iterator<Item = Job> {
    std::iter::from_fn(move || {
        let planned = planner.at(next);
        next += 1;
        let epoch = planned.last().map_or(0, |last| last.epoch);
        // Wherever they begin, a whole epoch is among so many batches.
        let in_a_row = 2 * pictures.div_ceil(planned.len()) + 1;
        Some(Job { epoch, next, planned, in_a_row })
    })
}
