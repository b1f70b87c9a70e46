//! Evaluation: each clip once, as it is, sorted by length.

use std::sync::Arc;

use super::LogMel;
use super::batches::{BatchReport, SpeechBatch};
use super::plan::{Planned, cut};
use super::prefetch::{Feed, Job, Maker};
use super::set::SpeechSet;
use crate::{Error, Result};

/// The clips of a set in batches of about one length, from short to long; no other speed, no masks.
///
/// ```no_run
/// # use fadam_data::speech::{EvalBatches, SpeechSet};
/// # fn evaluate(set: std::sync::Arc<SpeechSet>) -> fadam_data::Result<()> {
/// let held_out = EvalBatches::new(set, 16)?;
/// let mut batches = held_out.batches();
/// for batch in batches.by_ref() {
///     let batch = batch?;
///     println!("{} clips of at most {} frames", batch.batch(), batch.max_frames);
/// }
/// assert!(batches.take_notes().is_empty(), "every clip was read");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct EvalBatches {
    set: Arc<SpeechSet>,
    clips: usize,
    batch: usize,
    batch_secs: Option<f64>,
}

impl EvalBatches {
    /// At most `batch` clips at a time.
    ///
    /// # Errors
    /// A `batch` of 0.
    pub fn new(set: Arc<SpeechSet>, batch: usize) -> Result<Self> {
        if batch == 0 {
            return Err(Error::Zero { field: "the evaluation batch" });
        }
        Ok(Self { clips: set.clips().len(), set, batch, batch_secs: None })
    }

    /// And at most so many seconds, B times the longest; a longer clip is alone.
    #[must_use]
    pub fn within(self, batch_secs: f64) -> Self {
        Self { batch_secs: Some(batch_secs), ..self }
    }

    /// The first `count` clips of the set only, if there are more.
    #[must_use]
    pub fn first(mut self, count: usize) -> Self {
        self.clips = self.clips.min(count);
        self
    }

    /// How many clips are evaluated.
    pub fn count(&self) -> usize {
        self.clips
    }

    /// The set.
    pub fn set(&self) -> &SpeechSet {
        &self.set
    }

    /// Which clips are in which batch.
    fn plan(&self) -> Vec<Vec<Planned>> {
        let length = |planned: &Planned| self.set.clips()[planned.clip].samples;
        let mut all: Vec<Planned> =
            (0..self.clips).map(|clip| Planned { clip, speed: 1.0 }).collect();
        all.sort_by_key(|planned| (length(planned), planned.clip));
        cut(&all, &length, self.batch, self.batch_secs)
    }

    /// The batches, made ahead on a background thread. The same at every call.
    pub fn batches(&self) -> EvalIter {
        let plan = self.plan();
        let in_a_row = plan.len();
        let job = move |(at, planned): (usize, _)| Job {
            epoch: 0,
            next: at as u64 + 1,
            planned,
            in_a_row,
        };
        let jobs = move || plan.into_iter().enumerate().map(job);
        let maker = Maker { set: self.set.clone(), mel: LogMel::new(), masks: None };
        let feed = Feed::start(maker, jobs);
        EvalIter { feed, ended: false, report: BatchReport::default() }
    }
}

/// Batches of an evaluation; see [`EvalBatches::batches`].
///
/// A clip that cannot be read any more is left out, counted in the report, and named in the notes; where
/// not one can be read, that is an error. Nothing comes after an error.
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

    /// Clips that could not be read, a line each.
    pub fn take_notes(&mut self) -> Vec<String> {
        self.feed.take_notes()
    }
}

impl Iterator for EvalIter {
    type Item = Result<SpeechBatch>;

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
