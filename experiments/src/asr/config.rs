//! The `[model]` and `[data]` sections of `train-asr`.

use std::path::PathBuf;

use fadam_data::speech::{Normalisation, SpecAugment, SpeechSource};
use fadam_models::asr::TransducerConfig;
use fadam_train::config::{Experiment, FieldError, KeyDoc, RunConfig};
use serde::{Deserialize, Serialize};

/// The experiment `train-asr`.
#[derive(Debug, Clone, Copy)]
pub struct TrainAsr;

/// The `[data]` section: which recordings, what is made of their transcripts, how they are varied, and how an evaluation reads
/// text from the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AsrData {
    /// Manifests, `LibriSpeech` folders and parquet files, on a disk or on the hub; none for the embedded clips.
    pub paths: Vec<PathBuf>,
    /// Held-out recordings; none to evaluate on clips that were trained on.
    pub eval_paths: Vec<PathBuf>,
    /// Clips that an evaluation looks at, from the first on; 0 for all.
    pub eval_clips: usize,
    /// What is done to transcripts.
    pub normalise: Normalisation,
    /// What the network emits.
    pub units: UnitKind,
    /// A `units.json` to use, as a run folder has it; empty to take them from the training transcripts.
    pub units_file: PathBuf,
    /// Pieces to learn if it emits pieces.
    pub vocab_size: usize,
    /// Shorter clips are left out, seconds.
    pub min_secs: f64,
    /// Longer clips are left out, seconds.
    pub max_secs: f64,
    /// The most seconds of a batch, padding included; 0 for no bound but `train.batch` clips.
    pub batch_secs: f64,
    /// A clip is played at one of these speeds, drawn each time.
    pub speeds: Vec<f64>,
    /// `SpecAugment`: bands of mel bins that are masked.
    pub frequency_masks: usize,
    /// The widest of them, in bins.
    pub frequency_width: usize,
    /// `SpecAugment`: stretches of time that are masked.
    pub time_masks: usize,
    /// The longest of them, as a share of the clip.
    pub time_share: f64,
    /// Decoded sound that is kept in memory, MiB.
    pub keep_mb: usize,
    /// The folder that keeps what decoding has shown of each recording, for all runs; empty for none.
    pub cache: PathBuf,
    /// How an evaluation looks for the text.
    pub search: SearchKind,
    /// Prefixes that a beam search keeps.
    pub beam: usize,
    /// Labels that one frame may emit.
    pub max_symbols: usize,
    /// Pairs of reference and hypothesis that an evaluation shows.
    pub show: usize,
}

/// What the network emits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnitKind {
    /// The characters of the training transcripts.
    Characters,
    /// Pieces of words, learned on the training transcripts.
    Pieces,
}

/// How text is read from the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SearchKind {
    /// At each frame the likeliest unit.
    Greedy,
    /// The likeliest prefixes, frame by frame.
    Beam,
}

impl Default for AsrData {
    fn default() -> Self {
        let SpecAugment { frequency_masks, frequency_width, time_masks, time_share } =
            SpecAugment::default();
        Self {
            paths: Vec::new(),
            eval_paths: Vec::new(),
            eval_clips: 0,
            normalise: Normalisation::Standard,
            units: UnitKind::Characters,
            units_file: PathBuf::new(),
            vocab_size: 1024,
            min_secs: 0.3,
            max_secs: 16.7,
            batch_secs: 0.0,
            speeds: vec![0.9, 1.0, 1.1],
            frequency_masks,
            frequency_width,
            time_masks,
            time_share,
            keep_mb: 1024,
            cache: "cache/speech".into(),
            search: SearchKind::Greedy,
            beam: 4,
            max_symbols: 10,
            show: 3,
        }
    }
}

impl AsrData {
    /// The recordings to train on.
    pub fn source(&self) -> SpeechSource {
        if self.paths.is_empty() {
            SpeechSource::Embedded
        } else {
            SpeechSource::Places(self.paths.clone())
        }
    }

