//! The text of a run, and its training batches: in memory, or streamed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use fadam_data::hub::{Hub, HubFile, RepoKind};
use fadam_data::text::{
    BatchSpec, Corpus, Shards, SourceReport, Split, StreamBatches, StreamSpec, TextSource,
    TokenBatch, Tokenizer, TrainBatches,
};
use fadam_train::bad_input;
use fadam_train::config::RunConfig;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::config::{LlmData, TrainLlm};

/// The text of a run, cut into tokens.
#[derive(Debug)]
pub struct Text {
    /// Trained on the training text, or loaded.
    pub tokenizer: Tokenizer,
    /// Training and held-out tokens; without training tokens if there is a stream.
    pub corpus: Corpus,
    /// The training text, where it is read as training goes on.
    pub stream: Option<Arc<Shards>>,
    /// What was read, and what was left out.
    pub report: SourceReport,
}

impl Text {
    /// Reads and splits the text and makes its tokens, with the tokenizer at `stored` if there is one
    /// (that of a run which is continued). Of held-out text beside a stream only as much is read as an
    /// evaluation on windows of `seq_len` targets takes.
    ///
    /// # Errors
    /// Bad input: text or a tokenizer that cannot be used.
    pub fn read(data: &LlmData, seq_len: usize, stored: Option<&Path>) -> anyhow::Result<Self> {
        if data.stream {
            Self::streamed(data, seq_len, stored)
        } else {
            Self::in_memory(data, stored)
        }
        .map_err(bad_input)
    }

    fn in_memory(data: &LlmData, stored: Option<&Path>) -> fadam_data::Result<Self> {
        let (documents, report) = data.source().read()?;
        let split = match data.eval_source() {
            Some(source) => Split::explicit(documents, source.read()?.0),
            None => Split::by_fraction(documents, data.eval_fraction),
        }?;
        let tokenizer = match tokenizer(data, &Hub::from_env(), stored)? {
            Some(tokenizer) => tokenizer,
            None => Tokenizer::train_byte_level_bpe(&split.train, data.vocab_size)?,
        };
        let corpus = Corpus::build(&split, &tokenizer)?;
        Ok(Self { tokenizer, corpus, stream: None, report })
    }

    fn streamed(data: &LlmData, seq_len: usize, stored: Option<&Path>) -> fadam_data::Result<Self> {
        let hub = Hub::from_env();
        let tokenizer = tokenizer(data, &hub, stored)?.expect("data.stream needs data.tokenizer");
        let shards = Shards::find(&data.paths, &tokenizer, data.cache.clone(), hub.clone())?;
        shards.check_held_out(&data.eval_paths)?;
        let needed = match data.eval_windows {
            0 => usize::MAX,
            windows => windows.saturating_mul(seq_len).saturating_add(1),
        };
        let held_out = TextSource::Paths(data.eval_paths.clone());
        let (eval, report) = tokenizer.encode_first(&held_out, &hub, needed)?;
        let corpus = Corpus::held_out(eval, &tokenizer);
        Ok(Self { tokenizer, corpus, stream: Some(Arc::new(shards)), report })
    }
}

/// The tokenizer that is stored or named, if any is.
fn tokenizer(
    data: &LlmData,
    hub: &Hub,
    stored: Option<&Path>,
) -> fadam_data::Result<Option<Tokenizer>> {
    let file: PathBuf = match stored {
        Some(file) => file.into(),
        None if data.tokenizer.as_os_str().is_empty() => return Ok(None),
        None if HubFile::is_meant(&data.tokenizer) => {
            let place = data.tokenizer.to_string_lossy();
            hub.fetch(&HubFile::parse(&place, RepoKind::Model, Some("tokenizer.json"))?)?
        }
        None => data.tokenizer.clone(),
    };
    let eos = data.eos();
    Tokenizer::load(&file, eos).map(Some)
}

