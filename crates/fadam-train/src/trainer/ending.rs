//! How a run ends: with a summary, whatever happened.

use super::Trainer;
use crate::lock::RunLock;
use crate::task::Task;
use crate::{Outcome, checkpoint};

impl<T: Task> Trainer<T> {
    pub(super) fn wall_secs(&self) -> f64 {
        self.wall_secs_before + self.started.elapsed().as_secs_f64()
    }

    /// Whether the folder is still the one that this process locked, if it did.
    pub(super) fn check_lock(&self) -> anyhow::Result<()> {
        self.lock.as_ref().map_or(Ok(()), RunLock::check)
    }

    pub(super) fn summarize(&mut self, outcome: Result<Outcome, &str>) -> anyhow::Result<()> {
        if !self.team.leads() {
            return Ok(());
        }
        self.check_lock()?; // a folder that is another run's by now is left alone
        self.metrics.sync()?;
        self.state.wall_secs = self.wall_secs();
        let extras = self.task.summary_extras();
        self.facts.write(self.folder.path(), &self.state, outcome, extras)
    }

    pub(super) fn finish(&mut self, outcome: Outcome) -> anyhow::Result<Outcome> {
        self.draw()?;
        self.summarize(Ok(outcome))?;
        let path = self.folder.path();
        let launcher = self.team.launcher();
        let words =
            self.facts.last_words(&self.state, outcome, self.train.steps, (&launcher, path));
        self.progress.finish(&words);
        Ok(outcome)
    }

    /// Records a failure as far as that is still possible, and says where the run can be continued.
    pub(super) fn fail(&mut self, error: anyhow::Error) -> anyhow::Error {
        self.progress.clear();
        // The folder may be what failed (no space left): the error itself is what must be reported.
        self.record_divergence(&error);
        let _unwritable = self.summarize(Err(&crate::describe(&error)));
        let place = self.way_on(&error);
        let step = self.state.step;
        let when =
            if self.stepping { format!("step {}", step + 1) } else { format!("after step {step}") };
        error.context(format!("{when} ({place})"))
    }

    /// Where the run can be continued after an error.
    fn way_on(&self, error: &anyhow::Error) -> String {
        if let Err(gone) = self.check_lock() {
            return gone.to_string();
        }
        match checkpoint::latest(&self.folder.checkpoints()).ok().flatten() {
            Some(path) => format!(
                "the last checkpoint is {}; continue with: {}{} --out {} --resume{}",
                path.display(),
                self.team.launcher(),
                self.state.experiment,
                self.folder.path().display(),
                self.way_past(error)
            ),
            None => "no checkpoint was written yet".to_owned(),
        }
    }
}
