//! The folder of a run: claimed once, never overwritten, continued only by the same configuration.
//!
//! ```text
//! config.toml      the resolved configuration
//! metrics.jsonl    one object a line
//! summary.json     how the run ended
//! loss.svg         the loss curve
//! checkpoints/     step-00000500/{model.safetensors, optimizer.safetensors, state.json}
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use crate::config::{Experiment, RunConfig};
use crate::{Error, atomic, checkpoint};

pub(crate) const CONFIG_FILE: &str = "config.toml";

/// Keys that change how a run is watched, and not a single weight: a resumed run may differ in them.
const NEUTRAL_KEYS: [&str; 4] =
    ["train.log_every", "train.eval_every", "checkpoint.every", "checkpoint.keep"];

/// A run folder that was checked and can be used. Nothing is written before training starts, so that
/// a run that fails early (no such corpus) does not leave a folder that blocks the next try.
#[derive(Debug, Clone)]
pub struct RunFolder {
    path: PathBuf,
    resume: bool,
}

impl RunFolder {
    /// A folder for a new run: one that is empty, or does not exist yet.
    ///
    /// # Errors
    ///
    /// [`Error::RunFolder`] when it is not empty, is a file, or is below a file.
    pub fn new_run(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let path = path.into();
        check_is_folder(&path)?;
        if path.exists() {
            let mut entries = fs::read_dir(&path)
                .map_err(|err| Error::run_folder(&path, format!("cannot be read: {err}")))?;
            if entries.next().is_some() {
                let message =
                    "is not empty: continue that run with --resume, or give another --out";
                return Err(Error::run_folder(&path, message));
            }
        }
        Ok(Self { path, resume: false })
    }

    /// The folder of a run to continue, or to read.
    ///
    /// # Errors
    ///
    /// [`Error::RunFolder`] when there is no such folder, or no configuration or checkpoint in it.
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
        if checkpoint::latest(&path.join(checkpoint::FOLDER))?.is_none() {
            let message = "holds no checkpoint: a run writes one whenever it ends";
            return Err(Error::run_folder(&path, message));
        }
        Ok(Self { path, resume: true })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a run is continued.
    pub fn is_resumed(&self) -> bool {
        self.resume
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

    /// Makes the folder of a new run.
    pub(crate) fn create(&self) -> Result<(), Error> {
        Self::new_run(&self.path)?; // again: another run may have been faster
        fs::create_dir_all(self.checkpoints())
            .map_err(|err| Error::run_folder(&self.path, format!("cannot be made: {err}")))
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
