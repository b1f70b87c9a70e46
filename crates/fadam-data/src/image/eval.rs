//! Evaluation: each picture once, in order, its middle as it is.

use std::sync::Arc;

use super::batches::{BatchReport, ImageBatch};
use super::plan::Planned;
use super::prefetch::{Feed, Job, Maker};
use super::set::ImageSet;
use crate::{Error, Result};

/// The pictures of a set in their order; the square in the middle of each, not mirrored.
///
/// ```
/// use fadam_data::image::{EvalImages, ImageSet, ImageSource, SetSpec};
///
/// let (emoji, _) = ImageSource::Embedded.read()?;
/// let set = ImageSet::build(emoji, &SetSpec::new(32), &|_, _| {})?;
/// let held_out = EvalImages::new(set.into(), 64)?.first(100);
/// let sizes: Vec<usize> = held_out.batches().map(|batch| batch.unwrap().batch()).collect();
/// assert_eq!(sizes, [64, 36]);
/// # Ok::<(), fadam_data::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct EvalImages {
    set: Arc<ImageSet>,
    pictures: usize,
    batch: usize,
}

impl EvalImages {
    /// At most `batch` pictures at a time.
    ///
    /// # Errors
    /// A `batch` of 0.
    pub fn new(set: Arc<ImageSet>, batch: usize) -> Result<Self> {
        if batch == 0 {
            return Err(Error::Zero { field: "the evaluation batch" });
        }
        Ok(Self { pictures: set.pictures().len(), set, batch })
    }

    /// The first `count` pictures of the set only, if there are more.
    #[must_use]
    pub fn first(mut self, count: usize) -> Self {
        self.pictures = self.pictures.min(count);
        self
    }

    /// How many pictures are evaluated.
    pub fn count(&self) -> usize {
        self.pictures
    }

    /// The set.
    pub fn set(&self) -> &ImageSet {
        &self.set
    }

    /// The batches, made ahead on a background thread. The same at every call.
    pub fn batches(&self) -> EvalIter {
        let Self { pictures, batch, .. } = *self;
        let job = move |at: usize| Job {
            epoch: 0,
            next: at as u64 + 1,
            planned: (at * batch..((at + 1) * batch).min(pictures))
                .map(|picture| Planned { picture, epoch: 0 })
                .collect(),
            in_a_row: pictures.div_ceil(batch),
        };
        let maker = Maker { set: self.set.clone(), seed: 0, random_crop: false, flip: false };
        let feed = Feed::start(maker, move || (0..pictures.div_ceil(batch)).map(job));
        EvalIter { feed, ended: false, report: BatchReport::default() }
    }
}

/// Batches of an evaluation; see [`EvalImages::batches`].
///
/// A picture that cannot be read any more is left out, counted in the report, and named in the notes.
#[derive(Debug)]
pub struct EvalIter {
    feed: Feed,
    ended: bool,
    report: BatchReport,
}

impl EvalIter {
    /// What was given out so far.
    pub fn report(&self) -> BatchReport {
        BatchReport { skipped: self.feed.skipped(), ..self.report.clone() }
    }

    /// Pictures that could not be read, a line each.
    pub fn take_notes(&mut self) -> Vec<String> {
        self.feed.take_notes()
    }
}

impl Iterator for EvalIter {
    type Item = Result<ImageBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let made = self.feed.next().transpose();
        self.ended = !matches!(made, Some(Ok(_)));
        made.map(|made| {
            let made = made?;
            self.report.count(&made.batch, made.epoch);
            Ok(made.batch)
        })
    }
}
