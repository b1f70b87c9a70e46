//! A trained transducer to use: from the checkpoint of a run, or from an exported folder.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use fadam_core::NamedVars;
use fadam_data::speech::{Normalisation, Units};
use fadam_models::asr::{Transducer, TransducerConfig};
use fadam_models::init::SeededVars;
use fadam_train::{Conversions, SavedRun, bad_input, load_weights};

use super::config::TrainAsr;
use super::exported::TransducerManifest;
use crate::exported::{self, CONFIG_FILE, MODEL_FILE, Manifest};

/// The units in a run folder, and in an exported one.
pub const UNITS_FILE: &str = "units.json";

/// A transducer, the units it emits and how its transcripts were normalised.
#[derive(Debug)]
pub struct Recogniser {
    /// The network, of constants: nothing that it computes keeps a graph.
    pub model: Transducer,
    /// Labels to text.
    pub units: Units,
    /// Of the transcripts that it learned from.
    pub normalise: Normalisation,
    /// Parameters and running statistics.
    pub vars: NamedVars,
}

impl Recogniser {
    /// The model at a checkpoint of a run.
    ///
    /// # Errors
    /// Bad input: a run folder or checkpoint that is damaged or of another experiment.
    pub fn of_run(run: &SavedRun, device: &Device) -> anyhow::Result<Self> {
        let config = run.config::<TrainAsr>()?;
        run.standing::<TrainAsr>()?; // refuses a checkpoint of another experiment
        let units = Units::load(&run.folder().join(UNITS_FILE)).map_err(bad_input)?;
        let vars = SeededVars::new(0);
        let new = Self::build(config.model(), units, config.data().normalise, vars, device)?;
        run.load_model(&new.vars)?;
        Ok(new)
    }

    /// The model of a folder that `train-asr --export` wrote, computing in f32 whatever the file holds.
    ///
    /// # Errors
    /// Bad input: a folder whose files are missing, damaged or not of each other.
    pub fn of_export(folder: &Path, device: &Device) -> anyhow::Result<(Self, Conversions)> {
        let TransducerManifest { model, units: wanted, normalise, .. } =
            TransducerManifest::read(folder)?;
        let file = folder.join(UNITS_FILE);
        let units = Units::load(&file).map_err(bad_input)?;
        if units.size() != wanted {
            return Err(bad_input(anyhow::anyhow!(
                "{}: has {} units, {CONFIG_FILE} beside it says {wanted}",
                file.display(),
                units.size(),
            )));
        }
        let vars = exported::vars(folder)?;
        let new = exported::built(folder, Self::build(&model, units, normalise, vars, device))?;
        let converted = load_weights(&folder.join(MODEL_FILE), &new.vars)?;
        Ok((new, converted))
    }

    /// A transducer of these dimensions, its weights not the trained ones yet.
    fn build(
        config: &TransducerConfig,
        units: Units,
        normalise: Normalisation,
        vars: SeededVars,
        device: &Device,
    ) -> candle_core::Result<Self> {
        let (_, vars) = trainable(config, units.size(), vars, device)?;
        Ok(Self { model: constant(config, units.size(), &vars)?, units, normalise, vars })
    }
}

/// A transducer to train, with the initial weights that `vars` gives, and its parameters and running statistics.
pub(super) fn trainable(
    config: &TransducerConfig,
    units: usize,
    vars: SeededVars,
    device: &Device,
) -> candle_core::Result<(Transducer, NamedVars)> {
    let model = Transducer::new(config, units, &vars.builder(DType::F32, device))?;
    Ok((model, NamedVars::from_iter(vars.into_named())))
}

/// The same transducer of constants, which see what becomes of the variables: it computes without a graph.
pub(super) fn constant(
    config: &TransducerConfig,
    units: usize,
    vars: &NamedVars,
) -> candle_core::Result<Transducer> {
    let constants: HashMap<String, Tensor> =
        vars.iter().map(|(name, var)| (name.to_owned(), var.as_detached_tensor())).collect();
    let device = vars.iter().next().map_or(Device::Cpu, |(_, var)| var.device().clone());
    Transducer::new(config, units, &VarBuilder::from_tensors(constants, DType::F32, &device))
}
