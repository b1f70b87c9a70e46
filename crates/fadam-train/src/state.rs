//! Where a run stands, beside weights and optimizer state: `state.json` of a checkpoint.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Evaluation;
use crate::phases::PhaseSecs;
use crate::stability::Stability;

/// The versions of `state.json` that are read; the last is written. 2 has `stability` and `phase_secs`.
pub(crate) const FORMATS: [u32; 2] = [1, 2];

/// Where a run stands, beside weights and optimizer state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TrainState {
    /// The version of this format.
    format: u32,
    /// The experiment that wrote it.
    pub(crate) experiment: String,
    /// Steps taken.
    pub(crate) step: u64,
    /// Units (tokens, …) trained on.
    pub(crate) units: u64,
    /// `train.seed`.
    pub(crate) seed: u64,
    /// Seconds spent in steps, over all sessions.
    pub(crate) train_secs: f64,
    /// Seconds since the start, over all sessions.
    pub(crate) wall_secs: f64,
    /// Where they went.
    #[serde(default)]
    pub(crate) phase_secs: PhaseSecs,
    /// The last evaluation.
    pub(crate) last_eval: Option<EvalRecord>,
    /// The evaluation with the lowest loss.
    pub(crate) best_eval: Option<EvalRecord>,
    /// Losses of the steps since the last training line in `metrics.jsonl`.
    pub(crate) pending_losses: Vec<f64>,
    /// What went wrong so far, and what losses are judged by.
    #[serde(default)]
    pub(crate) stability: Stability,
    /// Lines of `metrics.jsonl` that belong to this state; a resumed run drops those after.
    pub(crate) metrics_lines: u64,
    /// [`Task::cursor`](crate::Task::cursor).
    pub(crate) cursor: Value,
}

/// An evaluation as it is remembered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EvalRecord {
    /// The steps that had been taken.
    pub(crate) step: u64,
    /// Nats a unit; `None` (null) if it was not finite.
    pub(crate) loss: Option<f64>,
    /// The other measures by name; `None` as above.
    pub(crate) metrics: Vec<(String, Option<f64>)>,
}

impl EvalRecord {
    /// An evaluation after `step` steps.
    pub(crate) fn of(step: u64, evaluation: &Evaluation) -> Self {
        let finite = |value: f64| value.is_finite().then_some(value);
        let metrics = evaluation.metrics.iter();
        Self {
            step,
            loss: finite(evaluation.loss),
            metrics: metrics.map(|(name, value)| (name.clone(), finite(*value))).collect(),
        }
    }
}

impl TrainState {
    /// The state before the first step.
    pub(crate) fn start(experiment: &str, seed: u64) -> Self {
        Self {
            format: FORMATS[FORMATS.len() - 1],
            experiment: experiment.to_owned(),
            step: 0,
            units: 0,
            seed,
            train_secs: 0.0,
            wall_secs: 0.0,
            phase_secs: PhaseSecs::default(),
            last_eval: None,
            best_eval: None,
            pending_losses: Vec::new(),
            stability: Stability::default(),
            metrics_lines: 0,
            cursor: Value::Null,
        }
    }
}

impl TrainState {
    /// Remembers an evaluation after the current step.
    pub(crate) fn remember(&mut self, evaluation: &Evaluation) {
        let record = EvalRecord::of(self.step, evaluation);
        let best = self.best_eval.as_ref().and_then(|best| best.loss);
        if record.loss.is_some_and(|loss| best.is_none_or(|best| loss < best)) {
            self.best_eval = Some(record.clone());
        }
        self.last_eval = Some(record);
    }
}
