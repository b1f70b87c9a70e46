//! Many runs of one program: a grid of values, times seeds, with a search of one key before it if asked for.
//!
//! ```text
//! sweep.toml ─► spec ─► plan: cells, rows, run names ─► every configuration checked before the first run starts
//! plan ─► pool: this program again, N processes at a time ─► runs/NAME/ as the task's own program makes them
//! each end ─► state/NAME.json ─► results.csv, times.csv, sweep.svg, a table on the terminal
//! ```
//!
//! # The file
//!
//! ```toml
//! [sweep]
//! name = "ablate-rho"
//! task = "train-llm"              # the program whose runs these are
//! config = "../llm/tiny.toml"     # optional: what all runs have in common, relative to this file
//! seeds = [0, 1, 2]
//! jobs = 2                        # optional: runs at a time, unless --jobs says otherwise
//!
//! [base]                          # optional: more of that, over config
//! optimizer.algorithm = "fadafactor"
//!
//! [axes]                          # each value with each
//! optimizer.rho = [0.4, 0.5, 0.6]
//!
//! [[cells]]                       # where a grid does not do: named groups of settings, each with the axes
//! name = "Adafactor"
//! optimizer.algorithm = "adafactor"
//!
//! [search]                        # optional: searched on each cell with the first seed; the best is run with all seeds
//! optimizer.lr = [1e-3, 3e-3, 1e-2]
//! fixed = 3e-3                    # optional: all cells at this value as well, with all seeds
//! ```
//!
//! # What is certain
//!
//! - A run that diverges is a result (`diverged` in the table), one that fails is tried again when the sweep is.
//! - A sweep that was killed goes on with what is missing when the same command is given again, each run from its last
//!   checkpoint. `results.csv` is then that of a sweep left alone, byte for byte, whatever the number of jobs.
//! - Two processes cannot run the same sweep, nor the same run.

mod answers;
mod child;
mod curve;
mod document;
mod folder;
mod plan;
mod pool;
mod progress;
mod record;
mod runner;
mod spec;
mod table;

use std::path::{Path, PathBuf};

use crate::config::{Experiment, Override, RunConfig};
use crate::{CommonArgs, DeviceChoice, Error, Interrupt, Outcome};
use document::Setting;
use folder::Folder;
use plan::Plan;
use runner::Runner;
use spec::Spec;

/// What a program does with a command line.
type Train = Box<dyn Fn(&CommonArgs) -> anyhow::Result<Outcome> + Sync>;

/// A program whose runs a sweep can start.
pub struct SweepTask {
    name: &'static str,
    /// Checks a configuration and writes it out in full.
    resolve: fn(&[Override]) -> Result<String, Error>,
    train: Train,
}

impl SweepTask {
    /// The program of `E`; `train` is what it does with a command line and the configuration that this names.
    pub fn of<E: Experiment + 'static>(
        train: fn(&CommonArgs, &RunConfig<E>) -> anyhow::Result<Outcome>,
    ) -> Self {
        Self {
            name: E::NAME,
            resolve: |overrides| Ok(RunConfig::<E>::load(None, overrides)?.to_toml()),
            train: Box::new(move |args| train(args, &args.load_config::<E>()?)),
        }
    }
}

impl std::fmt::Debug for SweepTask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SweepTask").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A sweep file that is part of the program.
#[derive(Debug, Clone, Copy)]
pub struct SweepFile {
    /// What messages call it: the path that it has in the source.
    pub name: &'static str,
    /// Its text.
    pub text: &'static str,
}

/// The arguments of every sweep; flatten them into a binary's own.
#[derive(Debug, Clone, clap::Args)]
pub struct SweepArgs {
    /// TOML sweep; without one the program's own
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Overrides one key of [base]; can be repeated
    #[arg(long = "set", value_name = "KEY.PATH=VALUE")]
    overrides: Vec<String>,

    /// Overrides sweep.seeds: 0,1,2
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    seeds: Vec<u64>,

