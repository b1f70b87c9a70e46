//! How a run is started, and how it ended.

use crate::config::Experiment;
use crate::lock;
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
}

impl RunOptions {
    /// Options for a folder: to the end, with output, on the CPU, without a signal handler.
    pub fn new(folder: RunFolder) -> Self {
        Self {
            folder,
            stop_at: None,
            quiet: false,
            interrupt: Interrupt::new(),
            device: "cpu".to_owned(),
            commit: None,
        }
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
    /// already handles Ctrl-C.
    pub fn run_options<E: Experiment>(&self) -> Result<RunOptions, Error> {
        let folder = self.run_folder(E::NAME)?;
        if self.resume {
            lock::refuse_if_taken(folder.path())?;
        }
        let interrupt = Interrupt::on_signals()
            .map_err(|err| Error::argument("Ctrl-C handler", err.to_string()))?;
        if self.until_closed {
            interrupt.at_end_of(std::io::stdin());
        }
        Ok(RunOptions {
            stop_at: self.steps,
            quiet: self.quiet,
            interrupt,
            device: self.device.to_string(),
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
