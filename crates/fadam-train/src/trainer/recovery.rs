//! What a trainer does with a step that is not finite: `train.on_divergence`.

use anyhow::Context;

use super::Trainer;
use crate::checkpoint;
use crate::config::OnDivergence;
use crate::divergence::{BadLoss, BadTensor, BeforeStep, Divergence, is_divergence, scalar};
use crate::gradients::{Backward, StepGradients};
use crate::metrics::DIVERGENCE;
use crate::task::Task;

impl<T: Task> Trainer<T> {
    /// Deals with a step that was not taken: skips it, or says what it was in an error. The step has left no trace
    /// but that its batches were drawn; for an error that ends the run, not even that.
    pub(super) fn diverged(
        &mut self,
        before: &BeforeStep,
        gradients: &StepGradients,
        cause: String,
    ) -> anyhow::Result<()> {
        before.restore_buffers()?;
        let mut tensors = BadTensor::among(&gradients.loss)?;
        if let Some((of_auxiliary, _)) = &gradients.auxiliary {
            tensors.extend(BadTensor::among(of_auxiliary)?);
        }
        let losses = gradients.losses.iter().map(scalar).collect::<candle_core::Result<_>>()?;
        let divergence = Divergence {
            step: self.state.step + 1,
            cause,
            loss: scalar(&gradients.mean_loss()?)?,
            losses,
            tensors,
            cursor: before.cursor.clone(),
        };
        let (row, limit) = (self.state.stability.skipped_in_a_row, self.train.divergence_limit);
        match self.train.on_divergence {
            OnDivergence::Back => Err(divergence.into()), // `go_back` gets it
            OnDivergence::Skip if row < limit => self.skip(&divergence),
            OnDivergence::Skip => {
                let message = format!("{row} steps in a row were skipped (train.divergence_limit)");
                Err(self.stop(divergence).context(message))
            }
            OnDivergence::Stop => Err(self.stop(divergence)),
        }
    }

    fn skip(&mut self, divergence: &Divergence) -> anyhow::Result<()> {
        self.state.stability.skipped += 1;
        self.state.stability.skipped_in_a_row += 1;
        self.metrics.write(
            divergence.step,
            DIVERGENCE,
            divergence.loss,
            divergence.fields("skip"),
        )?;
        self.progress.note(&format!("step {} is skipped: {divergence}", divergence.step));
        Ok(())
    }

    /// Leaves a checkpoint of the state before the step, and gives the error.
    fn stop(&mut self, divergence: Divergence) -> anyhow::Error {
        // On a device it may be an earlier step that the optimizer refused: that state is gone.
        if self.optimizer.steps() + self.state.stability.skipped != self.state.step {
            return anyhow::Error::from(divergence)
                .context("found some steps late, as on a device");
        }
        let saved = self.task.restore(&divergence.cursor).and_then(|()| self.save_unless_there());
        let error = anyhow::Error::from(divergence);
        match saved {
            Ok(()) => error,
            Err(err) => error.context(format!(
                "the state before it cannot be saved ({})",
                crate::describe(&err)
            )),
        }
    }

    pub(super) fn save_unless_there(&mut self) -> anyhow::Result<()> {
        let path = checkpoint::path_of(&self.folder.checkpoints(), self.state.step);
        let there = self.team.ask_first(|| Ok(path.exists().to_string()))? == "true";
        if there { Ok(()) } else { self.save() }
    }

