//! A transducer as an exported folder.

use std::path::Path;

use anyhow::anyhow;
use candle_core::{DType, Device};
use fadam_data::speech::Normalisation;
use fadam_models::asr::TransducerConfig;
use fadam_train::SavedRun;
use fadam_train::config::RunConfig;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::config::TrainAsr;
use super::recogniser::{Recogniser, UNITS_FILE};
use crate::exported::{self, ExportDtype, FORMAT, Manifest};

/// `config.json` of an exported transducer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransducerManifest {
    /// The version of this file.
    pub format: u32,
    /// `conformer-transducer`.
    pub architecture: String,
    /// The `[model]` section of the run: what is needed to build the network.
    pub model: TransducerConfig,
    /// The units of `units.json`, the blank among them.
    pub units: usize,
    /// What was done to the transcripts.
    pub normalise: Normalisation,
    /// How `model.safetensors` holds the parameters: `f32` or `bf16`.
    pub dtype: String,
    /// The number of parameters and running statistics, in elements.
    pub params: usize,
    /// Where the weights come from; for people, never read back.
    pub trained: Value,
}

impl Manifest for TransducerManifest {
    const ARCHITECTURE: &'static str = "conformer-transducer";
    const PROGRAM: &'static str = "train-asr";

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
    config: &RunConfig<TrainAsr>,
    folder: &Path,
    dtype: ExportDtype,
) -> anyhow::Result<String> {
    let recogniser = Recogniser::of_run(run, &Device::Cpu)?;
    let manifest = TransducerManifest {
        format: FORMAT,
        architecture: TransducerManifest::ARCHITECTURE.to_owned(),
        model: config.model().clone(),
        units: recogniser.units.size(),
        normalise: recogniser.normalise,
        dtype: DType::from(dtype).as_str().to_owned(),
        params: recogniser.vars.num_elements(),
        trained: exported::trained(run, config, "labels")?,
    };
    let write_units = |file: &Path| Ok(recogniser.units.save(file)?);
    exported::write(
        folder,
        run,
        &recogniser.vars,
        dtype,
        &manifest,
        Some((UNITS_FILE, &write_units)),
    )
}
