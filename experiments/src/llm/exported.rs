//! A checkpoint as a folder that needs nothing else: what `train-llm --export` writes.
//!
//! ```text
//! model.safetensors   the parameters by name, nothing of the optimizer
//! config.json         dimensions, vocabulary, and what was trained: see `Manifest`
//! tokenizer.json      in the format of the `tokenizers` library
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, anyhow};
use candle_core::{DType, Device, Tensor};
use fadam_models::llm::PalmConfig;
use fadam_train::config::{Experiment, RunConfig};
use fadam_train::{SavedRun, bad_input, write_atomically, write_folder};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::config::TrainLlm;
use super::language_model::{LanguageModel, TOKENIZER_FILE};

/// The parameters.
pub(super) const MODEL_FILE: &str = "model.safetensors";

/// The [`Manifest`].
pub(super) const CONFIG_FILE: &str = "config.json";

/// The version of `config.json` that is written and read.
const FORMAT: u32 = 1;

/// What kind of model a folder holds.
const ARCHITECTURE: &str = "palm-decoder";

/// `config.json` of an exported model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The version of this file.
    pub format: u32,
    /// `palm-decoder`.
    pub architecture: String,
    /// The `[model]` section of the run: what is needed to build the decoder.
    pub model: PalmConfig,
    /// The rows of the embedding.
    pub vocab_size: usize,
    /// The end-of-text token as it is written in `tokenizer.json`.
    pub eos: String,
    /// Its id.
    pub eos_id: u32,
    /// How `model.safetensors` holds the parameters: `f32` or `bf16`.
    pub dtype: String,
    /// The number of parameters, in elements.
    pub params: usize,
    /// Where the weights come from; for people, never read back.
    pub trained: Value,
}

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

/// Writes the checkpoint of `run` as the new folder `folder`, whole or not at all; returns a line for the
/// user.
///
/// # Errors
/// Bad input: a checkpoint that is damaged or of another model, a folder that exists. Otherwise a folder
/// that cannot be written.
pub fn export(
    run: &SavedRun,
    config: &RunConfig<TrainLlm>,
    folder: &Path,
    dtype: ExportDtype,
) -> anyhow::Result<String> {
    let model = LanguageModel::of_run(run, &Device::Cpu)?;
    let manifest = Manifest::of(run, config, &model, dtype.into())?;
    let tensors = model
        .vars
        .iter()
        .map(|(name, var)| Ok((name, var.as_detached_tensor().to_dtype(dtype.into())?)))
        .collect::<candle_core::Result<BTreeMap<&str, Tensor>>>()?;
    write_folder(folder, |aside| {
        let file = aside.join(MODEL_FILE);
        safetensors::serialize_to_file(tensors, None, &file)?;
        File::open(&file)?.sync_all()?;
        let json = serde_json::to_string_pretty(&manifest)? + "\n";
        write_atomically(&aside.join(CONFIG_FILE), json.as_bytes())?;
        Ok(model.tokenizer.save(&aside.join(TOKENIZER_FILE))?)
    })?;
    Ok(format!(
        "wrote {} of {} as {}: {} parameters in {}",
        folder.display(),
        run.checkpoint().display(),
        [MODEL_FILE, CONFIG_FILE, TOKENIZER_FILE].join(", "),
        manifest.params,
        manifest.dtype,
    ))
}

impl Manifest {
    fn of(
        run: &SavedRun,
        config: &RunConfig<TrainLlm>,
        model: &LanguageModel,
        dtype: DType,
    ) -> anyhow::Result<Self> {
        let standing = run.standing::<TrainLlm>()?;
        let trained = json!({
            "experiment": TrainLlm::NAME,
            "step": standing.step,
            "tokens": standing.units,
            "eval_step": standing.eval.map(|(step, _)| step),
            "eval_loss": standing.eval.map(|(_, loss)| loss),
            "commit": crate::COMMIT,
            "optimizer": config.optimizer(),
            "train": config.train(),
            "data": config.data(),
        });
        Ok(Self {
            format: FORMAT,
            architecture: ARCHITECTURE.to_owned(),
            model: config.model().clone(),
            vocab_size: model.tokenizer.vocab_size(),
            eos: model.tokenizer.eos().to_owned(),
            eos_id: model.tokenizer.eos_id(),
            dtype: dtype.as_str().to_owned(),
            params: model.vars.num_elements(),
            trained,
        })
    }

    /// Reads and checks the `config.json` of an exported folder.
    ///
    /// # Errors
    /// Bad input, naming the file and what is wrong with it.
    pub fn read(folder: &Path) -> anyhow::Result<Self> {
        let file = folder.join(CONFIG_FILE);
        parse(&file).with_context(|| file.display().to_string()).map_err(bad_input)
    }
}

fn parse(file: &Path) -> anyhow::Result<Manifest> {
    let text = fs::read_to_string(file).context("cannot be read")?;
    let json: Value = serde_json::from_str(&text).context("is not whole JSON")?;
    let (format, architecture) = (&json["format"], &json["architecture"]);
    if *format != FORMAT || *architecture != ARCHITECTURE {
        return Err(anyhow!(
            "is of format {format} and architecture {architecture}; expected {FORMAT} and \
             \"{ARCHITECTURE}\", as train-llm --export writes them"
        ));
    }
    let manifest: Manifest = serde_json::from_value(json)?;
    manifest.model.check().map_err(|err| anyhow!("model.{err}"))?;
    Ok(manifest)
}
