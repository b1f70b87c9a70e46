//! Text from a trained model, printed as it is made.

use std::io::{ErrorKind, Read, Write};

use anyhow::{Context, anyhow};
use candle_core::Device;
use candle_transformers::generation::LogitsProcessor;
use clap::Parser;
use fadam_models::llm::continuation;
use fadam_train::{DeviceChoice, Outcome, bad_input};

use crate::llm::{LanguageModel, TextStream};
use crate::model_place::{ModelPlace, Place, argument};

/// Continues a text with a model that `train-llm` trained. The continuation goes to standard output as it
/// is made, and ends after --tokens or where the model ends the text.
#[derive(Debug, Parser)]
#[command(name = "generate", version)]
pub struct Args {
    /// The model
    #[command(flatten)]
    pub place: ModelPlace,

    /// The text to continue; - reads it from standard input, without its last line end
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub prompt: String,

    /// The most tokens to make
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub tokens: usize,

    /// Softmax temperature; 0 takes the likeliest token
    #[arg(long, value_name = "T", default_value_t = 0.8, allow_negative_numbers = true)]
    pub temperature: f64,

    /// Draws from the likeliest tokens that hold this probability; 1 from all
    #[arg(long, value_name = "P", default_value_t = 0.95, allow_negative_numbers = true)]
    pub top_p: f64,

    /// Seed of the draws: the same one gives the same text
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,

    /// Where to compute: cpu, cuda, cuda:I, metal or metal:I
    #[arg(long, default_value = "cpu")]
    pub device: DeviceChoice,
}

/// Generates to `out`. A reader of `out` that goes away ends it without an error.
///
/// # Errors
///
/// Bad input (exit code 2): an impossible argument, a model that cannot be used, a prompt that is empty or
/// not UTF-8. Otherwise what candle or writing reports.
pub fn run(args: &Args, out: &mut impl Write) -> anyhow::Result<Outcome> {
    args.check()?;
    let language_model = args.open(&args.device.open()?)?;
    let LanguageModel { model, tokenizer, .. } = &language_model;
    let prompt = tokenizer.encode(&args.prompt()?).map_err(bad_input)?;
    if prompt.is_empty() {
        return Err(argument("--prompt", "holds no token to continue".to_owned()));
    }
    let seq_len = model.config().seq_len;
    if prompt.len() > seq_len {
        let tokens = prompt.len();
        eprintln!("note: the prompt is {tokens} tokens long; the model sees the last {seq_len}");
    }
    let mut sampler = LogitsProcessor::new(args.seed, Some(args.temperature), Some(args.top_p));
    let mut stream = TextStream::after(tokenizer, &prompt)?;
    let new = continuation(model, &prompt, tokenizer.eos_id(), &mut sampler)?;
    for token in new.take(args.tokens) {
        if !write(out, &stream.push(token?)?)? {
            return Ok(Outcome::Completed);
        }
    }
    write(out, &(stream.finish()? + "\n"))?;
    Ok(Outcome::Completed)
}

/// Writes and flushes `text`; false if nobody reads any more.
fn write(out: &mut impl Write, text: &str) -> anyhow::Result<bool> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(err) if err.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(err) => Err(err).context("cannot write the text"),
    }
}

impl Args {
    /// Refuses numbers that mean nothing.
    fn check(&self) -> anyhow::Result<()> {
        let Self { tokens, temperature, top_p, .. } = *self;
        if tokens == 0 {
            return Err(argument("--tokens 0", "must be at least 1".to_owned()));
        }
        if !(temperature.is_finite() && temperature >= 0.0) {
            let message = "must be a finite number, 0 or more".to_owned();
            return Err(argument(format!("--temperature {temperature}"), message));
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            let message = "must be above 0 and at most 1".to_owned();
            return Err(argument(format!("--top-p {top_p}"), message));
        }
        Ok(())
    }

    /// The model that `--run`, `--checkpoint` or `--model` names.
    fn open(&self, device: &Device) -> anyhow::Result<LanguageModel> {
        match self.place.find()? {
            Place::Run(run) => LanguageModel::of_run(&run, device),
            Place::Exported(folder) => {
                let (model, converted) = LanguageModel::of_export(&folder, device)?;
                if !converted.is_empty() {
                    eprintln!("note: {converted}");
                }
                Ok(model)
            }
        }
    }

    fn prompt(&self) -> anyhow::Result<String> {
        if self.prompt != "-" {
            return Ok(self.prompt.clone());
        }
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes).context("cannot read the prompt")?;
        let text = String::from_utf8(bytes).map_err(|err| {
            let at = err.utf8_error().valid_up_to();
            bad_input(anyhow!(
                "--prompt -: standard input is not UTF-8 (first bad byte at offset {at})"
            ))
        })?;
        let line = text.strip_suffix('\n').unwrap_or(&text);
        Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
    }
}
