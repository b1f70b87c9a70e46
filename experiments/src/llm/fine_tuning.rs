//! What weights must have in common with a run that starts from them, beside names and shapes.

use std::path::{Path, PathBuf};

use anyhow::anyhow;
use fadam_data::text::Tokenizer;
use fadam_models::llm::PalmConfig;
use fadam_train::{bad_input, checkpoint};

use super::exported::DecoderManifest;
use super::language_model::TOKENIZER_FILE;
use crate::exported::{CONFIG_FILE, Manifest};

/// Compares what stands beside the weights in `file` with the run that starts from them. Token ids mean
/// something in one tokenizer only, and a decoder computes something else with another `rope_base`: no
/// shape would show either.
///
/// Returns what the user should know: that there was no tokenizer to compare, or other model settings.
///
/// # Errors
/// Bad input: the tokenizer beside the weights is another one than `tokenizer`.
pub fn check_weights(
    file: &Path,
    tokenizer: &Tokenizer,
    model: &PalmConfig,
) -> anyhow::Result<Vec<String>> {
    let mut notes = Vec::new();
    match tokenizer_of(file) {
        Some(beside) => check_tokenizer(file, &beside, tokenizer)?,
        None => notes.push(format!(
            "no {TOKENIZER_FILE} was found with {}: its weights must have been trained with this run's \
             tokenizer",
            file.display()
        )),
    }
    let folder = file.parent().unwrap_or(Path::new(""));
    if folder.join(CONFIG_FILE).is_file() {
        let differing = differing(&DecoderManifest::read(folder)?.model, model)?;
        notes.extend(differing.map(|keys| format!("{} was trained with {keys}", file.display())));
    }
    Ok(notes)
}

/// The tokenizer in the folder of `file`; for the file of a checkpoint, that of the run.
fn tokenizer_of(file: &Path) -> Option<PathBuf> {
    let folder = file.parent()?;
    let run = folder.join("../..");
    let in_checkpoint = folder.join(checkpoint::STATE_FILE).is_file();
    let place = if in_checkpoint { &run } else { folder }.join(TOKENIZER_FILE);
    place.is_file().then_some(place)
}

fn check_tokenizer(file: &Path, beside: &Path, tokenizer: &Tokenizer) -> anyhow::Result<()> {
    let theirs = Tokenizer::load(beside, Some(tokenizer.eos())).map_err(bad_input)?;
    if theirs.to_json()? == tokenizer.to_json()? {
        return Ok(());
    }
    let beside = beside.canonicalize().unwrap_or_else(|_| beside.to_owned());
    Err(bad_input(anyhow!(
        "weights {}: were trained with another tokenizer than this run's; use theirs with --set \
         data.tokenizer={}",
        file.display(),
        beside.display(),
    )))
}

/// `model.rope_base 10000.0 (here 500.0)`, for each setting that changes what a trained model computes.
fn differing(theirs: &PalmConfig, ours: &PalmConfig) -> anyhow::Result<Option<String>> {
    let (theirs, ours) = (serde_json::to_value(theirs)?, serde_json::to_value(ours)?);
    let keys: Vec<String> = ["heads", "norm_eps", "rope_base", "logit_scale"]
        .into_iter()
        .filter(|key| theirs[key] != ours[key])
        .map(|key| format!("model.{key} {} (here {})", theirs[key], ours[key]))
        .collect();
    Ok((!keys.is_empty()).then(|| keys.join(", ")))
}
