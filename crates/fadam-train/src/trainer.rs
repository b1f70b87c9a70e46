//! The loop: step, log, evaluate, checkpoint.

use std::time::Instant;

use anyhow::Context;
use candle_core::{DType, Tensor};
use candle_nn::Optimizer as _;
use fadam_core::{
    Accumulator, Algorithm as _, AnyOptimizer, Fisher, Gradients, LossGradients, NamedVars,
    Schedule,
};

use crate::config::{CheckpointConfig, Experiment, RunConfig, TrainConfig};
use crate::error::NonFiniteLoss;
use crate::metrics::MetricsLog;
use crate::progress::{Progress, StepReport};
use crate::state::TrainState;
use crate::summary::{self, Facts};
use crate::task::{self, Objective, Task};
use crate::{Error, Interrupt, Outcome, RunFolder, RunOptions, atomic, checkpoint, plot, weights};

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
/// The loss stays on the device until a line or a checkpoint needs it. A run that stops early
/// (`--steps`) writes its checkpoint first and then evaluates once more if this step was not due;
/// the continued run drops that line, so that `metrics.jsonl` is that of a run that never stopped.
pub struct Trainer<T: Task> {
    task: T,
    /// Parameters and buffers: what a checkpoint holds.
    model: NamedVars,
    optimizer: AnyOptimizer,
    /// Of the batches of one step, if there are several: of the loss, and of the auxiliary one.
    accumulators: [Accumulator; 2],
    base_lr: f64,
    schedule: Schedule,
    train: TrainConfig,
    checkpoint: CheckpointConfig,
    folder: RunFolder,
    stop_at: u64,
    interrupt: Interrupt,
    state: TrainState,
    /// Losses of the last steps, not read yet.
    unread_losses: Vec<Tensor>,
    metrics: MetricsLog,
    progress: Progress,
    facts: Facts,
    /// Where `state` was at the last training line: units and seconds in steps.
    last_line: (u64, f64),
    started: Instant,
    wall_secs_before: f64,
}

/// The optimizer that `[optimizer]` describes.
fn optimizer<E: Experiment>(
    vars: NamedVars,
    config: &RunConfig<E>,
) -> anyhow::Result<AnyOptimizer> {
    let options = config.optimizer_options();
    let optimizer = AnyOptimizer::from_named(vars, config.optimizer().clone())?;
    Ok(optimizer.groups(options.groups().to_vec())?.max_grad_norm(options.max_grad_norm)?)
}

impl<T: Task> Trainer<T> {
    /// Prepares a run: takes the weights of `train.init` and claims the run folder, or continues from its
    /// last checkpoint.
    ///
    /// # Errors
    ///
    /// [`Error`] when the folder, its checkpoint or the initial weights cannot be used; other errors when
    /// the optimizer refuses the parameters or files cannot be written.
    pub fn new<E: Experiment>(
        mut task: T,
        config: &RunConfig<E>,
        options: RunOptions,
    ) -> anyhow::Result<Self> {
        let RunOptions { folder, stop_at, quiet, interrupt, device, commit } = options;
        let model = task::model(&task)?;
        let started_from = weights::initial(config.train(), &folder, &model)?;
        let mut optimizer = optimizer(task.vars().clone(), config)?;
        let mut state = TrainState::start(E::NAME, config.train().seed);
        if folder.is_resumed() {
            folder.check_config(config, &[])?;
            let last = checkpoint::latest(&folder.checkpoints())?.context("no checkpoint")?;
            state = checkpoint::load(&last, E::NAME, &model, &mut optimizer)?;
            let place = last.join(checkpoint::STATE_FILE);
            task.restore(&state.cursor)
                .map_err(|err| Error::checkpoint(&place, format!("its cursor: {err:#}")))?;
        } else {
            folder.create()?;
        }
        folder.write_config(config)?;
        let stop_at = stop_at.unwrap_or(u64::MAX).min(config.train().steps);
        let unit = task.unit();
        let facts = Facts {
            optimizer: config.optimizer().name(),
            params: task.vars().num_elements(),
            unit,
            init: config.train().init().map(|file| file.display().to_string()),
            device,
            commit,
        };
        let progress = Progress::new(quiet, unit, state.step, stop_at);
        if let Some(note) = started_from {
            progress.note(&note);
        }
        Ok(Self {
            model,
            optimizer,
            accumulators: [Accumulator::new(), Accumulator::new()],
            base_lr: config.optimizer().lr(),
            schedule: *config.schedule(),
            train: config.train().clone(),
            checkpoint: config.checkpoint().clone(),
            stop_at,
            interrupt,
            unread_losses: Vec::new(),
            metrics: MetricsLog::open(folder.path(), state.metrics_lines)?,
            progress,
            facts,
            last_line: (state.units, state.train_secs),
            started: Instant::now(),
            wall_secs_before: state.wall_secs,
            folder,
            state,
            task,
        })
    }

