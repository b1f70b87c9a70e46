//! The `[model]` and `[data]` sections of `train-llm`.

use std::path::PathBuf;

use fadam_data::text::{Sampling, TextSource};
use fadam_models::llm::PalmConfig;
use fadam_train::config::{Experiment, FieldError, KeyDoc, RunConfig};
use serde::{Deserialize, Serialize};

/// The experiment `train-llm`.
#[derive(Debug, Clone, Copy)]
pub struct TrainLlm;

/// The `[data]` section: what text, cut into what tokens and sequences, and the sample that an evaluation
/// shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LlmData {
    /// `.txt`, `.jsonl` and `.jsonl.gz` files or folders of them, on a disk or on the hub; none for the
    /// embedded text.
    pub paths: Vec<PathBuf>,
    /// Whether the training text is read as training goes on, since it does not fit in memory.
    pub stream: bool,
    /// Sequences of a stream that are shuffled together.
    pub shuffle: usize,
    /// The folder that keeps a stream's tokens, for all runs.
    pub cache: PathBuf,
    /// Held-out text; none to hold out a share of the training text.
    pub eval_paths: Vec<PathBuf>,
    /// The share of the bytes that is held out when there are no `eval_paths`.
    pub eval_fraction: f64,
    /// Windows that an evaluation looks at, from the beginning of the held-out text; 0 for all.
    pub eval_windows: usize,
    /// A `tokenizer.json` to use, or a place of the hub; empty to train a byte-level BPE on the training text.
    pub tokenizer: PathBuf,
    /// The end-of-text token of `tokenizer`; empty to look for the usual ones.
    pub eos: String,
    /// The size of the BPE vocabulary to train.
    pub vocab_size: usize,
    /// How training sequences are drawn.
    pub sampling: Sampling,
    /// What the sampled text continues; empty for the beginning of the held-out text.
    pub sample_prompt: String,
    /// Tokens to sample at an evaluation; 0 for none.
    pub sample_tokens: usize,
    /// Softmax temperature of the sample; 0 takes the likeliest token.
    pub sample_temperature: f64,
    /// The sample's nucleus: the least set of likeliest tokens with this probability.
    pub sample_top_p: f64,
}

impl Default for LlmData {
    fn default() -> Self {
        Self {
            paths: Vec::new(),
            stream: false,
            shuffle: 10_000,
            cache: "cache/tokens".into(),
            eval_paths: Vec::new(),
            eval_fraction: 0.05,
            eval_windows: 0,
            tokenizer: PathBuf::new(),
            eos: String::new(),
            vocab_size: 2048,
            sampling: Sampling::Packed,
            sample_prompt: String::new(),
            sample_tokens: 64,
            sample_temperature: 0.8,
            sample_top_p: 0.95,
        }
    }
}

impl LlmData {
    /// The training text.
    pub fn source(&self) -> TextSource {
        if self.paths.is_empty() {
            TextSource::Embedded
        } else {
            TextSource::Paths(self.paths.clone())
        }
    }

    /// The end-of-text token of the tokenizer, if it is named.
    pub fn eos(&self) -> Option<&str> {
        (!self.eos.is_empty()).then_some(&*self.eos)
    }

    /// The held-out text, if it is named.
    pub fn eval_source(&self) -> Option<TextSource> {
        (!self.eval_paths.is_empty()).then(|| TextSource::Paths(self.eval_paths.clone()))
    }
}

impl Experiment for TrainLlm {
    const NAME: &'static str = "train-llm";
    type Model = PalmConfig;
    type Data = LlmData;