    /// Goes back to the last whole checkpoint before this state, with a lower learning rate. What is counted here is counted from the
    /// state in memory, not that of the checkpoint: a run that is killed before the next one comes the same way again.
    pub(super) fn go_back(&mut self, error: anyhow::Error) -> anyhow::Result<()> {
        let (before, limit) = (self.state.stability.went_back, self.train.divergence_limit);
        if before >= limit {
            let message = format!("went back {before} times already (train.divergence_limit)");
            return Err(error.context(message));
        }
        let folder = self.folder.checkpoints();
        let mut damaged = Vec::new();
        let last = self.team.ask_first(|| {
            // A checkpoint of this very state is no help: the same batch would not be finite again, whatever the
            // learning rate.
            checkpoint::remove_unless_only(&folder, self.state.step)?;
            let last =
                checkpoint::last_whole(&folder)?.context("there is no checkpoint to go back to")?;
            for note in &last.notes {
                eprintln!("note: {note}");
            }
            damaged = last.damaged;
            checkpoint::name_of(&last.path)
        })?;
        let last = folder.join(last);
        let mut state =
            checkpoint::load(&last, &self.state.experiment, &self.model, &mut self.optimizer)?;
        self.task.restore(&state.cursor)?;
        checkpoint::set_aside(&damaged)?;
        let at = self.state.step + 1;
        state.stability.went_back = before + 1;
        state.stability.lr_scale = self.state.stability.lr_scale * self.train.divergence_lr_factor;
        (state.train_secs, state.phase_secs) = (self.state.train_secs, self.state.phase_secs);
        self.state = state;
        self.unread_losses.clear();
        self.backward = Backward::new(self.train.fisher);
        self.last_line = (self.state.units, self.state.train_secs);
        self.tell_of_going_back(at, &error)
    }

    /// Drops the lines of the steps that do not count any more, and writes why there was a way back.
    fn tell_of_going_back(&mut self, at: u64, error: &anyhow::Error) -> anyhow::Result<()> {
        let (step, lr_scale) = (self.state.step, self.state.stability.lr_scale);
        let known = error.downcast_ref::<Divergence>();
        let mut fields = match known {
            Some(divergence) => divergence.fields("back"),
            None => vec![
                ("action".to_owned(), "back".into()),
                ("cause".to_owned(), crate::describe(error).into()),
            ],
        };
        fields.push(("back_to".to_owned(), step.into()));
        fields.push(("lr_scale".to_owned(), lr_scale.into()));
        let loss = known.map_or(f64::NAN, |divergence| divergence.loss);
        self.metrics.go_back(self.state.metrics_lines, step)?;
        self.metrics.write(at, DIVERGENCE, loss, fields)?;
        let cause = crate::describe(error);
        self.progress.note(&format!(
            "step {at}: {cause}: back to step {step}, with {lr_scale} of the learning rate"
        ));
        Ok(())
    }

    /// Looks at what a device found, and counts what it skipped.
    pub(super) fn check_optimizer(&mut self) -> anyhow::Result<()> {
        self.optimizer.check()?;
        let skipped = self.optimizer.skipped_steps();
        self.state.stability.skipped += skipped - self.skipped_on_device;
        self.skipped_on_device = skipped;
        Ok(())
    }

    /// A loss that was read later than its step: an error, unless such steps are skipped (by the device).
    pub(super) fn late_loss(&mut self, bad: BadLoss) -> anyhow::Result<()> {
        let (row, limit) =
            (&mut self.state.stability.skipped_in_a_row, self.train.divergence_limit);
        if self.train.on_divergence != OnDivergence::Skip {
            return Err(bad.into());
        }
        *row += 1;
        let message =
            || format!("more than {limit} steps in a row were skipped (train.divergence_limit)");
        if *row > limit { Err(bad).with_context(message) } else { Ok(()) }
    }

    /// A line in `metrics.jsonl` about the step that ends the run, after its last checkpoint.
    pub(super) fn record_divergence(&mut self, error: &anyhow::Error) {
        if let Some(divergence) = error.downcast_ref::<Divergence>() {
            let fields = divergence.fields("stop");
            // The error itself is reported anyway.
            let _unwritable =
                self.metrics.write(divergence.step, DIVERGENCE, divergence.loss, fields);
        }
    }

    /// How a run that ends with this error can get past the step.
    pub(super) fn way_past(&self, error: &anyhow::Error) -> &'static str {
        match self.train.on_divergence {
            OnDivergence::Stop if is_divergence(error) => {
                " --set train.on_divergence=skip (or back, to a lower learning rate)"
            }
            _ if is_divergence(error) => " --set train.divergence_limit=N",
            _ => "",
        }
    }
}
