//! The loop: step, log, evaluate, checkpoint.

mod ending;
mod looking;
mod recovery;
mod start;

use std::time::Instant;

use anyhow::Context;
use candle_core::Tensor;
use candle_nn::Optimizer as _;
use fadam_core::{AnyOptimizer, NamedVars, Schedule};

use crate::config::{CheckpointConfig, OnDivergence, TrainConfig};
use crate::divergence::{BadLoss, BeforeStep, is_at_hand, is_divergence, scalar};
use crate::gradients::{Backward, StepGradients};
use crate::lock::RunLock;
use crate::parallel::Team;
use crate::phases::{self, PhaseSecs};
use crate::progress::{Progress, StepReport};
use crate::run_log::RunLog;
use crate::state::{EvalRecord, TrainState};
use crate::summary::{self, Facts};
use crate::task::Task;
use crate::{Evaluation, Interrupt, Outcome, RunFolder, atomic, checkpoint, plot};

/// A run: a task, its optimizer, and where it is recorded.
///
/// ```text
/// evaluate before the first step
/// each step: batch → loss → backward → gradients by name → learning rate → optimizer
/// every train.log_every steps:   a training line        (and after the last step)
/// every train.eval_every steps:  evaluate, draw         (and after the last step)
/// every checkpoint.every steps:  checkpoint             (and whenever the run ends)
/// ```
///
/// Of several processes each runs the same loop; [`parallel`](crate::parallel) says what they share.
///
/// The loss stays on the device until a line or a checkpoint needs it. A run that stops early
/// (`--steps`) writes its checkpoint first and then evaluates once more if this step was not due;
/// the continued run drops that line, so that `metrics.jsonl` is that of a run that never stopped.
pub struct Trainer<T: Task> {
    task: T,
    /// Parameters and buffers: what a checkpoint holds.
    model: NamedVars,
    optimizer: AnyOptimizer,
    backward: Backward,
    base_lr: f64,
    schedule: Schedule,
    train: TrainConfig,
    checkpoint: CheckpointConfig,
    folder: RunFolder,
    stop_at: u64,
    interrupt: Interrupt,
    state: TrainState,
    /// Whether a step is under way, which `state` does not count yet.
    stepping: bool,
    /// Losses of the last steps by step, not read yet.
    unread_losses: Vec<(u64, Tensor)>,
    /// What the optimizer had skipped on a device when it was last asked.
    skipped_on_device: u64,
    metrics: RunLog,
    progress: Progress,
    facts: Facts,
    /// Where `state` was at the last training line: units and seconds in steps.
    last_line: (u64, f64),
    /// And what each phase had taken.
    last_phases: PhaseSecs,
    started: Instant,
    wall_secs_before: f64,
    /// Of the rank that writes to the folder.
    lock: Option<RunLock>,
    team: Team,
}

impl<T: Task> Trainer<T> {
    /// Trains to the end, to `--steps`, or until interrupted, and leaves a checkpoint and a summary.
    ///
    /// # Errors
    ///
    /// What the task, candle or the file system report, with the step and the last checkpoint: a
    /// parameter without a gradient (all of them are named), a gradient or loss that is not finite
    /// where `train.on_divergence` knows nothing better than to stop.
    /// The summary then says `"outcome": "failed"`, and checkpoints stay as they are.
    pub fn run(mut self) -> anyhow::Result<Outcome> {
        if self.state.step >= self.stop_at {
            let (step, steps) = (self.state.step, self.train.steps);
            if step >= steps && self.team.leads() && !summary::is_of_completed(self.folder.path()) {
                self.summarize(Ok(Outcome::Completed))?; // killed between its last checkpoint and this
            }
            self.progress.finish(&format!("already at step {step} of {steps}: nothing to do"));
            return Ok(if step >= steps { Outcome::Completed } else { Outcome::Stopped });
        }
        match self.train().and_then(|outcome| self.finish(outcome)) {
            Ok(outcome) => Ok(outcome),
            Err(error) => Err(self.fail(error)),
        }
    }

