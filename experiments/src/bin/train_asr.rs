//! `train-asr`: trains the paper's speech recogniser with any of its four optimizers.

use std::process::ExitCode;

use clap::Parser;
use experiments::allocator::{Allocator, keep_freed_memory};
use experiments::asr::{
    AsrTask, Speech, TRANSCRIPTS_FILE, TrainAsr, UNITS_FILE, check_weights, export,
};
use experiments::exported::ExportDtype;
use fadam_train::config::RunConfig;
use fadam_train::{CommonArgs, Outcome, SavedRun, Trainer, bad_input, run_main};

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
    let options = args.common.run_options::<TrainAsr>()?.commit(experiments::COMMIT);
    let device = args.common.device.open()?;
    let folder = options.folder.path().to_owned();
    let units_file = folder.join(UNITS_FILE);
    let stored = options.folder.is_resumed().then_some(units_file.as_path());
    let speech = Speech::read(config.data(), stored, args.common.quiet)?;
    let note = match config.train().init() {
        Some(file) if stored.is_none() => check_weights(file, &speech.units)?,
        _ => None,
    };
    let units = speech.units.clone();
    let task =
        AsrTask::new(&config, speech, &device)?.keep_transcripts(folder.join(TRANSCRIPTS_FILE));
    let trainer = Trainer::new(task, &config, options)?;
    if let Some(note) = note {
        eprintln!("note: {note}");
    }
    units.save(&units_file).map_err(bad_input)?;
    trainer.run()
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
