//! The command line that every experiment shares.

use std::path::{Path, PathBuf};

use crate::config::{Experiment, Override, RunConfig};
use crate::run_folder::CONFIG_FILE;
use crate::{DeviceChoice, Error, RunFolder, SavedRun, checkpoint};

/// The arguments of every experiment; flatten them into a binary's own.
///
/// ```
/// use clap::Parser;
/// #[derive(Parser)]
/// struct Args {
///     #[command(flatten)]
///     common: fadam_train::CommonArgs,
/// }
/// let args = Args::parse_from(["train-llm", "--config", "configs/llm/tiny.toml"]);
/// let out = args.common.out_dir("train-llm");
/// assert_eq!(out, std::path::Path::new("runs/train-llm-tiny"));
/// ```
#[derive(Debug, Clone, clap::Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct CommonArgs {
    /// TOML configuration; without one every key has its default (with --resume, --eval-only or
    /// --export: the run's own)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Overrides one key of the configuration; can be repeated
    #[arg(long = "set", value_name = "KEY.PATH=VALUE")]
    pub overrides: Vec<String>,

    /// Run folder [default: runs/EXPERIMENT-STEM, with the stem of --config or "default"]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,

    /// Continues the run in --out from its last checkpoint
    #[arg(long)]
    pub resume: bool,

    /// What is done with a run that exists.
    #[command(flatten)]
    pub saved: SavedArgs,

    /// Stops after step N, with a checkpoint; the schedule stays that of train.steps
    #[arg(long, value_name = "N", conflicts_with = "reads a run", value_parser = clap::value_parser!(u64).range(1..))]
    pub steps: Option<u64>,

    /// Overrides train.seed
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,

    /// Starts from the weights in a safetensors file (sets train.init)
    #[arg(long, value_name = "FILE")]
    pub init: Option<PathBuf>,

    /// Where to compute: cpu, cuda, cuda:I, metal or metal:I
    #[arg(long, default_value = "cpu")]
    pub device: DeviceChoice,

    /// Prints the final summary only
    #[arg(long)]
    pub quiet: bool,

    /// Prints the resolved configuration as TOML and ends
    #[arg(long)]
    pub print_config: bool,

    /// Ends after its step, with a checkpoint, once standard input is closed: how a sweep holds its runs
    #[arg(long, hide = true)]
    pub until_closed: bool,
}

/// The arguments about a run that exists: it is read, and nothing in it is changed.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct SavedArgs {
    /// Evaluates the last checkpoint of the run in --out on its held-out data and ends; the numbers go to
    /// standard output, nothing is written
    #[arg(long, group = "reads a run")]
    pub eval_only: bool,

    /// With --eval-only: prints the line of metrics.jsonl alone
    #[arg(long, requires = "eval_only")]
    pub json: bool,

    /// Writes the last checkpoint of the run in --out as a new folder DIR that needs nothing else
    /// (model.safetensors, config.json, tokenizer.json) and ends
    #[arg(long, value_name = "DIR", group = "reads a run")]
    pub export: Option<PathBuf>,

    /// With --eval-only or --export: this checkpoint, not the last one; its run is --out or else the one
    /// it lies in
    #[arg(long, value_name = "DIR", requires = "reads a run")]
    pub checkpoint: Option<PathBuf>,
}

impl SavedArgs {
    /// Whether a run is only read.
    fn reads_run(&self) -> bool {
        self.eval_only || self.export.is_some()
    }
}

impl CommonArgs {
    /// The run folder: `--out`, or `runs/<experiment>-<stem of --config>`, with the stem `default`
    /// when there is no `--config`.
    pub fn out_dir(&self, experiment: &str) -> PathBuf {
        if let Some(out) = &self.out {
            return out.clone();
        }
        let stem = self.config.as_deref().and_then(Path::file_stem);
        let stem = stem.map_or("default".into(), |stem| stem.to_string_lossy());
        Path::new("runs").join(format!("{experiment}-{stem}"))
    }

