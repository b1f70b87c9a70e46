//! A decoder as an exported folder.

use std::path::Path;

use anyhow::anyhow;
use candle_core::{DType, Device};
use fadam_models::llm::PalmConfig;
use fadam_train::SavedRun;
use fadam_train::config::RunConfig;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::config::TrainLlm;
use super::language_model::{LanguageModel, TOKENIZER_FILE};
use crate::exported::{self, ExportDtype, FORMAT, Manifest};

/// `config.json` of an exported decoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecoderManifest {
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

impl Manifest for DecoderManifest {
    const ARCHITECTURE: &'static str = "palm-decoder";
    const PROGRAM: &'static str = "train-llm";

    fn check(&self) -> anyhow::Result<()> {
        self.model.check().map_err(|err| anyhow!("model.{err}"))
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
    let manifest = DecoderManifest {
        format: FORMAT,
        architecture: DecoderManifest::ARCHITECTURE.to_owned(),
        model: config.model().clone(),
        vocab_size: model.tokenizer.vocab_size(),
        eos: model.tokenizer.eos().to_owned(),
        eos_id: model.tokenizer.eos_id(),
        dtype: DType::from(dtype).as_str().to_owned(),
        params: model.vars.num_elements(),
        trained: exported::trained(run, config, "tokens")?,
    };
    let write_tokenizer = |file: &Path| Ok(model.tokenizer.save(file)?);
    exported::write(
        folder,
        run,
        &model.vars,
        dtype,
        &manifest,
        Some((TOKENIZER_FILE, &write_tokenizer)),
    )
}