    /// Trains to the end, to `--steps`, or until interrupted, and leaves a checkpoint and a summary.
    ///
    /// # Errors
    ///
    /// What the task, candle or the file system report, with the step and the last checkpoint: a
    /// parameter without a gradient (all of them are named), a gradient or loss that is not finite.
    /// The summary then says `"outcome": "failed"`, and checkpoints stay as they are.
    pub fn run(mut self) -> anyhow::Result<Outcome> {
        if self.state.step >= self.stop_at {
            let (step, steps) = (self.state.step, self.train.steps);
            if step >= steps && !summary::is_of_completed(self.folder.path()) {
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
        if self.state.step == 0 {
            self.evaluate()?;
        }
        while self.state.step < self.stop_at {
            self.step()?;
            let step = self.state.step;
            let last = step == self.train.steps;
            if step.is_multiple_of(self.train.log_every) || last {
                self.log()?;
            }
            if step.is_multiple_of(self.train.eval_every) || last {
                self.evaluate()?;
            }
            let interrupted = self.interrupt.requested() && !last;
            let ends = step == self.stop_at || interrupted;
            if step.is_multiple_of(self.checkpoint.every) || ends {
                self.save()?;
            }
            if interrupted {
                return Ok(Outcome::Interrupted);
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

    fn step(&mut self) -> anyhow::Result<()> {
        let started = Instant::now();
        let StepGradients { loss, auxiliary } = self.gradients()?;
        self.optimizer.set_learning_rate(self.lr(self.state.step + 1));
        let mut gradients = LossGradients::new(&loss);
        if let Some((of_auxiliary, weight)) = &auxiliary {
            gradients = gradients.auxiliary(of_auxiliary, *weight);
        }
        // Names every parameter that no gradient reached, and refuses NaN, before it changes anything.
        self.optimizer.step_with(gradients, Fisher::Minibatch)?;
        self.task.after_step(self.state.step + 1)?;
        self.state.step += 1;
        self.state.train_secs += started.elapsed().as_secs_f64();
        self.progress.step(self.state.step);
        Ok(())
    }

    /// The mean gradients of the step's batches; their mean loss is kept for the next training line.
    fn gradients(&mut self) -> anyhow::Result<StepGradients> {
        let batches = self.train.accumulate;
        let mut losses = Vec::with_capacity(batches);
        let mut of_batch = StepGradients::default();
        for i in 0..batches {
            let batch = self.task.next_batch()?;
            let objective = self.task.loss(&batch)?;
            losses.push(objective.total()?);
            of_batch = StepGradients::of(&self.task, &objective)?;
            self.state.units += self.task.units(&batch);
            if batches > 1 {
                let [loss, auxiliary] = &mut self.accumulators;
                let place = || format!("batch {} of the step", i + 1);
                loss.add(&of_batch.loss).with_context(place)?;
                if let Some((gradients, _)) = &of_batch.auxiliary {
                    auxiliary.add(gradients).with_context(place)?;
                }
            }
        }
        self.unread_losses.push((Tensor::stack(&losses, 0)?.mean(0))?);
        if batches == 1 {
            return Ok(of_batch);
        }
        let [loss, auxiliary] = &mut self.accumulators;
        let auxiliary = match of_batch.auxiliary {
            Some((_, weight)) => Some((auxiliary.finish()?.gradients, weight)),
            None => None,
        };
        Ok(StepGradients { loss: loss.finish()?.gradients, auxiliary })
    }

    fn lr(&self, step: u64) -> f64 {
        self.base_lr * self.schedule.factor(step, self.train.steps)
    }

    /// Writes a training line: the mean loss since the one before.
    fn log(&mut self) -> anyhow::Result<()> {
        self.read_losses()?;
        let losses = std::mem::take(&mut self.state.pending_losses);
        let loss = mean(&losses);
        let step = self.state.step;
        let (units, secs) = self.last_line;
        let secs = self.state.train_secs - secs;
        let units_per_s = (self.state.units - units) as f64 / secs;
        let lr = self.lr(step);
        let unit = self.facts.unit;
        let fields = [
            ("lr".to_owned(), lr.into()),
            (unit.to_owned(), self.state.units.into()),
            (format!("{unit}_per_s"), units_per_s.into()),
        ];
        self.metrics.write(step, "train", loss, fields)?;
        for note in self.task.take_notes() {
            self.progress.note(&note);
        }
        let secs_per_step = secs / losses.len().max(1) as f64;
        self.progress.train(&StepReport { step, loss, lr, units_per_s, secs_per_step });
        self.last_line = (self.state.units, self.state.train_secs);
        Ok(())
    }

    /// Brings the losses of the last steps to the host. One that is not finite is an error.
    fn read_losses(&mut self) -> anyhow::Result<()> {
        let started = Instant::now(); // on a GPU this waits for the steps that are under way
        let first = self.state.step + 1 - self.unread_losses.len() as u64;
        for (step, loss) in (first..).zip(std::mem::take(&mut self.unread_losses)) {
            let loss = scalar(&loss)?;
            anyhow::ensure!(loss.is_finite(), NonFiniteLoss { step, loss });
            self.state.pending_losses.push(loss);
        }
        self.state.train_secs += started.elapsed().as_secs_f64();
        Ok(())
    }

    fn evaluate(&mut self) -> anyhow::Result<()> {
        self.optimizer.check()?;
        let step = self.state.step;
        let evaluation = self.task.evaluate(step).context("evaluation")?;
        self.metrics.write_eval(step, &evaluation)?;
        self.state.remember(&evaluation);
        self.progress.evaluation(step, &evaluation);
        self.draw()
    }

    fn draw(&self) -> anyhow::Result<()> {
        let title = format!("{}, {}", self.state.experiment, self.facts.optimizer);
        match plot::loss_curve(&title, self.facts.unit, self.metrics.curves())? {
            Some(svg) => atomic::write(&self.folder.path().join(plot::FILE), svg.as_bytes()),
            None => Ok(()),
        }
    }

    fn save(&mut self) -> anyhow::Result<()> {
        self.optimizer.check()?;
        self.read_losses()?;
        self.metrics.sync()?;
        self.state.metrics_lines = self.metrics.lines();
        self.state.wall_secs = self.wall_secs();
        self.state.cursor = self.task.cursor();
        let folder = self.folder.checkpoints();
        checkpoint::save(&folder, self.checkpoint.keep, &self.model, &self.optimizer, &self.state)?;
        Ok(())
    }

    fn wall_secs(&self) -> f64 {
        self.wall_secs_before + self.started.elapsed().as_secs_f64()
    }

    fn summarize(&mut self, outcome: Result<Outcome, &str>) -> anyhow::Result<()> {
        self.metrics.sync()?;
        self.state.wall_secs = self.wall_secs();
        let extras = self.task.summary_extras();
        self.facts.write(self.folder.path(), &self.state, outcome, extras)
    }

    fn finish(&mut self, outcome: Outcome) -> anyhow::Result<Outcome> {
        self.draw()?;
        self.summarize(Ok(outcome))?;
        let path = self.folder.path();
        let words = self.facts.last_words(&self.state, outcome, self.train.steps, path);
        self.progress.finish(&words);
        Ok(outcome)
    }

    /// Records a failure as far as that is still possible, and says where the run can be continued.
    fn fail(&mut self, error: anyhow::Error) -> anyhow::Error {
        self.progress.clear();
        // The folder may be what failed (no space left): the error itself is what must be reported.
        let losses: Vec<f64> = self.unread_losses.iter().filter_map(|l| scalar(l).ok()).collect();
        if let Some(loss) = losses.last() {
            let _unwritable = self.metrics.write(self.state.step + 1, "train", *loss, []);
        }
        let _unwritable = self.summarize(Err(&crate::describe(&error)));
        let last = checkpoint::latest(&self.folder.checkpoints()).ok().flatten();
        let place = match last {
            Some(path) => format!("the last checkpoint is {}", path.display()),
            None => "no checkpoint was written yet".to_owned(),
        };
        let loss = match losses.last() {
            Some(loss) => format!("its loss is {loss}, "),
            None => String::new(),
        };
        error.context(format!("step {} ({loss}{place})", self.state.step + 1))
    }
}

/// The gradients of a step.
#[derive(Default)]
struct StepGradients {
    loss: Gradients,
    /// And the weight of the loss that they are of.
    auxiliary: Option<(Gradients, f64)>,
}

impl StepGradients {
    fn of(task: &impl Task, objective: &Objective) -> candle_core::Result<Self> {
        let of = |loss: &Tensor| -> candle_core::Result<Gradients> {
            Ok(task.vars().gradients(&task.backward(loss)?))
        };
        let auxiliary = match &objective.auxiliary {
            Some((loss, weight)) => Some((of(loss)?, *weight)),
            None => None,
        };
        Ok(Self { loss: of(&objective.loss)?, auxiliary })
    }
}

/// The value of a scalar tensor of any float type.
fn scalar(tensor: &Tensor) -> candle_core::Result<f64> {
    match tensor.dtype() {
        DType::F64 => tensor.to_scalar::<f64>(),
        _ => Ok(tensor.to_dtype(DType::F32)?.to_scalar::<f32>()?.into()),
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}
