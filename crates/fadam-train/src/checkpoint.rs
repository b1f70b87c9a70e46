//! Checkpoints: `checkpoints/step-00000500/`, written aside, synced, renamed; the last K and the best are kept.
//!
//! ```text
//! model.safetensors       parameters and buffers by name
//! optimizer.safetensors   state of the optimizer
//! state.json              step, counters, cursor of the task: see `TrainState`
//! SHA256SUMS              what these three have to be: see `checksums`
//! ```
//!
//! Which of them a run goes on from is decided in `kept`; `held` keeps those that are read from being removed.

mod held;
mod kept;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::Context;
use candle_core::Tensor;
use fadam_core::{AnyOptimizer, NamedVars};
use serde_json::Value;

pub(crate) use self::held::Held;
pub use self::kept::{LastWhole, best, last_whole, latest};
pub(crate) use self::kept::{any, hold_last_whole, remove_unless_only, set_aside};
use crate::config::CheckpointConfig;
use crate::state::{FORMATS, TrainState};
use crate::weights::{Dtypes, Weights};
use crate::{Error, atomic, checksums};

/// The folder of the checkpoints, in the run folder.
pub(crate) const FOLDER: &str = "checkpoints";

/// Parameters and buffers by name, in a checkpoint's folder.
pub const MODEL_FILE: &str = "model.safetensors";

/// The optimizer's state, in a checkpoint's folder.
pub const OPTIMIZER_FILE: &str = "optimizer.safetensors";

/// Everything else, in a checkpoint's folder.
pub const STATE_FILE: &str = "state.json";

/// The files that are checked.
const FILES: [&str; 3] = [MODEL_FILE, OPTIMIZER_FILE, STATE_FILE];

/// The folder of the checkpoint of a step.
pub(crate) fn path_of(folder: &Path, step: u64) -> PathBuf {
    folder.join(format!("step-{step:08}"))
}

/// The name of a checkpoint's folder, by which all processes know it.
pub(crate) fn name_of(path: &Path) -> anyhow::Result<String> {
    let name = path.file_name().and_then(|name| name.to_str());
    Ok(name.context("a checkpoint without a name")?.to_owned())
}

/// Writes a checkpoint of `state.step` into `folder` and removes those that are not to be kept. On an error
/// the others are as they were. `others` is what other processes keep of the optimizer's state.
pub(crate) fn save(
    folder: &Path,
    config: &CheckpointConfig,
    model: &NamedVars,
    (optimizer, others): (&AnyOptimizer, &[Vec<u8>]),
    state: &TrainState,
) -> anyhow::Result<PathBuf> {
    let path = path_of(folder, state.step);
    let aside = path.with_extension("tmp");
    write_aside(&aside, model, (optimizer, others), state)
        .and_then(|()| Ok(fs::rename(&aside, &path)?))
        .and_then(|()| Ok(atomic::sync_folder(folder)?))
        .inspect_err(|_| {
            // The first error is the one to report; half a checkpoint only takes the space that is missing.
            let _gone = fs::remove_dir_all(&aside);
        })
        .with_context(|| format!("cannot write checkpoint {}", path.display()))?;
    kept::prune(folder, config).with_context(|| format!("cannot tidy {}", folder.display()))?;
    Ok(path)
}

fn write_aside(
    aside: &Path,
    model: &NamedVars,
    (optimizer, others): (&AnyOptimizer, &[Vec<u8>]),
    state: &TrainState,
) -> anyhow::Result<()> {
    if aside.exists() {
        fs::remove_dir_all(aside)?; // of a run that was killed while it wrote
    }
    fs::create_dir(aside)?; // never the folders above: a run folder that is gone stays gone
    let tensors: BTreeMap<&str, &Tensor> =
        model.iter().map(|(name, var)| (name, var.as_tensor())).collect();
    let model_path = aside.join(MODEL_FILE);
    safetensors::serialize_to_file(tensors, None, &model_path)?;
    File::open(&model_path)?.sync_all()?;
    optimizer.save_joined(aside.join(OPTIMIZER_FILE), others)?; // syncs by itself
    let json = serde_json::to_string_pretty(state)?;
    atomic::write_synced(&aside.join(STATE_FILE), json.as_bytes())?;
    checksums::write(aside, &FILES)?;
    Ok(atomic::sync_folder(aside)?)
}

