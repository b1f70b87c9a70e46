//! How a run is started, and how it ended.

use std::sync::Arc;

use crate::config::Experiment;
use crate::lock;
use crate::parallel::{self, Alone, Collective};
use crate::{CommonArgs, Error, Interrupt, RunFolder};

/// What a [`Trainer`](crate::Trainer) needs beside task and configuration.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Where the run is recorded, and whether it is a continued one.
    pub folder: RunFolder,
    /// Ends the run after this step, if that is before `train.steps`. The schedule does not change.
    pub stop_at: Option<u64>,
    /// Prints the final summary only.
    pub quiet: bool,
    /// What ends the run early.
    pub interrupt: Interrupt,
    /// The device, as `summary.json` calls it.
    pub device: String,
    /// The commit that the program was built from, for `summary.json`.
    pub commit: Option<String>,
    /// The processes that train together, of which this is one.
    pub team: Arc<dyn Collective>,
}

impl RunOptions {
    /// Options for a folder: to the end, with output, on the CPU, without a signal handler, in one process.
    pub fn new(folder: RunFolder) -> Self {
        Self {
            folder,
            stop_at: None,
            quiet: false,
            interrupt: Interrupt::new(),
            device: "cpu".to_owned(),
            commit: None,
            team: Arc::new(Alone),
        }
    }

    /// Whether this process evaluates and writes the run folder: the only one, or rank 0 of several.
    pub fn leads(&self) -> bool {
        self.team.rank() == 0
    }

    /// Sets the commit that the program was built from.
    #[must_use]
    pub fn commit(mut self, commit: Option<impl Into<String>>) -> Self {
        self.commit = commit.map(Into::into);
        self
    }
}

impl CommonArgs {
    /// The options that the command line asks for, with Ctrl-C handled. Call it before the data is
    /// read, so that a run folder that cannot be used is an error at once; nothing is written yet.
    ///
    /// # Errors
    ///
    /// [`Error::RunFolder`] as [`CommonArgs::run_folder`]; [`Error::CommandLine`] when the program
    /// already handles Ctrl-C, or as [`parallel::join`](crate::parallel::join).
    pub fn run_options<E: Experiment>(&self) -> Result<RunOptions, Error> {
        let team = parallel::join()?;
        let folder = self.run_folder(E::NAME)?;
        if self.resume {
            lock::refuse_if_taken(folder.path())?;
        }
        // Each has looked at the folder before rank 0 changes it.
        let gone = |err: anyhow::Error| Error::argument(team.engine(), format!("{err:#}"));
        team.barrier().map_err(gone)?;
        let interrupt = Interrupt::on_signals()
            .map_err(|err| Error::argument("Ctrl-C handler", err.to_string()))?;
        // What starts processes together closes the input of all but the first.
        if self.until_closed && team.rank() == 0 {
            interrupt.at_end_of(std::io::stdin());
        }
        Ok(RunOptions {
            stop_at: self.steps,
            quiet: self.quiet || team.rank() > 0,
            interrupt,
            device: self.device.to_string(),
            team,
            ..RunOptions::new(folder)
        })
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All of `train.steps`.
    Completed,
    /// Early, as `--steps` asked.
    Stopped,
    /// Early, by Ctrl-C.
    Interrupted,
}

impl Outcome {
    /// `completed`, `stopped` or `interrupted`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Stopped => "stopped",
            Self::Interrupted => "interrupted",
        }
    }
}
