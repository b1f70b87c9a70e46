//! A trained model to use: from the checkpoint of a run, or from an exported folder.

use std::path::Path;

use candle_core::{DType, Device};
use fadam_core::NamedVars;
use fadam_data::text::Tokenizer;
use fadam_models::init::SeededVars;
use fadam_models::llm::{Palm, PalmConfig};
use fadam_train::{Conversions, SavedRun, bad_input, load_weights};

use super::config::TrainLlm;
use super::exported::DecoderManifest;
use crate::exported::{self, CONFIG_FILE, MODEL_FILE, Manifest};

/// The tokenizer in a run folder, and in an exported one.
pub const TOKENIZER_FILE: &str = "tokenizer.json";

/// A decoder and the tokenizer that it was trained with.
#[derive(Debug)]
pub struct LanguageModel {
    /// The decoder.
    pub model: Palm,
    /// Text to tokens and back.
    pub tokenizer: Tokenizer,
    /// The decoder's parameters.
    pub vars: NamedVars,
}

impl LanguageModel {
    /// The model at a checkpoint of a run.
    ///
    /// # Errors
    /// Bad input: a run folder or checkpoint that is damaged or of another experiment.
    pub fn of_run(run: &SavedRun, device: &Device) -> anyhow::Result<Self> {
        let config = run.config::<TrainLlm>()?;
        run.standing::<TrainLlm>()?; // refuses a checkpoint of another experiment
        let tokenizer = Tokenizer::load(&run.folder().join(TOKENIZER_FILE), config.data().eos())
            .map_err(bad_input)?;
        let new = Self::build(config.model(), tokenizer, SeededVars::new(0), device)?;
        run.load_model(&new.vars)?;
        Ok(new)
    }

    /// The model of a folder that `train-llm --export` wrote, computing in f32 whatever the file holds.
    ///
    /// # Errors
    /// Bad input: a folder whose files are missing, damaged or not of each other.
    pub fn of_export(folder: &Path, device: &Device) -> anyhow::Result<(Self, Conversions)> {
        let DecoderManifest { model, vocab_size, eos, .. } = DecoderManifest::read(folder)?;
        let file = folder.join(TOKENIZER_FILE);
        let tokenizer = Tokenizer::load(&file, Some(&eos)).map_err(bad_input)?;
        if tokenizer.vocab_size() != vocab_size {
            return Err(bad_input(anyhow::anyhow!(
                "{}: has a vocabulary of {}, {} beside it says {vocab_size}",
                file.display(),
                tokenizer.vocab_size(),
                CONFIG_FILE,
            )));
        }
        let vars = exported::vars(folder)?;
        let new = exported::built(folder, Self::build(&model, tokenizer, vars, device))?;
        let converted = load_weights(&folder.join(MODEL_FILE), &new.vars)?;
        Ok((new, converted))
    }

    /// A decoder of these dimensions, its weights not the trained ones yet.
    fn build(
        config: &PalmConfig,
        tokenizer: Tokenizer,
        vars: SeededVars,
        device: &Device,
    ) -> candle_core::Result<Self> {
        let builder = vars.builder(DType::F32, device);
        let model = Palm::new(config, tokenizer.vocab_size(), &builder)?;
        Ok(Self { model, tokenizer, vars: NamedVars::from_iter(vars.into_named()) })
    }
}
