//! The dimensions of a Conformer transducer, checked.

use fadam_ops::Activation;
use serde::{Deserialize, Serialize};

use crate::ConfigError;

/// Mel bins of a feature frame.
pub const BINS: usize = 80;

/// Frames of 10 ms that make one frame of the encoder.
pub const SUBSAMPLING: usize = 4;

/// The dimensions and choices of a [`Transducer`](super::Transducer).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TransducerConfig {
    /// L, Conformer blocks.
    pub layers: usize,
    /// d, the width of the encoder.
    pub d_model: usize,
    /// h, attention heads of width d / h.
    pub heads: usize,
    /// The inner width of each feed-forward.
    pub d_ff: usize,
    /// K, the frames that a depthwise convolution sees; odd.
    pub kernel: usize,
    /// Channels of the two convolutions that make one frame of four.
    pub channels: usize,
    /// What normalises the depthwise convolution's output.
    pub conv_norm: ConvNorm,
    /// Groups of channels of `conv_norm = "group"`.
    pub groups: usize,
    /// Whether attention knows how far apart two frames are (Transformer-XL).
    pub relative_positions: bool,
    /// The share of activations that training drops.
    pub dropout: f64,
    /// P, the width of label embedding and prediction LSTM.
    pub d_prediction: usize,
    /// LSTM layers of the prediction network.
    pub prediction_layers: usize,
    /// J, the width in which encoder and prediction are added.
    pub d_joint: usize,
    /// What follows the sum.
    pub joint: JointActivation,
    /// λ of `FastEmit`, which makes labels come earlier; 0 for none.
    pub fast_emit: f64,
    /// Bound of each number of a loss's gradient with respect to the logits; 0 for none.
    pub clamp: f64,
    /// What the logits of the utterances in work may take, in MiB; at least one utterance is.
    pub loss_mib: usize,
}

/// The norm after a depthwise convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConvNorm {
    /// By channel, over the real frames of a batch; in evaluation by running statistics.
    Batch,
    /// By frame, over its channels.
    Layer,
    /// By utterance and group of channels, over its real frames.
    Group,
}

/// The activation of the joint network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JointActivation {
    /// tanh
    Tanh,
    /// max(0, x)
    Relu,
}

impl From<JointActivation> for Activation {
    fn from(joint: JointActivation) -> Self {
        match joint {
            JointActivation::Tanh => Self::Tanh,
            JointActivation::Relu => Self::Relu,
        }
    }
}

impl Default for TransducerConfig {
    /// The model of `configs/asr/tiny.toml`.
    fn default() -> Self {
        Self {
            layers: 4,
            d_model: 96,
            heads: 4,
            d_ff: 384,
            kernel: 15,
            channels: 32,
            conv_norm: ConvNorm::Batch,
            groups: 8,
            relative_positions: true,
            dropout: 0.1,
            d_prediction: 128,
            prediction_layers: 1,
            d_joint: 128,
            joint: JointActivation::Tanh,
            fast_emit: 0.0,
            clamp: 0.0,
            loss_mib: 256,
        }
    }
}

impl TransducerConfig {
    /// Checks that a model of these dimensions exists.
    ///
    /// # Errors
    /// Names the first field that is impossible.
    pub fn check(&self) -> Result<(), ConfigError> {
        for (field, value) in [
            ("layers", self.layers),
            ("d_model", self.d_model),
            ("heads", self.heads),
            ("d_ff", self.d_ff),
            ("kernel", self.kernel),
            ("channels", self.channels),
            ("groups", self.groups),
            ("d_prediction", self.d_prediction),
            ("prediction_layers", self.prediction_layers),
            ("d_joint", self.d_joint),
            ("loss_mib", self.loss_mib),
        ] {
            ConfigError::dimension(field, value)?;
        }
        let Self { d_model: d, heads, groups, kernel, .. } = *self;
        let message = || format!("must divide d_model = {d} into heads of even width, got {heads}");
        ConfigError::require("heads", d.is_multiple_of(2 * heads), message)?;
        let message = || format!("must be odd, got {kernel}");
        ConfigError::require("kernel", !kernel.is_multiple_of(2), message)?;
        let message = || format!("must divide d_model = {d}, got {groups}");
        let divides = self.conv_norm != ConvNorm::Group || d.is_multiple_of(groups);
        ConfigError::require("groups", divides, message)?;
        let message = || format!("must be 0 or more and below 1, got {}", self.dropout);
        ConfigError::require("dropout", (0.0..1.0).contains(&self.dropout), message)?;
        for (field, value) in [("fast_emit", self.fast_emit), ("clamp", self.clamp)] {
            let message = || format!("must be a finite number, 0 or more, got {value}");
            ConfigError::require(field, value.is_finite() && value >= 0.0, message)?;
        }
        Ok(())
    }

    /// The number of parameters with `units` labels, the blank among them.
    pub fn num_params(&self, units: usize) -> usize {
        let Self { layers, d_model: d, d_ff: ff, kernel, channels: c, .. } = *self;
        let (p, j) = (self.d_prediction, self.d_joint);
        let affine = |out: usize, inner: usize| out * inner + out;
        let front = 9 * c + c + affine(c, 9 * c) + affine(d, c * BINS.div_ceil(SUBSAMPLING));
        let feed_forward = 2 * d + affine(ff, d) + affine(d, ff);
        let positions = if self.relative_positions { d * d + 2 * d } else { 0 };
        let attention = 2 * d + affine(3 * d, d) + affine(d, d) + positions;
        let convolution = 2 * d + affine(2 * d, d) + d * kernel + 2 * d + affine(d, d);
        let block = 2 * feed_forward + attention + convolution + 2 * d;
        let prediction = units * p + self.prediction_layers * (8 * p * p + 4 * p);
        front + layers * block + prediction + affine(j, d) + j * p + affine(units, j)
    }
}
