//! `[train]`, `[checkpoint]` and `[parallel]`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::FieldError;

/// `[train]`: how long, how much at a time, and how often to look.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Optimizer steps of the whole run; fixes the schedule.
    pub steps: u64,
    /// Examples a step.
    pub batch: usize,
    /// Batches whose mean gradient makes one step: large steps in the memory of small ones.
    pub accumulate: usize,
    /// What the Fisher information is estimated from.
    #[serde(skip_serializing_if = "FisherEstimate::is_minibatch")]
    // older run folders do not have it
    pub fisher: FisherEstimate,
    /// Seed of everything random.
    pub seed: u64,
    /// A safetensors file with the weights to start from; empty to draw them from `seed`. It is read
    /// before the first step only: a resumed run has its weights in the checkpoint.
    pub init: PathBuf,
    /// Steps between evaluations.
    pub eval_every: u64,
    /// Steps between training lines in `metrics.jsonl`.
    pub log_every: u64,
    /// Whether there are event files for TensorBoard beside `metrics.jsonl`.
    pub tensorboard: bool,
    /// What follows a loss, gradient or update that is not finite.
    pub on_divergence: OnDivergence,
    /// After so many steps skipped in a row, or times gone back, a run stops all the same.
    pub divergence_limit: u64,
    /// What the learning rate is multiplied by each time a run goes back.
    pub divergence_lr_factor: f64,
}

/// What the Fisher information is estimated from: see [`fadam_core::Fisher`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FisherEstimate {
    /// The square of a step's mean gradient, as in the paper's algorithms.
    #[default]
    Minibatch,
    /// The mean of the squared gradients of its batches, all ranks' together.
    Microbatch,
}

impl FisherEstimate {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    fn is_minibatch(&self) -> bool {
        *self == Self::Minibatch
    }
}

/// What follows a loss, gradient or update that is not finite. Such a step changes nothing, whatever follows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDivergence {
    /// The run ends with a checkpoint of the state before the step, which a message and a line in `metrics.jsonl` describe.
    #[default]
    Stop,
    /// The step is passed over and counted; the run goes on with the next batch.
    Skip,
    /// The run goes back to its last checkpoint and on with a lower learning rate.
    Back,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            steps: 1000,
            batch: 16,
            accumulate: 1,
            fisher: FisherEstimate::default(),
            seed: 0,
            init: PathBuf::new(),
            eval_every: 100,
            log_every: 10,
            tensorboard: true,
            on_divergence: OnDivergence::default(),
            divergence_limit: 10,
            divergence_lr_factor: 0.5,
        }
    }
}

impl TrainConfig {
    /// The file with the weights to start from, if there is one.
    pub fn init(&self) -> Option<&Path> {
        (!self.init.as_os_str().is_empty()).then_some(&*self.init)
    }

    pub(super) fn check(&self) -> Result<(), FieldError> {
        at_least_1("train.steps", self.steps)?;
        at_least_1("train.batch", self.batch as u64)?;
        at_least_1("train.accumulate", self.accumulate as u64)?;
        at_least_1("train.eval_every", self.eval_every)?;
        at_least_1("train.log_every", self.log_every)?;
        at_least_1("train.divergence_limit", self.divergence_limit)?;
        let factor = self.divergence_lr_factor;
        FieldError::require(
            "train.divergence_lr_factor",
            factor > 0.0 && factor <= 1.0,
            format!("must be above 0 and at most 1, got {factor}"),
        )
    }
}

/// `[checkpoint]`: how often the state is saved, and how many saved states are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CheckpointConfig {
    /// Steps between checkpoints.
    pub every: u64,
    /// How many of the latest checkpoints are kept.
    pub keep: usize,
    /// Whether the one with the lowest evaluation loss is kept too, of those that were evaluated at their own step.
    pub keep_best: bool,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self { every: 500, keep: 2, keep_best: true }
    }
}

impl CheckpointConfig {
    pub(super) fn check(&self) -> Result<(), FieldError> {
        at_least_1("checkpoint.every", self.every)?;
        at_least_1("checkpoint.keep", self.keep as u64)
    }
}

/// `[parallel]`: how several processes train one model. It changes no result, but for the order in which f32 numbers are added up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ParallelConfig {
    /// MB of 10⁶ bytes that are summed at a time.
    pub bucket_mb: usize,
    /// Whether each process keeps a part of the optimizer's state only (stage 1 of `ZeRO`).
    pub zero: bool,
    /// Steps between two comparisons of the models of all processes; a checkpoint makes one too.
    pub check_every: u64,
}

impl Default for ParallelConfig {
    fn default() -> Self {
        Self { bucket_mb: 25, zero: false, check_every: 100 }
    }
}

impl ParallelConfig {
    pub(super) fn check(&self) -> Result<(), FieldError> {
        let range = 1..=1000;
        let message = format!("must be from 1 to 1000, got {}", self.bucket_mb);
        FieldError::require("parallel.bucket_mb", range.contains(&self.bucket_mb), message)?;
        at_least_1("parallel.check_every", self.check_every)
    }
}

fn at_least_1(key: &str, value: u64) -> Result<(), FieldError> {
    FieldError::require(key, value >= 1, format!("must be at least 1, got {value}"))
}
