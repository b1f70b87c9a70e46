//! `train-llm`: trains the paper's language model on text with any of its four optimizers.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use experiments::allocator::{Allocator, keep_freed_memory};
use experiments::exported::ExportDtype;
use experiments::llm::{LlmTask, TOKENIZER_FILE, Text, TrainLlm, describe, export};
use fadam_train::config::RunConfig;
use fadam_train::{CommonArgs, Outcome, SavedRun, bad_input, run_main};

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// Trains a PaLM-style decoder on text, with FAdam, FAdafactor, Adam or Adafactor.
///
/// Without arguments: a small model on the embedded State of the Union addresses.
#[derive(Debug, Parser)]
#[command(name = "train-llm", version)]
struct Args {
    #[command(flatten)]
    common: CommonArgs,

    /// With --export: what the numbers of model.safetensors are
    #[arg(long, value_enum, default_value_t = ExportDtype::F32, requires = "export")]
    dtype: ExportDtype,

    /// Writes the tokens of the two splits as DIR/train.u16 and DIR/eval.u16 (little-endian) and ends
    #[arg(long, value_name = "DIR", conflicts_with = "reads a run")]
    export_tokens: Option<PathBuf>,
}

fn main() -> ExitCode {
    keep_freed_memory();
    run_main(|| train(&Args::parse()))
}

fn train(args: &Args) -> anyhow::Result<Outcome> {
    let config = args.common.load_config::<TrainLlm>()?;
    if args.common.print_config {
        print!("{}", config.to_toml());
        return Ok(Outcome::Completed);
    }
    if let Some(folder) = &args.export_tokens {
        return export_tokens(&config, folder);
    }
    if let Some(run) = args.common.saved_run(&config)? {
        return read_run(args, &config, &run);
    }
    experiments::llm::train(&args.common, &config)
}

/// `--export` and `--eval-only`: what a run left is used, and not changed.
fn read_run(args: &Args, config: &RunConfig<TrainLlm>, run: &SavedRun) -> anyhow::Result<Outcome> {
    if let Some(folder) = &args.common.saved.export {
        println!("{}", export(run, config, folder, args.dtype)?);
        return Ok(Outcome::Completed);
    }
    let device = args.common.device.open()?;
    let tokenizer = run.folder().join(TOKENIZER_FILE);
    let text = Text::read(config.data(), config.model().seq_len, Some(&tokenizer))?;
    if !(args.common.quiet || args.common.saved.json) {
        println!("{}", describe(&text));
    }
    let task = LlmTask::new(config, &text, &device)?;
    args.common.evaluate::<TrainLlm>(run, task)
}

fn export_tokens(config: &RunConfig<TrainLlm>, folder: &Path) -> anyhow::Result<Outcome> {
    if config.data().stream {
        let reason = "--export-tokens: data.stream keeps its tokens in data.cache";
        return Err(bad_input(anyhow::anyhow!(reason)));
    }
    let text = &Text::read(config.data(), config.model().seq_len, None)?;
    text.corpus.export_u16(folder).map_err(bad_input)?;
    println!("{}", describe(text));
    println!("wrote {0}/train.u16 and {0}/eval.u16", folder.display());
    Ok(Outcome::Completed)
}