/// Training batches.
#[derive(Debug)]
pub(super) enum Batches {
    Memory(TrainBatches),
    /// And the wait for it that was already told.
    Stream(Box<StreamBatches>, Duration),
}

impl Batches {
    /// Those of the text, as `config` wants them.
    pub(super) fn new(config: &RunConfig<TrainLlm>, text: &Text) -> fadam_data::Result<Self> {
        let (batch, seed) = (config.train().batch, config.train().seed);
        let (seq_len, data) = (config.model().seq_len, config.data());
        let Some(shards) = &text.stream else {
            let spec = BatchSpec { sampling: data.sampling, batch, seq_len, seed };
            return Ok(Self::Memory(TrainBatches::new(text.corpus.train(), spec)?));
        };
        let spec = StreamSpec { batch, seq_len, seed, shuffle: data.shuffle };
        let stream = StreamBatches::new(shards.clone(), spec)?;
        Ok(Self::Stream(Box::new(stream), Duration::ZERO))
    }

    /// Lets a stream work ahead.
    pub(super) fn start(&mut self) {
        if let Self::Stream(stream, _) = self {
            stream.start();
        }
    }

    pub(super) fn next_batch(&mut self) -> fadam_data::Result<TokenBatch> {
        match self {
            Self::Memory(batches) => Ok(batches.next_batch()),
            Self::Stream(stream, _) => stream.next_batch(),
        }
    }

    pub(super) fn skip_batch(&mut self) -> fadam_data::Result<()> {
        match self {
            Self::Memory(batches) => batches.skip_batch(),
            Self::Stream(stream, _) => stream.next_batch().map(drop)?,
        }
        Ok(())
    }

    pub(super) fn cursor(&self) -> Value {
        let cursor = match self {
            Self::Memory(batches) => serde_json::to_value(batches.cursor()),
            Self::Stream(stream, _) => serde_json::to_value(stream.cursor()),
        };
        cursor.expect("a cursor is numbers and names")
    }

    pub(super) fn restore(&mut self, cursor: &Value) -> anyhow::Result<()> {
        match self {
            Self::Memory(batches) => batches.restore(parse(cursor)?).map_err(bad_input),
            Self::Stream(stream, _) => stream.restore(parse(cursor)?).map_err(bad_input),
        }
    }

    /// What a stream has read, and a wait of more than a tenth of a second since the last call.
    pub(super) fn take_notes(&mut self) -> Vec<String> {
        let Self::Stream(stream, told) = self else { return Vec::new() };
        let mut notes = stream.take_notes();
        let report = stream.report();
        let wait = report.first_wait + report.wait;
        let new = wait.saturating_sub(*told);
        if new >= Duration::from_millis(100) {
            notes.push(format!("training waited {:.1} s for data", new.as_secs_f64()));
            *told = wait;
        }
        notes
    }

    /// What a stream has read so far, for `summary.json`.
    pub(super) fn summary_extras(&self) -> Vec<(String, Value)> {
        let Self::Stream(stream, _) = self else { return Vec::new() };
        let report = stream.report();
        let fields = [
            ("files", json!(report.text.files)),
            ("documents", json!(report.text.documents)),
            ("empty_documents", json!(report.text.empty_documents)),
            ("bytes", json!(report.text.bytes)),
            ("tokens", json!(report.tokens)),
            ("encoded_files", json!(report.encoded_shards)),
            ("epoch", json!(report.epoch)),
            ("first_wait_s", json!(report.first_wait.as_secs_f64())),
            ("wait_s", json!(report.wait.as_secs_f64())),
        ];
        fields.into_iter().map(|(name, value)| (format!("data_{name}"), value)).collect()
    }
}

fn parse<T: DeserializeOwned>(cursor: &Value) -> anyhow::Result<T> {
    serde_json::from_value(cursor.clone())
        .map_err(bad_input)
        .context("the checkpoint's place in the training text")
}
