//! A run folder that is read, not written: one of its checkpoints, evaluated or used.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use fadam_core::NamedVars;

use crate::checkpoint::Held;
use crate::config::{Experiment, RunConfig};
use crate::run_folder::{CONFIG_FILE, RunFolder};
use crate::state::{EvalRecord, TrainState};
use crate::task::{self, Task};
use crate::{Error, Evaluation, checkpoint};

/// A run folder and one of its checkpoints. Nothing in the folder is ever changed; a process that trains there meanwhile leaves
/// this checkpoint in place until the `SavedRun` is dropped.
///
/// ```no_run
/// # fn open<E: fadam_train::config::Experiment>(model: &fadam_core::NamedVars)
/// #     -> Result<(), fadam_train::Error> {
/// let run = fadam_train::SavedRun::open("runs/train-llm-tiny", None)?; // its last checkpoint
/// let config = run.config::<E>()?;
/// run.load_model(model)?;
/// println!("step {}", run.standing::<E>()?.step);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct SavedRun {
    folder: RunFolder,
    checkpoint: PathBuf,
    _held: Arc<Held>,
}

/// Where a run stood when it wrote a checkpoint.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Standing {
    /// Steps taken.
    pub step: u64,
    /// Units (tokens, …) trained on.
    pub units: u64,
    /// `train.seed`.
    pub seed: u64,
    /// Step and loss, in nats a unit, of the last evaluation until then, if that was finite.
    pub eval: Option<(u64, f64)>,
}

impl SavedRun {
    /// The run in `folder`, at `checkpoint` or else at its last one that is whole; a line on standard error says so
    /// when a later one is damaged.
    ///
    /// # Errors
    ///
    /// [`Error::RunFolder`] when `folder` is not that of a run with a checkpoint, [`Error::Checkpoint`]
    /// when `checkpoint` is not one, or is damaged.
    pub fn open(folder: impl Into<PathBuf>, checkpoint: Option<&Path>) -> Result<Self, Error> {
        if let Some(path) = checkpoint {
            let held = Held::to_read(path);
            checkpoint::check_is_whole(path)?;
            let held = held.ok_or_else(|| Error::checkpoint(path, "was removed just now"))?;
            let (folder, checkpoint) = (RunFolder::to_resume(folder)?, path.to_owned());
            return Ok(Self { folder, checkpoint, _held: Arc::new(held) });
        }
        let folder = RunFolder::to_resume(folder)?;
        let (last, held) = checkpoint::hold_last_whole(&folder.checkpoints())?
            .ok_or_else(|| Error::run_folder(folder.path(), "holds no checkpoint"))?;
        for note in &last.notes {
            eprintln!("note: {note}");
        }
        Ok(Self { folder, checkpoint: last.path, _held: Arc::new(held) })
    }

    /// The run that `checkpoint` lies in, at that checkpoint: `RUN/checkpoints/step-…`.
    ///
    /// # Errors
    ///
    /// As [`SavedRun::open`].
    pub fn of_checkpoint(checkpoint: &Path) -> Result<Self, Error> {
        Self::open(checkpoint::run_of(checkpoint)?, Some(checkpoint))
    }

    /// The run folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The folder of the checkpoint.
    pub fn checkpoint(&self) -> &Path {
        &self.checkpoint
    }

    /// The configuration of the run.
    ///
    /// # Errors
    ///
    /// As [`RunConfig::load`].
    pub fn config<E: Experiment>(&self) -> Result<RunConfig<E>, Error> {
        RunConfig::load(Some(&self.folder().join(CONFIG_FILE)), &[])
    }

    /// Refuses another configuration than the run's, but for the keys that only change how a run is
    /// watched or [evaluated](Experiment::EVALUATION_KEYS).
    ///
    /// # Errors
    ///
    /// [`Error::RunFolder`], naming the keys that differ with both values.
    pub fn check_config<E: Experiment>(&self, config: &RunConfig<E>) -> Result<(), Error> {
        self.folder.check_config(config, E::EVALUATION_KEYS)
    }

    /// Where the run stood at the checkpoint.
    ///
    /// # Errors
    ///
    /// [`Error::Checkpoint`] when the checkpoint is damaged, or of another experiment.
    pub fn standing<E: Experiment>(&self) -> Result<Standing, Error> {
        let state = self.state::<E>()?;
        let TrainState { step, units, seed, last_eval, .. } = state;
        let eval = last_eval.and_then(|eval| Some((eval.step, eval.loss?)));
        Ok(Standing { step, units, seed, eval })
    }

    fn state<E: Experiment>(&self) -> Result<TrainState, Error> {
        checkpoint::read_state(&self.checkpoint, E::NAME)
    }

    /// Sets the variables of `model`, parameters and buffers, to those of the checkpoint.
    ///
    /// # Errors
    ///
    /// As [`checkpoint::load_model`].
    pub fn load_model(&self, model: &NamedVars) -> Result<(), Error> {
        checkpoint::load_model(&self.checkpoint, model)
    }

    /// Evaluates the checkpoint with the task of the run; the task's own weights are replaced.
    ///
    /// On the device of the run the numbers are those of the run's evaluation at this step, to the last
    /// bit; a checkpoint that remembers other ones says so in [`Evaluated::differs`].
    ///
    /// # Errors
    ///
    /// [`Error::Checkpoint`] when the checkpoint is damaged, or of another model, experiment or
    /// training data; otherwise what the task's evaluation reports.
    pub fn evaluate<E: Experiment>(&self, mut task: impl Task) -> anyhow::Result<Evaluated> {
        let state = self.state::<E>()?;
        self.load_model(&task::model(&task)?)?;
        let place = self.checkpoint.join(checkpoint::STATE_FILE);
        task.restore(&state.cursor)
            .map_err(|err| Error::checkpoint(&place, format!("its cursor: {err:#}")))?;
        let step = state.step;
        let evaluation = task.evaluate(step).context("evaluation")?;
        let before = state.last_eval.filter(|before| before.step == step);
        let differs = before.filter(|before| *before != EvalRecord::of(step, &evaluation));
        let differs = differs.map(|before| before.loss.unwrap_or(f64::NAN));
        Ok(Evaluated { step, evaluation, differs })
    }
}

/// What [`SavedRun::evaluate`] found.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluated {
    /// The steps that the checkpoint had taken.
    pub step: u64,
    /// Loss, measures and sample.
    pub evaluation: Evaluation,
    /// The loss that the run itself had at this step, if it evaluated there and any number differed:
    /// the held-out data or the device is another.
    pub differs: Option<f64>,
}