/// Refuses a folder that is no checkpoint.
pub(crate) fn check_is_one(path: &Path) -> Result<(), Error> {
    if path.join(STATE_FILE).is_file() {
        return Ok(());
    }
    Err(Error::checkpoint(path, format!("holds no {STATE_FILE}: it is not a checkpoint")))
}

/// Refuses a checkpoint that is damaged, or none.
pub(crate) fn check_is_whole(path: &Path) -> Result<(), Error> {
    check_is_one(path)?;
    kept::check(path).map(|_has_sums| ())
}

/// The run folder that a checkpoint lies in.
pub(crate) fn run_of(path: &Path) -> Result<PathBuf, Error> {
    check_is_one(path)?;
    let whole = path.canonicalize().map_err(|err| Error::checkpoint(path, err.to_string()))?;
    let run = whole.parent().and_then(Path::parent);
    Ok(run.unwrap_or(&whole).to_owned())
}

/// Reads a checkpoint into the optimizer and then the model. Everything is checked before the first
/// variable is set.
pub(crate) fn load(
    checkpoint: &Path,
    experiment: &str,
    model: &NamedVars,
    optimizer: &mut AnyOptimizer,
) -> Result<TrainState, Error> {
    let state = read_state(checkpoint, experiment)?;
    let weights = read_model(checkpoint, model)?;
    let path = checkpoint.join(OPTIMIZER_FILE);
    optimizer.load(&path).map_err(|err| match err {
        fadam_core::Error::StateFile { reason, .. } => Error::checkpoint(&path, reason),
        other => Error::checkpoint(&path, other.to_string()),
    })?;
    let taken = optimizer.steps() + state.stability.skipped;
    if taken != state.step {
        let message =
            format!("it is of step {taken}, {STATE_FILE} beside it of step {}", state.step);
        return Err(Error::checkpoint(&path, message));
    }
    store_model(checkpoint, weights)?;
    Ok(state)
}

/// Sets the variables of `model` to the weights of a checkpoint, for programs that only use the model.
///
/// # Errors
///
/// [`Error::Checkpoint`] naming the file when it is damaged or of another model; no variable is
/// changed then.
///
/// ```no_run
/// # fn open(vars: &fadam_core::NamedVars) -> Result<(), fadam_train::Error> {
/// use fadam_train::checkpoint;
/// let folder = std::path::Path::new("runs/train-llm-tiny/checkpoints");
/// if let Some(last) = checkpoint::latest(folder)? {
///     checkpoint::load_model(&last, vars)?;
/// }
/// # Ok(())
/// # }
/// ```
pub fn load_model(checkpoint: &Path, model: &NamedVars) -> Result<(), Error> {
    store_model(checkpoint, read_model(checkpoint, model)?)
}

fn read_model<'m>(checkpoint: &Path, model: &'m NamedVars) -> Result<Weights<'m>, Error> {
    let path = checkpoint.join(MODEL_FILE);
    Weights::read(&path, model, Dtypes::Exact).map_err(|why| Error::checkpoint(&path, why))
}

fn store_model(checkpoint: &Path, weights: Weights<'_>) -> Result<(), Error> {
    weights.store().map_err(|why| Error::checkpoint(&checkpoint.join(MODEL_FILE), why))
}

/// Reads and checks `state.json`.
pub(crate) fn read_state(checkpoint: &Path, experiment: &str) -> Result<TrainState, Error> {
    let path = checkpoint.join(STATE_FILE);
    let failed = |message: String| Error::checkpoint(&path, message);
    let json = read_json(&path)?;
    let format = &json["format"];
    if !FORMATS.iter().any(|known| format == known) {
        let [.., newest] = FORMATS;
        return Err(failed(format!(
            "has format {format}; this program reads up to format {newest}"
        )));
    }
    let state: TrainState =
        serde_json::from_value(json).map_err(|err| failed(format!("is damaged: {err}")))?;
    if state.experiment != experiment {
        return Err(failed(format!("is of {}, this program is {experiment}", state.experiment)));
    }
    Ok(state)
}

fn read_json(path: &Path) -> Result<Value, Error> {
    let failed = |message: String| Error::checkpoint(path, message);
    let text = fs::read_to_string(path).map_err(|err| failed(format!("cannot be read: {err}")))?;
    serde_json::from_str(&text).map_err(|err| failed(format!("is not whole JSON: {err}")))
}
