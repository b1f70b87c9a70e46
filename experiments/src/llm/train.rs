//! A run of `train-llm`, as its own program and sweeps start it.

use fadam_train::config::RunConfig;
use fadam_train::{CommonArgs, Outcome, Trainer, bad_input};

use super::{LlmTask, TOKENIZER_FILE, Text, TrainLlm, check_weights};

/// Begins or continues the run that `args` ask for, of `config`.
///
/// # Errors
///
/// Bad input: a run folder, text, tokenizer or weights that cannot be used. Otherwise as
/// [`Trainer::run`].
pub fn train(args: &CommonArgs, config: &RunConfig<TrainLlm>) -> anyhow::Result<Outcome> {
    let options = args.run_options::<TrainLlm>()?.commit(crate::COMMIT);
    let (leads, quiet) = (options.leads(), options.quiet);
    let device = args.device.open()?;
    let tokenizer_file = options.folder.path().join(TOKENIZER_FILE);
    let stored = options.folder.is_resumed().then_some(tokenizer_file.as_path());
    let text = Text::read(config.data(), config.model().seq_len, stored)?;
    if !quiet {
        println!("{}", describe(&text));
    }
    let notes = match config.train().init() {
        Some(file) if stored.is_none() => check_weights(file, &text.tokenizer, config.model())?,
        _ => Vec::new(),
    };
    let task = LlmTask::new(config, &text, &device)?;
    let trainer = Trainer::new(task, config, options)?;
    for note in notes.iter().filter(|_| leads) {
        eprintln!("note: {note}");
    }
    if leads {
        text.tokenizer.save(&tokenizer_file).map_err(bad_input)?;
    }
    trainer.run()
}

/// What text was read, in a line or two.
pub fn describe(text: &Text) -> String {
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
