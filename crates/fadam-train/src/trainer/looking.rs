//! What a trainer records beside losses: the optimizer's last step, time and memory.

use std::fs;

use anyhow::Context;
use serde_json::Value;

use super::Trainer;
use crate::diagnostics::Diagnostics;
use crate::run_folder::CONFIG_FILE;
use crate::summary;
use crate::task::Task;

impl<T: Task> Trainer<T> {
    /// The configuration, for TensorBoard.
    pub(super) fn record_config(&mut self) -> anyhow::Result<()> {
        if !self.metrics.has_events() {
            return Ok(());
        }
        let path = self.folder.path().join(CONFIG_FILE);
        let toml =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        self.metrics.write_config(&toml)
    }

    /// Fields of a training line: the last step's gradients, and what time and memory went into.
    pub(super) fn diagnostics_of_line(&mut self) -> [(String, Value); 4] {
        let known = self.knows_the_last_step();
        let phases = self.state.phase_secs.since(self.last_phases);
        self.last_phases = self.state.phase_secs;
        [
            ("grad_norm", self.optimizer.grad_norm().filter(|_| known).into()),
            ("clipped", self.optimizer.clipped_share().filter(|_| known).into()),
            ("phase_s", phases.to_json()),
            (summary::PEAK_MEMORY, summary::peak_rss_mb().into()),
        ]
        .map(|(name, value): (_, Value)| (name.to_owned(), value))
    }

    /// Fisher information and clipping, of every tensor.
    pub(super) fn record_diagnostics(&mut self) -> anyhow::Result<()> {
        if !self.knows_the_last_step() {
            return Ok(());
        }
        match Diagnostics::of(&self.optimizer, self.metrics.has_events())? {
            Some(diagnostics) => self.metrics.write_diagnostics(self.state.step, &diagnostics),
            None => Ok(()),
        }
    }

    /// Whether what the optimizer measured is of the step just made, and of all tensors. If that was skipped, it is of an earlier one, which a
    /// resumed run does not know; with `parallel.zero` each process has measured its own tensors alone.
    fn knows_the_last_step(&self) -> bool {
        self.state.stability.skipped_in_a_row == 0 && !self.optimizer.is_shard()
    }
}
