//! `train-llm`: trains the paper's language model on text with any of its four optimizers.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use experiments::allocator::{Allocator, keep_freed_memory};
use experiments::exported::ExportDtype;
use experiments::llm::{LlmTask, TOKENIZER_FILE, Text, TrainLlm, check_weights, export};
use fadam_train::config::RunConfig;
use fadam_train::{CommonArgs, Outcome, SavedRun, Trainer, bad_input, run_main};

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
    let options = args.common.run_options::<TrainLlm>()?.commit(experiments::COMMIT);
    let device = args.common.device.open()?;
    let tokenizer_file = options.folder.path().join(TOKENIZER_FILE);
    let stored = options.folder.is_resumed().then_some(tokenizer_file.as_path());
    let text = Text::read(config.data(), config.model().seq_len, stored)?;
    if !args.common.quiet {
        println!("{}", describe(&text));
    }
    let notes = match config.train().init() {
        Some(file) if stored.is_none() => check_weights(file, &text.tokenizer, config.model())?,
        _ => Vec::new(),
    };
    let task = LlmTask::new(&config, &text, &device)?;
    let trainer = Trainer::new(task, &config, options)?;
    for note in notes {
        eprintln!("note: {note}");
    }
    text.tokenizer.save(&tokenizer_file).map_err(bad_input)?;
    trainer.run()
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

fn describe(text: &Text) -> String {
    let corpus = &text.corpus;
    let training = match &text.stream {
        None => format!("{}\n{} training", text.report, corpus.train().len()),
        Some(shards) => {
            let other = match shards.ignored_files() {
                [] => String::new(),
                [first, ..] => {
                    let count = shards.ignored_files().len();
                    format!("; {count} other files ignored, first {}", first.display())
                }
            };
            let files = shards.len();
            format!("training files: {files}, read in turn{other}\nheld out: {}\n", text.report)
        }
    };
    format!(
        "{training} and {} held-out tokens, vocabulary {}; held-out unigram entropy {:.4} nats a token",
        corpus.eval().len(),
        corpus.vocab_size(),
        corpus.eval_unigram_nats(),
    )
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
