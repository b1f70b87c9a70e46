//! How a run ended, in the few numbers that a table takes. The run itself writes it, so that a sweep which was killed
//! meanwhile finds it.

use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::divergence::is_divergence;
use crate::error::{describe, exit_code};
use crate::{metrics, summary};

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    /// With a finite held-out loss after all of its steps.
    Completed,
    /// By a loss, gradient or update that is not finite: a result.
    Diverged,
    /// By anything else.
    Failed,
}

impl Status {
    /// `completed`, `diverged` or `failed`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Diverged => "diverged",
            Self::Failed => "failed",
        }
    }
}

/// What is kept of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    pub(super) status: Status,
    /// Steps taken.
    pub(super) steps: Option<u64>,
    /// Held-out loss at the end; none unless it completed.
    pub(super) eval_loss: Option<f64>,
    pub(super) best_eval_loss: Option<f64>,
    /// The other measures of the last evaluation; none unless it completed.
    pub(super) metrics: Vec<(String, Option<f64>)>,
    pub(super) params: Option<u64>,
    /// Why it did not complete.
    pub(super) message: String,
    /// Whether bad input is why.
    pub(super) bad_input: bool,
    pub(super) train_s: Option<f64>,
    pub(super) wall_s: Option<f64>,
    pub(super) peak_rss_mb: Option<f64>,
}

impl Record {
    /// Of a run that left nothing to read.
    pub(super) fn failed(message: String) -> Self {
        Self {
            status: Status::Failed,
            steps: None,
            eval_loss: None,
            best_eval_loss: None,
            metrics: Vec::new(),
            params: None,
            message,
            bad_input: false,
            train_s: None,
            wall_s: None,
            peak_rss_mb: None,
        }
    }

    /// Of the run in `folder` that has come to its end, or to `error`.
    pub(super) fn of(folder: &Path, error: Option<&anyhow::Error>) -> anyhow::Result<Self> {
        let summary = read_summary(folder)?;
        anyhow::ensure!(error.is_some() || !summary.is_null(), "{} is missing", summary::FILE);
        let number = |key: &str| summary[key].as_f64();
        let mut record = Self {
            status: Status::Completed,
            steps: summary["steps"].as_u64(),
            eval_loss: number("eval_loss"),
            best_eval_loss: number("best_eval_loss"),
            metrics: Vec::new(),
            params: summary["params"].as_u64(),
            message: String::new(),
            bad_input: error.is_some_and(|error| exit_code(error) == 2),
            train_s: number("train_s"),
            wall_s: number("wall_s"),
            peak_rss_mb: number("peak_rss_mb"),
        };
        if let Some(error) = error {
            record.eval_loss = None;
            (record.status, record.message) = if is_divergence(error) {
                // The cause alone: what stands around it names a folder, and two sweeps have the same table; what follows it,
                // tensors and the batch, is in metrics.jsonl.
                let cause = error.root_cause().to_string();
                let cause = cause.split(';').next().unwrap_or_default();
                (Status::Diverged, cause.to_owned())
            } else {
                (Status::Failed, describe(error))
            };
        } else if record.eval_loss.is_none() {
            record.status = Status::Diverged;
            "the held-out loss is not finite".clone_into(&mut record.message);
        } else {
            record.metrics = last_metrics(folder)?;
        }
        Ok(record)
    }

    /// Whether the run need not be run again.
    pub(super) fn is_result(&self) -> bool {
        self.status != Status::Failed
    }
}

/// `summary.json`; null if the run did not come so far.
fn read_summary(folder: &Path) -> anyhow::Result<Value> {
    let path = folder.join(summary::FILE);
    if !path.exists() {
        return Ok(Value::Null);
    }
    let read = || anyhow::Ok(serde_json::from_str(&std::fs::read_to_string(&path)?)?);
    read().with_context(|| format!("cannot read {}", path.display()))
}

/// The measures of the last evaluation beside its loss.
fn last_metrics(folder: &Path) -> anyhow::Result<Vec<(String, Option<f64>)>> {
    let path = folder.join(metrics::FILE);
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let lines = text.lines().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let last = lines.into_iter().find(|line| line["split"] == "eval").unwrap_or_default();
    let fields = last.as_object().into_iter().flatten();
    let measures = fields.filter(|(name, _)| !["step", "split", "loss"].contains(&name.as_str()));
    Ok(measures.map(|(name, value)| (name.clone(), value.as_f64())).collect())
}