    /// The held-out recordings, if there are any.
    pub fn eval_source(&self) -> Option<SpeechSource> {
        (!self.eval_paths.is_empty()).then(|| SpeechSource::Places(self.eval_paths.clone()))
    }

    /// The masks of training.
    pub fn spec_augment(&self) -> SpecAugment {
        let Self { frequency_masks, frequency_width, time_masks, time_share, .. } = *self;
        SpecAugment { frequency_masks, frequency_width, time_masks, time_share }
    }
}

impl Experiment for TrainAsr {
    const NAME: &'static str = "train-asr";
    type Model = TransducerConfig;
    type Data = AsrData;

    #[rustfmt::skip]
    const KEYS: &'static [KeyDoc] = &[
        KeyDoc::new("model.layers", "integer", "4", "≥ 1", "L, Conformer blocks."),
        KeyDoc::new("model.d_model", "integer", "96", "a multiple of 2 · heads", "d, the width of the encoder."),
        KeyDoc::new("model.heads", "integer", "4", "≥ 1", "h, attention heads of width d / h."),
        KeyDoc::new("model.d_ff", "integer", "384", "≥ 1", "The inner width of each feed-forward."),
        KeyDoc::new("model.kernel", "integer", "15", "odd", "K, the frames of 40 ms that a depthwise convolution sees."),
        KeyDoc::new("model.channels", "integer", "32", "≥ 1", "Channels of the two convolutions that make one frame of four."),
        KeyDoc::new("model.conv_norm", "string", "\"batch\"", "batch, layer, group", "What normalises the depthwise convolution's output: by channel over a batch's real frames, by frame, or by utterance and group of channels."),
        KeyDoc::new("model.groups", "integer", "8", "divides d_model", "Groups of conv_norm = \"group\"."),
        KeyDoc::new("model.relative_positions", "boolean", "true", "true, false", "Whether attention knows how far apart two frames are (Transformer-XL); the paper's 600M model does not."),
        KeyDoc::new("model.dropout", "number", "0.1", "0 ≤ p < 1", "The share of activations that training drops."),
        KeyDoc::new("model.d_prediction", "integer", "128", "≥ 1", "P, the width of label embedding and prediction LSTM."),
        KeyDoc::new("model.prediction_layers", "integer", "1", "≥ 1", "LSTM layers of the prediction network."),
        KeyDoc::new("model.d_joint", "integer", "128", "≥ 1", "J, the width in which encoder and prediction are added."),
        KeyDoc::new("model.joint", "string", "\"tanh\"", "tanh, relu", "What follows that sum."),
        KeyDoc::new("model.fast_emit", "number", "0.0", "≥ 0", "λ of FastEmit, which makes labels come earlier."),
        KeyDoc::new("model.clamp", "number", "0.0", "≥ 0", "Bound of each number of a loss's gradient with respect to the logits; 0: none."),
        KeyDoc::new("model.loss_mib", "integer", "256", "≥ 1", "What the logits of the utterances in work may take, MiB; at least one utterance is."),
        KeyDoc::new("data.paths", "list of strings", "[]", "files, folders", "Training recordings: TSV manifests (path, text, speaker), LibriSpeech folders, parquet files as openslr/librispeech_asr has them; `hub:OWNER/NAME[@REVISION]/FILE` on the hub; none: the embedded clips."),
        KeyDoc::new("data.eval_paths", "list of strings", "[]", "files, folders", "Held-out recordings; none: clips that were trained on, and every evaluation says so."),
        KeyDoc::new("data.eval_clips", "integer", "0", "≥ 0", "Clips that an evaluation looks at, from the first on; 0: all."),
        KeyDoc::new("data.normalise", "string", "\"standard\"", "standard, none", "What is done to transcripts: NFC, lower case, no punctuation but apostrophes within words, one space; or nothing."),
        KeyDoc::new("data.units", "string", "\"characters\"", "characters, pieces", "What the network emits: the characters of the training transcripts, or BPE pieces learned on them."),
        KeyDoc::new("data.units_file", "string", "\"\"", "a units.json", "Units to use, from another run's folder; empty: those of the training transcripts."),
        KeyDoc::new("data.vocab_size", "integer", "1024", "≥ 2", "The blank and the pieces of units = \"pieces\"."),
        KeyDoc::new("data.min_secs", "number", "0.3", "≥ 0", "Shorter clips are left out, and counted."),
        KeyDoc::new("data.max_secs", "number", "16.7", "> min_secs", "Longer clips are left out, and counted."),
        KeyDoc::new("data.batch_secs", "number", "0.0", "≥ 0", "The most seconds of a batch, padding included; 0: train.batch clips, however long."),
        KeyDoc::new("data.speeds", "list of numbers", "[0.9, 1.0, 1.1]", "0.5 to 2", "A clip is played at one of these speeds, drawn each time."),
        KeyDoc::new("data.frequency_masks", "integer", "2", "≥ 0", "SpecAugment: bands of mel bins that are masked."),
        KeyDoc::new("data.frequency_width", "integer", "27", "0 to 80", "The widest of them, in bins."),
        KeyDoc::new("data.time_masks", "integer", "10", "≥ 0", "SpecAugment: stretches of time that are masked."),
        KeyDoc::new("data.time_share", "number", "0.05", "0 to 1", "The longest of them, as a share of the clip."),
        KeyDoc::new("data.keep_mb", "integer", "1024", "≥ 0", "Decoded sound that is kept in memory; what is beyond it is decoded again each time."),
        KeyDoc::new("data.cache", "string", "\"cache/speech\"", "a folder", "Keeps what decoding has shown of each recording (length, rate, silence), so that a later run need not decode all of them before it begins; empty: nothing is kept."),
        KeyDoc::new("data.search", "string", "\"greedy\"", "greedy, beam", "How an evaluation reads text from the model."),
        KeyDoc::new("data.beam", "integer", "4", "≥ 1", "Prefixes that search = \"beam\" keeps."),
        KeyDoc::new("data.max_symbols", "integer", "10", "≥ 1", "Labels that one frame may emit."),
        KeyDoc::new("data.show", "integer", "3", "≥ 0", "Pairs of reference and hypothesis that an evaluation shows."),
    ];

    const EVALUATION_KEYS: &'static [&'static str] =
        &["data.eval_paths", "data.eval_clips", "data.search", "data.beam", "data.show"];

    fn check(config: &RunConfig<Self>) -> Result<(), FieldError> {
        let (model, data) = (config.model(), config.data());
        model
            .check()
            .map_err(|err| FieldError::new(format!("model.{}", err.field), err.message))?;
        let require = FieldError::require;
        let positive = |value: f64| value.is_finite() && value >= 0.0;
        for (key, value) in [("data.min_secs", data.min_secs), ("data.batch_secs", data.batch_secs)]
        {
            require(key, positive(value), format!("must be 0 or more, got {value}"))?;
        }
        require(
            "data.max_secs",
            data.max_secs.is_finite() && data.max_secs > data.min_secs,
            format!("must be above data.min_secs = {}, got {}", data.min_secs, data.max_secs),
        )?;
        require(
            "data.speeds",
            !data.speeds.is_empty() && data.speeds.iter().all(|s| (0.5..=2.0).contains(s)),
            format!("must be one number or more from 0.5 to 2, got {:?}", data.speeds),
        )?;
        require(
            "data.frequency_width",
            data.frequency_width <= fadam_models::asr::BINS,
            format!("must be at most 80, the mel bins, got {}", data.frequency_width),
        )?;
        require(
            "data.time_share",
            (0.0..=1.0).contains(&data.time_share),
            format!("must be from 0 to 1, got {}", data.time_share),
        )?;
        require(
            "data.vocab_size",
            data.vocab_size >= 2,
            format!("must be at least 2 (the blank and a piece), got {}", data.vocab_size),
        )?;
        for (key, value) in [("data.beam", data.beam), ("data.max_symbols", data.max_symbols)] {
            require(key, value >= 1, "must be at least 1, got 0".to_owned())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_key_is_documented() {
        fadam_train::config::check_keys::<super::TrainAsr>().unwrap();
    }
}
