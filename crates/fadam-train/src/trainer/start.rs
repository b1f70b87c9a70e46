//! How a trainer comes to be: a new run, or one that goes on from its last whole checkpoint.

use std::time::Instant;

use anyhow::Context;
use fadam_core::{Algorithm as _, AnyOptimizer, NamedVars};

use super::Trainer;
use crate::config::{Experiment, OnDivergence, RunConfig};
use crate::divergence::is_at_hand;
use crate::gradients::Backward;
use crate::parallel::Team;
use crate::progress::Progress;
use crate::run_log::RunLog;
use crate::state::TrainState;
use crate::summary::Facts;
use crate::task::{self, Task};
use crate::tensorboard::EventFile;
use crate::{Error, RunFolder, RunOptions, checkpoint, weights};

impl<T: Task> Trainer<T> {
    /// Prepares a run: takes the weights of `train.init` and claims the run folder, or continues from its
    /// last whole checkpoint. Until it is dropped no other process can train in the folder.
    ///
    /// # Errors
    ///
    /// [`Error`] when the folder, its checkpoints or the initial weights cannot be used; other errors when
    /// the optimizer refuses the parameters or files cannot be written.
    pub fn new<E: Experiment>(
        mut task: T,
        config: &RunConfig<E>,
        options: RunOptions,
    ) -> anyhow::Result<Self> {
        let RunOptions { folder, stop_at, quiet, interrupt, device, commit, team } = options;
        let accumulate = config.train().accumulate;
        let team = Team::new(team, config.parallel(), accumulate, task.vars())?;
        let model = task::model(&task)?;
        let started_from = weights::initial(config.train(), &folder, &model)?;
        let mut optimizer = optimizer(task.vars().clone(), config, &team)?;
        let lock = if team.leads() { Some(folder.claim(config)?) } else { None };
        let state = if folder.is_resumed() {
            resume((&folder, &team), E::NAME, &model, &mut optimizer, &mut task)?
        } else {
            TrainState::start(E::NAME, config.train().seed)
        };
        if team.leads() {
            folder.write_config(config)?;
        }
        team.check_replicas(state.step, &model)?;
        let stop_at = stop_at.unwrap_or(u64::MAX).min(config.train().steps);
        let unit = task.unit();
        let facts = Facts {
            optimizer: config.optimizer().name(),
            params: task.vars().num_elements(),
            unit,
            init: config.train().init().map(|file| file.display().to_string()),
            device,
            commit,
            processes: team.world(),
        };
        let (progress, metrics) = if team.leads() {
            let first = if folder.is_resumed() { state.step + 1 } else { 0 };
            let events = config.train().tensorboard.then(|| EventFile::new(folder.path(), first));
            let progress = Progress::new(quiet, unit, state.step, stop_at);
            (progress, RunLog::open(folder.path(), state.metrics_lines, events)?)
        } else {
            (Progress::silent(unit), RunLog::silent())
        };
        let resume = format!("{} --out {} --resume", E::NAME, folder.path().display());
        for note in started_from.into_iter().chain(team.note(accumulate, &resume)) {
            progress.note(&note);
        }
        if team.leads() && metrics.lines() < state.metrics_lines {
            let (has, had, path) = (metrics.lines(), state.metrics_lines, folder.path().display());
            eprintln!(
                "note: metrics.jsonl of {path} has {has} of the {had} lines it had at the checkpoint"
            );
        }
        Ok(Self {
            model,
            optimizer,
            backward: Backward::new(config.train().fisher),
            base_lr: config.optimizer().lr(),
            schedule: *config.schedule(),
            train: config.train().clone(),
            checkpoint: config.checkpoint().clone(),
            stop_at,
            interrupt,
            stepping: false,
            unread_losses: Vec::new(),
            skipped_on_device: 0,
            metrics,
            progress,
            facts,
            last_line: (state.units, state.train_secs),
            last_phases: state.phase_secs,
            started: Instant::now(),
            wall_secs_before: state.wall_secs,
            lock,
            team,
            folder,
            state,
            task,
        })
    }
}

/// The optimizer that `[optimizer]` describes.
fn optimizer<E: Experiment>(
    vars: NamedVars,
    config: &RunConfig<E>,
    team: &Team,
) -> anyhow::Result<AnyOptimizer> {
    let options = config.optimizer_options();
    let is_mine = |name: &str| team.steps(name);
    let optimizer = AnyOptimizer::from_named_shard(vars, config.optimizer().clone(), is_mine)?;
    let optimizer =
        optimizer.groups(options.groups().to_vec())?.max_grad_norm(options.max_grad_norm)?;
    // On the host the trainer skips by itself, and says why; on a device nobody looks at each step.
    let on_device = optimizer.vars().iter().any(|(_, var)| !is_at_hand(var));
    let skips = config.train().on_divergence == OnDivergence::Skip;
    Ok(optimizer.skip_non_finite(skips && on_device))
}

/// Reads the last whole checkpoint, and says on standard error if a later one is damaged.
fn resume(
    (folder, team): (&RunFolder, &Team),
    experiment: &str,
    model: &NamedVars,
    optimizer: &mut AnyOptimizer,
    task: &mut impl Task,
) -> anyhow::Result<TrainState> {
    let mut damaged = Vec::new();
    let last = team.ask_first(|| {
        let last = checkpoint::last_whole(&folder.checkpoints())?.context("no checkpoint")?;
        for note in &last.notes {
            eprintln!("note: {note}");
        }
        damaged = last.damaged;
        checkpoint::name_of(&last.path)
    })?;
    let last = folder.checkpoints().join(last);
    let state = checkpoint::load(&last, experiment, model, optimizer)?;
    let place = last.join(checkpoint::STATE_FILE);
    task.restore(&state.cursor)
        .map_err(|err| Error::checkpoint(&place, format!("its cursor: {err:#}")))?;
    checkpoint::set_aside(&damaged).context("a damaged checkpoint cannot be set aside")?;
    Ok(state)
}
