//! What weights must have in common with a run that starts from them, beside names and shapes.

use std::path::{Path, PathBuf};

use anyhow::anyhow;
use fadam_data::speech::Units;
use fadam_train::{bad_input, checkpoint};

use super::recogniser::UNITS_FILE;

/// The units in the folder of a file of weights; for the file of a checkpoint, those of the run. A run that starts from such
/// weights must emit the same units, in the same order, which no shape would show.
fn units_beside(file: &Path) -> Option<PathBuf> {
    let folder = file.parent()?;
    let run = folder.join("../..");
    let in_checkpoint = folder.join(checkpoint::STATE_FILE).is_file();
    let place = if in_checkpoint { &run } else { folder }.join(UNITS_FILE);
    place.is_file().then_some(place)
}

/// Compares the units beside the weights in `file` with those of the run that starts from them. Returns a note if there are
/// none to compare.
///
/// # Errors
/// Bad input: other units.
pub fn check_weights(file: &Path, units: &Units) -> anyhow::Result<Option<String>> {
    let Some(beside) = units_beside(file) else {
        return Ok(Some(format!(
            "no {UNITS_FILE} was found with {}: its weights must have been trained with this run's units",
            file.display()
        )));
    };
    let theirs = Units::load(&beside).map_err(bad_input)?;
    if symbols(&theirs).eq(symbols(units)) {
        return Ok(None);
    }
    Err(bad_input(anyhow!(
        "weights {}: were trained with other units than this run's; use theirs with --set data.units_file={}",
        file.display(),
        beside.canonicalize().unwrap_or(beside).display(),
    )))
}

/// What each number stands for.
fn symbols(units: &Units) -> impl Iterator<Item = Option<String>> {
    (0..units.size() as u32).map(|number| units.symbol(number))
}
