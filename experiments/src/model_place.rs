//! Where a program that uses a trained model finds it.

use std::path::PathBuf;

use fadam_train::{Error, SavedRun};

/// A run, a checkpoint or an exported folder.
#[derive(Debug, Clone, clap::Args)]
pub struct ModelPlace {
    /// The folder of a run: its last checkpoint is used
    #[arg(long, value_name = "RUN")]
    pub run: Option<PathBuf>,

    /// This checkpoint, not the last one of --run; alone, of the run it lies in
    #[arg(long, value_name = "DIR")]
    pub checkpoint: Option<PathBuf>,

    /// A folder that --export wrote, in place of a run
    #[arg(long, value_name = "FOLDER")]
    pub model: Option<PathBuf>,
}

/// What the arguments name.
#[derive(Debug)]
pub enum Place {
    /// A run at one of its checkpoints.
    Run(SavedRun),
    /// A folder that `--export` wrote.
    Exported(PathBuf),
}

impl ModelPlace {
    /// The one model that is named.
    ///
    /// # Errors
    /// Bad input: none, two, or a folder that is no run.
    pub fn find(&self) -> anyhow::Result<Place> {
        Ok(match (&self.run, &self.checkpoint, &self.model) {
            (Some(run), checkpoint, None) => {
                Place::Run(SavedRun::open(run, checkpoint.as_deref())?)
            }
            (None, Some(checkpoint), None) => Place::Run(SavedRun::of_checkpoint(checkpoint)?),
            (None, None, Some(folder)) => Place::Exported(folder.clone()),
            (None, None, None) => {
                let message = "one of them must name a model".to_owned();
                return Err(argument("--run, --checkpoint, --model", message));
            }
            (_, _, Some(_)) => {
                let message = "is a model already: --run and --checkpoint name another".to_owned();
                return Err(argument("--model", message));
            }
        })
    }
}

/// An argument of the command line that means nothing.
pub(crate) fn argument(argument: impl Into<String>, message: String) -> anyhow::Error {
    Error::CommandLine { argument: argument.into(), message }.into()
}
