//! Pictures through a trained VQ-VAE: what becomes of them when they are encoded, quantised and decoded.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, anyhow};
use candle_core::{Device, Tensor};
use clap::Parser;
use fadam_data::image::{EvalImages, ImageSet, ImageSource, SetSpec};
use fadam_models::quality::psnr;
use fadam_models::vqvae::{CodeCounts, Pictures};
use fadam_train::{DeviceChoice, Outcome, bad_input, write_atomically};

use crate::model_place::{ModelPlace, Place};
use crate::vqvae::{Autoencoder, encode_png, grid};

/// Encodes and decodes pictures (JPEG, PNG, WebP; folders, tables and IDX files of them) with a model that `train-vqvae` trained: a line with
/// its peak signal-to-noise ratio for each, and with --out the reconstructions.
///
/// A picture's shorter side is scaled to the model's size, and the square in its middle is what goes in.
#[derive(Debug, Parser)]
#[command(name = "reconstruct", version)]
pub struct Args {
    #[command(flatten)]
    place: ModelPlace,

    /// Pictures, as the key data.paths of train-vqvae takes them
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,

    /// Writes each reconstruction into this folder: NAME.png, with - for / in names
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Writes one picture with all originals and their reconstructions
    #[arg(long, value_name = "FILE.png")]
    grid: Option<PathBuf>,

    /// Of a model trained with cross-entropy: the most probable values, not their expectation
    #[arg(long)]
    likeliest: bool,

    /// Where to compute: cpu, cuda, cuda:I, metal or metal:I
    #[arg(long, default_value = "cpu")]
    device: DeviceChoice,
}

/// Pictures that go through the model together.
const BATCH: usize = 16;

/// The most pictures of a grid.
const GRID: usize = 256;

/// Reconstructs to standard output, and to the files that are asked for.
///
/// # Errors
/// Bad input (exit code 2): a model that cannot be used, places without pictures, two pictures of one name, a file that is there already.
/// Of several pictures, those that cannot be read are named and left out.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let device = args.device.open()?;
    let model = args.open(&device)?.model;
    let source = ImageSource::Places(args.paths.clone());
    let (pictures, _) = source.read().map_err(bad_input)?;
    let spec = SetSpec { min_side: 1, ..SetSpec::new(model.config().image) };
    let set = Arc::new(ImageSet::build(pictures, &spec, &|_, _| {}).map_err(bad_input)?);
    if set.pictures().len() < set.report().given {
        eprintln!("note: {}", set.report());
    }
    let files = args.files(&set)?;
    let mut codes = CodeCounts::new(model.config().codes);
    let mut columns = [Vec::new(), Vec::new()];
    for batch in EvalImages::new(set.clone(), BATCH).map_err(bad_input)?.batches() {
        let batch = batch.map_err(bad_input)?;
        let images = batch.tensor(&device)?;
        let made = model.reconstruct(&images)?;
        codes.add(&made.indices)?;
        let made = args.chosen(made.pictures)?;
        for (row, (number, psnr)) in batch.pictures.iter().zip(psnr(&images, &made)?).enumerate() {
            println!("{}\t{psnr:.2} dB", set.pictures()[*number].picture.name);
            if let Some(file) = files.get(number) {
                write(file, &made.get(row)?)?;
            }
        }
        if args.grid.is_some() {
            columns[0].push(images);
            columns[1].push(made);
        }
    }
    println!("{} of {} codes used", codes.used(), codes.counts().len());
    if let Some(file) = &args.grid {
        let [originals, made] = columns;
        let (originals, made) = (Tensor::cat(&originals, 0)?, Tensor::cat(&made, 0)?);
        write_atomically(file, &grid(&[&originals, &made])?)?;
    }
    Ok(Outcome::Completed)
}

impl Args {
    fn open(&self, device: &Device) -> anyhow::Result<Autoencoder> {
        match self.place.find()? {
            Place::Run(run) => Autoencoder::of_run(&run, device),
            Place::Exported(folder) => {
                let (autoencoder, converted) = Autoencoder::of_export(&folder, device)?;
                if !converted.is_empty() {
                    eprintln!("note: {converted}");
                }
                Ok(autoencoder)
            }
        }
    }

    /// The file of each picture, by its number: none without `--out`, and all of them new.
    fn files(&self, set: &ImageSet) -> anyhow::Result<HashMap<usize, PathBuf>> {
        if let Some(grid) = &self.grid {
            let count = set.pictures().len();
            if count > GRID {
                let why =
                    format!("--grid of {count} pictures: at most {GRID} fit; give fewer paths");
                return Err(bad_input(anyhow!(why)));
            }
            is_new(grid)?;
        }
        let Some(out) = &self.out else { return Ok(HashMap::new()) };
        fs::create_dir_all(out).with_context(|| out.display().to_string()).map_err(bad_input)?;
        let mut names = HashMap::new();
        let mut files = HashMap::new();
        for (number, checked) in set.pictures().iter().enumerate() {
            let picture = &checked.picture;
            let file = out.join(file_name(&picture.name));
            is_new(&file)?;
            if let Some(other) = names.insert(file.clone(), &picture.data) {
                let why = format!("{other} and {} would both be {}", picture.data, file.display());
                return Err(bad_input(anyhow!(why)));
            }
            files.insert(number, file);
        }
        Ok(files)
    }

    fn chosen(&self, made: Pictures) -> anyhow::Result<Tensor> {
        match (self.likeliest, made.likeliest) {
            (false, _) => Ok(made.expected),
            (true, Some(likeliest)) => Ok(likeliest),
            (true, None) => Err(bad_input(anyhow!(
                "--likeliest: this model was not trained with cross-entropy, and has one value for each channel"
            ))),
        }
    }
}

fn is_new(file: &Path) -> anyhow::Result<()> {
    if file.exists() {
        return Err(bad_input(anyhow!("{}: is there already", file.display())));
    }
    Ok(())
}

/// `tench/1.JPEG` as `tench-1.png`.
fn file_name(name: &str) -> String {
    let known = [".jpg", ".jpeg", ".png", ".webp"];
    let lower = name.to_lowercase();
    let stem =
        known.iter().find_map(|end| lower.ends_with(end).then(|| &name[..name.len() - end.len()]));
    format!("{}.png", stem.unwrap_or(name).replace(['/', '\\', ':'], "-"))
}

/// Planes `[3, S, S]` as a PNG file.
fn write(file: &Path, picture: &Tensor) -> anyhow::Result<()> {
    let side = picture.dim(1)?;
    let rgb = picture.permute((1, 2, 0))?.flatten_all()?.to_vec1::<u8>()?;
    write_atomically(file, &encode_png(side, side, &rgb)?)
}

#[cfg(test)]
mod tests {
    use super::file_name;

    #[test]
    fn names_of_files() {
        assert_eq!(file_name("tench/1.JPEG"), "tench-1.png");
        assert_eq!(file_name("emoji/1f600"), "emoji-1f600.png");
        assert_eq!(file_name("a.b.webp"), "a.b.png");
    }
}
