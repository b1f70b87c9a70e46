//! The folder of a sweep.
//!
//! ```text
//! sweep.toml               the sweep, with everything in one file
//! results.csv, times.csv   a row a run
//! sweep.svg                the curve, if one key has numbers for values
//! runs/NAME/               the folder of a run, as its program makes it
//! state/NAME.toml          the configuration of a run
//! state/NAME.json          how it ended
//! state/NAME.log           what it printed
//! state/NAME.lock, lock    held by the process that runs it, or the sweep: they end with the process
//! ```

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::Context;
use toml::Table;

use super::document;
use super::record::Record;
use super::spec::Spec;
use crate::run_folder::differing_keys;
use crate::{Error, atomic};

const SWEEP_FILE: &str = "sweep.toml";

/// The folder of a sweep.
#[derive(Debug, Clone)]
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// The folder of a run.
    pub(super) fn run(&self, run: &str) -> PathBuf {
        self.0.join("runs").join(run)
    }

    /// The configuration of a run.
    pub(super) fn config(&self, run: &str) -> PathBuf {
        self.state(run, "toml")
    }

    /// What a run printed.
    pub(super) fn log(&self, run: &str) -> PathBuf {
        self.state(run, "log")
    }

    fn state(&self, run: &str, extension: &str) -> PathBuf {
        self.0.join("state").join(format!("{run}.{extension}"))
    }

    /// Claims the folder for `spec`: a new one, or one of the same sweep. It is free again when the file that comes back
    /// is closed.
    ///
    /// # Errors
    ///
    /// [`Error::RunFolder`] when it holds something else, is of another sweep, or another process runs it.
    pub(super) fn claim(&self, spec: &Spec) -> anyhow::Result<File> {
        self.check_is_ours(spec)?;
        fs::create_dir_all(self.0.join("state"))
            .map_err(|err| self.refused(format!("cannot be made: {err}")))?;
        let lock = File::create(self.0.join("lock"))
            .map_err(|err| self.refused(format!("cannot be written to: {err}")))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(self.refused("another process runs this sweep").into());
            }
            Err(TryLockError::Error(err)) => return Err(err).context("cannot lock the sweep"),
        }
        Ok(lock)
    }

    fn check_is_ours(&self, spec: &Spec) -> Result<(), Error> {
        if self.0.exists() && !self.0.is_dir() {
            return Err(self.refused("is a file, not a folder"));
        }
        let stored = self.0.join(SWEEP_FILE);
        if stored.is_file() {
            let stored = Spec::read(&stored)?;
            let (name, task) = (&stored.name, stored.task.text());
            if *name != spec.name || task != spec.task.text() {
                return Err(self.refused(format!(
                    "is of the sweep {name} of {task}, this is {} of {}: give another --out",
                    spec.name,
                    spec.task.text()
                )));
            }
            return Ok(());
        }
        // A sweep that was killed before it wrote sweep.toml leaves its lock and an empty state.
        let foreign = fs::read_dir(&self.0)
            .into_iter()
            .flatten()
            .flatten()
            .any(|entry| entry.file_name() != "lock" && entry.file_name() != "state");
        if foreign {
            return Err(self.refused("is not empty, and no sweep: give another --out"));
        }
        Ok(())
    }

    /// Keeps the sweep beside its results.
    pub(super) fn write_sweep(&self, spec: &Spec) -> anyhow::Result<()> {
        atomic::write(&self.0.join(SWEEP_FILE), spec.to_toml().as_bytes())
    }

    /// Stores the configuration of a run, or makes sure that the stored one is the same.
    ///
    /// # Errors
    ///
    /// [`Error::RunFolder`] naming the keys that differ with both values.
    pub(super) fn keep_config(&self, run: &str, config: &str) -> anyhow::Result<()> {
        let path = self.config(run);
        if !path.exists() {
            return atomic::write(&path, config.as_bytes());
        }
        let refused = |message: String| Error::RunFolder { path: path.clone(), message };
        let table = |text: &str| text.parse::<Table>().map_err(|err| refused(err.to_string()));
        let differences = differing_keys(&table(&document::read(&path)?)?, &table(config)?, &[]);
        if differences.is_empty() {
            return Ok(());
        }
        let message = format!(
            "is of another run than this sweep's: {}; give another --out",
            differences.join("; ")
        );
        Err(refused(message).into())
    }

    /// How a run ended, if it did.
    pub(super) fn record(&self, run: &str) -> anyhow::Result<Option<Record>> {
        let path = self.state(run, "json");
        if !path.exists() {
            return Ok(None);
        }
        let read = || anyhow::Ok(serde_json::from_str(&fs::read_to_string(&path)?)?);
        let damaged = |err: anyhow::Error| Error::RunFolder {
            path: path.clone(),
            message: format!("is damaged ({err}): delete it to run this again"),
        };
        Ok(Some(read().map_err(damaged)?))
    }

    pub(super) fn write_record(&self, run: &str, record: &Record) -> anyhow::Result<()> {
        atomic::write(&self.state(run, "json"), &serde_json::to_vec_pretty(record)?)
    }

    /// Forgets how a run ended: it is run again.
    pub(super) fn forget(&self, run: &str) -> anyhow::Result<()> {
        let path = self.state(run, "json");
        if !path.exists() {
            return Ok(());
        }
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
    }

    /// Waits until no other process is at this run: one that outlived a killed sweep ends after its step.
    pub(super) fn lock_run(&self, run: &str) -> anyhow::Result<File> {
        let path = self.state(run, "lock");
        let lock = File::create(&path).and_then(|file| file.lock().map(|()| file));
        lock.with_context(|| format!("cannot lock {}", path.display()))
    }

    fn refused(&self, message: impl Into<String>) -> Error {
        Error::run_folder(&self.0, message)
    }
}
