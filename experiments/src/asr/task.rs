//! Model, data, loss and evaluation of `train-asr`.

use std::path::PathBuf;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor};
use fadam_core::NamedVars;
use fadam_data::speech::{EvalBatches, SpeechBatch, SpeechBatches, SpeechSpec, Units};
use fadam_models::asr::{Beam, Mode, RUNNING_MOMENTUM, Transducer, Utterances};
use fadam_models::init::SeededVars;
use fadam_train::config::RunConfig;
use fadam_train::{Evaluation, Objective, Task, bad_input};
use serde_json::Value;

use super::config::{AsrData, SearchKind, TrainAsr};
use super::recogniser::{constant, trainable};
use super::search::Search;
use super::speech::Speech;
use super::transcripts::Transcripts;

/// Speech recognition by a Conformer transducer.
#[derive(Debug)]
pub struct AsrTask {
    model: Transducer,
    /// The same, without a graph.
    frozen: Transducer,
    vars: NamedVars,
    buffers: NamedVars,
    batches: SpeechBatches,
    eval: EvalBatches,
    is_held_out: bool,
    units: Units,
    search: Search,
    show: usize,
    seed: u64,
    transcripts_file: Option<PathBuf>,
    notes: Vec<String>,
    device: Device,
}

/// Clips of a training batch, on the device.
#[derive(Debug)]
pub struct AsrBatch {
    utterances: Utterances,
    /// Of the batches of the run, from 1.
    number: u64,
}

/// The most seconds, padding included, that an evaluation puts into a batch.
const EVAL_SECS: f64 = 120.0;

impl AsrTask {
    /// The task that `config` describes, on these recordings, with initial weights from `train.seed`.
    ///
    /// # Errors
    /// Bad input: `data.batch_secs` below the longest clip. Otherwise only if the device has no memory for the model.
    pub fn new(
        config: &RunConfig<TrainAsr>,
        speech: Speech,
        device: &Device,
    ) -> anyhow::Result<Self> {
        let (data, train) = (config.data(), config.train());
        let Speech { train: training, held_out, units } = speech;
        let is_held_out = held_out.is_some();
        let eval = held_out.unwrap_or_else(|| training.clone());
        let mut eval = EvalBatches::new(eval, train.batch).map_err(bad_input)?.within(EVAL_SECS);
        if data.eval_clips > 0 {
            eval = eval.first(data.eval_clips);
        }
        let batches = SpeechBatches::new(training, spec(data, train.batch, train.seed));
        let (model, all) =
            trainable(config.model(), units.size(), SeededVars::new(train.seed), device)?;
        let frozen = constant(config.model(), units.size(), &all)?;
        let (vars, buffers) = all.split_buffers(NamedVars::is_batch_norm_statistic);
        Ok(Self {
            model,
            frozen,
            vars,
            buffers,
            batches: batches.map_err(bad_input)?,
            eval,
            is_held_out,
            units,
            search: search(data),
            show: data.show,
            seed: train.seed,
            transcripts_file: None,
            notes: Vec::new(),
            device: device.clone(),
        })
    }

    /// Each evaluation writes references and hypotheses to this file, the worst first.
    #[must_use]
    pub fn keep_transcripts(self, file: PathBuf) -> Self {
        Self { transcripts_file: Some(file), ..self }
    }

    fn utterances(&self, batch: SpeechBatch) -> candle_core::Result<Utterances> {
        let features = batch.tensor(&self.device)?;
        Ok(Utterances { features, frames: batch.frames, targets: batch.targets })
    }

    /// Losses and transcripts of the clips to evaluate on: nats a label, and what was recognised.
    fn look(&mut self) -> anyhow::Result<(f64, Transcripts)> {
        let (mut nats, mut labels) = (0.0, 0);
        let mut transcripts = Transcripts::default();
        let mut batches = self.eval.batches();
        for batch in batches.by_ref() {
            let batch = batch.map_err(bad_input)?;
            let clips = batch.utterances.clone();
            let utterances = self.utterances(batch)?;
            labels += count(&utterances);
            let losses = self.frozen.losses(&utterances, Mode::Evaluate)?;
            nats += losses.to_dtype(DType::F64)?.sum_all()?.to_scalar::<f64>()?;
            let encoded = self.frozen.encode(&utterances.features, &utterances.frames)?;
            let heard = self.search.run(&self.frozen, &encoded, &self.units)?;
            for (clip, heard) in clips.into_iter().zip(heard) {
                let clip = &self.eval.set().clips()[clip];
                transcripts.add(clip.utterance.id.as_str(), &clip.text, &heard.text);
            }
        }
        self.notes.extend(batches.take_notes());
        Ok((nats / labels as f64, transcripts))
    }
}