    /// The configuration: `--config` (or, without one, with `--resume`, `--eval-only` or `--export`, that
    /// stored in the run folder), then each `--set` in order, then `--seed` and `--init`.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] and [`Error::CommandLine`], as [`RunConfig::load`].
    pub fn load_config<E: Experiment>(&self) -> Result<RunConfig<E>, Error> {
        let mut overrides = self
            .overrides
            .iter()
            .map(|text| Override::parse(text))
            .collect::<Result<Vec<_>, Error>>()?;
        if let Some(seed) = self.seed {
            overrides.push(Override::seed(seed)?);
        }
        if let Some(file) = &self.init {
            overrides.push(Override::init(file)?);
        }
        let path = match &self.config {
            Some(path) => Some(path.clone()),
            None if self.resume || self.saved.reads_run() => {
                Some(self.run_folder(E::NAME)?.path().join(CONFIG_FILE))
            }
            None => None,
        };
        RunConfig::load(path.as_deref(), &overrides)
    }

    /// The run folder, checked and not yet written to: a new or empty one, or with `--resume`,
    /// `--eval-only` or `--export` that of a run with a checkpoint.
    ///
    /// # Errors
    ///
    /// [`Error::Checkpoint`] when `--checkpoint` is not one, and
    /// [`Error::RunFolder`], as [`RunFolder::new_run`] and [`RunFolder::to_resume`].
    pub fn run_folder(&self, experiment: &str) -> Result<RunFolder, Error> {
        let out = match (&self.out, &self.saved.checkpoint) {
            (None, Some(checkpoint)) => checkpoint::run_of(checkpoint)?,
            _ => self.out_dir(experiment),
        };
        if self.resume || self.saved.reads_run() {
            RunFolder::to_resume(out)
        } else {
            RunFolder::new_run(out)
        }
    }

    /// With `--eval-only` or `--export` the run and the checkpoint that they are about, which must be of
    /// `config`; otherwise nothing.
    ///
    /// # Errors
    ///
    /// As [`SavedRun::open`] and [`SavedRun::check_config`].
    pub fn saved_run<E: Experiment>(
        &self,
        config: &RunConfig<E>,
    ) -> Result<Option<SavedRun>, Error> {
        if !self.saved.reads_run() {
            return Ok(None);
        }
        let folder = self.run_folder(E::NAME)?;
        let run = SavedRun::open(folder.path(), self.saved.checkpoint.as_deref())?;
        run.check_config(config)?;
        Ok(Some(run))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Args {
        #[command(flatten)]
        common: CommonArgs,
    }

    #[test]
    fn every_argument_is_understood() {
        let line = "x --config a/b.toml --set train.batch=3 --set data.path=z --out o --resume \
                    --steps 5 --seed 7 --init w.safetensors --device cuda:1 --quiet --print-config";
        let args = Args::try_parse_from(line.split_whitespace()).unwrap().common;
        assert_eq!(args.overrides, ["train.batch=3", "data.path=z"]);
        assert_eq!((args.steps, args.seed), (Some(5), Some(7)));
        assert_eq!(args.device, DeviceChoice::Cuda(1));
        assert_eq!(args.out_dir("x"), Path::new("o"));
        let args = |line: &str| Args::try_parse_from(line.split_whitespace()).unwrap().common;
        let read = args("x --eval-only --json --checkpoint c --out o").saved;
        assert_eq!(read.checkpoint.as_deref(), Some(Path::new("c")));
        assert!(read.eval_only && read.json);
        let export = args("x --export e --checkpoint c").saved;
        assert_eq!(export.export.as_deref(), Some(Path::new("e")));
    }

    #[test]
    fn impossible_arguments_are_refused() {
        for line in [
            "x --steps 0",
            "x --device gpu",
            "x --seed -1",
            "x --set",
            "x --json",
            "x --checkpoint c",
            "x --eval-only --export e",
            "x --eval-only --steps 3",
        ] {
            assert!(Args::try_parse_from(line.split_whitespace()).is_err(), "{line}");
        }
    }
}
