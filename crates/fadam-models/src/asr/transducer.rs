//! Encoder, prediction network and joint network, with the transducer's loss (Graves, arXiv 1211.3711).
//!
//! Shapes: `B` utterances, `T` frames of the encoder, `U` labels, `V` units (labels and the blank), `J` the joint width.

use candle_core::{Device, Result, Tensor};
use candle_nn::VarBuilder;
use fadam_ops::{Joint, LstmState, Transducer as Loss};

use super::config::TransducerConfig;
use super::encoder::{Encoder, subsampled};
use super::pass::{Mode, Pass};
use super::prediction::{BLANK, Prediction};
use crate::layers::{Affine, uniform};

/// Utterances with their transcripts.
#[derive(Debug, Clone)]
pub struct Utterances {
    /// `[B, T, 80]`; what lies beyond an utterance's frames is not read.
    pub features: Tensor,
    /// The real frames of each.
    pub frames: Vec<usize>,
    /// The labels of each, without blanks.
    pub targets: Vec<Vec<u32>>,
}

/// A Conformer transducer. Parameters, with matrices stored `[out, in]`: `encoder.*`, `prediction.*` and
/// `joint.{encoder.{weight [J, d], bias [J]}, prediction.weight [J, P], out.{weight [V, J], bias [V]}}`.
#[derive(Debug)]
pub struct Transducer {
    config: TransducerConfig,
    encoder: Encoder,
    prediction: Prediction,
    of_encoder: Affine,
    of_prediction: Tensor,
    out: Affine,
}

/// What the joint network takes of the sound.
#[derive(Debug, Clone)]
pub struct Encoded {
    /// `[B, T, J]`, the encoder's side of the sum.
    pub frames: Tensor,
    /// The real frames of each utterance.
    pub lengths: Vec<usize>,
}

impl Transducer {
    /// Builds the network for `units` labels, the blank among them, taking parameters and running statistics from `vb`.
    ///
    /// # Errors
    /// If `vb` has not the parameters, or not in these shapes.
    pub fn new(config: &TransducerConfig, units: usize, vb: &VarBuilder) -> Result<Self> {
        let (d, p, j) = (config.d_model, config.d_prediction, config.d_joint);
        let joint = vb.pp("joint");
        let of_prediction = joint.pp("prediction").get_with_hints((j, p), "weight", uniform(p))?;
        Ok(Self {
            encoder: Encoder::new(config, &vb.pp("encoder"))?,
            prediction: Prediction::new(config, units, &vb.pp("prediction"))?,
            of_encoder: Affine::new(j, d, &joint.pp("encoder"))?,
            of_prediction,
            out: Affine::new(units, j, &joint.pp("out"))?,
            config: config.clone(),
        })
    }

    /// The dimensions.
    pub fn config(&self) -> &TransducerConfig {
        &self.config
    }

    /// Where the model computes.
    pub fn device(&self) -> &Device {
        self.out.weight.device()
    }

    /// V, the labels and the blank.
    pub fn units(&self) -> usize {
        self.out.bias.elem_count()
    }

    /// The frames of the encoder that this many feature frames make.
    pub fn encoder_frames(frames: usize) -> usize {
        subsampled(frames)
    }

    /// `−ln P(targets | features)` of each utterance, `[B]`, in nats. The logits are never there in full.
    ///
    /// # Errors
    /// If lengths or labels do not fit, naming the utterance by its place in the batch.
    pub fn losses(&self, batch: &Utterances, mode: Mode) -> Result<Tensor> {
        let pass = Pass::new(mode, self.config.dropout);
        let Encoded { frames, lengths } = self.encode_in(&batch.features, &batch.frames, &pass)?;
        let labels = labels_before(&batch.targets, self.device())?;
        let (predicted, _) = self.prediction.forward(&labels, None)?;
        let predicted = self.project(&pass.drop(predicted)?)?;
        let joint = Joint {
            w: &self.out.weight,
            b: &self.out.bias,
            activation: self.config.joint.into(),
            memory: self.config.loss_mib << 20,
        };
        let clamp = (self.config.clamp > 0.0).then_some(self.config.clamp);
        let loss = Loss { blank: BLANK, fast_emit: self.config.fast_emit, clamp };
        fadam_ops::joint_rnnt_loss(&frames, &predicted, &joint, &batch.targets, &lengths, &loss)
    }

    /// The sound's side of the joint network, for decoding.
    ///
    /// # Errors
    /// If the lengths do not fit the features.
    pub fn encode(&self, features: &Tensor, frames: &[usize]) -> Result<Encoded> {
        self.encode_in(features, frames, &Pass::new(Mode::Evaluate, 0.0))
    }

    fn encode_in(&self, features: &Tensor, frames: &[usize], pass: &Pass) -> Result<Encoded> {
        let (x, lengths) = self.encoder.forward(features, frames, pass)?;
        Ok(Encoded { frames: self.of_encoder.forward(&x)?, lengths })
    }

    /// The prediction's side of the joint network.
    fn project(&self, predicted: &Tensor) -> Result<Tensor> {
        fadam_ops::linear(predicted, &self.of_prediction, None)
    }

    /// After one more label: the prediction's side of the sum, `[J]`, and the state for the next; from the state before, or
    /// at the beginning, where the label is the blank.
    pub(super) fn predict(
        &self,
        label: u32,
        states: Option<&[LstmState]>,
    ) -> Result<(Tensor, Vec<LstmState>)> {
        let label = Tensor::from_vec(vec![label], (1, 1), self.device())?;
        let (predicted, states) = self.prediction.forward(&label, states)?;
        Ok((self.project(&predicted)?.flatten_all()?, states))
    }

    /// Logits `[n, V]` of frames `[n, J]` after the same labels.
    pub(super) fn joint(&self, frames: &Tensor, predicted: &Tensor) -> Result<Tensor> {
        let sum = fadam_ops::bias_activation(frames, predicted, self.config.joint.into())?;
        self.out.forward(&sum)
    }
}

/// `[B, U + 1]`: the label before each place, padded with blanks at the end.
fn labels_before(targets: &[Vec<u32>], device: &Device) -> Result<Tensor> {
    let width = targets.iter().map(Vec::len).max().unwrap_or(0) + 1;
    let mut labels = vec![BLANK; targets.len() * width];
    for (row, target) in labels.chunks_exact_mut(width).zip(targets) {
        row[1..=target.len()].copy_from_slice(target);
    }
    Tensor::from_vec(labels, (targets.len(), width), device)
}
