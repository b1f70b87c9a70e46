//! Which checkpoints are kept, and which one a run goes on from.

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;

use super::held::Held;
use super::{FILES, MODEL_FILE, OPTIMIZER_FILE, STATE_FILE, read_json};
use crate::config::CheckpointConfig;
use crate::{Error, atomic, checksums};

/// The last checkpoint that is whole, and what was found on the way to it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LastWhole {
    /// Its folder.
    pub path: PathBuf,
    /// Later ones, which are damaged.
    pub damaged: Vec<PathBuf>,
    /// What a person should know, in sentences of one line: which file is damaged and how; that there was
    /// nothing to check with.
    pub notes: Vec<String>,
}

/// The last whole checkpoint in `folder`, if there is any checkpoint: one whose files have the checksums of
/// its `SHA256SUMS`. One without that file is of an older version of this program, and only its form is checked.
///
/// ```
/// let folder = tempfile::tempdir()?;
/// assert_eq!(fadam_train::checkpoint::last_whole(folder.path())?, None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// [`Error::Checkpoint`] when the folder cannot be read, or naming what is wrong with each checkpoint when none is whole.
pub fn last_whole(folder: &Path) -> Result<Option<LastWhole>, Error> {
    Ok(hold_last_whole(folder)?.map(|(last, _held)| last))
}

/// [`last_whole`], and what keeps the process that trains here from removing it.
pub(crate) fn hold_last_whole(folder: &Path) -> Result<Option<(LastWhole, Held)>, Error> {
    let (mut damaged, mut reasons) = (Vec::new(), Vec::new());
    let mut left = all(folder)?;
    while let Some((_, path)) = left.pop() {
        let Some(held) = Held::to_read(&path) else {
            // It was removed since the folder was read, because there are newer ones.
            (damaged, reasons, left) = (Vec::new(), Vec::new(), all(folder)?);
            continue;
        };
        let has_sums = match check(&path) {
            Ok(has_sums) => has_sums,
            Err(err) => {
                reasons.push(err.to_string());
                damaged.push(path);
                continue;
            }
        };
        let mut notes: Vec<String> =
            reasons.iter().map(|why| format!("{why}; {} is used", path.display())).collect();
        if !has_sums {
            notes.push(format!(
                "checkpoint {} has no {}, as older versions of this program wrote it: only its form was checked",
                path.display(),
                checksums::FILE
            ));
        }
        return Ok(Some((LastWhole { path, damaged, notes }, held)));
    }
    match damaged.len() {
        0 => Ok(None),
        _ => Err(Error::checkpoint(
            folder,
            format!("holds no whole checkpoint: {}", reasons.join("; ")),
        )),
    }
}

/// Whether a checkpoint has checksums, with which it agrees.
pub(super) fn check(path: &Path) -> Result<bool, Error> {
    if checksums::check(path, &FILES)? {
        return Ok(true);
    }
    for name in [MODEL_FILE, OPTIMIZER_FILE] {
        let file = path.join(name);
        let failed = |message: String| Error::checkpoint(&file, message);
        let bytes = fs::read(&file).map_err(|err| failed(format!("cannot be read: {err}")))?;
        SafeTensors::deserialize(&bytes)
            .map_err(|err| failed(format!("is not a whole safetensors file: {err}")))?;
    }
    read_json(&path.join(STATE_FILE))?;
    Ok(false)
}

/// The last checkpoint in `folder`, whole or not, if there is one.
///
/// # Errors
///
/// [`Error::Checkpoint`] when the folder exists and cannot be read.
pub fn latest(folder: &Path) -> Result<Option<PathBuf>, Error> {
    Ok(all(folder)?.pop().map(|(_, path)| path))
}

/// Whether there is a checkpoint in `folder`, whole or not.
pub(crate) fn any(folder: &Path) -> Result<bool, Error> {
    Ok(!all(folder)?.is_empty())
}

/// The checkpoint in `folder` with the lowest loss, of those that were evaluated at their own step; the
/// earlier of two that are equal.
///
/// # Errors
///
/// As [`latest`].
pub fn best(folder: &Path) -> Result<Option<PathBuf>, Error> {
    Ok(best_of(&all(folder)?))
}

fn best_of(checkpoints: &[(u64, PathBuf)]) -> Option<PathBuf> {
    let evaluated =
        checkpoints.iter().filter_map(|(step, path)| Some((own_loss(*step, path)?, path)));
    // Of equal ones the first is given.
    evaluated.min_by(|(a, _), (b, _)| a.total_cmp(b)).map(|(_, path)| path.clone())
}

/// The loss of the evaluation at a checkpoint's own step, if there was one and it was finite.
fn own_loss(step: u64, path: &Path) -> Option<f64> {
    let state = read_json(&path.join(STATE_FILE)).ok()?;
    let eval = &state["last_eval"];
    if eval["step"] == step { eval["loss"].as_f64() } else { None }
}

/// Removes all but the last `keep` and, if asked, the best; and what killed runs left aside. One that somebody reads
/// is left for the next time.
pub(super) fn prune(folder: &Path, config: &CheckpointConfig) -> anyhow::Result<()> {
    let checkpoints = list(folder)?;
    let best = if config.keep_best { best_of(&checkpoints) } else { None };
    let old = checkpoints.len().saturating_sub(config.keep);
    for (_, path) in &checkpoints[..old] {
        if best.as_ref() == Some(path) {
            continue;
        }
        if let Some(_alone) = Held::to_remove(path) {
            remove(path)?;
        }
    }
    Ok(atomic::remove_left_aside(folder)?)
}

/// Removes the checkpoint of a step if there is one, and others.
pub(crate) fn remove_unless_only(folder: &Path, step: u64) -> std::io::Result<()> {
    let checkpoints = list(folder)?;
    match checkpoints.iter().find(|(of, _)| *of == step) {
        Some((_, path)) if checkpoints.len() > 1 => remove(path),
        _ => Ok(()),
    }
}

/// Renamed first: a kill amid the removal must not leave what looks like a damaged checkpoint.
fn remove(path: &Path) -> std::io::Result<()> {
    let going = path.with_extension("old.tmp");
    fs::rename(path, &going)?;
    fs::remove_dir_all(&going)
}

/// Renames damaged checkpoints to `<name>.damaged`, where nothing looks for them, but a person can.
pub(crate) fn set_aside(damaged: &[PathBuf]) -> std::io::Result<()> {
    for path in damaged {
        let aside = path.with_extension("damaged");
        if aside.exists() {
            fs::remove_dir_all(&aside)?;
        }
        fs::rename(path, aside)?;
    }
    Ok(())
}

fn all(folder: &Path) -> Result<Vec<(u64, PathBuf)>, Error> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    list(folder).map_err(|err| Error::checkpoint(folder, format!("cannot be read: {err}")))
}

/// Step and path of every checkpoint, by step.
fn list(folder: &Path) -> std::io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let step = name.to_str().and_then(|n| n.strip_prefix("step-")).and_then(|n| n.parse().ok());
        if let Some(step) = step {
            found.push((step, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}
