//! The folder of a run: claimed once, never overwritten, continued only by the same configuration.
//!
//! ```text
//! config.toml      the resolved configuration
//! metrics.jsonl    one object a line
//! events.out.…     the same and more for TensorBoard, a file a session
//! summary.json     how the run ended
//! loss.svg         the loss curve
//! checkpoints/     step-00000500/{model.safetensors, optimizer.safetensors, state.json, SHA256SUMS}
//! lock             while a process trains here
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use crate::config::{Experiment, RunConfig};
use crate::lock::{self, RunLock};
use crate::{Error, atomic, checkpoint};

pub(crate) const CONFIG_FILE: &str = "config.toml";

/// Keys that change how a run is watched, or what it does where it would end otherwise, and not a single weight until then: a
/// resumed run may differ in them.
const NEUTRAL_KEYS: [&str; 12] = [
    "train.log_every",
    "train.eval_every",
    "train.tensorboard",
    "train.on_divergence",
    "train.divergence_limit",
    "train.divergence_lr_factor",
    "checkpoint.every",
    "checkpoint.keep",
    "checkpoint.keep_best",
    "parallel.bucket_mb",
    "parallel.zero",
    "parallel.check_every",
];

/// A run folder that was checked and can be used. Nothing is written before training starts, so that
/// a run that fails early (no such corpus) does not leave a folder that blocks the next try.
#[derive(Debug, Clone)]
pub struct RunFolder {
    path: PathBuf,
    holds: Holds,
}

/// What is in a run folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holds {
    /// Nothing, or what a run left that was killed before it wrote its configuration.
    Nothing,
    /// A run without a checkpoint: killed before it wrote its first. It is begun again.
    Beginning,
    /// A run with a checkpoint.
    Checkpoint,
}

impl RunFolder {
    /// A folder for a new run: one that is empty, or does not exist yet. What a run left that was killed before it
    /// wrote anything does not matter.
    ///
    /// # Errors
    ///
    /// [`Error::RunFolder`] when another process trains in it, or it is not empty, is a file, or is below a file.
    pub fn new_run(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let path = path.into();
        check_is_folder(&path)?;
        if path.exists() {
            lock::refuse_if_taken(&path)?;
            let unused = is_unused(&path)
                .map_err(|err| Error::run_folder(&path, format!("cannot be read: {err}")))?;
            if !unused {
                let message =
                    "is not empty: continue that run with --resume, or give another --out";
                return Err(Error::run_folder(&path, message));
            }
        }
        Ok(Self { path, holds: Holds::Nothing })
    }

