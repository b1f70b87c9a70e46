//! `summary.json`: how a run ended, for tables and sweeps.

use std::path::Path;

use serde_json::Value;

use crate::metrics::Record;
use crate::progress::{grouped, spoken};
use crate::stability::Stability;
use crate::state::TrainState;
use crate::{Outcome, atomic, checkpoint};

pub(crate) const FILE: &str = "summary.json";

/// What [`peak_rss_mb`] is called here and in `metrics.jsonl`.
pub(crate) const PEAK_MEMORY: &str = "peak_rss_mb";

/// What a summary says beside where the run stands.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) optimizer: &'static str,
    pub(crate) params: usize,
    pub(crate) unit: &'static str,
    /// The file of the initial weights, if they were not drawn.
    pub(crate) init: Option<String>,
    pub(crate) device: String,
    pub(crate) commit: Option<String>,
    pub(crate) processes: usize,
}

impl Facts {
    /// Writes the summary. `tokens_per_s` is all units over all time spent in steps (data, forward,
    /// backward, optimizer; not evaluations and checkpoints), over all sessions of the run.
    pub(crate) fn write(
        &self,
        folder: &Path,
        state: &TrainState,
        outcome: Result<Outcome, &str>,
        extras: Vec<(String, Value)>,
    ) -> anyhow::Result<()> {
        let eval = state.last_eval.as_ref();
        let metrics = eval.map(|eval| eval.metrics.clone()).unwrap_or_default();
        let best = state.best_eval.as_ref();
        let record = Record::new()
            .with("experiment", state.experiment.as_str())
            .with("optimizer", self.optimizer)
            .with("seed", state.seed)
            .with("init", self.init.as_deref())
            .with("steps", state.step)
            .with("completed", outcome == Ok(Outcome::Completed))
            .with("outcome", outcome.map_or("failed", Outcome::name))
            .with("error", outcome.err())
            .with("params", self.params)
            .with("eval_loss", eval.and_then(|eval| eval.loss))
            .with_all(metrics.into_iter().map(|(name, value)| (name, value.into())))
            .with("eval_step", eval.map(|eval| eval.step))
            .with("best_eval_loss", best.and_then(|best| best.loss))
            .with("best_eval_step", best.map(|best| best.step))
            .with("best_checkpoint", best_checkpoint(folder))
            .with("loss_spikes", state.stability.spikes)
            .with("skipped_steps", state.stability.skipped)
            .with("went_back", state.stability.went_back)
            .with("lr_scale", state.stability.lr_scale)
            .with(self.unit, state.units)
            .with(format!("{}_per_s", self.unit), state.units as f64 / state.train_secs)
            .with("train_s", state.train_secs)
            .with("wall_s", state.wall_secs)
            .with("phase_s", state.phase_secs.to_json())
            .with(PEAK_MEMORY, peak_rss_mb())
            .with("device", self.device.as_str())
            .with("processes", self.processes)
            .with("threads", candle_core::utils::get_num_threads())
            .with("commit", self.commit.as_deref())
            .with_all(extras);
        let json = serde_json::to_string_pretty(&record)? + "\n";
        atomic::write(&folder.join(FILE), json.as_bytes())
    }

    /// The summary for a person: how the run ended, where it is, how to continue it.
    pub(crate) fn last_words(
        &self,
        state: &TrainState,
        outcome: Outcome,
        steps: u64,
        (launcher, folder): (&str, &Path),
    ) -> String {
        let mut words = vec![format!("{} at step {} of {steps}", outcome.name(), state.step)];
        if let Some(eval) = &state.last_eval {
            let shown = |name: &str, value: Option<f64>| match value {
                Some(value) => format!("{name} {value:.4}"),
                None => format!("{name} not finite"),
            };
            words.push(shown("eval loss", eval.loss));
            words.extend(eval.metrics.iter().map(|(name, value)| shown(name, *value)));
            if eval.step != state.step {
                words.push(format!("evaluated at step {}", eval.step));
            }
        }
        let Stability { skipped, went_back, .. } = state.stability;
        if skipped > 0 {
            words.push(format!("{skipped} steps skipped"));
        }
        if went_back > 0 {
            words.push(format!("went back {went_back} times"));
        }
        words.push(format!("{} {}/s", grouped(state.units as f64 / state.train_secs), self.unit));
        words.push(spoken(state.wall_secs));
        let folder = folder.display();
        let mut lines = vec![words.join(", "), format!("run folder: {folder}")];
        if outcome != Outcome::Completed {
            lines.push(format!(
                "continue with: {launcher}{} --out {folder} --resume",
                state.experiment
            ));
        }
        lines.join("\n")
    }
}

/// Whether the summary in `folder` is there and says that the run completed.
pub(crate) fn is_of_completed(folder: &Path) -> bool {
    let text = std::fs::read_to_string(folder.join(FILE)).unwrap_or_default();
    serde_json::from_str::<Value>(&text).is_ok_and(|summary| summary["completed"] == true)
}

/// The best checkpoint that is kept, as a path in the run folder.
fn best_checkpoint(folder: &Path) -> Option<String> {
    let best = checkpoint::best(&folder.join(checkpoint::FOLDER)).ok()??;
    Some(best.strip_prefix(folder).unwrap_or(&best).display().to_string())
}

/// The most memory that the process had at once, in MB of 10⁶ bytes; known on Linux.
pub(crate) fn peak_rss_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some((kib * 1024.0 / 1e5).round() / 10.0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn peak_memory_is_plausible_where_it_is_known() {
        if let Some(mb) = super::peak_rss_mb() {
            assert!((1.0..1e6).contains(&mb), "{mb}");
        }
    }
}
