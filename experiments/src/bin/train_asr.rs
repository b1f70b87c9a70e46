//! `train-asr`: trains the paper's speech recogniser with any of its four optimizers.

use std::process::ExitCode;

use clap::Parser;
use experiments::allocator::{Allocator, keep_freed_memory};
use experiments::asr::{AsrTask, Speech, TrainAsr, UNITS_FILE, export};
use experiments::exported::ExportDtype;
use fadam_train::config::RunConfig;
use fadam_train::{CommonArgs, Outcome, SavedRun, run_main};

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// Trains a Conformer transducer on speech, with FAdam, FAdafactor, Adam or Adafactor.
///
/// Without arguments: a small model on the embedded clips.
#[derive(Debug, Parser)]
#[command(name = "train-asr", version)]
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
    let config = args.common.load_config::<TrainAsr>()?;
    if args.common.print_config {
        print!("{}", config.to_toml());
        return Ok(Outcome::Completed);
    }
    if let Some(run) = args.common.saved_run(&config)? {
        return read_run(args, &config, &run);
    }
    experiments::asr::train(&args.common, &config)
}

/// `--export` and `--eval-only`: what a run left is used, and not changed.
fn read_run(args: &Args, config: &RunConfig<TrainAsr>, run: &SavedRun) -> anyhow::Result<Outcome> {
    if let Some(folder) = &args.common.saved.export {
        println!("{}", export(run, config, folder, args.dtype)?);
        return Ok(Outcome::Completed);
    }
    let device = args.common.device.open()?;
    let units = run.folder().join(UNITS_FILE);
    let quiet = args.common.quiet || args.common.saved.json;
    let speech = Speech::read(config.data(), Some(&units), quiet)?;
    let task = AsrTask::new(config, speech, &device)?;
    args.common.evaluate::<TrainAsr>(run, task)
}
