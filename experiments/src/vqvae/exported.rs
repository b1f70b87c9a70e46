//! A VQ-VAE as an exported folder.

use std::path::Path;

use anyhow::anyhow;
use candle_core::{DType, Device};
use fadam_models::vqvae::VqVaeConfig;
use fadam_train::SavedRun;
use fadam_train::config::RunConfig;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::autoencoder::Autoencoder;
use super::config::TrainVqVae;
use crate::exported::{self, ExportDtype, FORMAT, Manifest};

/// `config.json` of an exported VQ-VAE.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VqVaeManifest {
    /// The version of this file.
    pub format: u32,
    /// `vit-vqvae`.
    pub architecture: String,
    /// The `[model]` section of the run: what is needed to build the network.
    pub model: VqVaeConfig,
    /// How `model.safetensors` holds the parameters: `f32` or `bf16`.
    pub dtype: String,
    /// The number of parameters and buffers, in elements.
    pub params: usize,
    /// Where the weights come from; for people, never read back.
    pub trained: Value,
}

impl Manifest for VqVaeManifest {
    const ARCHITECTURE: &'static str = "vit-vqvae";
    const PROGRAM: &'static str = "train-vqvae";

    fn check(&self) -> anyhow::Result<()> {
        self.model.check().map_err(|err| anyhow!("model.{err}"))
    }
}

/// Writes the checkpoint of `run` as the new folder `folder`, whole or not at all; returns a line for the user.
///
/// # Errors
/// Bad input: a checkpoint that is damaged or of another model, a folder that exists. Otherwise a folder that cannot be
/// written.
pub fn export(
    run: &SavedRun,
    config: &RunConfig<TrainVqVae>,
    folder: &Path,
    dtype: ExportDtype,
) -> anyhow::Result<String> {
    let autoencoder = Autoencoder::of_run(run, &Device::Cpu)?;
    let manifest = VqVaeManifest {
        format: FORMAT,
        architecture: VqVaeManifest::ARCHITECTURE.to_owned(),
        model: config.model().clone(),
        dtype: DType::from(dtype).as_str().to_owned(),
        params: autoencoder.vars.num_elements(),
        trained: exported::trained(run, config, "images")?,
    };
    exported::write(folder, run, &autoencoder.vars, dtype, &manifest, None)
}