    fn train(&mut self) -> anyhow::Result<Outcome> {
        if self.state.step == 0 && self.state.last_eval.is_none() {
            self.record_config()?;
            self.evaluate()?;
        }
        if self.state.step == 0 && self.train.on_divergence == OnDivergence::Back {
            self.save_unless_there()?; // something to go back to
        }
        while self.state.step < self.stop_at {
            match self.step_and_record() {
                Ok(false) => {}
                Ok(true) => return Ok(Outcome::Interrupted),
                Err(error)
                    if self.train.on_divergence == OnDivergence::Back && is_divergence(&error) =>
                {
                    self.go_back(error)?;
                }
                Err(error) => return Err(error),
            }
        }
        if self.stop_at == self.train.steps {
            return Ok(Outcome::Completed);
        }
        if self.state.last_eval.as_ref().is_none_or(|eval| eval.step != self.stop_at) {
            self.evaluate()?;
        }
        Ok(Outcome::Stopped)
    }

    /// One step and what is due after it. Whether the run was interrupted.
    fn step_and_record(&mut self) -> anyhow::Result<bool> {
        self.step()?;
        let step = self.state.step;
        let last = step == self.train.steps;
        if step.is_multiple_of(self.train.log_every) || last {
            self.log()?;
        }
        if step.is_multiple_of(self.train.eval_every) || last {
            self.evaluate()?;
        }
        self.team.check_replicas_if_due(step, &self.model)?;
        let interrupted = self.team.interrupted(self.interrupt.requested()) && !last;
        let ends = step == self.stop_at || interrupted;
        if step.is_multiple_of(self.checkpoint.every) || ends {
            self.save()?;
        }
        Ok(interrupted)
    }

    fn step(&mut self) -> anyhow::Result<()> {
        let started = Instant::now();
        self.stepping = true;
        let before = BeforeStep::of(&self.task)?;
        let secs = &mut self.state.phase_secs;
        let (batches, asked) = (self.train.accumulate, self.interrupt.requested());
        let gradients = self.backward.step(&mut self.task, batches, &mut self.team, asked, secs)?;
        let since = Instant::now();
        let loss = gradients.mean_loss()?;
        match self.update(&before, &gradients, &loss)? {
            None => {
                self.unread_losses.push((self.state.step + 1, loss));
                self.state.units += gradients.units;
                if is_at_hand(&gradients.losses[0]) {
                    self.state.stability.skipped_in_a_row = 0;
                }
                self.task.after_step(self.state.step + 1)?;
            }
            Some(cause) => self.diverged(&before, &gradients, cause)?,
        }
        self.state.step += 1;
        self.stepping = false;
        phases::add(&mut self.state.phase_secs.optimizer, since);
        self.state.train_secs += started.elapsed().as_secs_f64();
        self.progress.step(self.state.step);
        Ok(())
    }

    /// Takes a step, or changes nothing and says what is not finite.
    fn update(
        &mut self,
        before: &BeforeStep,
        gradients: &StepGradients,
        loss: &Tensor,
    ) -> anyhow::Result<Option<String>> {
        let skips = self.train.on_divergence == OnDivergence::Skip;
        if is_at_hand(loss) || (skips && before.has_buffers()) {
            let loss = scalar(loss)?;
            if !loss.is_finite() {
                return Ok(Some(format!("the loss is {loss}")));
            }
        }
        self.optimizer.set_learning_rate(self.lr(self.state.step + 1));
        // Names every parameter that no gradient reached, and refuses NaN, before it changes anything.
        let (losses, fisher) = (gradients.for_optimizer(), gradients.fisher());
        self.team.step(&mut self.optimizer, self.task.vars(), losses, fisher)
    }

    fn lr(&self, step: u64) -> f64 {
        self.base_lr * self.schedule.factor(step, self.train.steps) * self.state.stability.lr_scale
    }

