//! `train-vqvae`: trains the paper's autoencoder of pictures with any of its four optimizers.

use std::process::ExitCode;

use clap::Parser;
use experiments::allocator::{Allocator, keep_freed_memory};
use experiments::exported::ExportDtype;
use experiments::vqvae::{GRIDS_FOLDER, Pictures, TrainVqVae, VqVaeTask, export};
use fadam_train::config::RunConfig;
use fadam_train::{CommonArgs, Outcome, SavedRun, Trainer, run_main};

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// Trains a ViT VQ-VAE on pictures, with FAdam, FAdafactor, Adam or Adafactor.
///
/// Without arguments: a small model on the embedded emoji.
#[derive(Debug, Parser)]
#[command(name = "train-vqvae", version)]
struct Args {
    #[command(flatten)]
    common: CommonArgs,

    /// With --export: what the numbers of model.safetensors are
    #[arg(long, value_enum, default_value_t = ExportDtype::F32, requires = "export")]
    dtype: ExportDtype,
}

fn main() -> ExitCode {
    keep_freed_memory();
    run_main(|| train(&Args::parse()))
}

fn train(args: &Args) -> anyhow::Result<Outcome> {
    let config = args.common.load_config::<TrainVqVae>()?;
    if args.common.print_config {
        print!("{}", config.to_toml());
        return Ok(Outcome::Completed);
    }
    if let Some(run) = args.common.saved_run(&config)? {
        return read_run(args, &config, &run);
    }
    let options = args.common.run_options::<TrainVqVae>()?.commit(experiments::COMMIT);
    let device = args.common.device.open()?;
    let grids = options.folder.path().join(GRIDS_FOLDER);
    let pictures = Pictures::read(config.data(), config.model().image, args.common.quiet)?;
    let task = VqVaeTask::new(&config, pictures, &device)?.keep_grids(grids);
    Trainer::new(task, &config, options)?.run()
}

/// `--export` and `--eval-only`: what a run left is used, and not changed.
fn read_run(
    args: &Args,
    config: &RunConfig<TrainVqVae>,
    run: &SavedRun,
) -> anyhow::Result<Outcome> {
    if let Some(folder) = &args.common.saved.export {
        println!("{}", export(run, config, folder, args.dtype)?);
        return Ok(Outcome::Completed);
    }
    let device = args.common.device.open()?;
    let quiet = args.common.quiet || args.common.saved.json;
    let pictures = Pictures::read(config.data(), config.model().image, quiet)?;
    let task = VqVaeTask::new(config, pictures, &device)?.always_measure_distances();
    args.common.evaluate::<TrainVqVae>(run, task)
}