    #[rustfmt::skip]
    const KEYS: &'static [KeyDoc] = &[
        KeyDoc::new("model.layers", "integer", "2", "≥ 1", "L, the number of blocks."),
        KeyDoc::new("model.d_model", "integer", "128", "a multiple of 2 · heads", "d, the width of the residual stream."),
        KeyDoc::new("model.heads", "integer", "2", "≥ 1", "h, the number of query heads; keys and values have one head."),
        KeyDoc::new("model.d_ff", "integer", "512", "≥ 1", "The inner width of the feed-forward."),
        KeyDoc::new("model.seq_len", "integer", "128", "≥ 1", "T, the tokens of a training sequence and the longest context."),
        KeyDoc::new("model.norm_eps", "number", "1e-6", "> 0", "ε of the RMS norms."),
        KeyDoc::new("model.rope_base", "number", "10000.0", "> 0", "The base of the rotary embedding's wavelengths."),
        KeyDoc::new("model.init", "string", "\"fan-in\"", "fan-in, normal002", "Initial weights: matrices N(0, 1/√fan in) and embedding N(0, 1); or all N(0, 0.02)."),
        KeyDoc::new("model.logit_scale", "boolean", "true", "true, false", "Whether logits are multiplied by 1/√d, as unit-variance embeddings need."),
        KeyDoc::new("model.z_loss", "number", "1e-4", "≥ 0", "Weight of mean log² Z in the training loss; evaluation is without it."),
        KeyDoc::new("model.compute", "string", "\"parameters\"", "parameters, bf16", "What is computed in: the parameters' f32, or bf16 with f32 parameters, gradients and loss (for GPUs)."),
        KeyDoc::new("model.checkpoint", "boolean", "false", "true, false", "Whether blocks are computed again in the backward pass instead of kept: less memory, a third more time, the same bits."),
        KeyDoc::new("data.paths", "list of strings", "[]", "files, folders", "Training text: .txt, .jsonl, .jsonl.gz, .json.gz or folders of them; `hub:OWNER/NAME[@REVISION]/FILE` for a file of a dataset on the hub; `{000..123}` in a name stands for many; none: the embedded State of the Union 1961-2021."),
        KeyDoc::new("data.stream", "boolean", "false", "true, false", "Whether training text is read file by file as training goes on, all sequences of an epoch once; needs paths, eval_paths and tokenizer."),
        KeyDoc::new("data.shuffle", "integer", "10000", "≥ 1", "Consecutive sequences of a stream that are shuffled together."),
        KeyDoc::new("data.cache", "string", "\"cache/tokens\"", "a folder", "Keeps the tokens of a stream's files, for this run and others."),
        KeyDoc::new("data.eval_paths", "list of strings", "[]", "files, folders", "Held-out text; none: a share of the training text."),
        KeyDoc::new("data.eval_fraction", "number", "0.05", "0 to 1, both excluded", "The share of the bytes held out when there are no eval_paths."),
        KeyDoc::new("data.eval_windows", "integer", "0", "≥ 0", "Windows that an evaluation looks at, from the start of the held-out text; 0: all."),
        KeyDoc::new("data.tokenizer", "string", "\"\"", "a tokenizer.json, hub:OWNER/NAME", "Tokenizer to use, from a disk or a model on the hub; empty: a byte-level BPE is trained on the training text."),
        KeyDoc::new("data.eos", "string", "\"\"", "a token", "End-of-text token of data.tokenizer; empty: the usual ones are looked for."),
        KeyDoc::new("data.vocab_size", "integer", "2048", "≥ 257", "Size of the BPE vocabulary to train."),
        KeyDoc::new("data.sampling", "string", "\"packed\"", "packed, windows", "Training sequences: all blocks of an epoch in shuffled order, or windows at random places."),
        KeyDoc::new("data.sample_prompt", "string", "\"\"", "text", "What the sampled text continues; empty: the start of the held-out text."),
        KeyDoc::new("data.sample_tokens", "integer", "64", "≥ 0", "Tokens of text sampled at an evaluation; 0: none."),
        KeyDoc::new("data.sample_temperature", "number", "0.8", "≥ 0", "Softmax temperature of the sample; 0: the likeliest token."),
        KeyDoc::new("data.sample_top_p", "number", "0.95", "0 < p ≤ 1", "The sample draws from the likeliest tokens that hold this probability."),
    ];

    const EVALUATION_KEYS: &'static [&'static str] = &[
        "data.eval_windows",
        "data.sample_prompt",
        "data.sample_tokens",
        "data.sample_temperature",
        "data.sample_top_p",
    ];

    fn check(config: &RunConfig<Self>) -> Result<(), FieldError> {
        let (model, data) = (config.model(), config.data());
        model
            .check()
            .map_err(|err| FieldError::new(format!("model.{}", err.field), err.message))?;
        let require = FieldError::require;
        let got = |value: f64| format!("got {value}");
        require(
            "data.eval_fraction",
            data.eval_fraction > 0.0 && data.eval_fraction < 1.0,
            format!("must be above 0 and below 1, {}", got(data.eval_fraction)),
        )?;
        require(
            "data.sample_temperature",
            data.sample_temperature.is_finite() && data.sample_temperature >= 0.0,
            format!("must be a finite number, 0 or more, {}", got(data.sample_temperature)),
        )?;
        require(
            "data.sample_top_p",
            data.sample_top_p > 0.0 && data.sample_top_p <= 1.0,
            format!("must be above 0 and at most 1, {}", got(data.sample_top_p)),
        )?;
        require(
            "data.vocab_size",
            data.vocab_size > 256,
            format!("must be at least 257 (256 bytes and end of text), got {}", data.vocab_size),
        )?;
        check_stream(data)?;
        require(
            "data.eos",
            data.eos.is_empty() || !data.tokenizer.as_os_str().is_empty(),
            "is of data.tokenizer, which is not set".to_owned(),
        )
    }
}

/// What a stream needs, and what it cannot do.
fn check_stream(data: &LlmData) -> Result<(), FieldError> {
    let require = FieldError::require;
    require("data.shuffle", data.shuffle >= 1, "must be at least 1, got 0".to_owned())?;
    if !data.stream {
        return Ok(());
    }
    let named = |field: &str, given: bool| {
        require(&format!("data.{field}"), given, "must be set for data.stream".to_owned())
    };
    named("paths", !data.paths.is_empty())?;
    named("eval_paths", !data.eval_paths.is_empty())?;
    named("tokenizer", !data.tokenizer.as_os_str().is_empty())?;
    require(
        "data.sampling",
        data.sampling == Sampling::Packed,
        "must be packed for data.stream, which has no window at any place".to_owned(),
    )
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_key_is_documented() {
        fadam_train::config::check_keys::<super::TrainLlm>().unwrap();
    }
}