/// What training batches are made of.
fn spec(data: &AsrData, batch: usize, seed: u64) -> SpeechSpec {
    let masks = data.spec_augment();
    let masked = masks.frequency_masks + masks.time_masks > 0;
    SpeechSpec {
        batch_secs: (data.batch_secs > 0.0).then_some(data.batch_secs),
        speeds: data.speeds.clone(),
        spec_augment: masked.then_some(masks),
        ..SpeechSpec::plain(batch, seed)
    }
}

fn search(data: &AsrData) -> Search {
    let max_symbols = data.max_symbols;
    match data.search {
        SearchKind::Greedy => Search::Greedy { max_symbols },
        SearchKind::Beam => Search::Beam(Beam { width: data.beam, max_symbols }),
    }
}

/// Labels of a batch.
fn count(utterances: &Utterances) -> usize {
    utterances.targets.iter().map(Vec::len).sum()
}

impl Task for AsrTask {
    type Batch = AsrBatch;

    fn vars(&self) -> &NamedVars {
        &self.vars
    }

    fn buffers(&self) -> NamedVars {
        self.buffers.clone()
    }

    fn buffer_decay(&self) -> f64 {
        1.0 - RUNNING_MOMENTUM
    }

    fn unit(&self) -> &'static str {
        "labels"
    }

    fn next_batch(&mut self) -> anyhow::Result<AsrBatch> {
        let batch = self.batches.next_batch().map_err(bad_input)?;
        let number = self.batches.cursor().batch_index;
        Ok(AsrBatch { utterances: self.utterances(batch)?, number })
    }

    fn units(&self, batch: &AsrBatch) -> u64 {
        count(&batch.utterances) as u64
    }

    fn loss(&mut self, batch: &AsrBatch) -> anyhow::Result<Objective> {
        // Any function of seed and batch that no two batches share.
        let seed = self.seed.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(batch.number << 20);
        let losses = self.model.losses(&batch.utterances, Mode::Train { seed })?;
        Ok((losses.sum_all()? / count(&batch.utterances) as f64)?.into())
    }

    fn backward(&self, loss: &Tensor) -> candle_core::Result<GradStore> {
        fadam_ops::backward(loss)
    }

    fn evaluate(&mut self, _: u64) -> anyhow::Result<Evaluation> {
        self.batches.start();
        let (loss, transcripts) = self.look()?;
        if let Some(file) = &self.transcripts_file {
            transcripts.write(file)?;
        }
        let (wer, cer) = (transcripts.words().rate(), transcripts.characters().rate());
        let (wer_name, cer_name, clips) = if self.is_held_out {
            ("wer", "cer", "held-out clips")
        } else {
            ("train_wer", "train_cer", "clips that were trained on")
        };
        let evaluation = Evaluation::new(loss).metric(wer_name, wer).metric(cer_name, cer);
        Ok(match self.show {
            0 => evaluation,
            pairs => evaluation.sample(format!("{clips}:{}", transcripts.sample(pairs))),
        })
    }

    fn cursor(&self) -> Value {
        serde_json::json!(self.batches.cursor())
    }

    fn restore(&mut self, cursor: &Value) -> anyhow::Result<()> {
        let cursor = serde_json::from_value(cursor.clone())?;
        Ok(self.batches.restore(&cursor)?)
    }

    fn take_notes(&mut self) -> Vec<String> {
        self.notes.extend(self.batches.take_notes());
        std::mem::take(&mut self.notes)
    }

    fn summary_extras(&self) -> Vec<(String, Value)> {
        let report = self.batches.report();
        vec![
            ("units".to_owned(), self.units.size().into()),
            ("eval_clips".to_owned(), self.eval.count().into()),
            ("audio_secs".to_owned(), report.seconds.into()),
            ("padding_share".to_owned(), report.padding_share().into()),
            ("first_wait_secs".to_owned(), report.first_wait.as_secs_f64().into()),
            ("wait_secs".to_owned(), report.wait.as_secs_f64().into()),
            ("skipped_clips".to_owned(), report.skipped.into()),
        ]
    }
}