    /// The folder of a run to continue, or to read. One that was killed before its first checkpoint is begun again when
    /// it is continued.
    ///
    /// # Errors
    ///
    /// [`Error::RunFolder`] when there is no such folder, or no configuration in it.
    pub fn to_resume(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let path = path.into();
        check_is_folder(&path)?;
        if !path.exists() {
            return Err(Error::run_folder(
                &path,
                "does not exist: there is no run to continue or to read",
            ));
        }
        if !path.join(CONFIG_FILE).is_file() {
            let message = format!("holds no {CONFIG_FILE}: it is not the folder of a run");
            return Err(Error::run_folder(&path, message));
        }
        let begun = checkpoint::any(&path.join(checkpoint::FOLDER))?;
        let holds = if begun { Holds::Checkpoint } else { Holds::Beginning };
        Ok(Self { path, holds })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a run is continued from a checkpoint.
    pub fn is_resumed(&self) -> bool {
        self.holds == Holds::Checkpoint
    }

    pub(crate) fn checkpoints(&self) -> PathBuf {
        self.path.join(checkpoint::FOLDER)
    }

    /// Refuses to continue a run with another configuration than the stored one, but for the keys that
    /// only change how the run is watched, and those in `free`.
    pub(crate) fn check_config<E: Experiment>(
        &self,
        config: &RunConfig<E>,
        free: &[&str],
    ) -> Result<(), Error> {
        let stored = fs::read_to_string(self.path.join(CONFIG_FILE)).map_err(|err| {
            Error::run_folder(&self.path, format!("{CONFIG_FILE} cannot be read: {err}"))
        })?;
        self.check_same(&stored, &config.to_toml(), free)
    }

    /// Takes the folder for this process: makes it if it is new, refuses it if its run is of another configuration or
    /// another process trains in it, and removes what killed processes left half-written.
    pub(crate) fn claim<E: Experiment>(&self, config: &RunConfig<E>) -> Result<RunLock, Error> {
        if self.holds != Holds::Nothing {
            self.check_config(config, &[])?;
        }
        let unusable = |err| Error::run_folder(&self.path, format!("cannot be made: {err}"));
        fs::create_dir_all(self.checkpoints()).map_err(unusable)?;
        let lock = RunLock::take(&self.path)?;
        // Another process may have been faster, and be done with it.
        let still = match self.holds {
            Holds::Nothing => is_unused(&self.path).map_err(unusable)?,
            Holds::Beginning => !checkpoint::any(&self.checkpoints())?,
            Holds::Checkpoint => checkpoint::any(&self.checkpoints())?,
        };
        if !still {
            let message = "was changed by another process while this one started: start again";
            return Err(Error::run_folder(&self.path, message));
        }
        for folder in [&self.path, &self.checkpoints()] {
            atomic::remove_left_aside(folder)
                .and_then(|()| atomic::sync_folder(folder))
                .map_err(|err| Error::run_folder(folder, format!("cannot be tidied: {err}")))?;
        }
        if self.holds == Holds::Beginning {
            let path = self.path.display();
            eprintln!("note: run folder {path} holds no checkpoint yet: its run begins again");
        }
        Ok(lock)
    }

    /// Stores the resolved configuration.
    pub(crate) fn write_config<E: Experiment>(&self, config: &RunConfig<E>) -> anyhow::Result<()> {
        atomic::write(&self.path.join(CONFIG_FILE), config.to_toml().as_bytes())
    }

    fn check_same(&self, old: &str, new: &str, free: &[&str]) -> Result<(), Error> {
        let table = |text: &str| {
            text.parse::<Table>().map_err(|err| {
                let message = format!("{CONFIG_FILE} is damaged: {}", err.message());
                Error::run_folder(&self.path, message)
            })
        };
        let differences = differing_keys(&table(old)?, &table(new)?, free);
        if differences.is_empty() {
            return Ok(());
        }
        let message = format!(
            "its {CONFIG_FILE} is of another run than this configuration: {}",
            differences.join("; ")
        );
        Err(Error::run_folder(&self.path, message))
    }
}

/// Whether there is nothing in a folder but what a run leaves that was killed before it wrote anything.
fn is_unused(path: &Path) -> std::io::Result<bool> {
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        let unused = match path.file_name().and_then(|name| name.to_str()) {
            Some(lock::FILE) => true,
            Some(checkpoint::FOLDER) => is_unused(&path)?,
            _ => atomic::is_aside(&path),
        };
        if !unused {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A path can become a folder if the nearest thing that exists on it is one.
fn check_is_folder(path: &Path) -> Result<(), Error> {
    let Some(existing) = path.ancestors().find(|part| part.exists()) else {
        return Ok(());
    };
    if existing.is_dir() {
        return Ok(());
    }
    let message = if existing == path {
        "is a file, not a folder".to_owned()
    } else {
        format!("cannot be made: {} is a file, not a folder", existing.display())
    };
    Err(Error::run_folder(path, message))
}

/// `train.batch is 16 there and 8 here`, for each key that differs and matters.
pub(crate) fn differing_keys(old: &Table, new: &Table, free: &[&str]) -> Vec<String> {
    let (mut before, mut after) = (Vec::new(), Vec::new());
    flatten("", old, &mut before);
    flatten("", new, &mut after);
    let mut keys: Vec<&String> = before.iter().chain(&after).map(|(key, _)| key).collect();
    keys.sort();
    keys.dedup();
    let find = |side: &[(String, Value)], key: &str| {
        side.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone())
    };
    let shown = |value: Option<Value>| value.map_or("absent".to_owned(), |v| v.to_string());
    keys.into_iter()
        .filter(|key| !NEUTRAL_KEYS.contains(&key.as_str()) && !free.contains(&key.as_str()))
        .map(|key| (key, find(&before, key), find(&after, key)))
        .filter(|(_, old, new)| old != new)
        .map(|(key, old, new)| format!("{key} is {} there and {} here", shown(old), shown(new)))
        .collect()
}

fn flatten(prefix: &str, table: &Table, into: &mut Vec<(String, Value)>) {
    for (key, value) in table {
        let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match value {
            Value::Table(inner) => flatten(&path, inner, into),
            value => into.push((path, value.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_named_with_both_values_and_neutral_keys_are_not() {
        let old = "[train]\nbatch = 16\nlog_every = 1\n[data]\npath = 'a'".parse().unwrap();
        let new = "[train]\nbatch = 8\nlog_every = 2\n[model]\nd = 1.5\n[data]\npath = 'a'";
        assert_eq!(
            differing_keys(&old, &new.parse().unwrap(), &[]),
            ["model.d is absent there and 1.5 here", "train.batch is 16 there and 8 here"]
        );
        assert_eq!(
            differing_keys(&old, &new.parse().unwrap(), &["model.d"]),
            ["train.batch is 16 there and 8 here"]
        );
    }
}
