//! Where the time of a run goes.

use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Seconds by phase, over all sessions. On a GPU the work of a phase is waited for in a later one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct PhaseSecs {
    /// Waiting for batches.
    pub(crate) data: f64,
    /// Losses and their gradients.
    pub(crate) gradients: f64,
    /// Sums over the gradients of all processes, and waiting for them.
    pub(crate) reduction: f64,
    /// The optimizer's step, and what the task does after it.
    pub(crate) optimizer: f64,
    /// Evaluations, with their samples and the curve.
    pub(crate) evaluation: f64,
    /// Checkpoints.
    pub(crate) checkpoint: f64,
}

impl PhaseSecs {
    /// What was added since `before`.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            data: self.data - before.data,
            gradients: self.gradients - before.gradients,
            reduction: self.reduction - before.reduction,
            optimizer: self.optimizer - before.optimizer,
            evaluation: self.evaluation - before.evaluation,
            checkpoint: self.checkpoint - before.checkpoint,
        }
    }

    /// As an object for `metrics.jsonl` and `summary.json`.
    pub(crate) fn to_json(self) -> Value {
        json!(self)
    }
}

/// Adds the seconds since `started` to a phase.
pub(crate) fn add(phase: &mut f64, started: Instant) {
    *phase += started.elapsed().as_secs_f64();
}
