//! A trained VQ-VAE to use: from the checkpoint of a run, or from an exported folder.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use fadam_core::NamedVars;
use fadam_models::init::SeededVars;
use fadam_models::vqvae::{VqVae, VqVaeConfig};
use fadam_train::{Conversions, SavedRun, load_weights};

use super::config::TrainVqVae;
use super::exported::VqVaeManifest;
use crate::exported::{self, MODEL_FILE, Manifest};

/// A VQ-VAE of constants, and its numbers by name.
#[derive(Debug)]
pub struct Autoencoder {
    /// The network: nothing that it computes keeps a graph.
    pub model: VqVae,
    /// Parameters, and how long codes were not used where dead ones begin anew.
    pub vars: NamedVars,
}

impl Autoencoder {
    /// The model at a checkpoint of a run.
    ///
    /// # Errors
    /// Bad input: a run folder or checkpoint that is damaged or of another experiment.
    pub fn of_run(run: &SavedRun, device: &Device) -> anyhow::Result<Self> {
        let config = run.config::<TrainVqVae>()?;
        run.standing::<TrainVqVae>()?; // refuses a checkpoint of another experiment
        let new = Self::build(config.model(), SeededVars::new(0), device)?;
        run.load_model(&new.vars)?;
        Ok(new)
    }

    /// The model of a folder that `train-vqvae --export` wrote, computing in f32 whatever the file holds.
    ///
    /// # Errors
    /// Bad input: a folder whose files are missing, damaged or not of each other.
    pub fn of_export(folder: &Path, device: &Device) -> anyhow::Result<(Self, Conversions)> {
        let config = VqVaeManifest::read(folder)?.model;
        let vars = exported::vars(folder)?;
        let new = exported::built(folder, Self::build(&config, vars, device))?;
        let converted = load_weights(&folder.join(MODEL_FILE), &new.vars)?;
        Ok((new, converted))
    }

    /// A VQ-VAE of these dimensions, its weights not the trained ones yet.
    fn build(config: &VqVaeConfig, vars: SeededVars, device: &Device) -> candle_core::Result<Self> {
        let (_, vars) = trainable(config, vars, device)?;
        Ok(Self { model: constant(config, &vars, device)?, vars })
    }
}

/// A VQ-VAE to train, with the initial weights that `vars` gives, and its parameters and buffers.
pub(super) fn trainable(
    config: &VqVaeConfig,
    vars: SeededVars,
    device: &Device,
) -> candle_core::Result<(VqVae, NamedVars)> {
    let model = VqVae::new(config, &vars.builder(DType::F32, device))?;
    Ok((model, NamedVars::from_iter(vars.into_named())))
}

/// The same network of constants, which see what becomes of the variables.
pub(super) fn constant(
    config: &VqVaeConfig,
    vars: &NamedVars,
    device: &Device,
) -> candle_core::Result<VqVae> {
    let constants: HashMap<String, Tensor> =
        vars.iter().map(|(name, var)| (name.to_owned(), var.as_detached_tensor())).collect();
    VqVae::new(config, &VarBuilder::from_tensors(constants, DType::F32, device))
}