    /// Folder of the sweep; one that was begun there goes on [default: runs/NAME]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Runs at a time, which share the threads [default: sweep.jobs]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,

    /// Where to compute: cpu, cuda, cuda:I, metal or metal:I
    #[arg(long, default_value = "cpu")]
    device: DeviceChoice,

    /// Prints the results only
    #[arg(long)]
    quiet: bool,

    /// Checks the sweep, prints it and the names of its runs, and ends
    #[arg(long)]
    list: bool,

    /// Is one run of the sweep in --out, which starts itself so
    #[arg(long, hide = true, num_args = 2, value_names = ["TASK", "RUN"], requires = "out")]
    sweep_run: Option<Vec<String>>,
}

/// Runs the sweep that `args` name, or `default`.
///
/// Exit codes, by way of [`run_main`](crate::run_main): 0 when all runs completed or diverged, 1 when one failed, 2 for bad
/// input, 130 when it was interrupted.
///
/// # Errors
///
/// [`Error`] when the sweep, a configuration of it or its folder cannot be used, before anything runs; other errors when a
/// run failed, or a file cannot be written.
pub fn run_sweep(
    args: &SweepArgs,
    default: &SweepFile,
    tasks: &[SweepTask],
) -> anyhow::Result<Outcome> {
    if let (Some([task, run]), Some(out)) = (args.sweep_run.as_deref(), &args.out) {
        return child::run(&Folder::new(out), find(tasks, task)?, run, args.device);
    }
    let mut spec = match &args.config {
        Some(path) => Spec::read(path)?,
        None => Spec::parse(default.name, default.text, None)?,
    };
    for argument in &args.overrides {
        spec.set(Setting::from_argument(argument)?)?;
    }
    if !args.seeds.is_empty() {
        spec.set_seeds(&args.seeds)?;
    }
    let (plan, task) = planned(spec, tasks)?;
    if args.list {
        print_plan(&plan);
        return Ok(Outcome::Completed);
    }
    let out = args.out.clone().unwrap_or_else(|| PathBuf::from("runs").join(&plan.spec.name));
    let jobs = args.jobs.map_or(plan.spec.jobs, usize::from);
    let folder = Folder::new(out);
    let lock = folder.claim(&plan.spec)?;
    let interrupt = Interrupt::on_signals()?;
    let ended = Runner::new(&plan, task, &folder, args.quiet)?.run(jobs, args.device, &interrupt);
    drop(lock);
    ended
}

/// Checks a sweep file and every configuration that it makes; how many runs it has at most.
///
/// # Errors
///
/// [`Error`] that names the first thing wrong with it.
pub fn check_sweep(path: &Path, tasks: &[SweepTask]) -> Result<usize, Error> {
    let (plan, _) = planned(Spec::read(path)?, tasks)?;
    Ok(plan.count(&plan::Records::new()))
}

fn planned(spec: Spec, tasks: &[SweepTask]) -> Result<(Plan, &SweepTask), Error> {
    let task = find(tasks, &spec.task.text()).map_err(|err| spec.task.error(err.to_string()))?;
    let plan = Plan::new(spec);
    plan.check(task)?;
    Ok((plan, task))
}

fn find<'t>(tasks: &'t [SweepTask], name: &str) -> Result<&'t SweepTask, Error> {
    let names = || tasks.iter().map(|task| task.name).collect::<Vec<_>>().join(", ");
    tasks
        .iter()
        .find(|task| task.name == name)
        .ok_or_else(|| Error::argument("task", format!("is none of {}", names())))
}

fn print_plan(plan: &Plan) {
    let records = plan::Records::new();
    let rows = plan.rows(&records);
    let rows = rows.iter().map(|row| format!("{:6}  {}", row.phase.name(), row.run));
    let last = format!("{} runs at most", plan.count(&records));
    let lines: Vec<String> = [plan.spec.to_toml()].into_iter().chain(rows).chain([last]).collect();
    crate::progress::print(&lines.join("\n"));
}

#[cfg(test)]
mod tests;
