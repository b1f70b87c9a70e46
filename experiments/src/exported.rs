//! A checkpoint as a folder that needs nothing else: what `--export` writes, whatever was trained.
//!
//! ```text
//! model.safetensors   parameters and buffers by name, nothing of the optimizer
//! config.json         dimensions, vocabulary, and what was trained
//! tokenizer.json      what the network's numbers mean; units.json for speech, nothing for pictures
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, anyhow};
use candle_core::{DType, Tensor};
use fadam_core::NamedVars;
use fadam_models::init::SeededVars;
use fadam_train::config::{Experiment, RunConfig};
use fadam_train::{SavedRun, bad_input, write_atomically, write_folder};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// The parameters.
pub const MODEL_FILE: &str = "model.safetensors";

/// Dimensions, vocabulary and where the weights come from.
pub const CONFIG_FILE: &str = "config.json";

/// The version of `config.json` that is written and read.
pub const FORMAT: u32 = 1;

/// What numbers an exported file holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ExportDtype {
    /// As they were trained.
    #[default]
    F32,
    /// Rounded to 16 bits, 8 of them for the exponent: half the size.
    Bf16,
}

impl From<ExportDtype> for DType {
    fn from(dtype: ExportDtype) -> Self {
        match dtype {
            ExportDtype::F32 => Self::F32,
            ExportDtype::Bf16 => Self::BF16,
        }
    }
}

/// The `config.json` of one kind of model.
pub trait Manifest: Serialize + DeserializeOwned {
    /// What kind of model a folder holds.
    const ARCHITECTURE: &'static str;
    /// The program that writes such folders.
    const PROGRAM: &'static str;

    /// Reads and checks the `config.json` of an exported folder.
    ///
    /// # Errors
    /// Bad input, naming the file and what is wrong with it.
    fn read(folder: &Path) -> anyhow::Result<Self> {
        let file = folder.join(CONFIG_FILE);
        parse(&file).with_context(|| file.display().to_string()).map_err(bad_input)
    }

    /// Whether there is a model of these dimensions.
    ///
    /// # Errors
    /// Names what is impossible.
    fn check(&self) -> anyhow::Result<()>;
}

fn parse<M: Manifest>(file: &Path) -> anyhow::Result<M> {
    let text = fs::read_to_string(file).context("cannot be read")?;
    let json: Value = serde_json::from_str(&text).context("is not whole JSON")?;
    let (format, architecture) = (&json["format"], &json["architecture"]);
    if *format != FORMAT || *architecture != M::ARCHITECTURE {
        return Err(anyhow!(
            "is of format {format} and architecture {architecture}; expected {FORMAT} and \
             \"{}\", as {} --export writes them",
            M::ARCHITECTURE,
            M::PROGRAM,
        ));
    }
    let manifest: M = serde_json::from_value(json)?;
    manifest.check()?;
    Ok(manifest)
}

/// The variables of the model in an exported folder, none of them there yet, and not more than the weights beside them can fill:
/// a number takes two bytes at least. So dimensions that are damaged ask for no more memory than there is a use for.
///
/// # Errors
/// Bad input: there are no weights.
pub fn vars(folder: &Path) -> anyhow::Result<SeededVars> {
    let file = folder.join(MODEL_FILE);
    let size = fs::metadata(&file)
        .with_context(|| format!("{}: cannot be read", file.display()))
        .map_err(bad_input)?
        .len();
    Ok(SeededVars::at_most(usize::try_from(size / 2)?))
}

/// Names the files in what is wrong with a model of the dimensions in `config.json`.
///
/// # Errors
/// As bad input, what `built` has.
pub fn built<T>(folder: &Path, built: candle_core::Result<T>) -> anyhow::Result<T> {
    built
        .with_context(|| {
            let file = folder.join(MODEL_FILE);
            format!("{}: is not of the dimensions in {CONFIG_FILE} beside it", file.display())
        })
        .map_err(bad_input)
}

/// Where the weights of a checkpoint come from; for people, never read back.
///
/// # Errors
/// Bad input: a checkpoint that is damaged or of another experiment.
pub fn trained<E: Experiment>(
    run: &SavedRun,
    config: &RunConfig<E>,
    unit: &str,
) -> anyhow::Result<Value> {
    let standing = run.standing::<E>()?;
    Ok(json!({
        "experiment": E::NAME,
        "step": standing.step,
        unit: standing.units,
        "eval_step": standing.eval.map(|(step, _)| step),
        "eval_loss": standing.eval.map(|(_, loss)| loss),
        "commit": crate::COMMIT,
        "optimizer": config.optimizer(),
        "train": config.train(),
        "data": config.data(),
    }))
}

/// The name of a file, and what writes it.
pub type Beside<'a> = (&'a str, &'a dyn Fn(&Path) -> anyhow::Result<()>);

/// Writes a model as the new folder `folder`, whole or not at all, with what its numbers mean beside it, if there is such a file.
/// Returns a line for the user.
///
/// # Errors
/// Bad input: a folder that exists. Otherwise a folder that cannot be written.
pub fn write(
    folder: &Path,
    run: &SavedRun,
    model: &NamedVars,
    dtype: ExportDtype,
    manifest: &impl Manifest,
    vocabulary: Option<Beside<'_>>,
) -> anyhow::Result<String> {
    let dtype = DType::from(dtype);
    let tensors = model
        .iter()
        .map(|(name, var)| Ok((name, var.as_detached_tensor().to_dtype(dtype)?)))
        .collect::<candle_core::Result<BTreeMap<&str, Tensor>>>()?;
    write_folder(folder, |aside| {
        let file = aside.join(MODEL_FILE);
        safetensors::serialize_to_file(tensors, None, &file)?;
        File::open(&file)?.sync_all()?;
        let json = serde_json::to_string_pretty(manifest)? + "\n";
        write_atomically(&aside.join(CONFIG_FILE), json.as_bytes())?;
        vocabulary.map_or(Ok(()), |(name, write)| write(&aside.join(name)))
    })?;
    Ok(format!(
        "wrote {} of {} as {}: {} numbers in {}",
        folder.display(),
        run.checkpoint().display(),
        [Some(MODEL_FILE), Some(CONFIG_FILE), vocabulary.map(|(name, _)| name)]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join(", "),
        model.num_elements(),
        dtype.as_str(),
    ))
}