    /// Writes a training line: the mean loss since the one before.
    fn log(&mut self) -> anyhow::Result<()> {
        self.check_lock()?;
        self.check_optimizer()?;
        self.read_losses()?;
        let losses = std::mem::take(&mut self.state.pending_losses);
        let loss = mean(&losses);
        let step = self.state.step;
        let (units, secs) = self.last_line;
        let secs = self.state.train_secs - secs;
        let units_per_s = (self.state.units - units) as f64 / secs;
        let lr = self.lr(step);
        let unit = self.facts.unit;
        let (stability, spike) = self.state.stability.line();
        let fields = [
            ("lr".to_owned(), lr.into()),
            (unit.to_owned(), self.state.units.into()),
            (format!("{unit}_per_s"), units_per_s.into()),
        ];
        let more = stability.into_iter().chain(self.diagnostics_of_line());
        self.metrics.write(step, "train", loss, fields.into_iter().chain(more))?;
        for note in self.task.take_notes().into_iter().chain(spike) {
            self.progress.note(&note);
        }
        let secs_per_step = secs / losses.len().max(1) as f64;
        self.progress.train(&StepReport { step, loss, lr, units_per_s, secs_per_step });
        self.last_line = (self.state.units, self.state.train_secs);
        Ok(())
    }

    /// Brings the losses of the last steps to the host. One that is not finite is an error, unless its step was
    /// skipped on the device.
    fn read_losses(&mut self) -> anyhow::Result<()> {
        let started = Instant::now(); // on a GPU this waits for the steps that are under way
        for (step, loss) in std::mem::take(&mut self.unread_losses) {
            let (on_device, loss) = (!is_at_hand(&loss), scalar(&loss)?);
            if loss.is_finite() {
                self.state.pending_losses.push(loss);
                self.state.stability.see(loss);
            } else {
                self.late_loss(BadLoss { step, loss })?;
            }
            if on_device && loss.is_finite() {
                self.state.stability.skipped_in_a_row = 0;
            }
        }
        self.state.train_secs += started.elapsed().as_secs_f64();
        Ok(())
    }

    fn evaluate(&mut self) -> anyhow::Result<()> {
        self.check_optimizer()?;
        let started = Instant::now();
        let step = self.state.step;
        if !self.team.leads() {
            // Rank 0's numbers are its own affair; that there was an evaluation, all know.
            self.state.last_eval = Some(EvalRecord::of(step, &Evaluation::default()));
            return Ok(());
        }
        let evaluation = self.task.evaluate(step).context("evaluation")?;
        self.record_diagnostics()?;
        self.metrics.write_eval(step, &evaluation)?;
        self.state.remember(&evaluation);
        self.progress.evaluation(step, &evaluation);
        self.draw()?;
        phases::add(&mut self.state.phase_secs.evaluation, started);
        Ok(())
    }

    fn draw(&self) -> anyhow::Result<()> {
        if !self.team.leads() {
            return Ok(());
        }
        self.check_lock()?;
        let title = format!("{}, {}", self.state.experiment, self.facts.optimizer);
        match plot::loss_curve(&title, self.facts.unit, self.metrics.curves())? {
            Some(svg) => atomic::write(&self.folder.path().join(plot::FILE), svg.as_bytes()),
            None => Ok(()),
        }
    }

    fn save(&mut self) -> anyhow::Result<()> {
        self.check_optimizer()?;
        self.read_losses()?;
        let started = Instant::now();
        self.team.check_replicas(self.state.step, &self.model)?;
        let others = self.team.gather_state(&self.optimizer)?;
        if !self.team.leads() {
            return Ok(());
        }
        self.check_lock()?;
        self.metrics.sync()?;
        self.state.metrics_lines = self.metrics.lines();
        self.state.wall_secs = self.wall_secs();
        self.state.cursor = self.task.cursor();
        let folder = self.folder.checkpoints();
        let optimizer = (&self.optimizer, &others[..]);
        checkpoint::save(&folder, &self.checkpoint, &self.model, optimizer, &self.state)?;
        phases::add(&mut self.state.phase_secs.checkpoint, started);
        Ok(())
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}
