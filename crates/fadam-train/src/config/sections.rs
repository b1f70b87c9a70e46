//! `[train]` and `[checkpoint]`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::FieldError;

/// `[train]`: how long, how much at a time, and how often to look.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Optimizer steps of the whole run; fixes the schedule.
    pub steps: u64,
    /// Examples a step.
    pub batch: usize,
    /// Batches whose mean gradient makes one step: large steps in the memory of small ones.
    pub accumulate: usize,
    /// Seed of everything random.
    pub seed: u64,
    /// A safetensors file with the weights to start from; empty to draw them from `seed`. It is read
    /// before the first step only: a resumed run has its weights in the checkpoint.
    pub init: PathBuf,
    /// Steps between evaluations.
    pub eval_every: u64,
    /// Steps between training lines in `metrics.jsonl`.
    pub log_every: u64,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            steps: 1000,
            batch: 16,
            accumulate: 1,
            seed: 0,
            init: PathBuf::new(),
            eval_every: 100,
            log_every: 10,
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
        at_least_1("train.log_every", self.log_every)
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
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self { every: 500, keep: 2 }
    }
}

impl CheckpointConfig {
    pub(super) fn check(&self) -> Result<(), FieldError> {
        at_least_1("checkpoint.every", self.every)?;
        at_least_1("checkpoint.keep", self.keep as u64)
    }
}

fn at_least_1(key: &str, value: u64) -> Result<(), FieldError> {
    FieldError::require(key, value >= 1, format!("must be at least 1, got {value}"))
}
